# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""Joseph's projector and its transpose on upright panels, in runs of SIMD lanes along z (numba).

The rays of one column of an upright panel share x and y: they cross each plane of voxels between the same two lines
of voxels, at heights that are linear in the row.  So the projector blends two lines and interpolates along them, as
FDK's back-projection does with columns of pixels (`upright_kernels`); the transpose gathers rows for a run of voxels.
Both take the same *ways*, so that they hold the same coefficients.

Layouts are those of `projector_pair`, with lines of voxels in whole runs (`LINE_UNIT`).  Every sum has one order: the
projector's threads share out columns of pixels, the transpose's planes of voxels.  Where pixels get several rays,
columns and rows here are those of the rays.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from reconstruction.backends.projector_simd import scale_rows, spread_rows
from reconstruction.backends.simd import add_views, lanes_of

PAD = 2
#: Voxels along z are held in whole runs of the widest instruction set.
LINE_UNIT = 16
#: Vector loads reach this far before and behind what they need.
SPARE_FLOATS = 64
#: Numba's cache looks at a function's own file alone.  What is compiled from others stands here, so that a change of
#: theirs changes this file too (a test holds it).
COMPILED_WITH = {"projector_simd": "6d68259ad2fc", "simd": "748d07dd8ff0"}
#: No reordering of sums: numba gives these flags to the intrinsics' instructions too.
FAST = {
    "fastmath": {"nnan", "ninf", "nsz", "arcp", "contract"},
    "nogil": True,
    "error_model": "numpy",
    "boundscheck": False,
    "cache": True,
}
#: Numbers of a way: steps in x (1) or y (0); first and last plane (none if first > last); start and slope across, in
#: the padding; source along; 1 over the step along; height of row 0 above the source and of a row; source's height in
#: the padding; squared length of a step in x and y [mm^2]; the path's climb [mm] in a step, of row 0 and of a row.
WAY = 13
_FLAT = 1e-12
#: Rows of a plane lie at least so many voxels apart: planes nearer to the source hold nothing (outside any field).
LEAST_SLOPE = 1.0 / 512
#: A sample of the projector needs rows less than this many voxels apart; see `simd.MAX_STEP_ROWS`.
MOST_SLOPE = 1.99
_F = np.float32
_PLAIN, _MASKED = (0,), (0, 0)
_ONE, _TWO = (0,), (0, 0)
_NEAR, _GATHERED = (0,), (0, 0)
_REACH = 32


@nb.njit(**FAST)
def column_ways(poses, pitch, shape, samples, n_cols, ways):
    """Fill (view, ray column, WAY): what the rays of each column share.

    poses (view, 12) of upright panels in voxels; pitch (x, y, z) [mm]; shape (y, x) of the volume without padding.
    """
    ny, nx = shape
    for view in range(len(poses)):
        pose = poses[view]
        for c in range(n_cols * samples):
            u = (c + 0.5) / samples - 0.5
            v = 0.5 / samples - 0.5
            dx, dy = pose[3] + u * pose[6] - pose[0], pose[4] + u * pose[7] - pose[1]
            dz = pose[5] + v * pose[11] - pose[2]
            along_x = abs(dx) >= abs(dy)
            if along_x:
                da, db, sa, sb, na, nb_, pa, pb = dx, dy, pose[0], pose[1], nx, ny, pitch[0], pitch[1]
            else:
                da, db, sa, sb, na, nb_, pa, pb = dy, dx, pose[1], pose[0], ny, nx, pitch[1], pitch[0]
            slope, inverse, climb = db / da, 1.0 / da, pose[11] / samples
            across = sb - sa * slope
            first, last = 0.0, na - 1.0
            if abs(slope) < _FLAT:
                if across <= -1.0 or across >= nb_:
                    last = -1.0
            else:
                one, other = (-1.0 - across) / slope, (nb_ - across) / slope
                first, last = max(first, math.ceil(min(one, other))), min(last, math.floor(max(one, other)))
            # Planes in front of the source, and not too near to it.
            nearest = sa + da * LEAST_SLOPE / climb
            if da > 0:
                first = max(first, math.ceil(nearest))
            else:
                last = min(last, math.floor(nearest))
            way = ways[view, c]
            way[0] = 1.0 if along_x else 0.0
            way[1], way[2], way[3], way[4] = first, last, across + PAD, slope
            way[5], way[6], way[7], way[8], way[9] = sa, inverse, dz, climb, pose[2] + PAD
            way[10] = pa * pa + (slope * pb) ** 2
            way[11], way[12] = dz * inverse * pitch[2], climb * inverse * pitch[2]


@nb.njit(**FAST)
def _plane(way, k):
    """Of plane k: line across, share of the next one, height of row 0 in the padding, heights a row."""
    b = way[3] + k * way[4]
    line = int(b)
    t = (k - way[5]) * way[6]
    return line, _F(b - line), way[9] + t * way[7], t * way[8]


