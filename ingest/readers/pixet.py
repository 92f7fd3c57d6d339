# SPDX-License-Identifier: Apache-2.0
"""Frames of Advacam cameras as Pixet saves them: ``.pmf`` (many), ``.pbf``, ``.txt`` (one each), with their ``.dsc``.

The source is a file, or a folder with the files of one acquisition.  Row 0 of a file is the lowest row, as the vendor
draws pixel (0, 0) at the lower left.  The files say nothing about geometry: it comes from scan.toml.  Several
thresholds are several series of files: ``{bin}`` in ``[files] projections`` stands for their number.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ingest.config import load_description
from ingest.describe import describe_scan
from ingest.readers.frame_reader import (
    FrameReader,
    choose_pixel_type,
    count_views,
    describe_field,
    open_field,
    open_views,
)
from ingest.readers.npy_files import open_mask
from ingest.readers.pixet_files import PixetDescription, PixetFile, pixet_time
from ingest.readers.series import FrameSeries, Stack
from ingest.scan import EnergyBin, Exposure

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.readers import SourceOptions

NAME = "pixet"
SUFFIXES = (".pmf", ".pbf", ".txt")


def looks_like(source: Path) -> bool:
    """Whether the source is a file of Pixet frames with its .dsc, or a folder that holds some; never raises."""
    try:
        if source.is_dir():
            return any(_is_described(path) for path in source.iterdir())
        return _is_described(source) and source.is_file()
    except OSError:
        return False


def open_source(source: Path, options: SourceOptions) -> FrameReader:
    """Open frames of a Pixet camera.

    Raises
    ------
    FrameFormatError
        If a file is truncated, contradicts its description, or lacks a part that is needed.
    IncompleteScanError
        If numbers are missing in the series, or flat or dark frames that the description names.
    ScanDescriptionError
        If the description is malformed or contradicts the files.
    """
    description = load_description(source, options, rows="bottom-up")
    views = open_views(source, description, PixetFile, SUFFIXES)
    files = description.files
    flats = open_field("flats", description, PixetFile, SUFFIXES, views)
    darks = open_field("darks", description, PixetFile, SUFFIXES, views)
    said = [_description_of(view_source) for view_source in views]
    items = {} if said[0] is None else said[0].items
    n_rows, n_cols = views[0].shape
    notes = ["Row 0 of a file is taken as the lowest row, as the vendor draws pixel (0, 0)."]
    if views[0].left_out:
        notes.append(f"Views {', '.join(str(i) for i in views[0].left_out)} of the series do not exist.")
    exposure_s = _number(items, "Acq time")
    scan = describe_scan(
        description,
        source,
        source_format=NAME,
        pixel_type=choose_pixel_type(views, (flats, darks), source),
        n_views=count_views(views, description, source),
        n_rows=n_rows,
        n_cols=n_cols,
        n_bins=len(views),
        bins=tuple(_bin(index, one) for index, one in enumerate(said)),
        left_out=views[0].left_out,
        flats=describe_field(flats),
        darks=describe_field(darks),
        acquired=pixet_time(items),
        manufacturer="Advacam",
        model=items.get("Interface", ""),
        station=items.get("ChipboardID", ""),
        exposure=Exposure(exposure_time_ms=1000 * exposure_s if exposure_s else None),
        notes=tuple(notes),
    )
    bad = files.bad_pixels
    mask = None if bad is None else partial(open_mask, description.file(bad), (n_rows, n_cols), PixetFile)
    repeated = description.scan.repeat_views is not None
    return FrameReader(scan, source, views, description, flats, darks, mask, repeated)


def _is_described(path: Path) -> bool:
    """Whether it is a file of frames with a description beside it."""
    return path.suffix.lower() in SUFFIXES and path.with_name(f"{path.name}.dsc").is_file()


def _description_of(views: Stack | FrameSeries) -> PixetDescription | None:
    """What the .dsc of the first view says."""
    if isinstance(views, FrameSeries):
        return PixetFile(views.first_path).description
    return views.frame_file.description if isinstance(views.frame_file, PixetFile) else None


def _bin(index: int, said: PixetDescription | None) -> EnergyBin:
    """A counter above its threshold, if the file gives one in keV."""
    threshold = None if said is None else _number(said.items, "Threshold")
    if threshold is None or threshold <= 0:
        return EnergyBin(index)
    return EnergyBin(index, "counter", round(threshold, 3))


def _number(items: dict[str, str], name: str) -> float | None:
    """A number of the metadata, or None."""
    try:
        return float(items[name].split()[0])
    except (KeyError, ValueError, IndexError):
        return None
