# SPDX-License-Identifier: Apache-2.0
"""Projections with the geometry file of another program: RTK, ASTRA, TIGRE, LEAP, CIL.

The source is a folder with one geometry file and one stack of projections (.mha, .mhd, .nii, .npy, .tif), the
geometry file of such a folder, a MATLAB file with TIGRE's ``geo``, ``angles`` and ``proj``, or a NeXus file of CIL's
writer. ``docs/exchange.md`` has the layouts and settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ingest.config import load_description
from ingest.describe import describe_scan
from ingest.errors import FrameFormatError, IngestError, ScanDescriptionError
from ingest.readers.array_frames import ArrayFrames, parse_axes
from ingest.readers.frame_reader import (
    FrameReader,
    bin_patterns,
    choose_pixel_type,
    describe_field,
    open_field,
)
from ingest.readers.hdf5_frames import require_announced_views
from ingest.readers.image_stacks import ImageStack
from ingest.readers.npy_files import NpyFile, open_mask
from ingest.readers.series import Stack, match_files, natural_key
from ingest.readers.tiff_pages import TiffPages
from ingest.readers.toolkit_files import is_cil_nexus, is_tigre_mat, open_cil_nexus, open_tigre_mat
from reconstruction.errors import GeometryError
from reconstruction.exchange.files import program_of, read_geometry
from reconstruction.exchange.panels import Imported, Panel

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.config import ScanDescription
    from ingest.readers import SourceOptions
    from ingest.readers.series import FrameFile
    from ingest.scan import Content
    from reconstruction.exchange.tigre import Order

NAME = "exchange"
GEOMETRY_SUFFIXES: Final = (".xml", ".json", ".cfg", ".txt", ".npz", ".mat", ".nxs", ".nex")
STACK_SUFFIXES: Final = (".mha", ".mhd", ".nii", ".npy", ".tif", ".tiff")
SETTINGS: Final = (
    "geometry", "program", "layout", "unit_mm", "order", "pitch_mm", "pitch_u_mm", "pitch_v_mm", "first_u_mm",
    "first_v_mm",
)  # fmt: skip
#: How a program's users keep their projections.
LAYOUTS: Final = {"astra": "row,view,col"}


@dataclass(frozen=True, slots=True)
class _Opened:
    """The frames of each energy bin and the geometry that goes with them."""

    views: tuple[Stack, ...]
    imported: Imported
    program: str
    path: Path


def looks_like(source: Path) -> bool:
    """Whether the source is, or holds, a geometry file of another program; never raises."""
    try:
        paths = sorted(source.iterdir()) if source.is_dir() else [source]
        return any(_program(path) is not None for path in paths if path.suffix.lower() in GEOMETRY_SUFFIXES)
    except OSError:
        return False


def open_source(source: Path, options: SourceOptions) -> FrameReader:
    """Open projections with the geometry of another program.

    Raises
    ------
    FrameFormatError
        If a file is truncated or not what it should be, or it is open which files are meant.
    ScanDescriptionError
        If the geometry is malformed, is not for these projections, or the description contradicts them.
    IncompleteScanError
        If files that the description names are missing.
    """
    description = load_description(source, options, known_settings=SETTINGS)
    if description.scan.repeat_views is not None:
        raise ScanDescriptionError(
            f"{source}: repeat_views is not for scans with the geometry of another program: leave it out"
        )
    try:
        opened = _open(source, description)
    except GeometryError as error:
        raise ScanDescriptionError(str(error)) from error
    views, geometry = opened.views, opened.imported.geometry
    try:
        n_views, (n_rows, n_cols) = views[0].n_views, views[0].shape
        require_announced_views(n_views, description, source)
        if (geometry.n_views, geometry.n_rows, geometry.n_cols) != (n_views, n_rows, n_cols):
            raise ScanDescriptionError(
                f"{opened.path}: the projections have {n_views} views of {n_rows} rows x {n_cols} columns, but the "
                f"{opened.program} geometry has {geometry.n_views} of {geometry.n_rows} x {geometry.n_cols}: name the "
                "files that belong together by [files] projections and --set geometry=FILE"
            )
        content, note = _content(description, views)
        flats = open_field("flats", description, _open_frames, (".npy",), views)
        darks = open_field("darks", description, _open_frames, (".npy",), views)
        scan = describe_scan(
            description,
            source,
            source_format=NAME,
            pixel_type="float32" if content == "line_integrals" else choose_pixel_type(views, (flats, darks), source),
            n_views=n_views,
            n_rows=n_rows,
            n_cols=n_cols,
            n_bins=len(views),
            content=content,
            geometry=geometry,
            flats=describe_field(flats),
            darks=describe_field(darks),
            notes=(f"The geometry is that of a file of {opened.program}.", *note, *opened.imported.notes),
        )
        bad = description.files.bad_pixels
        mask = None if bad is None else partial(open_mask, description.file(bad), (n_rows, n_cols), _open_frames)
    except BaseException:
        for stack in views:
            stack.close()
        raise
    return FrameReader(scan, opened.path, views, description, flats, darks, mask)


def _open(source: Path, description: ScanDescription) -> _Opened:
    """Find and open geometry and projections."""
    geometry_path, program = _find_geometry(source, description)
    paths = _find_projections(source, description, geometry_path)
    order = _order(description, geometry_path)
    if paths[0].suffix.lower() in (".mat", ".nxs", ".nex"):
        return _open_containers(paths, order)
    order_said: Order = order or "python"
    layout = str(description.settings.get("layout", LAYOUTS.get(program, "view,row,col")))
    views: list[Stack] = []
    try:
        for path in paths:
            views += _open_stack(path, layout)
        imported = read_geometry(
            geometry_path, program=program, panel=_panel(views[0], description),
            unit_mm=_length(description, "unit_mm") or 1.0, order=order_said,
        )  # fmt: skip
        _require_alike(views, paths)
    except BaseException:
        for stack in views:
            stack.close()
        raise
    return _Opened(tuple(views), imported, program, paths[0])


def _find_geometry(source: Path, description: ScanDescription) -> tuple[Path, str]:
    """The geometry file, and whose it is."""
    named = description.settings.get("geometry")
    said = description.settings.get("program")
    if named is not None:
        path = (
            description.file(str(named))
            if description.path
            else (source if source.is_dir() else source.parent) / str(named)
        )
        if not path.is_file():
            raise ScanDescriptionError(
                f"{description.name}: the geometry file {path} does not exist: correct the setting geometry"
            )
        candidates = [path]
    elif source.is_dir():
        candidates = [p for p in sorted(source.iterdir(), key=natural_key) if p.suffix.lower() in GEOMETRY_SUFFIXES]
    else:
        candidates = [source]
    found = [(path, str(said) if said is not None else _program(path)) for path in candidates]
    known = [(path, program) for path, program in found if program is not None]
    containers = [entry for entry in known if entry[0].suffix.lower() in (".mat", ".nxs", ".nex")]
    if len(containers) == len(known) and containers:
        return containers[0]
    if len(known) != 1:
        names = ", ".join(path.name for path, _ in known) or "none"
        raise FrameFormatError(f"{source} should hold one geometry file, got {names}: name it by --set geometry=FILE")
    return known[0]


def _find_projections(source: Path, description: ScanDescription, geometry_path: Path) -> list[Path]:
    """The files of projections, one for each energy bin."""
    pattern = description.files.projections
    if pattern is not None:
        files = [
            path
            for part in bin_patterns(pattern, description)
            for path in match_files(description, part, STACK_SUFFIXES)
        ]
        expected = len(description.bins) if "{bin}" in pattern else 1
        if len(files) != expected:
            each = "one for each of the [[bins]]" if "{bin}" in pattern else "or put {bin} in it"
            raise ScanDescriptionError(
                f"{description.name}: [files] projections '{pattern}' names {len(files)} files, expected {expected}, "
                f"{each}"
            )
        return files
    if geometry_path.suffix.lower() in (".mat", ".nxs", ".nex"):
        return [geometry_path]
    folder = geometry_path.parent
    fields = (*description.field_patterns("flats"), *description.field_patterns("darks"))
    others = {description.file(name) for name in fields}
    found = [
        path
        for path in sorted(folder.iterdir(), key=natural_key)
        if path.suffix.lower() in STACK_SUFFIXES and path != geometry_path and path not in others
    ]
    preferred = [path for path in found if path.stem == "projections"]
    chosen = preferred or found
    if len(chosen) != 1:
        names = ", ".join(path.name for path in chosen) or "none"
        raise FrameFormatError(
            f"{folder} should hold one stack of projections ({', '.join(STACK_SUFFIXES)}) beside {geometry_path.name}, "
            f"got {names}: name it in [files] projections of a scan.toml"
        )
    return chosen


def _open_containers(paths: list[Path], order: Order | None) -> _Opened:
    """Files that hold both; the geometry is that of the first."""
    views: list[Stack] = []
    imported: Imported | None = None
    try:
        for path in paths:
            mat = path.suffix.lower() == ".mat"
            bins = 1
            index = 0
            while index < bins:
                frames, read = open_tigre_mat(path, index, order or "matlab") if mat else open_cil_nexus(path, index)
                views.append(Stack(frames))
                imported = imported or read
                bins, index = frames.n_bins, index + 1
        _require_alike(views, paths)
    except BaseException:
        for stack in views:
            stack.close()
        raise
    assert imported is not None
    return _Opened(tuple(views), imported, "tigre" if paths[0].suffix.lower() == ".mat" else "cil", paths[0])


def _open_stack(path: Path, layout: str) -> list[Stack]:
    """The energy bins of one file."""
    if path.suffix.lower() != ".npy":
        return [Stack(_open_frames(path))]
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FrameFormatError(f"{path} is truncated or not a .npy array: {error}") from error
    axes = parse_axes(layout, array.ndim, str(path))
    first = ArrayFrames(path, array, axes)
    return [Stack(ArrayFrames(path, array, axes, index)) for index in range(first.n_bins)]


def _open_frames(path: Path) -> FrameFile:
    """One file of frames (frame, row, col), by its suffix."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return NpyFile(path)
    return TiffPages(path) if suffix in (".tif", ".tiff") else ImageStack(path)


