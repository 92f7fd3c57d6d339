# SPDX-License-Identifier: Apache-2.0
"""The judge: FDK written the plain way in float64, one view at a time, for any pose.  Slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reconstruction.coverage import projection_matrices
from reconstruction.filtering import continued_rows
from reconstruction.virtual_views import resample_view
from reconstruction.weighting import view_scales

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from reconstruction.bricks import Window
    from reconstruction.fdk import SlabSetup

    Float32Array = NDArray[np.float32]
    Float64Array = NDArray[np.float64]


def missing(name: str) -> str:
    """Nothing is ever missing: it needs NumPy only."""
    del name
    return ""


def open_backend(name: str) -> NumpyReference:
    """Return the back end."""
    return NumpyReference(name)


class NumpyReference:
    """FDK in plain NumPy."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, setup: SlabSetup, *, threads: int | None = None) -> ReferenceAccumulator:
        """Begin a slab; `threads` is of no use here."""
        del threads
        return ReferenceAccumulator(setup)

    def filter_rows(
        self,
        setup: SlabSetup,
        line_integrals: Float32Array,
        view_indices: NDArray[np.int64],
        *,
        row_start: int,
        threads: int | None = None,
    ) -> Float32Array:
        """Weight and filter rows: (view, row, col) to (view, row, filtered col) float32."""
        del threads
        views = [_filter(setup, p, int(i), row_start) for p, i in zip(line_integrals, view_indices, strict=True)]
        return np.stack(views).astype(np.float32)

    def resample(
        self,
        setup: SlabSetup,
        frames: Sequence[Sequence[Float32Array]],
        view_indices: NDArray[np.int64],
        *,
        frame_row_start: int,
        row_start: int,
        row_stop: int,
        threads: int | None = None,
    ) -> Float32Array:
        """Make rows of virtual views from their frames' rows: (view)(slot)(row, col) to (view, row, col) float32."""
        del threads
        assert setup.virtual is not None
        return np.stack([
            resample_view(
                setup.virtual, int(view), slots, frame_row_start=frame_row_start, row_start=row_start,
                row_stop=row_stop, n_cols=setup.geometry.n_cols,
            )
            for view, slots in zip(view_indices, frames, strict=True)
        ])  # fmt: skip


def _filter(setup: SlabSetup, projection: Float32Array, view_index: int, row_start: int) -> Float64Array:
    """Filter one projection: (row, col) to (row, filtered col) float64."""
    ramp = setup.ramp
    weighted = projection * setup.ray_weights(view_index, row_start, row_start + len(projection))
    periodic = np.zeros((len(weighted), ramp.n_fft))
    periodic[:, : weighted.shape[1]] = weighted
    if ramp.n_pad:
        left, right = continued_rows(weighted, ramp.n_pad)
        periodic[:, ramp.n_fft - ramp.n_pad :] = left
        periodic[:, weighted.shape[1] : weighted.shape[1] + ramp.n_pad] = right
    spectrum = np.fft.rfft(periodic, axis=1) * ramp.response
    filtered = np.fft.irfft(spectrum, ramp.n_fft, axis=1)
    # Columns left of the panel sit at the end of the periodic row.
    return np.asarray(np.take(filtered, np.arange(ramp.col_start, ramp.col_start + ramp.n_out), axis=1, mode="wrap"))


class ReferenceAccumulator:
    """A slab in float64, (z, y, x)."""

    def __init__(self, setup: SlabSetup) -> None:
        self.setup = setup
        part = setup.grid.slab_grid(setup.slab)
        x0, y0, z0 = part.origin_mm
        pz, py, px = part.voxel_pitch_mm
        area = setup.made_area
        self.z = z0 + pz * np.arange(part.shape[0])
        y, x = y0 + py * np.arange(area.y_start, area.y_stop), x0 + px * np.arange(area.x_start, area.x_stop)
        inside = y[:, None] ** 2 + x[None, :] ** 2 <= setup.radius_mm**2
        self.inside = inside
        self.y, self.x = (np.broadcast_to(a, inside.shape)[inside] for a in (y[:, None], x[None, :]))
        self.matrices = projection_matrices(setup.geometry)
        self.scales = view_scales(setup.geometry)
        self.sums = np.zeros((part.shape[0], self.x.size))

    def add(self, line_integrals: Sequence[Float32Array] | Float32Array, view_indices: NDArray[np.int64]) -> None:
        """Weight, filter and back-project: (view, row, col) float32."""
        window = self.setup.window_of(view_indices)
        for projection, view_index in zip(line_integrals, view_indices, strict=True):
            filtered = _filter(self.setup, projection, int(view_index), window.row_start)
            self._back_project(filtered, int(view_index), window)

    def add_filtered(
        self, filtered: Float32Array, view_indices: NDArray[np.int64], window: Window | None = None
    ) -> None:
        """Back-project filtered rows: (view, row, filtered col) float32."""
        window = window or self.setup.window_of(view_indices)
        for rows, view_index in zip(filtered, view_indices, strict=True):
            self._back_project(rows.astype(np.float64), int(view_index), window)

    def _back_project(self, filtered: Float64Array, view_index: int, window: Window) -> None:
        """Add one view: bilinear interpolation, 0 beyond the window."""
        padded = np.pad(filtered, 1)
        matrix = self.matrices[view_index]
        shares = np.ones(self.z.size) if self.setup.slice_weights is None else self.setup.slice_weights[view_index]
        for index in np.flatnonzero(shares):
            z = self.z[index]
            a, b, depth = (m[0] * self.x + m[1] * self.y + m[2] * z + m[3] for m in matrix)
            col = a / depth - self.setup.ramp.col_start - window.col_start + 1
            row = b / depth - window.row_start + 1
            seen = (col >= 0) & (col < padded.shape[1] - 1) & (row >= 0) & (row < padded.shape[0] - 1)
            col, row = np.where(seen, col, 0), np.where(seen, row, 0)
            i, j = col.astype(int), row.astype(int)
            fu, fv = col - i, row - j
            lower = (1 - fu) * padded[j, i] + fu * padded[j, i + 1]
            upper = (1 - fu) * padded[j + 1, i] + fu * padded[j + 1, i + 1]
            value = (1 - fv) * lower + fv * upper
            scale = self.scales[view_index] * float(shares[index])
            self.sums[index] += np.where(seen, scale * value / depth**2, 0)

    def read_slices(self, start: int, stop: int) -> Float32Array:
        """Slices of the slab as (z, y, x) float32."""
        outside = self.setup.parameters.outside_value
        volume = np.full((stop - start, *self.inside.shape), outside, dtype=np.float32)
        volume[:, self.inside] = self.sums[start:stop]
        return volume
