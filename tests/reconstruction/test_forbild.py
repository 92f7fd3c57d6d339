# SPDX-License-Identifier: Apache-2.0
"""FORBILD phantoms: rays against points, against the additive phantoms, and what the tables say."""

from __future__ import annotations

import numpy as np
import pytest

from reconstruction.errors import ParameterError
from reconstruction.forbild import forbild, painted_phantom
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.phantom import Cylinder, Ellipsoid, Phantom, rotation_about
from reconstruction.projector import forward_project


def orbit(n_views=3, n_rows=9, n_cols=11, pitch_mm=40.0):
    return ConeBeamGeometry.circular(
        sod_mm=800.0, sdd_mm=1200.0, angles_rad=0.3 + 2.1 * np.arange(n_views), n_rows=n_rows, n_cols=n_cols,
        pitch_u_mm=pitch_mm, pitch_v_mm=pitch_mm, offset_u_mm=3.0, offset_v_mm=5.0,
    )  # fmt: skip


def point_grid(points):
    """A grid of one voxel at each point is a loop; one tiny voxel says what a phantom is there."""
    return [VolumeGrid((1, 1, 1), (1e-9, 1e-9, 1e-9), tuple(point)) for point in points]


@pytest.mark.parametrize("name", ["head", "thorax"])
def test_line_integrals_are_the_sum_of_points_along_the_ray(name):
    phantom = forbild(name)
    geometry = orbit(n_views=1, n_rows=3, n_cols=5, pitch_mm=60.0)
    got = phantom.line_integrals(geometry)[0]
    pose = geometry.pose(0)
    source, center = np.array(pose.source_mm), np.array(pose.detector_center_mm)
    for row, col in ((1, 2), (0, 1), (2, 3)):
        pixel = center + (col - 2) * np.array(pose.u_step_mm) + (row - 1) * np.array(pose.v_step_mm)
        shares = (np.arange(4000) + 0.5) / 4000
        points = source + shares[:, None] * (pixel - source)
        values = [phantom.sample(grid)[0, 0, 0] for grid in point_grid(points)]
        expected = float(np.sum(values)) * np.linalg.norm(pixel - source) / 4000
        assert got[row, col] == pytest.approx(expected, abs=0.02 * max(1.0, expected))


def test_shapes_that_do_not_overlap_are_those_of_the_additive_phantom():
    turn = rotation_about((0.2, 0.5, 1.0), 0.7)
    additive = Phantom(
        (
            Ellipsoid((30.0, -10.0, 20.0), (40.0, 25.0, 30.0), 0.02, turn),
            Cylinder((-60.0, 40.0, -20.0), (20.0, 30.0, 50.0), 0.03, turn),
        )
    )
    axes = np.array(turn).T.tolist()
    shapes = [
        {"kind": "ellipsoid", "center": [30, -10, 20], "half": [40, 25, 30], "rho": 0.02, "axes": axes},
        {"kind": "cylinder", "center": [-60, 40, -20], "half": [20, 30, 50], "rho": 0.03, "axes": axes},
    ]
    geometry = orbit(n_rows=21, n_cols=25, pitch_mm=15.0)
    painted = painted_phantom(shapes).line_integrals(geometry, supersample=2)
    np.testing.assert_allclose(painted, forward_project(additive, geometry, supersample=2), atol=2e-6)
    assert painted.max() > 1.0


def test_the_later_shape_replaces_what_lies_below():
    ball = {"kind": "ellipsoid", "center": [0, 0, 0], "half": [50, 50, 50], "rho": 0.02}
    hole = {"kind": "box", "center": [0, 0, 0], "half": [20, 30, 10], "rho": 0.0}
    geometry = ConeBeamGeometry.circular(
        sod_mm=1e6, sdd_mm=1.001e6, angles_rad=[0.0, np.pi / 2], n_rows=1, n_cols=1, pitch_u_mm=1.0, pitch_v_mm=1.0
    )
    along_x, along_y = painted_phantom([ball, hole]).line_integrals(geometry)[:, 0, 0]
    assert along_x == pytest.approx(0.02 * (100 - 40), rel=1e-5)
    assert along_y == pytest.approx(0.02 * (100 - 60), rel=1e-5)
    assert painted_phantom([hole, ball]).line_integrals(geometry)[0, 0, 0] == pytest.approx(2.0, rel=1e-5)


def test_a_cone_and_a_plane_cut_as_they_say():
    cone = {"kind": "cone", "center": [0, 0, 0], "half": [10, 30, 40], "rho": 1.0}
    cut = {"kind": "ellipsoid", "center": [0, 0, 0], "half": [30] * 3, "rho": 1.0, "clips": [[1, 0, 0, 12.0]]}
    grid = VolumeGrid((81, 3, 121), (1.0, 1.0, 0.5))
    middle = painted_phantom([cone]).sample(grid)[:, 1]
    widths = middle.sum(axis=1) * 0.5
    assert widths[1] == pytest.approx(20.0, abs=1.5)
    assert widths[-2] == pytest.approx(60.0, abs=1.5)
    x = np.flatnonzero(painted_phantom([cut]).sample(grid)[40, 1]) * 0.5 - 30
    assert (x.min(), x.max()) == (-30.0, 12.0)
    geometry = ConeBeamGeometry.circular(
        sod_mm=1e6, sdd_mm=1.001e6, angles_rad=[0.0], n_rows=3, n_cols=1, pitch_u_mm=1.0, pitch_v_mm=20.0
    )
    low, middle_ray, high = painted_phantom([cone]).line_integrals(geometry)[0, :, 0]
    assert (low, middle_ray, high) == pytest.approx((30.0, 40.0, 50.0), rel=1e-2)
    assert painted_phantom([cut]).line_integrals(geometry)[0, 1, 0] == pytest.approx(42.0, rel=1e-4)


def test_the_tables_hold_what_is_known_of_the_phantoms():
    head, thorax = forbild("head", water_per_mm=1.0), forbild("thorax", water_per_mm=1.0)
    assert (head.n_shapes, thorax.n_shapes) == (479, 271)
    known = [
        (head, (0.0, 50.0, 0.0), 1.05), (head, (0.0, -118.0, 20.0), 1.8), (head, (0.0, 84.0, 15.0), 0.0),
        (head, (-47.0, 43.0, 9.0), 1.06), (thorax, (105.0, 0.0, 0.0), 0.26), (thorax, (0.0, 40.0, 0.0), 1.05),
        (thorax, (0.0, -50.0, 0.0), 1.18), (thorax, (0.0, 70.0, -100.0), 1.0),
    ]  # fmt: skip
    for phantom, point, density in known:
        assert phantom.sample(point_grid([point])[0])[0, 0, 0] == pytest.approx(density), point


def test_an_unknown_phantom_is_refused():
    with pytest.raises(ParameterError, match=r"unknown FORBILD phantom 'hip': expected one of head, thorax"):
        forbild("hip")
    with pytest.raises(ParameterError, match="must be positive"):
        forbild("head", scale=0.0)
