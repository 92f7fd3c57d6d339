# SPDX-License-Identifier: Apache-2.0
"""Virtual views: what an upright panel would have seen from the same source, resampled from the frames.

A *frame* is what the scanner made, a *view* is what is filtered and back-projected.  Where panels are tilted, or a
narrow camera stepped sideways, views are resampled from one or more frames before weights and ramp.  A ray is not
changed by where it is caught: with the same source the map from virtual to real pixels is a homography.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Float32Array = NDArray[np.float32]
    Float64Array = NDArray[np.float64]

#: Least blend weight of a pixel within its frame: a virtual pixel that only a frame's edge sees still gets its value.
LEAST_BLEND = 1e-3
#: Rows that cubic interpolation reaches beyond the row it falls on.
_REACH = 2


@dataclass(frozen=True, slots=True)
class VirtualViews:
    """How views come from frames.

    Attributes
    ----------
    frame_indices : (view, slot) int64
        The frames of each view; -1 where a slot is empty.  A frame belongs to one view.
    homographies : (view, slot, 3, 3) float64
        Map (col, row, 1) of the virtual panel to (col w, row w, w) of the frame, pixel centres at integers.
    feather_px : float
        Columns from a frame's side edge over which its blend weight rises to 1.
    frame_rows, frame_cols : int
        Size of the frames.
    rectified, merged : bool
        Whether tilted panels were set upright, and whether several frames make one view.
    """

    frame_indices: NDArray[np.int64] = field(repr=False)
    homographies: Float64Array = field(repr=False)
    feather_px: float
    frame_rows: int
    frame_cols: int
    rectified: bool
    merged: bool

    @property
    def n_slots(self) -> int:
        """Frames that a view is made of, at most."""
        return int(self.frame_indices.shape[1])

    def rows_of_frames(
        self, view_indices: NDArray[np.int64], row_start: int, row_stop: int, n_cols: int
    ) -> tuple[int, int]:
        """Rows (start, stop) of the frames that rows of some views are made from; at least one row.

        `n_cols` is the number of columns of the virtual panel.
        """
        used = self.frame_indices[view_indices] >= 0
        matrices = self.homographies[view_indices][used]
        corners = np.array([[c, r, 1.0] for c in (0, n_cols - 1) for r in (row_start, row_stop - 1)])
        mapped = matrices @ corners.T
        rows = mapped[:, 1] / mapped[:, 2]
        start = max(0, min(self.frame_rows - 1, math.floor(float(rows.min())) - _REACH + 1))
        stop = min(self.frame_rows, max(start + 1, math.floor(float(rows.max())) + _REACH + 1))
        return start, stop


def resample_view(
    virtual: VirtualViews,
    view_index: int,
    frames: Sequence[Float32Array],
    *,
    frame_row_start: int,
    row_start: int,
    row_stop: int,
    n_cols: int,
) -> Float32Array:
    """Resample rows of one view from its frames: cubic interpolation (Keys 1981, a = -1/2), edges repeated.

    Where several frames see a pixel they are blended, each by its distance from its frame's side edge:
    ``sum of w value / sum of w`` with ``w = clip((min(x + 1/2, frame_cols - 1/2 - x)) / feather_px, LEAST_BLEND, 1)``;
    x is the column in the frame.  A frame sees what falls within half a pixel of its pixel centres.

    Parameters
    ----------
    virtual : VirtualViews
    view_index : int
    frames : for each slot (frame_row, frame_col) float32
        Line integrals of the frames' rows from `frame_row_start` on; what stands at an empty slot is not looked at.
    frame_row_start : int
    row_start, row_stop : int
        Rows of the virtual panel wanted.
    n_cols : int
        Columns of the virtual panel.

    Returns
    -------
    (row, col) float32
        0 where no frame sees the pixel.
    """
    cols, rows = np.meshgrid(np.arange(n_cols, dtype=np.float64), np.arange(row_start, row_stop, dtype=np.float64))
    total, weight = np.zeros(cols.shape), np.zeros(cols.shape)
    for slot, frame in enumerate(frames):
        if virtual.frame_indices[view_index, slot] < 0:
            continue
        m = virtual.homographies[view_index, slot]
        w = m[2, 0] * cols + m[2, 1] * rows + m[2, 2]
        x = (m[0, 0] * cols + m[0, 1] * rows + m[0, 2]) / w
        y = (m[1, 0] * cols + m[1, 1] * rows + m[1, 2]) / w
        edge = np.minimum(x + 0.5, virtual.frame_cols - 0.5 - x)
        seen = (edge >= 0) & (y >= -0.5) & (y <= virtual.frame_rows - 0.5)
        blend = np.where(seen, np.clip(edge / virtual.feather_px, LEAST_BLEND, 1.0), 0.0)
        total += blend * _cubic(frame.astype(np.float64), np.where(seen, x, 0), np.where(seen, y, 0) - frame_row_start)
        weight += blend
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0).astype(np.float32)


def _cubic(image: Float64Array, x: Float64Array, y: Float64Array) -> Float64Array:
    """Cubic interpolation of an image at (x, y); pixels beyond the edge repeat the last one."""
    n_rows, n_cols = image.shape
    left, low = np.floor(x).astype(int), np.floor(y).astype(int)
    taps_x, taps_y = _taps(x - left), _taps(y - low)
    total = np.zeros(x.shape)
    for j in range(4):
        row = np.clip(low + j - 1, 0, n_rows - 1)
        line = sum(taps_x[i] * image[row, np.clip(left + i - 1, 0, n_cols - 1)] for i in range(4))
        total += taps_y[j] * line
    return total


def _taps(t: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
    """Weights of the four neighbours of a point t behind the second (Keys 1981, a = -1/2)."""
    return (
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
