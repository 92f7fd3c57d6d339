# SPDX-License-Identifier: Apache-2.0
"""RTK (itk-rtk) as the peer: its projections of its own phantom, and its FDK, in our frame.

RTK's axes are (xr, yr, zr) = (y, z, x) of ours and its gantry angle is our view angle beta, so an RTK
image indexed (zr, yr, xr) is ours transposed by (1, 2, 0).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid


@dataclass(frozen=True)
class Timed:
    """A result with its wall and CPU seconds."""

    value: Any
    wall_s: float
    cpu_s: float


def _image_type() -> Any:
    import itk

    return itk.Image[itk.F, 3]


def rtk_geometry(geometry: ConeBeamGeometry) -> Any:
    """RTK's geometry object: by angles on a circular orbit, by the poses' vectors on any other.

    On a circular orbit a panel's offset is in the origin of its images (`_projection_origin`).
    """
    from itk import RTK as rtk

    geo = rtk.ThreeDCircularProjectionGeometry.New()
    orbit = geometry.circular_orbit
    if orbit is not None:
        for angle in orbit.angles_rad:
            geo.AddProjection(orbit.sod_mm, orbit.sdd_mm, math.degrees(float(angle)))
        return geo
    for pose in geometry.poses:
        source, center, u_step, v_step = ([float(v[1]), float(v[2]), float(v[0])] for v in pose.reshape(4, 3))
        u_axis, v_axis = ([c / math.hypot(*step) for c in step] for step in (u_step, v_step))
        if not geo.AddProjection(source, center, u_axis, v_axis):
            raise ValueError(f"RTK does not take the pose {pose}")
    return geo


def _constant(size: tuple[int, ...], spacing: tuple[float, ...], origin: tuple[float, ...]) -> Any:
    from itk import RTK as rtk

    source = rtk.ConstantImageSource[_image_type()].New()
    source.SetOrigin([float(o) for o in origin])
    source.SetSpacing([float(x) for x in spacing])
    source.SetSize([int(x) for x in size])
    source.SetConstant(0.0)
    source.Update()  # a source that Python drops before its update leaves an empty image
    return source.GetOutput()


def _projection_origin(geometry: ConeBeamGeometry) -> tuple[float, float, float]:
    orbit = geometry.circular_orbit
    pitch_v, pitch_u = geometry.pitch_mm
    if orbit is None:
        return -(geometry.n_cols - 1) / 2 * pitch_u, -(geometry.n_rows - 1) / 2 * pitch_v, 0.0
    return -orbit.center_col * orbit.pitch_u_mm, -orbit.center_row * orbit.pitch_v_mm, 0.0


def volume_image(grid: VolumeGrid) -> Any:
    """An empty volume of RTK."""
    (nz, ny, nx), (pz, py, px), (ox, oy, oz) = grid.shape, grid.voxel_pitch_mm, grid.origin_mm
    return _constant((ny, nz, nx), (py, pz, px), (oy, oz, ox))


def shepp_logan(geometry: ConeBeamGeometry, grid: VolumeGrid, scale_mm: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """RTK's Shepp-Logan phantom: (projections (view, row, col), truth (z, y, x)), float32."""
    import itk
    from itk import RTK as rtk

    image = _image_type()
    pitch_v, pitch_u = geometry.pitch_mm
    project = rtk.SheppLoganPhantomFilter[image, image].New()
    size = (geometry.n_cols, geometry.n_rows, geometry.n_views)
    project.SetInput(_constant(size, (pitch_u, pitch_v, 1.0), _projection_origin(geometry)))
    project.SetGeometry(rtk_geometry(geometry))
    project.SetPhantomScale(scale_mm)
    project.Update()
    draw = rtk.DrawSheppLoganFilter[image, image].New()
    draw.SetInput(volume_image(grid))
    draw.SetPhantomScale(scale_mm)
    draw.Update()
    projections = itk.array_from_image(project.GetOutput()).astype(np.float32)
    return projections, to_zyx(itk.array_from_image(draw.GetOutput()))


def projection_image(projections: NDArray[Any], geometry: ConeBeamGeometry) -> Any:
    """The caller's projections (view, row, col) float32 as an image of RTK: a view, not a copy."""
    import itk

    pitch_v, pitch_u = geometry.pitch_mm
    image = itk.image_view_from_array(projections)
    image.SetSpacing([pitch_u, pitch_v, 1.0])
    image.SetOrigin(list(_projection_origin(geometry)))
    return image


def to_zyx(array: NDArray[Any]) -> NDArray[Any]:
    """RTK's (zr, yr, xr) to our (z, y, x)."""
    return np.ascontiguousarray(np.transpose(array, (1, 2, 0)))


def fdk(
    projections: NDArray[Any],
    geometry: ConeBeamGeometry,
    grid: VolumeGrid,
    *,
    threads: int,
    subset: int,
    weights: str = "",
) -> Timed:
    """RTK's CPU FDK with no window and no padding tricks; `weights` may be ``parker`` or ``wang``."""
    import itk
    from itk import RTK as rtk

    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
    image = projection_image(projections, geometry)
    geo, volume = rtk_geometry(geometry), volume_image(grid)
    wall, cpu = time.perf_counter(), time.process_time()
    if weights:
        filters = {"parker": rtk.ParkerShortScanImageFilter, "wang": rtk.DisplacedDetectorImageFilter}
        weight = filters[weights][_image_type()].New()
        weight.InPlaceOff()  # or it would weight the caller's array
        weight.SetInput(image)
        weight.SetGeometry(geo)
        weight.Update()
        image = weight.GetOutput()
    recon = rtk.FDKConeBeamReconstructionFilter[_image_type()].New()
    recon.SetInput(0, volume)
    recon.SetInput(1, image)
    recon.SetGeometry(geo)
    recon.SetProjectionSubsetSize(subset)
    recon.GetRampFilter().SetTruncationCorrection(0.0)
    recon.GetRampFilter().SetHannCutFrequency(0.0)
    recon.Update()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Timed(to_zyx(itk.array_from_image(recon.GetOutput())), wall, cpu)
