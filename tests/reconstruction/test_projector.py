# SPDX-License-Identifier: Apache-2.0
"""Analytic line integrals against numerical integration, closed forms and themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reconstruction.errors import ParameterError
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.phantom import (
    Cylinder,
    Ellipsoid,
    Phantom,
    compose,
    marker_phantom,
    rotation_about,
    sample,
    shepp_logan_3d,
    uniform_cylinder,
)
from reconstruction.projector import forward_project, project_pose

TILTED = compose(rotation_about((0, 0, 1), 0.7), rotation_about((1, 0.3, 0), -0.4))


def orbit(n_views=8, n_rows=16, n_cols=20, pitch=1.5, **more):
    angles = np.arange(n_views) * 2 * math.pi / n_views
    return ConeBeamGeometry.circular(
        sod_mm=200, sdd_mm=280, angles_rad=angles, n_rows=n_rows, n_cols=n_cols,
        pitch_u_mm=pitch, pitch_v_mm=pitch, **more,
    )  # fmt: skip


def walk_rays(phantom, geometry, view, steps=20001):
    """Line integrals by adding densities along each ray, straight from the frame's definition."""
    pose = geometry.pose(view)
    source, center = np.array(pose.source_mm), np.array(pose.detector_center_mm)
    u, v = np.array(pose.u_step_mm), np.array(pose.v_step_mm)
    out = np.zeros((geometry.n_rows, geometry.n_cols))
    t = (np.arange(steps) + 0.5) / steps
    for j in range(geometry.n_rows):
        for i in range(geometry.n_cols):
            pixel = center + (i - (geometry.n_cols - 1) / 2) * u + (j - (geometry.n_rows - 1) / 2) * v
            points = source + t[:, None] * (pixel - source)
            total = np.zeros(steps)
            for shape in phantom.shapes:
                x, y, z = (np.array(shape.rotation).T @ (points - shape.center_mm).T) / np.array(shape.half_axes_mm)[
                    :, None
                ]
                round_part = x**2 + y**2
                if isinstance(shape, Cylinder):
                    total += shape.density * ((round_part <= 1) & (np.abs(z) <= 1))
                else:
                    total += shape.density * (round_part + z**2 <= 1)
            out[j, i] = total.mean() * np.linalg.norm(pixel - source)
    return out


@pytest.mark.parametrize(
    "phantom",
    [
        Phantom((Ellipsoid((2, -3, 1), (6, 3, 4), 0.5, TILTED),)),
        Phantom((Cylinder((2, -3, 1), (6, 3, 4), 0.5, TILTED),)),
        marker_phantom(10.0),
    ],
    ids=["ellipsoid", "cylinder", "marker"],
)
def test_against_walking_along_the_rays(phantom):
    geometry = orbit(n_views=7, n_rows=6, n_cols=8, pitch=3.3, offset_u_mm=1.1, offset_v_mm=-0.7)
    for view in (0, 3):
        exact = project_pose(phantom, geometry.poses[view], 6, 8)
        walked = walk_rays(phantom, geometry, view)
        assert exact.max() > 0
        # Each border of a shape costs a walk at most one step of 280 mm / 20001.
        assert np.abs(exact - walked).max() < 0.5 * 4 * 280 / 20001


def test_against_rays_through_a_sampled_volume():
    phantom = marker_phantom(10.0)
    pitch = 0.25
    volume = sample(phantom, VolumeGrid.cubic(88, pitch), supersample=2).astype(np.float64)
    geometry = orbit(n_views=5, n_rows=9, n_cols=11, pitch=2.4)
    exact = forward_project(phantom, geometry, [1])[0]
    source = geometry.poses[1, 0:3]
    t = np.linspace(0.55, 0.9, 1200)
    for row, col in [(4, 5), (2, 7), (5, 3), (6, 6)]:
        pixel = geometry.poses[1, 3:6] + (col - 5) * geometry.poses[1, 6:9] + (row - 4) * geometry.poses[1, 9:12]
        points = source + t[:, None] * (pixel - source)
        index = np.rint(points / pitch + 43.5).astype(int)
        inside = ((index >= 0) & (index < 88)).all(axis=1)
        x, y, z = index[inside].T
        walked = volume[z, y, x].sum() * (t[1] - t[0]) * np.linalg.norm(pixel - source)
        assert walked == pytest.approx(exact[row, col], rel=0.02, abs=0.004)


