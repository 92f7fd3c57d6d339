# SPDX-License-Identifier: Apache-2.0
"""Cone-beam FDK (Feldkamp, Davis and Kress 1984): the sequence of steps, whatever back end runs them.

line integrals -> cosine and view weights -> rows extended -> ramp -> back-projection -> mu [1/mm]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.backends import load_backend
from reconstruction.bricks import Area, Window
from reconstruction.coverage import check_reconstructable, field_radius_mm, shadow
from reconstruction.errors import GeometryError, ParameterError
from reconstruction.filtering import FILTER_WINDOWS, RampFilter, ramp_filter
from reconstruction.geometry import Slab
from reconstruction.slabs import RowBand, quarter_turn, row_band, view_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid

#: Changes whenever a kernel's arithmetic does; goes into the identity of what is made.
KERNEL_VERSION = 1


@dataclass(frozen=True, slots=True)
class FdkParameters:
    """What a user chooses about a reconstruction.

    Attributes
    ----------
    filter_window : str
        ``ram-lak``, ``shepp-logan``, ``cosine``, ``hamming`` or ``hann``.
    cutoff : float
        Share of the Nyquist frequency at which the window ends, in (0, 1].
    field_radius_mm : float or None
        Radius of the reconstructed cylinder; None takes the grid's inscribed circle.
    """

    filter_window: str = "ram-lak"
    cutoff: float = 1.0
    field_radius_mm: float | None = None

    def __post_init__(self) -> None:
        if self.filter_window not in FILTER_WINDOWS:
            raise ParameterError(
                f"unknown filter window '{self.filter_window}': expected one of {', '.join(FILTER_WINDOWS)}"
            )
        if not 0 < self.cutoff <= 1:
            raise ParameterError(
                f"the filter's cut-off is a share of the Nyquist frequency in (0, 1], got {self.cutoff}"
            )
        if self.field_radius_mm is not None and not self.field_radius_mm > 0:
            raise ParameterError(f"the field's radius must be positive, got {self.field_radius_mm} mm")


@dataclass(frozen=True, slots=True)
class SlabSetup:
    """One slab's share of a reconstruction, decided before any pixel is read.

    Attributes
    ----------
    geometry, grid, parameters : as given
    slab : the slices to make
    band : the detector rows that come in
    radius_mm : the field's radius
    ramp : the filter
    quarter : views in a quarter turn counter-clockwise where the four-fold kernel is to run, else None
    force_general : use the kernel for any pose even on a circular orbit
    area : the part of each slice to make (a brick); None for all of it
    """

    geometry: ConeBeamGeometry
    grid: VolumeGrid
    parameters: FdkParameters
    slab: Slab
    band: RowBand
    radius_mm: float
    ramp: RampFilter
    quarter: int | None
    force_general: bool = False
    area: Area | None = None

    @property
    def made_area(self) -> Area:
        """The part of each slice that is made."""
        _, ny, nx = self.grid.shape
        return self.area or Area(0, ny, 0, nx)

    @property
    def window(self) -> Window:
        """The filtered values that come in where nothing else is said: the whole row band."""
        return Window(self.band.row_start, self.band.row_stop, 0, self.ramp.n_out)


def prepare(
    geometry: ConeBeamGeometry,
    grid: VolumeGrid,
    parameters: FdkParameters,
    slab: Slab | None = None,
    *,
    four_fold: bool = True,
    force_general: bool = False,
    area: Area | None = None,
) -> SlabSetup:
    """Check that the scan can be reconstructed on the grid, and set up one slab or brick of it (default: all).

    Raises
    ------
    GeometryError
        If the arc or the panel does not cover the field.
    """
    radius = field_radius_mm(grid, parameters.field_radius_mm)
    check_reconstructable(geometry, grid, radius)
    slab = slab or Slab(0, grid.shape[0])
    z_low = grid.origin_mm[2]
    z_high = z_low + (grid.shape[0] - 1) * grid.voxel_pitch_mm[0]
    first, last, _, _ = shadow(geometry, radius, z_low, z_high)
    ramp = ramp_filter(
        window=parameters.filter_window,
        cutoff=parameters.cutoff,
        n_cols=geometry.n_cols,
        pitch_mm=geometry.pitch_mm[1],
        shadow_cols=(first, last),
    )
    quarter = quarter_turn(geometry, grid) if four_fold and not force_general and area is None else None
    band = row_band(geometry, grid, slab, radius)
    return SlabSetup(geometry, grid, parameters, slab, band, radius, ramp, quarter, force_general, area)


def reconstruct(
    projections: NDArray[Any],
    geometry: ConeBeamGeometry,
    grid: VolumeGrid,
    parameters: FdkParameters | None = None,
    backend: str = "numba",
    *,
    slab: Slab | None = None,
    threads: int | None = None,
    batch_views: int = 128,
    four_fold: bool = True,
    force_general: bool = False,
) -> NDArray[np.float32]:
    """Reconstruct a volume, or one slab of it, from line integrals in memory.

    Parameters
    ----------
    projections : (view, row, col) float32
        Line integrals [1] of the whole panel.  Not modified.
    geometry : ConeBeamGeometry
    grid : VolumeGrid
        The whole volume, also when only a slab of it is made.
    parameters : FdkParameters, optional
    backend : str
        A name in `reconstruction.backends.BACKENDS`.
    slab : Slab, optional
    threads : int, optional
        Default: the cores this process may use.
    batch_views : int
        Views that are filtered together; bounds the memory.
    four_fold, force_general : bool
        Switch the four-fold kernel off, or the kernel for any pose on: for comparisons.

    Returns
    -------
    (z, y, x) float32
        Linear attenuation mu [1/mm]; 0 outside the field.

    Raises
    ------
    GeometryError
        If arc or panel do not cover the field, or sizes differ from the geometry's.
    ParameterError
        If the dtype is not float32.
    BackendUnavailableError
        If the back end is unknown or lacks something here.
    """
    expected = (geometry.n_views, geometry.n_rows, geometry.n_cols)
    if projections.shape != expected:
        raise GeometryError(f"projections have the shape {projections.shape}, the geometry says {expected}")
    if projections.dtype != np.float32:
        raise ParameterError(f"projections must be float32 line integrals, got {projections.dtype}")
    setup = prepare(
        geometry, grid, parameters or FdkParameters(), slab, four_fold=four_fold, force_general=force_general
    )
    accumulator = load_backend(backend).start(setup, threads=threads)
    for view_indices in view_batches(geometry.n_views, setup.quarter, batch_views):
        rows = [projections[view, setup.band.row_start : setup.band.row_stop] for view in view_indices]
        accumulator.add(rows, view_indices)
    return accumulator.read_slices(0, setup.slab.n_slices)
