# SPDX-License-Identifier: Apache-2.0
"""Stacked circles and turns share each slice, smoothly and wholly."""

import math

import numpy as np
import pytest

from reconstruction.coverage import covered_z_mm, projection_matrices
from reconstruction.fdk import FdkParameters, prepare
from reconstruction.geometry import Slab, VolumeGrid
from reconstruction.orbits import find_orbits
from reconstruction.slice_weights import find_reach, slice_weights
from tests.support.orbits import circle, degrees, helix, stack

HEIGHTS = np.linspace(-25, 25, 201)


def test_a_circle_has_none():
    geometry = circle(degrees(0, 360, 4))
    assert slice_weights(geometry, find_orbits(geometry), 12.0, HEIGHTS) is None


@pytest.mark.parametrize("step", [4.0, 9.0, 11.0])
def test_circles_of_a_stack_share_every_slice(step):
    geometry = stack((-step, 0.0, step), degrees(0, 360, 4))
    weights = slice_weights(geometry, find_orbits(geometry), 12.0, HEIGHTS)
    by_ring = weights.reshape(3, 90, -1)
    assert np.ptp(by_ring, axis=1).max() == 0
    np.testing.assert_allclose(by_ring[:, 0].sum(axis=0), 1.0, atol=1e-6)
    assert by_ring[0, 0, 0] == by_ring[2, 0, -1] == 1  # beyond the ends the nearest has it all
    covered = np.abs(HEIGHTS) < step + 6
    assert np.abs(np.diff(by_ring[:, 0, covered], axis=1)).max() < 0.35


@pytest.mark.parametrize("pitch", [5.0, -9.0, 12.5])
@pytest.mark.parametrize("per_turn", [60, 60.37])
def test_turns_of_a_helix_share_every_slice_at_every_angle(pitch, per_turn):
    geometry = helix(5, per_turn, pitch)
    orbits = find_orbits(geometry)
    assert orbits.kind == "helix"
    weights = slice_weights(geometry, orbits, 12.0, HEIGHTS)
    low, high = covered_z_mm(geometry, 12.0)
    inside = (low < HEIGHTS) & (high > HEIGHTS)
    assert inside.sum() > 40
    # Integral over all views: 2 pi in every covered slice, and half of it in either half turn.
    total = (orbits.shares_rad[:, None] * weights).sum(axis=0)
    np.testing.assert_allclose(total[inside], 2 * math.pi, rtol=2e-2)
    near = np.cos(geometry.source_angles_rad) > 0
    half = (orbits.shares_rad[near, None] * weights[near]).sum(axis=0)
    np.testing.assert_allclose(half[inside], math.pi, rtol=5e-2)
    if per_turn == 60:
        by_angle = weights.reshape(5, 60, -1).sum(axis=0)
        np.testing.assert_allclose(by_angle[:, inside], 1.0, atol=1e-5)


@pytest.mark.parametrize("geometry", [stack((-9.0, 0.0, 9.0), degrees(0, 360, 4)), helix(4, 60, 9.0)])
def test_a_view_counts_where_its_rows_hold_the_whole_disc(geometry):
    grid = VolumeGrid((60, 24, 24), (0.5, 1.0, 1.0))
    low, high = covered_z_mm(geometry, 12.0)
    setup = prepare(geometry, grid, FdkParameters())
    z = grid.origin_mm[2] + 0.5 * np.arange(60)
    matrices = projection_matrices(geometry)
    angle = np.linspace(0, 2 * math.pi, 90)
    for view in range(0, geometry.n_views, 7):
        for index in np.flatnonzero((setup.slice_weights[view] > 0) & (z > low) & (z < high)):
            ring = np.stack([12 * np.cos(angle), 12 * np.sin(angle), np.full(90, z[index]), np.ones(90)])
            _, row, depth = matrices[view] @ ring
            assert (row / depth).min() > -0.02
            assert (row / depth).max() < geometry.n_rows - 1 + 0.02


@pytest.mark.parametrize("geometry", [stack((-9.0, 0.0, 9.0), degrees(0, 360, 4)), helix(4, 60, 9.0)])
def test_a_slab_takes_the_views_and_rows_that_it_needs(geometry):
    grid = VolumeGrid((48, 24, 24), (0.5, 1.0, 1.0))
    whole = prepare(geometry, grid, FdkParameters())
    seen = set()
    for slab in (Slab(0, 16), Slab(16, 32), Slab(32, 48)):
        setup = prepare(geometry, grid, FdkParameters(), slab)
        np.testing.assert_array_equal(setup.slice_weights, whole.slice_weights[:, slab.z_start : slab.z_stop])
        assert setup.views.size < geometry.n_views or slab.z_start == 16
        unused = np.setdiff1d(np.arange(geometry.n_views), setup.views)
        assert not setup.slice_weights[unused].any()
        seen |= set(setup.views.tolist())
        for batch in setup.batches(16):
            band, every = setup.band_of(batch), setup.band
            assert every.row_start <= band.row_start < band.row_stop <= every.row_stop
            for view in batch:
                alone = setup.band_of(np.array([view]))
                assert band.row_start <= alone.row_start < alone.row_stop <= band.row_stop
    assert seen == set(range(geometry.n_views)) & set(whole.views.tolist())


def test_reach_follows_from_the_panels_rows():
    geometry = circle(degrees(0, 360, 4), offset_v_mm=2.0)
    reach = find_reach(geometry, 12.0)
    assert reach.low_mm == pytest.approx((2.0 - 12.0) * (100 - 12) / 160)
    assert reach.high_mm == pytest.approx((2.0 + 12.0) * (100 - 12) / 160)
