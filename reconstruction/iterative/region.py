# SPDX-License-Identifier: Apache-2.0
"""Which voxels and rays an iteration needs so that its numbers are right.

An iteration explains every ray by voxels.  A ray that crosses something outside the grid would be
explained by the wrong voxels: mu comes out too high.  So the grid that is iterated on (the *region*)
holds the whole field that the panel sees, whatever part of it is asked for, and reaches beyond the
slab by a halo; and only *whole* rays are used: those that enter and leave the field within the region.

The *spread* of a range of heights is what rays reach that cross it anywhere in the field.  The region is
the spread of the slab and some *guard* slices on either side, so that every ray of those is whole.  What lies
beyond is seen by fewer rays than in an iteration on the whole volume; what that changes dies away within the
guard slices, about threefold each (measured: `docs/iterative.md`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.coverage import field_radius_mm, projection_matrices
from reconstruction.errors import GeometryError
from reconstruction.geometry import Slab, VolumeGrid
from reconstruction.slabs import RowBand

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry

    Float64Array = NDArray[np.float64]

#: Widest gap between the directions in which a point is seen, in steps of the views (and at least so many degrees).
_WIDEST_GAP_STEPS = 2.5
_WIDEST_GAP_DEGREES = 10.0
#: Directions this close together count once, in mean steps.
_SAME_DIRECTION = 0.05
#: Columns of the panel at which rays are looked at where all would be too many.
_SOME_COLUMNS = 33
_SOME_VIEWS = 64


@dataclass(frozen=True)
class Region:
    """The voxels that are iterated on for one slab, and where the slab lies among them.

    Attributes
    ----------
    geometry : ConeBeamGeometry
    grid : VolumeGrid
        All voxels that are iterated on.
    radius_mm : float
        Radius of the field that is iterated on.
    slab : Slab
        The wanted slices, counted in `grid`.
    y_start, x_start : int
        First wanted voxel of a slice, counted in `grid`.
    wanted : VolumeGrid
        The wanted slab.
    wanted_radius_mm : float
        Radius beyond which the result is 0.
    """

    geometry: ConeBeamGeometry = field(repr=False)
    grid: VolumeGrid
    radius_mm: float
    slab: Slab
    y_start: int
    x_start: int
    wanted: VolumeGrid
    wanted_radius_mm: float

    @property
    def z_edges_mm(self) -> tuple[float, float]:
        """Lower and upper end of the region [mm]."""
        return _edges(self.grid)

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """(y, x) bool: voxels of the field that is iterated on."""
        return _disc(self.grid, self.radius_mm)

    @cached_property
    def band(self) -> RowBand:
        """Detector rows with a whole ray in any view."""
        low, high = self.geometry.n_rows, 0
        cols = _some_columns(self.geometry)
        for view in _distinct_views(self.geometry):
            rows = np.flatnonzero(self._whole(view, np.arange(self.geometry.n_rows), cols).any(axis=1))
            if rows.size:
                low, high = min(low, int(rows[0])), max(high, int(rows[-1]) + 1)
        if low >= high:
            raise GeometryError(
                f"no ray of the panel enters and leaves the field between {self.z_edges_mm[0]:.4g} and "
                f"{self.z_edges_mm[1]:.4g} mm: ask for slices that the panel sees"
            )
        return RowBand(low, high)

    def whole_rays(self, view_index: int, row_start: int, row_stop: int) -> NDArray[np.bool_]:
        """(row, col) bool: rays that enter and leave the field within the region."""
        whole = self._whole(view_index, np.arange(row_start, row_stop), np.arange(self.geometry.n_cols))
        for start, stop in self.geometry.column_gaps:
            whole[:, start:stop] = False
        return whole

    def _whole(self, view_index: int, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(row, col) bool: rays that enter and leave the field within the region."""
        near, far = chord_heights(self.geometry, view_index, self.radius_mm, rows, cols)
        low, high = self.z_edges_mm
        with np.errstate(invalid="ignore"):  # rays that miss the field are NaN, and not whole
            return np.asarray((np.minimum(near, far) >= low) & (np.maximum(near, far) <= high))

    def crop(self, volume: NDArray[np.float32], outside_value: float = 0.0) -> NDArray[np.float32]:
        """Cut the wanted slab out of (z, y, x) of the region, with a value beyond the wanted field; a new array."""
        nz, ny, nx = self.wanted.shape
        part = volume[self.slab.z_start : self.slab.z_start + nz, self.y_start :, self.x_start :][:, :ny, :nx]
        return np.where(_disc(self.wanted, self.wanted_radius_mm), part, np.float32(outside_value))


