# SPDX-License-Identifier: Apache-2.0
"""Cone-beam FDK (Feldkamp, Davis and Kress 1984): the sequence of steps, whatever back end runs them.

line integrals -> cosine and view weights -> rows extended -> ramp -> back-projection -> mu [1/mm]
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.backends import load_backend
from reconstruction.bricks import Area, Window
from reconstruction.coverage import check_reconstructable, field_radius_mm, shadow
from reconstruction.errors import GeometryError, ParameterError
from reconstruction.filtering import FILTER_WINDOWS, RampFilter, ramp_filter
from reconstruction.geometry import Slab
from reconstruction.orbits import find_orbits
from reconstruction.rectify import is_upright, virtual_views
from reconstruction.redundancy import REDUNDANCIES, find_redundancy
from reconstruction.reporting import describe
from reconstruction.slabs import RowBand, grouped_batches, quarter_turn, row_band, view_batches, view_rows
from reconstruction.slice_weights import slice_weights
from reconstruction.weighting import cosine_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
    from reconstruction.redundancy import Redundancy
    from reconstruction.virtual_views import VirtualViews

    IndexArray = NDArray[np.int64]

#: Changes whenever a kernel's arithmetic does; goes into the identity of what is made.
KERNEL_VERSION = 3
TILTED: tuple[str, ...] = ("rectify", "general")


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
    redundancy : str
        How rays that are measured more than once share: ``auto`` (Noo et al. 2002, any orbit), ``parker`` (1982,
        short arcs), ``wang`` (2002, offset panels) or ``none`` (every ray counts fully).
    outside_value : float
        mu of voxels outside the field [1/mm].
    truncation_padding : float
        Share of the panel's width by which rows are continued smoothly on each side, for objects wider than the
        panel (Ohnesorge et al. 2000); 0 takes the rows as zero beside the panel.
    tilted : str
        Tilted panels: ``rectify`` resamples them upright, ``general`` takes the kernel for any pose.
    """

    filter_window: str = "ram-lak"
    cutoff: float = 1.0
    field_radius_mm: float | None = None
    redundancy: str = "auto"
    outside_value: float = 0.0
    truncation_padding: float = 0.0
    tilted: str = "rectify"

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
        for name, value, known in (("redundancy", self.redundancy, REDUNDANCIES), ("tilted", self.tilted, TILTED)):
            if value not in known:
                raise ParameterError(f"unknown value '{value}' of {name}: expected one of {', '.join(known)}")
        if not math.isfinite(self.outside_value):
            raise ParameterError(f"the value outside the field must be finite, got {self.outside_value}")
        if not 0 <= self.truncation_padding <= 1:
            raise ParameterError(
                f"the truncation padding is a share of the panel's width in [0, 1], got {self.truncation_padding}"
            )


