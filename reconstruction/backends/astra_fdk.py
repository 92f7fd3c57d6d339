# SPDX-License-Identifier: Apache-2.0
"""FDK by the ASTRA toolbox (``FDK_CUDA``): a second opinion on the same GPU.

ASTRA takes all views of a slab's rows at once and filters and back-projects them in one go, so that they are
collected in memory and the work is done when slices are read.  It weights every view alike, takes the panel's middle
for the foot of the central ray, and knows cubic voxels only: whatever asks for more is refused.

The wheel is under the GPL and is not part of any extra; it is installed by who wants it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.errors import BackendUnavailableError, ParameterError
from reconstruction.exchange.astra import to_vectors
from reconstruction.filtering import FILTER_WINDOWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from reconstruction.bricks import Window
    from reconstruction.fdk import SlabSetup
    from reconstruction.geometry import ConeBeamGeometry

    Float32Array = NDArray[np.float32]
    Float64Array = NDArray[np.float64]
    IndexArray = NDArray[np.int64]

#: By how much of a step the view angles may differ from equal steps.
_STEP_TOLERANCE = 1e-3
#: How far the foot of the central ray may lie from the panel's middle column [pixel].
_MIDDLE_TOLERANCE = 1e-2


def missing(name: str) -> str:
    """What ASTRA lacks on this machine, in one sentence."""
    del name
    try:
        astra = importlib.import_module("astra")
    except ImportError as error:
        return f"the package astra-toolbox cannot be imported ({error}): install it on a machine with an NVIDIA GPU"
    if not astra.use_cuda():
        return f"astra-toolbox {astra.__version__} finds no usable NVIDIA GPU, or was built without CUDA"
    return ""


def open_backend(name: str) -> AstraFdk:
    """Return the back end."""
    return AstraFdk(name)


def refusal(setup: SlabSetup) -> str:
    """What a set-up asks for that ASTRA's FDK does not do, in one sentence; empty where it does all."""
    geometry, grid, orbit = setup.geometry, setup.grid, setup.geometry.circular_orbit
    pz, py, px = grid.voxel_pitch_mm
    reasons: list[tuple[bool, str]] = [
        (
            orbit is None or setup.virtual is not None or setup.slice_weights is not None,
            "one circular orbit with an upright panel is needed, without tilts, steps or stacks",
        ),
        (max(px, py, pz) - min(px, py, pz) > 1e-5 * px, f"voxels must be cubes, got {px:g} x {py:g} x {pz:g} mm"),
        (setup.area is not None, "it makes whole slices, not bricks: plan slabs"),
        (setup.parameters.truncation_padding > 0, "it does not continue truncated rows: set truncation_padding to 0"),
        (
            setup.redundancy.method not in ("none", "parker"),
            f"it has no weights '{setup.redundancy.method}': full turns, or short arcs with redundancy 'parker'",
        ),
        (not _steps_are_equal(geometry), "views must be equal steps apart"),
    ]
    if orbit is not None:
        beside = orbit.center_col - (geometry.n_cols - 1) / 2
        reasons.append(
            (
                abs(beside) > _MIDDLE_TOLERANCE,
                f"the central ray must meet the panel's middle column, it meets it {beside:.3g} columns beside",
            )
        )
    return next((f"ASTRA's FDK does not do this scan: {reason}" for applies, reason in reasons if applies), "")


def _steps_are_equal(geometry: ConeBeamGeometry) -> bool:
    """Whether the views are equally spaced, in the order in which they come."""
    angles = np.unwrap(geometry.source_angles_rad)
    steps = np.diff(angles)
    return len(steps) > 0 and bool(np.abs(steps - steps.mean()).max() <= _STEP_TOLERANCE * abs(steps.mean()))


def band_vectors(geometry: ConeBeamGeometry, row_start: int, row_stop: int) -> Float64Array:
    """Return ``cone_vec`` vectors of the rows ``row_start <= row < row_stop`` of each view's panel: (view, 12)."""
    vectors = to_vectors(geometry)
    middle = (row_start + row_stop - 1) / 2 - (geometry.n_rows - 1) / 2
    vectors[:, 3:6] += middle * vectors[:, 9:12]
    return vectors


def volume_limits(setup: SlabSetup) -> dict[str, float]:
    """Outer faces of the slab's voxels [mm], as ``astra.create_vol_geom`` takes them."""
    part = setup.grid.slab_grid(setup.slab)
    limits = {}
    for axis, origin, size, pitch in zip(
        "xyz", part.origin_mm, part.shape[::-1], part.voxel_pitch_mm[::-1], strict=True
    ):
        limits[f"min_{axis}"] = origin - pitch / 2
        limits[f"max_{axis}"] = origin + (size - 0.5) * pitch
    return limits


