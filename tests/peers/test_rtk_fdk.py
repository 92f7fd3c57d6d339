# SPDX-License-Identifier: Apache-2.0
"""RTK as an outside judge: our frame maps to its axes, and our FDK gives its numbers on its own projections."""

import math

import numpy as np
import pytest

from reconstruction.backends import list_backends
from reconstruction.fdk import reconstruct
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid

SCALE_MM = 19.0
GRID = VolumeGrid.cubic(48, 40 / 48)


def geometry_of(n_views, **changes):
    values = {
        "sod_mm": 200.0, "sdd_mm": 280.0, "angles_rad": np.arange(n_views) * 2 * math.pi / n_views,
        "n_rows": 72, "n_cols": 76, "pitch_u_mm": 0.8, "pitch_v_mm": 0.82,
    }  # fmt: skip
    return ConeBeamGeometry.circular(**(values | changes))


@pytest.mark.parametrize("n_views", [60, 58])
def test_fdk_gives_rtks_numbers_on_rtks_projections(n_views, rtk):
    geometry = geometry_of(n_views)
    projections, _ = rtk.shepp_logan(geometry, GRID, SCALE_MM)
    expected = rtk.fdk(projections, geometry, GRID, threads=2, subset=16).value
    x = GRID.origin_mm[0] + GRID.voxel_pitch_mm[0] * np.arange(48)
    radius = np.hypot(x[:, None], x[None])
    inside = (radius < 19)[None] & (np.abs(x)[:, None, None] < (34 * 0.82 * (200 - radius) / 280)[None])
    scale = np.sqrt(np.mean(expected[inside].astype(np.float64) ** 2))
    for name, lacking in list_backends().items():
        if not lacking and name not in ("numpy_reference", "cupy-float16", "astra"):
            got = reconstruct(projections, geometry, GRID, backend=name)
            rmse = np.sqrt(np.mean((got[inside].astype(np.float64) - expected[inside]) ** 2))
            assert rmse / scale < 2e-6, name


def test_unequal_angles_and_shifted_panel_agree_too(rtk):
    steps = np.random.default_rng(4).uniform(0.8, 1.2, 60)
    geometry = geometry_of(
        60, angles_rad=0.4 + np.cumsum(steps) / steps.sum() * 2 * math.pi, offset_u_mm=0.9, offset_v_mm=-1.1
    )
    projections, _ = rtk.shepp_logan(geometry, GRID, SCALE_MM)
    expected = rtk.fdk(projections, geometry, GRID, threads=2, subset=16).value
    got = reconstruct(projections, geometry, GRID)
    x = GRID.origin_mm[0] + GRID.voxel_pitch_mm[0] * np.arange(48)
    inside = (np.hypot(x[:, None], x[None]) < 19)[None] & (np.abs(x) < 15)[:, None, None]
    rmse = np.sqrt(np.mean((got[inside].astype(np.float64) - expected[inside]) ** 2))
    assert rmse / np.sqrt(np.mean(expected[inside].astype(np.float64) ** 2)) < 1e-5


def test_other_mappings_of_the_axes_do_not_agree(rtk):
    geometry = geometry_of(60)
    projections, _ = rtk.shepp_logan(geometry, GRID, SCALE_MM)
    expected = rtk.fdk(projections, geometry, GRID, threads=2, subset=16).value
    scale = np.sqrt(np.mean(expected.astype(np.float64) ** 2))
    got = reconstruct(projections, geometry, GRID)
    for wrong in (got[::-1], got[:, ::-1], got[:, :, ::-1], got.transpose(0, 2, 1), got[:, ::-1, ::-1]):
        assert np.sqrt(np.mean((wrong.astype(np.float64) - expected) ** 2)) / scale > 0.05
