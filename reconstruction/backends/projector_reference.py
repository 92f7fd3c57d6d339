# SPDX-License-Identifier: Apache-2.0
"""The projector pair and the denoiser in plain NumPy, a plane of voxels at a time: slow, and the others' judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Float32Array = NDArray[np.float32]
    Float64Array = NDArray[np.float64]

_PAD = 2


class ReferencePair:
    """Joseph's projector and its transpose; see `reconstruction.iterative.projectors.ProjectorPair`."""

    name = "numpy_reference"

    def __init__(
        self,
        poses: Float64Array,
        shape: tuple[int, int, int],
        pitch_mm: tuple[float, float, float],
        n_cols: int,
        n_rows: int,
        samples: int,
    ) -> None:
        self.poses, self.shape, self.pitch = poses, shape, pitch_mm
        self.n_cols, self.n_rows, self.samples = n_cols, n_rows, samples

    def project(self, volume: Float32Array, views: NDArray[np.int64]) -> Float32Array:
        """Line integrals (view, col, row) of a padded volume (y, x, z)."""
        out = np.zeros((len(views), self.n_cols, self.n_rows))
        for place, view in enumerate(views):
            for col, row, index, weight in self._taps(int(view)):
                np.add.at(out[place], (col, row), weight * volume[index])
        return out.astype(np.float32)

    def back_project(self, lines: Float32Array, views: NDArray[np.int64], out: Float32Array) -> None:
        """Add the transpose of `project` to a padded volume."""
        total = np.zeros(out.shape)
        for place, view in enumerate(views):
            for col, row, index, weight in self._taps(int(view)):
                np.add.at(total, index, weight * lines[place][col, row])
        out += total

    def denoise(
        self,
        noisy: Float32Array,
        dual: Float32Array,
        weight: float,
        slopes: Float32Array,
        inside: NDArray[np.bool_],
        lower: float,
        steps: int,
        out: Float32Array,
    ) -> None:
        """Move towards the volume of least ``1/2 |x - noisy|^2 + weight TV(x)``; `dual` goes on from call to call."""
        climb = 1.0 / (4.0 * float((slopes.astype(np.float64) ** 2).sum()) * weight)
        pairs = _inner_pairs(noisy.shape, inside, self.shape[0])
        box = np.zeros(noisy.shape, dtype=np.bool_)
        box[:, :, _PAD : _PAD + self.shape[0]] = inside[:, :, None]
        for step in range(steps + 1):
            total = np.zeros(noisy.shape)
            for axis in range(3):
                total += slopes[axis] * (np.roll(dual[axis], 1, axis=axis) - dual[axis])
            out[...] = np.where(box, np.maximum(lower, noisy - weight * total), out)
            if step == steps:
                return
            moved = [
                dual[axis] + climb * slopes[axis] * pairs[axis] * (np.roll(out, -1, axis=axis) - out)
                for axis in range(3)
            ]
            scale = 1.0 / np.maximum(1.0, np.sqrt(sum(part * part for part in moved)))
            for axis in range(3):
                dual[axis] = moved[axis] * scale

    def _taps(
        self, view: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], tuple[NDArray[np.int64], ...], Float64Array]]:
        """Columns, rows, padded voxels (y, x, z) and coefficients of a view, a plane and a corner at a time."""
        nz, ny, nx = self.shape
        pose = self.poses[view]
        n = self.samples
        cols, rows = np.meshgrid(np.arange(self.n_cols), np.arange(self.n_rows), indexing="ij")
        for s in range(n * n):
            u, v = cols + (s % n + 0.5) / n - 0.5, rows + (s // n + 0.5) / n - 0.5
            way = [pose[3 + k] + u * pose[6 + k] + v * pose[9 + k] - pose[k] for k in range(3)]
            along_x = np.abs(way[0]) >= np.abs(way[1])
            for a, chosen in ((0, along_x), (1, ~along_x)):
                b = 1 - a
                rb, rz = way[b][chosen] / way[a][chosen], way[2][chosen] / way[a][chosen]
                b0, z0 = pose[b] - pose[a] * rb, pose[2] - pose[a] * rz
                length = np.sqrt(self.pitch[a] ** 2 + (rb * self.pitch[b]) ** 2 + (rz * self.pitch[2]) ** 2) / (n * n)
                for plane in range((nx, ny)[a]):
                    across, height = b0 + plane * rb, z0 + plane * rz
                    hit = (across > -1) & (across < (nx, ny)[b]) & (height > -1) & (height < nz)
                    ib, iz = np.floor(across[hit]).astype(np.int64), np.floor(height[hit]).astype(np.int64)
                    fb, fz = across[hit] - ib, height[hit] - iz
                    for up, left in ((0, 0), (0, 1), (1, 0), (1, 1)):
                        weight = length[hit] * (fb if left else 1 - fb) * (fz if up else 1 - fz)
                        fixed = np.full(ib.shape, plane + _PAD)
                        other = ib + left + _PAD
                        y, x = (other, fixed) if a == 0 else (fixed, other)
                        yield cols[chosen][hit], rows[chosen][hit], (y, x, iz + up + _PAD), weight


def _inner_pairs(shape: tuple[int, ...], inside: NDArray[np.bool_], n_slices: int) -> list[NDArray[np.bool_]]:
    """Voxels that have a neighbour behind them within the field, along y, x and z."""
    pairs = []
    for axis in range(2):
        both = inside & np.roll(inside, -1, axis=axis)
        whole = np.zeros(shape, dtype=np.bool_)
        whole[:, :, _PAD : _PAD + n_slices] = both[:, :, None]
        pairs.append(whole)
    along_z = np.zeros(shape, dtype=np.bool_)
    along_z[:, :, _PAD : _PAD + n_slices - 1] = inside[:, :, None]
    return [*pairs, along_z]


def open_pair(
    poses: Float64Array,
    shape: tuple[int, int, int],
    pitch_mm: tuple[float, float, float],
    n_cols: int,
    n_rows: int,
    samples: int,
    backend: str,
    threads: int | None = None,
) -> ReferencePair:
    """Return the pair; `backend` and `threads` are of no use here."""
    del backend, threads
    return ReferencePair(poses, shape, pitch_mm, n_cols, n_rows, samples)