class AstraFdk:
    """FDK_CUDA of the ASTRA toolbox."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, setup: SlabSetup, *, threads: int | None = None) -> AstraAccumulator:
        """Begin a slab; `threads` is of no use here.

        Raises
        ------
        ParameterError
            If the scan or the grid is not what ASTRA's FDK takes.
        """
        del threads
        reason = refusal(setup)
        if reason:
            raise ParameterError(f"{reason}; the back ends 'cupy' and 'numba' do")
        return AstraAccumulator(setup)

    def filter_rows(
        self,
        setup: SlabSetup,
        line_integrals: Float32Array,
        view_indices: IndexArray,
        *,
        row_start: int,
        threads: int | None = None,
    ) -> Float32Array:
        """Not offered: ASTRA filters and back-projects in one go."""
        raise BackendUnavailableError(_NOT_APART)

    def resample(
        self,
        setup: SlabSetup,
        frames: Sequence[Sequence[Float32Array]],
        view_indices: IndexArray,
        *,
        frame_row_start: int,
        row_start: int,
        row_stop: int,
        threads: int | None = None,
    ) -> Float32Array:
        """Not offered: tilted and stepped panels are refused."""
        raise BackendUnavailableError("back end 'astra' takes no virtual views: use 'cupy' or 'numba'")


_NOT_APART = (
    "back end 'astra' filters and back-projects in one go and cannot store filtered rows: let slab tasks filter, or "
    "use the back end 'cupy' or 'numba'"
)


class AstraAccumulator:
    """A slab whose rows are collected until slices are asked for."""

    def __init__(self, setup: SlabSetup) -> None:
        self.setup = setup
        shape = (setup.band.n_rows, setup.geometry.n_views, setup.geometry.n_cols)
        # Axes as ASTRA wants them: (row, view, col).
        self.rows = np.zeros(shape, dtype=np.float32)
        self._came = np.zeros(setup.geometry.n_views, dtype=bool)
        self._volume: Float32Array | None = None

    def add(self, line_integrals: Sequence[Float32Array] | Float32Array, view_indices: IndexArray) -> None:
        """Collect the rows of some views: (view, row, col) float32."""
        start = self.setup.band_of(view_indices).row_start - self.setup.band.row_start
        for lines, view_index in zip(line_integrals, view_indices, strict=True):
            self.rows[start : start + len(lines), int(view_index)] = lines
            self._came[int(view_index)] = True
        self._volume = None

    def add_filtered(self, filtered: Float32Array, view_indices: IndexArray, window: Window | None = None) -> None:
        """Not offered: ASTRA filters and back-projects in one go."""
        raise BackendUnavailableError(_NOT_APART)

    def read_slices(self, start: int, stop: int) -> Float32Array:
        """Slices of the slab as (z, y, x) float32; the first call runs ASTRA."""
        if self._volume is None:
            if not self._came.all():
                raise ParameterError(
                    f"ASTRA's FDK needs all {self._came.size} views, got {int(np.count_nonzero(self._came))}"
                )
            self._volume = self._reconstruct()
        return self._volume[start:stop].copy()

    def _reconstruct(self) -> Float32Array:
        astra = importlib.import_module("astra")
        setup, parameters = self.setup, self.setup.parameters
        nz, ny, nx = setup.grid.slab_grid(setup.slab).shape
        volume = np.zeros((nz, ny, nx), dtype=np.float32)
        vectors = band_vectors(setup.geometry, setup.band.row_start, setup.band.row_stop)
        projections = astra.create_proj_geom("cone_vec", setup.band.n_rows, setup.geometry.n_cols, vectors)
        limits = volume_limits(setup)
        voxels = astra.create_vol_geom(
            ny, nx, nz, limits["min_x"], limits["max_x"], limits["min_y"], limits["max_y"], limits["min_z"],
            limits["max_z"],
        )  # fmt: skip
        assert parameters.filter_window in FILTER_WINDOWS  # ASTRA's names are the same
        rows_id = astra.data3d.link("-sino", projections, self.rows)
        volume_id = astra.data3d.link("-vol", voxels, volume)
        settings: dict[str, Any] = astra.astra_dict("FDK_CUDA")
        settings["ProjectionDataId"], settings["ReconstructionDataId"] = rows_id, volume_id
        settings["option"] = {
            "ShortScan": setup.redundancy.method == "parker",
            "FilterType": parameters.filter_window,
            "FilterD": parameters.cutoff,  # codespell:ignore FilterD
        }
        algorithm_id = astra.algorithm.create(settings)
        try:
            astra.algorithm.run(algorithm_id)
        finally:
            astra.algorithm.delete(algorithm_id)
            astra.data3d.delete([rows_id, volume_id])
        volume[:, ~_in_field(setup)] = parameters.outside_value
        return volume


def _in_field(setup: SlabSetup) -> NDArray[np.bool_]:
    """Whether a column of voxels lies in the field: (y, x)."""
    x0, y0, _ = setup.grid.origin_mm
    _, py, px = setup.grid.voxel_pitch_mm
    _, ny, nx = setup.grid.shape
    x, y = x0 + px * np.arange(nx), y0 + py * np.arange(ny)
    squares = x[None, :] ** 2 + y[:, None] ** 2
    return np.asarray(squares <= setup.radius_mm**2)
