# SPDX-License-Identifier: Apache-2.0
"""Back-projection for any pose: tilted panels, shifted views, sources off the circle.

Layouts and tiles as in `circular_kernels`.  Along z the numerators of column and row and the depth are linear, so a run
of voxels needs one division a voxel and no matrix.  Pixels are counted from the run's own first pixel: float32 then
holds them to a millionth of a pixel, whatever the size of the panel.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from reconstruction.backends.circular_kernels import FAST, TILE
from reconstruction.backends.simd import add_any_pose, lanes_of

_F = np.float32
#: A run this close to the border is done voxel by voxel: rounding could reach one pixel too far.
_BORDER = 1e-3


@nb.njit(**FAST)
def back_project_any_pose(
    isa_tag, views, volume, matrices, scales, row_offset, radius2, grid, starts, tile_start, tile_stop
):
    """Add views (view, col, row) with zero borders to a volume (y, x, z).

    matrices (view, 3, 4): column and row, in pixels of the bordered panel, and depth [mm] as numerators and
    denominator; scales (view,) over depth^2 is the weight; row_offset: rows of the panel below the band.
    starts: as for `back_project_circular`.
    """
    z_start, y_start, x_start, col_offset = starts
    n_views, n_cols, n_rows = views.shape
    ny, nx, nz = volume.shape
    tiles = (nx + TILE - 1) // TILE
    x0, y0, z0, pitch_x, pitch_y, pitch_z = grid
    lanes = lanes_of(isa_tag)
    last = lanes - 1
    base = np.uintp(views.ctypes.data)
    out = np.uintp(volume.ctypes.data)
    low_row, high_row = row_offset + _BORDER, row_offset + n_rows - 1 - _BORDER
    low_col, high_col = col_offset + _BORDER, col_offset + n_cols - 1 - _BORDER
    for tile in range(tile_start, tile_stop):
        ya, xa = (tile // tiles) * TILE, (tile % tiles) * TILE
        for a in range(n_views):
            m = matrices[a]
            scale = scales[a]
            dc, dr, dd = m[0, 2] * pitch_z, m[1, 2] * pitch_z, m[2, 2] * pitch_z
            view = base + np.uintp(4) * np.uintp(a * n_cols * n_rows)
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
                    z = 0
                    while z < nz:
                        zg = z_start + z
                        if z + lanes <= nz:
                            c, r, d = ca + zg * dc, ra + zg * dr, da + zg * dd
                            near, far = 1.0 / d, 1.0 / (d + last * dd)
                            u1, u2 = c * near, (c + last * dc) * far
                            v1, v2 = r * near, (r + last * dr) * far
                            u, v = min(u1, u2), min(v1, v2)
                            inside = u > low_col and max(u1, u2) < high_col
                            if inside and v > low_row and max(v1, v2) < high_row:
                                iu, iv = math.floor(u), math.floor(v)
                                pixels = view + np.uintp(4) * np.uintp((iu - col_offset) * n_rows + iv - row_offset)
                                add_any_pose(
                                    isa_tag,
                                    pixels,
                                    np.int32(n_rows),
                                    o + np.uintp(4 * z),
                                    (_F(c - iu * d), _F(dc - iu * dd)),
                                    (_F(r - iv * d), _F(dr - iv * dd)),
                                    (_F(d), _F(dd)),
                                    _F(scale),
                                )
                                z += lanes
                                continue
                        stop = min(nz, z + lanes)
                        while z < stop:
                            zg = z_start + z
                            f = 1.0 / (da + zg * dd)
                            u, v = (ca + zg * dc) * f - col_offset, (ra + zg * dr) * f - row_offset
                            if u >= 0 and u < n_cols - 1 and v >= 0 and v < n_rows - 1:
                                iu, iv = int(u), int(v)
                                fu, fv = u - iu, v - iv
                                lower = (1 - fu) * views[a, iu, iv] + fu * views[a, iu + 1, iv]
                                upper = (1 - fu) * views[a, iu, iv + 1] + fu * views[a, iu + 1, iv + 1]
                                volume[iy, ix, z] += _F(scale * f * f * (lower + fv * (upper - lower)))
                            z += 1
