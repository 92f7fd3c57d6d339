# SPDX-License-Identifier: Apache-2.0
"""The real radiogram of an axisymmetric tensile bar, from the scanner's file to registered DICOM and back.

Shared by ``tests/e2e/test_nikon.py`` (4 x 4 binned) and ``benchmarks/nikon.py`` (2 x 2): find the axis, describe the
scan with it, upload one view as 720, reconstruct by Spark, read the slices back from their packs.
"""

from __future__ import annotations

import io
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom

from ingest.chunks import open_scan_chunks
from ingest.panel import place_panel
from ingest.readers import SourceOptions, open_source
from ingest.upload import upload
from pacs.pack import read_entry
from pacs.sql_index import SqlIndex
from pacs.tables import MIGRATIONS
from reconstruction.correction import prepare_without_fields, to_line_integrals
from reconstruction.coverage import covered_z_mm
from reconstruction.fdk import reconstruct
from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid
from reconstruction.rotation_axis import AxisLine, axis_by_edges, axis_by_symmetry
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.running.reconstruct_scan import reconstruct_scan
from storage.database import apply_migrations, create_database_engine, sqlite_url
from storage.filesystem import open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from pyspark.sql import SparkSession

    from ingest.scan import Scan
    from pacs.index import Index
    from spark_jobs.running.reconstruct_scan import RunResult
    from storage.filesystem import Store

SOURCE_NAME = "radiogram.xtekct"
N_VIEWS = 720
#: Radius of the reconstructed field.  The bar's is 4.9 mm; the panel would cover 10 mm, most of it air.
FIELD_RADIUS_MM = 5.5


@dataclass(frozen=True)
class Radiogram:
    """The view as a reader gives it: (row, col) line integrals, row 0 the lowest, col 0 the lowest u; its scan."""

    line_integrals: NDArray[np.float32]
    counts: NDArray[np.uint16]
    scan: Scan


@dataclass(frozen=True)
class Volume:
    """A volume (z, y, x) mu [1/mm] and where its voxels lie [mm]; x and y are 0 on the axis."""

    mu: NDArray[np.float32]
    x_mm: NDArray[np.float64]
    y_mm: NDArray[np.float64]
    z_mm: NDArray[np.float64]
    voxel_mm: float


@dataclass(frozen=True)
class NikonRun:
    """What one run came to: the volume as read back from DICOM, what its headers share, seconds of each step."""

    volume: Volume
    result: RunResult
    headers: dict[str, Any]
    store: Store
    index: SqlIndex
    seconds: dict[str, float] = field(default_factory=dict)


def read_radiogram(folder: Path) -> Radiogram:
    """Read the one view in full resolution through the reader and the correction that the job uses."""
    reader = open_source(folder / SOURCE_NAME, options=SourceOptions(settings={"repeat_views": N_VIEWS}))
    try:
        counts = reader.read_views(0, 1)[0]
        scan = reader.scan
    finally:
        reader.close()
    correction = prepare_without_fields("normalized", scan.n_rows, scan.n_cols, white_level=scan.white_level or 1.0)
    return Radiogram(to_line_integrals(counts, correction)[0][0], counts[0], scan)


def air_counts(counts: NDArray[np.uint16], margin: int = 150) -> float:
    """Median of the counts in the columns at both borders, which the bar leaves free."""
    return float(np.median(np.concatenate([counts[:, :margin], counts[:, -margin:]], axis=1)))


def find_axis(radiogram: Radiogram) -> tuple[AxisLine, AxisLine]:
    """The axis by symmetry and by the edges, in the columns of the unbinned picture as read."""
    return axis_by_symmetry(radiogram.line_integrals), axis_by_edges(radiogram.line_integrals)


def write_description(path: Path, scan: Scan, center_col: float, *, roll_rad: float = 0.0) -> Path:
    """Write the scan.toml that puts the axis where it was found; all else is the header's.

    ``center_col`` counts in the columns as read; the description counts in the file's, which run the other way.
    A `roll_rad` (as `AxisLine.roll_rad` gives it) takes the lean into the poses; the kernel for any pose then runs.
    """
    roll = f"roll_deg = {math.degrees(roll_rad)!r}\n" if roll_rad else ""
    text = f"""[scan]
id = "tensile-bar"

[geometry]
center_col = {scan.n_cols - 1 - center_col!r}
{roll}
[subject]
kind = "specimen"
identifier = "{scan.scan_id}"
description = "Tensile bar with a neck: one radiogram repeated over a full turn"
"""
    path.write_text(text, encoding="utf-8")
    return path


def run_job(
    source: Path,
    description: Path,
    workspace: Path,
    *,
    bin_pixels: int,
    session: Callable[[], SparkSession],
) -> NikonRun:
    """Upload, reconstruct, and read the registered slices back from the store."""
    seconds: dict[str, float] = {}
    store = open_store(str(workspace / "store"))
    engine = create_database_engine(sqlite_url(workspace / "index.sqlite"))
    apply_migrations(engine, MIGRATIONS)
    index = SqlIndex(engine)
    started = time.perf_counter()
    settings = {"repeat_views": N_VIEWS, "bin_pixels": bin_pixels}
    reader = open_source(source, options=SourceOptions(description=description, settings=settings))
    try:
        uploaded = upload(reader, store)
    finally:
        reader.close()
    seconds["upload"] = time.perf_counter() - started
    started = time.perf_counter()
    request = _request(store, uploaded.scan_id)
    result = reconstruct_scan(store, index, request, session=session)
    seconds["reconstruct"] = time.perf_counter() - started
    started = time.perf_counter()
    volume, headers = read_volume(store, index, result.series[0].series_uid)
    seconds["read_back"] = time.perf_counter() - started
    return NikonRun(volume, result, headers, store, index, seconds)


