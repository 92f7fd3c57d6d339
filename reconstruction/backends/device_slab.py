# SPDX-License-Identifier: Apache-2.0
"""A slab on a device: batches, two slots of buffers, the order of copies and kernels.

While the device works on one batch, the next one's rows are copied into page-locked memory and onto the device: each
slot has its buffers, and events order two streams.  Slices come back the same way.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.backends import launches
from reconstruction.backends.device_filter import RowFilter, upload_new, weight_values, write_weights
from reconstruction.backends.device_memory import MOST_VIEWS, views_that_fit
from reconstruction.backends.device_sizes import SlabSizes
from reconstruction.coverage import projection_matrices
from reconstruction.weighting import view_scales

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from reconstruction.backends.launches import Buffer, Device, LayeredTexture
    from reconstruction.bricks import Window
    from reconstruction.fdk import SlabSetup

    Float32Array = NDArray[np.float32]
    IndexArray = NDArray[np.int64]

VARIANTS = ("linear", "layered")
#: Views on which the variants are timed.
_TIMED_VIEWS = 16
#: Limits of a layered texture.
_MOST_LAYERS, _MOST_TEXELS = 2048, 32768


class _Slot:
    """One batch's way onto the device: page-locked memory, its copy, and when they are free again."""

    def __init__(self, device: Device, sizes: dict[str, int]) -> None:
        self.pinned = {name: device.pinned(size) for name, size in sizes.items()}
        self.buffers = {name: device.allocate(size) for name, size in sizes.items()}
        self.used: Any = None

    def host(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """The page-locked memory as an array."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.pinned[name][:size].view(dtype).reshape(shape)


class DeviceAccumulator:
    """A slab as (y, x, z) float32 on a device."""

    def __init__(
        self,
        device: Device,
        setup: SlabSetup,
        *,
        half: bool,
        variant: str | None,
        chosen: dict[str, str],
        chunk_values: int,
    ) -> None:
        self.device, self.setup, self.half, self.chunk_values = device, setup, half, chunk_values
        self._variant, self._chosen = variant, chosen
        self.sizes = SlabSizes(setup, half, variant != "linear")
        self._compute, self._copy = device.new_stream(), device.new_stream()
        self.batch_views = self._plan()
        self._volume_bytes = self.sizes.volume_bytes
        self._volume = device.allocate(self._volume_bytes)
        device.clear(self._volume, self._volume_bytes, self._compute)
        matrices = projection_matrices(setup.geometry).copy()
        # Pixels are counted in the filtered panel with its border.
        matrices[:, 0] += (1 - setup.ramp.col_start) * matrices[:, 2]
        matrices[:, 1] += matrices[:, 2]
        self._matrices = upload_new(device, matrices, self._compute)
        self._scales = upload_new(device, view_scales(setup.geometry), self._compute)
        self._slots = [_Slot(device, self.sizes.slot_bytes(self.batch_views)) for _ in range(2)]
        self._turn = 0
        self._views = device.allocate(self.batch_views * self.sizes.columns_bytes)
        self._storage_scales = device.allocate(4 * self.batch_views)
        self._shape = (0, 0)
        self._texture: LayeredTexture | None = None
        self._filter: RowFilter | None = None
        self._empty = True

    # Sizes ------------------------------------------------------------------------------------------------------

    def _plan(self) -> int:
        """Views of a batch that fit beside the slab."""
        device = self.device
        cost = self.sizes.cost(device.row_transform_bytes, self.chunk_values)
        fits = views_that_fit(cost, device.free_bytes(), device.name)
        return min(MOST_VIEWS, fits, _MOST_LAYERS, max(1, len(self.setup.views)))

    # In ---------------------------------------------------------------------------------------------------------

    def add(self, line_integrals: Sequence[Float32Array] | Float32Array, view_indices: IndexArray) -> None:
        """Weight, filter and back-project the rows of `setup.band_of(view_indices)`: (view, row, col) float32."""
        setup = self.setup
        band, window = setup.band_of(view_indices), setup.window_of(view_indices)
        n_weights = weight_values(setup, band.n_rows)
        if self._filter is None:
            rows = (setup.band.row_start, setup.band.row_stop)
            self._filter = RowFilter(self.device, setup, rows, self._compute, self.chunk_values)
        row_filter = self._filter
        for part in self._batches(view_indices):
            with self._slot() as slot:
                n_views = len(part)
                shape = (n_views, band.n_rows, setup.geometry.n_cols)
                self._send(slot, "rows", [line_integrals[int(i)] for i in part], shape)
                weights = None
                if n_weights:
                    table = slot.host("weights", (n_views, n_weights), np.float32)
                    write_weights(setup, view_indices[part], band.row_start, band.row_stop, table)
                    weights = self._upload(slot, "weights", table)
                self._send_parameters(slot, view_indices[part])
                self.device.wait(self._compute, self.device.record(self._copy))
                lines = slot.buffers["rows"]
                # The ramp's taps sum to 1/2 per pixel pitch; weights and continued rows double a value at most.
                gain = (2.0 if setup.ramp.n_pad else 1.0) / setup.geometry.pitch_mm[1]
                self._scale(lines, n_views, band.n_rows * setup.geometry.n_cols, gain)
                self._make_room(window)
                row_filter.run(
                    lines, weights, slot.buffers["indices"], (n_views, band.n_rows), band.row_start,
                    lambda first, count, chunk: self._transpose(
                        chunk, first, count, window, setup.ramp.n_fft, setup.ramp.col_start
                    ),
                )  # fmt: skip
                self._back_project(slot, n_views, window)

    def add_filtered(self, filtered: Float32Array, view_indices: IndexArray, window: Window | None = None) -> None:
        """Back-project filtered rows of `setup.band_of(view_indices)`, or of a window of them."""
        window = window or self.setup.window_of(view_indices)
        size = window.n_rows * window.n_cols
        for part in self._batches(view_indices):
            with self._slot() as slot:
                n_views = len(part)
                shape = (n_views, window.n_rows, window.n_cols)
                self._send(slot, "rows", [filtered[int(i)] for i in part], shape)
                self._send_parameters(slot, view_indices[part])
                self.device.wait(self._compute, self.device.record(self._copy))
                rows = slot.buffers["rows"]
                self._scale(rows, n_views, size, 1.0)
                self._make_room(window)
                self._transpose(rows, 0, n_views * window.n_rows, window, window.n_cols, 0)
                self._back_project(slot, n_views, window)

    def _batches(self, view_indices: IndexArray) -> list[IndexArray]:
        """Positions of the views in batches; the same order of views whatever the batches that come in."""
        order = np.arange(len(view_indices))
        if self.setup.quarter is not None and len(order) % 4 == 0:
            # Four runs a quarter turn apart: one view of each in turn, whatever the runs' length.
            order = order.reshape(4, -1).T.ravel()
        return [order[first : first + self.batch_views] for first in range(0, len(order), self.batch_views)]

    @contextlib.contextmanager
    def _slot(self) -> Iterator[_Slot]:
        """The next slot, once the device has done with it; free again when all work given here is done."""
        slot = self._slots[self._turn]
        self._turn = 1 - self._turn
        if slot.used is not None:
            self.device.finish(slot.used)
        yield slot
        slot.used = self.device.record(self._compute)

    def _upload(self, slot: _Slot, name: str, source: NDArray[Any]) -> Buffer:
        self.device.upload(slot.buffers[name], source, self._copy)
        return slot.buffers[name]

    def _send(self, slot: _Slot, name: str, arrays: Sequence[Float32Array], shape: tuple[int, ...]) -> None:
        """Copy arrays into page-locked memory, and on from there."""
        target = slot.host(name, shape, np.float32)
        for index, array in enumerate(arrays):
            target[index] = array
        self._upload(slot, name, target)

    def _send_parameters(self, slot: _Slot, view_indices: IndexArray) -> None:
        indices = slot.host("indices", (len(view_indices),), np.int32)
        indices[:] = view_indices
        self._upload(slot, "indices", indices)
        if self.setup.slice_weights is not None:
            shares = slot.host("slice_weights", (len(view_indices), self.setup.slab.n_slices), np.float32)
            shares[:] = self.setup.slice_weights[view_indices]
            self._upload(slot, "slice_weights", shares)

    # Kernels ----------------------------------------------------------------------------------------------------

    def _scale(self, values: Buffer, n_views: int, n_values: int, gain: float) -> None:
        """Find the views' scales, where they are stored as float16."""
        if self.half:
            scales = self._storage_scales.address
            call = launches.scale_views(
                values=values.address, scales=scales, n_values=n_values, gain=gain, n_views=n_views
            )
            self.device.launch(call, self._compute)

    def _make_room(self, window: Window) -> None:
        """Bring zeros into the borders when the shape of the columns changes."""
        shape = (window.n_cols + 2, window.n_rows + 2)
        if shape != self._shape:
            n_bytes = self.batch_views * shape[0] * shape[1] * self.sizes.item_bytes
            self.device.clear(self._views, n_bytes, self._compute)
            if self._texture is not None:
                # A texture is of one shape; what reads it must be done before it goes.
                self.device.finish(self.device.record(self._compute))
                self._texture = None
            self._shape = shape

    def _transpose(self, rows: Buffer, first: int, count: int, window: Window, period: int, col_start: int) -> None:
        """Turn filtered rows into bordered columns."""
        call = launches.transpose_rows(
            rows=rows.address, views=self._views.address, scales=self._storage_scales.address, first_row=first,
            n_chunk_rows=count, n_rows=window.n_rows, period=period, col_start=col_start, n_cols=window.n_cols,
            half=int(self.half),
        )  # fmt: skip
        self.device.launch(call, self._compute)

    def _back_project(self, slot: _Slot, n_views: int, window: Window) -> None:
        """Add the views of a slot, by the variant that was named or is faster."""
        shape_of_views = "any_pose" if self.setup.kernel == "any_pose" else "upright"
        variant = self._variant or self._chosen.get(shape_of_views)
        if variant is None:
            variant = "linear"
            if self.device.measures and max(self._shape) <= _MOST_TEXELS:
                # Only on an empty slab: what the trials add is cleared again.
                if self._empty:
                    variant = self._faster_variant(shape_of_views, slot, min(n_views, _TIMED_VIEWS), window)
                    self._chosen[shape_of_views] = variant
        self._run(variant, shape_of_views, slot, n_views, window)
        self._empty = False

    def _faster_variant(self, shape_of_views: str, slot: _Slot, n_views: int, window: Window) -> str:
        """Time the variants on a few views, each once cold and once warm."""
        device, times = self.device, {}
        for variant in VARIANTS:
            for _ in range(2):
                start = device.record(self._compute)
                self._run(variant, shape_of_views, slot, n_views, window)
                end = device.record(self._compute)
                device.finish(end)
                times[variant] = device.elapsed_ms(start, end)
        device.clear(self._volume, self._volume_bytes, self._compute)
        return min(times, key=lambda variant: times[variant])

    def _run(self, variant: str, shape_of_views: str, slot: _Slot, n_views: int, window: Window) -> None:
        n_cols, n_rows = self._shape
        storage = "float16" if self.half else "float32"
        kernel = f"{shape_of_views}_layered" if variant == "layered" else f"{shape_of_views}_linear_{storage}"
        texture = 0
        if variant == "layered":
            if self._texture is None:
                self._texture = self.device.layered_texture(self.batch_views, n_cols, n_rows, self.sizes.item_bytes)
            self._texture.fill(self._views, n_views, self._compute)
            texture = self._texture.handle
        grid, area, slab = self.setup.grid, self.setup.made_area, self.setup.slab
        ny, nx = area.shape
        shares = slot.buffers["slice_weights"].address if self.setup.slice_weights is not None else 0
        call = launches.back_project(
            kernel,
            views=self._views.address, texture=texture, matrices=self._matrices.address,
            view_scales=self._scales.address, view_indices=slot.buffers["indices"].address,
            storage_scales=self._storage_scales.address if self.half else 0, slice_weights=shares,
            volume=self._volume.address, origin=grid.origin_mm, pitch=grid.voxel_pitch_mm[::-1],
            radius2=self.setup.radius_mm**2, start=(area.x_start, area.y_start, slab.z_start),
            shape=(nx, ny, slab.n_slices), n_views=n_views, n_cols=n_cols, n_rows=n_rows,
            col_offset=window.col_start, row_offset=window.row_start,
        )  # fmt: skip
        self.device.launch(call, self._compute)

    # Out --------------------------------------------------------------------------------------------------------

    def read_slices(self, start: int, stop: int) -> Float32Array:
        """Slices of the slab as (z, y, x) float32."""
        device, (ny, nx) = self.device, self.setup.made_area.shape
        out = np.empty((stop - start, ny, nx), dtype=np.float32)
        step = self.sizes.slices_at_once
        n_bytes = 4 * ny * nx * step
        buffers = [device.allocate(n_bytes) for _ in range(2)]
        pinned = [device.pinned(n_bytes).view(np.float32) for _ in range(2)]
        under_way: tuple[Any, slice, Float32Array] | None = None
        for turn, first in enumerate(range(start, stop, step)):
            count = min(step, stop - first)
            device.launch(self._take(buffers[turn % 2], first, count), self._compute)
            device.wait(self._copy, device.record(self._compute))
            target = pinned[turn % 2][: count * ny * nx].reshape(count, ny, nx)
            device.download(target, buffers[turn % 2], self._copy)
            before, under_way = (
                under_way,
                (device.record(self._copy), slice(first - start, first - start + count), target),
            )
            if before is not None:
                device.finish(before[0])
                out[before[1]] = before[2]
        if under_way is not None:
            device.finish(under_way[0])
            out[under_way[1]] = under_way[2]
        return out

    def _take(self, target: Buffer, first: int, count: int) -> launches.Launch:
        """Slices of the slab, turned to (z, y, x)."""
        grid, area = self.setup.grid, self.setup.made_area
        ny, nx = area.shape
        return launches.take_slices(
            volume=self._volume.address, slices=target.address, origin=grid.origin_mm[:2],
            pitch=grid.voxel_pitch_mm[:0:-1], radius2=self.setup.radius_mm**2,
            outside=self.setup.parameters.outside_value, start=(area.x_start, area.y_start), z_start=first,
            n_slices=count, ny=ny, nx=nx, nz=self.setup.slab.n_slices,
        )  # fmt: skip
