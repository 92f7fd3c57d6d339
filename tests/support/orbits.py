# SPDX-License-Identifier: Apache-2.0
"""Scans on all kinds of orbits, and a phantom whose regions are known, for the tests of reconstruction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.phantom import Cylinder, Ellipsoid, Phantom, rotation_about

if TYPE_CHECKING:
    from numpy.typing import NDArray

MU = 0.02
#: Flat regions of `pillars` of 12 mm radius: name, x, y, radius [mm], mu.
REGIONS = (("dense", 5.0, 2.0, 2.0, 2 * MU), ("light", -5.0, -4.0, 2.0, MU / 2), ("plain", -6.0, 6.0, 2.0, MU))


def degrees(start: float, stop: float, step: float = 1.0) -> NDArray[np.float64]:
    """Angles in steps of some degrees [rad]."""
    return np.asarray(np.radians(np.arange(start, stop, step)), dtype=np.float64)


def circle(angles_rad: NDArray[np.float64], **changes: Any) -> ConeBeamGeometry:
    """A circle of a small scanner: field of up to 24 mm radius, 100 columns of 0.8 mm."""
    values: dict[str, Any] = {
        "sod_mm": 100.0, "sdd_mm": 160.0, "n_rows": 30, "n_cols": 100, "pitch_u_mm": 0.8, "pitch_v_mm": 0.8,
    }  # fmt: skip
    return ConeBeamGeometry.circular(angles_rad=angles_rad, **(values | changes))


def together(*parts: ConeBeamGeometry) -> ConeBeamGeometry:
    """All views of several scans with the same panel."""
    return ConeBeamGeometry(np.concatenate([p.poses for p in parts]), parts[0].n_rows, parts[0].n_cols)


def stack(heights_mm: tuple[float, ...], angles_rad: NDArray[np.float64], **changes: Any) -> ConeBeamGeometry:
    """The same circle at several heights."""
    return together(*(circle(angles_rad, z_mm=z, **changes) for z in heights_mm))


def helix(n_turns: float, per_turn: int, pitch_mm: float, **changes: Any) -> ConeBeamGeometry:
    """A helix about z = 0; source and panel rise together."""
    n_views = round(n_turns * per_turn)
    angles = np.linspace(0.0, 2 * math.pi * n_views / per_turn, n_views, endpoint=False)
    plain = circle(angles, **changes)
    poses = plain.poses.copy()
    rise = (angles / (2 * math.pi) - n_turns / 2) * pitch_mm
    poses[:, 2] += rise
    poses[:, 5] += rise
    return ConeBeamGeometry(poses, plain.n_rows, plain.n_cols)


def stepped(
    offsets_mm: tuple[float, ...], turned_steps: tuple[float, ...], n_views: int, **changes: Any
) -> ConeBeamGeometry:
    """A narrow camera that goes round once for each sideways position, its angles turned by shares of a step."""
    step = 2 * math.pi / n_views
    return together(
        *(
            circle((np.arange(n_views) + turned) * step, offset_u_mm=offset, **changes)
            for offset, turned in zip(offsets_mm, turned_steps, strict=True)
        )
    )


def tilted(
    geometry: ConeBeamGeometry, *, roll_deg: float = 0.0, pitch_deg: float = 0.0, yaw_deg: float = 0.0
) -> ConeBeamGeometry:
    """The same panels, turned about their normal, their rows and their columns."""
    poses = geometry.poses.copy()
    for pose in poses:
        u, v = pose[6:9].copy(), pose[9:12].copy()
        turn = np.eye(3)
        for axis, angle in ((np.cross(u, v), roll_deg), (u, pitch_deg), (v, yaw_deg)):
            x, y, z = (float(a) for a in axis)
            turn = np.array(rotation_about((x, y, z), math.radians(angle))) @ turn
        pose[6:9], pose[9:12] = turn @ u, turn @ v
    return ConeBeamGeometry(poses, geometry.n_rows, geometry.n_cols)


def pillars(radius_mm: float = 12.0) -> Phantom:
    """A tall pillar with two thinner ones inside (twice and half of `MU`), and small balls along the axis."""
    r = radius_mm / 12
    balls = tuple(Ellipsoid((2 * r, -6 * r, float(z)), (2 * r,) * 3, MU / 2) for z in range(-20, 21, 5))
    return Phantom(
        (
            Cylinder((0.0, 0.0, 0.0), (12 * r, 12 * r, 100.0), MU),
            Cylinder((5 * r, 2 * r, 0.0), (3 * r, 3 * r, 100.0), MU),
            Cylinder((-5 * r, -4 * r, 0.0), (3 * r, 4 * r, 100.0), -MU / 2),
            *balls,
        )
    )


def regions(volume: NDArray[Any], grid: VolumeGrid, radius_mm: float = 12.0) -> dict[str, NDArray[np.float64]]:
    """Mean of each slice in flat regions of `pillars`, over what it should be."""
    r = radius_mm / 12
    x0, y0, _ = grid.origin_mm
    _, py, px = grid.voxel_pitch_mm
    _, ny, nx = grid.shape
    x, y = x0 + px * np.arange(nx), y0 + py * np.arange(ny)
    made = {}
    for name, cx, cy, radius, truth in REGIONS:
        inside = np.hypot(x[None, :] - cx * r, y[:, None] - cy * r) < radius * r
        made[name] = volume[:, inside].astype(np.float64).mean(axis=1) / truth
    return made
