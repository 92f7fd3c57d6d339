# SPDX-License-Identifier: Apache-2.0
"""RTK as the judge of arcs, offset panels and tilts, on its own projections of its own phantom."""

import numpy as np
import pytest

from reconstruction.fdk import FdkParameters, reconstruct
from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid
from tests.support.orbits import degrees, tilted

SCALE_MM = 19.0
GRID = VolumeGrid.cubic(48, 40 / 48)
#: Slices compared: all of them for a fast back end, a few off the middle for the plain one.
SLAB = Slab(30, 38)
WIDTH_MM = 76 * 0.8


def geometry_of(angles, **changes):
    values = {
        "sod_mm": 200.0, "sdd_mm": 280.0, "angles_rad": angles, "n_rows": 72, "n_cols": 76, "pitch_u_mm": 0.8,
        "pitch_v_mm": 0.82,
    }  # fmt: skip
    return ConeBeamGeometry.circular(**(values | changes))


def inside():
    x = GRID.origin_mm[0] + GRID.voxel_pitch_mm[0] * np.arange(48)
    return np.broadcast_to(np.hypot(x[:, None], x[None]) < 17, (SLAB.n_slices, 48, 48))


def compare(rtk, geometry, weights="", parameters=None):
    """Relative RMSE to RTK's volume, and RMSE to the truth over RTK's."""
    projections, truth = rtk.shepp_logan(geometry, GRID, SCALE_MM)
    theirs = rtk.fdk(projections, geometry, GRID, threads=2, subset=16, weights=weights).value
    ours = reconstruct(projections, geometry, GRID, parameters, backend="numpy_reference", slab=SLAB)
    got, expected, true = (
        v[inside()].astype(np.float64)
        for v in (ours, theirs[SLAB.z_start : SLAB.z_stop], truth[SLAB.z_start : SLAB.z_stop])
    )
    to_theirs = np.sqrt(np.mean((got - expected) ** 2)) / np.sqrt(np.mean(expected**2))
    return to_theirs, np.sqrt(np.mean((got - true) ** 2) / np.mean((expected - true) ** 2))


@pytest.mark.parametrize("side", [1, -1])
def test_wangs_weights_by_name_give_rtks_numbers(rtk, side):
    geometry = geometry_of(degrees(0, 360, 6), offset_u_mm=side * 0.25 * WIDTH_MM)
    difference, _ = compare(rtk, geometry, "wang", FdkParameters(redundancy="wang"))
    assert difference < 1e-5


def test_parkers_weights_by_name_give_rtks_numbers(rtk):
    difference, _ = compare(rtk, geometry_of(degrees(0, 220.1, 4)), "parker", FdkParameters(redundancy="parker"))
    assert difference < 1e-4


@pytest.mark.parametrize(("arc_deg", "offset_share"), [(220.1, 0.0), (360.0, 0.25)])
def test_default_weights_are_as_near_to_the_truth_as_rtks(rtk, arc_deg, offset_share):
    geometry = geometry_of(degrees(0, arc_deg, 4), offset_u_mm=offset_share * WIDTH_MM)
    _, ratio = compare(rtk, geometry, "wang" if offset_share else "parker")
    assert ratio < 1.05


@pytest.mark.parametrize(("roll", "yaw"), [(0.5, 0.0), (0.0, 2.0), (0.3, -1.5)])
def test_the_general_kernel_gives_rtks_numbers_on_tilted_panels(rtk, roll, yaw):
    geometry = tilted(geometry_of(degrees(0, 360, 6)), roll_deg=roll, yaw_deg=yaw)
    difference, _ = compare(rtk, geometry, parameters=FdkParameters(tilted="general"))
    assert difference < 1e-4


@pytest.mark.parametrize("way", ["general", "rectify"])
@pytest.mark.parametrize(
    ("roll", "pitch", "yaw"),
    [(1, 0, 0), (0, 2, 0), (1, -2, 1.5), (6, 0, 0), (0, 10, 0), (0, 0, 10), (4, -8, 6)],
)
def test_tilted_panels_are_as_near_to_the_truth_as_rtks(rtk, way, roll, pitch, yaw):
    geometry = tilted(geometry_of(degrees(0, 360, 6)), roll_deg=roll, pitch_deg=pitch, yaw_deg=yaw)
    _, ratio = compare(rtk, geometry, parameters=FdkParameters(tilted=way))
    print(f"{way}, roll {roll}, pitch {pitch}, yaw {yaw}: RMSE to the truth {ratio:.4f} times RTK's")
    assert ratio < 1.05
