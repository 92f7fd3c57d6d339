# SPDX-License-Identifier: Apache-2.0
"""FDK on the CPU: numba kernels and one thread pool.

``numba`` takes the fastest instruction set of the machine; ``numba-avx512``, ``numba-avx2`` and
``numba-portable`` name one.  Results are the same bytes for the same instruction set, whatever the
number of threads: threads split views (filter) and (x, y) tiles (back-projection), never a sum.
"""

from __future__ import annotations

import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.backends import upright_kernels as kernels
from reconstruction.backends.any_pose_kernel import back_project_any_pose
from reconstruction.backends.fft_kernel import plan_rows
from reconstruction.backends.filter_kernel import cosine_weights, filter_into_view, filter_rows
from reconstruction.backends.resampling_kernel import blend_frame, resample_frame
from reconstruction.backends.simd import ISA_TAGS, LANES, MAX_STEP_ROWS, host_features
from reconstruction.projection import projection_matrices
from reconstruction.virtual_views import LEAST_BLEND
from reconstruction.weighting import view_scales

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from reconstruction.bricks import Window
    from reconstruction.fdk import SlabSetup

    Float32Array = NDArray[np.float32]
    IndexArray = NDArray[np.int64]

#: Work items for each thread, so that threads end together.
_ITEMS_PER_THREAD = 8
#: Rows of a tilted panel that are weighed at a time.
_WEIGHED_ROWS = 32


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
        out = np.empty((*line_integrals.shape[:2], setup.ramp.n_out), dtype=np.float32)
        rows = _RowFilter(setup, self.isa)

        def one_view(index: int) -> None:
            rows.filter_rows(line_integrals[index], int(view_indices[index]), row_start, out[index])

        _run(threads or usable_cores(), one_view, range(len(view_indices)))
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
        """Make rows of virtual views from rows of their frames: (view)(slot)(row, col) to (view, row, col) float32."""
        out = np.empty((len(view_indices), row_stop - row_start, setup.geometry.n_cols), dtype=np.float32)

        def one_view(index: int) -> None:
            self._resample_view(setup, frames[index], int(view_indices[index]), frame_row_start, row_start, out[index])

        _run(threads or usable_cores(), one_view, range(len(view_indices)))
        return out

    def _resample_view(
        self,
        setup: SlabSetup,
        frames: Sequence[Float32Array],
        view_index: int,
        first_row: int,
        row_start: int,
        out: Float32Array,
    ) -> None:
        """Make one view from its frames."""
        virtual, tag = setup.virtual, ISA_TAGS[self.isa]
        assert virtual is not None
        present = [int(slot) for slot in np.flatnonzero(virtual.frame_indices[view_index] >= 0)]
        homographies, rows = virtual.homographies[view_index], virtual.frame_rows
        # What is read-only is copied: numba would compile the kernels once more for it.
        made = {slot: np.require(frames[slot], np.float32, ["C", "W"]) for slot in present}
        if len(present) == 1:
            slot = present[0]
            resample_frame(tag, made[slot], homographies[slot], row_start, first_row, rows, out)
            return
        weight = np.zeros_like(out)
        out[:] = 0
        for slot in present:
            blend_frame(
                tag, made[slot], homographies[slot], row_start, first_row, rows, virtual.feather_px, LEAST_BLEND, out,
                weight,
            )  # fmt: skip
        np.divide(out, weight, out=out, where=weight > 0)


def _run(threads: int, work: Callable[[int], None], items: Iterable[int]) -> None:
    """Do all items on a pool, and raise what one of them raised."""
    if threads == 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, items))


