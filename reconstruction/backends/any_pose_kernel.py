# SPDX-License-Identifier: Apache-2.0
"""Back-projection for any pose: tilted panels, steps too long for the upright kernel.

Layouts and tiles as in `upright_kernels`.  Along z the numerators of column and row and the depth are linear, so a run
of voxels needs one division a voxel and no matrix.  Pixels are counted from the run's own first pixel: float32 then
holds them to a millionth of a pixel, whatever the size of the panel.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from reconstruction.backends.simd import add_any_pose, lanes_of
from reconstruction.backends.upright_kernels import FAST, TILE

#: Numba's cache looks at a function's own file alone.  What is compiled from others stands here, so that a change of
#: theirs changes this file too (a test holds it).
COMPILED_WITH = {"simd": "748d07dd8ff0", "upright_kernels": "798ef4dca3b6"}
_F = np.float32
#: A run this close to the border is done voxel by voxel: rounding could reach one pixel too far.
_BORDER = 1e-3


@nb.njit(inline="always")
def _span_is_inside(c, r, d, steps, count, limits):
    """Whether the voxels 0 to `count` of a line project within the limits: ratios are monotonic along the line."""
    near, far = 1.0 / d, 1.0 / (d + count * steps[2])
    u1, u2 = c * near, (c + count * steps[0]) * far
    v1, v2 = r * near, (r + count * steps[1]) * far
    wide = min(u1, u2) > limits[0] and max(u1, u2) < limits[1]
    return wide and min(v1, v2) > limits[2] and max(v1, v2) < limits[3]


@nb.njit(**FAST)
def back_project_any_pose(
    isa_tag, weighted_tag, views, volume, matrices, scales, factors, grid, starts, spans, tile_start, tile_stop
):
    """Add views (view, col, row) with zero borders to a volume (y, x, z).

    matrices (view, 3, 4): column and row, in pixels of the bordered panel, and depth [mm] as numerators and
    denominator; scales (view,) over depth^2 is the weight; grid: x0, y0, z0, pitch x, pitch y, pitch z; the rest as for
    `back_project_upright`.
    """
    z_start, y_start, x_start, col_offset = starts
    n_views, n_cols, n_rows = views.shape
    ny, nx, nz = volume.shape
    tiles = (nx + TILE - 1) // TILE
    x0, y0, z0, pitch_x, pitch_y, pitch_z = grid
    row_offset, radius2 = spans
    lanes = lanes_of(isa_tag)
    weighted = len(weighted_tag) == 2
    base = np.uintp(views.ctypes.data)
    out = np.uintp(volume.ctypes.data)
    weights, factor_bytes = np.uintp(factors.ctypes.data), np.uintp(4 * factors.shape[1])
    limits = (
        col_offset + _BORDER, col_offset + n_cols - 1 - _BORDER, row_offset + _BORDER, row_offset + n_rows - 1 - _BORDER
    )  # fmt: skip
    for tile in range(tile_start, tile_stop):
        ya, xa = (tile // tiles) * TILE, (tile % tiles) * TILE
        for a in range(n_views):
            m = matrices[a]
            scale = scales[a]
            dc, dr, dd = m[0, 2] * pitch_z, m[1, 2] * pitch_z, m[2, 2] * pitch_z
            view = base + np.uintp(4) * np.uintp(a * n_cols * n_rows)
            share = weights + factor_bytes * np.uintp(a)
            for iy in range(ya, min(ny, ya + TILE)):
                y = y0 + (y_start + iy) * pitch_y
                for ix in range(xa, min(nx, xa + TILE)):
                    x = x0 + (x_start + ix) * pitch_x
                    if x * x + y * y > radius2:
                        continue
                    ca = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z0 + m[0, 3]
                    ra = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z0 + m[1, 3]
                    da = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z0 + m[2, 3]
                    o = out + np.uintp(4) * np.uintp((iy * nx + ix) * nz)
                    steps = (dc, dr, dd)
                    first = (ca + z_start * dc, ra + z_start * dr, da + z_start * dd)
                    whole = _span_is_inside(first[0], first[1], first[2], steps, nz - 1, limits)
                    for z in range(0, nz, lanes):
                        zg = z_start + z
                        c, r, d = ca + zg * dc, ra + zg * dr, da + zg * dd
                        if whole or _span_is_inside(c, r, d, steps, lanes - 1, limits):
                            near = 1.0 / d
                            u, v = np.floor(c * near), np.floor(r * near)
                            pixels = view + np.uintp(4 * ((int(u) - col_offset) * n_rows + int(v) - row_offset))
                            add_any_pose(
                                isa_tag,
                                weighted_tag,
                                pixels,
                                np.int32(n_rows),
                                o + np.uintp(4 * z),
                                (_F(c - u * d), _F(dc - u * dd)),
                                (_F(r - v * d), _F(dr - v * dd)),
                                (_F(d), _F(dd)),
                                _F(scale),
                                share + np.uintp(4 * z),
                            )
                            continue
                        for k in range(z, z + lanes):
                            zg = z_start + k
                            f = 1.0 / (da + zg * dd)
                            u, v = (ca + zg * dc) * f - col_offset, (ra + zg * dr) * f - row_offset
                            if u >= 0 and u < n_cols - 1 and v >= 0 and v < n_rows - 1:
                                iu, iv = int(u), int(v)
                                fu, fv = u - iu, v - iv
                                lower = (1 - fu) * views[a, iu, iv] + fu * views[a, iu + 1, iv]
                                upper = (1 - fu) * views[a, iu, iv + 1] + fu * views[a, iu + 1, iv + 1]
                                value = _F(scale * f * f * (lower + fv * (upper - lower)))
                                if weighted:
                                    value *= factors[a, k]
                                volume[iy, ix, k] += value