def _panel(stack: Stack, description: ScanDescription) -> Panel:
    """Size of the panel, and pitch and first pixel where the projections or the settings have them."""
    n_rows, n_cols = stack.shape
    both = _length(description, "pitch_mm")
    pitch_u, pitch_v = (_length(description, f"pitch_{axis}_mm") or both for axis in "uv")
    first = [description.settings.get(f"first_{axis}_mm") for axis in "uv"]
    frames = stack.frame_file
    if isinstance(frames, ImageStack):
        header = frames.header
        pitch_u, pitch_v = pitch_u or header.spacing_mm[0], pitch_v or header.spacing_mm[1]
        first = [said if said is not None else found for said, found in zip(first, header.origin_mm, strict=False)]
    u, v = (None if value is None else float(value) for value in first)
    return Panel(n_rows, n_cols, pitch_u, pitch_v, u, v)


def _content(description: ScanDescription, views: tuple[Stack, ...]) -> tuple[Content, tuple[str, ...]]:
    """What the pixels are: as described, else line integrals if they are floating numbers, counts if not."""
    if description.scan.content is not None:
        return description.scan.content, ()
    if views[0].dtype.kind == "f":
        return "line_integrals", ("Floating pixels without a description are taken for line integrals.",)
    return "counts", ("Whole pixels without a description are taken for counts.",)


