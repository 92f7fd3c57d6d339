# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202
"""One step of total-variation denoising by projection on the dual's unit balls (numba).

Layouts as in `projector_pair`: (y, x, z) with `PAD` voxels on every side, or more behind along z.  Threads split lines
of constant y; each writes its own voxels only.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from reconstruction.backends.projector_pair import PAD

_FAST = {
    "nogil": True,
    "error_model": "numpy",
    "boundscheck": False,
    "cache": True,
    "fastmath": {"contract", "nsz", "nnan"},
}


@nb.njit(**_FAST)
def _primal_line(noisy, before_y, here_y, before_x, here_x, along_z, weight, slopes, lower, out):
    """One line of `primal_of_dual`; a loop of its own, so that it is compiled to vector code."""
    gy, gx, gz = slopes
    for z in range(out.size):
        total = gy * (before_y[z] - here_y[z]) + gx * (before_x[z] - here_x[z]) + gz * (along_z[z] - along_z[z + 1])
        out[z] = max(lower, noisy[z] - weight * total)


@nb.njit(**_FAST)
def primal_of_dual(noisy, dual, weight, slopes, inside, n_slices, lower, out, y_start, y_stop):
    """Write ``max(lower, noisy - weight * D^T dual)`` for lines of voxels; nothing where `inside` is not.

    dual (3, y, x, z): along y, x, z; slopes (y, x, z): what a difference of neighbours counts; inside (y, x) bool.
    """
    end = PAD + n_slices
    for y in range(max(PAD, y_start), min(noisy.shape[0] - PAD, y_stop)):
        for x in range(PAD, noisy.shape[1] - PAD):
            if inside[y, x]:
                _primal_line(
                    noisy[y, x, PAD:end], dual[0, y - 1, x, PAD:end], dual[0, y, x, PAD:end],
                    dual[1, y, x - 1, PAD:end], dual[1, y, x, PAD:end], dual[2, y, x, PAD - 1 : end], weight, slopes,
                    lower, out[y, x, PAD:end],
                )  # fmt: skip


@nb.njit(**_FAST)
def _climb_line(primal, next_y, next_x, along_y, along_x, along_z, steps):
    """One line of `climb_dual`; a loop of its own, so that it is compiled to vector code."""
    ay, ax, az = steps
    one = np.float32(1)
    for z in range(along_z.size):
        here = primal[z]
        py = along_y[z] + ay * (next_y[z] - here)
        px = along_x[z] + ax * (next_x[z] - here)
        pz = along_z[z] + az * (primal[z + 1] - here)
        scale = one / max(one, np.sqrt(py * py + px * px + pz * pz))
        along_y[z], along_x[z], along_z[z] = py * scale, px * scale, pz * scale


@nb.njit(**_FAST)
def climb_dual(primal, dual, step, slopes, inside, n_slices, y_start, y_stop):
    """Move the dual along the gradient of `primal` and back into its unit balls, for lines of voxels.

    Differences across the border of `inside`, or out of the volume, do not count.
    """
    gy, gx, gz = slopes
    zero = np.float32(0)
    last = PAD + n_slices - 1
    for y in range(max(PAD, y_start), min(primal.shape[0] - PAD, y_stop)):
        for x in range(PAD, primal.shape[1] - PAD):
            if not inside[y, x]:
                continue
            ay = gy * step if inside[y + 1, x] else zero
            ax = gx * step if inside[y, x + 1] else zero
            for start, stop, az in ((PAD, last, gz * step), (last, last + 1, zero)):
                _climb_line(
                    primal[y, x, start : stop + 1], primal[y + 1, x, start:stop], primal[y, x + 1, start:stop],
                    dual[0, y, x, start:stop], dual[1, y, x, start:stop], dual[2, y, x, start:stop], (ay, ax, az),
                )  # fmt: skip
