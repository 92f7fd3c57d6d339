# SPDX-License-Identifier: Apache-2.0
"""FDK on a device, whichever it is: a GPU (`cupy_fdk`), or the host in the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reconstruction.backends import launches
from reconstruction.backends.device_filter import CHUNK_VALUES, RowFilter, upload_new, weight_values, write_weights
from reconstruction.backends.device_memory import DeviceCost, views_that_fit
from reconstruction.backends.device_sizes import RESAMPLED_VIEWS, filter_cost, resampled_view_bytes
from reconstruction.backends.device_slab import DeviceAccumulator
from reconstruction.virtual_views import LEAST_BLEND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from reconstruction.backends.launches import Buffer, Device
    from reconstruction.fdk import SlabSetup

    Float32Array = NDArray[np.float32]
    IndexArray = NDArray[np.int64]


class DeviceFdk:
    """FDK by the kernels of ``fdk.cu``.

    Parameters
    ----------
    half : bool
        Hold filtered views as float16, each with a scale of its own; sums are float32.
    variant : str or None
        ``linear`` or ``layered``; None times both on the first views and takes the faster one.  Both give the same
        bits.
    """

    def __init__(
        self,
        name: str,
        open_device: Callable[[], Device],
        *,
        half: bool,
        variant: str | None,
        chunk_values: int = CHUNK_VALUES,
    ) -> None:
        self.name, self.half, self.variant, self.chunk_values = name, half, variant, chunk_values
        self._open_device = open_device
        self._device: Device | None = None
        #: Kernel -> variant that was faster on the device.
        self.chosen: dict[str, str] = {}

    @property
    def device(self) -> Device:
        """The device, opened at the first use."""
        if self._device is None:
            self._device = self._open_device()
        return self._device

    def start(self, setup: SlabSetup, *, threads: int | None = None) -> DeviceAccumulator:
        """Begin a slab; `threads` is of no use here."""
        del threads
        return DeviceAccumulator(
            self.device, setup, half=self.half, variant=self.variant, chosen=self.chosen, chunk_values=self.chunk_values
        )

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
        del threads
        device, n_out = self.device, setup.ramp.n_out
        n_views, n_rows, _ = line_integrals.shape
        rows = (row_start, row_start + n_rows)
        stream = device.new_stream()
        n_weights = weight_values(setup, n_rows)
        cost = filter_cost(setup, n_rows, device.row_transform_bytes, self.chunk_values)
        batch = views_that_fit(cost, device.free_bytes(), device.name)
        row_filter = RowFilter(device, setup, rows, stream, self.chunk_values)
        out = np.empty((n_views, n_rows, n_out), dtype=np.float32)
        kept = device.allocate(4 * row_filter.chunk_rows * n_out)
        for first in range(0, n_views, batch):
            part = slice(first, min(n_views, first + batch))
            taken = out[part].reshape(-1, n_out)
            lines = upload_new(device, line_integrals[part], stream)
            indices = upload_new(device, view_indices[part].astype(np.int32), stream)
            weights = None
            if n_weights:
                table = np.empty((len(taken) // n_rows, n_weights), dtype=np.float32)
                write_weights(setup, view_indices[part], *rows, table)
                weights = upload_new(device, table, stream)

            def keep(first_row: int, count: int, chunk: Buffer, taken: Float32Array = taken) -> None:
                cut = launches.keep_columns(
                    rows=chunk.address, kept=kept.address, period=setup.ramp.n_fft, col_start=setup.ramp.col_start,
                    n_out=n_out, n_rows=count,
                )  # fmt: skip
                device.launch(cut, stream)
                device.download(taken[first_row : first_row + count], kept, stream)
                device.finish(device.record(stream))

            row_filter.run(lines, weights, indices, (part.stop - first, n_rows), row_start, keep)
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
        """Resample rows of virtual views from their frames: (view, row, col) float32; a few together."""
        del threads
        virtual, device = setup.virtual, self.device
        assert virtual is not None
        there = virtual.frame_indices[view_indices] >= 0
        n_frame_rows = next(len(frames[int(view)][int(slot)]) for view, slot in zip(*np.nonzero(there), strict=True))
        cost = DeviceCost(1, 0, 0, resampled_view_bytes(setup, row_stop - row_start, n_frame_rows))
        batch = min(RESAMPLED_VIEWS, views_that_fit(cost, device.free_bytes(), device.name))
        out = np.empty((len(view_indices), row_stop - row_start, setup.geometry.n_cols), dtype=np.float32)
        for first in range(0, len(view_indices), batch):
            part = slice(first, first + batch)
            self._resample(
                setup, frames[part], view_indices[part], out[part], (frame_row_start, n_frame_rows), row_start
            )
        return out

    def _resample(
        self,
        setup: SlabSetup,
        frames: Sequence[Sequence[Float32Array]],
        view_indices: IndexArray,
        out: Float32Array,
        frame_rows: tuple[int, int],
        row_start: int,
    ) -> None:
        """Resample views that fit together; `frame_rows` are the frames' first row and how many they have."""
        virtual, device = setup.virtual, self.device
        assert virtual is not None
        n_views, n_rows, n_cols = out.shape
        frame_row_start, n_frame_rows = frame_rows
        stream = device.new_stream()
        there = virtual.frame_indices[view_indices] >= 0
        stack = np.zeros((n_views, virtual.n_slots, n_frame_rows, virtual.frame_cols), dtype=np.float32)
        for view, slot in zip(*np.nonzero(there), strict=True):
            stack[view, slot] = frames[int(view)][int(slot)]
        buffers = [
            upload_new(device, array, stream)
            for array in (stack, virtual.homographies[view_indices], there.astype(np.int32))
        ]
        views = device.allocate(out.nbytes)
        device.launch(
            launches.resample_views(
                frames=buffers[0].address, homographies=buffers[1].address, used=buffers[2].address,
                views=views.address, feather=virtual.feather_px, least_blend=LEAST_BLEND, n_slots=virtual.n_slots,
                frame_rows=virtual.frame_rows, frame_cols=virtual.frame_cols, first_frame_row=frame_row_start,
                n_frame_rows=n_frame_rows, first_row=row_start, n_rows=n_rows, n_cols=n_cols, n_views=n_views,
            ),
            stream,
        )  # fmt: skip
        device.download(out, views, stream)
        device.finish(device.record(stream))
