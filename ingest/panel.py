# SPDX-License-Identifier: Apache-2.0
"""Move and turn the panel of given poses in its own plane: what a description corrects in a reader's geometry."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry


def place_panel(
    geometry: ConeBeamGeometry,
    *,
    offset_u_mm: float | None = None,
    offset_v_mm: float | None = None,
    roll_rad: float | None = None,
) -> ConeBeamGeometry:
    """Return the geometry with every panel shifted and rolled within its plane; what is None stays as it is.

    Parameters
    ----------
    geometry : poses whose panels have rectangular pixels.
    offset_u_mm, offset_v_mm : by how much the middle of the panel shall lie beside the foot of the central ray (the
        perpendicular from the source) along the panel's own u and v [mm].
    roll_rad : how far the panel shall be turned about its normal, at the foot of the central ray [rad].  Positive is
        counter-clockwise as seen from the source: then an upright rotation axis casts a shadow that leans to higher u
        towards higher v, by this angle, which is what `reconstruction.rotation_axis.AxisLine.roll_rad` measures.
    """
    turn = None
    if roll_rad is not None:
        u, v = (_unit(geometry.poses[:, k : k + 3]) for k in (6, 9))
        turn = roll_rad - np.arctan2(u[:, 2:], v[:, 2:])
    return turn_panel(geometry, turn, offset_u_mm=offset_u_mm, offset_v_mm=offset_v_mm)


def turn_panel(
    geometry: ConeBeamGeometry,
    turn_rad: float | NDArray[np.float64] | None,
    *,
    offset_u_mm: float | None = None,
    offset_v_mm: float | None = None,
) -> ConeBeamGeometry:
    """Return the geometry with every panel turned further about its normal, at the foot of the central ray.

    Parameters
    ----------
    turn_rad : for all views, or (view, 1): counter-clockwise as seen from the source [rad]; None turns nothing.
    offset_u_mm, offset_v_mm : as for `place_panel`.
    """
    poses = np.array(geometry.poses)
    source, center = poses[:, 0:3], poses[:, 3:6]
    pitch_u, pitch_v = (np.linalg.norm(poses[:, k : k + 3], axis=1, keepdims=True) for k in (6, 9))
    u, v = poses[:, 6:9] / pitch_u, poses[:, 9:12] / pitch_v
    normal = np.cross(u, v)
    foot = source + np.sum((center - source) * normal, axis=1, keepdims=True) * normal
    along_u, along_v = (np.sum((center - foot) * way, axis=1, keepdims=True) for way in (u, v))
    if offset_u_mm is not None:
        along_u = np.full_like(along_u, offset_u_mm)
    if offset_v_mm is not None:
        along_v = np.full_like(along_v, offset_v_mm)
    if turn_rad is not None:
        u, v = np.cos(turn_rad) * u + np.sin(turn_rad) * v, np.cos(turn_rad) * v - np.sin(turn_rad) * u
    poses[:, 3:6] = foot + along_u * u + along_v * v
    poses[:, 6:9], poses[:, 9:12] = pitch_u * u, pitch_v * v
    return replace(geometry, poses=poses)


def _unit(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions of the steps (view, 3)."""
    return np.asarray(steps / np.linalg.norm(steps, axis=1, keepdims=True))
