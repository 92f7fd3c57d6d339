# SPDX-License-Identifier: Apache-2.0
"""Slab plans and coverage."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconstruction.coverage import (
    check_reconstructable,
    covered_radius_mm,
    covered_z_mm,
    default_grid,
    field_radius_mm,
    projection_matrices,
    shadow,
    uncovered_slices,
)
from reconstruction.errors import GeometryError, MemoryBudgetError, ParameterError
from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid
from reconstruction.slabs import (
    SLAB_ALIGNMENT,
    amplification,
    cut_slabs,
    quarter_turn,
    row_band,
    slab_cost,
    slabs_of_height,
    view_batches,
)


def geometry_of(n_views=24, *, sense=1, offset_u_mm=0.0, offset_v_mm=0.0, **changes):
    values = {
        "sod_mm": 100.0, "sdd_mm": 160.0, "angles_rad": 0.2 + sense * np.arange(n_views) * 2 * math.pi / n_views,
        "n_rows": 60, "n_cols": 80, "pitch_u_mm": 1.0, "pitch_v_mm": 1.0,
    }  # fmt: skip
    return ConeBeamGeometry.circular(**(values | changes), offset_u_mm=offset_u_mm, offset_v_mm=offset_v_mm)


@given(n_slices=st.integers(1, 700), n_slabs=st.integers(1, 12), height=st.integers(1, 200))
def test_slabs_tile_the_volume_on_aligned_borders(n_slices, n_slabs, height):
    for slabs in (cut_slabs(n_slices, n_slabs), slabs_of_height(n_slices, height)):
        assert slabs[0].z_start == 0
        assert slabs[-1].z_stop == n_slices
        for before, after in itertools.pairwise(slabs):
            assert before.z_stop == after.z_start
            assert after.z_start % SLAB_ALIGNMENT == 0
    assert len(cut_slabs(n_slices, n_slabs)) <= n_slabs


@given(
    z_start=st.integers(0, 30), thickness=st.integers(1, 20), offset_v=st.floats(-8, 8), radius=st.floats(1, 20),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_row_band_holds_every_row_that_a_voxel_of_the_slab_touches(z_start, thickness, offset_v, radius, seed):
    geometry = geometry_of(offset_v_mm=offset_v)
    grid = VolumeGrid((50, 30, 30), (0.5, 1.0, 1.0), (0.0, 0.0, 1.0))
    slab = Slab(z_start, min(50, z_start + thickness))
    band = row_band(geometry, grid, slab, radius)
    rng = np.random.default_rng(seed)
    angle, r = rng.uniform(0, 2 * math.pi, 200), radius * np.sqrt(rng.uniform(0, 1, 200))
    z = grid.origin_mm[2] + 0.5 * rng.integers(slab.z_start, slab.z_stop, 200)
    points = np.stack([r * np.cos(angle), r * np.sin(angle), z, np.ones(200)])
    for matrix in projection_matrices(geometry):
        _, row, depth = matrix @ points
        lower = np.floor(row / depth)
        for touched in (lower, lower + 1):
            on_panel = touched[(touched >= 0) & (touched < geometry.n_rows)]
            assert np.all((on_panel >= band.row_start) & (on_panel < band.row_stop))


def test_sampled_shadow_of_tilted_poses_contains_the_exact_one():
    geometry = geometry_of()
    poses = geometry.poses.copy()
    poses[0, 0] += 1e-3  # no circular orbit any more, but all but the same
    nudged = ConeBeamGeometry(poses, geometry.n_rows, geometry.n_cols)
    assert nudged.circular_orbit is None
    exact, sampled = shadow(geometry, 12.0, -5.0, 6.0), shadow(nudged, 12.0, -5.0, 6.0)
    np.testing.assert_allclose(sampled, exact, atol=0.05)
    assert sampled[0] <= exact[0]
    assert sampled[1] >= exact[1]
    assert covered_radius_mm(nudged) == pytest.approx(covered_radius_mm(geometry), rel=1e-3)


def test_default_grid_is_covered_whole_and_no_larger_one_is():
    geometry = geometry_of(offset_u_mm=3.0, offset_v_mm=4.0)
    grid = default_grid(geometry)
    radius = field_radius_mm(grid)
    check_reconstructable(geometry, grid, radius)
    assert uncovered_slices(geometry, grid, radius) == 0
    assert grid.voxel_pitch_mm == pytest.approx((0.625, 0.625, 0.625))
    assert covered_radius_mm(geometry) - radius < 0.625
    low, high = covered_z_mm(geometry, radius)
    assert high - low - grid.shape[0] * 0.625 < 2.0
    taller = VolumeGrid((grid.shape[0] + 20, *grid.shape[1:]), grid.voxel_pitch_mm, grid.center_mm)
    assert uncovered_slices(geometry, taller, radius) >= 16


def test_costs_add_up():
    geometry, grid = geometry_of(), VolumeGrid.cubic(48, 0.5)
    costs = tuple(slab_cost(geometry, grid, slab, 12.0) for slab in cut_slabs(48, 3))
    assert sum(c.updates for c in costs) == 48**3 * 24
    assert costs[0].read_bytes == 24 * costs[0].band.n_rows * 80 * 2
    assert 1.0 <= amplification(costs) < 1.5
    assert amplification(costs[1:2]) == 1.0


@pytest.mark.parametrize("sense", [1, -1])
def test_quarter_turn_goes_counter_clockwise_whatever_the_sense(sense):
    geometry = geometry_of(sense=sense)
    step = quarter_turn(geometry, VolumeGrid.cubic(16, 1.0))
    assert step == sense * 6
    (batch,) = view_batches(24, step, 24)
    angles = geometry.source_angles_rad[batch].reshape(4, 6)
    turned = np.mod(angles[1:] - angles[:-1], 2 * math.pi)
    np.testing.assert_allclose(turned, math.pi / 2, atol=1e-9)


def test_quarter_turn_is_refused_where_symmetry_is_missing():
    grid = VolumeGrid.cubic(16, 1.0)
    assert quarter_turn(geometry_of(22), grid) is None
    assert quarter_turn(geometry_of(), VolumeGrid.cubic(15, 1.0)) is None
    assert quarter_turn(geometry_of(), VolumeGrid((16, 16, 18), (1.0, 1.0, 1.0))) is None
    assert quarter_turn(geometry_of(), VolumeGrid((16, 16, 16), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0))) is None


@given(n_views=st.integers(1, 200), room=st.integers(4, 90), quarter=st.booleans())
def test_batches_hold_each_view_once(n_views, room, quarter):
    step = n_views // 4 if quarter and n_views % 4 == 0 else None
    batches = view_batches(n_views, step, room)
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(n_views))
    assert max(len(b) for b in batches) <= max(room, 4)


def test_too_small_a_room_or_slab_is_refused():
    with pytest.raises(MemoryBudgetError):
        view_batches(10, None, 3)
    with pytest.raises(ParameterError):
        cut_slabs(10, 0)
    with pytest.raises(ParameterError):
        slabs_of_height(10, 0)


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        (geometry_of(angles_rad=np.radians(np.arange(181, 211.5, 0.5))), "61 views cover an arc of 30.5 degrees"),
        (geometry_of(offset_u_mm=45.0), "lines 0 mm from the axis, in any direction, are measured by no view"),
        (geometry_of(n_cols=20), "the panel covers columns 0 to 19"),
        (geometry_of(n_cols=20), "the shadow of the field of radius 12 mm"),
    ],
)
def test_what_nothing_measures_is_refused_with_what_was_got(geometry, words):
    with pytest.raises(GeometryError, match=words):
        check_reconstructable(geometry, VolumeGrid.cubic(24, 1.0), 12.0)


def test_a_field_that_reaches_the_source_is_refused():
    with pytest.raises(GeometryError, match="reaches the source"):
        shadow(geometry_of(), 120.0, -1.0, 1.0)
    with pytest.raises(GeometryError, match="positive length"):
        field_radius_mm(VolumeGrid.cubic(4, 1.0), -1.0)
