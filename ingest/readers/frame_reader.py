# SPDX-License-Identifier: Apache-2.0
"""The reader behind every format that stores plain frames in files: arrays, TIFF, Nikon's TIFF.

A format brings a way to open one file (`FrameFile`); the folder, the description, flat and dark
frames, orientation and checks are the same for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.frames import common_pixel_type, convert_frames, orient_frames, stored_pixel_type
from ingest.readers.series import FrameSeries, Stack, list_files, match_files, require_one_series, require_same
from ingest.scan import FieldFrames

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from ingest.config import FieldKind, ScanDescription
    from ingest.readers.series import FrameFile
    from ingest.scan import PixelType, Scan

    Opener = Callable[[], FrameFile]
    OpenFile = Callable[[Path], FrameFile]


@dataclass(frozen=True, slots=True)
class FieldFiles:
    """Flat or dark frames in files that are opened on use: one set for all views, or one for each camera position.

    Attributes
    ----------
    sets : for each set and energy bin the files.
    counts : for each set how many frames an energy bin has.
    dtype : that holds all of them.
    name : what one is called in messages.
    by_position : whether the sets are those of the camera positions.
    """

    sets: tuple[tuple[tuple[Opener, ...], ...], ...]
    counts: tuple[int, ...]
    dtype: np.dtype[Any]
    name: str
    by_position: bool = False


@dataclass(slots=True)
class FrameReader:
    """Reads views from one `Stack` or `FrameSeries` for each energy bin.

    Attributes
    ----------
    scan : the manifest.
    source : what to name in messages.
    views : for each energy bin where its views lie.
    description : which way round the frames are stored.
    flats, darks : the field frames, or None.
    bad_pixels : opener of the mask (not zero is bad), or None.
    repeated : there is one view, which stands for all of them.
    """

    scan: Scan
    source: Path
    views: tuple[Stack | FrameSeries, ...]
    description: ScanDescription
    flats: FieldFiles | None = None
    darks: FieldFiles | None = None
    bad_pixels: Opener | None = None
    repeated: bool = False

    def available_views(self) -> int:
        """How many leading views can be read now."""
        available = min(view_source.available() for view_source in self.views)
        return self.scan.n_views if self.repeated and available else available

    def read_views(self, start: int, stop: int) -> NDArray[Any]:
        """Views ``start <= view < stop`` as (bin, view, row, col).

        Raises
        ------
        FrameFormatError
            If a file is truncated, or a value is not sane.
        IncompleteScanError
            If a view is not there.
        """
        scan = self.scan
        require_view_range(start, stop, scan)
        frames = np.empty((scan.n_bins, stop - start, scan.n_rows, scan.n_cols), dtype=scan.pixel_type)
        last = start + 1 if self.repeated else stop
        for bin_index, view_source in enumerate(self.views):
            for view in range(start, min(last, stop)):
                frame = view_source.read(0 if self.repeated else view)
                frames[bin_index, view - start] = self._convert(frame[None], view, "view")[0]
        if self.repeated:
            frames[:, 1:] = frames[:, :1]
        return frames

    def read_flats(self, position: int | None = None) -> NDArray[Any] | None:
        """Flat frames (bin, frame, row, col), all or those of one camera position, or None."""
        return None if self.flats is None else self._read_field(self.flats, position)

    def read_darks(self, position: int | None = None) -> NDArray[Any] | None:
        """Dark frames (bin, frame, row, col), all or those of one camera position, or None."""
        return None if self.darks is None else self._read_field(self.darks, position)

    def read_bad_pixels(self) -> NDArray[Any] | None:
        """Pixels known to be bad (row, col) bool, or None."""
        if self.bad_pixels is None:
            return None
        frame_file = self.bad_pixels()
        try:
            return np.ascontiguousarray(self._orient(frame_file.read(0)) != 0)
        finally:
            frame_file.close()

    def close(self) -> None:
        """Close the files."""
        for view_source in self.views:
            view_source.close()

    def _read_field(self, field_files: FieldFiles, position: int | None) -> NDArray[Any]:
        """Flat or dark frames of one set, or of all one behind the other, as (bin, frame, row, col)."""
        scan = self.scan
        every = position is None or not field_files.by_position
        wanted = range(len(field_files.sets)) if every else range(position or 0, (position or 0) + 1)
        first = sum(field_files.counts[: wanted.start])
        n_frames = sum(field_files.counts[index] for index in wanted)
        frames = np.empty((scan.n_bins, n_frames, scan.n_rows, scan.n_cols), dtype=scan.pixel_type)
        for bin_index in range(scan.n_bins):
            at = 0
            for opener in (opener for index in wanted for opener in field_files.sets[index][bin_index]):
                frame_file = opener()
                try:
                    for index in range(frame_file.n_frames):
                        frame = self._convert(frame_file.read(index)[None], first + at, field_files.name)
                        frames[bin_index, at] = frame[0]
                        at += 1
                finally:
                    frame_file.close()
        return frames

    def _orient(self, frame: NDArray[Any]) -> NDArray[Any]:
        """Row 0 the lowest v, column 0 the lowest u."""
        return orient_frames(frame, self.description.rows, self.description.cols)

    def _convert(self, frame: NDArray[Any], number: int, kind: str) -> NDArray[Any]:
        """One frame (1, row, col), checked and in the stored type."""
        scan = self.scan
        return convert_frames(
            self._orient(frame), scan.pixel_type, number, self.source, content=scan.content, kind=kind
        )


def require_view_range(start: int, stop: int, scan: Scan) -> None:
    """Refuse views that the scan does not have; IncompleteScanError names them."""
    if not 0 <= start <= stop <= scan.n_views:
        raise IncompleteScanError(f"scan {scan.scan_id} has views 0 to {scan.n_views - 1}, got {start} to {stop - 1}")


def open_views(
    source: Path,
    description: ScanDescription,
    open_file: OpenFile,
    suffixes: tuple[str, ...],
) -> tuple[Stack | FrameSeries, ...]:
    """Open the views of a file, or of the folder or pattern that the description names, for each energy bin.

    A ``{bin}`` in ``[files] projections`` stands for the number of the bin, from 0.

    Raises
    ------
    FrameFormatError, IncompleteScanError, ScanDescriptionError
        If files are missing, malformed, or several series lie side by side.
    """
    pattern = description.files.projections
    if pattern is None:
        if source.is_dir():
            return (_open_series(partial(_list_views, source, description, suffixes), description, open_file),)
        return (_open_stack(source, description, open_file),)
    if "{bin}" in pattern and not description.bins:
        raise ScanDescriptionError(
            f"{description.name}: [files] '{pattern}' needs the energy bins: describe each in a [[bins]] of its own"
        )
    opened: list[Stack | FrameSeries] = []
    for bin_pattern in bin_patterns(pattern, description):
        listing = partial(match_files, description, bin_pattern, suffixes)
        opened.append(_open_series(listing, description, open_file))
    for index, views in enumerate(opened):
        if (views.n_views, views.shape, views.dtype) != (opened[0].n_views, opened[0].shape, opened[0].dtype):
            raise FrameFormatError(
                f"{description.name}: energy bin {index} has {views.n_views} views of {views.shape} {views.dtype}, "
                f"expected {opened[0].n_views} of {opened[0].shape} {opened[0].dtype} as bin 0"
            )
    return tuple(opened)


def bin_patterns(pattern: str, description: ScanDescription) -> list[str]:
    """The pattern for each energy bin, ``{bin}`` filled in."""
    if "{bin}" not in pattern:
        return [pattern]
    return [pattern.replace("{bin}", str(index)) for index in range(len(description.bins))]


def open_field(
    kind: FieldKind,
    description: ScanDescription,
    open_file: OpenFile,
    suffixes: tuple[str, ...],
    views: tuple[Stack | FrameSeries, ...],
) -> FieldFiles | None:
    """Find the flat or dark frames that the description names and check that they fit the views.

    Their pixels are read on use.

    Raises
    ------
    ScanDescriptionError, IncompleteScanError, FrameFormatError
        If names and energy bins or camera positions do not fit together, or files are missing or of another size.
    """
    patterns = description.field_patterns(kind)
    sets = [open_field_set(kind, pattern, description, open_file, suffixes, views) for pattern in patterns]
    return join_field_sets(sets, kind, description)


def join_field_sets(sets: list[FieldFiles], kind: FieldKind, description: ScanDescription) -> FieldFiles | None:
    """Join sets of flat or dark frames, one for each of the description's `field_patterns`; None of none."""
    if not sets:
        return None
    return FieldFiles(
        tuple(one for each in sets for one in each.sets),
        tuple(count for each in sets for count in each.counts),
        widest_dtype([each.dtype for each in sets], description.name),
        sets[0].name,
        description.by_position(kind),
    )