@dataclass(frozen=True, slots=True)
class SlabSetup:
    """One slab's share of a reconstruction, decided before any pixel is read.

    Attributes
    ----------
    geometry : of the views, which are the frames themselves unless `virtual` says otherwise
    grid, parameters : as given
    slab : the slices to make
    band : the rows that come in, over all views that the slab uses
    radius_mm : the field's radius
    ramp : the filter
    quarter : views in a quarter turn counter-clockwise where the four-fold kernel is to run, else None
    force_general : use the kernel for any pose even on a circular orbit
    area : the part of each slice to make (a brick); None for all of it
    kernel : ``four_fold``, ``upright`` or ``any_pose``
    virtual : how the views come from frames; None where they are the frames
    views : (view,) int64, the views that the slab uses, ascending
    slice_weights : (view of the geometry, slice of the slab) float32, or None where all are 1
    redundancy : how rays that are measured more than once share
    view_rows : (view of the geometry, 2) int64, first row and the one after the last of each view; None where all
        views need the whole band
    """

    geometry: ConeBeamGeometry
    grid: VolumeGrid
    parameters: FdkParameters
    slab: Slab
    band: RowBand
    radius_mm: float
    ramp: RampFilter
    quarter: int | None
    force_general: bool
    area: Area | None
    kernel: str
    virtual: VirtualViews | None
    views: IndexArray
    slice_weights: NDArray[np.float32] | None
    redundancy: Redundancy
    view_rows: IndexArray | None

    @property
    def weights_are_shared(self) -> bool:
        """Whether `ray_weights` are the same for all views."""
        return self.geometry.circular_orbit is not None and self.redundancy.same_for_all_angles

    def ray_weights(self, view_index: int, row_start: int, row_stop: int) -> NDArray[np.float64]:
        """Return the factors of a view's rays before the ramp, cosine times redundancy: (row, col) float64."""
        cosine = cosine_weights(self.geometry, view_index, row_start, row_stop)
        return cosine * self.redundancy.factors(self.geometry, view_index, row_start, row_stop)

    def band_of(self, view_indices: IndexArray) -> RowBand:
        """Rows that come in for a batch of views: `SlabAccumulator.add` takes them."""
        if self.view_rows is None:
            return self.band
        rows = self.view_rows[view_indices]
        return RowBand(int(rows[:, 0].min()), int(rows[:, 1].max()))

    def window_of(self, view_indices: IndexArray) -> Window:
        """The filtered values that come in for a batch of views where nothing else is said."""
        band = self.band_of(view_indices)
        return Window(band.row_start, band.row_stop, 0, self.ramp.n_out)

    def batches(self, max_views: int) -> tuple[IndexArray, ...]:
        """Cut the slab's views into batches of at most `max_views`, in the order in which they are added."""
        if self.quarter is None:
            return grouped_batches(self.views, max_views)
        return view_batches(self.views.size, self.quarter, max_views)

    def describes(self) -> tuple[str, ...]:
        """Say how the scan is reconstructed, in plain sentences for people and reports."""
        return describe(self.geometry, self.redundancy, self.virtual, self.kernel)

    @property
    def made_area(self) -> Area:
        """The part of each slice that is made."""
        _, ny, nx = self.grid.shape
        return self.area or Area(0, ny, 0, nx)

    @property
    def window(self) -> Window:
        """The filtered values of the whole row band."""
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

    Parameters
    ----------
    geometry : ConeBeamGeometry
        Of the frames.
    grid, parameters, slab, area
        What to make of them.
    four_fold, force_general : bool
        Switch the four-fold kernel off, or the kernel for any pose on: for comparisons.

    Raises
    ------
    GeometryError
        If a line through the field is measured by no view, or a slice between turns is not seen.
    ParameterError
        If weights asked for by name do not apply to the scan.
    """
    radius = field_radius_mm(grid, parameters.field_radius_mm)
    rectify = parameters.tilted == "rectify" and not force_general
    made = virtual_views(geometry, rectify=rectify)
    virtual = None if made is None else made[1]
    geometry = geometry if made is None else made[0]
    check_reconstructable(geometry, grid, radius)
    orbits = find_orbits(geometry)
    nearest = float(np.hypot(geometry.poses[:, 0], geometry.poses[:, 1]).min())
    redundancy = find_redundancy(orbits, parameters.redundancy, math.asin(min(1.0, radius / nearest)))
    slab = slab or Slab(0, grid.shape[0])
    heights = np.asarray(grid.origin_mm[2] + np.arange(grid.shape[0]) * grid.voxel_pitch_mm[0], dtype=np.float64)
    first, last, _, _ = shadow(geometry, radius, float(heights[0]), float(heights[-1]))
    ramp = ramp_filter(
        window=parameters.filter_window,
        cutoff=parameters.cutoff,
        n_cols=geometry.n_cols,
        pitch_mm=geometry.pitch_mm[1],
        shadow_cols=(first, last),
        n_pad=round(parameters.truncation_padding * geometry.n_cols),
    )
    shares = slice_weights(geometry, orbits, radius, heights[slab.z_start : slab.z_stop])
    plain = shares is None and area is None and not force_general and four_fold
    quarter = quarter_turn(geometry, grid) if plain else None
    band, rows, views = _rows_and_views(geometry, grid, slab, radius, shares)
    return SlabSetup(
        geometry=geometry,
        grid=grid,
        parameters=parameters,
        slab=slab,
        band=band,
        radius_mm=radius,
        ramp=ramp,
        quarter=quarter,
        force_general=force_general,
        area=area,
        kernel=_kernel(geometry, quarter, force_general=force_general),
        virtual=virtual,
        views=views,
        slice_weights=shares,
        redundancy=redundancy,
        view_rows=rows,
    )


def slab_of(whole: SlabSetup, slab: Slab) -> SlabSetup:
    """Cut one slab out of the set-up of a whole volume: what `prepare` would make of it, without its checks."""
    shares = None if whole.slice_weights is None else whole.slice_weights[:, slab.z_start : slab.z_stop]
    band, rows, views = _rows_and_views(whole.geometry, whole.grid, slab, whole.radius_mm, shares)
    return replace(whole, slab=slab, band=band, slice_weights=shares, view_rows=rows, views=views)


def _kernel(geometry: ConeBeamGeometry, quarter: int | None, *, force_general: bool) -> str:
    """Name of the back-projection kernel that fits."""
    if force_general or not is_upright(geometry):
        return "any_pose"
    return "upright" if quarter is None else "four_fold"


def _rows_and_views(
    geometry: ConeBeamGeometry, grid: VolumeGrid, slab: Slab, radius_mm: float, shares: NDArray[np.float32] | None
) -> tuple[RowBand, IndexArray | None, IndexArray]:
    """Rows of the whole slab, those of each view where they differ, and the views that the slab uses."""
    every = np.arange(geometry.n_views)
    if shares is None and geometry.circular_orbit is not None:
        return row_band(geometry, grid, slab, radius_mm), None, every
    low = grid.origin_mm[2] + grid.voxel_pitch_mm[0] * slab.z_start
    heights = low + grid.voxel_pitch_mm[0] * np.arange(slab.n_slices)
    used = np.ones((geometry.n_views, slab.n_slices), dtype=bool) if shares is None else shares > 0
    views = np.flatnonzero(used.any(axis=1))
    lowest = heights[np.argmax(used, axis=1)]
    highest = heights[slab.n_slices - 1 - np.argmax(used[:, ::-1], axis=1)]
    rows = view_rows(geometry, radius_mm, lowest, highest)
    return RowBand(int(rows[views, 0].min()), int(rows[views, 1].max())), rows, views


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
        Line integrals [1] of the whole frames.  Not modified.
    geometry : ConeBeamGeometry
        Of the frames.
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
        Linear attenuation mu [1/mm]; the parameters' value outside the field.

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
    return reconstruct_prepared(projections, setup, backend, threads=threads, batch_views=batch_views)


def reconstruct_prepared(
    projections: NDArray[np.float32],
    setup: SlabSetup,
    backend: str = "numba",
    *,
    first_row: int = 0,
    threads: int | None = None,
    batch_views: int = 128,
) -> NDArray[np.float32]:
    """Reconstruct a slab that is set up already, from line integrals in memory.

    Parameters
    ----------
    projections : (view, row, col) float32
        Line integrals [1] of the rows of the frames that the slab needs, or of more.  Not modified.
    setup : SlabSetup
        Of the whole frames: orbit and field are judged by all rows, whichever are in memory.
    backend : str
        A name in `reconstruction.backends.BACKENDS`.
    first_row : int
        Row of the frames that the first row of `projections` is.
    threads, batch_views : int
        As for `reconstruct`.

    Returns
    -------
    (z, y, x) float32
        Linear attenuation mu [1/mm]; the parameters' value outside the field.

    Raises
    ------
    BackendUnavailableError
        If the back end is unknown or lacks something here.
    """
    engine = load_backend(backend)
    accumulator = engine.start(setup, threads=threads)
    for view_indices in setup.batches(batch_views):
        band = setup.band_of(view_indices)
        if setup.virtual is None:
            rows = [projections[view, band.row_start - first_row : band.row_stop - first_row] for view in view_indices]
            accumulator.add(rows, view_indices)
            continue
        start, stop = setup.virtual.rows_of_frames(view_indices, band.row_start, band.row_stop, setup.geometry.n_cols)
        frames = [
            [projections[f, start - first_row : stop - first_row] for f in setup.virtual.frame_indices[view]]
            for view in view_indices
        ]
        accumulator.add(
            engine.resample(
                setup, frames, view_indices, frame_row_start=start, row_start=band.row_start, row_stop=band.row_stop,
                threads=threads,
            ),
            view_indices,
        )  # fmt: skip
    return accumulator.read_slices(0, setup.slab.n_slices)
