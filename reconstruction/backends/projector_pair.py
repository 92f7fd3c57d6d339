# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202
"""A matched pair of projectors for any pose: Joseph's rays, and the exact transpose (numba).

For panels that do not stand upright; `projector_kernels` has those that do.

A ray steps through the planes of voxels of which it crosses most (x or y; so it skips no voxel across) and interpolates
bilinearly within each (Joseph, IEEE Trans. Med. Imaging 1, 1982).  The transpose puts the same
coefficients back.  Threads split rays in one direction and planes in the other, so that no two
write the same number and every sum has one order, whatever the number of threads.

Layouts: volume (y, x, z), z fastest, with `PAD` zero voxels on every side (or more behind along z), so that no step
needs a test; line integrals (view, col, row), rows fastest: neighbouring rays then share lines of voxels.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

PAD = 2
#: Unsigned, so that numba does not look for negative indices.
ONE = np.uintp(1)
#: A ray this flat against an axis (index units a plane) counts as parallel to it.
_FLAT = 1e-12
_FAST = {"nogil": True, "error_model": "numpy", "boundscheck": False, "cache": True, "fastmath": {"contract", "nsz"}}
_INLINE = {"nogil": True, "error_model": "numpy", "boundscheck": False, "inline": "always"}


@nb.njit(**_INLINE)
def _cut(first, last, offset, slope, size):
    """Planes ``first <= k <= last`` at which ``-1 < offset + k slope < size``."""
    if abs(slope) < _FLAT:
        inside = offset > -1.0 and offset < size
        return (first, last) if inside else (1, 0)
    low, high = (-1.0 - offset) / slope, (size - offset) / slope
    if slope < 0:
        low, high = high, low
    # Compared as floats first: a nearly parallel ray gives numbers that no integer holds.
    low, high = max(low, float(first)), min(high, float(last))
    if low > high:
        return 1, 0
    return math.ceil(low), math.floor(high)


@nb.njit(**_FAST)
def _ray(pose, col, row):
    """Direction from the source to a point of the panel, in voxels."""
    dx = pose[3] + col * pose[6] + row * pose[9] - pose[0]
    dy = pose[4] + col * pose[7] + row * pose[10] - pose[1]
    dz = pose[5] + col * pose[8] + row * pose[11] - pose[2]
    return dx, dy, dz


@nb.njit(**_FAST)
def project_rays(volume, poses, pitch, samples, out, column_start, column_stop):
    """Line integrals of the columns ``column_start <= n < column_stop`` of all views, one behind the other.

    volume (y, x, z) with `PAD`; poses (view, 12): source, pixel (row 0, col 0), steps of column and row, as (x, y, z)
    in voxels; pitch (x, y, z) [mm]; samples: rays along each side of a pixel; out (view, col, row).
    """
    _, n_cols, n_rows = out.shape
    ny, nx, nz = volume.shape[0] - 2 * PAD, volume.shape[1] - 2 * PAD, volume.shape[2] - 2 * PAD
    line = volume.shape[2]
    plane = volume.shape[1] * line
    voxels = volume.reshape(volume.size)
    share = 1.0 / (samples * samples)
    for n in range(column_start, column_stop):
        view, col = n // n_cols, n % n_cols
        pose = poses[view]
        for row in range(n_rows):
            total = 0.0
            for s in range(samples * samples):
                u = col + (s % samples + 0.5) / samples - 0.5
                v = row + (s // samples + 0.5) / samples - 0.5
                dx, dy, dz = _ray(pose, u, v)
                along_x = abs(dx) >= abs(dy)
                if along_x:
                    da, db, sa, sb, na, nb_ = dx, dy, pose[0], pose[1], nx, ny
                    pa, pb, step_a, step_b = pitch[0], pitch[1], line, plane
                else:
                    da, db, sa, sb, na, nb_ = dy, dx, pose[1], pose[0], ny, nx
                    pa, pb, step_a, step_b = pitch[1], pitch[0], plane, line
                rb, rz = db / da, dz / da
                b0, z0 = sb - sa * rb, pose[2] - sa * rz
                first, last = _cut(0, na - 1, b0, rb, nb_)
                first, last = _cut(first, last, z0, rz, nz)
                subtotal = 0.0
                for k in range(first, last + 1):
                    # Counted in the padding, so never negative: cutting off is rounding down.
                    b, z = b0 + PAD + k * rb, z0 + PAD + k * rz
                    ib, iz = int(b), int(z)
                    fb, fz = np.float32(b - ib), np.float32(z - iz)
                    at = np.uintp((k + PAD) * step_a + ib * step_b + iz)
                    lower = voxels[at] + fz * (voxels[at + ONE] - voxels[at])
                    at += np.uintp(step_b)
                    upper = voxels[at] + fz * (voxels[at + ONE] - voxels[at])
                    subtotal += lower + fb * (upper - lower)
                total += subtotal * math.sqrt(pa * pa + (rb * pb) ** 2 + (rz * pitch[2]) ** 2)
            out[view, col, row] = total * share


@nb.njit(**_FAST)
def back_project_planes(lines, poses, pitch, samples, volume, along_x, plane_start, plane_stop):
    """Add the transpose of `project_rays` for the rays of one direction, to some of its planes.

    lines (view, col, row); volume (y, x, z) with `PAD`; along_x: rays that step in x and their planes, or those in y.
    """
    n_views, n_cols, n_rows = lines.shape
    ny, nx, nz = volume.shape[0] - 2 * PAD, volume.shape[1] - 2 * PAD, volume.shape[2] - 2 * PAD
    line = volume.shape[2]
    plane = volume.shape[1] * line
    voxels = volume.reshape(volume.size)
    share = 1.0 / (samples * samples)
    for view in range(n_views):
        pose = poses[view]
        for col in range(n_cols):
            for row in range(n_rows):
                value = lines[view, col, row]
                if value == 0:
                    continue
                for s in range(samples * samples):
                    u = col + (s % samples + 0.5) / samples - 0.5
                    v = row + (s // samples + 0.5) / samples - 0.5
                    dx, dy, dz = _ray(pose, u, v)
                    if (abs(dx) >= abs(dy)) != along_x:
                        continue
                    if along_x:
                        da, db, sa, sb, na, nb_ = dx, dy, pose[0], pose[1], nx, ny
                        pa, pb, step_a, step_b = pitch[0], pitch[1], line, plane
                    else:
                        da, db, sa, sb, na, nb_ = dy, dx, pose[1], pose[0], ny, nx
                        pa, pb, step_a, step_b = pitch[1], pitch[0], plane, line
                    rb, rz = db / da, dz / da
                    b0, z0 = sb - sa * rb, pose[2] - sa * rz
                    first, last = _cut(0, na - 1, b0, rb, nb_)
                    first, last = _cut(first, last, z0, rz, nz)
                    length = math.sqrt(pa * pa + (rb * pb) ** 2 + (rz * pitch[2]) ** 2)
                    amount = np.float32(value * length * share)
                    for k in range(max(first, plane_start), min(last + 1, plane_stop)):
                        b, z = b0 + PAD + k * rb, z0 + PAD + k * rz
                        ib, iz = int(b), int(z)
                        fb, fz = np.float32(b - ib), np.float32(z - iz)
                        at = np.uintp((k + PAD) * step_a + ib * step_b + iz)
                        upper = amount * fb
                        lower = amount - upper
                        part = lower * fz
                        voxels[at] += lower - part
                        voxels[at + ONE] += part
                        at += np.uintp(step_b)
                        part = upper * fz
                        voxels[at] += upper - part
                        voxels[at + ONE] += part