@nb.njit(**FAST)
def _rows_within(height, slope, n_rows, n_z):
    """First row and the one after the last whose samples lie within a padded line."""
    low, high = math.ceil((1.0 - height) / slope), math.floor((n_z - 2.0 - height) / slope)
    return int(min(max(low, 0.0), n_rows)), int(min(max(high + 1.0, 0.0), n_rows))


@nb.njit(inline="always")
def _first_voxel(line, height, slope, row, n_z):
    """Address of the voxel below a run's first row, and how far the row lies above it; safe outside the line."""
    z = height + row * slope
    below = math.floor(z)
    at, fraction = int(below), _F(z - below)
    if at < -_REACH or at >= n_z:
        at, fraction = 0, _F(0)
    return line + np.uintp(4 * at), fraction


@nb.njit(**FAST)
def _sum_way(isa_tag, volume, way, n_rows, n_z, steps, sums):
    """Add what the rays of one way cross, in voxels, to `sums` (row,): four planes at a visit."""
    lanes = lanes_of(isa_tag)
    step_along, step_across = (steps[1], steps[0]) if way[0] == 1.0 else (steps[0], steps[1])
    first, last = int(way[1]), int(way[2])
    out = np.uintp(sums.ctypes.data)
    for k in range(first, last + 1, 4):
        kb, kc, kd = min(k + 1, last), min(k + 2, last), min(k + 3, last)
        ia, fa, ha, sa = _plane(way, k)
        ib, fb, hb, sb = _plane(way, kb)
        ic, fc, hc, sc = _plane(way, kc)
        id_, fd, hd, sd = _plane(way, kd)
        la, ua = _rows_within(ha, sa, n_rows, n_z)
        lb, ub = _rows_within(hb, sb, n_rows, n_z)
        lc, uc = _rows_within(hc, sc, n_rows, n_z)
        ld, ud = _rows_within(hd, sd, n_rows, n_z)
        # Planes behind the last are looked at, and count nothing.
        ob, oc, od = _F(k + 1 <= last), _F(k + 2 <= last), _F(k + 3 <= last)
        w0s = (_F(1) - fa, ob * (_F(1) - fb), oc * (_F(1) - fc), od * (_F(1) - fd))
        w1s = (fa, ob * fb, oc * fc, od * fd)
        line_a = volume + np.uintp((k + PAD) * step_along + ia * step_across)
        line_b = volume + np.uintp((kb + PAD) * step_along + ib * step_across)
        line_c = volume + np.uintp((kc + PAD) * step_along + ic * step_across)
        line_d = volume + np.uintp((kd + PAD) * step_along + id_ * step_across)
        slopes = (_F(sa), _F(sb), _F(sc), _F(sd))
        low, high = max(la, lb, lc, ld), min(ua, ub, uc, ud)
        for row in range(min(la, lb, lc, ld) // lanes * lanes, max(ua, ub, uc, ud), lanes):
            pa, ta = _first_voxel(line_a, ha, sa, row, n_z)
            pb, tb = _first_voxel(line_b, hb, sb, row, n_z)
            pc, tc = _first_voxel(line_c, hc, sc, row, n_z)
            pd, td = _first_voxel(line_d, hd, sd, row, n_z)
            voxels, fractions = (pa, pb, pc, pd), (ta, tb, tc, td)
            at = out + np.uintp(4 * row)
            lows = (np.int32(la - row), np.int32(lb - row), np.int32(lc - row), np.int32(ld - row))
            highs = (np.int32(ua - row), np.int32(ub - row), np.int32(uc - row), np.int32(ud - row))
            none = (np.uintp(0), np.uintp(0), np.uintp(0), np.uintp(0))
            if row >= low and row + lanes <= high:
                add_views(
                    isa_tag, _PLAIN, _PLAIN, voxels, np.uintp(step_across), at, fractions, slopes, w0s, w1s, none,
                    lows, highs,
                )  # fmt: skip
            else:
                add_views(
                    isa_tag, _PLAIN, _MASKED, voxels, np.uintp(step_across), at, fractions, slopes, w0s, w1s, none,
                    lows, highs,
                )  # fmt: skip


@nb.njit(**FAST)
def project_columns(isa_tag, volume, ways, samples, out, column_start, column_stop):
    """Line integrals of the columns ``column_start <= n < column_stop`` of all views, one behind the other.

    volume (y, x, z) padded, with spare floats before and behind; ways of `column_ways`; out (view, col, row).
    """
    _, n_cols, n_rows = out.shape
    n_rays = n_rows * samples
    n_z = volume.shape[2]
    steps = (4 * volume.shape[1] * n_z, 4 * n_z)
    base = np.uintp(volume.ctypes.data)
    lanes = lanes_of(isa_tag)
    room = (n_rays + LINE_UNIT - 1) // LINE_UNIT * LINE_UNIT
    sums = np.empty(room, dtype=np.float32)
    share = _F(1.0 / (samples * samples))
    at = np.uintp(sums.ctypes.data)
    for n in range(column_start, column_stop):
        view, col = n // n_cols, n % n_cols
        out[view, col] = 0
        for s in range(samples):
            way = ways[view, col * samples + s]
            sums[:] = 0
            _sum_way(isa_tag, base, way, n_rays, n_z, steps, sums)
            for row in range(0, n_rays, lanes):
                run = at + np.uintp(4 * row)
                scale_rows(isa_tag, run, run, _F(way[11] + row * way[12]), _F(way[12]), _F(way[10]))
            for row in range(n_rows):
                for part in range(samples):
                    out[view, col, row] += share * sums[row * samples + part]


@nb.njit(**FAST)
def scale_lines(isa_tag, lines, ways, samples, margin, out, column_start, column_stop):
    """Write line integrals times path lengths: what the transpose spreads.

    lines (view, col, row); out (view, ray column, row): zeros in the first `margin` rows and behind the last; columns
    are counted as in `project_columns`.
    """
    _, n_cols, n_rows = lines.shape
    lanes = lanes_of(isa_tag)
    n_rays = n_rows * samples
    share = _F(1.0 / (samples * samples))
    room = (n_rays + LINE_UNIT - 1) // LINE_UNIT * LINE_UNIT
    spread = np.zeros(room, dtype=np.float32)
    source = np.uintp(spread.ctypes.data)
    target = np.uintp(out.ctypes.data)
    for n in range(column_start, column_stop):
        view, col = n // n_cols, n % n_cols
        for row in range(n_rows):
            for part in range(samples):
                spread[row * samples + part] = share * lines[view, col, row]
        for s in range(samples):
            way = ways[view, col * samples + s]
            line = target + np.uintp(4) * np.uintp(((view * n_cols + col) * samples + s) * out.shape[2] + margin)
            for row in range(0, n_rays, lanes):
                run = np.uintp(4 * row)
                scale_rows(isa_tag, source + run, line + run, _F(way[11] + row * way[12]), _F(way[12]), _F(way[10]))


@nb.njit(**FAST)
def spread_planes(isa_tag, rows, n_rays, margin, ways, volume, along_x, plane_start, plane_stop):
    """Add the transpose of `project_columns` to some planes of one direction.

    rows of `scale_lines`; volume (y, x, z) padded; along_x (1.0 or 0.0): rays that step in x and their planes, or in y.
    """
    n_views, n_columns, length = rows.shape
    n_z = volume.shape[2]
    steps = (4 * volume.shape[1] * n_z, 4 * n_z)
    step_along, step_across = (steps[1], steps[0]) if along_x == 1.0 else (steps[0], steps[1])
    out = np.uintp(volume.ctypes.data)
    base = np.uintp(rows.ctypes.data)
    lanes = lanes_of(isa_tag)
    for view in range(n_views):
        for col in range(n_columns):
            way = ways[view, col]
            if way[0] != along_x:
                continue
            first = base + np.uintp(4) * np.uintp((view * n_columns + col) * length + margin)
            for k in range(max(int(way[1]), plane_start), min(int(way[2]) + 1, plane_stop)):
                line, part, height, slope = _plane(way, k)
                spacing = 1.0 / slope
                low, high = height - 1.0, height + (n_rays - 1) * slope + 1.0
                z_start = int(min(max(math.floor(low), 0.0), n_z)) // lanes * lanes
                z_stop = int(min(max(math.ceil(high), 0.0), n_z))
                if z_start >= z_stop:
                    continue
                lower = out + np.uintp((k + PAD) * step_along + line * step_across)
                weights = (_F(1) - part, part)
                n_taps = int(math.ceil(2.0 * spacing))
                near = (lanes - 1) * spacing + 2.0 + n_taps < 2 * lanes
                for z in range(z_start, z_stop, lanes):
                    q = (z - height) * spacing - spacing
                    below = math.floor(q)
                    at = first + np.uintp(4 * int(below))
                    to = lower + np.uintp(4 * z)
                    outs = (to, to + np.uintp(step_across))
                    f, gap, steep = _F(q - below), _F(spacing), _F(slope)
                    if near and n_taps <= 2:
                        spread_rows(isa_tag, _ONE, _NEAR, at, outs, weights, f, gap, steep, _F(1))
                    elif near and n_taps <= 4:
                        spread_rows(isa_tag, _TWO, _NEAR, at, outs, weights, f, gap, steep, _F(1))
                    else:
                        for tap in range(1, n_taps + 1, 4):
                            spread_rows(isa_tag, _TWO, _GATHERED, at, outs, weights, f, gap, steep, _F(tap))
