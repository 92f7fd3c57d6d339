# SPDX-License-Identifier: Apache-2.0
"""Frames on their way from a file into the store: which type they get, which way round, and whether they are sane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from ingest.errors import FrameFormatError
from ingest.scan import Content, PixelType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ingest.config import Cols, Rows

#: What a signed or wide type is stored as, if its values allow it.
_NARROWED: dict[str, PixelType] = {
    "int8": "uint8",
    "int16": "uint16",
    "int32": "uint32",
    "int64": "uint32",
    "uint64": "uint32",
    "float16": "float32",
    "float64": "float32",
}


def stored_pixel_type(dtype: np.dtype[Any], source: object) -> PixelType:
    """Return the type that frames of a dtype are stored in.

    Unsigned integers of 8, 16 and 32 bit and float32 stay as they are, whatever their byte order; signed and
    64-bit integers become the unsigned type that holds counts, other floats become float32.

    Raises
    ------
    FrameFormatError
        If frames of that dtype are not read (complex numbers, booleans, text, records).
    """
    name = dtype.newbyteorder("=").name
    if name in get_args(PixelType):
        return cast("PixelType", name)
    if name not in _NARROWED:
        raise FrameFormatError(f"{source}: frames of type {name} are not read, expected integer or floating counts")
    return _NARROWED[name]


def common_pixel_type(pixel_types: Iterable[PixelType]) -> PixelType:
    """Return the type that holds the frames of all the given ones: views, flat and dark frames share one."""
    order = get_args(PixelType)
    return cast("PixelType", order[max(order.index(pixel_type) for pixel_type in pixel_types)])


def convert_frames(
    frames: NDArray[Any],
    pixel_type: PixelType,
    first_view: int,
    source: object,
    *,
    content: Content = "counts",
    kind: str = "view",
) -> NDArray[Any]:
    """Return frames in the stored type, C-contiguous and in this machine's byte order, after `check_frames`.

    Raises
    ------
    FrameFormatError
        If a value is not sane, or does not fit the stored type.
    """
    check_frames(frames, first_view, source, content=content, kind=kind)
    target = np.dtype(pixel_type)
    if frames.dtype.kind in "iu" and target.kind in "iu" and frames.dtype.itemsize > target.itemsize and frames.size:
        limit = np.iinfo(target).max
        if int(frames.max()) > limit:
            raise FrameFormatError(
                f"{source}: {_place(frames, frames > limit, first_view, kind)} is {int(frames.max())}, "
                f"above {limit}, the largest count that {pixel_type} holds"
            )
    if frames.dtype.kind == target.kind == "f" and frames.dtype.itemsize > target.itemsize:
        too_large = np.abs(frames) > np.finfo(target).max
        if too_large.any():
            raise FrameFormatError(
                f"{source}: {_place(frames, too_large, first_view, kind)} is {frames[too_large][0]:g}, "
                f"beyond what {pixel_type} holds"
            )
    return np.ascontiguousarray(frames, dtype=target)


def check_frames(
    frames: NDArray[Any],
    first_view: int,
    source: object,
    *,
    content: Content = "counts",
    kind: str = "view",
) -> None:
    """Refuse frames with a value that no detector counts: NaN, infinite or negative.

    Parameters
    ----------
    frames : (..., view, row, col)
        Any numeric type.  Not modified.
    first_view : int
        Number of the first view in `frames`.
    source : what to name in the message: a file, or a scan.
    content : line integrals may be negative (noise), counts may not.
    kind : what a frame is called: ``view``, ``flat frame`` or ``dark frame``.

    Raises
    ------
    FrameFormatError
        Naming energy bin, view, row and column of the first bad pixel.
    """
    if frames.size == 0 or frames.dtype.kind == "u":
        return
    lowest, highest = frames.min(), frames.max()  # NaN goes through both
    if frames.dtype.kind == "f" and not (np.isfinite(lowest) and np.isfinite(highest)):
        bad = ~np.isfinite(frames)
        value = frames[bad][0]
        raise FrameFormatError(f"{source}: {_place(frames, bad, first_view, kind)} is {value}, expected a number")
    if content != "line_integrals" and lowest < 0:
        bad = frames < 0
        value = frames[bad][0]
        raise FrameFormatError(f"{source}: {_place(frames, bad, first_view, kind)} has the negative count {value}")


def orient_frames(frames: NDArray[Any], rows: Rows, cols: Cols) -> NDArray[Any]:
    """Return frames (..., row, col) with row 0 the lowest v and column 0 the lowest u (a view, no copy)."""
    if rows == "top-down":
        frames = frames[..., ::-1, :]
    if cols == "right-to-left":
        frames = frames[..., ::-1]
    return frames


def _place(frames: NDArray[Any], bad: NDArray[np.bool_], first_view: int, kind: str) -> str:
    """Where the first bad pixel is."""
    where = [int(i) for i in np.argwhere(bad)[0]]
    view, row, col = first_view + where[-3] if len(where) > 2 else first_view, where[-2], where[-1]
    energy_bin = f"energy bin {where[-4]}, " if len(where) > 3 and frames.shape[-4] > 1 else ""
    return f"{energy_bin}{kind} {view}, row {row}, column {col}"
