# SPDX-License-Identifier: Apache-2.0
"""What the poses of a scan are found to be, and what is refused."""

import math

import numpy as np
import pytest

from reconstruction.coverage import (
    check_reconstructable,
    covered_radius_mm,
    covered_z_mm,
    default_grid,
    measured_radius_mm,
    uncovered_slices,
)
from reconstruction.errors import GeometryError
from reconstruction.fdk import FdkParameters, prepare
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.orbits import find_orbits
from tests.support.orbits import circle, degrees, helix, stack, stepped, tilted, together

GRID = VolumeGrid((4, 40, 40), (1.0, 0.5, 0.5))


@pytest.mark.parametrize(
    ("geometry", "kind", "rings", "positions"),
    [
        (circle(degrees(0, 360, 4)), "circle", 1, 1),
        (circle(-degrees(0, 200, 4)), "circle", 1, 1),
        (stack((-8.0, 0.0, 8.0), degrees(0, 360, 4)), "stack", 3, 1),
        (helix(3, 60, 7.0), "helix", 1, 1),
        (helix(3.4, 60, -7.0), "helix", 1, 1),
        (helix(1, 60, 1.5), "circle", 1, 1),
        (stepped((-15.0, 15.0), (0.0, 0.4), 60, n_cols=40), "circle", 1, 2),
        (
            together(*(stepped((-15.0, 15.0), (0.0, 0.4), 60, n_cols=40, z_mm=z) for z in (0.0, 7.0))),
            "stack", 2, 2,
        ),
    ],
)  # fmt: skip
def test_circles_stacks_helices_and_camera_positions_are_told_apart(geometry, kind, rings, positions):
    for order in (np.arange(geometry.n_views), np.random.default_rng(2).permutation(geometry.n_views)):
        orbits = find_orbits(geometry.select(order))
        assert (orbits.kind, len(orbits.ring_heights_mm), orbits.n_positions) == (kind, rings, positions)
        assert sorted(np.concatenate([t.views for t in orbits.tracks])) == list(range(geometry.n_views))


def test_a_wobbling_calibrated_circle_is_still_one_circle():
    rng = np.random.default_rng(4)
    poses = circle(degrees(0, 360, 4)).poses.copy()
    poses[:, 2] += 0.3 * np.sin(np.arange(90) / 14) + rng.normal(0, 0.05, 90)
    poses[:, 3:6] += rng.normal(0, 0.2, (90, 3))
    orbits = find_orbits(ConeBeamGeometry(poses, 30, 100))
    assert (orbits.kind, len(orbits.tracks), orbits.has_holes) == ("circle", 1, False)


@pytest.mark.parametrize(
    ("angles", "total_deg", "has_holes"),
    [
        (degrees(0, 360, 2), 360, False),
        (degrees(0, 359.5, 0.5), 360, False),  # a turn that stops half a degree short
        (degrees(0, 360.5, 1), 360, False),  # both ends measured
        (np.concatenate([degrees(0, 360, 2), degrees(0, 90, 2)]), 360, False),  # a quarter measured twice
        (np.delete(degrees(0, 360, 2), 77), 360, False),  # one view missing
        (np.sort(np.random.default_rng(0).uniform(0, 2 * math.pi, 400)), 360, False),
        (degrees(0, 210, 2), 210, True),
        (np.delete(degrees(0, 360, 2), slice(40, 55)), 330, True),
    ],
)
def test_each_view_stands_for_its_angle_and_no_view_for_a_hole(angles, total_deg, has_holes):
    orbits = find_orbits(circle(angles))
    if angles.size != 400:
        assert orbits.has_holes == has_holes
    assert math.degrees(orbits.shares_rad.sum()) == pytest.approx(total_deg, abs=8.5 if angles.size == 400 else 1e-6)
    assert orbits.shares_rad.max() < 3 * np.percentile(orbits.shares_rad, 90)


def test_doubled_views_share_and_turns_of_a_helix_count_apart():
    shares = find_orbits(circle(np.repeat(degrees(0, 360, 4), 2))).shares_rad
    assert shares == pytest.approx(np.full(180, math.radians(2)))
    assert find_orbits(helix(3, 60, 7.0)).shares_rad == pytest.approx(np.full(180, math.radians(6)))


def refused(geometry, radius_mm, grid=GRID):
    with pytest.raises(GeometryError) as caught:
        check_reconstructable(geometry, grid, radius_mm)
    return str(caught.value)


@pytest.mark.parametrize(
    ("geometry", "radius", "words"),
    [
        (
            circle(degrees(0, 188, 2)), 15.0,
            ("cover an arc of 188 degrees", "at least 197.3 degrees are needed", "a field of up to 8."),
        ),
        (circle(degrees(0, 80, 2)), 15.0, ("cover an arc of 80 degrees", "at least 180 degrees")),
        (circle(degrees(0, 220, 2), offset_u_mm=20.0), 15.0, ("360 degrees are needed", "up to 12")),
        (
            circle(degrees(0, 360, 2), offset_u_mm=41.0), 10.0,
            ("0 mm from the axis, in any direction", "move the panel"),
        ),
        (circle(degrees(0, 360, 2)), 26.0, ("covers columns 0 to 99", "ask for a smaller field", "up to 24.")),
        (stack((-12.0, 12.0), degrees(0, 360, 4)), 12.0, ("a step of 24 mm", "up to 13.2 mm")),
        (helix(4, 60, 13.9), 12.0, ("a pitch of 13.9 mm", "up to 13.2 mm", "a field of radius 7.")),
        (stepped((-30.0, 0.0, 30.0), (0, 0.3, 0), 60, n_cols=30), 12.0, ("lines 7.", "are measured by no view")),
    ],
)  # fmt: skip
def test_a_refusal_says_which_lines_and_what_to_do_instead(geometry, radius, words):
    said = refused(geometry, radius)
    for word in words:
        assert word in said, said


