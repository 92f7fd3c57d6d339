# SPDX-License-Identifier: Apache-2.0
"""What a scan's geometry means for a person: lengths, magnification, what the panel sees of the field."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from reconstruction.coverage import covered_radius_mm
from reconstruction.orbits import find_orbits
from reconstruction.rectify import virtual_views

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry
    from reconstruction.orbits import Orbits, Track
    from reconstruction.virtual_views import VirtualViews

    Float64Array = NDArray[np.float64]

#: A side of the panel is the short one if it ends nearer to the axis than the other by this share.
_OFFSET_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class GeometryFacts:
    """Numbers drawn from the poses; lengths in mm, angles in degrees.

    Attributes
    ----------
    orbit : what the views lie on, in words.
    n_positions : places beside each other that the camera had.
    views_per_turn : views from different directions: all, over circles, turns and camera positions.
    panel_columns : columns that a panel as wide as all camera positions together would have.
    is_circular : whether all views lie on one circle with the panel upright.
    sod_mm, sdd_mm, magnification : float
    pitch_mm, voxel_mm : (v, u)
        Pixel pitch, and its image at the rotation axis: the natural voxel pitch.
    center_row, center_col : foot of the central ray, None unless circular.
    field_radius_mm : radius about the axis that every view sees on both sides, camera positions at the same angle taken
        together; negative if the axis is not seen.
    reach_radius_mm : radius that every view sees on one side at least; larger for an offset panel.
    short_side : ``first`` or ``last`` columns, those of an offset panel that end nearer to the axis; else None.
    field_height_mm : what the panel sees of the axis itself, on all circles and turns.
    fan_angle_deg, cone_angle_deg : opening of the beam that hits the panel, across and along the axis.
    arc_deg : what the views of a circle cover; all turns of a helix.
    is_full_turn : whether they go all the way round.
    step_deg, step_deviation_deg : mean step between views, and by how much one step differs from it at most.
    sense : which way the source goes round, seen from +z.
    """

    orbit: str
    n_positions: int
    views_per_turn: float
    panel_columns: int
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
    short_side: Literal["first", "last"] | None
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
    made = virtual_views(geometry, rectify=True)
    whole, virtual = (geometry, None) if made is None else made
    orbits = find_orbits(whole)
    turns = [_turns(track, orbits.kind) for track in orbits.tracks]
    is_full = all(turn >= 1.0 for turn in turns) and (orbits.kind != "circle" or whole.is_full_turn or len(turns) > 1)
    orbit = geometry.circular_orbit
    sod, sdd = geometry.sod_mm, geometry.sdd_mm
    pitch = geometry.pitch_mm
    first, last = _seen_radii(whole)
    if orbits.n_positions > 1:
        first = last = np.array([covered_radius_mm(whole)])
    field, reach = float(np.minimum(first, last).min()), float(np.maximum(first, last).min())
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
    arc = max(turns) if orbits.kind != "circle" or len(turns) > 1 else whole.arc_rad / (2 * math.pi)
    return GeometryFacts(
        orbit=_in_words(geometry, orbits, virtual, max(turns)),
        n_positions=max(orbits.n_positions, 1 if virtual is None else virtual.n_slots),
        views_per_turn=whole.n_views / sum(max(1.0, turn) for turn in turns),
        panel_columns=round(whole.n_cols * whole.pitch_mm[1] / pitch[1]),
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
        short_side=_short_side(first, last),
        field_height_mm=float(np.abs(z_high - z_low).mean() + (np.ptp(source[:, 2]) if orbits.kind != "circle" else 0)),
        fan_angle_deg=_opening_deg(geometry, half_u * geometry.poses[:, 6:9]),
        cone_angle_deg=_opening_deg(geometry, half_v * geometry.poses[:, 9:12]),
        arc_deg=360.0 * arc,
        is_full_turn=is_full,
        step_deg=math.degrees(abs(mean_step)),
        step_deviation_deg=math.degrees(float(np.abs(steps - mean_step).max())) if steps.size else 0.0,
        sense=sense,
    )


def _turns(track: Track, kind: str) -> float:
    """Turns that a camera position measured; a full one where nothing is missing."""
    if not track.runs:
        return 1.0
    return (track.runs[-1][1] - track.runs[0][0] if kind == "helix" else _measured(track)) / (2 * math.pi)


def _measured(track: Track) -> float:
    """Angle that the views of a circle stand for without its holes [rad]."""
    return sum(stop - start for start, stop in track.runs)


def _in_words(geometry: ConeBeamGeometry, orbits: Orbits, virtual: VirtualViews | None, turns: float) -> str:
    """What the views lie on."""
    rings = len(orbits.ring_heights_mm)
    words = {
        "circle": "circular" if geometry.circular_orbit is not None else "circle",
        "stack": f"{rings} circles along the axis",
        "helix": f"helix of {turns:.3g} turns",
    }.get(orbits.kind, "neither circle, stack of circles nor helix")
    if virtual is not None and virtual.merged:
        words += f", {virtual.n_slots} camera positions side by side"
    elif orbits.n_positions > 1:
        words += f", {orbits.n_positions} camera positions at angles of their own"
    return words + (", tilted panels" if virtual is not None and virtual.rectified else "")


def _short_side(first: Float64Array, last: Float64Array) -> Literal["first", "last"] | None:
    """Which side of the panel ends nearer to the axis in every view."""
    if np.all(first < last * (1 - _OFFSET_SHARE)):
        return "first"
    return "last" if np.all(last < first * (1 - _OFFSET_SHARE)) else None


def _seen_radii(geometry: ConeBeamGeometry) -> tuple[Float64Array, Float64Array]:
    """Radius about +z that each view sees towards its first columns, and towards its last ones [mm]."""
    source, center = geometry.poses[:, 0:2], geometry.poses[:, 3:5]
    half = geometry.n_cols / 2 * geometry.poses[:, 6:8]
    sides = []
    for edge, sign in ((center - half, -1.0), (center + half, 1.0)):
        ray = edge - source
        # Distance of the axis from the ray to the panel's edge, positive on the panel's side of it.
        cross = ray[:, 0] * -source[:, 1] - ray[:, 1] * -source[:, 0]
        sides.append(sign * cross / np.hypot(ray[:, 0], ray[:, 1]))
    return sides[0], sides[1]


def _opening_deg(geometry: ConeBeamGeometry, half: Float64Array) -> float:
    """Angle at the source between the middles of two opposite edges of the panel [deg], mean over the views."""
    ray = geometry.poses[:, 3:6] - geometry.poses[:, 0:3]
    one, other = ray + half, ray - half
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = np.einsum("vi,vi->v", one, other) / norms
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())
