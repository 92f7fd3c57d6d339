# SPDX-License-Identifier: Apache-2.0
"""RTK's FDK back-projector and our kernel for any pose, on the same filtered projections."""

import numpy as np
import pytest

from reconstruction.backends import load_backend
from reconstruction.fdk import FdkParameters, prepare
from reconstruction.geometry import VolumeGrid
from reconstruction.phantom import marker_phantom
from reconstruction.projector import forward_project
from tests.support.orbits import circle, degrees, helix, stack, stepped, tilted
from tests.support.rtk_kernel import back_project

GRID = VolumeGrid((16, 30, 32), (1.2, 0.9, 0.8), (0.0, 0.0, 0.4))
LOW = VolumeGrid((6, 30, 32), (1.5, 0.9, 0.8))
TURN = degrees(0, 360, 10)
TALL = {"n_rows": 72}
ORBITS = {
    "roll": (tilted(circle(TURN, **TALL), roll_deg=8.0), GRID),
    "lean": (tilted(circle(TURN, **TALL), pitch_deg=10.0), GRID),
    "lean back": (tilted(circle(TURN, **TALL), pitch_deg=-5.0), GRID),
    "yaw": (tilted(circle(TURN, **TALL), yaw_deg=10.0), GRID),
    "all three": (tilted(circle(TURN, **TALL), roll_deg=7.0, pitch_deg=-9.0, yaw_deg=6.0), GRID),
    "all three, offset panel": (
        tilted(circle(TURN, offset_u_mm=9.0, **TALL), roll_deg=-3.0, pitch_deg=5.0, yaw_deg=-5.0), GRID,
    ),
    "upright": (circle(degrees(0, 360, 9.1), **TALL), GRID),
    "stack": (stack((-6.0, 6.0), TURN, **TALL), LOW),
    "stack, all three": (
        tilted(stack((-6.0, 6.0), TURN, **TALL), roll_deg=2.0, pitch_deg=-6.0, yaw_deg=4.0), LOW,
    ),
    "helix": (helix(3, 36, 9.0, **TALL), LOW),
    "helix, all three": (tilted(helix(3, 36, 9.0, **TALL), roll_deg=2.0, pitch_deg=5.0, yaw_deg=-4.0), LOW),
    "stepped, roll": (tilted(stepped((-15.0, 15.0), (0.0, 0.4), 36, n_cols=60, **TALL), roll_deg=1.0), LOW),
}  # fmt: skip


def relative_rmse(got, expected):
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    return float(np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2)))


@pytest.mark.parametrize("name", ORBITS)
def test_the_kernel_for_any_pose_gives_rtks_numbers_on_the_same_filtered_rows(rtk, name):
    geometry, grid = ORBITS[name]
    setup = prepare(geometry, grid, FdkParameters(tilted="general"), force_general=True)
    assert (setup.kernel, setup.virtual) == ("any_pose", None)
    lines = forward_project(marker_phantom(9.0), geometry)
    lines += (0.02 * lines.max() * np.random.default_rng(7).normal(size=lines.shape)).astype(np.float32)
    views = np.arange(geometry.n_views)
    window = setup.window_of(views)
    judge = load_backend("numpy_reference")
    band = lines[:, window.row_start : window.row_stop]
    filtered = judge.filter_rows(setup, band, views, row_start=window.row_start)
    expected = rtk.call(back_project, filtered, geometry, grid, window, setup.ramp.col_start, setup.slice_weights)
    (x0, y0, _), (_, py, px), (_, ny, nx) = grid.origin_mm, grid.voxel_pitch_mm, grid.shape
    y, x = y0 + py * np.arange(ny), x0 + px * np.arange(nx)
    inside = np.hypot(y[:, None], x) < setup.radius_mm - 0.5
    for backend in ("numba", "numpy_reference"):
        accumulator = load_backend(backend).start(setup)
        accumulator.add_filtered(filtered, views, window)
        got = accumulator.read_slices(0, grid.shape[0])
        off = relative_rmse(got[:, inside], expected[:, inside])
        print(f"{name}, {backend}: relative RMSE to RTK's back-projector {off:.2e}")
        assert off < 2e-6
