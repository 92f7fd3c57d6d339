# SPDX-License-Identifier: Apache-2.0
"""Frames of an array whose axes lie in another order than ours: ASTRA's (row, view, col), MATLAB's, CIL's channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import FrameFormatError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

AXES = ("bin", "view", "row", "col")


class ArrayFrames:
    """Frames (row, col) of one energy bin of an array that is cut when they are read (a memory map, an HDF5 data set).

    Parameters
    ----------
    path : what to name in messages.
    array : indexed by integers and full slices.
    axes : names of its axes, among ``bin``, ``view``, ``row`` and ``col``; a ``bin`` may be missing.
    bin_index : the energy bin.
    slope, offset : a frame is (stored - offset) / slope.
    close : called when the frames are closed.

    Raises
    ------
    FrameFormatError
        If the array has other axes, or an empty one.
    """

    def __init__(
        self,
        path: Path,
        array: Any,
        axes: tuple[str, ...],
        bin_index: int = 0,
        *,
        slope: float = 1.0,
        offset: float = 0.0,
        close: Callable[[], None] | None = None,
    ) -> None:
        if len(array.shape) != len(axes) or 0 in array.shape or not {"view", "row", "col"} <= set(axes):
            raise FrameFormatError(
                f"{path}: frames need the axes ({', '.join(axes)}), got the shape {tuple(array.shape)}"
            )
        self.path, self._array, self._axes, self._bin_index = path, array, axes, bin_index
        self._slope, self._offset, self._close = slope, offset, close
        sizes = dict(zip(axes, (int(n) for n in array.shape), strict=True))
        self.n_bins = sizes.get("bin", 1)
        self.n_frames = sizes["view"]
        self.shape = (sizes["row"], sizes["col"])
        self._scaled = (slope, offset) != (1.0, 0.0)
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if self._scaled else np.dtype(array.dtype)

    def read(self, index: int) -> NDArray[Any]:
        """Return one frame (row, col).

        Raises
        ------
        FrameFormatError
            If the file is damaged there.
        """
        at = {"bin": self._bin_index, "view": index}
        cut = tuple(at.get(axis, slice(None)) for axis in self._axes)
        try:
            frame = np.array(self._array[cut])
        except (OSError, RuntimeError) as error:
            raise FrameFormatError(
                f"{self.path}: frame {index} cannot be read, the file is damaged ({error})"
            ) from error
        if self._axes.index("col") < self._axes.index("row"):
            frame = frame.T
        return ((frame - self._offset) / self._slope).astype(np.float32) if self._scaled else frame

    def close(self) -> None:
        """Let go of the array."""
        self._array = None
        if self._close is not None:
            self._close()
            self._close = None


def parse_axes(text: str, n_axes: int, where: str) -> tuple[str, ...]:
    """Read a layout such as ``row,view,col``; FrameFormatError if it is none, or not of so many axes."""
    axes = tuple(word.strip() for word in text.split(","))
    if len(set(axes)) != len(axes) or not {"view", "row", "col"} <= set(axes) <= set(AXES):
        raise FrameFormatError(
            f"{where}: a layout names view, row and col, and perhaps bin, in their order; got '{text}'"
        )
    if n_axes == len(axes) + 1 and "bin" not in axes:
        axes = ("bin", *axes)
    if n_axes != len(axes):
        raise FrameFormatError(f"{where} has {n_axes} axes, but its layout is '{text}'")
    return axes
