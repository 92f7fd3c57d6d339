# SPDX-License-Identifier: Apache-2.0
"""Virtual views: the same rays on an upright panel, tilted panels set upright, camera positions made one."""

import math

import numpy as np
import pytest

from reconstruction.backends import load_backend
from reconstruction.coverage import projection_matrices
from reconstruction.fdk import FdkParameters, prepare
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.projector import forward_project
from reconstruction.rectify import is_upright, virtual_views
from reconstruction.virtual_views import resample_view
from tests.support.orbits import circle, degrees, pillars, stepped, tilted

GRID = VolumeGrid((3, 30, 30), (1.0, 0.9, 0.9))
LEANING = tilted(
    circle(degrees(0, 360, 30), offset_u_mm=3.0, offset_v_mm=-2.0), roll_deg=3.0, pitch_deg=-6.0, yaw_deg=4.0
)


def test_a_point_falls_on_the_same_ray_of_frame_and_view():
    views, virtual = virtual_views(LEANING, rectify=True)
    assert is_upright(views)
    assert not is_upright(LEANING)
    assert views.circular_orbit is not None
    rng = np.random.default_rng(5)
    points = np.concatenate([rng.uniform(-8, 8, (3, 40)), np.ones((1, 40))])
    for view in range(views.n_views):
        col, row, depth = projection_matrices(views)[view] @ points
        frame_col, frame_row, frame_depth = projection_matrices(LEANING)[view] @ points
        mapped = virtual.homographies[view, 0] @ np.stack([col / depth, row / depth, np.ones(40)])
        np.testing.assert_allclose(mapped[0] / mapped[2], frame_col / frame_depth, atol=1e-8)
        np.testing.assert_allclose(mapped[1] / mapped[2], frame_row / frame_depth, atol=1e-8)


def test_no_pixel_of_a_frame_is_lost():
    views, virtual = virtual_views(LEANING, rectify=True)
    corners = np.array([[c, r, 1.0] for c in (0, 99) for r in (0, 29)]).T
    for matrix in virtual.homographies[:, 0]:
        back = np.linalg.inv(matrix) @ corners
        col, row = back[0] / back[2], back[1] / back[2]
        assert col.min() >= -1e-2
        assert col.max() <= views.n_cols - 1 + 1e-2
        assert row.min() >= -1e-2
        assert row.max() <= views.n_rows - 1 + 1e-2


def test_resampled_views_are_what_the_upright_panel_would_have_seen():
    views, virtual = virtual_views(LEANING, rectify=True)
    phantom = pillars(10.0)
    frames, expected = forward_project(phantom, LEANING, [3]), forward_project(phantom, views, [3])
    got = resample_view(
        virtual, 3, [frames[0]], frame_row_start=0, row_start=0, row_stop=views.n_rows, n_cols=views.n_cols
    )
    seen = got > 0
    middle = np.zeros_like(seen)
    middle[12:-12, 30:-30] = True
    difference = np.abs(got - expected[0])[middle]
    assert np.median(difference) < 2e-4 * expected.max()
    assert np.percentile(difference, 90) < 1e-2 * expected.max()
    assert not seen[0, 0] or not seen[-1, 0]  # no frame sees the corners


def test_bands_of_views_need_only_the_rows_that_are_said():
    views, virtual = virtual_views(LEANING, rectify=True)
    frames = np.random.default_rng(1).random((12, 30, 100)).astype(np.float32)
    indices = np.arange(4, 9)
    start, stop = virtual.rows_of_frames(indices, 11, 16, views.n_cols)
    assert 0 <= start < stop <= 30
    setup = prepare(LEANING, GRID, FdkParameters())
    backend = load_backend("numpy_reference")
    whole = backend.resample(
        setup, [[frames[i]] for i in indices], indices, frame_row_start=0, row_start=0, row_stop=views.n_rows
    )
    part = backend.resample(
        setup, [[frames[i, start:stop]] for i in indices], indices, frame_row_start=start, row_start=11, row_stop=16
    )
    np.testing.assert_array_equal(part, whole[:, 11:16])


@pytest.mark.parametrize("turned", [(0.0, 0.0, 0.0), (0.0, 0.08, -0.05)])
def test_positions_at_the_same_angle_become_one_wide_view(turned):
    """Overlapping or side by side: the wide panel's own views, up to what a tenth of a step turns."""
    for offsets in ((-21.6, 0.0, 21.6), (-24.0, 0.0, 24.0)):
        narrow = stepped(offsets, turned, 60, n_cols=30)
        wide, virtual = virtual_views(narrow, rectify=True)
        assert (wide.n_views, virtual.n_slots, virtual.merged, virtual.rectified) == (60, 3, True, False)
        assert wide.column_gaps == ()
        assert wide.circular_orbit is not None
        phantom = pillars()
        frames = forward_project(phantom, narrow)
        expected = forward_project(phantom, wide, [7])[0]
        got = resample_view(
            virtual, 7, [frames[f] for f in virtual.frame_indices[7]], frame_row_start=0, row_start=0, row_stop=30,
            n_cols=wide.n_cols,
        )  # fmt: skip
        assert np.abs(got - expected).max() < (1e-5 if not any(turned) else 0.03) * expected.max()
        assert sorted(virtual.frame_indices.ravel()) == list(range(180))


def test_positions_are_not_merged_where_angles_or_heights_differ():
    assert virtual_views(stepped((-12.0, 12.0), (0.0, 0.2), 60, n_cols=40), rectify=True) is None
    pair = stepped((-15.0, 15.0), (0.0, 0.0), 60, n_cols=40)
    assert virtual_views(pair, rectify=True) is not None
    poses = pair.poses.copy()
    poses[60:, [2, 5]] += 0.6
    for apart in (ConeBeamGeometry(poses, 30, 40), pair.select(np.arange(119))):
        _, virtual = virtual_views(apart, rectify=True)
        assert not virtual.merged


def test_a_gap_between_positions_is_a_column_gap_of_the_wide_panel():
    narrow = stepped((-20.0, 15.0), (0.0, 0.0), 60, n_cols=40)
    wide, _ = virtual_views(narrow, rectify=True)
    ((start, stop),) = wide.column_gaps
    assert stop - start == pytest.approx(3.75, abs=1.3)
    chips = ConeBeamGeometry(circle(degrees(0, 360, 6)).poses, 30, 100, ((48, 52),))
    rolled = tilted(chips, roll_deg=1.0)
    turned, _ = virtual_views(ConeBeamGeometry(rolled.poses, 30, 100, ((48, 52),)), rectify=True)
    ((start, stop),) = turned.column_gaps
    # Interpolation reaches three columns more, and the panel rolls.
    assert 4 * 1.5 - 1.5 <= stop - start <= 7 * 1.5 + 3


def test_general_leaves_tilted_panels_as_they_are():
    assert prepare(LEANING, GRID, FdkParameters(tilted="general")).kernel == "any_pose"
    assert prepare(LEANING, GRID, FdkParameters(tilted="general")).virtual is None
    assert prepare(LEANING, GRID, FdkParameters()).kernel in ("four_fold", "upright")
    assert prepare(LEANING, GRID, FdkParameters(), force_general=True).virtual is None
    yawed = tilted(circle(degrees(0, 360, 6)), yaw_deg=5.0)
    assert prepare(yawed, GRID, FdkParameters()).virtual is None
    assert prepare(yawed, GRID, FdkParameters()).kernel == "upright"
    assert math.isclose(yawed.sdd_mm, 160 * math.cos(math.radians(5)))
