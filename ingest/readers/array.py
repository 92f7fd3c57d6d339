# SPDX-License-Identifier: Apache-2.0
"""NumPy projections: a .npy, a .npz, or a folder of numbered .npy frames, with a scan.toml beside them.

Axes are (view, row, col) or (bin, view, row, col), row 0 the lowest v unless ``[geometry] rows`` says
otherwise.  A .npz holds ``projections`` and perhaps ``flats``, ``darks`` and ``bad_pixels``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ingest.config import FieldKind, load_description
from ingest.describe import describe_scan
from ingest.errors import FrameFormatError, ScanDescriptionError
from ingest.readers.frame_reader import (
    FieldFiles,
    FrameReader,
    bin_patterns,
    choose_pixel_type,
    count_views,
    describe_field,
    field_name,
    join_field_sets,
    open_field_set,
    open_views,
)
from ingest.readers.npy_files import NpyFile, NpzMember, npz_keys, open_mask
from ingest.readers.series import Stack, match_files, require_same

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingest.config import ScanDescription
    from ingest.readers import SourceOptions
    from ingest.readers.series import FrameFile, FrameSeries

NAME = "array"
SUFFIXES = (".npy",)
NPZ_KEYS = ("projections", "flats", "darks", "bad_pixels")
FIELD_KINDS: tuple[FieldKind, ...] = ("flats", "darks")


def looks_like(source: Path) -> bool:
    """Whether the source is a .npy or .npz file, or a folder with .npy files in it; never raises."""
    try:
        if source.is_dir():
            return any(path.suffix.lower() in (".npy", ".npz") for path in source.iterdir())
        return source.is_file() and source.suffix.lower() in (".npy", ".npz")
    except OSError:
        return False


def open_source(source: Path, options: SourceOptions) -> FrameReader:
    """Open NumPy projections.

    Raises
    ------
    FrameFormatError
        If a file is truncated or not an array of frames.
    IncompleteScanError
        If numbers are missing in the series, or flat or dark frames that the description names.
    ScanDescriptionError
        If the description is malformed or contradicts the files.
    """
    description = load_description(source, options)
    npz = _find_npz(source, description)
    views = _open_views(source, description) if npz is None else _open_npz_views(npz)
    try:
        if npz is None:
            flats, darks = (_open_field(kind, description, views) for kind in FIELD_KINDS)
        else:
            flats, darks = (_open_npz_field(npz, kind, description, views) for kind in FIELD_KINDS)
        n_rows, n_cols = views[0].shape
        notes = []
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
        mask = _mask_opener(npz, description, (n_rows, n_cols))
    except BaseException:
        for view_source in views:
            view_source.close()
        raise
    repeated = description.scan.repeat_views is not None
    return FrameReader(scan, source, views, description, flats, darks, mask, repeated)


def _find_npz(source: Path, description: ScanDescription) -> Path | None:
    """The .npz that holds everything, if the source is one."""
    named = description.files.projections
    path = source
    if named is not None and named.lower().endswith(".npz"):
        path = description.file(named)
    elif source.is_dir() and named is None:
        archives = [p for p in source.iterdir() if p.suffix.lower() == ".npz"]
        if len(archives) == 1 and not any(p.suffix.lower() == ".npy" for p in source.iterdir()):
            path = archives[0]
    if path.suffix.lower() != ".npz":
        return None
    of_positions = [getattr(at, kind) for at in description.camera_positions for kind in FIELD_KINDS]
    known = (*NPZ_KEYS, *(name for name in of_positions if name is not None))
    unknown = sorted(set(npz_keys(path)) - set(known))
    if unknown:
        raise FrameFormatError(
            f"{path} holds the unknown array '{unknown[0]}': known are {', '.join(known)}: rename it or leave it out"
        )
    for key in ("flats", "darks", "bad_pixels"):
        if getattr(description.files, key) is not None:
            raise ScanDescriptionError(
                f"{description.name}: [files] {key} must be an array in {path} itself: save it there as '{key}', and "
                "leave the line out"
            )
    return path


def _open_views(source: Path, description: ScanDescription) -> tuple[Stack | FrameSeries, ...]:
    """Views of .npy files; a fourth axis gives the energy bins."""
    views = open_views(source, description, NpyFile, SUFFIXES)
    first = views[0].frame_file if isinstance(views[0], Stack) else None
    if not isinstance(first, NpyFile) or first.n_bins == 1 or len(views) > 1:
        return views
    others = tuple(Stack(NpyFile(first.path, index)) for index in range(1, first.n_bins))
    return (*views, *others)


def _open_npz_views(path: Path) -> tuple[Stack | FrameSeries, ...]:
    """Views of the array ``projections``, a stream for each energy bin."""
    if "projections" not in npz_keys(path):
        raise FrameFormatError(f"{path} holds no array 'projections': save the views there under that name")
    first = NpzMember(path, "projections")
    return (Stack(first), *(Stack(NpzMember(path, "projections", index)) for index in range(1, first.n_bins)))


def _open_field(
    kind: FieldKind, description: ScanDescription, views: tuple[Stack | FrameSeries, ...]
) -> FieldFiles | None:
    """Flat or dark frames of .npy files, by camera position if the description names them so."""
    sets = [_open_field_set(kind, pattern, description, views) for pattern in description.field_patterns(kind)]
    return join_field_sets(sets, kind, description)


def _open_field_set(
    kind: FieldKind, pattern: str, description: ScanDescription, views: tuple[Stack | FrameSeries, ...]
) -> FieldFiles:
    """One set of flat or dark frames: one file for all bins, or as the views lie."""
    if len(bin_patterns(pattern, description)) == 1 and len(views) > 1:
        paths = match_files(description, pattern, SUFFIXES)
        if len(paths) == 1:
            return _field_of_bins(partial(NpyFile, paths[0]), paths[0], views, field_name(kind))
    return open_field_set(kind, pattern, description, NpyFile, SUFFIXES, views)


def _open_npz_field(
    path: Path, kind: FieldKind, description: ScanDescription, views: tuple[Stack | FrameSeries, ...]
) -> FieldFiles | None:
    """Flat or dark frames of an array of the .npz, or of those that the camera positions name."""
    there = npz_keys(path)
    names = description.field_patterns(kind)
    if names and kind in there and kind not in names:
        raise ScanDescriptionError(
            f"{path} holds '{kind}' for all views, and [[camera_positions]] of {description.name} name others: keep one"
        )
    names = names or ((kind,) if kind in there else ())
    absent = [name for name in names if name not in there]
    if absent:
        raise FrameFormatError(f"{path} holds no array '{absent[0]}' of {kind}, which {description.name} names")
    sets = [_field_of_bins(partial(NpzMember, path, name), path, views, field_name(kind)) for name in names]
    return join_field_sets(sets, kind, description)


def _field_of_bins(
    open_bin: Callable[[int], NpyFile | NpzMember], path: Path, views: tuple[Stack | FrameSeries, ...], name: str
) -> FieldFiles:
    """Flat or dark frames (bin, frame, row, col) of one array."""
    first = open_bin(0)
    first.close()
    require_same(path, first, views[0].shape, None, None)
    if first.n_bins != len(views):
        raise FrameFormatError(f"{path}: {name}s have {first.n_bins} energy bins, expected {len(views)} as the views")
    openers = tuple((partial(open_bin, index),) for index in range(len(views)))
    return FieldFiles((openers,), (first.n_frames,), first.dtype, name)


def _mask_opener(
    npz: Path | None, description: ScanDescription, shape: tuple[int, int]
) -> Callable[[], FrameFile] | None:
    """How to open the mask of bad pixels, or None."""
    if npz is not None:
        return partial(NpzMember, npz, "bad_pixels") if "bad_pixels" in npz_keys(npz) else None
    named = description.files.bad_pixels
    return None if named is None else partial(open_mask, description.file(named), shape, NpyFile)
