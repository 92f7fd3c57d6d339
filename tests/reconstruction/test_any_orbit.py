# SPDX-License-Identifier: Apache-2.0
"""Numbers are right by default on every orbit and detector, or the scan is refused rightly."""

import itertools
import math

import numpy as np
import pytest

from reconstruction.coverage import covered_radius_mm, covered_z_mm
from reconstruction.errors import GeometryError
from reconstruction.fdk import FdkParameters, reconstruct
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.phantom import Cylinder, Phantom, sample
from reconstruction.projector import forward_project
from tests.support.orbits import MU, circle, degrees, helix, pillars, regions, stack, stepped, tilted

JUDGE = "numpy_reference"
TALL = VolumeGrid((21, 48, 48), (1.0, 0.6, 0.6))
FLAT = VolumeGrid((3, 48, 48), (1.0, 0.6, 0.6))


def mu_of_cylinder(n_views, pitch_mm, offset_share, arc_deg, n_cols=128, backend=JUDGE):
    """Mean mu in a cylinder over its truth; None where the scan was refused."""
    step = arc_deg / n_views
    geometry = ConeBeamGeometry.circular(
        sod_mm=100.0, sdd_mm=160.0, angles_rad=0.3 + degrees(0, arc_deg - step / 2, step), n_rows=3, n_cols=n_cols,
        pitch_u_mm=pitch_mm, pitch_v_mm=pitch_mm, offset_u_mm=offset_share * n_cols * pitch_mm,
    )  # fmt: skip
    reach = 100 * math.sin(math.atan((0.5 + offset_share) * n_cols * pitch_mm / 160))
    radius = 0.8 * reach
    n = 40
    grid = VolumeGrid((1, n, n), (pitch_mm, 2 * radius / n, 2 * radius / n))
    body = Phantom((Cylinder((0.0, 0.0, 0.0), (0.7 * radius, 0.7 * radius, 50.0), MU),))
    try:
        volume = reconstruct(forward_project(body, geometry), geometry, grid, backend=backend)
    except GeometryError:
        short = 100 * math.sin(math.atan((0.5 - offset_share) * n_cols * pitch_mm / 160))
        needed = 180 + 2 * math.degrees(math.asin(radius / 100))
        assert arc_deg < 360
        assert radius > short or arc_deg < needed
        return None
    x = (np.arange(n) - (n - 1) / 2) * 2 * radius / n
    inside = np.hypot(x[:, None], x[None, :]) < 0.55 * radius
    return float(volume[0][inside].mean(dtype=np.float64)) / MU


SMALL = [
    (90, 0.4, 0.0, 360), (91, 0.03, 0.0, 360), (180, 0.2, 0.25, 360), (360, 0.4, 0.45, 360), (240, 0.1, 0.1, 360),
    (140, 0.4, 0.0, 215), (260, 0.05, 0.02, 260), (355, 0.4, 0.0, 355), (180, 0.4, 0.3, 215), (90, 0.4, 0.0, 170),
]  # fmt: skip


