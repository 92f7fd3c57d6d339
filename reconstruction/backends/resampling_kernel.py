# SPDX-License-Identifier: Apache-2.0
"""Virtual views from frames, as `reconstruction.virtual_views.resample_view` defines them.

Along a row of the virtual panel numerators and denominator of the homography are linear: a run of pixels needs one
division a pixel, and its 16 neighbours each are gathered in pairs.  Runs at the frame's edges go pixel by pixel.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from reconstruction.backends.simd import cubic_run, lanes_of
from reconstruction.backends.upright_kernels import FAST

#: Numba's cache looks at a function's own file alone.  What is compiled from others stands here, so that a change of
#: theirs changes this file too (a test holds it).
COMPILED_WITH = {"simd": "748d07dd8ff0", "upright_kernels": "798ef4dca3b6"}
_F = np.float32
#: Rounding of a run's positions, with room [pixel].
_SLACK = 1e-3


@nb.njit(**FAST)
def _cubic(frame, x, y):
    """Cubic interpolation at (x, y); neighbours beyond the edge repeat the last pixel."""
    n_rows, n_cols = frame.shape
    left, low = math.floor(x), math.floor(y)
    u, v = x - left, y - low
    taps_u = (
        ((-0.5 * u + 1.0) * u - 0.5) * u, (1.5 * u - 2.5) * u * u + 1.0, ((-1.5 * u + 2.0) * u + 0.5) * u,
        (0.5 * u - 0.5) * u * u,
    )  # fmt: skip
    taps_v = (
        ((-0.5 * v + 1.0) * v - 0.5) * v, (1.5 * v - 2.5) * v * v + 1.0, ((-1.5 * v + 2.0) * v + 0.5) * v,
        (0.5 * v - 0.5) * v * v,
    )  # fmt: skip
    total = 0.0
    for j in range(4):
        row = min(max(low + j - 1, 0), n_rows - 1)
        line = 0.0
        for i in range(4):
            line += taps_u[i] * frame[row, min(max(left + i - 1, 0), n_cols - 1)]
        total += taps_v[j] * line
    return total


@nb.njit(**FAST)
def _resample_row(isa_tag, frame, m, row, first_row, frame_rows, out, blend):
    """One row of one frame: values, and 1 in `blend` where the frame sees the pixel, else 0 in both."""
    n_rows, n_cols = frame.shape
    lanes = lanes_of(isa_tag)
    width = len(out)
    base, target = np.uintp(frame.ctypes.data), np.uintp(out.ctypes.data)
    x0, y0, w0 = m[0, 1] * row + m[0, 2], m[1, 1] * row + m[1, 2], m[2, 1] * row + m[2, 2]
    dx, dy, dw = m[0, 0], m[1, 0], m[2, 0]
    for c in range(0, width, lanes):
        if c + lanes <= width:
            x, y, w = x0 + c * dx, y0 + c * dy, w0 + c * dw
            y -= first_row * w
            near, far = 1.0 / w, 1.0 / (w + (lanes - 1) * dw)
            u1, u2 = x * near, (x + (lanes - 1) * dx) * far
            v1, v2 = y * near, (y + (lanes - 1) * (dy - first_row * dw)) * far
            wide = min(u1, u2) > 1 + _SLACK and max(u1, u2) < n_cols - 2 - _SLACK
            if wide and min(v1, v2) > 1 + _SLACK and max(v1, v2) < n_rows - 2 - _SLACK:
                iu, iv = np.floor(u1), np.floor(v1)
                cubic_run(
                    isa_tag,
                    base + np.uintp(4 * (int(iv) * n_cols + int(iu))),
                    np.int32(n_cols),
                    target + np.uintp(4 * c),
                    (_F(x - iu * w), _F(dx - iu * dw)),
                    (_F(y - iv * w), _F(dy - (first_row + iv) * dw)),
                    (_F(w), _F(dw)),
                )
                blend[c : c + lanes] = 1
                continue
        for k in range(c, min(width, c + lanes)):
            f = 1.0 / (w0 + k * dw)
            x, y = (x0 + k * dx) * f, (y0 + k * dy) * f
            seen = x >= -0.5 and x <= n_cols - 0.5 and y >= -0.5 and y <= frame_rows - 0.5
            blend[k] = seen
            out[k] = _cubic(frame, x, y - first_row) if seen else 0.0


@nb.njit(**FAST)
def resample_frame(isa_tag, frame, homography, row_start, first_row, frame_rows, out):
    """Rows of a view that one frame makes alone: out (row, col), from `row_start` of the virtual panel on.

    frame (row, col) float32, C order: rows from `first_row` on of a frame of `frame_rows`.
    """
    blend = np.empty(out.shape[1], _F)
    for r in range(len(out)):
        _resample_row(isa_tag, frame, homography, row_start + r, first_row, frame_rows, out[r], blend)


@nb.njit(**FAST)
def blend_frame(isa_tag, frame, homography, row_start, first_row, frame_rows, feather, least, total, weight):
    """Add what one of several frames makes of a view's rows, times its blend weight, to `total`, and it to `weight`."""
    n_cols = total.shape[1]
    values, blend = np.empty(n_cols, _F), np.empty(n_cols, _F)
    m = homography
    for r in range(len(total)):
        row = row_start + r
        _resample_row(isa_tag, frame, m, row, first_row, frame_rows, values, blend)
        for c in range(n_cols):
            x = (m[0, 0] * c + m[0, 1] * row + m[0, 2]) / (m[2, 0] * c + m[2, 1] * row + m[2, 2])
            edge = min(x + 0.5, frame.shape[1] - 0.5 - x)
            share = _F(min(max(edge / feather, least), 1.0)) * blend[c]
            total[r, c] += share * values[c]
            weight[r, c] += share
