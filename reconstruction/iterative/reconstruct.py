# SPDX-License-Identifier: Apache-2.0
"""Iterative reconstruction of a volume, or one slab of it, from line integrals in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction import fdk
from reconstruction.errors import GeometryError, ParameterError
from reconstruction.iterative.parameters import IterativeParameters
from reconstruction.iterative.projectors import open_pair
from reconstruction.iterative.region import make_region
from reconstruction.iterative.scale import needs_middle, scale_region, schedule_of
from reconstruction.iterative.solver import solve

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid
    from reconstruction.iterative.region import Region


@dataclass(frozen=True, slots=True)
class IterativeResult:
    """A volume and how it was come to.

    Attributes
    ----------
    volume : (z, y, x) float32
        mu [1/mm] of the slab; 0 outside the field.
    residuals : tuple of float
        Of each pass; see `reconstruction.iterative.solver.Solution`.
    tv_weight : float
        Weight of total variation in each pass [1/mm]; 0 for none.
    """

    volume: NDArray[np.float32] = field(repr=False)
    residuals: tuple[float, ...]
    tv_weight: float


def reconstruct_iterative(
    projections: NDArray[Any],
    geometry: ConeBeamGeometry,
    grid: VolumeGrid,
    parameters: IterativeParameters | None = None,
    backend: str = "numba",
    *,
    slab: Slab | None = None,
    field_radius_mm: float | None = None,
    guard_slices: int | None = None,
    threads: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> IterativeResult:
    """Reconstruct a volume, or one slab of it, by iteration.

    Parameters
    ----------
    projections : (view, row, col) float32
        Line integrals [1] of the whole panel.  Not modified.
    geometry : ConeBeamGeometry
        Any poses: arcs, shifts, tilts, helices.
    grid : VolumeGrid
        The whole volume, also when only a slab of it is made.
    parameters : IterativeParameters, optional
    backend : str
        A name in `reconstruction.iterative.projectors.PAIRS`.
    slab : Slab, optional
    field_radius_mm : float, optional
        Radius beyond which the result is 0; the grid's inscribed circle if left out.
    guard_slices : int, optional
        Slices beside the slab whose rays are whole too; by the method if left out.
    threads : int, optional
    progress : callable, optional
        Called after each pass with its number from 1, the passes in all, and the residual.

    Raises
    ------
    GeometryError
        If the panel does not see the field from enough directions, or sizes differ from the geometry's.
    ParameterError
        If the dtype is not float32.
    BackendUnavailableError
        If the back end has no projectors.
    """
    parameters = parameters or IterativeParameters()
    expected = (geometry.n_views, geometry.n_rows, geometry.n_cols)
    if projections.shape != expected:
        raise GeometryError(f"projections have the shape {projections.shape}, the geometry says {expected}")
    if projections.dtype != np.float32:
        raise ParameterError(f"projections must be float32 line integrals, got {projections.dtype}")
    guard = parameters.guard_slices if guard_slices is None else guard_slices
    region = make_region(geometry, grid, slab, radius_mm=field_radius_mm, guard_slices=guard)
    weight = 0.0
    if needs_middle(parameters):
        middle = scale_region(geometry, grid, field_radius_mm)
        schedule = schedule_of(middle, rows_of(projections, middle), parameters, backend, threads=threads)
        parameters, weight = schedule.parameters, schedule.tv_weight
    start = None
    if parameters.start == "fdk":
        chosen = fdk.FdkParameters(field_radius_mm=region.wanted_radius_mm)
        start = fdk.reconstruct(projections, geometry, region.grid, chosen, backend, threads=threads)
    pair = open_pair(backend, geometry, region.grid, region.band, threads=threads)
    solution = solve(
        pair, region, rows_of(projections, region), parameters, tv_weight=weight, start=start, progress=progress
    )
    return IterativeResult(region.crop(solution.volume), solution.residuals, weight)


def rows_of(projections: NDArray[np.float32], region: Region) -> NDArray[np.float32]:
    """(view, col, row) of a region's band, from (view, row, col) of the whole panel; a new array."""
    part = projections[:, region.band.row_start : region.band.row_stop]
    return np.ascontiguousarray(part.transpose(0, 2, 1))
