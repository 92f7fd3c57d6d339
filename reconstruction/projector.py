# SPDX-License-Identifier: Apache-2.0
"""Exact line integrals of analytic phantoms, for any pose.

A ray runs from the source (t = 0) to the pixel's centre (t = 1).  In a shape's local coordinates the shape is the
unit ball or cylinder and the ray is still a straight line, so that its ends follow from one quadratic equation; what
lies before the source or behind the pixel does not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reconstruction.errors import ParameterError
from reconstruction.phantom import Cylinder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry
    from reconstruction.phantom import Phantom, Shape

    Float64Array = NDArray[np.float64]
    Float32Array = NDArray[np.float32]

#: Pixels worked on at a time: the temporaries stay in the processor's cache.
CHUNK_PIXELS = 16384
#: Stands in for a zero divisor where a ray runs along a cylinder's axis or in its end planes.
_TINY = 1e-200


def forward_project(
    phantom: Phantom,
    geometry: ConeBeamGeometry,
    view_indices: Sequence[int] | NDArray[np.int64] | None = None,
    *,
    supersample: int = 1,
) -> Float32Array:
    """Integrate a phantom along the rays from the source to each pixel.

    Parameters
    ----------
    phantom : Phantom
        Densities [1/mm].
    geometry : ConeBeamGeometry
    view_indices : sequence of int, optional
        The views to make, in this order; all of them if left out.
    supersample : int
        Rays along each side of a pixel whose line integrals are averaged; 1 aims at the pixel's centre.

    Returns
    -------
    (view, row, col) float32
        Line integrals [1].

    Raises
    ------
    ParameterError
        If a view does not exist or `supersample` is below 1.
    """
    views = range(geometry.n_views) if view_indices is None else [int(v) for v in view_indices]
    out = np.empty((len(views), geometry.n_rows, geometry.n_cols), dtype=np.float32)
    for place, view in enumerate(views):
        if not 0 <= view < geometry.n_views:
            raise ParameterError(f"view {view} does not exist: the geometry has {geometry.n_views} views")
        pose = geometry.poses[view]
        out[place] = project_pose(phantom, pose, geometry.n_rows, geometry.n_cols, supersample=supersample)
    return out


def project_pose(
    phantom: Phantom, pose: Float64Array, n_rows: int, n_cols: int, *, supersample: int = 1
) -> Float64Array:
    """Integrate a phantom for one pose.

    Parameters
    ----------
    phantom : Phantom
    pose : (12,) float64
        Source, detector centre, u step, v step [mm], as `reconstruction.geometry.Pose.as_array`.
    n_rows, n_cols : int
    supersample : int
        As in `forward_project`.

    Returns
    -------
    (row, col) float64
        Line integrals [1].
    """
    if supersample < 1:
        raise ParameterError(f"supersample must be at least 1, got {supersample}")
    offsets = (np.arange(supersample) + 0.5) / supersample - 0.5
    total = np.zeros((n_rows, n_cols))
    for row_offset in offsets:
        for col_offset in offsets:
            for shape in phantom.shapes:
                _add_shape(total, shape, pose, float(row_offset), float(col_offset))
    if supersample > 1:
        total /= supersample**2
    return total


def _add_shape(total: Float64Array, shape: Shape, pose: Float64Array, row_offset: float, col_offset: float) -> None:
    """Add a shape's line integrals to the pixels that its shadow may reach."""
    source, center, u_step, v_step = pose[0:3], pose[3:6], pose[6:9], pose[9:12]
    n_rows, n_cols = total.shape
    box = _shadow_box(shape, pose, n_rows, n_cols)
    if box is None:
        return
    row_start, row_stop, col_start, col_stop = box
    # The ray to pixel (0, 0) of the panel; the others differ by whole steps.
    ray = center - source + (row_offset - (n_rows - 1) / 2) * v_step + (col_offset - (n_cols - 1) / 2) * u_step
    matrix = shape.local_matrix()
    start = matrix @ (source - np.asarray(shape.center_mm))
    ray_local, u_local, v_local = matrix @ ray, matrix @ u_step, matrix @ v_step
    cols = np.arange(col_start, col_stop, dtype=np.float64)
    band = max(1, CHUNK_PIXELS // cols.size)
    for low in range(row_start, row_stop, band):
        rows = np.arange(low, min(low + band, row_stop), dtype=np.float64)[:, None]
        way = [ray_local[k] + v_local[k] * rows + u_local[k] * cols for k in range(3)]
        near, far = _crossings(shape, start, way)
        share = np.minimum(far, 1.0)
        share -= np.maximum(near, 0.0, out=near)
        np.maximum(share, 0.0, out=share)
        share *= shape.density
        share *= _ray_lengths(ray, u_step, v_step, rows, cols)
        total[low : low + rows.size, col_start:col_stop] += share


def _ray_lengths(
    ray: Float64Array, u_step: Float64Array, v_step: Float64Array, rows: Float64Array, cols: Float64Array
) -> Float64Array:
    """Distance from the source to the pixels [mm]."""
    squares = np.zeros((rows.size, cols.size))
    for k in range(3):
        part = ray[k] + v_step[k] * rows + u_step[k] * cols
        squares += part * part
    return np.sqrt(squares)


def _crossings(shape: Shape, start: Float64Array, way: list[Float64Array]) -> tuple[Float64Array, Float64Array]:
    """Where the rays ``start + t way`` enter and leave a unit shape; leaving is not after entering for a miss."""
    if not isinstance(shape, Cylinder):
        return _quadric(start, way)
    near, far = _quadric(start[:2], way[:2])
    rise = np.where(way[2] == 0.0, _TINY, way[2])
    below, above = (-1.0 - start[2]) / rise, (1.0 - start[2]) / rise
    np.maximum(near, np.minimum(below, above), out=near)
    np.minimum(far, np.maximum(below, above), out=far)
    return near, far


def _quadric(start: Float64Array, way: list[Float64Array]) -> tuple[Float64Array, Float64Array]:
    """Crossings with the unit ball (three coordinates) or the endless unit cylinder (two)."""
    a = np.maximum(sum(w * w for w in way), _TINY)
    b = np.asarray(sum(float(s) * w for s, w in zip(start, way, strict=True)))
    root = b * b
    root -= a * (float(start @ start) - 1.0)
    missed = root <= 0.0
    np.maximum(root, 0.0, out=root)
    np.sqrt(root, out=root)
    far = (root - b) / a
    root += b
    near = np.negative(root, out=root)
    near /= a
    far[missed] = -1.0  # lies before the source: clipped away
    near[missed] = 0.0
    return near, far


def _shadow_box(shape: Shape, pose: Float64Array, n_rows: int, n_cols: int) -> tuple[int, int, int, int] | None:
    """Rows and columns (start, stop, start, stop) that the shape's shadow may reach; None if it misses the panel."""
    source, center, u_step, v_step = pose[0:3], pose[3:6], pose[6:9], pose[9:12]
    signs = np.array([[i, j, k] for i in (-1.0, 1.0) for j in (-1.0, 1.0) for k in (-1.0, 1.0)])
    corners = signs * np.asarray(shape.half_axes_mm) @ np.asarray(shape.rotation).T + np.asarray(shape.center_mm)
    # corner = source + depth * (centre - source + col * u_step + row * v_step)
    system = np.column_stack([center - source, u_step, v_step])
    solved = np.linalg.solve(system, (corners - source).T)
    depth = solved[0]
    if depth.max() <= 0.0:
        return None
    if depth.min() <= 1e-9:  # the shape surrounds the source or reaches beside it: no bounded shadow
        return 0, n_rows, 0, n_cols
    cols = solved[1] / depth + (n_cols - 1) / 2
    rows = solved[2] / depth + (n_rows - 1) / 2
    box = (
        max(0, int(np.floor(rows.min() - 0.5))),
        min(n_rows, int(np.ceil(rows.max() + 0.5)) + 1),
        max(0, int(np.floor(cols.min() - 0.5))),
        min(n_cols, int(np.ceil(cols.max() + 0.5)) + 1),
    )
    return box if box[0] < box[1] and box[2] < box[3] else None
