# SPDX-License-Identifier: Apache-2.0
"""The compiled projector pair and denoiser behind `reconstruction.iterative`, run on threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reconstruction.backends import projector_kernels as upright
from reconstruction.backends import projector_pair as any_pose
from reconstruction.backends.numba_fdk import instruction_set
from reconstruction.backends.simd import ISA_TAGS
from reconstruction.backends.thread_items import run_items, usable_cores
from reconstruction.backends.total_variation import climb_dual, primal_of_dual

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32Array = NDArray[np.float32]
    Float64Array = NDArray[np.float64]

#: Work items for each thread; every item of the transpose looks at all rays once.
_ITEMS_PER_THREAD = 3
#: Views whose scaled rows are held at a time.
_VIEWS_AT_A_TIME = 8
#: Voxels of the planes of one item of the transpose: they stay in the cache from view to view.
_CACHED_VOXELS = 1 << 18


class NumbaPair:
    """Joseph's projector and its transpose, compiled: in SIMD runs where panels stand upright, ray by ray elsewhere.

    Parameters
    ----------
    poses : (view, 12) float64
        Source, pixel (row 0, column 0) of the band, and steps of column and row, as (x, y, z) in voxels.
    shape : (z, y, x)
        Of the volume, without padding.
    pitch_mm : (x, y, z)
    n_cols, n_rows : int
    samples : int
        Rays along each side of a pixel.
    isa : str
        A key of `simd.ISA_TAGS`.
    threads : int, optional
    """

    def __init__(
        self,
        poses: Float64Array,
        shape: tuple[int, int, int],
        pitch_mm: tuple[float, float, float],
        n_cols: int,
        n_rows: int,
        samples: int,
        isa: str,
        threads: int | None = None,
    ) -> None:
        self.name = f"numba-{isa}"
        self.poses, self.shape, self.pitch = poses, shape, np.array(pitch_mm, dtype=np.float64)
        self.n_cols, self.n_rows, self.samples = n_cols, n_rows, samples
        self.threads = threads or usable_cores()
        self.tag = ISA_TAGS[isa]
        self.ways = self._upright_ways()
        #: Rows of zeros that a run of voxels below the first row reaches back to.
        self.margin = 0 if self.ways is None else _margin(self.ways)

    @property
    def upright(self) -> bool:
        """Whether the SIMD kernels run."""
        return self.ways is not None

    def project(self, volume: Float32Array, views: NDArray[np.int64]) -> Float32Array:
        """Line integrals (view, col, row) of a padded volume (y, x, z)."""
        out = np.empty((len(views), self.n_cols, self.n_rows), dtype=np.float32)
        total = len(views) * self.n_cols
        step = max(1, -(-total // (self.threads * 8)))
        if self.ways is not None:
            ways = self.ways[views]

            def columns(first: int) -> None:
                last = min(total, first + step)
                upright.project_columns(self.tag, volume, ways, self.samples, out, first, last)
        else:
            poses = self.poses[views]

            def columns(first: int) -> None:
                last = min(total, first + step)
                any_pose.project_rays(volume, poses, self.pitch, self.samples, out, first, last)

        run_items(self.threads, columns, range(0, total, step))
        return out

    def back_project(self, lines: Float32Array, views: NDArray[np.int64], out: Float32Array) -> None:
        """Add the transpose of `project` to a padded volume."""
        if self.ways is None:
            self._back_project_rays(lines, views, out)
            return
        for start in range(0, len(views), _VIEWS_AT_A_TIME):
            some = slice(start, start + _VIEWS_AT_A_TIME)
            self._spread(lines[some], self.ways[views[some]], out)

    def _spread(self, lines: Float32Array, ways: Float64Array, out: Float32Array) -> None:
        """Add the transpose for a few views."""
        n_rays = self.n_rows * self.samples
        room = -(-n_rays // upright.LINE_UNIT) * upright.LINE_UNIT + 2 * self.margin
        rows = np.zeros((len(lines), self.n_cols * self.samples, room), dtype=np.float32)
        total = len(lines) * self.n_cols
        step = max(1, -(-total // (self.threads * 4)))

        def scale(first: int) -> None:
            last = min(total, first + step)
            upright.scale_lines(self.tag, lines, ways, self.samples, self.margin, rows, first, last)

        run_items(self.threads, scale, range(0, total, step))
        for along_x in (1.0, 0.0):
            planes, across = (self.shape[2], self.shape[1]) if along_x else (self.shape[1], self.shape[2])
            share = max(1, _CACHED_VOXELS // (across * out.shape[2]))
            width = max(1, min(share, -(-planes // (self.threads * _ITEMS_PER_THREAD))))

            def spread(first: int, along_x: float = along_x, planes: int = planes, width: int = width) -> None:
                last = min(planes, first + width)
                upright.spread_planes(self.tag, rows, n_rays, self.margin, ways, out, along_x, first, last)

            run_items(self.threads, spread, range(0, planes, width))

    def _back_project_rays(self, lines: Float32Array, views: NDArray[np.int64], out: Float32Array) -> None:
        """Add the transpose ray by ray."""
        poses = self.poses[views]
        # One direction after the other: both write every voxel.
        for along_x, planes in ((True, self.shape[2]), (False, self.shape[1])):
            step = max(1, -(-planes // (self.threads * _ITEMS_PER_THREAD)))

            def planes_from(first: int, along_x: bool = along_x, planes: int = planes, step: int = step) -> None:
                last = min(planes, first + step)
                any_pose.back_project_planes(lines, poses, self.pitch, self.samples, out, along_x, first, last)

            run_items(self.threads, planes_from, range(0, planes, step))

    def _upright_ways(self) -> Float64Array | None:
        """What the rays of each column share (`projector_kernels.column_ways`); None if a panel is not upright."""
        level = (self.poses[:, 8:11] == 0).all() and (self.poses[:, 11] > 0).all()
        if not level:
            return None
        ways = np.empty((len(self.poses), self.n_cols * self.samples, upright.WAY))
        upright.column_ways(self.poses, self.pitch, self.shape[1:], self.samples, self.n_cols, ways)
        return ways if _slopes(ways).max(initial=0.0) < upright.MOST_SLOPE else None

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
        amount, least, n_slices = np.float32(weight), np.float32(lower), self.shape[0]
        gy, gx, gz = (np.float32(slope) for slope in slopes)

        def primal(y: int) -> None:
            primal_of_dual(noisy, dual, amount, (gy, gx, gz), inside, n_slices, least, out, y, y + rows)

        def ascend(y: int) -> None:
            climb_dual(out, dual, climb, (gy, gx, gz), inside, n_slices, y, y + rows)

        for _ in range(steps):
            run_items(self.threads, primal, range(0, n_y, rows))
            run_items(self.threads, ascend, range(0, n_y, rows))
        run_items(self.threads, primal, range(0, n_y, rows))


def _slopes(ways: Float64Array) -> Float64Array:
    """Voxels between rows at the nearest and farthest plane of each way; nothing of ways without planes."""
    met = ways[ways[:, :, 1] <= ways[:, :, 2]]
    return np.abs(((met[:, 1:3] - met[:, 5, None]) * met[:, 6, None]) * met[:, 8, None])


def _margin(ways: Float64Array) -> int:
    """Rows that the last voxels of a run look at beyond the panel's."""
    spacing = 1.0 / _slopes(ways).min(initial=1.0)
    return int(np.ceil((upright.LINE_UNIT + 2) * spacing)) + upright.SPARE_FLOATS


def open_pair(
    poses: Float64Array,
    shape: tuple[int, int, int],
    pitch_mm: tuple[float, float, float],
    n_cols: int,
    n_rows: int,
    samples: int,
    backend: str,
    threads: int | None = None,
) -> NumbaPair:
    """Return the compiled pair; see `NumbaPair`."""
    return NumbaPair(poses, shape, pitch_mm, n_cols, n_rows, samples, instruction_set(backend), threads)
