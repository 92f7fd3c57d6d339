# SPDX-License-Identifier: Apache-2.0
"""What the HDF5 formats share: opening a file, quantities with units, and frames read view by view."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.camera_positions import parse_views
from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.frames import common_pixel_type, convert_frames, orient_frames, stored_pixel_type
from ingest.readers.frame_reader import field_name, require_view_range
from ingest.readers.masks import read_mask
from ingest.scan import FieldFrames

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from ingest.config import FieldKind, ScanDescription
    from ingest.scan import PixelType, Scan

#: Memory for chunks that hold several frames each [B]; of files that would need more, chunks are unpacked again.
MAX_LAYER_BYTES = 1 << 28
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

_RADIANS = {
    "deg": math.pi / 180,
    "degree": math.pi / 180,
    "degrees": math.pi / 180,
    "°": math.pi / 180,
    "rad": 1.0,
    "radian": 1.0,
    "radians": 1.0,
}
_MILLIMETRES = {
    "m": 1e3, "meter": 1e3, "meters": 1e3, "metre": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3,
    "micron": 1e-3, "microns": 1e-3, "nm": 1e-6,
}  # fmt: skip
_MILLISECONDS = {"s": 1e3, "sec": 1e3, "second": 1e3, "seconds": 1e3, "ms": 1.0, "us": 1e-3, "µs": 1e-3}


@dataclass(frozen=True, slots=True)
class FrameSet:
    """Some frames (frame, row, col) of an HDF5 data set: which ones, in order."""

    dataset: Any
    frames: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of frames."""
        return int(self.frames.size)

    @classmethod
    def whole(cls, dataset: Any) -> FrameSet:
        """All frames of a data set."""
        return cls(dataset, np.arange(dataset.shape[0], dtype=np.int64))


@dataclass(slots=True)
class Hdf5Reader:
    """Reads views from an open HDF5 file.

    Attributes
    ----------
    scan : the manifest.
    source : the file.
    file : the open h5py.File.
    description : which way round the frames are stored.
    views, flats, darks : where the frames lie.
    bad_pixels : (row, col) bool as stored, or None.
    """

    scan: Scan
    source: Path
    file: Any
    description: ScanDescription
    views: FrameSet
    flats: FrameSet | None = None
    darks: FrameSet | None = None
    bad_pixels: NDArray[np.bool_] | None = None

    def available_views(self) -> int:
        """How many views can be read: all."""
        return self.scan.n_views

    def read_views(self, start: int, stop: int) -> NDArray[Any]:
        """Views ``start <= view < stop`` as (1, view, row, col).

        Raises
        ------
        FrameFormatError
            If the file is cut short or damaged there, or a value is not sane.
        IncompleteScanError
            If the scan has no such view.
        """
        require_view_range(start, stop, self.scan)
        return self._read(self.views, start, stop, "view")

    def read_flats(self, position: int | None = None) -> NDArray[Any] | None:
        """Flat frames (1, frame, row, col), all or those of one camera position, or None."""
        return self._read_field(self.flats, self.scan.flats, position, "flat frame")

    def read_darks(self, position: int | None = None) -> NDArray[Any] | None:
        """Dark frames (1, frame, row, col), all or those of one camera position, or None."""
        return self._read_field(self.darks, self.scan.darks, position, "dark frame")

    def read_bad_pixels(self) -> NDArray[Any] | None:
        """Pixels that the file or the description calls bad (row, col) bool, or None."""
        mask = read_mask(self.description, (self.scan.n_rows, self.scan.n_cols))
        if self.bad_pixels is None:
            return mask
        own = orient_frames(self.bad_pixels, self.description.rows, self.description.cols)
        return np.ascontiguousarray(own if mask is None else own | mask)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _read_field(
        self, frame_set: FrameSet | None, described: FieldFrames | None, position: int | None, name: str
    ) -> NDArray[Any] | None:
        """Flat or dark frames (``name``)."""
        if frame_set is None or described is None:
            return None
        return self._read(frame_set, *described.frames_at(position), name)

    def _read(self, frame_set: FrameSet, start: int, stop: int, kind: str) -> NDArray[Any]:
        """Frames of a set as (1, frame, row, col), checked and in the stored type."""
        scan = self.scan
        counts = np.empty((1, stop - start, scan.n_rows, scan.n_cols), dtype=scan.pixel_type)
        wanted = frame_set.frames[start:stop]
        # One ranged read for each run of neighbours: HDF5 is slow at lists of single frames.
        edges = [0, *(np.flatnonzero(np.diff(wanted) != 1) + 1).tolist(), wanted.size] if wanted.size else [0]
        for first, last in itertools.pairwise(edges):
            frames = read_range(frame_set.dataset, int(wanted[first]), int(wanted[last - 1]) + 1, self.source)
            frames = orient_frames(frames, self.description.rows, self.description.cols)
            counts[0, first:last] = convert_frames(
                frames, scan.pixel_type, start + first, self.source, content=scan.content, kind=kind
            )
        return counts


