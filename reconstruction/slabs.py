# SPDX-License-Identifier: Apache-2.0
"""Slabs: which detector rows each needs, what they weigh, and in which batches the views come."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.coverage import shadow
from reconstruction.errors import GeometryError, MemoryBudgetError, ParameterError
from reconstruction.geometry import Slab, VolumeGrid
from reconstruction.projection import projection_matrices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry

    Float64Array = NDArray[np.float64]
    IndexArray = NDArray[np.int64]

#: Slab borders fall on multiples of this (the widest SIMD step), so that a voxel's value does not
#: depend on how the volume was cut.
SLAB_ALIGNMENT = 16
_CIRCLE_POINTS = 128


@dataclass(frozen=True, slots=True)
class RowBand:
    """The detector rows ``row_start <= row < row_stop`` that a slab needs from every view."""

    row_start: int
    row_stop: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.row_stop - self.row_start


@dataclass(frozen=True, slots=True)
class SlabCost:
    """What one slab costs: rows, bytes of raw counts, voxel updates, accumulator bytes."""

    slab: Slab
    band: RowBand
    read_bytes: int
    updates: int
    volume_bytes: int


def row_band(geometry: ConeBeamGeometry, grid: VolumeGrid, slab: Slab, radius_mm: float) -> RowBand:
    """Rows that the field's part in a slab projects to in any view, cut to the panel (at least one row)."""
    part = grid.slab_grid(slab)
    low = part.origin_mm[2]
    high = low + (part.shape[0] - 1) * part.voxel_pitch_mm[0]
    _, _, first, last = shadow(geometry, radius_mm, low, high)
    start = max(0, min(geometry.n_rows - 1, math.floor(first - 1e-6)))
    stop = min(geometry.n_rows, max(start + 1, math.floor(last + 1e-6) + 2))
    return RowBand(start, stop)


def view_rows(
    geometry: ConeBeamGeometry, radius_mm: float, z_low_mm: Float64Array, z_high_mm: Float64Array
) -> IndexArray:
    """Rows that the field between two heights projects to, view by view, cut to the panel (at least one row).

    Parameters
    ----------
    geometry : ConeBeamGeometry
    radius_mm : float
    z_low_mm, z_high_mm : (view,) float64

    Returns
    -------
    (view, 2) int64
        Start and stop.
    """
    matrices = projection_matrices(geometry)
    angle = 2 * math.pi * np.arange(_CIRCLE_POINTS) / _CIRCLE_POINTS
    outside = radius_mm / math.cos(math.pi / _CIRCLE_POINTS)
    x, y = outside * np.cos(angle), outside * np.sin(angle)
    low, high = np.full(geometry.n_views, np.inf), np.full(geometry.n_views, -np.inf)
    for z in (z_low_mm, z_high_mm):
        row, depth = (
            m[:, 0:1] * x + m[:, 1:2] * y + (m[:, 2] * z + m[:, 3])[:, None] for m in (matrices[:, 1], matrices[:, 2])
        )
        if float(depth.min()) <= 0:
            raise GeometryError(
                f"a field of radius {radius_mm:.4g} mm reaches behind the source of a view: ask for a smaller field"
            )
        low, high = np.minimum(low, (row / depth).min(axis=1)), np.maximum(high, (row / depth).max(axis=1))
    start = np.clip(np.floor(low - 1e-6).astype(np.int64), 0, geometry.n_rows - 1)
    stop = np.clip(np.floor(high + 1e-6).astype(np.int64) + 2, start + 1, geometry.n_rows)
    return np.stack([start, stop], axis=1)


def cut_slabs(n_slices: int, n_slabs: int, alignment: int = SLAB_ALIGNMENT) -> tuple[Slab, ...]:
    """Cut a volume into slabs of nearly equal height on aligned borders; fewer where it is too thin."""
    if n_slabs < 1:
        raise ParameterError(f"at least one slab is needed, got {n_slabs}")
    units = math.ceil(n_slices / alignment)
    n_slabs = min(n_slabs, units)
    borders = [round(i * units / n_slabs) * alignment for i in range(n_slabs)] + [n_slices]
    return tuple(Slab(a, b) for a, b in itertools.pairwise(borders))


