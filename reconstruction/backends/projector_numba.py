# SPDX-License-Identifier: Apache-2.0
"""The compiled projector pair and denoiser behind `reconstruction.iterative`, run on threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reconstruction.backends import projector_pair as kernels
from reconstruction.backends.thread_items import run_items, usable_cores
from reconstruction.backends.total_variation import climb_dual, primal_of_dual

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32Array = NDArray[np.float32]
    Float64Array = NDArray[np.float64]

#: Work items for each thread; every item of the transpose looks at all rays once.
_ITEMS_PER_THREAD = 3


class NumbaPair:
    """Joseph's projector and its transpose, compiled.

    Parameters
    ----------
    poses : (view, 12) float64
        Source, pixel (row 0, column 0) of the band, and steps of column and row, as (x, y, z) in voxels.
    pitch_mm : (x, y, z)
    n_cols, n_rows : int
    samples : int
        Rays along each side of a pixel.
    threads : int, optional
    """

    name = "numba"

    def __init__(
        self,
        poses: Float64Array,
        pitch_mm: tuple[float, float, float],
        n_cols: int,
        n_rows: int,
        samples: int,
        threads: int | None = None,
    ) -> None:
        self.poses, self.pitch = poses, np.array(pitch_mm, dtype=np.float64)
        self.n_cols, self.n_rows, self.samples = n_cols, n_rows, samples
        self.threads = threads or usable_cores()

    def project(self, volume: Float32Array, views: NDArray[np.int64]) -> Float32Array:
        """Line integrals (view, col, row) of a padded volume (y, x, z)."""
        out = np.empty((len(views), self.n_cols, self.n_rows), dtype=np.float32)
        poses = self.poses[views]
        total = len(views) * self.n_cols
        step = max(1, -(-total // (self.threads * 8)))

        def columns(first: int) -> None:
            kernels.project_rays(volume, poses, self.pitch, self.samples, out, first, min(total, first + step))

        run_items(self.threads, columns, range(0, total, step))
        return out

    def back_project(self, lines: Float32Array, views: NDArray[np.int64], out: Float32Array) -> None:
        """Add the transpose of `project` to a padded volume."""
        poses = self.poses[views]
        items: list[tuple[bool, int, int]] = []
        for along_x, planes in ((True, out.shape[1] - 2 * kernels.PAD), (False, out.shape[0] - 2 * kernels.PAD)):
            step = max(1, -(-planes // (self.threads * _ITEMS_PER_THREAD)))
            items += [(along_x, first, min(planes, first + step)) for first in range(0, planes, step)]

        # One direction after the other: both write every voxel.
        for direction in (True, False):
            mine = [item for item in items if item[0] is direction]

            def planes_of(index: int, mine: list[tuple[bool, int, int]] = mine) -> None:
                kernels.back_project_planes(lines, poses, self.pitch, self.samples, out, *mine[index])

            run_items(self.threads, planes_of, range(len(mine)))

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
        """Write the volume of least ``1/2 |x - noisy|^2 + weight TV(x)``, nearly; `dual` goes on from call to call."""
        n_y = noisy.shape[0]
        rows = max(1, -(-n_y // (self.threads * 4)))
        climb = np.float32(1.0 / (4.0 * float((slopes.astype(np.float64) ** 2).sum()) * weight))
        amount, least = np.float32(weight), np.float32(lower)

        def primal(y: int) -> None:
            primal_of_dual(noisy, dual, amount, slopes, inside, least, out, y, y + rows)

        def ascend(y: int) -> None:
            climb_dual(out, dual, climb, slopes, inside, y, y + rows)

        for _ in range(steps):
            run_items(self.threads, primal, range(0, n_y, rows))
            run_items(self.threads, ascend, range(0, n_y, rows))
        run_items(self.threads, primal, range(0, n_y, rows))


def open_pair(
    poses: Float64Array,
    pitch_mm: tuple[float, float, float],
    n_cols: int,
    n_rows: int,
    samples: int,
    threads: int | None = None,
) -> NumbaPair:
    """Return the compiled pair; see `NumbaPair`."""
    return NumbaPair(poses, pitch_mm, n_cols, n_rows, samples, threads)
