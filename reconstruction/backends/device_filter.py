# SPDX-License-Identifier: Apache-2.0
"""The filter on a device: rows are weighted, continued, transformed, multiplied and transformed back, chunk by chunk.

A chunk has a fixed number of rows, whatever the batch: the FFT's plans are made once, and a row comes out with the same
bits in whatever company it is filtered.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.backends import launches

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from reconstruction.backends.launches import Buffer, Device
    from reconstruction.fdk import SlabSetup

    IndexArray = NDArray[np.int64]

#: Values in one chunk of rows: enough to fill a device, small beside its memory.
CHUNK_VALUES = 1 << 22
_LEAST_ROWS, _MOST_ROWS = 32, 4096


def rows_of_chunk(n_fft: int, chunk_values: int) -> int:
    """Rows that are transformed together."""
    return max(_LEAST_ROWS, min(_MOST_ROWS, chunk_values // n_fft // _LEAST_ROWS * _LEAST_ROWS))


def filter_bytes(transform_bytes: Callable[[int, int], int], setup: SlabSetup, n_rows: int, chunk_values: int) -> int:
    """Memory that a `RowFilter` takes on the device, at most [bytes]; `transform_bytes` is the device's."""
    n_fft = setup.ramp.n_fft
    chunk_rows = rows_of_chunk(n_fft, chunk_values)
    chunk = chunk_rows * (4 * n_fft + 8 * (n_fft // 2 + 1))
    table = 4 * n_rows * setup.geometry.n_cols if setup.weights_are_shared else setup.geometry.poses.nbytes
    return chunk + table + 4 * (n_fft + setup.ramp.n_pad) + transform_bytes(n_fft, chunk_rows)


def weighting_of(setup: SlabSetup) -> str:
    """How ray weights come to the device: what the host makes and copies is kept as small as the scan allows.

    ``shared``: one table for all views.  On upright panels ``cosine``: made on the device from the poses, and nothing
    else; ``columns``: times a factor of each column, which is all that redundancy is there.  ``rays``: a table a view.
    """
    if setup.weights_are_shared:
        return "shared"
    if setup.geometry.poses[:, 9:11].any():
        return "rays"
    return "cosine" if setup.redundancy.method == "none" else "columns"


def weight_values(setup: SlabSetup, n_rows: int) -> int:
    """Weights that are copied for each view."""
    n_cols = setup.geometry.n_cols
    return {"shared": 0, "cosine": 0, "columns": n_cols, "rays": n_rows * n_cols}[weighting_of(setup)]


def write_weights(
    setup: SlabSetup, view_indices: IndexArray, row_start: int, row_stop: int, out: NDArray[np.float32]
) -> None:
    """Write what is copied for some views: (view, values) float32."""
    by_column = weighting_of(setup) == "columns"
    for index, view_index in enumerate(view_indices):
        if by_column:
            factors = setup.redundancy.factors(setup.geometry, int(view_index), row_start, row_start + 1)
            out[index] = np.broadcast_to(factors, (1, setup.geometry.n_cols))[0]
        else:
            out[index] = setup.ray_weights(int(view_index), row_start, row_stop).ravel()


def taper_of(n_pad: int) -> NDArray[np.float32]:
    """What the continuation of a truncated row is multiplied by, from the panel's edge outwards."""
    steps = np.arange(1, n_pad + 1)
    return (np.cos(0.5 * math.pi * steps / (n_pad + 1)) ** 2).astype(np.float32)


def upload_new(device: Device, array: NDArray[Any], stream: Any) -> Buffer:
    """A buffer with a copy of an array, at least one byte long."""
    array = np.ascontiguousarray(array)
    buffer = device.allocate(max(1, array.nbytes))
    device.upload(buffer, array, stream)
    device.finish(device.record(stream))
    return buffer


class RowFilter:
    """Weights and ramp of one slab's rows on a device.

    Parameters
    ----------
    rows : (start, stop)
        Rows of the panel that may come.
    """

    def __init__(
        self, device: Device, setup: SlabSetup, rows: tuple[int, int], stream: Any, chunk_values: int = CHUNK_VALUES
    ) -> None:
        self.device, self.setup, self.stream = device, setup, stream
        ramp = setup.ramp
        self.n_bins = ramp.n_fft // 2 + 1
        self.chunk_rows = rows_of_chunk(ramp.n_fft, chunk_values)
        self._rows = device.allocate(4 * self.chunk_rows * ramp.n_fft)
        self._spectra = device.allocate(8 * self.chunk_rows * self.n_bins)
        self._plans = device.row_transforms(ramp.n_fft, self.chunk_rows)
        # The backward transform is not divided by the length: the response is.
        self._response = upload_new(device, (ramp.response / ramp.n_fft).astype(np.float32), stream)
        self._taper = upload_new(device, taper_of(ramp.n_pad), stream)
        self._first_row = rows[0]
        self._weighting = weighting_of(setup)
        table: NDArray[Any] = setup.geometry.poses
        if self._weighting == "shared":
            table = setup.ray_weights(int(setup.views[0]), *rows).astype(np.float32)
        self._table = upload_new(device, table, stream)

    def run(
        self,
        lines: Buffer,
        weights: Buffer | None,
        view_indices: Buffer,
        shape: tuple[int, int],
        row_start: int,
        keep: Callable[[int, int, Buffer], None],
    ) -> None:
        """Filter the rows of some views; `keep(first row of all, rows, buffer)` takes each chunk away.

        Parameters
        ----------
        lines : (view, row, col) float32
        weights : what `write_weights` made; None where nothing is copied
        view_indices : (view,) int32
        shape : (views, rows of each)
        row_start : int
            The panel's row that comes first.
        """
        ramp, geometry = self.setup.ramp, self.setup.geometry
        n_rows = shape[1]
        copied = weights.address if weights is not None else 0
        tables = {"weights": 0, "poses": 0, "column_weights": 0, "weight_rows": 0}
        if self._weighting == "shared":
            tables["weights"] = self._table.address + 4 * geometry.n_cols * (row_start - self._first_row)
        elif self._weighting == "rays":
            tables.update(weights=copied, weight_rows=n_rows)
        else:
            tables.update(poses=self._table.address, column_weights=copied)
        for first in range(0, shape[0] * n_rows, self.chunk_rows):
            count = min(self.chunk_rows, shape[0] * n_rows - first)
            weigh = launches.weigh_rows(
                lines=lines.address, view_indices=view_indices.address, taper=self._taper.address,
                padded=self._rows.address, middle_col=(geometry.n_cols - 1) / 2,
                middle_row=(geometry.n_rows - 1) / 2 - row_start, first_row=first, n_chunk_rows=count, n_rows=n_rows,
                n_cols=geometry.n_cols, n_fft=ramp.n_fft, n_taper=ramp.n_pad, n_padded_rows=self.chunk_rows, **tables,
            )  # fmt: skip
            multiply = launches.multiply_spectra(
                spectra=self._spectra.address, response=self._response.address, n_bins=self.n_bins,
                n_rows=self.chunk_rows,
            )  # fmt: skip
            self.device.launch(weigh, self.stream)
            self._plans.forward(self._rows, self._spectra, self.stream)
            self.device.launch(multiply, self.stream)
            self._plans.backward(self._spectra, self._rows, self.stream)
            keep(first, count, self._rows)
