# SPDX-License-Identifier: Apache-2.0
"""The preview of a volume: block averages, every axis at most 512 voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pacs.errors import EncodingError
from reconstruction.geometry import VolumeGrid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Longest axis of a preview.
PREVIEW_AXIS = 512


def preview_factor(shape: Sequence[int]) -> int:
    """Return how many voxels a side of an averaged block has: a power of two, at least 2.

    A power of two lets the previews of slabs meet on slab borders; a preview of a small volume opens faster still.
    """
    factor = 2
    while -(-max(shape) // factor) > PREVIEW_AXIS:
        factor *= 2
    return factor


def preview_grid(grid: VolumeGrid, factor: int) -> VolumeGrid:
    """Return the grid of the preview; a block at the far end of an axis may hang over the volume."""
    if factor < 1:
        raise EncodingError(f"a preview needs a factor of at least 1, got {factor}")
    nz, ny, nx = (-(-n // factor) for n in grid.shape)
    pz, py, px = (pitch * factor for pitch in grid.voxel_pitch_mm)
    # The first block begins where the first voxel does.
    x0, y0, z0 = (
        origin + (factor - 1) / 2 * pitch
        for origin, pitch in zip(grid.origin_mm, reversed(grid.voxel_pitch_mm), strict=True)
    )
    center = (x0 + (nx - 1) / 2 * px, y0 + (ny - 1) / 2 * py, z0 + (nz - 1) / 2 * pz)
    return VolumeGrid((nz, ny, nx), (pz, py, px), center)


def block_average(volume: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Average blocks of factor^3 voxels; a block that hangs over the end averages the voxels it has.

    Parameters
    ----------
    volume : (z, y, x) float32
        A volume, or a slab that begins at a multiple of `factor`.
    factor : int

    Returns
    -------
    (ceil(z / factor), ceil(y / factor), ceil(x / factor)) float32
        New array, also for a factor of 1.

    Raises
    ------
    EncodingError
        If `volume` is not three-dimensional or the factor is below 1.
    """
    if volume.ndim != 3 or factor < 1:
        raise EncodingError(f"a preview needs (z, y, x) and a factor of at least 1, got {volume.shape} and {factor}")
    nz, ny, nx = (-(-n // factor) for n in volume.shape)
    averaged = np.empty((nz, ny, nx), dtype=np.float32)
    for z in range(nz):
        block = volume[z * factor : (z + 1) * factor]
        plane = np.add.reduce(block, axis=0, dtype=np.float64)
        averaged[z] = _mean_of_groups(_mean_of_groups(plane, factor, 0), factor, 1) / block.shape[0]
    return averaged


def _mean_of_groups(plane: NDArray[np.float64], factor: int, axis: int) -> NDArray[np.float64]:
    """Average neighbours along one axis of an image, `factor` at a time, the last ones as many as there are."""
    starts = np.arange(0, plane.shape[axis], factor)
    counts = np.diff(np.append(starts, plane.shape[axis]))
    sums = np.add.reduceat(plane, starts, axis=axis)
    return sums / (counts[:, np.newaxis] if axis == 0 else counts)
