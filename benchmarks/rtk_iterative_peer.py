# SPDX-License-Identifier: Apache-2.0
"""RTK's Joseph projector and its SART, in our frame; ITK needs a process of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import rtk_peer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid


def _image_type() -> Any:
    import itk

    return itk.Image[itk.F, 3]


def _image(array: NDArray[Any], spacing: list[float], origin: list[float]) -> Any:
    import itk

    image = itk.image_view_from_array(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


def _volume_image(volume: NDArray[np.float32], grid: VolumeGrid) -> Any:
    (pz, py, px), (ox, oy, oz) = grid.voxel_pitch_mm, grid.origin_mm
    turned = np.ascontiguousarray(volume.transpose(2, 0, 1))  # ours (z, y, x) to (zr, yr, xr)
    return _image(turned, [py, pz, px], [oy, oz, ox])


def _projection_image(projections: NDArray[np.float32], geometry: ConeBeamGeometry) -> Any:
    pitch_v, pitch_u = geometry.pitch_mm
    orbit = geometry.circular_orbit
    assert orbit is not None
    return _image(projections, [pitch_u, pitch_v, 1.0], [-orbit.center_col * pitch_u, -orbit.center_row * pitch_v, 0.0])


def joseph(volume: NDArray[np.float32], geometry: ConeBeamGeometry, grid: VolumeGrid) -> NDArray[np.float32]:
    """Return RTK's Joseph line integrals of a volume: (view, row, col) float32."""
    import itk
    from itk import RTK as rtk

    project = rtk.JosephForwardProjectionImageFilter[_image_type(), _image_type()].New()
    empty = np.zeros((geometry.n_views, geometry.n_rows, geometry.n_cols), dtype=np.float32)
    project.SetInput(0, _projection_image(empty, geometry))
    project.SetInput(1, _volume_image(volume, grid))
    project.SetGeometry(rtk_peer.rtk_geometry(geometry))
    project.Update()
    return np.asarray(itk.array_from_image(project.GetOutput())).astype(np.float32)


def joseph_pair_seconds(
    volume: NDArray[np.float32], lines: NDArray[np.float32], geometry: ConeBeamGeometry, grid: VolumeGrid, threads: int
) -> tuple[float, float, float, float]:
    """Wall and CPU seconds of RTK's Joseph projector, then of its back-projector; `lines` (view, row, col)."""
    import itk
    from itk import RTK as rtk

    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
    orbit = rtk_peer.rtk_geometry(geometry)
    project = rtk.JosephForwardProjectionImageFilter[_image_type(), _image_type()].New()
    empty, start = np.zeros(lines.shape, dtype=np.float32), np.zeros(grid.shape, dtype=np.float32)
    project.SetInput(0, _projection_image(empty, geometry))
    project.SetInput(1, _volume_image(volume, grid))
    back = rtk.JosephBackProjectionImageFilter[_image_type(), _image_type()].New()
    back.SetInput(0, _volume_image(start, grid))
    back.SetInput(1, _projection_image(lines, geometry))
    seconds: list[float] = []
    for step in (project, back):
        step.SetGeometry(orbit)
        wall, cpu = time.perf_counter(), time.process_time()
        step.Update()
        seconds += [time.perf_counter() - wall, time.process_time() - cpu]
    return seconds[0], seconds[1], seconds[2], seconds[3]


def sart(
    projections: NDArray[np.float32], geometry: ConeBeamGeometry, grid: VolumeGrid, *, iterations: int, subset: int
) -> rtk_peer.Timed:
    """Return RTK's SART volume (z, y, x) from zero, positive, `subset` views at a time, and its time."""
    import itk
    from itk import RTK as rtk

    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(2)
    start = _volume_image(np.zeros(grid.shape, dtype=np.float32), grid)
    stack = _projection_image(projections, geometry)
    recon = rtk.SARTConeBeamReconstructionFilter[_image_type(), _image_type()].New()
    recon.SetNumberOfIterations(iterations)
    recon.SetNumberOfProjectionsPerSubset(subset)
    recon.SetLambda(1.0)
    recon.SetEnforcePositivity(True)
    recon.SetInput(0, start)
    recon.SetInput(1, stack)
    recon.SetGeometry(rtk_peer.rtk_geometry(geometry))
    wall, cpu = time.perf_counter(), time.process_time()
    recon.Update()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return rtk_peer.Timed(rtk_peer.to_zyx(itk.array_from_image(recon.GetOutput())), wall, cpu)
