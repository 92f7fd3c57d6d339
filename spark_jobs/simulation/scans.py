# SPDX-License-Identifier: Apache-2.0
"""Scans that are described and not stored: sizes and geometry by name or from a file, enough for a plan."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ingest.chunks import (
    ChunkFile,
    PixelDigests,
    ScanManifest,
    StoredScan,
    frames_layout,
    projection_layout,
)
from ingest.scan import EnergyBin, FieldFrames, Scan, check_scan_id
from reconstruction.geometry import ConeBeamGeometry
from spark_jobs.simulation.cluster import read_toml, validated
from spark_jobs.simulation.errors import DescriptionError
from storage.filesystem import open_store

if TYPE_CHECKING:
    from ingest.chunks import ChunkLayout


@dataclass(frozen=True, slots=True)
class ScanSize:
    """A scan as a few numbers: what a plan needs to know of one that nobody has uploaded.

    Attributes
    ----------
    name : stands for the scan id
    views, rows, cols, bins : of a full turn, of the panel, of the spectrum
    sod_mm, sdd_mm, pixel_mm : source to axis, source to panel, side of a pixel
    pixel_type : of the counts
    flats, darks : frames of each bin
    compression : pixel bytes over stored bytes
    upload_memory_gb : what the upload may use for a block of views [10^9 B]; sets how many views a block has
    subject : in words
    """

    name: str
    views: int
    rows: int
    cols: int
    bins: int
    sod_mm: float
    sdd_mm: float
    pixel_mm: float
    pixel_type: Literal["uint8", "uint16", "uint32", "float32"] = "uint16"
    flats: int = 20
    darks: int = 20
    compression: float = 1.0
    upload_memory_gb: float = 1.0
    subject: str = ""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic

    def __post_init__(self) -> None:
        for name in ("views", "rows", "cols", "bins"):
            if getattr(self, name) < 1:
                raise DescriptionError(f"a scan needs {name} of at least 1, got {getattr(self, name)}")
        for name in ("sod_mm", "sdd_mm", "pixel_mm", "compression", "upload_memory_gb"):
            value = getattr(self, name)
            if not math.isfinite(value) or value <= 0:
                raise DescriptionError(f"a scan needs {name} above 0, got {value:g}")
        if self.sdd_mm <= self.sod_mm:
            raise DescriptionError(
                f"the panel lies beyond the axis: sdd_mm must exceed sod_mm, got {self.sdd_mm:g} and {self.sod_mm:g}"
            )
        if self.flats < 1 or self.darks < 0:
            raise DescriptionError(
                f"a scan of counts needs at least 1 flat frame and no less than 0 dark ones, got {self.flats} and "
                f"{self.darks}"
            )

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all projections."""
        return self.views * self.rows * self.cols * self.bins * np.dtype(self.pixel_type).itemsize


#: The subjects that the system is built for.  Panels are as wide and high as the bytes ask for with 8 counters of two
#: bytes, pixels as fine as the subject then needs.
NAMED_SIZES = {
    size.name: size
    for size in (
        ScanSize("stone", 360, 1448, 1448, 8, 100.0, 265.0, 0.055, subject="stone, 3 cm"),
        ScanSize("artery", 360, 3227, 3227, 8, 150.0, 532.0, 0.055, subject="artery, 3 x 5 x 5 cm"),
        ScanSize(
            "thorax-360",
            360,
            25515,
            17010,
            8,
            1000.0,
            1500.0,
            0.0176,
            upload_memory_gb=64.0,
            subject="thorax, 20 x 20 x 30 cm",
        ),
        ScanSize(
            "thorax-720",
            720,
            25515,
            17010,
            8,
            1000.0,
            1500.0,
            0.0176,
            upload_memory_gb=64.0,
            subject="thorax, 20 x 20 x 30 cm",
        ),
        ScanSize(
            "body",
            720,
            216500,
            60140,
            8,
            3000.0,
            4500.0,
            0.0125,
            upload_memory_gb=256.0,
            subject="full body, 0.5 x 0.5 x 1.8 m",
        ),
    )
}


def scan_size(named: str) -> ScanSize:
    """Return a named size, or the one that a TOML file describes.

    Raises
    ------
    DescriptionError
        If there is no such name or file, or a value is unknown, missing or impossible.
    """
    if named in NAMED_SIZES:
        return NAMED_SIZES[named]
    if not named.endswith(".toml"):
        raise DescriptionError(f"'{named}' is neither a .toml file nor one of the known sizes {', '.join(NAMED_SIZES)}")
    values = read_toml(named)
    known = {field.name for field in fields(ScanSize)}
    sections = values.get("scan", values)
    if not isinstance(sections, dict):
        raise DescriptionError(f"{named} needs a [scan] section with {', '.join(sorted(known))}")
    size: ScanSize = validated(ScanSize, {"name": Path(named).stem, **sections}, named)
    return size


def described_scan(size: ScanSize) -> StoredScan:
    """Return a scan that is a manifest and nothing else: enough to plan, with no pixel behind it.

    Raises
    ------
    IngestError, GeometryError
        If the sizes are those of no scan.
    """
    angles = np.arange(size.views) * 2 * math.pi / size.views
    geometry = ConeBeamGeometry.circular(
        sod_mm=size.sod_mm, sdd_mm=size.sdd_mm, angles_rad=angles, n_rows=size.rows, n_cols=size.cols,
        pitch_u_mm=size.pixel_mm, pitch_v_mm=size.pixel_mm,
    )  # fmt: skip
    scan = Scan(
        scan_id=check_scan_id(size.name), source_format="described", content="counts",
        bins=tuple(EnergyBin(i) for i in range(size.bins)), pixel_type=size.pixel_type,
        n_views=size.views, n_rows=size.rows, n_cols=size.cols, geometry=geometry, flats=FieldFrames(size.flats),
        darks=FieldFrames(size.darks) if size.darks else None,
    )  # fmt: skip
    layout = projection_layout(scan, memory_bytes=int(size.upload_memory_gb * 1e9))
    row_bytes = layout.n_views * layout.n_cols * layout.dtype.itemsize / size.compression
    groups = tuple(round((stop - start) * row_bytes) for start, stop in layout.row_groups)
    layouts = {"projection": layout, "flat": frames_layout("flat", scan, size.flats)}
    if size.darks:
        layouts["dark"] = frames_layout("dark", scan, size.darks)
    # Nobody has seen its pixels: the digests stand for the description.
    digest = hashlib.sha256(repr(size).encode()).hexdigest()
    manifest = ScanManifest(
        scan, PixelDigests((digest,) * size.views), layouts, _files(layout, sum(groups)), (groups,) * size.bins
    )
    return StoredScan(open_store("memory://described"), manifest)


def _files(layout: ChunkLayout, bin_bytes: int) -> tuple[ChunkFile, ...]:
    """The chunk files of the projections, as large as their share of the views."""
    files = []
    for bin_index in range(layout.n_bins):
        for blocks in layout.file_blocks:
            start, stop = layout.file_views(blocks)
            n_bytes = round(bin_bytes * (stop - start) / layout.n_views)
            name = layout.file_name(bin_index, blocks)
            files.append(ChunkFile(name, "projection", bin_index, blocks, n_bytes, "0" * 64))
    return tuple(files)
