# SPDX-License-Identifier: Apache-2.0
"""Back-projection of views whose panel stands upright: rows along z, columns horizontal.

Layouts: volume (y, x, z), z fastest, as many slices as whole SIMD runs (`SLICE_UNIT`); filtered views (view, col,
row), rows fastest, one border column and row of zeros on each side, and `SPARE_FLOATS` before and behind, since vector
loads read past the rows they need.  Column and distance weight are constant along z, and the row is linear in z.  With
x, y in mm and z the slice's index a view's nine numbers p (`upright_parameters`) say::

    r = 1 / (p0 x + p1 y + p2),  col = (p3 x + p4 y + p5) r,  row = p7 + (p8 + p6 z) r,  weight = r^2

Rows are computed from the volume's slice index, not the slab's, runs start on multiples of the volume's slices, and a
run that the panel covers in part is masked, not cut: so a voxel gets the same bits whatever slab or brick it is made
in.  Every kernel works on a range of (x, y) tiles: threads share nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba as nb
import numpy as np

from reconstruction.backends.simd import add_four_turned, add_views, lanes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPARE_FLOATS = 64
#: Slices of a volume are held in whole runs of the widest instruction set.
SLICE_UNIT = 16
TILE = 16
#: No reordering of sums: numba gives these flags to the intrinsics' instructions too, and a voxel's bits must be the
#: same in every variant of a step.
FAST = {
    "fastmath": {"nnan", "ninf", "nsz", "arcp", "contract"},
    "nogil": True,
    "error_model": "numpy",
    "boundscheck": False,
    "cache": True,
}
#: Numba's cache looks at a function's own file alone.  What is compiled from others stands here, so that a change of
#: theirs changes this file too (a test holds it).
COMPILED_WITH = {"simd": "748d07dd8ff0"}
_F = np.float32
_PLAIN, _MASKED = (0,), (0, 0)
#: Vector loads of a run that starts below the panel reach back by less than this.
_REACH = 32


def upright_parameters(
    matrices: NDArray[np.float64], reference_mm: float, grid: tuple[float, ...]
) -> NDArray[np.float64]:
    """Return the nine numbers (view, 9) of upright views for the kernels.

    Parameters
    ----------
    matrices : (view, 3, 4) float64
        `reconstruction.coverage.projection_matrices`, pixels counted in the bordered panel.
    reference_mm : float
        The depth at which a view weighs 1.
    grid : (x0, y0, z0, pitch x, pitch y, pitch z)
    """
    col, row, depth = matrices[:, 0], matrices[:, 1], matrices[:, 2]
    foot = (row[:, :2] * depth[:, :2]).sum(axis=1) / (depth[:, :2] ** 2).sum(axis=1)
    climb = row[:, 2] / reference_mm
    start = (row[:, 3] - foot * depth[:, 3]) / reference_mm + climb * grid[2]
    return np.column_stack(
        [depth[:, [0, 1, 3]] / reference_mm, col[:, [0, 1, 3]] / reference_mm, climb * grid[5], foot, start]
    )


@nb.njit(**FAST)
def _set_up(found, p, turn, y, xs, covered):
    """Fill (7, TILE): column, its weight, the next one's, row at slice 0, step a slice, first and last slice.

    covered: first col, cols, first row, rows, first slice, slices of the views and the slab.  The point (x, y) is
    turned by quarters.
    """
    col_offset, n_cols, row_offset, n_rows, z_start, nz = covered
    c, s = (1.0, 0.0, -1.0, 0.0)[turn], (0.0, 1.0, 0.0, -1.0)[turn]
    # Turned by a quarter: x' = c x - s y, y' = s x + c y.
    dx, d0 = p[0] * c + p[1] * s, (p[1] * c - p[0] * s) * y + p[2]
    ux, u0 = p[3] * c + p[4] * s, (p[4] * c - p[3] * s) * y + p[5]
    inverse_step = 1.0 / p[6]
    last_col, last_row = n_cols - 1.0, row_offset + n_rows - 1.0
    for i in range(TILE):
        depth = dx * xs[i] + d0
        r = 1.0 / depth
        u = (ux * xs[i] + u0) * r - col_offset
        inside = (u >= 0.0) & (u < last_col)
        u = u if inside else 0.0
        whole = np.floor(u)
        part = u - whole
        weight = r * r if inside else 0.0
        row = p[7] + p[8] * r
        slices = depth * inverse_step
        low = np.ceil((row_offset - row) * slices) - z_start
        high = np.ceil((last_row - row) * slices) - z_start
        found[0, i] = whole
        found[1, i] = weight * (1.0 - part)
        found[2, i] = weight * part
        found[3, i] = row
        found[4, i] = p[6] * r
        found[5, i] = min(max(low, 0.0), nz)
        found[6, i] = min(max(high, 0.0), nz) if inside else 0.0


@nb.njit(**FAST)
def back_project_four_fold(isa_tag, views, volume, parameters, grid, spans, tile_start, tile_stop):
    """Four views, 90 degrees apart, at once: full turns on a square, centred, even grid.

    views (4 x quarter view, col, row); parameters (quarter view, 9): of the first quarter; grid: x0, y0, pitch xy;
    spans: first row of the views, first slice, squared radius of the field.
    """
    n_views, n_cols, n_rows = views.shape
    n, _, nz = volume.shape
    n_quarter = n_views // 4
    half = n // 2
    tiles = (half + TILE - 1) // TILE
    lanes = lanes_of(isa_tag)
    row_offset, z_start, radius2 = spans
    x0, y0, pitch = grid
    base = np.uintp(views.ctypes.data)
    out = np.uintp(volume.ctypes.data)
    quarter_bytes = np.uintp(4) * np.uintp(n_quarter * n_cols * n_rows)
    column_bytes = np.uintp(4 * n_rows)
    covered = (0.0, float(n_cols), float(row_offset), float(n_rows), float(z_start), float(nz))
    found, xs = np.empty((4, 7, TILE)), np.empty(TILE)
    for tile in range(tile_start, tile_stop):
        ya, xa = (tile // tiles) * TILE, (tile % tiles) * TILE
        for i in range(TILE):
            xs[i] = x0 + (xa + i) * pitch
        for q in range(n_quarter):
            view = base + np.uintp(4) * np.uintp(q * n_cols * n_rows)
            for iy in range(ya, min(half, ya + TILE)):
                y = y0 + iy * pitch
                for turn in range(4):
                    _set_up(found[turn], parameters[q], turn, y, xs, covered)
                for ix in range(xa, min(half, xa + TILE)):
                    i = ix - xa
                    if xs[i] * xs[i] + y * y > radius2:
                        continue
                    o0 = out + np.uintp(4) * np.uintp((iy * n + ix) * nz)
                    o1 = out + np.uintp(4) * np.uintp((ix * n + n - 1 - iy) * nz)
                    o2 = out + np.uintp(4) * np.uintp(((n - 1 - iy) * n + n - 1 - ix) * nz)
                    o3 = out + np.uintp(4) * np.uintp(((n - 1 - ix) * n + iy) * nz)
                    for turn in range(4):
                        w0, w1 = _F(found[turn, 1, i]), _F(found[turn, 2, i])
                        row0, step = found[turn, 3, i], found[turn, 4, i]
                        low, high = int(found[turn, 5, i]), int(found[turn, 6, i])
                        q0 = view + column_bytes * np.uintp(int(found[turn, 0, i]))
                        for z in range(low // lanes * lanes, high, lanes):
                            v = row0 + (z_start + z) * step
                            row = np.floor(v)
                            fraction = _F(v - row)
                            e = np.uintp(4 * z)
                            c0 = q0 + np.uintp(4 * (int(row) - row_offset))
                            c1 = c0 + quarter_bytes
                            c2 = c1 + quarter_bytes
                            columns = (c0, c1, c2, c2 + quarter_bytes)
                            outs = (o0 + e, o1 + e, o2 + e, o3 + e)
                            inside = (np.int32(low - z), np.int32(high - z))
                            if z >= low and z + lanes <= high:
                                add_four_turned(
                                    isa_tag, _PLAIN, columns, column_bytes, outs, fraction, _F(step), w0, w1, inside
                                )
                            else:
                                add_four_turned(
                                    isa_tag, _MASKED, columns, column_bytes, outs, fraction, _F(step), w0, w1, inside
                                )
                        # Turn the list of outputs with the voxel by 90 degrees.
                        o0, o1, o2, o3 = o1, o2, o3, o0


@nb.njit(inline="always")
def _first_pixel(view, column, row0, step, z, row_offset, n_rows, column_bytes):
    """Address of the pixel below a run's first voxel, and how far the voxel lies above it; safe outside the panel."""
    v = row0 + z * step
    row = np.floor(v)
    at = int(row) - row_offset
    fraction = _F(v - row)
    if at < -_REACH or at >= n_rows:
        at, fraction = 0, _F(0)
    return view + column_bytes * column + np.uintp(4 * at), fraction


