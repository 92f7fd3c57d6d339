# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201
"""One step of total-variation denoising by projection on the dual's unit balls (numba).

Layouts as in `projector_pair`: (y, x, z) with `PAD` voxels on every side.  Threads split lines of
constant y; each writes its own voxels only.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from reconstruction.backends.projector_pair import PAD

_FAST = {"nogil": True, "error_model": "numpy", "boundscheck": False, "cache": True, "fastmath": {"contract", "nsz"}}


@nb.njit(**_FAST)
def primal_of_dual(noisy, dual, weight, slopes, inside, lower, out, y_start, y_stop):
    """Write ``max(lower, noisy - weight * D^T dual)`` for lines of voxels; 0 where `inside` is not.

    dual (3, y, x, z): along y, x, z; slopes (3,): what a difference of neighbours counts along y, x, z;
    inside (y, x) bool.
    """
    gy, gx, gz = slopes
    n_x, n_z = noisy.shape[1], noisy.shape[2]
    for y in range(max(PAD, y_start), min(noisy.shape[0] - PAD, y_stop)):
        for x in range(PAD, n_x - PAD):
            if not inside[y, x]:
                continue
            for z in range(PAD, n_z - PAD):
                total = gy * (dual[0, y - 1, x, z] - dual[0, y, x, z])
                total += gx * (dual[1, y, x - 1, z] - dual[1, y, x, z])
                total += gz * (dual[2, y, x, z - 1] - dual[2, y, x, z])
                out[y, x, z] = max(lower, noisy[y, x, z] - weight * total)


@nb.njit(**_FAST)
def climb_dual(primal, dual, step, slopes, inside, y_start, y_stop):
    """Move the dual along the gradient of `primal` and back into its unit balls, for lines of voxels.

    Differences across the border of `inside`, or out of the volume, do not count.
    """
    gy, gx, gz = slopes
    n_y, n_x, n_z = primal.shape
    for y in range(max(PAD, y_start), min(n_y - PAD, y_stop)):
        for x in range(PAD, n_x - PAD):
            if not inside[y, x]:
                continue
            ay = np.float32(gy * step) if inside[y + 1, x] else np.float32(0)
            ax = np.float32(gx * step) if inside[y, x + 1] else np.float32(0)
            az = np.float32(gz * step)
            for z in range(PAD, n_z - PAD):
                here = primal[y, x, z]
                py = dual[0, y, x, z] + ay * (primal[y + 1, x, z] - here)
                px = dual[1, y, x, z] + ax * (primal[y, x + 1, z] - here)
                pz = dual[2, y, x, z]
                if z < n_z - PAD - 1:
                    pz += az * (primal[y, x, z + 1] - here)
                scale = np.float32(1) / max(np.float32(1), math.sqrt(py * py + px * px + pz * pz))
                dual[0, y, x, z] = py * scale
                dual[1, y, x, z] = px * scale
                dual[2, y, x, z] = pz * scale
