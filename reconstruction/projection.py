# SPDX-License-Identifier: Apache-2.0
"""From points to pixels, for any pose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry


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
