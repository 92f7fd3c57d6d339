# SPDX-License-Identifier: Apache-2.0
"""Weights of rays and views before the ramp filter.

For any flat panel the fan-beam formula in the panel's own pixel coordinates reads, with R the
distance of the source from the axis, D the distance of the source from the panel's plane, w(x)
the distance of the voxel from the source along the panel's normal and gamma the angle of the ray
to the line from the source to the axis::

    f(x) = sum over views of  1/2 dbeta  R D / w(x)^2  [ (p cos gamma) * h ](u(x), v(x))

(Kak and Slaney, Principles of Computerized Tomographic Imaging, section 3.4, written for a line
detector at any angle; Feldkamp, Davis and Kress 1984 for the cone).  For an upright panel it is
the usual weight ``sdd / sqrt(sdd^2 + u^2 + v^2)`` and ``sod sdd / U^2``.  A panel that leans towards the source has
rows at different horizontal distances d from it: each is a line detector of its own, and as U = d w / D the factor of
its rows is D / d on top.  Rows that run askew by an angle phi are filtered along a line that is longer by 1 / cos phi,
which the ramp makes smaller by cos phi: that comes on top as well.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.orbits import find_orbits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry

    Float64Array = NDArray[np.float64]


def cosine_weights(geometry: ConeBeamGeometry, view_index: int, row_start: int, row_stop: int) -> Float64Array:
    """Cosine of the angle between each ray of a view and the line from its source to the axis.

    On a panel that leans or rolls it comes times D / d / cos phi, see above.

    Parameters
    ----------
    geometry : ConeBeamGeometry
    view_index : int
    row_start, row_stop : int
        Rows wanted, counted from the panel's row 0.

    Returns
    -------
    (row, col) float64
    """
    pose = geometry.poses[view_index]
    source, center, u_step, v_step = pose[0:3], pose[3:6], pose[6:9], pose[9:12]
    radius = math.hypot(source[0], source[1])
    towards_axis = np.array([-source[0] / radius, -source[1] / radius, 0.0])
    cols = np.arange(geometry.n_cols) - (geometry.n_cols - 1) / 2
    rows = np.arange(row_start, row_stop, dtype=np.float64) - (geometry.n_rows - 1) / 2
    ray = (center - source) + rows[:, None, None] * v_step + cols[None, :, None] * u_step
    length = np.sqrt(np.einsum("rci,rci->rc", ray, ray))
    cosine = (ray @ towards_axis) / length
    if v_step[0] == 0 and v_step[1] == 0:
        return np.asarray(cosine, dtype=np.float64)
    return np.asarray(cosine * _lean(pose, rows)[:, None], dtype=np.float64)


def _lean(pose: Float64Array, rows: Float64Array) -> Float64Array:
    """D / d / cos phi of rows counted from the panel's middle: (row,)."""
    normal = np.cross(pose[6:9], pose[9:12])
    normal /= np.linalg.norm(normal)
    level = np.array([normal[0], normal[1], 0.0]) / math.hypot(normal[0], normal[1])
    to_center = pose[3:6] - pose[0:3]
    panel = float(normal @ to_center)
    # Where the panel's normal through the source meets it, rows are counted from there.
    foot = float(pose[9:12] @ (to_center - panel * normal)) / float(pose[9:12] @ pose[9:12])
    askew = math.hypot(pose[6], pose[7]) / float(np.linalg.norm(pose[6:9]))
    return np.asarray(panel / askew / (panel * (normal @ level) + (rows + foot) * (pose[9:12] @ level)))


def angular_gap_weights(geometry: ConeBeamGeometry) -> Float64Array:
    """Angle that each view stands for: half that from its neighbour before to its neighbour after on its track.

    Equal steps, unequal steps and doubled views sum to 2 pi on a full turn.  A hole in the arc is nobody's: the views
    beside it stand for half a usual step on that side.  Camera positions and circles count apart, and on a helix every
    turn does.

    Returns
    -------
    (view,) float64 [rad]
    """
    return find_orbits(geometry).shares_rad


def view_scales(geometry: ConeBeamGeometry) -> Float64Array:
    """Factor ``1/2 dbeta R D`` of each view; the back-projection divides by ``w(x)^2``.

    Returns
    -------
    (view,) float64 [rad mm^2]
    """
    poses = geometry.poses
    normal = np.cross(poses[:, 6:9], poses[:, 9:12])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    panel = np.abs(np.einsum("vi,vi->v", normal, poses[:, 3:6] - poses[:, 0:3]))
    radius = np.hypot(poses[:, 0], poses[:, 1])
    return np.asarray(0.5 * angular_gap_weights(geometry) * radius * panel, dtype=np.float64)
