# SPDX-License-Identifier: Apache-2.0
"""TIFF projections: a folder of numbered pictures or one multi-page stack, with a scan.toml beside them.

Pictures have their first row at the top unless ``[geometry] rows`` says otherwise.  ``docs/formats.md``
lists what is read.
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
from ingest.readers.tiff_pages import TiffPages, is_tiff

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.readers import SourceOptions

NAME = "tiff"
SUFFIXES = (".tif", ".tiff")


def looks_like(source: Path) -> bool:
    """Whether the source is a TIFF file, or a folder with TIFF files in it; never raises."""
    try:
        if source.is_dir():
            return any(path.suffix.lower() in SUFFIXES and is_tiff(path) for path in source.iterdir())
        return source.is_file() and is_tiff(source)
    except OSError:
        return False


def open_source(source: Path, options: SourceOptions) -> FrameReader:
    """Open TIFF projections.

    Raises
    ------
    FrameFormatError
        If a file is truncated or not of grey pictures of one size and type.
    IncompleteScanError
        If numbers are missing in the series, or flat or dark frames that the description names.
    ScanDescriptionError
        If the description is malformed or contradicts the files.
    """
    description = load_description(source, options, rows="top-down")
    views = open_views(source, description, TiffPages, SUFFIXES)
    try:
        files = description.files
        flats = open_field("flats", description, TiffPages, SUFFIXES, views)
        darks = open_field("darks", description, TiffPages, SUFFIXES, views)
        n_rows, n_cols = views[0].shape
        notes = [] if description.geometry and description.geometry.rows else ["The first row of a file is its top."]
        if views[0].left_out:
            notes.append(f"Views {', '.join(str(i) for i in views[0].left_out)} of the series do not exist.")
        scan = describe_scan(
            description,
            source,
            source_format=NAME,
            pixel_type=choose_pixel_type(views, (flats, darks), source),
            n_views=count_views(views, description, source),
            n_rows=n_rows,
            n_cols=n_cols,
            n_bins=len(views),
            left_out=views[0].left_out,
            flats=describe_field(flats),
            darks=describe_field(darks),
            notes=tuple(notes),
        )
        bad = files.bad_pixels
        mask = None if bad is None else partial(open_mask, description.file(bad), (n_rows, n_cols), TiffPages)
    except BaseException:
        for view_source in views:
            view_source.close()
        raise
    repeated = description.scan.repeat_views is not None
    return FrameReader(scan, source, views, description, flats, darks, mask, repeated)