def _request(store: Store, scan_id: str) -> ReconstructionRequest:
    """The bar with some air round it, over all heights that every view sees whole."""
    geometry = open_scan_chunks(store, scan_id).scan.geometry
    assert geometry is not None
    grid = bar_grid(geometry)
    return ReconstructionRequest(
        scan_id, voxel_pitch_mm=grid.voxel_pitch_mm[0], shape=grid.shape, center_mm=grid.center_mm, mode="fused"
    )


def bar_grid(geometry: ConeBeamGeometry) -> VolumeGrid:
    """Voxels of the pixel pitch at the axis for the field of the bar, over all heights that every view sees whole."""
    pitch = geometry.pitch_mm[1] * geometry.sod_mm / geometry.sdd_mm
    side = 2 * round(FIELD_RADIUS_MM / pitch)
    low, high = covered_z_mm(geometry, side / 2 * pitch)
    return VolumeGrid((int((high - low) / pitch), side, side), (pitch, pitch, pitch), (0.0, 0.0, (low + high) / 2))


def read_volume(store: Store, index: Index, series_uid: str) -> tuple[Volume, dict[str, Any]]:
    """Read a series as a viewer does: values by slope and intercept, places by the headers alone.

    x, y and z run along the rows, the columns and the stack of the images; the patient frame's origin is on the axis.
    """
    slices = []
    for record in index.instances(series_uids=[series_uid]):
        ds = pydicom.dcmread(io.BytesIO(read_entry(store, record.location)))
        row_way, col_way = (np.array(ds.ImageOrientationPatient[k : k + 3], float) for k in (0, 3))
        corner = np.array(ds.ImagePositionPatient, float)
        values = ds.pixel_array.astype(np.float32) * np.float32(ds.RescaleSlope) + np.float32(ds.RescaleIntercept)
        slices.append((float(corner @ np.cross(row_way, col_way)), values))
    slices.sort(key=lambda one: one[0])
    spacing_y, spacing_x = (float(value) for value in ds.PixelSpacing)
    headers = {
        "pixel_spacing_mm": spacing_x,
        "slice_thickness_mm": float(ds.SliceThickness),
        "slope": float(ds.RescaleSlope),
        "n_slices": len(slices),
        "kvp": float(ds.KVP),
        "patient_id": str(ds.PatientID),
        "manufacturer": str(ds.Manufacturer),
        "image_type": list(ds.ImageType),
    }
    volume = Volume(
        mu=np.stack([values for _, values in slices]),
        x_mm=corner @ row_way + spacing_x * np.arange(ds.Columns),
        y_mm=corner @ col_way + spacing_y * np.arange(ds.Rows),
        z_mm=np.array([z for z, _ in slices]),
        voxel_mm=spacing_x,
    )
    return volume, headers


def slab_with_axis(
    radiogram: Radiogram, bin_pixels: int, center_col: float, z_mm: float, *, slope: float = 0.0
) -> Volume:
    """Reconstruct 16 slices about one height in memory, with the axis wherever it is said to be.

    A `slope` turns the panel in its plane so that the leaning axis stands upright; such poses need the kernel for any
    geometry, which is many times slower than the one for a circle.
    """
    whole = radiogram.scan.geometry
    orbit = whole.circular_orbit if whole else None
    assert orbit is not None
    n_rows, n_cols = (n // bin_pixels for n in radiogram.line_integrals.shape)
    blocks = radiogram.line_integrals[: n_rows * bin_pixels, : n_cols * bin_pixels]
    view = blocks.reshape(n_rows, bin_pixels, n_cols, bin_pixels).mean(axis=(1, 3)).astype(np.float32)
    pitch = orbit.pitch_u_mm * bin_pixels
    # The middle of the binned panel is that of the pixels that were binned.
    offset = ((n_cols * bin_pixels - 1) / 2 - center_col) * orbit.pitch_u_mm
    geometry = ConeBeamGeometry.circular(
        sod_mm=orbit.sod_mm, sdd_mm=orbit.sdd_mm, angles_rad=2 * math.pi * np.arange(N_VIEWS) / N_VIEWS,
        n_rows=n_rows, n_cols=n_cols, pitch_u_mm=pitch, pitch_v_mm=pitch, offset_u_mm=offset,
    )  # fmt: skip
    grid = bar_grid(geometry)
    if slope:
        geometry = place_panel(geometry, roll_rad=math.atan(slope))
    heights = grid.origin_mm[2] + grid.voxel_pitch_mm[0] * np.arange(grid.shape[0])
    start = int(np.clip(np.abs(heights - z_mm).argmin() - 8, 0, grid.shape[0] - 16)) // 16 * 16
    slab = Slab(start, start + 16)
    mu = reconstruct(np.broadcast_to(view, (N_VIEWS, n_rows, n_cols)), geometry, grid, slab=slab)
    across = grid.origin_mm[0] + grid.voxel_pitch_mm[0] * np.arange(grid.shape[1])
    return Volume(mu, across, across, heights[slab.z_start : slab.z_stop], grid.voxel_pitch_mm[0])
