# SPDX-License-Identifier: Apache-2.0
"""Nikon XT scans: an ``.xtekct`` file and TIFF pictures, already flat-corrected to a white level.

`ingest.readers.xtekct` says how the file's fields become poses.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from ingest.config import load_description
from ingest.describe import describe_scan
from ingest.errors import FrameFormatError, ScanDescriptionError
from ingest.readers.frame_reader import FrameReader, choose_pixel_type, describe_field, open_field
from ingest.readers.npy_files import open_mask
from ingest.readers.series import FrameSeries, Stack, list_files, match_files, require_one_series
from ingest.readers.tiff_pages import TiffPages
from ingest.readers.xtekct import XtekHeader, read_xtekct, xtek_angles_rad, xtek_geometry

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.config import ScanDescription
    from ingest.readers import SourceOptions

NAME = "nikon"
SUFFIXES = (".tif", ".tiff")


def looks_like(source: Path) -> bool:
    """Whether the source is an .xtekct file, or a folder with one in it; never raises."""
    try:
        if source.is_dir():
            return any(path.suffix.lower() == ".xtekct" for path in source.iterdir())
        return source.is_file() and source.suffix.lower() == ".xtekct"
    except OSError:
        return False


def open_source(source: Path, options: SourceOptions) -> FrameReader:
    """Open a Nikon scan.

    Raises
    ------
    FrameFormatError
        If pictures are truncated, or not of the size that the .xtekct says.
    IncompleteScanError
        If there is no picture, or numbers are missing among them.
    ScanDescriptionError
        If the .xtekct or the description is malformed, or they contradict the pictures.
    """
    description = load_description(source, options, rows="top-down", cols="right-to-left")
    header = read_xtekct(_find_xtekct(source))
    views = _open_views(header, description)
    try:
        _check_panel(header, views)
        repeat = description.scan.repeat_views
        n_views = repeat or views.n_views
        left_out = () if repeat else views.left_out
        angles_rad = xtek_angles_rad(
            header, n_views + len(left_out), full_turn=repeat is not None, ang_path=_find_ang(header)
        )
        geometry = xtek_geometry(header, angles_rad)
        if left_out:
            geometry = geometry.select([i for i in range(geometry.n_views) if i not in left_out])
        files = description.files
        flats = open_field("flats", description, TiffPages, SUFFIXES, (views,))
        darks = open_field("darks", description, TiffPages, SUFFIXES, (views,))
        content = description.scan.content or "normalized"
        scan = describe_scan(
            description,
            source,
            source_format=NAME,
            pixel_type=choose_pixel_type((views,), (flats, darks), source),
            n_views=n_views,
            n_rows=header.n_rows,
            n_cols=header.n_cols,
            left_out=left_out,
            content=content,
            white_level=header.white_level if content == "normalized" else None,
            geometry=geometry,
            flats=describe_field(flats),
            darks=describe_field(darks),
            name=header.name,
            manufacturer="Nikon",
            exposure=header.exposure,
            notes=_notes(header, description),
        )
        shape = (header.n_rows, header.n_cols)
        bad = files.bad_pixels
        mask = None if bad is None else partial(open_mask, description.file(bad), shape, TiffPages)
    except BaseException:
        views.close()
        raise
    return FrameReader(scan, header.path, (views,), description, flats, darks, mask, repeat is not None)


def _find_xtekct(source: Path) -> Path:
    """The .xtekct file that the user named, or the only one in the folder."""
    if not source.is_dir():
        return source
    found = sorted(path for path in source.iterdir() if path.suffix.lower() == ".xtekct")
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise FrameFormatError(f"{source} should hold one .xtekct file, got {names}: name the file itself")
    return found[0]


def _find_ang(header: XtekHeader) -> Path | None:
    """The file of measured angles: named like the .xtekct or the scan, or the only one there."""
    folder = header.path.parent
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".ang")
    named = [path for path in found if path.stem in (header.path.stem, header.name)]
    if named:
        return named[0]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ScanDescriptionError(
            f"{folder} holds several .ang files ({names}), and none is called {header.path.stem}.ang: rename the one "
            "of this scan so"
        )
    return found[0] if found else None


def _open_views(header: XtekHeader, description: ScanDescription) -> FrameSeries | Stack:
    """The pictures; with repeat_views there is one."""
    listing = partial(_list_pictures, header, description)
    missing = description.files.missing_views
    if description.scan.repeat_views is not None:
        paths = listing()
        if len(paths) != 1:
            raise ScanDescriptionError(
                f"{header.path}: repeat_views needs one picture, got {len(paths)} in {paths[0].parent}: "
                "name one in [files] projections"
            )
        stack = Stack(TiffPages(paths[0]))
        if stack.n_views != 1:
            stack.close()
            raise ScanDescriptionError(
                f"{paths[0]}: repeat_views needs one picture, got {stack.n_views} pages: leave repeat_views out, or "
                "keep one page"
            )
        return stack
    paths = listing()
    if len(paths) == 1 and header.n_projections > 1 and not missing:
        stack = Stack(TiffPages(paths[0]))
        if stack.n_views == header.n_projections:
            return stack
        stack.close()
        if stack.n_views > 1:
            raise ScanDescriptionError(
                f"{paths[0]} holds {stack.n_views} pages, "
                f"but {header.path.name} says {header.n_projections} projections: correct that "
                "number, or name the right file in [files] projections"
            )
    return FrameSeries(listing, TiffPages, missing, header.n_projections - len(set(missing)))


def _list_pictures(header: XtekHeader, description: ScanDescription) -> list[Path]:
    """The pictures that are there now: as described, or named like the scan, or all of the folder's."""
    if description.files.projections is not None:
        return match_files(description, description.files.projections, SUFFIXES)
    folder = header.path.parent / header.input_folder.replace("\\", "/") if header.input_folder else header.path.parent
    if not folder.is_dir():
        raise ScanDescriptionError(f"{header.path}: InputFolderName '{header.input_folder}' is not a folder beside it")
    paths = list_files(folder, SUFFIXES)
    numbered = re.compile(re.escape(header.name + header.input_separator) + r"\d+")
    named = [path for path in paths if numbered.fullmatch(path.stem)]
    if named:
        return named
    require_one_series(paths)
    return paths


def _check_panel(header: XtekHeader, views: FrameSeries | Stack) -> None:
    """Pictures must have the size that the .xtekct says."""
    if views.shape != (header.n_rows, header.n_cols):
        path = views.first_path if isinstance(views, FrameSeries) else header.path.parent
        raise FrameFormatError(
            f"{path} has pictures of {views.shape[0]} rows x {views.shape[1]} columns, but {header.path.name} says "
            f"DetectorPixelsY {header.n_rows} x DetectorPixelsX {header.n_cols}"
        )


def _notes(header: XtekHeader, description: ScanDescription) -> tuple[str, ...]:
    """What was assumed."""
    notes = ["The source turns counter-clockwise seen from above by InitialAngle and AngularStep."]
    if header.detector_offset_x_mm or header.detector_offset_y_mm:
        notes.append("DetectorOffsetX and Y are taken as moving the panel to higher columns and rows of the picture.")
    if description.scan.repeat_views is not None:
        notes.append(
            f"One view stands for {description.scan.repeat_views} over a full turn, "
            "which is right for an axisymmetric specimen only."
        )
    level = description.scan.white_level
    if level is not None and level != header.white_level:
        notes.append(f"The white level is {level:g} as described, not {header.white_level:g} as in {header.path.name}.")
    return tuple(notes)
