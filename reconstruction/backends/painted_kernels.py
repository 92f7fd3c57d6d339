# SPDX-License-Identifier: Apache-2.0
"""Rays and points through painted convex shapes (`reconstruction.forbild`), one thread a call."""

from __future__ import annotations

import math

import numba as nb
import numpy as np

_JIT = {"nogil": True, "cache": True, "error_model": "numpy"}
#: Shapes that one ray may meet.
_MAX_HITS = 256
_TINY = 1e-300


@nb.njit(**_JIT)
def _slab(low, high, start, way, reach_low, reach_high):
    """Cut (low, high) to where ``reach_low <= start + t way <= reach_high``."""
    rise = way if way != 0.0 else _TINY
    a, b = (reach_low - start) / rise, (reach_high - start) / rise
    return max(low, min(a, b)), min(high, max(a, b))


@nb.njit(**_JIT)
def _interval(kind, taper, matrix, center, clips, source, ray):
    """Where source + t ray lies in a shape, within 0 <= t <= 1; low >= high for a miss."""
    s, w = np.empty(3), np.empty(3)
    for k in range(3):
        s[k] = w[k] = 0.0
        for i in range(3):
            s[k] += matrix[k, i] * (source[i] - center[i])
            w[k] += matrix[k, i] * ray[i]
    low, high = 0.0, 1.0
    for c in range(clips.shape[0]):
        start = clips[c, 0] * source[0] + clips[c, 1] * source[1] + clips[c, 2] * source[2] - clips[c, 3]
        way = clips[c, 0] * ray[0] + clips[c, 1] * ray[1] + clips[c, 2] * ray[2]
        if way == 0.0:
            if start > 0.0:
                return 1.0, 0.0
        elif way > 0.0:
            high = min(high, -start / way)
        else:
            low = max(low, -start / way)
    if kind == 2:
        for k in range(3):
            low, high = _slab(low, high, s[k], w[k], -1.0, 1.0)
        return low, high
    if kind != 0:
        low, high = _slab(low, high, s[2], w[2], -1.0, 1.0)
    if low >= high:
        return 1.0, 0.0
    a, b, c = w[0] * w[0] + w[1] * w[1], s[0] * w[0] + s[1] * w[1], s[0] * s[0] + s[1] * s[1] - 1.0
    if kind == 0:
        a, b, c = a + w[2] * w[2], b + s[2] * w[2], c + s[2] * s[2]
    elif kind == 3:
        radius, growth = 1.0 + taper * s[2], taper * w[2]
        a, b, c = a - growth * growth, b - radius * growth, c + 1.0 - radius * radius
    return _cut_by_quadric(low, high, a, b, c)


@nb.njit(**_JIT)
def _cut_by_quadric(low, high, a, b, c):
    """Cut (low, high) to where ``a t^2 + 2 b t + c <= 0``, of which a convex shape leaves one part."""
    if a == 0.0:
        if b > 0.0:
            return low, min(high, -c / (2 * b))
        if b < 0.0:
            return max(low, -c / (2 * b)), high
        return (low, high) if c <= 0.0 else (1.0, 0.0)
    square = b * b - a * c
    if a > 0.0:
        if square <= 0.0:
            return 1.0, 0.0
        root = math.sqrt(square)
        return max(low, (-b - root) / a), min(high, (-b + root) / a)
    if square <= 0.0:
        return low, high
    root = math.sqrt(square)
    first, second = (-b + root) / a, (-b - root) / a
    if min(high, first) > low:
        return low, min(high, first)
    return max(low, second), high


