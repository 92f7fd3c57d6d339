# SPDX-License-Identifier: Apache-2.0
"""RTK's FDK back-projector alone, on projections that are filtered already.  Runs in the process of `RtkProcess`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import rtk_peer
from reconstruction.projection import projection_matrices
from reconstruction.weighting import view_scales

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.bricks import Window
    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid


def back_project(
    filtered: NDArray[np.float32],
    geometry: ConeBeamGeometry,
    grid: VolumeGrid,
    window: Window,
    col_start: int,
    shares: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """Volume (z, y, x) that RTK makes of filtered rows (view, row, filtered col) float32.

    RTK weights a voxel by ``(w0 / w)^2``: its depth along the panel's normal over that of the frame's origin.  Ours is
    ``scale / w^2``.  The quotient is the same for all voxels of a view and is given to RTK with the values; shares of
    slices (view, slice) as well, slice by slice.
    """
    factors = view_scales(geometry) / projection_matrices(geometry)[:, 2, 3] ** 2
    if shares is None:
        return _slices(filtered * factors[:, None, None], geometry, grid, window, col_start)
    made = []
    for index in range(grid.shape[0]):
        height = grid.origin_mm[2] + index * grid.voxel_pitch_mm[0]
        center = (grid.center_mm[0], grid.center_mm[1], height)
        one = type(grid)((1, *grid.shape[1:]), grid.voxel_pitch_mm, center)
        weighted = filtered * (factors * shares[:, index])[:, None, None]
        made.append(_slices(weighted, geometry, one, window, col_start))
    return np.concatenate(made)


def _slices(
    filtered: NDArray[Any], geometry: ConeBeamGeometry, grid: VolumeGrid, window: Window, col_start: int
) -> NDArray[np.float32]:
    """RTK's back-projection of weighted rows."""
    import itk
    from itk import RTK as rtk

    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(2)
    values = np.ascontiguousarray(filtered, dtype=np.float32)
    image = rtk_peer.projection_image(values, geometry)
    pitch_v, pitch_u = geometry.pitch_mm
    left, low, first = image.GetOrigin()
    image.SetOrigin([left + (col_start + window.col_start) * pitch_u, low + window.row_start * pitch_v, first])
    project = rtk.FDKBackProjectionImageFilter[itk.Image[itk.F, 3], itk.Image[itk.F, 3]].New()
    volume = rtk_peer.volume_image(grid)
    project.SetInput(0, volume)
    project.SetInput(1, image)
    project.SetGeometry(rtk_peer.rtk_geometry(geometry))
    project.Update()
    return np.asarray(rtk_peer.to_zyx(itk.array_from_image(project.GetOutput())))
