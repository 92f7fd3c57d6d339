# SPDX-License-Identifier: Apache-2.0
"""What a scan's geometry means for a person: lengths, magnification, what the panel sees of the field."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry

    Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GeometryFacts:
    """Numbers drawn from the poses; lengths in mm, angles in degrees.

    Attributes
    ----------
    is_circular : whether all views lie on one circle with the panel upright.
    sod_mm, sdd_mm, magnification : float
    pitch_mm, voxel_mm : (v, u)
        Pixel pitch, and its image at the rotation axis: the natural voxel pitch.
    center_row, center_col : foot of the central ray, None unless circular.
    field_radius_mm : radius about the axis that every view sees on both sides; negative if the axis is not seen.
    reach_radius_mm : radius that every view sees on one side at least; larger for an offset panel.
    field_height_mm : what the panel sees of the axis itself.
    fan_angle_deg, cone_angle_deg : opening of the beam that hits the panel, across and along the axis.
    arc_deg : what the views cover.
    is_full_turn : whether they go all the way round.
    step_deg, step_deviation_deg : mean step between views, and by how much one step differs from it at most.
    sense : which way the source goes round, seen from +z.
    """

    is_circular: bool
    sod_mm: float
    sdd_mm: float
    magnification: float
    pitch_mm: tuple[float, float]
    voxel_mm: tuple[float, float]
    center_row: float | None
    center_col: float | None
    field_radius_mm: float
    reach_radius_mm: float
    field_height_mm: float
    fan_angle_deg: float
    cone_angle_deg: float
    arc_deg: float
    is_full_turn: bool
    step_deg: float
    step_deviation_deg: float
    sense: str


def geometry_facts(geometry: ConeBeamGeometry) -> GeometryFacts:
    """Return what the poses mean."""
    orbit = geometry.circular_orbit
    sod, sdd = geometry.sod_mm, geometry.sdd_mm
    pitch = geometry.pitch_mm
    field, reach = _seen_radii(geometry)
    half_u, half_v = geometry.n_cols / 2, geometry.n_rows / 2
    steps = np.diff(np.unwrap(geometry.source_angles_rad))
    mean_step = float(steps.mean()) if steps.size else 0.0
    if not steps.size:
        sense = "one view"
    elif (steps > 0).all():
        sense = "counter-clockwise"
    else:
        sense = "clockwise" if (steps < 0).all() else "back and forth"
    source, center = geometry.poses[:, 0:3], geometry.poses[:, 3:6]
    low, high = center[:, 2] - half_v * geometry.poses[:, 11], center[:, 2] + half_v * geometry.poses[:, 11]
    z_low, z_high = (source[:, 2] + (edge - source[:, 2]) * sod / sdd for edge in (low, high))
    return GeometryFacts(
        is_circular=orbit is not None,
        sod_mm=sod,
        sdd_mm=sdd,
        magnification=sdd / sod,
        pitch_mm=pitch,
        voxel_mm=(pitch[0] * sod / sdd, pitch[1] * sod / sdd),
        center_row=None if orbit is None else orbit.center_row,
        center_col=None if orbit is None else orbit.center_col,
        field_radius_mm=field,
        reach_radius_mm=reach,
        field_height_mm=float(np.abs(z_high - z_low).mean()),
        fan_angle_deg=_opening_deg(geometry, half_u * geometry.poses[:, 6:9]),
        cone_angle_deg=_opening_deg(geometry, half_v * geometry.poses[:, 9:12]),
        arc_deg=math.degrees(geometry.arc_rad),
        is_full_turn=geometry.is_full_turn,
        step_deg=math.degrees(abs(mean_step)),
        step_deviation_deg=math.degrees(float(np.abs(steps - mean_step).max())) if steps.size else 0.0,
        sense=sense,
    )


def _seen_radii(geometry: ConeBeamGeometry) -> tuple[float, float]:
    """Radius about +z that all views see on both sides, and on one side at least [mm]."""
    source, center = geometry.poses[:, 0:2], geometry.poses[:, 3:5]
    half = geometry.n_cols / 2 * geometry.poses[:, 6:8]
    sides = []
    for edge, sign in ((center + half, 1.0), (center - half, -1.0)):
        ray = edge - source
        # Distance of the axis from the ray to the panel's edge, positive on the panel's side of it.
        cross = ray[:, 0] * -source[:, 1] - ray[:, 1] * -source[:, 0]
        sides.append(sign * cross / np.hypot(ray[:, 0], ray[:, 1]))
    return float(np.minimum(*sides).min()), float(np.maximum(*sides).min())


def _opening_deg(geometry: ConeBeamGeometry, half: Float64Array) -> float:
    """Angle at the source between the middles of two opposite edges of the panel [deg], mean over the views."""
    ray = geometry.poses[:, 3:6] - geometry.poses[:, 0:3]
    one, other = ray + half, ray - half
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = np.einsum("vi,vi->v", one, other) / norms
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())