@nb.njit(**_JIT)
def add_line_integrals(kinds, centers, matrices, tapers, clips, densities, shadows, source, corner, steps, out):
    """Add the line integrals of one view (row, col) float64.

    shadows (shape, 4): first and end row and column that each shape may project to; corner: where the ray of pixel
    (0, 0) goes to; steps (2, 3): from one column to the next, and from one row to the next.
    """
    n_rows, n_cols = out.shape
    lows, highs = np.empty(_MAX_HITS), np.empty(_MAX_HITS)
    values, ends = np.empty(_MAX_HITS), np.empty(2 * _MAX_HITS)
    near = np.empty(len(kinds), dtype=np.int64)
    ray = np.empty(3)
    for row in range(n_rows):
        n_near = 0
        for index in range(len(kinds)):
            if shadows[index, 0] <= row < shadows[index, 1]:
                near[n_near] = index
                n_near += 1
        for col in range(n_cols):
            length = 0.0
            for k in range(3):
                ray[k] = corner[k] + col * steps[0, k] + row * steps[1, k] - source[k]
                length += ray[k] * ray[k]
            hits = 0
            for place in range(n_near):
                index = near[place]
                if col < shadows[index, 2] or col >= shadows[index, 3]:
                    continue
                low, high = _interval(
                    kinds[index], tapers[index], matrices[index], centers[index], clips[index], source, ray
                )
                if low < high and hits < _MAX_HITS:
                    lows[hits], highs[hits], values[hits] = low, high, densities[index]
                    hits += 1
            out[row, col] += math.sqrt(length) * _painted_sum(lows, highs, values, ends, hits)


@nb.njit(**_JIT)
def _painted_sum(lows, highs, values, ends, hits):
    """Integral over t of the density of the last interval that holds t."""
    count = 0
    for place in range(hits):
        for end in (lows[place], highs[place]):
            at = count
            while at > 0 and ends[at - 1] > end:
                ends[at] = ends[at - 1]
                at -= 1
            ends[at] = end
            count += 1
    total = 0.0
    for place in range(count - 1):
        step = ends[place + 1] - ends[place]
        if step <= 0.0:
            continue
        middle = ends[place] + 0.5 * step
        for hit in range(hits - 1, -1, -1):
            if lows[hit] <= middle < highs[hit]:
                total += step * values[hit]
                break
    return total


@nb.njit(**_JIT)
def _holds(kind, taper, matrix, center, clips, point):
    """Whether a shape holds a point."""
    for c in range(clips.shape[0]):
        if clips[c, 0] * point[0] + clips[c, 1] * point[1] + clips[c, 2] * point[2] > clips[c, 3]:
            return False
    x = y = z = 0.0
    for i in range(3):
        x += matrix[0, i] * (point[i] - center[i])
        y += matrix[1, i] * (point[i] - center[i])
        z += matrix[2, i] * (point[i] - center[i])
    if kind == 0:
        return x * x + y * y + z * z <= 1.0
    if abs(z) > 1.0:
        return False
    if kind == 2:
        return abs(x) <= 1.0 and abs(y) <= 1.0
    radius = 1.0 + taper * z
    return x * x + y * y <= radius * radius


@nb.njit(**_JIT)
def sample_points(kinds, centers, matrices, tapers, clips, half_boxes, densities, origin, pitch, supersample, out):
    """Mean density of each voxel (z, y, x) over supersample^3 points."""
    nz, ny, nx = out.shape
    point = np.empty(3)
    share = 1.0 / supersample**3
    for index in range(len(kinds)):
        first, last = np.empty(3, dtype=np.int64), np.empty(3, dtype=np.int64)
        sizes = (nx, ny, nz)
        for k in range(3):
            low = (centers[index, k] - half_boxes[index, k] - origin[k]) / pitch[k]
            high = (centers[index, k] + half_boxes[index, k] - origin[k]) / pitch[k]
            first[k] = max(0, int(math.floor(low - 0.5)))
            last[k] = min(sizes[k], int(math.ceil(high + 0.5)) + 1)
        for z in range(first[2], last[2]):
            for y in range(first[1], last[1]):
                for x in range(first[0], last[0]):
                    inside = 0
                    for sub in range(supersample**3):
                        a, b, c = sub % supersample, sub // supersample % supersample, sub // supersample**2
                        point[0] = origin[0] + (x + (a + 0.5) / supersample - 0.5) * pitch[0]
                        point[1] = origin[1] + (y + (b + 0.5) / supersample - 0.5) * pitch[1]
                        point[2] = origin[2] + (z + (c + 0.5) / supersample - 0.5) * pitch[2]
                        if _holds(kinds[index], tapers[index], matrices[index], centers[index], clips[index], point):
                            inside += 1
                    # What lies below is replaced by the covered share of the voxel.
                    covered = inside * share
                    out[z, y, x] += covered * (densities[index] - out[z, y, x])