def _require_alike(views: list[Stack], paths: list[Path]) -> None:
    """Energy bins must have the same views."""
    for stack in views[1:]:
        if (stack.n_views, stack.shape, stack.dtype) != (views[0].n_views, views[0].shape, views[0].dtype):
            raise FrameFormatError(
                f"{paths[0].parent}: energy bins differ, {stack.n_views} views of {stack.shape} {stack.dtype} and "
                f"{views[0].n_views} of {views[0].shape} {views[0].dtype}: upload them as scans of their own"
            )


def _order(description: ScanDescription, path: Path) -> Order | None:
    """Which way round TIGRE's axes are counted, if the settings say so."""
    said: Any = description.settings.get("order")
    if said not in (None, "python", "matlab"):
        raise ScanDescriptionError(f"{path}: the setting order should be python or matlab, got '{said}'")
    return said  # type: ignore[no-any-return]  # one of the three


def _length(description: ScanDescription, key: str) -> float | None:
    """A positive length of the settings."""
    value: Any = description.settings.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ScanDescriptionError(f"{description.name}: the setting {key} should be a positive length, got '{value}'")
    return float(value)


def _program(path: Path) -> str | None:
    """Whose geometry a file holds, or None; never raises."""
    if is_tigre_mat(path):
        return "tigre"
    try:
        if is_cil_nexus(path):
            return "cil"
    except IngestError:
        return None
    return program_of(path)