def make_region(
    geometry: ConeBeamGeometry,
    grid: VolumeGrid,
    slab: Slab | None = None,
    *,
    radius_mm: float | None = None,
    guard_slices: int = 12,
) -> Region:
    """Find the voxels to iterate on for a slab of a volume.

    Parameters
    ----------
    geometry : ConeBeamGeometry
        Any poses.
    grid : VolumeGrid
        The whole volume asked for.
    slab : Slab, optional
        The part of it to make; all of it if left out.
    radius_mm : float, optional
        Radius of the wanted field; the grid's own if left out.
    guard_slices : int
        Slices on either side of the slab whose rays are whole too; of a row's height at the axis where they are
        thinner.

    Raises
    ------
    GeometryError
        If the panel does not see the wanted field from enough directions.
    """
    if guard_slices < 0:
        raise GeometryError(f"the guard slices cannot be fewer than none, got {guard_slices}")
    slab = slab or Slab(0, grid.shape[0])
    wanted = grid.slab_grid(slab)
    wanted_radius = field_radius_mm(grid, radius_mm)
    check_directions(geometry, wanted, wanted_radius)
    radius = max(wanted_radius, seen_radius_mm(geometry))
    pz, py, px = grid.voxel_pitch_mm
    bottom, top = _edges(wanted)
    guard = guard_slices * max(pz, geometry.pitch_mm[0] * geometry.sod_mm / geometry.sdd_mm)
    low, high = spread(geometry, radius, bottom - guard, top + guard)
    below = max(0, math.ceil((bottom - low) / pz - 1e-6))
    above = max(0, math.ceil((high - top) / pz - 1e-6))
    cx, cy, _ = wanted.center_mm
    nz, ny, nx = wanted.shape
    left, right = _beyond(cx, nx, px, radius)
    front, back = _beyond(cy, ny, py, radius)
    shape = (nz + below + above, ny + front + back, nx + left + right)
    center = (
        cx + (right - left) / 2 * px,
        cy + (back - front) / 2 * py,
        wanted.center_mm[2] + (above - below) / 2 * pz,
    )
    return Region(
        geometry, VolumeGrid(shape, grid.voxel_pitch_mm, center), radius, Slab(below, below + nz), front, left, wanted,
        wanted_radius,
    )  # fmt: skip


def spread(geometry: ConeBeamGeometry, radius_mm: float, z_low: float, z_high: float) -> tuple[float, float]:
    """Heights that rays reach in the field which cross ``z_low <= z <= z_high`` anywhere in it [mm]."""
    low, high = math.inf, -math.inf
    rows = np.arange(geometry.n_rows)
    cols = _some_columns(geometry)
    for view in _some_views(geometry):
        near, far = chord_heights(geometry, view, radius_mm, rows, cols)
        bottom, top = np.fmin(near, far), np.fmax(near, far)
        with np.errstate(invalid="ignore"):
            crossing = (top >= z_low) & (bottom <= z_high)
        if crossing.any():
            low, high = min(low, float(bottom[crossing].min())), max(high, float(top[crossing].max()))
    # Without a ray nothing is explained there, and nothing has to be.
    return (low, high) if low < high else (z_low, z_high)


def chord_heights(
    geometry: ConeBeamGeometry, view_index: int, radius_mm: float, rows: NDArray[np.int64], cols: NDArray[np.int64]
) -> tuple[Float64Array, Float64Array]:
    """Heights z at which rays enter and leave the cylinder of the field: (row, col) [mm]; NaN for a ray that misses."""
    pose = geometry.poses[view_index]
    u = (cols - (geometry.n_cols - 1) / 2)[None, :]
    v = (rows - (geometry.n_rows - 1) / 2)[:, None]
    dx, dy, dz = (pose[3 + k] + u * pose[6 + k] + v * pose[9 + k] - pose[k] for k in range(3))
    a = dx * dx + dy * dy
    b = dx * pose[0] + dy * pose[1]
    root = b * b - a * (pose[0] ** 2 + pose[1] ** 2 - radius_mm**2)
    root = np.sqrt(np.where(root > 0, root, np.nan))
    return pose[2] + dz * (-b - root) / a, pose[2] + dz * (-b + root) / a


def seen_radius_mm(geometry: ConeBeamGeometry) -> float:
    """Radius of the widest cylinder about the axis that rays of the panel touch, on either side, in any view [mm]."""
    poses = geometry.poses
    ends = np.array([-0.5, geometry.n_cols - 0.5]) - (geometry.n_cols - 1) / 2
    way = poses[:, None, 3:5] + ends[None, :, None] * poses[:, None, 6:8] - poses[:, None, 0:2]
    distance = np.abs(way[:, :, 0] * poses[:, None, 1] - way[:, :, 1] * poses[:, None, 0])
    return float((distance / np.hypot(way[:, :, 0], way[:, :, 1])).max())


