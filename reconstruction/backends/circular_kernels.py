# SPDX-License-Identifier: Apache-2.0
"""Back-projection on circular orbits with an upright panel.

Layouts: volume (y, x, z), z fastest; filtered views (view, col, row), rows fastest, one border
column and row of zeros on each side, and `SPARE_FLOATS` behind the array, since vector loads read
past the rows they need.  u and the distance weight are constant along z, and v is linear in z.

Rows are computed from the volume's slice index, not the slab's, so that a voxel gets the same bits
whatever slab it is made in.  Every kernel works on a range of (x, y) tiles: threads share nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numba as nb
import numpy as np

from reconstruction.backends.simd import add_four_turned, add_views, lanes_of

if TYPE_CHECKING:
    from collections.abc import Callable

SPARE_FLOATS = 64
TILE = 16
FAST = {"fastmath": True, "nogil": True, "error_model": "numpy", "boundscheck": False, "cache": True}
_F = np.float32


def _jit(function: Callable[..., Any]) -> Any:
    return nb.njit(**FAST)(function)


@_jit
def _covered_run(v, step, z_start, nz, row_offset, n_rows):
    """Slices of the slab with ``0 <= v + z step - row_offset < n_rows - 1``, z counted in the volume."""
    low, high = 0, nz
    first = v + z_start * step - row_offset
    last = v + (z_start + nz - 1) * step - row_offset
    if first < 0:
        low = min(nz, math.ceil(-first / step))
        while low < nz and v + (z_start + low) * step - row_offset < 0:
            low += 1
    if last >= n_rows - 1:
        high = min(nz, math.ceil((n_rows - 1 - first) / step))
        while high > 0 and v + (z_start + high - 1) * step - row_offset >= n_rows - 1:
            high -= 1
    return low, max(low, high)


@_jit
def back_project_four_fold(isa_tag, views, volume, cos, sin, orbit, grid, z_start, tile_start, tile_stop):
    """Four views, 90 degrees apart, at once: full turns on a square, centred, even grid.

    views (4 x quarter view, col, row); orbit: sod, sdd / pitch u, sdd / pitch v, center col, center row +
    border, row offset, radius^2; grid: x0, y0, z0 above the orbit's plane, pitch xy, pitch z.
    """
    n_views, n_cols, n_rows = views.shape
    n, _, nz = volume.shape
    n_quarter = n_views // 4
    half = n // 2
    tiles = (half + TILE - 1) // TILE
    lanes = lanes_of(isa_tag)
    sod, ku, kv, center_col, center_row, row_offset, radius2 = orbit
    x0, y0, z0, pitch, pitch_z = grid
    base = np.uintp(views.ctypes.data)
    out = np.uintp(volume.ctypes.data)
    quarter_bytes = np.uintp(4) * np.uintp(n_quarter * n_cols * n_rows)
    column_bytes = np.uintp(4 * n_rows)
    for tile in range(tile_start, tile_stop):
        ya, xa = (tile // tiles) * TILE, (tile % tiles) * TILE
        for q in range(n_quarter):
            c, s = cos[q], sin[q]
            for iy in range(ya, min(half, ya + TILE)):
                for ix in range(xa, min(half, xa + TILE)):
                    x, y = x0 + ix * pitch, y0 + iy * pitch
                    if x * x + y * y > radius2:
                        continue
                    o0 = out + np.uintp(4) * np.uintp((iy * n + ix) * nz)
                    o1 = out + np.uintp(4) * np.uintp((ix * n + n - 1 - iy) * nz)
                    o2 = out + np.uintp(4) * np.uintp(((n - 1 - iy) * n + n - 1 - ix) * nz)
                    o3 = out + np.uintp(4) * np.uintp(((n - 1 - ix) * n + iy) * nz)
                    for turn in range(4):
                        r = 1.0 / (sod - x * c - y * s)
                        u = ku * (y * c - x * s) * r + center_col
                        if u >= 0 and u < n_cols - 1:
                            iu = int(u)
                            fu = u - iu
                            weight = (sod * r) * (sod * r)
                            w0, w1 = _F(weight * (1 - fu)), _F(weight * fu)
                            step = kv * r * pitch_z
                            v = kv * r * z0 + center_row
                            low, high = _covered_run(v, step, z_start, nz, row_offset, n_rows)
                            q0 = base + np.uintp(4) * np.uintp((q * n_cols + iu) * n_rows)
                            z = low
                            while z + lanes <= high:
                                vz = v + (z_start + z) * step
                                row = int(vz)
                                col = q0 + np.uintp(4 * (row - row_offset))
                                e = np.uintp(4 * z)
                                columns = (
                                    col,
                                    col + quarter_bytes,
                                    col + quarter_bytes + quarter_bytes,
                                    col + quarter_bytes + quarter_bytes + quarter_bytes,
                                )
                                outs = (o0 + e, o1 + e, o2 + e, o3 + e)
                                add_four_turned(isa_tag, columns, column_bytes, outs, _F(vz - row), _F(step), w0, w1)
                                z += lanes
                            while z < high:
                                vz = v + (z_start + z) * step
                                row = int(vz)
                                f = _F(vz - row)
                                b = row - row_offset
                                for j in range(4):
                                    qj = q + j * n_quarter
                                    c0 = w0 * views[qj, iu, b] + w1 * views[qj, iu + 1, b]
                                    c1 = w0 * views[qj, iu, b + 1] + w1 * views[qj, iu + 1, b + 1]
                                    value = c0 + f * (c1 - c0)
                                    place = (turn + j) & 3
                                    if place == 0:
                                        volume[iy, ix, z] += value
                                    elif place == 1:
                                        volume[ix, n - 1 - iy, z] += value
                                    elif place == 2:
                                        volume[n - 1 - iy, n - 1 - ix, z] += value
                                    else:
                                        volume[n - 1 - ix, iy, z] += value
                                z += 1
                        # Turn the voxel, and the list of outputs with it, by 90 degrees.
                        x, y = -y, x
                        o0, o1, o2, o3 = o1, o2, o3, o0


@_jit
def back_project_circular(isa_tag, views, volume, cos, sin, orbit, grid, starts, tile_start, tile_stop):
    """Any views of a circular orbit, four at a visit where all four see the whole run of slices.

    Arguments as for `back_project_four_fold`; the grid is (x0, y0, z0, pitch x, pitch y, pitch z).  A brick holds the
    voxels, and the views the columns, from `starts` on: (z, y, x, col), counted in the whole volume and panel.
    """
    z_start, y_start, x_start, col_offset = starts
    n_views, n_cols, n_rows = views.shape
    ny, nx, nz = volume.shape
    tiles = (nx + TILE - 1) // TILE
    lanes = lanes_of(isa_tag)
    sod, ku, kv, center_col, center_row, row_offset, radius2 = orbit
    x0, y0, z0, pitch_x, pitch_y, pitch_z = grid
    base = np.uintp(views.ctypes.data)
    out = np.uintp(volume.ctypes.data)
    column_bytes = np.uintp(4 * n_rows)
    whole_runs = nz // lanes * lanes
    vs, steps = np.zeros(4), np.zeros(4)
    w0s, w1s = np.zeros(4, _F), np.zeros(4, _F)
    columns, firsts = np.zeros(4, np.uintp), np.zeros(4, np.int64)
    lows, highs = np.zeros(4, np.int64), np.zeros(4, np.int64)
    for tile in range(tile_start, tile_stop):
        ya, xa = (tile // tiles) * TILE, (tile % tiles) * TILE
        for a in range(0, n_views, 4):
            m = min(4, n_views - a)
            for iy in range(ya, min(ny, ya + TILE)):
                y = y0 + (y_start + iy) * pitch_y
                for ix in range(xa, min(nx, xa + TILE)):
                    x = x0 + (x_start + ix) * pitch_x
                    if x * x + y * y > radius2:
                        continue
                    o = out + np.uintp(4) * np.uintp((iy * nx + ix) * nz)
                    full = m == 4
                    for j in range(m):
                        c, s = cos[a + j], sin[a + j]
                        r = 1.0 / (sod - x * c - y * s)
                        u = ku * (y * c - x * s) * r + center_col
                        lows[j], highs[j] = 0, 0
                        if u < col_offset or u >= col_offset + n_cols - 1:
                            full = False
                            continue
                        iu = int(u)
                        fu = u - iu
                        iu -= col_offset
                        weight = (sod * r) * (sod * r)
                        w0s[j], w1s[j] = _F(weight * (1 - fu)), _F(weight * fu)
                        steps[j] = kv * r * pitch_z
                        vs[j] = kv * r * z0 + center_row
                        low, high = _covered_run(vs[j], steps[j], z_start, nz, row_offset, n_rows)
                        lows[j], highs[j] = low, high
                        full = full and low == 0 and high == nz
                        firsts[j] = iu
                        columns[j] = base + np.uintp(4) * np.uintp(((a + j) * n_cols + iu) * n_rows)
                    done = 0
                    if full:
                        va, vb, vc, vd = vs[0], vs[1], vs[2], vs[3]
                        sa, sb, sc, sd = steps[0], steps[1], steps[2], steps[3]
                        ca, cb, cc, cd = columns[0], columns[1], columns[2], columns[3]
                        step4 = (_F(sa), _F(sb), _F(sc), _F(sd))
                        w04 = (w0s[0], w0s[1], w0s[2], w0s[3])
                        w14 = (w1s[0], w1s[1], w1s[2], w1s[3])
                        for z in range(0, whole_runs, lanes):
                            zg = z_start + z
                            v1, v2, v3, v4 = va + zg * sa, vb + zg * sb, vc + zg * sc, vd + zg * sd
                            b1, b2, b3, b4 = int(v1), int(v2), int(v3), int(v4)
                            add_views(
                                isa_tag,
                                (
                                    ca + np.uintp(4 * (b1 - row_offset)),
                                    cb + np.uintp(4 * (b2 - row_offset)),
                                    cc + np.uintp(4 * (b3 - row_offset)),
                                    cd + np.uintp(4 * (b4 - row_offset)),
                                ),
                                column_bytes,
                                o + np.uintp(4 * z),
                                (_F(v1 - b1), _F(v2 - b2), _F(v3 - b3), _F(v4 - b4)),
                                step4,
                                w04,
                                w14,
                            )
                        done = whole_runs
                    for j in range(m):
                        z = max(done, lows[j])
                        while z + lanes <= highs[j]:
                            vz = vs[j] + (z_start + z) * steps[j]
                            row = int(vz)
                            column = columns[j] + np.uintp(4 * (row - row_offset))
                            add_views(
                                isa_tag, (column,), column_bytes, o + np.uintp(4 * z), (_F(vz - row),),
                                (_F(steps[j]),), (w0s[j],), (w1s[j],),
                            )  # fmt: skip
                            z += lanes
                        iu = firsts[j]
                        while z < highs[j]:
                            vz = vs[j] + (z_start + z) * steps[j]
                            row = int(vz)
                            f = _F(vz - row)
                            b = row - row_offset
                            c0 = w0s[j] * views[a + j, iu, b] + w1s[j] * views[a + j, iu + 1, b]
                            c1 = w0s[j] * views[a + j, iu, b + 1] + w1s[j] * views[a + j, iu + 1, b + 1]
                            volume[iy, ix, z] += c0 + f * (c1 - c0)
                            z += 1


@_jit
def back_project_scalar(views, volume, cos, sin, orbit, grid, starts, tile_start, tile_stop):
    """As `back_project_circular`, voxel by voxel: for steps of two or more detector rows a voxel."""
    z_start, y_start, x_start, col_offset = starts
    n_views, n_cols, n_rows = views.shape
    ny, nx, nz = volume.shape
    tiles = (nx + TILE - 1) // TILE
    sod, ku, kv, center_col, center_row, row_offset, radius2 = orbit
    x0, y0, z0, pitch_x, pitch_y, pitch_z = grid
    for tile in range(tile_start, tile_stop):
        ya, xa = (tile // tiles) * TILE, (tile % tiles) * TILE
        for a in range(n_views):
            c, s = cos[a], sin[a]
            for iy in range(ya, min(ny, ya + TILE)):
                y = y0 + (y_start + iy) * pitch_y
                for ix in range(xa, min(nx, xa + TILE)):
                    x = x0 + (x_start + ix) * pitch_x
                    if x * x + y * y > radius2:
                        continue
                    r = 1.0 / (sod - x * c - y * s)
                    u = ku * (y * c - x * s) * r + center_col
                    if u < col_offset or u >= col_offset + n_cols - 1:
                        continue
                    iu = int(u)
                    fu = u - iu
                    iu -= col_offset
                    weight = (sod * r) * (sod * r)
                    w0, w1 = _F(weight * (1 - fu)), _F(weight * fu)
                    step = kv * r * pitch_z
                    v = kv * r * z0 + center_row
                    low, high = _covered_run(v, step, z_start, nz, row_offset, n_rows)
                    for z in range(low, high):
                        vz = v + (z_start + z) * step
                        row = int(vz)
                        f = _F(vz - row)
                        b = row - row_offset
                        c0 = w0 * views[a, iu, b] + w1 * views[a, iu + 1, b]
                        c1 = w0 * views[a, iu, b + 1] + w1 * views[a, iu + 1, b + 1]
                        volume[iy, ix, z] += c0 + f * (c1 - c0)


@_jit
def transpose_rows(rows, out, col_start, row_at, scale):
    """Copy filtered rows (row, fft col) into one bordered view (col, row), times `scale`.

    Columns left of the panel (negative) sit at the end of the periodic row.
    """
    n_rows, n_fft = rows.shape
    n_cols = out.shape[0] - 2
    block = 16
    for r0 in range(0, n_rows, block):
        r1 = min(n_rows, r0 + block)
        for c0 in range(0, n_cols, block):
            for c in range(c0, min(n_cols, c0 + block)):
                source = c + col_start
                if source < 0:
                    source += n_fft
                for r in range(r0, r1):
                    out[c + 1, row_at + r] = rows[r, source] * scale


@_jit
def transpose_slices(volume, out, z_start, y_start, y_stop):
    """Copy the lines ``y_start <= y < y_stop`` of a (y, x, z) volume into slices (z, y, x) from `z_start` on."""
    nz, _, nx = out.shape
    block = 16
    for y in range(y_start, y_stop):
        for x0 in range(0, nx, block):
            for z0 in range(0, nz, block):
                for z in range(z0, min(nz, z0 + block)):
                    for x in range(x0, min(nx, x0 + block)):
                        out[z, y, x] = volume[y, x, z_start + z]
