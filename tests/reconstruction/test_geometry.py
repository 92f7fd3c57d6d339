# SPDX-License-Identifier: Apache-2.0
"""Poses, orbits and grids in the project's frame."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconstruction.coverage import projection_matrices
from reconstruction.errors import GeometryError
from reconstruction.geometry import ConeBeamGeometry, Pose, Slab, VolumeGrid


def circular(**changes):
    values = {
        "sod_mm": 200.0,
        "sdd_mm": 280.0,
        "angles_rad": np.arange(12) * math.pi / 6,
        "n_rows": 10,
        "n_cols": 14,
        "pitch_u_mm": 0.5,
        "pitch_v_mm": 0.4,
    }
    return ConeBeamGeometry.circular(**(values | changes))


def project(geometry, view_index, point):
    col, row, depth = projection_matrices(geometry)[view_index] @ np.append(point, 1.0)
    return col / depth, row / depth, depth


def test_source_starts_on_plus_x_and_turns_counter_clockwise_seen_from_plus_z():
    geometry = circular(angles_rad=[0.0, math.pi / 2])
    assert geometry.pose(0).source_mm == pytest.approx((200, 0, 0))
    assert geometry.pose(1).source_mm == pytest.approx((0, 200, 0), abs=1e-9)
    assert geometry.pose(0).u_step_mm == pytest.approx((0, 0.5, 0))
    assert geometry.pose(0).v_step_mm == pytest.approx((0, 0, 0.4))


@given(
    beta=st.floats(-3, 3),
    x=st.floats(-20, 20),
    y=st.floats(-20, 20),
    z=st.floats(-20, 20),
    offset_u=st.floats(-3, 3),
    offset_v=st.floats(-3, 3),
)
def test_projection_follows_the_equations_of_the_manual(beta, x, y, z, offset_u, offset_v):
    geometry = circular(angles_rad=[beta], offset_u_mm=offset_u, offset_v_mm=offset_v)
    depth = 200 - (x * math.cos(beta) + y * math.sin(beta))
    u = 280 * (-x * math.sin(beta) + y * math.cos(beta)) / depth
    v = 280 * z / depth
    col, row, distance = project(geometry, 0, (x, y, z))
    assert col == pytest.approx((u - offset_u) / 0.5 + 6.5, abs=1e-8)
    assert row == pytest.approx((v - offset_v) / 0.4 + 4.5, abs=1e-8)
    assert distance == pytest.approx(depth)


@given(
    sod=st.floats(10, 500), extra=st.floats(1, 500), offset_u=st.floats(-5, 5), offset_v=st.floats(-5, 5),
    z=st.floats(-50, 50), start=st.floats(-7, 7),
)  # fmt: skip
def test_circular_orbit_is_found_again_from_the_poses(sod, extra, offset_u, offset_v, z, start):
    geometry = circular(
        sod_mm=sod, sdd_mm=sod + extra, offset_u_mm=offset_u, offset_v_mm=offset_v, z_mm=z,
        angles_rad=start + np.arange(12) * math.pi / 6,
    )  # fmt: skip
    orbit = geometry.circular_orbit
    assert orbit is not None
    assert (orbit.sod_mm, orbit.sdd_mm, orbit.z_mm) == pytest.approx((sod, sod + extra, z), abs=1e-9)
    assert orbit.center_col == pytest.approx(6.5 - offset_u / 0.5, abs=1e-8)
    assert orbit.center_row == pytest.approx(4.5 - offset_v / 0.4, abs=1e-8)


@pytest.mark.parametrize("element", [0, 2, 3, 5, 6, 8, 9, 11])
def test_a_pose_that_leaves_the_circle_is_no_circular_orbit(element):
    geometry = circular()
    poses = geometry.poses.copy()
    poses[5, element] += 0.01
    assert ConeBeamGeometry(poses, 10, 14).circular_orbit is None


@pytest.mark.parametrize(
    ("angles_deg", "arc_deg"),
    [
        (np.arange(360), 360),
        (np.arange(0, 360, 7.5), 360),
        (np.arange(181, 211.5, 0.5), 30.5),
        (np.arange(0, 200, 2), 200),
        (-np.arange(0, 360, 3), 360),
        (np.sort(np.random.default_rng(1).uniform(0, 200, 300)), 200),
    ],
)
def test_arc_counts_each_view_with_its_step(angles_deg, arc_deg):
    geometry = circular(angles_rad=np.radians(angles_deg))
    assert math.degrees(geometry.arc_rad) == pytest.approx(arc_deg, abs=1)
    assert geometry.is_full_turn == (arc_deg == 360)


def test_pose_round_trip_and_select():
    geometry = circular()
    assert Pose.from_array(geometry.pose(3).as_array()) == geometry.pose(3)
    assert geometry.select([3, 1]).pose(0) == geometry.pose(3)
    assert geometry == circular()
    assert geometry != circular(sod_mm=201.0)
    assert hash(geometry) == hash(circular())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sod_mm": 0.0}, "sod_mm must be a positive length"),
        ({"sdd_mm": 150.0}, "must lie behind the axis"),
        ({"pitch_u_mm": float("nan")}, "pitch_u_mm"),
        ({"angles_rad": []}, "one number for each view"),
        ({"angles_rad": [0.0, float("inf")]}, "not finite"),
        ({"n_rows": 0}, "at least one pixel"),
    ],
)
def test_malformed_geometry_is_refused_in_one_sentence(changes, words):
    with pytest.raises(GeometryError, match=words), np.errstate(invalid="ignore"):
        circular(**changes)


def test_degenerate_poses_are_refused():
    poses = circular().poses.copy()
    poses[4, 9:12] = poses[4, 6:9]
    with pytest.raises(GeometryError, match="view 4"):
        ConeBeamGeometry(poses, 10, 14)
    with pytest.raises(GeometryError, match=r"\(view, 12\)"):
        ConeBeamGeometry(np.zeros((3, 11)), 10, 14)


def test_slab_grid_keeps_the_voxels_where_they_are():
    grid = VolumeGrid((10, 4, 6), (0.5, 1.0, 2.0), (1.0, 2.0, 3.0))
    part = grid.slab_grid(Slab(3, 7))
    assert part.shape == (4, 4, 6)
    assert part.origin_mm == pytest.approx((grid.origin_mm[0], grid.origin_mm[1], grid.origin_mm[2] + 1.5))
    with pytest.raises(GeometryError, match="does not lie in the 10 slices"):
        grid.slab_grid(Slab(8, 11))
    with pytest.raises(GeometryError):
        VolumeGrid((0, 4, 4), (1.0, 1.0, 1.0))
    with pytest.raises(GeometryError):
        VolumeGrid((4, 4, 4), (1.0, -1.0, 1.0))
