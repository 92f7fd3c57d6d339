# SPDX-License-Identifier: Apache-2.0
"""What the panel sees of the field, and the refusal of what cannot be reconstructed right.

The *field* is a cylinder about the rotation axis.  Voxels outside it are 0 and are not computed.
Full turns with a panel that covers the field on both sides are reconstructed; anything else is
refused with what was got and what would be needed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.errors import GeometryError
from reconstruction.geometry import VolumeGrid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry

#: By how many pixels the shadow may stick out of the panel: interpolation at the very edge.
EDGE_TOLERANCE_PIXELS = 1.0
_CIRCLE_POINTS = 128


def field_radius_mm(grid: VolumeGrid, wanted_mm: float | None = None) -> float:
    """Radius of the field: as wanted, or what the grid suggests.

    A grid centred on the axis has its inscribed circle as the field; one beside the axis (a region
    of interest) reaches out to its farthest corner.
    """
    if wanted_mm is not None:
        if not (math.isfinite(wanted_mm) and wanted_mm > 0):
            raise GeometryError(f"the field's radius must be a positive length, got {wanted_mm} mm")
        return wanted_mm
    _, ny, nx = grid.shape
    _, py, px = grid.voxel_pitch_mm
    cx, cy, _ = grid.center_mm
    if abs(cx) <= px / 2 and abs(cy) <= py / 2:
        return min(nx * px, ny * py) / 2
    return grid.field_radius_mm()


def shadow(
    geometry: ConeBeamGeometry, radius_mm: float, z_low_mm: float, z_high_mm: float
) -> tuple[float, float, float, float]:
    """Return the shadow of a cylinder about the axis: (first col, last col, first row, last row), over all views.

    Fractional pixel indices, pixel centres at integers, not cut to the panel.

    Raises
    ------
    GeometryError
        If the cylinder reaches the source of a view.
    """
    orbit = geometry.circular_orbit
    nearest = float(np.hypot(geometry.poses[:, 0], geometry.poses[:, 1]).min())
    if radius_mm >= nearest:
        raise GeometryError(
            f"a field of radius {radius_mm:.4g} mm reaches the source, which is {nearest:.4g} mm from the axis"
        )
    if orbit is None:
        return _sampled_shadow(geometry, radius_mm, z_low_mm, z_high_mm)
    half_width = orbit.sdd_mm * radius_mm / math.sqrt(orbit.sod_mm**2 - radius_mm**2) / orbit.pitch_u_mm
    rows = [
        orbit.center_row + orbit.sdd_mm * (z - orbit.z_mm) / (orbit.sod_mm + side * radius_mm) / orbit.pitch_v_mm
        for z in (z_low_mm, z_high_mm)
        for side in (-1, 1)
    ]
    return orbit.center_col - half_width, orbit.center_col + half_width, min(rows), max(rows)


def _sampled_shadow(
    geometry: ConeBeamGeometry, radius_mm: float, z_low_mm: float, z_high_mm: float
) -> tuple[float, float, float, float]:
    """Shadow by projecting the corners of a polygon round the cylinder's ends, for any poses."""
    angle = 2 * np.pi * np.arange(_CIRCLE_POINTS) / _CIRCLE_POINTS
    outside = radius_mm / math.cos(math.pi / _CIRCLE_POINTS)
    ring = np.stack([outside * np.cos(angle), outside * np.sin(angle), np.zeros_like(angle)], axis=1)
    points = np.concatenate([ring + np.array([0, 0, z]) for z in (z_low_mm, z_high_mm)])
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for matrix in projection_matrices(geometry):
        col, row, depth = matrix[:, :3] @ points.T + matrix[:, 3:4]
        if depth.min() <= 0:
            raise GeometryError(f"a field of radius {radius_mm:.4g} mm reaches behind the source of a view")
        pixel = np.stack([col / depth, row / depth])
        low, high = np.minimum(low, pixel.min(axis=1)), np.maximum(high, pixel.max(axis=1))
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def projection_matrices(geometry: ConeBeamGeometry) -> NDArray[np.float64]:
    """Return the matrices that project a point to pixels.

    ``(a, b, w) = M (x, y, z, 1)``; ``a / w`` is the column, ``b / w`` the row (pixel centres at
    integers) and w the distance from the source along the panel's normal [mm].

    Returns
    -------
    (view, 3, 4) float64
    """
    poses = geometry.poses
    source, center = poses[:, 0:3], poses[:, 3:6]
    u_step, v_step = poses[:, 6:9], poses[:, 9:12]
    normal = np.cross(u_step, v_step)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    panel = np.einsum("vi,vi->v", normal, center - source)
    flip = np.where(panel < 0, -1.0, 1.0)
    normal, panel = normal * flip[:, None], panel * flip
    # Dual vectors of u_step and v_step within the panel's plane: they measure in pixels.
    uu, vv = np.einsum("vi,vi->v", u_step, u_step), np.einsum("vi,vi->v", v_step, v_step)
    uv = np.einsum("vi,vi->v", u_step, v_step)
    area = uu * vv - uv * uv
    u_dual = (vv[:, None] * u_step - uv[:, None] * v_step) / area[:, None]
    v_dual = (uu[:, None] * v_step - uv[:, None] * u_step) / area[:, None]
    offset = source - center
    middle = np.array([(geometry.n_cols - 1) / 2, (geometry.n_rows - 1) / 2])
    # Point on the panel: source + (p - source) panel / w.  In pixels from the middle, times w:
    # w (offset . dual) + panel ((p - source) . dual).
    matrices = np.empty((geometry.n_views, 3, 4))
    for index, dual in enumerate((u_dual, v_dual)):
        foot = np.einsum("vi,vi->v", dual, offset) + middle[index]
        matrices[:, index, :3] = panel[:, None] * dual + foot[:, None] * normal
    matrices[:, 2, :3] = normal
    matrices[:, :, 3] = -np.einsum("vki,vi->vk", matrices[:, :, :3], source)
    return matrices


