# SPDX-License-Identifier: Apache-2.0
"""Weight, ramp filter and transpose in one visit: as many rows at a time as a SIMD vector has lanes.

The rows' buffer and spectrum stay in the L2 cache, and what comes out is written once, where it is wanted.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from reconstruction.backends.fft_kernel import convolve_rows
from reconstruction.backends.simd import copy_scaled, lanes_of, load_column
from reconstruction.backends.upright_kernels import FAST

#: Numba's cache looks at a function's own file alone.  What is compiled from others stands here, so that a change of
#: theirs changes this file too (a test holds it).
COMPILED_WITH = {"fft_kernel": "89a57076de18", "simd": "748d07dd8ff0", "upright_kernels": "798ef4dca3b6"}
_F = np.float32


@nb.njit(**FAST)
def cosine_weights(pose, panel, row_start, redundancy, weights):
    """Fill weights (col, row) with the cosine to the line from source to axis times the redundancy of the column.

    pose (12,): source, detector centre, u step, v step of an upright panel; panel: (rows, cols); redundancy (col,)
    float64.  Rows beyond the band (the spare ones of the last vector) are filled too.
    """
    n_rows_panel, n_cols_panel = panel
    n_cols, n_rows = weights.shape
    radius = math.hypot(pose[0], pose[1])
    tx, ty = -pose[0] / radius, -pose[1] / radius
    j0 = row_start - (n_rows_panel - 1) / 2
    for c in range(n_cols):
        i = c - (n_cols_panel - 1) / 2
        rx, ry = pose[3] - pose[0] + i * pose[6], pose[4] - pose[1] + i * pose[7]
        rz = pose[5] - pose[2] + i * pose[8]
        toward = (rx * tx + ry * ty) * redundancy[c]
        level2 = rx * rx + ry * ry
        for r in range(n_rows):
            height = rz + (j0 + r) * pose[11]
            weights[c, r] = toward / math.sqrt(level2 + height * height)


@nb.njit(**FAST)
def _filter_chunk(isa_tag, source, row_bytes, count, weights, row, buffer, fade, fft):
    """Weigh, continue and convolve `count` rows from the address `source` on into the buffer (n_fft, lanes)."""
    n_fft, radices, twiddles, pairs, factors = fft
    lanes = lanes_of(isa_tag)
    n_cols, weight_rows = weights.shape
    base, weight = np.uintp(buffer.ctypes.data), np.uintp(weights.ctypes.data) + np.uintp(4 * row)
    for c in range(n_cols):
        load_column(
            isa_tag, source + np.uintp(4 * c), row_bytes, count, weight + np.uintp(4 * c * weight_rows),
            base + np.uintp(4 * lanes * c),
        )  # fmt: skip
    buffer[n_cols:n_fft] = 0
    # Continued smoothly beyond both ends, as `reconstruction.filtering.continued_rows` says.
    for k in range(1, len(fade) + 1):
        left, right = min(k, n_cols - 1), max(n_cols - 1 - k, 0)
        for lane in range(lanes):
            before, behind = buffer[0, lane], buffer[n_cols - 1, lane]
            buffer[n_fft - k, lane] = max(_F(0), _F(2) * before - buffer[left, lane]) * fade[k - 1]
            buffer[n_cols - 1 + k, lane] = max(_F(0), _F(2) * behind - buffer[right, lane]) * fade[k - 1]
    convolve_rows(isa_tag, buffer, n_fft, radices, twiddles, pairs, factors)


@nb.njit(**FAST)
def filter_into_view(isa_tag, rows, n_rows, weights, buffer, fade, fft, view, col_start, scale):
    """Filter rows (address, C order) into one bordered view (col, row), times `scale`.

    Columns left of the panel (negative) sit at the end of the periodic row.
    """
    lanes = lanes_of(isa_tag)
    n_cols, height = view.shape[0] - 2, view.shape[1]
    n_fft = fft[0]
    row_bytes = np.uintp(4 * weights.shape[0])
    base, out = np.uintp(buffer.ctypes.data), np.uintp(view.ctypes.data)
    for row in range(0, n_rows, lanes):
        count = min(lanes, n_rows - row)
        _filter_chunk(isa_tag, rows + np.uintp(row) * row_bytes, row_bytes, count, weights, row, buffer, fade, fft)
        for c in range(n_cols):
            at = c + col_start
            if at < 0:
                at += n_fft
            if count == lanes:
                target = out + np.uintp(4 * ((c + 1) * height + 1 + row))
                copy_scaled(isa_tag, base + np.uintp(4 * lanes * at), target, scale)
            else:
                for lane in range(count):
                    view[c + 1, 1 + row + lane] = buffer[at, lane] * scale


@nb.njit(**FAST)
def filter_rows(isa_tag, rows, n_rows, weights, buffer, fade, fft, out, col_start):
    """Filter rows (address, C order) into (row, filtered col)."""
    lanes = lanes_of(isa_tag)
    n_fft = fft[0]
    n_cols = out.shape[1]
    row_bytes = np.uintp(4 * weights.shape[0])
    for row in range(0, n_rows, lanes):
        count = min(lanes, n_rows - row)
        _filter_chunk(isa_tag, rows + np.uintp(row) * row_bytes, row_bytes, count, weights, row, buffer, fade, fft)
        for first in range(0, n_cols, 16):
            for lane in range(count):
                for c in range(first, min(n_cols, first + 16)):
                    at = c + col_start
                    if at < 0:
                        at += n_fft
                    out[row + lane, c] = buffer[at, lane]