def check_directions(geometry: ConeBeamGeometry, grid: VolumeGrid, radius_mm: float) -> None:
    """Refuse a field with points that the panel does not see from all round.

    Raises
    ------
    GeometryError
        With the point and the widest gap between the directions in which it is seen.
    """
    nearest = float(np.hypot(geometry.poses[:, 0], geometry.poses[:, 1]).min())
    if radius_mm >= nearest:
        raise GeometryError(
            f"a field of radius {radius_mm:.4g} mm reaches the source, which is {nearest:.4g} mm from the axis"
        )
    angle = 2 * np.pi * np.arange(16) / 16
    points = np.zeros((17, 3))
    points[:16, 0], points[:16, 1] = radius_mm * np.cos(angle), radius_mm * np.sin(angle)
    points[:, 2] = grid.center_mm[2]
    matrices = projection_matrices(geometry)
    for point in points:
        col, row, depth = (matrices[:, :, :3] @ point + matrices[:, :, 3]).T
        col, row = col / depth, row / depth
        seen = (depth > 0) & (col >= -1.5) & (col <= geometry.n_cols + 0.5) & (row >= -1.5)
        seen &= row <= geometry.n_rows + 0.5
        gap, directions = _widest_gap_degrees(geometry.poses[seen], point)
        allowed = max(_WIDEST_GAP_DEGREES, _WIDEST_GAP_STEPS * 180.0 / directions)
        if gap > allowed:
            raise GeometryError(
                f"the point at x {point[0]:.4g}, y {point[1]:.4g}, z {point[2]:.4g} mm is seen by {int(seen.sum())} of "
                f"{geometry.n_views} views, with a gap of {gap:.0f} degrees in which no line through it is measured "
                f"(at most {allowed:.0f}): take a smaller field, or scan the missing directions"
            )


def _widest_gap_degrees(poses: Float64Array, point: Float64Array) -> tuple[float, int]:
    """Widest gap between the directions of lines through a point, seen along z, and how many differ."""
    if len(poses) == 0:
        return 180.0, 1
    way = point[:2] - poses[:, :2]
    angles = np.sort(np.mod(np.arctan2(way[:, 1], way[:, 0]), np.pi))
    gaps = np.diff(np.append(angles, angles[0] + np.pi))
    # Turns that repeat the angles of another, as those of a stack of circles do, add no direction.
    directions = int((gaps > _SAME_DIRECTION * np.pi / len(angles)).sum())
    return math.degrees(float(gaps.max())), max(1, directions)


def _beyond(center: float, count: int, pitch: float, radius: float) -> tuple[int, int]:
    """Voxels to add before and behind a side so that the field and one voxel more lie inside."""
    half = count / 2 * pitch
    reach = radius + pitch
    return (
        max(0, math.ceil((reach - half + center) / pitch - 1e-6)),
        max(0, math.ceil((reach - half - center) / pitch - 1e-6)),
    )


def _edges(grid: VolumeGrid) -> tuple[float, float]:
    """Lower and upper end of a grid along z [mm]."""
    low = grid.origin_mm[2] - grid.voxel_pitch_mm[0] / 2
    return low, low + grid.shape[0] * grid.voxel_pitch_mm[0]


def _disc(grid: VolumeGrid, radius_mm: float) -> NDArray[np.bool_]:
    """(y, x) bool: voxels whose centre lies in the field."""
    x0, y0, _ = grid.origin_mm
    _, py, px = grid.voxel_pitch_mm
    x, y = x0 + px * np.arange(grid.shape[2]), y0 + py * np.arange(grid.shape[1])
    return np.asarray(x[None, :] ** 2 + y[:, None] ** 2 <= radius_mm**2)


def _distinct_views(geometry: ConeBeamGeometry) -> range:
    """Views whose rays differ in height: one of a circular orbit."""
    return range(1 if geometry.circular_orbit is not None else geometry.n_views)


def _some_columns(geometry: ConeBeamGeometry) -> NDArray[np.int64]:
    """Columns at which the heights of rays are looked at: they change slowly along a row."""
    return np.unique(np.linspace(0, geometry.n_cols - 1, min(geometry.n_cols, _SOME_COLUMNS)).round().astype(np.int64))


def _some_views(geometry: ConeBeamGeometry) -> list[int]:
    """Views at which spreads are looked at."""
    n_views = len(_distinct_views(geometry))
    return sorted({round(v) for v in np.linspace(0, n_views - 1, min(n_views, _SOME_VIEWS))})
