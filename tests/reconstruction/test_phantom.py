# SPDX-License-Identifier: Apache-2.0
"""Shapes, phantoms and their sampling on a grid."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from reconstruction.errors import ParameterError
from reconstruction.geometry import VolumeGrid
from reconstruction.phantom import (
    IDENTITY,
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

TILTED = compose(rotation_about((0, 0, 1), 0.7), rotation_about((1, 0.3, 0), -0.4))


def inside_slowly(shape, point):
    """Point in shape, one number at a time: turn back, compare with the half axes."""
    local = np.array(shape.rotation).T @ (np.array(point) - shape.center_mm)
    a, b, c = shape.half_axes_mm
    x, y, z = local
    if isinstance(shape, Cylinder):
        return (x / a) ** 2 + (y / b) ** 2 <= 1 and abs(z) <= c
    return (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 <= 1


@pytest.mark.parametrize("kind", [Ellipsoid, Cylinder])
@pytest.mark.parametrize("rotation", [IDENTITY, TILTED])
def test_sample_is_point_in_shape(kind, rotation):
    shape = kind((1.0, -2.0, 0.5), (3.0, 2.0, 1.2), 0.7, rotation)
    grid = VolumeGrid((9, 11, 13), (0.8, 0.9, 0.7), (0.5, -1.0, 0.2))
    volume = sample(Phantom((shape,)), grid)
    origin = np.array(grid.origin_mm)
    expected = np.zeros(grid.shape, dtype=np.float32)
    for k, j, i in itertools.product(*(range(n) for n in grid.shape)):
        point = origin + np.array([i * 0.7, j * 0.9, k * 0.8])
        expected[k, j, i] = 0.7 if inside_slowly(shape, point) else 0.0
    assert volume.dtype == np.float32
    assert 0 < expected.astype(bool).sum() < expected.size
    np.testing.assert_array_equal(volume, expected)


def test_supersampled_volume_approaches_the_volume_of_the_shape():
    shape = Ellipsoid((0.1, 0.2, -0.3), (3.0, 2.0, 2.5), 1.0, TILTED)
    volume = sample(Phantom((shape,)), VolumeGrid.cubic(16, 0.5), supersample=4)
    assert volume.sum() * 0.5**3 == pytest.approx(4 / 3 * math.pi * 3.0 * 2.0 * 2.5, rel=2e-3)
    assert ((volume > 0) & (volume < 1)).any()


def test_densities_add_and_large_grids_agree_with_small_ones():
    phantom = Phantom((Ellipsoid((0, 0, 0), (4, 4, 4), 2.0), Cylinder((1, 0, 0), (1, 1, 2), -0.5)))
    assert phantom.density_at((1, 0, 0)) == 1.5
    assert phantom.density_at((-2, 0, 0)) == 2.0
    assert phantom.density_at((5, 0, 0)) == 0.0
    assert phantom.scaled(0.1).density_at((1, 0, 0)) == pytest.approx(0.15)
    small = sample(phantom, VolumeGrid.cubic(10, 1.0))
    assert small[5, 5, 5] == np.float32(1.5)


def test_shape_outside_of_the_grid_adds_nothing():
    assert not sample(Phantom((Ellipsoid((50, 0, 0), (1, 1, 1)),)), VolumeGrid.cubic(8, 1.0)).any()


def test_rotation_is_right_handed_about_its_axis():
    quarter = np.array(rotation_about((0, 0, 2), math.pi / 2))
    np.testing.assert_allclose(quarter @ [1, 0, 0], [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(np.array(TILTED) @ np.array(TILTED).T, np.eye(3), atol=1e-14)


def test_shepp_logan_has_the_grey_levels_of_the_book():
    original = shepp_logan_3d(10.0)
    assert len(original.shapes) == 10
    assert original.density_at((0, 0, 0)) == pytest.approx(1.02)
    assert original.density_at((9.15, 0, 0)) == 2.0  # the skull at the front: long axis of the head along our x
    assert original.density_at((0, 6.8, 0)) == 2.0
    assert original.density_at((0, 0, 8.9)) == 2.0
    high = shepp_logan_3d(10.0, contrast="high", scale=0.02)
    assert high.density_at((0, 0, 0)) == pytest.approx(0.2 * 0.02)
    # The two ventricles: the larger one lies at -y (the book's -x), at the height of z = -0.25.
    assert high.density_at((0, -2.2, -2.5)) == pytest.approx(0.0, abs=1e-12)
    assert high.density_at((0, -0.3, -2.5)) == pytest.approx(0.2 * 0.02)


def test_marker_phantom_differs_from_all_its_mirror_images_and_swaps():
    volume = sample(marker_phantom(10.0), VolumeGrid.cubic(40, 0.5))
    norm = np.linalg.norm(volume)
    images = 0
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            image = np.transpose(volume, axes)[tuple(slice(None, None, f) for f in flips)]
            difference = np.linalg.norm(image - volume) / norm
            images += 1
            if axes == (0, 1, 2) and flips == (1, 1, 1):
                assert difference == 0
            else:
                assert difference > 0.15, (axes, flips)
    assert images == 48


def test_marker_phantom_has_its_balls_where_it_says():
    phantom = marker_phantom(10.0, mu_per_mm=0.02)
    assert phantom.density_at((-5, 0, 0)) == pytest.approx(0.02)
    assert phantom.density_at((5.6, 0, 0)) == pytest.approx(0.04)
    assert phantom.density_at((0, 3.5, 0)) == pytest.approx(0.06)
    assert phantom.density_at((0, 0, 4.0)) == pytest.approx(0.08)
    assert phantom.density_at((3.6, 3.6, 3.0)) == pytest.approx(0.0)
    for shape in phantom.shapes:
        half = shape.bounding_half_size_mm()
        assert np.linalg.norm(np.abs(shape.center_mm) + half * (1, 0, 1)) <= 10.0


def test_uniform_cylinder():
    phantom = uniform_cylinder(5.0, 8.0, 0.03)
    assert phantom.density_at((4.9, 0, 3.9)) == 0.03
    assert phantom.density_at((4.9, 0, 4.1)) == 0.0
    assert phantom.density_at((5.1, 0, 0)) == 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ellipsoid((0, 0), (1, 1, 1)), "centre needs finite"),
        (lambda: Ellipsoid((0, 0, math.nan), (1, 1, 1)), "centre needs finite"),
        (lambda: Ellipsoid((0, 0, 0), (1, 0, 1)), "positive half axes"),
        (lambda: Cylinder((0, 0, 0), (1, 1, 1), math.inf), "density must be finite"),
        (lambda: Cylinder((0, 0, 0), (1, 1, 1), 1.0, ((1, 0, 0), (0, 2, 0), (0, 0, 1))), "orthonormal"),
        (lambda: Phantom(("ball",)), "Ellipsoid and Cylinder"),
        (lambda: rotation_about((0, 0, 0), 1.0), "axis of some length"),
        (lambda: shepp_logan_3d(-1.0), "radius_mm must be a positive length"),
        (lambda: shepp_logan_3d(1.0, contrast="low"), "contrast must be"),
        (lambda: sample(marker_phantom(1.0), VolumeGrid.cubic(4, 1.0), supersample=0), "at least 1"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ParameterError, match=message):
        make()