class _RowFilter:
    """What all views of a setup need to be weighted and filtered; for many threads at once."""

    def __init__(self, setup: SlabSetup, isa: str) -> None:
        self.setup, self.isa, self.tag = setup, isa, ISA_TAGS[isa]
        self.lanes = LANES[isa]
        ramp = setup.ramp
        plan = plan_rows(ramp.n_fft, ramp.response)
        self.fft = (plan.n_fft, plan.radices, plan.twiddles, plan.pairs, plan.factors)
        k = np.arange(1, ramp.n_pad + 1)
        self.fade = (np.cos(math.pi / 2 * k / (ramp.n_pad + 1)) ** 2).astype(np.float32)
        self._shared: dict[tuple[int, int], Float32Array] = {}
        self._lock = threading.Lock()
        self._workspace = threading.local()

    def into_view(
        self, rows: Float32Array, view_index: int, row_start: int, view: Float32Array, scale: np.float32
    ) -> None:
        """Filter rows (row, col) from `row_start` on into one bordered view (col, row), times `scale`."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        filter_into_view(
            self.tag, np.uintp(rows.ctypes.data), len(rows), self._weights(view_index, row_start, len(rows)),
            self._buffer(), self.fade, self.fft, view, self.setup.ramp.col_start, scale,
        )  # fmt: skip

    def filter_rows(self, rows: Float32Array, view_index: int, row_start: int, out: Float32Array) -> None:
        """Filter rows (row, col) from `row_start` on into (row, filtered col)."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        filter_rows(
            self.tag, np.uintp(rows.ctypes.data), len(rows), self._weights(view_index, row_start, len(rows)),
            self._buffer(), self.fade, self.fft, out, self.setup.ramp.col_start,
        )  # fmt: skip

    def _buffer(self) -> Float32Array:
        """Return this thread's row buffer."""
        if not hasattr(self._workspace, "buffer"):
            self._workspace.buffer = np.empty((self.fft[0], self.lanes), dtype=np.float32)
        found: Float32Array = self._workspace.buffer
        return found

    def _weights(self, view_index: int, row_start: int, n_rows: int) -> Float32Array:
        """Weights (col, row) of a view's rows, with room for a vector behind; made once where views share them."""
        if not self.setup.weights_are_shared:
            return self._make_weights(view_index, row_start, n_rows)
        with self._lock:
            if (row_start, n_rows) not in self._shared:
                self._shared[row_start, n_rows] = self._make_weights(view_index, row_start, n_rows)
            return self._shared[row_start, n_rows]

    def _make_weights(self, view_index: int, row_start: int, n_rows: int) -> Float32Array:
        """`SlabSetup.ray_weights` of one view; those of an upright panel by a kernel."""
        geometry = self.setup.geometry
        weights = np.empty((geometry.n_cols, n_rows + self.lanes), dtype=np.float32)
        pose = np.array(geometry.poses[view_index])
        if pose[9] or pose[10]:
            # A few rows at a time: a ray's angles and weights are numbers of float64, a dozen for each pixel.
            for first in range(0, n_rows, _WEIGHED_ROWS):
                stop = min(n_rows, first + _WEIGHED_ROWS)
                weights[:, first:stop] = self.setup.ray_weights(view_index, row_start + first, row_start + stop).T
            weights[:, n_rows:] = 0
            return weights
        # The redundancy of an upright panel's rays depends on the column alone.
        shares = np.asarray(self.setup.redundancy.factors(geometry, view_index, row_start, row_start + 1))
        of_columns = np.broadcast_to(shares, (1, geometry.n_cols))[0].astype(np.float64)
        cosine_weights(pose, (geometry.n_rows, geometry.n_cols), row_start, of_columns, weights)
        return weights