def field_name(kind: FieldKind) -> str:
    """What a flat or dark frame is called."""
    return "flat frame" if kind == "flats" else "dark frame"


def open_field_set(
    kind: FieldKind,
    pattern: str,
    description: ScanDescription,
    open_file: OpenFile,
    suffixes: tuple[str, ...],
    views: tuple[Stack | FrameSeries, ...],
) -> FieldFiles:
    """Find one set of flat or dark frames and check that they fit the views."""
    name = field_name(kind)
    patterns = bin_patterns(pattern, description)
    if len(patterns) != len(views):
        raise ScanDescriptionError(
            f"{description.name}: [files] '{pattern}' gives {name}s for {len(patterns)} energy bins, "
            f"but the views have {len(views)}: write {{bin}} where the number of a file's energy bin stands"
        )
    openers: list[tuple[Opener, ...]] = []
    counts: list[int] = []
    dtypes: list[np.dtype[Any]] = []
    for bin_pattern in patterns:
        paths = match_files(description, bin_pattern, suffixes)
        openers.append(tuple(partial(open_file, path) for path in paths))
        counts.append(0)
        for path in paths:
            frame_file = open_file(path)
            frame_file.close()
            require_same(path, frame_file, views[0].shape, None, None)
            counts[-1] += frame_file.n_frames
            dtypes.append(frame_file.dtype)
    if len(set(counts)) != 1:
        raise ScanDescriptionError(
            f"{description.name}: energy bins have different numbers of {name}s, {', '.join(map(str, counts))}: "
            "give each as many"
        )
    return FieldFiles((tuple(openers),), (counts[0],), widest_dtype(dtypes, description.name), name)