def test_what_a_refusal_advises_is_taken():
    arc = circle(degrees(0, 188, 2))
    fits = measured_radius_mm(arc)
    check_reconstructable(arc, GRID, fits * 0.999)
    refused(arc, fits * 1.02)
    check_reconstructable(circle(degrees(0, 197.4, 2)), GRID, 15.0)
    check_reconstructable(helix(4, 60, 13.0), GRID, 12.0)


def test_a_gap_on_the_axis_is_refused_and_one_beside_it_is_not():
    plain = circle(degrees(0, 360, 2))
    gap_on_axis = ConeBeamGeometry(plain.poses, 30, 100, ((49, 51),))
    assert "0 mm from the axis, in any direction" in refused(gap_on_axis, 15.0)
    check_reconstructable(ConeBeamGeometry(plain.poses, 30, 100, ((20, 24), (60, 62))), GRID, 15.0)
    with pytest.raises(GeometryError, match="column gaps must be ascending"):
        ConeBeamGeometry(plain.poses, 30, 100, ((60, 62), (20, 24)))
    short = circle(degrees(0, 220, 2))
    assert "360 degrees are needed" in refused(ConeBeamGeometry(short.poses, 30, 100, ((20, 24),)), 15.0)


def test_a_source_that_moves_at_random_is_refused():
    poses = circle(degrees(0, 360, 4)).poses.copy()
    poses[:, [2, 5]] += np.random.default_rng(3).uniform(-9, 9, (90, 1))
    assert "on no circle, stack of circles or helix" in refused(ConeBeamGeometry(poses, 30, 100), 10.0)


def test_offset_panels_are_covered_to_their_long_side():
    centred, offset = circle(degrees(0, 360, 2)), circle(degrees(0, 360, 2), offset_u_mm=20.0)
    assert covered_radius_mm(centred) == pytest.approx(100 * math.sin(math.atan(40 / 160)), rel=1e-9)
    assert covered_radius_mm(offset) == pytest.approx(100 * math.sin(math.atan(60 / 160)), rel=1e-9)
    assert covered_radius_mm(circle(degrees(0, 360, 2), offset_u_mm=2.0)) == pytest.approx(
        100 * math.sin(math.atan(38 / 160)), rel=1e-9
    )


@pytest.mark.parametrize(
    ("geometry", "low", "high"),
    [
        (stack((-8.0, 0.0, 8.0), degrees(0, 360, 4)), -8 - 6.6, 8 + 6.6),
        (helix(4, 120, 8.0), -16 + 8 - 6.6, 16 - 8 + 6.6),
    ],
)
def test_stacks_and_helices_are_covered_between_their_ends(geometry, low, high):
    found = covered_z_mm(geometry, 12.0)
    assert found == pytest.approx((low, high), abs=0.1)
    grid = VolumeGrid((60, 24, 24), (1.0, 1.0, 1.0))
    outside = int(np.count_nonzero(np.abs(np.arange(60) - 29.5) > high + 0.5))
    assert uncovered_slices(geometry, grid, 12.0) == pytest.approx(outside, abs=1)


@pytest.mark.parametrize(
    "geometry",
    [
        circle(degrees(0, 360, 4), offset_u_mm=25.0),
        stack((-8.0, 0.0, 8.0), degrees(0, 360, 4)),
        helix(4, 60, 11.0),
        stepped((-15.0, 15.0), (0.0, 0.4), 60, n_cols=40),
        tilted(circle(degrees(0, 360, 4)), roll_deg=2.0, pitch_deg=-3.0, yaw_deg=1.0),
    ],
    ids=["offset", "stack", "helix", "stepped", "tilted"],
)
def test_the_default_grid_is_covered_whole(geometry):
    grid = default_grid(geometry)
    setup = prepare(geometry, grid, FdkParameters())
    assert uncovered_slices(setup.geometry, grid, setup.radius_mm) == 0
    assert grid.shape[0] > 8


def test_the_setup_says_what_it_does():
    said = " ".join(prepare(stepped((-15.0, 15.0), (0.0, 0.4), 60, n_cols=40), GRID, FdkParameters()).describes())
    assert "2 camera positions at angles of their own" in said
    assert "2 times the work" in said
    assert "resampled onto columns that continue each other's" in said
    merged = stepped((-15.0, 15.0), (0.0, 0.0), 60, n_cols=40)
    said = " ".join(prepare(tilted(merged, roll_deg=1.0), GRID, FdkParameters()).describes())
    assert "merged into one wide view" in said
    assert "resampled onto an upright one" in said
    said = " ".join(prepare(helix(4, 60, 11.0), GRID, FdkParameters()).describes())
    assert "a helix of 4 turns" in said
    assert "(upright)" in said