class NumbaAccumulator:
    """A slab as (y, x, z) float32, z fastest."""

    def __init__(self, setup: SlabSetup, isa: str, threads: int) -> None:
        self.setup, self.isa, self.threads = setup, isa, threads
        self.n_slices = -(-setup.slab.n_slices // kernels.SLICE_UNIT) * kernels.SLICE_UNIT
        self.volume = np.zeros((*setup.made_area.shape, self.n_slices), dtype=np.float32)
        self.scales = view_scales(setup.geometry)
        self.matrices = _bordered(projection_matrices(setup.geometry), setup.ramp.col_start)
        self.reference_mm = setup.geometry.sod_mm
        self.kernel = setup.kernel if self._steps_are_short() else "any_pose"
        self.factors = self._padded_factors()
        self._rows = _RowFilter(setup, isa)
        self._buffer, self._buffer_shape = np.zeros(0, dtype=np.float32), (0, 0, 0)

    def add(self, line_integrals: Sequence[Float32Array] | Float32Array, view_indices: IndexArray) -> None:
        """Weight, filter and back-project rows of `setup.band_of(views)`: (view, row, col) float32."""
        self._back_project(
            self.filtered_views(line_integrals, view_indices), view_indices, self.setup.window_of(view_indices)
        )

    def filtered_views(
        self, line_integrals: Sequence[Float32Array] | Float32Array, view_indices: IndexArray
    ) -> Float32Array:
        """Weight, filter and transpose rows of `setup.band_of(views)` to bordered views (view, col, row).

        The memory is the same for each batch.
        """
        window = self.setup.window_of(view_indices)
        views = self._bordered_views(len(view_indices), window)
        scale = self._scale_of_views(view_indices)

        def one_view(index: int) -> None:
            self._rows.into_view(
                line_integrals[index], int(view_indices[index]), window.row_start, views[index], scale[index]
            )

        _run(self.threads, one_view, range(len(view_indices)))
        return views

    def add_filtered(self, filtered: Float32Array, view_indices: IndexArray, window: Window | None = None) -> None:
        """Back-project filtered rows of the band, or of a window of it: (view, row, filtered col) float32."""
        window = window or self.setup.window_of(view_indices)
        views = self._bordered_views(len(view_indices), window)
        scale = self._scale_of_views(view_indices)

        def one_view(index: int) -> None:
            kernels.transpose_rows(filtered[index], views[index], scale[index])

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
        outside = self.setup.parameters.outside_value
        if outside:
            out[:, self._is_outside()] = outside
        return out

    def _is_outside(self) -> NDArray[np.bool_]:
        """Which voxels (y, x) of a slice lie outside the field."""
        area = self.setup.made_area
        x0, y0, _ = self.setup.grid.origin_mm
        _, py, px = self.setup.grid.voxel_pitch_mm
        x = x0 + px * np.arange(area.x_start, area.x_stop)
        y = y0 + py * np.arange(area.y_start, area.y_stop)
        return np.asarray(x[None] * x[None] + y[:, None] * y[:, None] > self.setup.radius_mm**2)

    def _bordered_views(self, n_views: int, window: Window) -> Float32Array:
        """Return a zero-bordered (view, col, row) array, the same memory for each batch of a shape."""
        shape = (n_views, window.n_cols + 2, window.n_rows + 2)
        size = int(np.prod(shape))
        if self._buffer_shape != shape:
            # Given back before the next is made: windows of a brick differ from block to block.
            self._buffer = np.zeros(0, dtype=np.float32)
            self._buffer = np.zeros(size + 2 * kernels.SPARE_FLOATS, dtype=np.float32)
            self._buffer_shape = shape
        return self._buffer[kernels.SPARE_FLOATS : kernels.SPARE_FLOATS + size].reshape(shape)

    def _padded_factors(self) -> Float32Array:
        """Return the factors (view, slice) of all views, 0 in the slices that only fill up a run; (1, 1) for none."""
        weights = self.setup.slice_weights
        if weights is None:
            return np.ones((1, 1), dtype=np.float32)
        padded = np.zeros((len(weights), self.n_slices), dtype=np.float32)
        padded[:, : weights.shape[1]] = weights
        return padded

    def _scale_of_views(self, view_indices: IndexArray) -> Float32Array:
        """Return the factor put into the filtered rows: the kernels then divide by a pure ratio."""
        return np.asarray(self.scales[view_indices] / self.reference_mm**2, dtype=np.float32)

    def _back_project(self, views: Float32Array, view_indices: IndexArray, window: Window) -> None:
        """Run the kernel that fits on all tiles."""
        ny, nx, _ = self.volume.shape
        x0, y0, z0 = self.setup.grid.origin_mm
        pz, py, px = self.setup.grid.voxel_pitch_mm
        radius2, z_start, volume, area = (
            self.setup.radius_mm**2, self.setup.slab.z_start, self.volume, self.setup.made_area
        )  # fmt: skip
        tag, weighted = ISA_TAGS[self.isa], (0,) if self.setup.slice_weights is None else (0, 0)
        factors = self.factors if self.setup.slice_weights is None else self.factors[view_indices]
        starts, spans = (z_start, area.y_start, area.x_start, window.col_start), (window.row_start, radius2)
        matrices = self.matrices[view_indices]
        grid = (x0, y0, z0, px, py, pz)
        if self.kernel == "any_pose":
            scales = np.full(len(view_indices), self.reference_mm**2)
            self._over_tiles(
                nx, ny,
                lambda a, b: back_project_any_pose(
                    tag, weighted, views, volume, matrices, scales, factors, grid, starts, spans, a, b
                ),
            )  # fmt: skip
            return
        parameters = kernels.upright_parameters(matrices, self.reference_mm, grid)
        if self.kernel == "four_fold":
            quarter = parameters[: len(parameters) // 4]
            self._over_tiles(
                nx // 2, ny // 2,
                lambda a, b: kernels.back_project_four_fold(
                    tag, views, volume, quarter, (x0, y0, px), (window.row_start, z_start, radius2), a, b
                ),
            )  # fmt: skip
            return
        groups = _groups_of_four(view_indices)
        self._over_tiles(
            nx, ny,
            lambda a, b: kernels.back_project_upright(
                tag, weighted, views, volume, parameters, groups, factors, grid[:2] + grid[3:5], starts, spans, a, b
            ),
        )  # fmt: skip

    def _steps_are_short(self) -> bool:
        """Whether every voxel step is below two detector rows, as the SIMD kernels need."""
        if self.setup.kernel == "any_pose":
            return False
        rows, depth = self.matrices[:, 1], self.matrices[:, 2]
        nearest = depth[:, 3] - self.setup.radius_mm * np.hypot(depth[:, 0], depth[:, 1])
        steps = rows[:, 2] * self.setup.grid.voxel_pitch_mm[0] / nearest
        return bool(steps.max() < MAX_STEP_ROWS)

    def _over_tiles(self, nx: int, ny: int, kernel: Callable[[int, int], None]) -> None:
        """Run a kernel over the tiles of an (y, x) area in pieces."""
        tiles = -(-nx // kernels.TILE) * -(-ny // kernels.TILE)
        step = max(1, tiles // (self.threads * _ITEMS_PER_THREAD))
        _run(self.threads, lambda first: kernel(first, min(tiles, first + step)), range(0, tiles, step))


def _bordered(matrices: NDArray[np.float64], col_start: int) -> NDArray[np.float64]:
    """Projection matrices (view, 3, 4) that count pixels in the bordered, extended panel."""
    matrices = matrices.copy()
    matrices[:, 0] += (1 - col_start) * matrices[:, 2]
    matrices[:, 1] += matrices[:, 2]
    return matrices


def _groups_of_four(view_indices: IndexArray) -> IndexArray:
    """Places in the batch of each four neighbouring views of the scan, -1 where one is not in it: (group, 4).

    A sum of four is rounded the same way whichever views of the scan a slab has no use for.
    """
    numbers, group = np.unique(view_indices // 4, return_inverse=True)
    found = np.full((len(numbers), 4), -1, dtype=np.int64)
    found[group, view_indices % 4] = np.arange(len(view_indices))
    return found