def is_hdf5(path: Path) -> bool:
    """Whether a file starts as an HDF5 file does; False if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    except OSError:
        return False


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file for reading.

    Raises
    ------
    FrameFormatError
        If it is none, is cut short or damaged.
    """
    # h5py is slow to load: only where a file needs it.
    import h5py

    if not is_hdf5(path):
        raise FrameFormatError(f"{path}: expected an HDF5 file")
    try:
        file = h5py.File(path)
        n_bytes, n_chunks = _layer_of_chunks(file)
        if n_chunks and n_bytes <= MAX_LAYER_BYTES:
            file.close()
            file = h5py.File(path, rdcc_nbytes=n_bytes, rdcc_nslots=10 * n_chunks + 1)
        return file
    except OSError as error:
        raise FrameFormatError(f"{path}: the HDF5 file is cut short or damaged ({error})") from error


def _layer_of_chunks(file: Any) -> tuple[int, int]:
    """Unpacked bytes and number of the chunks that hold the same frames, the most of any data set; (0, 0) of none.

    Where chunks hold several frames each, and frames are read a few at a time, HDF5 must keep so many or unpack them
    again for every read.
    """
    largest = (0, 0)

    def look(name: str, node: Any) -> None:
        nonlocal largest
        chunks = getattr(node, "chunks", None)
        if chunks is not None and len(chunks) == 3 and chunks[0] > 1:
            n_chunks = math.ceil(node.shape[1] / chunks[1]) * math.ceil(node.shape[2] / chunks[2])
            largest = max(largest, (n_chunks * math.prod(chunks) * node.dtype.itemsize, n_chunks))

    try:
        file.visititems(look)
    except (OSError, RuntimeError, KeyError, TypeError):
        return (0, 0)  # who reads the data set will say what is wrong with it
    return largest


def member(group: Any, name: str) -> Any | None:
    """Return a group or data set by its path below a group; None if it is not there or its link is broken."""
    try:
        return group[name] if name in group else None
    except (KeyError, OSError, RuntimeError):
        return None


def read_range(dataset: Any, start: int, stop: int, source: Path) -> NDArray[Any]:
    """Read some neighbouring frames; FrameFormatError if the file is cut short or damaged there."""
    try:
        return np.asarray(dataset[start:stop])
    except (OSError, RuntimeError) as error:
        raise FrameFormatError(
            f"{source}: frames {start} to {stop - 1} of {dataset.name} cannot be read, "
            f"the file is cut short or damaged ({error})"
        ) from error


def read_values(dataset: Any, source: Path) -> NDArray[np.float64]:
    """Read a small data set of numbers as (n,) float64; FrameFormatError if it holds none or one is not finite."""
    try:
        values = np.atleast_1d(np.asarray(dataset[()], dtype=np.float64)).ravel()
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise FrameFormatError(f"{source}: {dataset.name} is not an array of numbers ({error})") from error
    if not np.isfinite(values).all():
        raise FrameFormatError(f"{source}: {dataset.name} holds a number that is not finite")
    return values


def read_text(dataset: Any) -> str:
    """Read a data set that is one text; "" if there is none."""
    if dataset is None or not hasattr(dataset, "shape"):
        return ""
    value = dataset[()]
    value = value.ravel()[0] if isinstance(value, np.ndarray) and value.size else value
    return value.decode("utf-8", "replace").strip() if isinstance(value, bytes) else str(value).strip()


