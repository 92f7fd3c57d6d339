# SPDX-License-Identifier: Apache-2.0
"""The iterations: SIRT, OS-SART, and OS-SART with total variation, on one matched projector pair.

With A the projector, b the line integrals, W = 1 / (A 1) for whole rays and 0 for others, and C = 1 / (A^T 1) over
the whole rays, one update with the views of a subset s is

    x <- max(0, x + relaxation C_s A_s^T W_s (b_s - A_s x))

SIRT (Gilbert 1972; Gregor and Benson 2008) takes all views at once, OS-SART (Andersen and Kak 1984; Wang and
Jiang 2004) one subset after the other.  C_s is 1 over the largest sum that a voxel gets in any subset: nearly its
own in each for voxels that all views see, and safe for those that few rays of one subset cross.  ``tv`` follows
each pass over all views by the proximal step of total variation (Rudin, Osher and Fatemi 1992) in its dual form
(Chambolle 2004; Beck and Teboulle 2009), whose dual variables go on from pass to pass, so that few inner steps do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.iterative.projectors import PAD, empty_volume, pad_volume, padded_shape, unpad_volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from reconstruction.iterative.parameters import IterativeParameters
    from reconstruction.iterative.projectors import ProjectorPair
    from reconstruction.iterative.region import Region

    Float32Array = NDArray[np.float32]

#: Steps of the dual ascent after each pass.
TV_STEPS = 10
#: Rays that cross less than this share of a voxel's side, and voxels that the like of it crosses, are left alone.
_LEAST_SUM = 1e-3


@dataclass(frozen=True, slots=True)
class Solution:
    """What an iteration came to.

    Attributes
    ----------
    volume : (z, y, x) float32
        mu [1/mm] of the whole region.
    residuals : tuple of float
        Weighted norm of ``b - A x`` over that of b in each pass, every subset's just before its own update.
    """

    volume: Float32Array = field(repr=False)
    residuals: tuple[float, ...]


def solve(
    pair: ProjectorPair,
    region: Region,
    lines: Float32Array,
    parameters: IterativeParameters,
    *,
    tv_weight: float = 0.0,
    start: Float32Array | None = None,
    least_gain: float = 0.0,
    progress: Callable[[int, int, float], None] | None = None,
) -> Solution:
    """Iterate on a region.

    Parameters
    ----------
    pair : ProjectorPair
        Of the region's grid and band.
    region : Region
    lines : (view, col, row) float32
        Line integrals of the region's band; rays that are not whole do not count.
    parameters : IterativeParameters
    tv_weight : float
        Weight of total variation in each pass [1/mm]; 0 for none.
    start : (z, y, x) float32, optional
        mu of the region to start from; zero if left out.
    least_gain : float
        Stop before the passes are done, after one that takes less than this share of the residual away.
    progress : callable, optional
        Called after each pass with its number from 1, the passes in all, and the residual.
    """
    subsets = ordered_subsets(lines.shape[0], parameters.subset_count(lines.shape[0]))
    mask = _mask_volume(region)
    weights = _ray_weights(pair, region, mask, lines.shape)
    step = _voxel_steps(pair, mask, weights, subsets)
    step *= np.float32(parameters.step)
    del mask
    volume = empty_volume(region.grid.shape)
    if start is not None:
        volume += pad_volume(start)
        volume[step == 0] = 0
    lower = np.float32(0.0 if parameters.nonnegative else -np.inf)
    state = _TotalVariation(pair, region, tv_weight, float(lower)) if tv_weight > 0 else None
    norm = max(sum(_weighted_square(lines[s], weights[s]) for s in subsets), 1e-30)
    update = empty_volume(region.grid.shape)
    residuals = []
    for index in range(parameters.passes):
        misfit = 0.0
        for views in subsets:
            difference = pair.project(volume, views)
            np.subtract(lines[views], difference, out=difference)
            misfit += _weighted_square(difference, weights[views])
            difference *= weights[views]
            update[...] = 0
            pair.back_project(difference, views, update)
            update *= step
            volume += update
            np.maximum(volume, lower, out=volume)
        if state is not None:
            volume, update = state.denoise(volume, update)
        residuals.append((misfit / norm) ** 0.5)
        if progress is not None:
            progress(index + 1, parameters.passes, residuals[-1])
        if index > 0 and residuals[-2] - residuals[-1] < least_gain * residuals[-1]:
            break
    return Solution(np.ascontiguousarray(unpad_volume(volume, region.grid.shape[0])), tuple(residuals))


def ordered_subsets(n_views: int, count: int) -> list[NDArray[np.int64]]:
    """Interleaved subsets of the views, each far from the one before (van der Corput's order)."""
    order = sorted(range(count), key=lambda index: int(f"{index:016b}"[::-1], 2))
    return [np.arange(first, n_views, count, dtype=np.int64) for first in order]


class _TotalVariation:
    """The denoiser and its dual variables between passes."""

    def __init__(self, pair: ProjectorPair, region: Region, weight: float, lower: float) -> None:
        self.pair, self.weight, self.lower = pair, weight, lower
        pz, py, px = region.grid.voxel_pitch_mm
        finest = min(pz, py, px)
        self.slopes = np.array([finest / py, finest / px, finest / pz], dtype=np.float32)
        self.inside = np.zeros(padded_shape(region.grid.shape)[:2], dtype=np.bool_)
        self.inside[PAD:-PAD, PAD:-PAD] = region.inside
        self.dual = np.zeros((3, *padded_shape(region.grid.shape)), dtype=np.float32)

    def denoise(self, volume: Float32Array, scratch: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return the denoised volume, and the array that is free now."""
        scratch[...] = 0
        self.pair.denoise(volume, self.dual, self.weight, self.slopes, self.inside, self.lower, TV_STEPS, scratch)
        return scratch, volume


def _mask_volume(region: Region) -> Float32Array:
    """1 in the field, 0 elsewhere and in the padding."""
    mask = empty_volume(region.grid.shape)
    unpad_volume(mask, region.grid.shape[0])[...] = region.inside
    return mask


def _ray_weights(pair: ProjectorPair, region: Region, mask: Float32Array, shape: tuple[int, ...]) -> Float32Array:
    """1 over the length of each whole ray in the field; 0 for other rays."""
    weights = pair.project(mask, np.arange(shape[0]))
    least = _LEAST_SUM * min(region.grid.voxel_pitch_mm)
    shared = region.geometry.circular_orbit is not None
    whole = None
    for view in range(shape[0]):
        if whole is None or not shared:
            whole = region.whole_rays(view, region.band.row_start, region.band.row_stop).T
        sums = weights[view]
        used = whole & (sums > least)
        np.divide(np.float32(1), sums, out=sums, where=used)
        sums[~used] = 0
    return weights


def _voxel_steps(
    pair: ProjectorPair, mask: Float32Array, weights: Float32Array, subsets: list[NDArray[np.int64]]
) -> Float32Array:
    """1 over the largest sum of rays through a voxel in any subset; 0 outside the field or where no ray goes."""
    largest = np.zeros_like(mask)
    sums = np.empty_like(mask)
    for views in subsets:
        sums[...] = 0
        pair.back_project((weights[views] > 0).astype(np.float32), views, sums)
        np.maximum(largest, sums, out=largest)
    used = (largest > _LEAST_SUM * float(largest.max())) & (mask > 0)
    np.divide(np.float32(1), largest, out=largest, where=used)
    largest[~used] = 0
    return largest


def _weighted_square(values: Float32Array, weights: Float32Array) -> float:
    """Sum of weights times squares, in float64."""
    return float(np.einsum("vcr,vcr,vcr->", values, values, weights, dtype=np.float64))