def test_central_ray_of_a_ball_and_of_a_cylinder():
    geometry = orbit(n_views=3, n_rows=5, n_cols=5, pitch=0.5)
    ball = forward_project(Phantom((Ellipsoid((0, 0, 0), (5, 5, 5), 0.3),)), geometry)
    np.testing.assert_allclose(ball[:, 2, 2], 3.0, rtol=1e-6)
    cylinder = forward_project(uniform_cylinder(5.0, 8.0, 0.3), geometry)  # its middle row runs at dz = 0 exactly
    np.testing.assert_allclose(cylinder[:, 2, 2], 3.0, rtol=1e-6)


def test_ray_along_the_axis_of_a_cylinder():
    lying = Cylinder((0, 0, 0), (2, 2, 7), 0.1, rotation_about((0, 1, 0), math.pi / 2))
    geometry = ConeBeamGeometry.circular(
        sod_mm=100, sdd_mm=150, angles_rad=[0.0], n_rows=3, n_cols=3, pitch_u_mm=10, pitch_v_mm=10
    )
    projection = forward_project(Phantom((lying,)), geometry)[0]
    assert projection[1, 1] == pytest.approx(1.4, rel=1e-6)
    assert projection[0, 0] == 0


def test_what_lies_behind_the_pixel_or_before_the_source_does_not_count():
    geometry = orbit(n_views=1, n_rows=3, n_cols=3)
    ball = Ellipsoid((0, 0, 0), (5, 5, 5), 1.0)
    behind = Phantom((Ellipsoid((-80, 0, 0), (5, 5, 5), 1.0),))  # half of it lies behind the panel at x = -80
    before = Phantom((Ellipsoid((230, 0, 0), (5, 5, 5), 1.0),))
    around = Phantom((Ellipsoid((200, 0, 0), (6, 6, 6), 1.0),))  # the source stands in its middle
    assert forward_project(Phantom((ball,)), geometry)[0, 1, 1] == pytest.approx(10.0)
    assert forward_project(behind, geometry)[0, 1, 1] == pytest.approx(5.0)
    assert not forward_project(before, geometry).any()
    assert forward_project(around, geometry)[0, 1, 1] == pytest.approx(6.0)


def test_directions_are_those_of_the_frame():
    """A ball at +x, +y or +z shows where the frame says: u counter-clockwise, row 0 at the lowest v."""
    geometry = orbit(n_views=4, n_rows=41, n_cols=41, pitch=1.0)

    def spot(center):
        projections = forward_project(Phantom((Ellipsoid(center, (1, 1, 1), 1.0),)), geometry)
        return [tuple(int(k) for k in np.unravel_index(np.argmax(p), p.shape)) for p in projections]

    # Magnification 1.4 at the axis: 10 mm are 14 pixels.
    assert spot((0, 10, 0)) == [(20, 34), (20, 20), (20, 6), (20, 20)]
    assert spot((10, 0, 0)) == [(20, 20), (20, 6), (20, 20), (20, 34)]
    assert spot((0, 0, 10)) == [(34, 20)] * 4


def test_view_indices_supersampling_and_chunks(monkeypatch):
    phantom, geometry = shepp_logan_3d(18.0), orbit(n_views=6, n_rows=24, n_cols=30)
    whole = forward_project(phantom, geometry)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(forward_project(phantom, geometry, [4, 1]), whole[[4, 1]])
    fine = forward_project(phantom, orbit(n_views=6, n_rows=72, n_cols=90, pitch=0.5), [2])[0]
    averaged = fine.reshape(24, 3, 30, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(
        forward_project(phantom, geometry, [2], supersample=3)[0], averaged, rtol=1e-5, atol=1e-5
    )
    monkeypatch.setattr("reconstruction.projector.CHUNK_PIXELS", 50)
    np.testing.assert_array_equal(forward_project(phantom, geometry, [0, 1]), whole[:2])


def test_refusals():
    with pytest.raises(ParameterError, match="view 9 does not exist: the geometry has 8 views"):
        forward_project(marker_phantom(1.0), orbit(), [9])
    with pytest.raises(ParameterError, match="supersample must be at least 1"):
        forward_project(marker_phantom(1.0), orbit(), supersample=0)