def describe_field(field_files: FieldFiles | None) -> FieldFrames | None:
    """What the manifest says of flat or dark frames."""
    if field_files is None:
        return None
    counts = field_files.counts
    return FieldFrames(sum(counts), position_counts=counts if field_files.by_position else ())


def widest_dtype(dtypes: list[np.dtype[Any]], source: str) -> np.dtype[Any]:
    """The stored type that holds all of them."""
    return np.dtype(common_pixel_type(stored_pixel_type(dtype, source) for dtype in dtypes))


def choose_pixel_type(
    views: tuple[Stack | FrameSeries, ...], fields: tuple[FieldFiles | None, ...], source: Path
) -> PixelType:
    """The type in which views, flat and dark frames are stored alike."""
    dtypes = [view_source.dtype for view_source in views] + [field.dtype for field in fields if field is not None]
    return common_pixel_type(stored_pixel_type(dtype, source) for dtype in dtypes)


def count_views(views: tuple[Stack | FrameSeries, ...], description: ScanDescription, source: Path) -> int:
    """How many views the scan has: those in the files, or the one of them as often as ``repeat_views`` says."""
    repeat, n_views = description.scan.repeat_views, views[0].n_views
    if repeat is None:
        return n_views
    if n_views != 1:
        raise ScanDescriptionError(
            f"{source}: repeat_views {repeat} needs a source with one view, got {n_views}: leave it out"
        )
    return repeat


def _open_stack(path: Path, description: ScanDescription, open_file: OpenFile) -> Stack:
    """All views in one file."""
    if description.files.missing_views:
        raise ScanDescriptionError(
            f"{description.name}: missing_views is for numbered files, but {path} is one file: leave it out"
        )
    stack = Stack(open_file(path))
    expected = description.scan.n_views
    if expected is not None and stack.n_views != expected:
        stack.close()
        raise IncompleteScanError(
            f"{path} holds {stack.n_views} views, expected {expected} as n_views says: correct n_views unless the file "
            "lacks views"
        )
    return stack


def _open_series(
    list_paths: Callable[[], list[Path]], description: ScanDescription, open_file: OpenFile
) -> Stack | FrameSeries:
    """One file a view; a single file of many frames is a stack, of one frame the first of those that are announced."""
    paths = list_paths()
    if len(paths) == 1 and (description.scan.n_views is None or _count_frames(paths[0], open_file) > 1):
        return _open_stack(paths[0], description, open_file)
    return FrameSeries(list_paths, open_file, description.files.missing_views, description.scan.n_views)


def _count_frames(path: Path, open_file: OpenFile) -> int:
    """Frames in a file."""
    frame_file = open_file(path)
    frame_file.close()
    return frame_file.n_frames


def _list_views(source: Path, description: ScanDescription, suffixes: tuple[str, ...]) -> list[Path]:
    """Files of a folder that are views: those that the description gives another part are not."""
    others: set[Path] = set()
    files, geometry = description.files, description.geometry
    masks = () if files.bad_pixels is None else (files.bad_pixels,)
    for pattern in (*description.field_patterns("flats"), *description.field_patterns("darks"), *masks):
        for bin_pattern in bin_patterns(pattern, description):
            others.update(path.resolve() for path in match_files(description, bin_pattern, suffixes))
    for name in (geometry and geometry.angles_file, geometry and geometry.poses_file):
        if name:
            others.add(description.file(name).resolve())
    paths = list_files(source, suffixes, frozenset(others))
    require_one_series(paths)
    return paths
