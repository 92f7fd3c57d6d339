# SPDX-License-Identifier: Apache-2.0
"""Views that lie in numbered files of a folder, one each: which files, in which order, and which of them are there.

The folder may still grow while the scanner writes (``upload --watch``): a view can be read as soon as
its file is complete and all files before it are there.
"""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ingest.errors import FrameFormatError, IncompleteScanError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from ingest.config import ScanDescription

_LAST_NUMBER = re.compile(r"(\d+)(?=\D*$)")
#: How many missing numbers a message names before it says how many more there are.
_NAMED = 8


class FrameFile(Protocol):
    """An opened file of frames that all have one shape and type."""

    n_frames: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    def read(self, index: int) -> NDArray[Any]:
        """Return one frame (row, col) as stored."""

    def close(self) -> None:
        """Close the file."""


def natural_key(path: Path) -> tuple[Any, ...]:
    """Sort key that puts view_2 before view_10."""
    parts = re.split(r"(\d+)", path.name)
    return tuple((1, int(part), part) if part.isdigit() else (0, 0, part) for part in parts)


def match_files(description: ScanDescription, pattern: str, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files of a name, folder or glob pattern of the description, in natural order.

    Raises
    ------
    IncompleteScanError
        If there is none.
    """
    folder = "" if description.path is None else glob.escape(str(description.path.parent)) + "/"
    rooted = pattern if Path(pattern).is_absolute() else folder + pattern
    matched = [Path(name) for name in glob.glob(rooted)]
    if len(matched) == 1 and matched[0].is_dir():
        return list_files(matched[0], suffixes)
    files = sorted((path for path in matched if path.is_file()), key=lambda path: (str(path.parent), natural_key(path)))
    if not files:
        raise IncompleteScanError(
            f"{description.name}: [files] '{pattern}' matches no file: give a name or pattern as seen from its folder"
        )
    return files


def list_files(folder: Path, suffixes: tuple[str, ...], excluded: frozenset[Path] = frozenset()) -> list[Path]:
    """Return the files of a folder with one of the suffixes, hidden ones left out, in natural order."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file())
    files = sorted((path for path in found if path.resolve() not in excluded), key=natural_key)
    if not files:
        raise IncompleteScanError(f"{folder} holds no {' or '.join(suffixes)} file with projections")
    return files


def require_one_series(files: list[Path]) -> None:
    """Refuse a folder in which several numbered series lie side by side: flat fields are no views.

    Raises
    ------
    FrameFormatError
        Naming one file of each of two series.
    """
    first_of: dict[str, Path] = {}
    for path in files:
        first_of.setdefault(_LAST_NUMBER.sub("#", path.name), path)
    if len(first_of) > 1:
        one, other = list(first_of.values())[:2]
        raise FrameFormatError(
            f"{one.parent} holds several series ('{one.name}', '{other.name}'): "
            "name projections, flats and darks in [files] of a scan.toml"
        )


@dataclass(slots=True)
class FrameSeries:
    """Views in numbered files, one each.

    Attributes
    ----------
    list_paths : lists the files that are there now, in order.
    open_file : opens one of them.
    missing : file numbers that the description says do not exist.
    n_expected : how many views the series will have when the scanner is done; None: those that are there.
    n_views : number of views, those to come included.
    shape, dtype : of the first view.
    """

    list_paths: Callable[[], list[Path]]
    open_file: Callable[[Path], FrameFile]
    missing: tuple[int, ...] = ()
    n_expected: int | None = None
    n_views: int = field(init=False)
    shape: tuple[int, int] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    _paths: list[Path] = field(init=False)
    _n_complete: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        listed = self.list_paths()
        self._paths = self._leading(listed)
        if self.n_expected is None and len(self._paths) < len(listed):
            raise IncompleteScanError(self._gap_sentence(listed))
        self.n_views = len(listed) if self.n_expected is None else self.n_expected
        if len(listed) > self.n_views:
            raise FrameFormatError(
                f"{listed[0].parent} holds {len(listed)} files of views, but n_views says {self.n_views}: correct it, "
                "or name flats and darks in [files] of a scan.toml"
            )
        first = self.open_file(self._paths[0])
        first.close()
        if first.n_frames != 1:
            raise FrameFormatError(
                f"{self._paths[0]} holds {first.n_frames} frames, expected a file for each of {self.n_views} views"
            )
        self.shape, self.dtype = first.shape, first.dtype

    @property
    def first_path(self) -> Path:
        """The file of the first view."""
        return self._paths[0]

    @property
    def left_out(self) -> tuple[int, ...]:
        """Positions, in the whole series, of the views that the description says do not exist."""
        first = min(_numbers(self._paths) or [0])
        return tuple(number - min(first, *self.missing) for number in sorted(set(self.missing)))

    def close(self) -> None:
        """Nothing stays open between reads."""

    def available(self) -> int:
        """How many leading views can be read now; a file counts when it is complete."""
        if self._n_complete < self.n_views and len(self._paths) < self.n_views:
            self._paths = self._leading(self.list_paths())
        if self.n_expected is None:
            return self.n_views
        while self._n_complete < len(self._paths):
            try:
                self.open_file(self._paths[self._n_complete]).close()
            except FrameFormatError:
                break
            self._n_complete += 1
        return self._n_complete

    def read(self, view: int) -> NDArray[Any]:
        """Return one view (row, col) as stored.

        Raises
        ------
        IncompleteScanError
            If its file is not there.
        FrameFormatError
            If the file is truncated, holds more than one frame, or frames of another size or type.
        """
        if view >= len(self._paths):
            self._paths = self._leading(self.list_paths())
        if view >= len(self._paths):
            raise IncompleteScanError(
                f"{self._next_path()}: view {len(self._paths)} is missing, "
                f"only the first {len(self._paths)} of {self.n_views} views are there"
            )
        path = self._paths[view]
        frame_file = self.open_file(path)
        try:
            if frame_file.n_frames != 1:
                raise FrameFormatError(f"{path} holds {frame_file.n_frames} frames, expected one file for each view")
            require_same(path, frame_file, self.shape, self.dtype, self.first_path)
            return frame_file.read(0)
        finally:
            frame_file.close()

    def _leading(self, listed: list[Path]) -> list[Path]:
        """The files up to the first gap in their numbers."""
        numbers = _numbers(listed)
        if numbers is None:
            return listed
        absent = set(self.missing)
        expected = min(numbers[0], *absent) if absent else numbers[0]
        for count, number in enumerate(numbers):
            while expected in absent:
                expected += 1
            if number != expected:
                return listed[:count]
            expected += 1
        return listed

    def _next_path(self) -> Path:
        """The file that should come after those that are there; their folder if their names tell no number."""
        numbers = _numbers(self._paths)
        if numbers is None:
            return self.first_path.parent
        number = numbers[-1] + 1
        while number in self.missing:
            number += 1
        return self.first_path.parent / _name_like(self.first_path, number)

    def _gap_sentence(self, listed: list[Path]) -> str:
        """A sentence that names the missing numbers."""
        numbers = _numbers(listed) or []
        missing = sorted(set(range(numbers[0], numbers[-1])) - set(numbers) - set(self.missing))
        if not missing:
            # Out of step otherwise: a number that is there is described as missing, or comes twice.
            return (
                f"{listed[0].parent}: the files' numbers do not agree with missing_views {list(self.missing)}: name "
                "only numbers that no file has"
            )
        names = ", ".join(_name_like(listed[0], number) for number in missing[:_NAMED])
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        return (
            f"{listed[0].parent}: {len(missing)} of {numbers[-1] - numbers[0] + 1} views are missing: {names}{more}; "
            "if they do not exist, name them in [files] missing_views"
        )


@dataclass(slots=True)
class Stack:
    """Views that lie in one file, page after page."""

    frame_file: FrameFile

    @property
    def n_views(self) -> int:
        """Number of views."""
        return self.frame_file.n_frames

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a view."""
        return self.frame_file.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels as stored."""
        return self.frame_file.dtype

    @property
    def left_out(self) -> tuple[int, ...]:
        """Positions of views that do not exist: none."""
        return ()

    def available(self) -> int:
        """How many leading views can be read now: all."""
        return self.n_views

    def read(self, view: int) -> NDArray[Any]:
        """Return one view (row, col) as stored."""
        return self.frame_file.read(view)

    def close(self) -> None:
        """Close the file."""
        self.frame_file.close()


def require_same(
    path: Path, frame_file: FrameFile, shape: tuple[int, int], dtype: np.dtype[Any] | None, first: Path | None
) -> None:
    """Refuse a file whose frames are not like the first view's."""
    like = "the views" if first is None else first.name
    if frame_file.shape != shape:
        raise FrameFormatError(
            f"{path} has frames of {frame_file.shape[0]} rows x {frame_file.shape[1]} columns, "
            f"expected {shape[0]} x {shape[1]} as in {like}"
        )
    if dtype is not None and frame_file.dtype.newbyteorder("=") != dtype.newbyteorder("="):
        raise FrameFormatError(f"{path} has pixels of type {frame_file.dtype}, expected {dtype} as in {like}")


def _numbers(paths: list[Path]) -> list[int] | None:
    """The last number in each file's name, or None if the names are not a numbered series."""
    if len({_LAST_NUMBER.sub("#", path.name) for path in paths}) != 1:
        return None
    found = [_LAST_NUMBER.search(path.stem) for path in paths]
    return [int(match.group(1)) for match in found if match] if all(found) else None


def _name_like(path: Path, number: int) -> str:
    """The name that the file of another number would have."""
    return _LAST_NUMBER.sub(lambda match: f"{number:0{len(match.group(1))}d}", path.stem) + path.suffix