def slabs_of_height(n_slices: int, height: int, alignment: int = SLAB_ALIGNMENT) -> tuple[Slab, ...]:
    """Cut a volume into slabs of a given height, rounded up to the alignment; the last may be thinner."""
    if height < 1:
        raise ParameterError(f"a slab needs at least one slice, got {height}")
    step = math.ceil(height / alignment) * alignment
    return tuple(Slab(a, min(n_slices, a + step)) for a in range(0, n_slices, step))


def slab_cost(
    geometry: ConeBeamGeometry, grid: VolumeGrid, slab: Slab, radius_mm: float, *, item_bytes: int = 2
) -> SlabCost:
    """Count what a slab reads, updates and holds (per energy bin)."""
    band = row_band(geometry, grid, slab, radius_mm)
    _, ny, nx = grid.shape
    return SlabCost(
        slab=slab,
        band=band,
        read_bytes=geometry.n_views * band.n_rows * geometry.n_cols * item_bytes,
        updates=slab.n_slices * ny * nx * geometry.n_views,
        volume_bytes=slab.n_slices * ny * nx * 4,
    )


def amplification(costs: Sequence[SlabCost]) -> float:
    """Rows read by all slabs over the rows that any of them needs."""
    low, high = min(cost.band.row_start for cost in costs), max(cost.band.row_stop for cost in costs)
    return sum(cost.band.n_rows for cost in costs) / (high - low)


def quarter_turn(geometry: ConeBeamGeometry, grid: VolumeGrid) -> int | None:
    """Return by how many views a quarter turn counter-clockwise moves on; None where four-fold symmetry is missing.

    It needs a circular orbit of evenly spaced views whose number divides by four, and a square grid with even
    sides, centred on the axis.
    """
    orbit = geometry.circular_orbit
    n_views = geometry.n_views
    _, ny, nx = grid.shape
    _, py, px = grid.voxel_pitch_mm
    square = nx == ny and nx % 2 == 0 and px == py and grid.center_mm[0] == 0 and grid.center_mm[1] == 0
    if orbit is None or not square or n_views % 4:
        return None
    quarter = n_views // 4
    for step in (quarter, -quarter):
        turned = np.roll(orbit.angles_rad, -step) - orbit.angles_rad - math.pi / 2
        if np.abs(np.mod(turned + math.pi, 2 * math.pi) - math.pi).max() < 1e-6:
            return step
    return None


def view_batches(n_views: int, quarter: int | None, max_views: int) -> tuple[IndexArray, ...]:
    """Cut the views into batches of at most `max_views` (at least 4).

    With a quarter turn the batch is four equal runs of views, 90 degrees apart, one behind the other.

    Raises
    ------
    MemoryBudgetError
        If fewer than four views fit.
    """
    if max_views < min(4, n_views):
        raise MemoryBudgetError(f"a batch needs room for 4 views, got room for {max_views}")
    if quarter is None:
        step = max(4, max_views // 4 * 4)
        return tuple(np.arange(a, min(n_views, a + step)) for a in range(0, n_views, step))
    run = max_views // 4
    count = n_views // 4
    return tuple(
        np.concatenate([(np.arange(a, min(count, a + run)) + j * quarter) % n_views for j in range(4)])
        for a in range(0, count, run)
    )


def grouped_batches(views: IndexArray, max_views: int) -> tuple[IndexArray, ...]:
    """Cut some of a scan's views (ascending) into batches of at most `max_views` that split no four neighbours.

    Kernels add four neighbouring views of the scan (equal ``view // 4``) to a voxel at once; kept together, they round
    alike whichever other views a slab uses.

    Raises
    ------
    MemoryBudgetError
        If fewer than four views fit.
    """
    if max_views < min(4, views.size):
        raise MemoryBudgetError(f"a batch needs room for 4 views, got room for {max_views}")
    borders = [*(np.flatnonzero(np.diff(views // 4)) + 1).tolist(), views.size]
    batches, start, stop = [], 0, 0
    for border in borders:
        if border - start > max_views:
            batches.append(views[start:stop])
            start = stop
        stop = border
    return (*batches, views[start:])