def iso_time(text: str) -> str:
    """Return an ISO 8601 time without its zone (it is the scanner's local time); "" if it is none."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None).isoformat()
    except ValueError:
        return ""


def units(dataset: Any) -> str:
    """Return the ``units`` (or ``unit``) attribute, "" if there is none."""
    value = dataset.attrs.get("units", dataset.attrs.get("unit", ""))
    value = value.ravel()[0] if isinstance(value, np.ndarray) and value.size else value
    return value.decode("utf-8", "replace").strip() if isinstance(value, bytes) else str(value).strip()


def angles_rad(dataset: Any, source: Path) -> NDArray[np.float64]:
    """Read angles (n,) float64 [rad]; without a unit they are degrees.

    Raises
    ------
    FrameFormatError
        If the unit is no angle, or a number is not finite.
    """
    return read_values(dataset, source) * _factor(dataset, _RADIANS, "deg", "an angle", source)


def length_mm(dataset: Any, source: Path, *, default_unit: str) -> float:
    """Read a length [mm]; FrameFormatError if its unit is no length."""
    factor = _factor(dataset, _MILLIMETRES, default_unit, "a length", source)
    values = read_values(dataset, source)
    if values.size == 0 or np.ptp(values) > 1e-9 * abs(values[0]):
        got = f"{values.size} lengths that differ" if values.size else "no number"
        raise FrameFormatError(f"{source}: {dataset.name} holds {got}, expected one length")
    return float(values[0]) * factor


def time_ms(dataset: Any, source: Path) -> float | None:
    """Read a time [ms], the mean if there are several; None if it is not positive or its unit is not known."""
    factor = _MILLISECONDS.get(units(dataset).lower() or "s")
    if factor is None:
        return None
    mean = float(read_values(dataset, source).mean()) * factor
    return mean if mean > 0 else None


def turns_clockwise(description: ScanDescription) -> bool:
    """Whether the table turns clockwise (seen from +z) by rising angles: ``[geometry] table_turns`` or ``sense``."""
    section = description.geometry
    if section is None:
        return False
    return section.table_turns == "clockwise" or section.sense == "counter-clockwise"


def frame_dataset(node: Any, source: Path, what: str) -> Any:
    """Return a data set of frames (frame, row, col); FrameFormatError if it is none."""
    if node is None or not hasattr(node, "shape"):
        raise FrameFormatError(f"{source}: no data set {what}")
    if len(node.shape) != 3 or 0 in node.shape:
        raise FrameFormatError(f"{source}: {what} needs the axes (frame, row, col), got the shape {node.shape}")
    return node


def choose_pixel_type(frame_sets: Iterable[FrameSet | None], source: Path) -> PixelType:
    """The type in which views, flat and dark frames are stored alike."""
    return common_pixel_type(
        stored_pixel_type(frame_set.dataset.dtype, source) for frame_set in frame_sets if frame_set is not None
    )


def describe_fields(
    kind: FieldKind, frame_set: FrameSet | None, description: ScanDescription, source: Path
) -> tuple[FrameSet | None, FieldFrames | None]:
    """Return a file's flat or dark frames and what the manifest says of them; sorted by camera position if it is said.

    ``flats`` and ``darks`` of ``[[camera_positions]]`` count the file's own frames of the kind, from 0.

    Raises
    ------
    ScanDescriptionError
        If a position names a frame that is not there, or one of another position.
    """
    if frame_set is None or not frame_set.count:
        return None, None
    if not description.by_position(kind):
        return frame_set, FieldFrames(frame_set.count)
    sets = [
        parse_views(
            text, frame_set.count, f"{description.name}: [[camera_positions]] {number} {kind}", what=field_name(kind)
        )
        for number, text in enumerate(description.field_patterns(kind))
    ]
    chosen = np.concatenate(sets)
    if np.unique(chosen).size < chosen.size:
        raise ScanDescriptionError(
            f"{description.name}: [[camera_positions]] name some of the {kind} of {source} twice: each "
            "belongs to one position"
        )
    counts = tuple(len(one) for one in sets)
    return FrameSet(frame_set.dataset, frame_set.frames[chosen]), FieldFrames(sum(counts), position_counts=counts)


def require_announced_views(n_views: int, description: ScanDescription, source: Path) -> None:
    """Refuse another number of views than ``[scan] n_views`` says; IncompleteScanError names both."""
    said = description.scan.n_views
    if said is not None and said != n_views:
        raise IncompleteScanError(
            f"{source} holds {n_views} views, expected {said} as n_views says: correct n_views unless the file "
            "lacks views"
        )


def _factor(dataset: Any, factors: dict[str, float], default_unit: str, what: str, source: Path) -> float:
    """What a data set's unit is worth."""
    unit = units(dataset).lower() or default_unit
    if unit not in factors:
        raise FrameFormatError(f"{source}: {dataset.name} is in '{unit}', expected {what} in {', '.join(factors)}")
    return factors[unit]