@nb.njit(**FAST)
def back_project_upright(
    isa_tag, weighted_tag, views, volume, parameters, groups, factors, grid, starts, spans, tile_start, tile_stop
):
    """Any upright views, four at a visit.

    parameters (view, 9); groups (group, 4): indices of views, -1 for none; factors (view, slice) float32: of each view
    for each slice, used with a weighted tag of two; grid: x0, y0, pitch x, pitch y; starts: first z, y, x, col of the
    brick and the views, counted in the whole volume and panel; spans: first row of the views, squared radius.
    """
    z_start, y_start, x_start, col_offset = starts
    _, n_cols, n_rows = views.shape
    ny, nx, nz = volume.shape
    tiles = (nx + TILE - 1) // TILE
    lanes = lanes_of(isa_tag)
    row_offset, radius2 = spans
    x0, y0, pitch_x, pitch_y = grid
    base = np.uintp(views.ctypes.data)
    out = np.uintp(volume.ctypes.data)
    weights = np.uintp(factors.ctypes.data)
    view_bytes, factor_bytes = np.uintp(4 * n_cols * n_rows), np.uintp(4 * factors.shape[1])
    column_bytes = np.uintp(4 * n_rows)
    covered = (float(col_offset), float(n_cols), float(row_offset), float(n_rows), float(z_start), float(nz))
    found, xs = np.empty((4, 7, TILE)), np.empty(TILE)
    for tile in range(tile_start, tile_stop):
        ya, xa = (tile // tiles) * TILE, (tile % tiles) * TILE
        for i in range(TILE):
            xs[i] = x0 + (x_start + xa + i) * pitch_x
        for group in range(len(groups)):
            present = max(groups[group, 0], groups[group, 1], groups[group, 2], groups[group, 3])
            ga, gb, gc, gd = present, present, present, present
            if groups[group, 0] >= 0:
                ga = groups[group, 0]
            if groups[group, 1] >= 0:
                gb = groups[group, 1]
            if groups[group, 2] >= 0:
                gc = groups[group, 2]
            if groups[group, 3] >= 0:
                gd = groups[group, 3]
            va, vb = base + view_bytes * np.uintp(ga), base + view_bytes * np.uintp(gb)
            vc, vd = base + view_bytes * np.uintp(gc), base + view_bytes * np.uintp(gd)
            fa, fb = weights + factor_bytes * np.uintp(ga), weights + factor_bytes * np.uintp(gb)
            fc, fd = weights + factor_bytes * np.uintp(gc), weights + factor_bytes * np.uintp(gd)
            for iy in range(ya, min(ny, ya + TILE)):
                y = y0 + (y_start + iy) * pitch_y
                for j in range(4):
                    a = groups[group, j]
                    _set_up(found[j], parameters[a if a >= 0 else present], 0, y, xs, covered)
                    if a < 0:
                        found[j, 1:3] = 0.0
                for ix in range(xa, min(nx, xa + TILE)):
                    i = ix - xa
                    if xs[i] * xs[i] + y * y > radius2:
                        continue
                    o = out + np.uintp(4) * np.uintp((iy * nx + ix) * nz)
                    ua, ub = np.uintp(int(found[0, 0, i])), np.uintp(int(found[1, 0, i]))
                    uc, ud = np.uintp(int(found[2, 0, i])), np.uintp(int(found[3, 0, i]))
                    ra, rb, rc, rd = found[0, 3, i], found[1, 3, i], found[2, 3, i], found[3, 3, i]
                    sa, sb, sc, sd = found[0, 4, i], found[1, 4, i], found[2, 4, i], found[3, 4, i]
                    w0s = (_F(found[0, 1, i]), _F(found[1, 1, i]), _F(found[2, 1, i]), _F(found[3, 1, i]))
                    w1s = (_F(found[0, 2, i]), _F(found[1, 2, i]), _F(found[2, 2, i]), _F(found[3, 2, i]))
                    steps = (_F(sa), _F(sb), _F(sc), _F(sd))
                    la, lb, lc, ld = (
                        int(found[0, 5, i]), int(found[1, 5, i]), int(found[2, 5, i]), int(found[3, 5, i])
                    )  # fmt: skip
                    ha, hb, hc, hd = (
                        int(found[0, 6, i]), int(found[1, 6, i]), int(found[2, 6, i]), int(found[3, 6, i])
                    )  # fmt: skip
                    low, high = max(la, lb, lc, ld), min(ha, hb, hc, hd)
                    for z in range(min(la, lb, lc, ld) // lanes * lanes, max(ha, hb, hc, hd), lanes):
                        zg = z_start + z
                        pa, ta = _first_pixel(va, ua, ra, sa, zg, row_offset, n_rows, column_bytes)
                        pb, tb = _first_pixel(vb, ub, rb, sb, zg, row_offset, n_rows, column_bytes)
                        pc, tc = _first_pixel(vc, uc, rc, sc, zg, row_offset, n_rows, column_bytes)
                        pd, td = _first_pixel(vd, ud, rd, sd, zg, row_offset, n_rows, column_bytes)
                        e = np.uintp(4 * z)
                        pixels, fractions = (pa, pb, pc, pd), (ta, tb, tc, td)
                        shares = (fa + e, fb + e, fc + e, fd + e)
                        lows = (np.int32(la - z), np.int32(lb - z), np.int32(lc - z), np.int32(ld - z))
                        highs = (np.int32(ha - z), np.int32(hb - z), np.int32(hc - z), np.int32(hd - z))
                        if z >= low and z + lanes <= high:
                            add_views(
                                isa_tag, weighted_tag, _PLAIN, pixels, column_bytes, o + e, fractions, steps, w0s, w1s,
                                shares, lows, highs,
                            )  # fmt: skip
                        else:
                            add_views(
                                isa_tag, weighted_tag, _MASKED, pixels, column_bytes, o + e, fractions, steps, w0s, w1s,
                                shares, lows, highs,
                            )  # fmt: skip


@nb.njit(**FAST)
def transpose_rows(rows, out, scale):
    """Copy filtered rows (row, col) into one bordered view (col, row), times `scale`."""
    n_rows, n_cols = rows.shape
    block = 16
    for r0 in range(0, n_rows, block):
        r1 = min(n_rows, r0 + block)
        for c in range(n_cols):
            for r in range(r0, r1):
                out[c + 1, 1 + r] = rows[r, c] * scale


@nb.njit(**FAST)
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
