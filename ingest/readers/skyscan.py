# SPDX-License-Identifier: Apache-2.0
"""SkyScan (Bruker) scans: a ``.log`` file and TIFF pictures, mostly flat-corrected already.

`ingest.readers.skyscan_log` says how the log's fields become poses.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ingest.config import load_description
from ingest.describe import describe_scan
from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers.frame_reader import FrameReader, choose_pixel_type, describe_field, open_field
from ingest.readers.hdf5_frames import require_announced_views
from ingest.readers.npy_files import open_mask
from ingest.readers.series import FrameSeries, list_files, match_files
from ingest.readers.skyscan_log import (
    SkyscanLog,
    read_skyscan_log,
    skyscan_angles_rad,
    skyscan_geometry,
    skyscan_notes,
)
from ingest.readers.tiff_pages import TiffPages

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.config import ScanDescription
    from ingest.readers import SourceOptions

NAME = "skyscan"
SUFFIXES = (".tif", ".tiff")
_SECTION = b"[system]"


def looks_like(source: Path) -> bool:
    """Whether the source is a .log file of a SkyScan, or a folder with one in it; never raises."""
    try:
        if source.is_dir():
            return any(_is_log(path) for path in source.iterdir())
        return _is_log(source)
    except OSError:
        return False


def open_source(source: Path, options: SourceOptions) -> FrameReader:
    """Open a SkyScan scan.

    Raises
    ------
    FrameFormatError
        If pictures are truncated or not of the size that the log says, or the folder holds several logs.
    IncompleteScanError
        If there is no picture, or numbers are missing among them.
    ScanDescriptionError
        If the log is that of a reconstruction or malformed, or the description contradicts it.
    """
    description = load_description(source, options, rows="top-down", cols="right-to-left")
    if description.scan.repeat_views is not None:
        raise ScanDescriptionError(f"{source}: repeat_views is not for SkyScan scans: use the tiff reader")
    log = read_skyscan_log(_find_log(source))
    views = FrameSeries(
        partial(_list_pictures, log, description),
        TiffPages,
        description.files.missing_views,
        log.n_files - len(set(description.files.missing_views)),
    )
    require_announced_views(views.n_views, description, log.path)
    _check_panel(log, views)
    clockwise = _turns_clockwise(log, description)
    beta_rad = np.delete(skyscan_angles_rad(log, log.n_files, clockwise=clockwise), list(views.left_out))
    geometry = skyscan_geometry(log, beta_rad)
    files = description.files
    flats = open_field("flats", description, TiffPages, SUFFIXES, (views,))
    darks = open_field("darks", description, TiffPages, SUFFIXES, (views,))
    content = description.scan.content or ("normalized" if log.flat_corrected else "counts")
    scan = describe_scan(
        description,
        source,
        source_format=NAME,
        pixel_type=choose_pixel_type((views,), (flats, darks), source),
        n_views=views.n_views,
        n_rows=log.n_rows,
        n_cols=log.n_cols,
        left_out=views.left_out,
        content=content,
        white_level=log.white_level if content == "normalized" else None,
        geometry=geometry,
        flats=describe_field(flats),
        darks=describe_field(darks),
        name=log.prefix.rstrip("_~"),
        acquired=log.acquired,
        manufacturer="Bruker SkyScan",
        model=log.scanner,
        exposure=log.exposure,
        notes=(*skyscan_notes(log, clockwise=clockwise), *_files_not_used(log)),
        honoured=("sense", "table_turns"),
    )
    bad = files.bad_pixels
    shape = (log.n_rows, log.n_cols)
    mask = None if bad is None else partial(open_mask, description.file(bad), shape, TiffPages)
    return FrameReader(scan, log.path, (views,), description, flats, darks, mask)


def _is_log(path: Path) -> bool:
    """Whether a file is called .log and begins as a SkyScan's does."""
    if path.suffix.lower() != ".log" or not path.is_file():
        return False
    with path.open("rb") as stream:
        return _SECTION in stream.read(64).lower()


def _find_log(source: Path) -> Path:
    """The log that the user named, or the folder's only one that is not of a reconstruction."""
    if not source.is_dir():
        if source.stem.lower().endswith("_rec"):
            raise ScanDescriptionError(
                f"{source} is the log of reconstructed slices, not of projections: name the projections' .log"
            )
        return source
    logs = sorted(path for path in source.iterdir() if _is_log(path))
    scans = [path for path in logs if not path.stem.lower().endswith("_rec")]
    if not scans and logs:
        raise ScanDescriptionError(
            f"{source} holds reconstructed slices ({logs[0].name}), not projections: name the folder of the scan"
        )
    if len(scans) != 1:
        names = ", ".join(path.name for path in scans) or "none"
        raise FrameFormatError(f"{source} should hold one SkyScan .log, got {names}: name the file itself")
    return scans[0]


def _list_pictures(log: SkyscanLog, description: ScanDescription) -> list[Path]:
    """The pictures that are there now: as described, or the prefix and just as many digits as the log says."""
    if description.files.projections is not None:
        return match_files(description, description.files.projections, SUFFIXES)
    folder = log.path.parent
    paths = list_files(folder, SUFFIXES)
    numbered = re.compile(re.escape(log.prefix or log.path.stem) + rf"\d{{{log.index_length}}}", re.IGNORECASE)
    named = [path for path in paths if numbered.fullmatch(path.stem)]
    if not named:
        raise IncompleteScanError(
            f"{folder} holds no picture called {log.prefix or log.path.stem}{'0' * log.index_length}.tif as "
            f"{log.path.name} says; name the pictures in [files] projections of a scan.toml"
        )
    return named


def _check_panel(log: SkyscanLog, views: FrameSeries) -> None:
    """Pictures must have the size that the log says."""
    if views.shape != (log.n_rows, log.n_cols):
        raise FrameFormatError(
            f"{views.first_path} has {views.shape[0]} rows x {views.shape[1]} columns, but {log.path.name} says "
            f"Number Of Rows {log.n_rows} x Number Of Columns {log.n_cols}"
        )


def _turns_clockwise(log: SkyscanLog, description: ScanDescription) -> bool:
    """Whether the table turns clockwise seen from above: as described, or as the log says."""
    section = description.geometry
    if section is not None and section.kind is None and (section.sense or section.table_turns):
        return section.table_turns == "clockwise" or section.sense == "counter-clockwise"
    return log.clockwise


def _files_not_used(log: SkyscanLog) -> list[str]:
    """Corrections that lie beside the log and are not applied."""
    names = sorted(
        path.name
        for path in log.path.parent.iterdir()
        if path.suffix.lower() == ".crv" or path.name.lower().endswith("_ts.csv")
    )
    return [f"Not applied: {', '.join(names)} (camera curvature, thermal shifts)."] if names else []