@pytest.mark.parametrize(("n_views", "pitch_mm", "offset_share", "arc_deg"), SMALL)
def test_mu_of_a_cylinder_is_right_or_the_scan_is_refused(n_views, pitch_mm, offset_share, arc_deg):
    found = mu_of_cylinder(n_views, pitch_mm, offset_share, arc_deg)
    if (offset_share > 0.05 and arc_deg < 360) or arc_deg < 180:
        assert found is None
    else:
        assert found == pytest.approx(1.0, abs=5e-3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("n_views", [90, 180, 360, 720, 1440])
def test_mu_of_a_cylinder_over_the_whole_grid(n_views):
    """Pitch x offset x arc: within 0.5 %, or a refusal that is right."""
    worst, done, refusals = 0.0, 0, 0
    for case in itertools.product((0.03, 0.1, 0.2, 0.4), (0.0, 0.03, 0.1, 0.25, 0.45), (360, 330, 270, 215, 190)):
        found = mu_of_cylinder(n_views, *case, backend="numba")
        if found is None:
            refusals += 1
            continue
        done += 1
        worst = max(worst, abs(found - 1))
        assert abs(found - 1) < 5e-3, case
    print(f"mu of a cylinder, {n_views} views: {done} scans within {100 * worst:.3f} %, {refusals} refused")
    assert done >= 40
    assert refusals >= 40


def test_the_truncation_trap():
    """A panel 25 % off centre, extended before the ramp, against one twice as wide in the middle."""
    grid = VolumeGrid((2, 50, 50), (0.8, 0.8, 0.8))
    phantom = pillars(17.0)
    offset = circle(degrees(0, 360, 2), n_cols=80, offset_u_mm=16.0)
    wide = circle(degrees(0, 360, 2), n_cols=160)
    got, expected = (reconstruct(forward_project(phantom, g), g, grid, backend=JUDGE) for g in (offset, wide))
    truth = sample(phantom, grid, supersample=3)
    assert float((got - expected).mean()) == pytest.approx(0.0, abs=1e-3 * float(expected.mean()))
    found = regions(got, grid, 17.0)
    plain = regions(expected, grid, 17.0)
    for name in found:
        assert found[name] == pytest.approx(plain[name], abs=4e-3)
    assert float(np.sqrt(np.mean((got - truth) ** 2))) < 1.02 * float(np.sqrt(np.mean((expected - truth) ** 2)))


ORBITS = {
    "stack": (stack((-9.0, 0.0, 9.0), degrees(0, 360, 3)), TALL),
    "stack of short arcs": (stack((-9.0, 0.0, 9.0), degrees(0, 213, 3)), TALL),
    "stack, offset panel": (stack((-9.0, 0.0, 9.0), degrees(0, 360, 3), n_cols=64, offset_u_mm=14.0), TALL),
    "helix": (helix(5, 120, 9.0), TALL),
    "helix, clockwise, offset panel": (helix(5, 120, -9.0, n_cols=64, offset_u_mm=14.0), TALL),
    "stepped, merged": (stepped((-19.0, 0.0, 19.0), (0, 0.05, -0.05), 120, n_cols=30), FLAT),
    "stepped, apart": (stepped((-19.0, 0.0, 19.0), (0, 0.3, 0.6), 120, n_cols=30), FLAT),
    "stepped, half": (stepped((6.0, 24.0), (0, 0.3), 120, n_cols=30), FLAT),
    "tilted": (tilted(circle(degrees(0, 360, 3)), roll_deg=4.0, pitch_deg=-8.0, yaw_deg=6.0), FLAT),
}


@pytest.mark.parametrize("name", ORBITS)
def test_regions_are_right_and_no_seam_shows(name):
    geometry, grid = ORBITS[name]
    z = grid.origin_mm[2] + np.arange(grid.shape[0]) * grid.voxel_pitch_mm[0]
    low, high = covered_z_mm(geometry, 14.4)
    assert low < z[0]
    assert high > z[-1]
    volume = reconstruct(forward_project(pillars(), geometry), geometry, grid, backend=JUDGE)
    for region, means in regions(volume, grid).items():
        assert means.mean() == pytest.approx(1.0, abs=5e-3), region
        # From slice to slice: no step where one circle, turn or position hands over to the next.
        assert means == pytest.approx(np.full(means.size, means.mean()), abs=1e-2), region


@pytest.mark.parametrize(("roll", "pitch", "yaw"), [(5.0, 0.0, 0.0), (0.0, 15.0, 0.0), (0.0, 0.0, 15.0), (4, -8, 6)])
@pytest.mark.parametrize("way", ["rectify", "general"])
def test_mu_is_right_on_panels_that_lean_roll_and_turn(roll, pitch, yaw, way):
    geometry = tilted(circle(degrees(0, 360, 4)), roll_deg=roll, pitch_deg=pitch, yaw_deg=yaw)
    body = Phantom((Cylinder((0.0, 0.0, 0.0), (11.0, 11.0, 60.0), MU),))
    volume = reconstruct(forward_project(body, geometry), geometry, FLAT, FdkParameters(tilted=way), backend=JUDGE)
    x = (np.arange(48) - 23.5) * 0.6
    inside = np.hypot(x[:, None], x[None, :]) < 9
    assert volume[:, inside].mean(axis=1) / MU == pytest.approx(np.ones(3), abs=2e-3)


def test_column_gaps_are_made_up_for_by_the_opposite_views():
    plain = circle(degrees(0, 360, 3), n_rows=10)
    gaps = ConeBeamGeometry(plain.poses, 10, 100, ((36, 39), (70, 72)))
    lines = forward_project(pillars(), plain)
    lines[:, :, [36, 37, 38, 70, 71]] = 77.0  # whatever stands there
    found = regions(reconstruct(lines, gaps, FLAT, backend=JUDGE), FLAT)
    for region, means in found.items():
        assert means.mean() == pytest.approx(1.0, abs=5e-3), region


def test_a_wide_object_is_cupped_less_with_truncation_padding():
    narrow = circle(degrees(0, 360, 3), n_rows=6, n_cols=50)
    lines = forward_project(Phantom((Cylinder((0.0, 0.0, 0.0), (22.0, 22.0, 50.0), MU),)), narrow)
    grid = VolumeGrid((1, 40, 40), (1.0, 0.5, 0.5))
    x = (np.arange(40) - 19.5) * 0.5
    rim = (np.hypot(x[:, None], x[None, :]) > 8) & (np.hypot(x[:, None], x[None, :]) < 9.5)
    middle = np.hypot(x[:, None], x[None, :]) < 3
    cupping = []
    for padding in (0.0, 0.5):
        volume = reconstruct(lines, narrow, grid, FdkParameters(truncation_padding=padding), backend=JUDGE)[0]
        cupping.append(float(volume[rim].mean() - volume[middle].mean()) / MU)
    assert cupping[0] > 0.05
    assert abs(cupping[1]) < 0.35 * cupping[0]


def test_outside_value_region_of_interest_and_flat_voxels():
    geometry = circle(degrees(0, 360, 3), n_rows=10)
    lines = forward_project(pillars(), geometry)
    whole = VolumeGrid((3, 40, 50), (0.7, 0.7, 0.55), (0.0, 0.0, 0.4))
    parameters = FdkParameters(outside_value=-1.0, field_radius_mm=12.5)
    volume = reconstruct(lines, geometry, whole, parameters, backend=JUDGE)
    y, x = (np.arange(40) - 19.5) * 0.7, (np.arange(50) - 24.5) * 0.55
    outside = y[:, None] ** 2 + x[None, :] ** 2 > 12.5**2
    assert np.all(volume[:, outside] == -1.0)
    assert np.all(volume[:, ~outside] > -0.5)
    part = VolumeGrid((3, 20, 20), (0.7, 0.7, 0.55), ((15 + 9.5 - 24.5) * 0.55 + 5.5, (10 + 9.5 - 19.5) * 0.7, 0.4))
    beside = reconstruct(lines, geometry, part, parameters, backend=JUDGE)
    np.testing.assert_allclose(beside, volume[:, 10:30, 25:45], atol=2e-6)
    assert covered_radius_mm(geometry) > 12.5


def test_a_narrow_overlap_of_camera_positions_leaves_no_ring():
    """Positions that share two columns hand over within the rays that the opposite views measure too."""
    grid = VolumeGrid((1, 60, 60), (1.0, 0.5, 0.5), (0.0, 0.0, 2.0))
    narrow = {"n_cols": 45, "pitch_u_mm": 0.4, "n_rows": 20}
    geometry = stepped((-25.0, -8.0, 9.0, 26.0), (0.0, 0.3, 0.6, 0.8), 180, **narrow)
    wide = circle(degrees(0, 360, 2), n_cols=200, pitch_u_mm=0.4, n_rows=20)
    got, expected = (reconstruct(forward_project(pillars(), g), g, grid, backend="numba")[0] for g in (geometry, wide))
    x = (np.arange(60) - 29.5) * 0.5
    inside = np.hypot(x[:, None], x[None, :]) < 11
    assert float(np.sqrt(np.mean((got - expected)[inside] ** 2))) < 0.05 * MU