def check_full_turn(geometry: ConeBeamGeometry) -> None:
    """Refuse views that do not go all the way round.

    Raises
    ------
    GeometryError
        With the arc that was got.
    """
    if geometry.n_views < 3 or not geometry.is_full_turn:
        arc = math.degrees(geometry.arc_rad)
        raise GeometryError(
            f"the {geometry.n_views} views cover an arc of {arc:.4g} degrees; a full turn of 360 degrees is needed, "
            f"since lines through the field along the missing directions are measured by no view"
        )


def check_reconstructable(geometry: ConeBeamGeometry, grid: VolumeGrid, radius_mm: float) -> None:
    """Refuse a scan whose field has lines that nothing measures.

    Raises
    ------
    GeometryError
        With the arc, the gap or the width that was got, and what is needed.
    """
    check_full_turn(geometry)
    z_low, z_high = _z_range(grid)
    first, last, _, _ = shadow(geometry, radius_mm, z_low, z_high)
    if first < -0.5 - EDGE_TOLERANCE_PIXELS or last > geometry.n_cols - 0.5 + EDGE_TOLERANCE_PIXELS:
        fits = covered_radius_mm(geometry)
        raise GeometryError(
            f"the panel covers columns 0 to {geometry.n_cols - 1}, but the shadow of the field of radius "
            f"{radius_mm:.4g} mm reaches from column {first:.1f} to {last:.1f}; up to {fits:.4g} mm are covered"
        )


def _z_range(grid: VolumeGrid) -> tuple[float, float]:
    """Heights of the first and last slice's centres [mm]."""
    low = grid.origin_mm[2]
    return low, low + (grid.shape[0] - 1) * grid.voxel_pitch_mm[0]


