# SPDX-License-Identifier: Apache-2.0
"""Bricks: slabs cut in y and x too, and the part of each view's filtered rows that a brick's shadow touches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.errors import GeometryError, ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import Slab, VolumeGrid

    Float64Array = NDArray[np.float64]

#: Corners of the polygon that stands for the field's circle, outside of it.
_CIRCLE_CORNERS = 64
#: By how much the kernel for circular orbits and the poses may differ, with room [pixel].
_SLACK_PIXELS = 0.01


@dataclass(frozen=True, slots=True)
class Area:
    """The voxels ``y_start <= y < y_stop``, ``x_start <= x < x_stop`` of each slice."""

    y_start: int
    y_stop: int
    x_start: int
    x_stop: int

    def __post_init__(self) -> None:
        if not (0 <= self.y_start < self.y_stop and 0 <= self.x_start < self.x_stop):
            raise GeometryError(f"a brick needs 0 <= start < stop in y and x, got {self}")

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) voxels."""
        return self.y_stop - self.y_start, self.x_stop - self.x_start


@dataclass(frozen=True, slots=True)
class Window:
    """Filtered values of a view: rows of the panel, and columns counted from the first filtered one."""

    row_start: int
    row_stop: int
    col_start: int
    col_stop: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.row_stop - self.row_start

    @property
    def n_cols(self) -> int:
        """Number of columns."""
        return self.col_stop - self.col_start


def cut_evenly(n_voxels: int, n_parts: int, alignment: int) -> tuple[int, ...]:
    """Borders of nearly equal parts on multiples of `alignment`, the first 0 and the last `n_voxels`."""
    if min(n_voxels, n_parts, alignment) < 1:
        raise ParameterError(f"cannot cut {n_voxels} voxels into {n_parts} parts on multiples of {alignment}")
    units = math.ceil(n_voxels / alignment)
    n_parts = min(n_parts, units)
    return *(round(i * units / n_parts) * alignment for i in range(n_parts)), n_voxels


def has_field(grid: VolumeGrid, area: Area, radius_mm: float) -> bool:
    """Whether the centre of any voxel of the area lies in the field."""
    x0, y0, _ = grid.origin_mm
    _, py, px = grid.voxel_pitch_mm
    x = x0 + px * np.arange(area.x_start, area.x_stop)
    y = y0 + py * np.arange(area.y_start, area.y_stop)
    return bool(np.abs(x).min() ** 2 + np.abs(y).min() ** 2 <= radius_mm**2)


def brick_windows(
    matrices: Float64Array,
    view_starts: NDArray[np.int64],
    grid: VolumeGrid,
    slab: Slab,
    area: Area,
    radius_mm: float,
    *,
    panel_rows: int,
    filtered_cols: tuple[int, int],
) -> tuple[Window, ...]:
    """Return for each block of views the window of filtered values that a brick's part of the field projects to.

    Parameters
    ----------
    matrices : (view, 3, 4) float64
        `reconstruction.coverage.projection_matrices`.
    view_starts : (block,) int
        First view of each block, ascending from 0.
    grid, slab, area
        The brick.
    radius_mm : float
        Radius of the field; the brick must have a voxel in it (`has_field`).
    panel_rows : int
        Rows of the panel.
    filtered_cols : (col_start, n_out)
        Of the ramp filter.

    Returns
    -------
    (block,) windows, each with at least one row and column; cut to the panel and to the filtered columns.
    """
    corners = _field_corners(grid, area, radius_mm)
    part = grid.slab_grid(slab)
    z_low = part.origin_mm[2]
    z_high = z_low + (part.shape[0] - 1) * part.voxel_pitch_mm[0]
    points = np.concatenate([np.column_stack([corners, np.full(len(corners), z)]) for z in (z_low, z_high)])
    projected = matrices[:, :, :3] @ points.T + matrices[:, :, 3:4]
    depth = projected[:, 2]
    if depth.min() <= 0:
        raise GeometryError(
            f"the brick at slices {slab.z_start}:{slab.z_stop}, {area} reaches behind a view's source: take a "
            f"grid within the orbit of the source"
        )
    col, row = projected[:, 0] / depth, projected[:, 1] / depth
    first, n_out = filtered_cols
    lows = [np.minimum.reduceat(values.min(axis=1), view_starts) - _SLACK_PIXELS for values in (row, col - first)]
    highs = [np.maximum.reduceat(values.max(axis=1), view_starts) + _SLACK_PIXELS for values in (row, col - first)]
    rows, cols = (_cut_runs(low, high, size) for low, high, size in zip(lows, highs, (panel_rows, n_out), strict=True))
    return tuple(Window(*r, *c) for r, c in zip(rows, cols, strict=True))


def _cut_runs(low: Float64Array, high: Float64Array, size: int) -> list[tuple[int, int]]:
    """Pixels that interpolation between `low` and `high` needs, cut to ``0 <= pixel < size``, at least one."""
    start = np.clip(np.floor(low).astype(int), 0, size - 1)
    stop = np.clip(np.floor(high).astype(int) + 2, start + 1, size)
    return list(zip(start.tolist(), stop.tolist(), strict=True))


def _field_corners(grid: VolumeGrid, area: Area, radius_mm: float) -> Float64Array:
    """Corners (x, y) [mm] of a convex polygon that holds the area's voxel centres in the field."""
    x0, y0, _ = grid.origin_mm
    _, py, px = grid.voxel_pitch_mm
    left, right = x0 + px * area.x_start, x0 + px * (area.x_stop - 1)
    low, high = y0 + py * area.y_start, y0 + py * (area.y_stop - 1)
    corners = np.array([[left, low], [right, low], [right, high], [left, high]])
    angles = 2 * np.pi * np.arange(_CIRCLE_CORNERS) / _CIRCLE_CORNERS
    for normal in np.column_stack([np.cos(angles), np.sin(angles)]):
        corners = _clipped(corners, normal, radius_mm * (1 + 1e-9))
    # Clipping a sliver may leave nothing through rounding: the whole rectangle holds it as well.
    return corners if len(corners) else np.array([[left, low], [right, low], [right, high], [left, high]])


def _clipped(corners: Float64Array, normal: Float64Array, reach: float) -> Float64Array:
    """The part of a convex polygon where ``normal . point <= reach`` (Sutherland and Hodgman)."""
    kept: list[Float64Array] = []
    heights = corners @ normal - reach
    for index, point in enumerate(corners):
        before, height = heights[index - 1], heights[index]
        if before * height < 0:
            share = before / (before - height)
            kept.append(corners[index - 1] + share * (point - corners[index - 1]))
        if height <= 0:
            kept.append(point)
    return np.array(kept).reshape(-1, 2)
