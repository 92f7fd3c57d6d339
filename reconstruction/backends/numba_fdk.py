# SPDX-License-Identifier: Apache-2.0
"""FDK on the CPU: SciPy's FFT, numba kernels, one thread pool.

``numba`` takes the fastest instruction set of the machine; ``numba-avx512``, ``numba-avx2`` and
``numba-portable`` name one.  Results are the same bytes for the same instruction set, whatever the
number of threads: threads split views (filter) and (x, y) tiles (back-projection), never a sum.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import scipy.fft

from reconstruction.backends import circular_kernels as kernels
from reconstruction.backends.any_pose_kernel import back_project_any_pose
from reconstruction.backends.simd import ISA_TAGS, MAX_STEP_ROWS, host_features
from reconstruction.errors import BackendUnavailableError
from reconstruction.projection import projection_matrices
from reconstruction.virtual_views import resample_view
from reconstruction.weighting import view_scales

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from reconstruction.bricks import Window
    from reconstruction.fdk import SlabSetup

    Float32Array = NDArray[np.float32]
    IndexArray = NDArray[np.int64]

#: Rows that one thread transforms at a time: input, spectrum and output stay in the L2 cache.
_FFT_ROWS = 64
#: Work items for each thread, so that threads end together.
_ITEMS_PER_THREAD = 8


def instruction_set(name: str) -> str:
    """Return the instruction set a back-end name stands for on this machine."""
    if name != "numba":
        return name.removeprefix("numba-")
    features = host_features()
    return next(isa for isa in ISA_TAGS if features[isa])


def missing(name: str) -> str:
    """What the named path lacks on this machine."""
    isa = instruction_set(name)
    return "" if host_features()[isa] else f"this processor has no {isa.upper()}"


def open_backend(name: str) -> NumbaFdk:
    """Return the back end under its full name (with the instruction set)."""
    return NumbaFdk(instruction_set(name))


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


class NumbaFdk:
    """FDK by numba kernels of one instruction set."""

    def __init__(self, isa: str) -> None:
        self.isa = isa
        self.name = f"numba-{isa}"

    def start(self, setup: SlabSetup, *, threads: int | None = None) -> NumbaAccumulator:
        """Begin a slab."""
        if setup.slice_weights is not None or setup.ramp.n_pad or setup.parameters.outside_value:
            raise BackendUnavailableError(
                f"back end '{self.name}' has no slice weights, truncation padding or outside value yet: "
                f"take numpy_reference"
            )
        return NumbaAccumulator(setup, self.isa, threads or usable_cores())

    def filter_rows(
        self,
        setup: SlabSetup,
        line_integrals: Float32Array,
        view_indices: IndexArray,
        *,
        row_start: int,
        threads: int | None = None,
    ) -> Float32Array:
        """Weight and filter rows: (view, row, col) to (view, row, filtered col) float32."""
        ramp = setup.ramp
        out = np.empty((*line_integrals.shape[:2], ramp.n_out), dtype=np.float32)
        columns = np.arange(ramp.col_start, ramp.col_start + ramp.n_out)

        def keep(index: int, row_at: int, rows: Float32Array) -> None:
            np.take(rows, columns, axis=1, mode="wrap", out=out[index, row_at : row_at + len(rows)])

        _filter(setup, line_integrals, view_indices, row_start, threads or usable_cores(), keep)
        return out

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
        """Make rows of virtual views from rows of their frames."""
        virtual = setup.virtual
        assert virtual is not None
        out = np.empty((len(view_indices), row_stop - row_start, setup.geometry.n_cols), dtype=np.float32)

        def one_view(index: int) -> None:
            out[index] = resample_view(
                virtual, int(view_indices[index]), frames[index], frame_row_start=frame_row_start,
                row_start=row_start, row_stop=row_stop, n_cols=setup.geometry.n_cols,
            )  # fmt: skip

        _run(threads or usable_cores(), one_view, range(len(view_indices)))
        return out


def _run(threads: int, work: Callable[[int], None], items: Iterable[int]) -> None:
    """Do all items on a pool, and raise what one of them raised."""
    if threads == 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, items))


def _filter(
    setup: SlabSetup,
    line_integrals: Sequence[Float32Array] | Float32Array,
    view_indices: IndexArray,
    row_start: int,
    threads: int,
    keep: Callable[[int, int, Float32Array], None],
) -> None:
    """Weight and filter each view in chunks of rows; `keep(index, first row, rows)` takes them away."""
    geometry, ramp = setup.geometry, setup.ramp
    n_rows = len(line_integrals[0])
    response = ramp.response.astype(np.float32)

    def weights_of(view_index: int) -> Float32Array:
        weights = np.empty((n_rows, geometry.n_cols), dtype=np.float32)
        for first in range(0, n_rows, _FFT_ROWS):
            stop = min(n_rows, first + _FFT_ROWS)
            weights[first:stop] = setup.ray_weights(view_index, row_start + first, row_start + stop)
        return weights

    shared = weights_of(0) if setup.weights_are_shared else None

    def one_view(index: int) -> None:
        weights = shared if shared is not None else weights_of(int(view_indices[index]))
        padded = np.zeros((min(n_rows, _FFT_ROWS), ramp.n_fft), dtype=np.float32)
        for first in range(0, n_rows, _FFT_ROWS):
            count = min(_FFT_ROWS, n_rows - first)
            part = slice(first, first + count)
            np.multiply(line_integrals[index][part], weights[part], out=padded[:count, : geometry.n_cols])
            spectrum = scipy.fft.rfft(padded[:count], axis=1)
            spectrum *= response
            keep(index, first, scipy.fft.irfft(spectrum, ramp.n_fft, axis=1, overwrite_x=True))

    _run(threads, one_view, range(len(view_indices)))


class NumbaAccumulator:
    """A slab as (y, x, z) float32, z fastest."""

    def __init__(self, setup: SlabSetup, isa: str, threads: int) -> None:
        self.setup, self.isa, self.threads = setup, isa, threads
        self.volume = np.zeros((*setup.made_area.shape, setup.slab.n_slices), dtype=np.float32)
        self.orbit = None if setup.force_general else setup.geometry.circular_orbit
        self.scales = view_scales(setup.geometry)
        self.matrices = projection_matrices(setup.geometry) if self.orbit is None else None
        self._buffer, self._buffer_shape = np.zeros(0, dtype=np.float32), (0, 0, 0)

    def add(self, line_integrals: Sequence[Float32Array] | Float32Array, view_indices: IndexArray) -> None:
        """Weight, filter and back-project the band's rows: (view, row, col) float32."""
        ramp = self.setup.ramp
        window = self.setup.window_of(view_indices)
        views = self._bordered_views(len(view_indices), window)
        scale = self._scale_of_views(view_indices)

        def keep(index: int, row_at: int, rows: Float32Array) -> None:
            kernels.transpose_rows(rows, views[index], ramp.col_start, row_at + 1, scale[index])

        _filter(self.setup, line_integrals, view_indices, window.row_start, self.threads, keep)
        self._back_project(views, view_indices, window)

    def add_filtered(self, filtered: Float32Array, view_indices: IndexArray, window: Window | None = None) -> None:
        """Back-project filtered rows of the band, or of a window of it: (view, row, filtered col) float32."""
        window = window or self.setup.window_of(view_indices)
        views = self._bordered_views(len(view_indices), window)
        scale = self._scale_of_views(view_indices)

        def one_view(index: int) -> None:
            kernels.transpose_rows(filtered[index], views[index], 0, 1, scale[index])

        _run(self.threads, one_view, range(len(view_indices)))
        self._back_project(views, view_indices, window)

    def read_slices(self, start: int, stop: int) -> Float32Array:
        """Slices of the slab as (z, y, x) float32."""
        ny, nx, _ = self.volume.shape
        out = np.empty((stop - start, ny, nx), dtype=np.float32)
        step = max(1, ny // (self.threads * _ITEMS_PER_THREAD))
        _run(
            self.threads,
            lambda y: kernels.transpose_slices(self.volume, out, start, y, min(ny, y + step)),
            range(0, ny, step),
        )
        return out

    def _bordered_views(self, n_views: int, window: Window) -> Float32Array:
        """Return a zero-bordered (view, col, row) array, the same memory for each batch of a shape."""
        shape = (n_views, window.n_cols + 2, window.n_rows + 2)
        size = int(np.prod(shape))
        if self._buffer_shape != shape:
            # Given back before the next is made: windows of a brick differ from block to block.
            self._buffer = np.zeros(0, dtype=np.float32)
            self._buffer = np.zeros(size + kernels.SPARE_FLOATS, dtype=np.float32)
            self._buffer_shape = shape
        return self._buffer[:size].reshape(shape)

    def _scale_of_views(self, view_indices: IndexArray) -> Float32Array:
        """Return the factor put into the filtered rows: the kernels then divide by a pure ratio."""
        if self.orbit is None:
            return np.ones(len(view_indices), dtype=np.float32)
        return (self.scales[view_indices] / self.orbit.sod_mm**2).astype(np.float32)

    def _back_project(self, views: Float32Array, view_indices: IndexArray, window: Window) -> None:
        """Run the kernel that fits on all tiles."""
        ny, nx, _ = self.volume.shape
        x0, y0, z0 = self.setup.grid.origin_mm
        pz, py, px = self.setup.grid.voxel_pitch_mm
        ramp, radius2 = self.setup.ramp, self.setup.radius_mm**2
        z_start, volume, area = self.setup.slab.z_start, self.volume, self.setup.made_area
        starts = (z_start, area.y_start, area.x_start, window.col_start)
        if self.orbit is None:
            assert self.matrices is not None
            grid = (x0, y0, z0, px, py, pz)
            matrices, scales = self._bordered_matrices(view_indices), self.scales[view_indices]
            tag = ISA_TAGS[self.isa]
            self._over_tiles(
                nx, ny,
                lambda a, b: back_project_any_pose(
                    tag, views, volume, matrices, scales, window.row_start, radius2, grid, starts, a, b
                ),
            )  # fmt: skip
            return
        o = self.orbit
        cos, sin = np.cos(o.angles_rad[view_indices]), np.sin(o.angles_rad[view_indices])
        orbit = (
            o.sod_mm, o.sdd_mm / o.pitch_u_mm, o.sdd_mm / o.pitch_v_mm, o.center_col - ramp.col_start + 1,
            o.center_row + 1, window.row_start, radius2,
        )  # fmt: skip
        grid = (x0, y0, z0 - o.z_mm, px, py, pz)
        tag = ISA_TAGS[self.isa]
        if not self._steps_are_short():
            self._over_tiles(
                nx, ny,
                lambda a, b: kernels.back_project_scalar(views, volume, cos, sin, orbit, grid, starts, a, b),
            )  # fmt: skip
        elif self.setup.quarter is not None:
            square = (x0, y0, z0 - o.z_mm, px, pz)
            self._over_tiles(
                nx // 2, ny // 2,
                lambda a, b: kernels.back_project_four_fold(tag, views, volume, cos, sin, orbit, square, z_start, a, b),
            )  # fmt: skip
        else:
            self._over_tiles(
                nx, ny,
                lambda a, b: kernels.back_project_circular(tag, views, volume, cos, sin, orbit, grid, starts, a, b),
            )  # fmt: skip

    def _bordered_matrices(self, view_indices: IndexArray) -> NDArray[np.float64]:
        """Return the projection matrices (view, 3, 4) that count pixels in the bordered, extended panel."""
        assert self.matrices is not None
        matrices = self.matrices[view_indices].copy()
        matrices[:, 0] += (1 - self.setup.ramp.col_start) * matrices[:, 2]
        matrices[:, 1] += matrices[:, 2]
        return matrices

    def _steps_are_short(self) -> bool:
        """Whether every voxel step is below two detector rows, as the SIMD kernels need."""
        assert self.orbit is not None
        nearest = self.orbit.sod_mm - self.setup.radius_mm
        step = self.orbit.sdd_mm / nearest * self.setup.grid.voxel_pitch_mm[0] / self.orbit.pitch_v_mm
        return step < MAX_STEP_ROWS

    def _over_tiles(self, nx: int, ny: int, kernel: Callable[[int, int], None]) -> None:
        """Run a kernel over the tiles of an (y, x) area in pieces."""
        tiles = -(-nx // kernels.TILE) * -(-ny // kernels.TILE)
        step = max(1, tiles // (self.threads * _ITEMS_PER_THREAD))
        _run(self.threads, lambda first: kernel(first, min(tiles, first + step)), range(0, tiles, step))