def covered_radius_mm(geometry: ConeBeamGeometry) -> float:
    """Largest radius about the axis whose shadow the panel covers on both sides in every view; 0 if none."""
    low, high = 0.0, float(np.hypot(geometry.poses[:, 0], geometry.poses[:, 1]).min()) * (1 - 1e-9)
    orbit = geometry.circular_orbit
    if orbit is not None:
        reach = min(orbit.center_col + 0.5, geometry.n_cols - 0.5 - orbit.center_col) * orbit.pitch_u_mm
        return orbit.sod_mm * math.sin(math.atan(max(0.0, reach) / orbit.sdd_mm))
    for _ in range(40):
        middle = (low + high) / 2
        try:
            first, last, _, _ = _sampled_shadow(geometry, middle, 0.0, 0.0)
            fits = first >= -0.5 and last <= geometry.n_cols - 0.5
        except GeometryError:
            fits = False
        low, high = (middle, high) if fits else (low, middle)
    return low


def covered_z_mm(geometry: ConeBeamGeometry, radius_mm: float) -> tuple[float, float]:
    """Heights between which the whole disc of that radius is seen by every view [mm]."""
    orbit = geometry.circular_orbit
    nearest = geometry.sod_mm - radius_mm
    if orbit is not None:
        scale = orbit.pitch_v_mm / orbit.sdd_mm
        low = (-0.5 - orbit.center_row) * scale
        high = (geometry.n_rows - 0.5 - orbit.center_row) * scale
        # The disc is seen enlarged most at its near edge; a plane beyond the panel's edge shrinks towards it.
        near, far = orbit.sod_mm - radius_mm, orbit.sod_mm + radius_mm
        return orbit.z_mm + low * (near if low < 0 else far), orbit.z_mm + high * (near if high > 0 else far)
    pitch_v = geometry.pitch_mm[0]
    half = geometry.n_rows / 2 * pitch_v * nearest / geometry.sdd_mm
    middle = float(geometry.poses[:, 2].mean())
    return middle - half, middle + half


def uncovered_slices(geometry: ConeBeamGeometry, grid: VolumeGrid, radius_mm: float) -> int:
    """How many slices have voxels in the field that some view does not see (cone angle)."""
    low, high = covered_z_mm(geometry, radius_mm)
    z = grid.origin_mm[2] + np.arange(grid.shape[0]) * grid.voxel_pitch_mm[0]
    slack = grid.voxel_pitch_mm[0] / 2
    return int(np.count_nonzero((z < low - slack) | (z > high + slack)))


def default_grid(geometry: ConeBeamGeometry, voxel_pitch_mm: float | None = None) -> VolumeGrid:
    """Return the largest grid of cubic voxels that the panel covers whole.

    The voxel pitch defaults to the pixel pitch at the axis (pitch x sod / sdd).  The sides in x and y are
    equal and even, so that the four-fold kernel applies.

    Raises
    ------
    GeometryError
        If the panel covers nothing around the axis.
    """
    pitch = voxel_pitch_mm if voxel_pitch_mm is not None else geometry.pitch_mm[1] * geometry.sod_mm / geometry.sdd_mm
    if not (math.isfinite(pitch) and pitch > 0):
        raise GeometryError(f"the voxel pitch must be a positive length, got {pitch} mm")
    radius = covered_radius_mm(geometry)
    side = 2 * math.floor(radius / pitch + 1e-6)
    low, high = covered_z_mm(geometry, radius)
    n_slices = math.floor((high - low) / pitch + 1e-6)
    if side < 2 or n_slices < 1:
        raise GeometryError(
            f"the panel covers a field of radius {radius:.4g} mm and height {max(0.0, high - low):.4g} mm about the "
            f"rotation axis, which holds no voxel of {pitch:.4g} mm"
        )
    return VolumeGrid((n_slices, side, side), (pitch, pitch, pitch), (0.0, 0.0, (low + high) / 2))
