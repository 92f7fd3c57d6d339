# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from ingest.panel import place_panel
from tests.support.scans import make_geometry


def shadow(geometry, view, point_mm):
    """(row, column) where a point's shadow falls."""
    source, center, u_step, v_step = geometry.poses[view].reshape(4, 3)
    ray = np.asarray(point_mm, float) - source
    i, j, _ = np.linalg.solve(np.stack([u_step, v_step, -ray], axis=1), source - center)
    return j + (geometry.n_rows - 1) / 2, i + (geometry.n_cols - 1) / 2


def test_nothing_said_changes_nothing():
    geometry = make_geometry(offset_u_mm=1.3, offset_v_mm=-0.4)
    np.testing.assert_allclose(place_panel(geometry).poses, geometry.poses, atol=1e-12)


def test_offsets_replace_each_other_and_leave_the_other_one():
    moved = place_panel(make_geometry(offset_u_mm=1.3, offset_v_mm=-0.4), offset_u_mm=0.5)
    np.testing.assert_allclose(moved.poses, make_geometry(offset_u_mm=0.5, offset_v_mm=-0.4).poses, atol=1e-12)
    moved = place_panel(make_geometry(offset_u_mm=1.3, offset_v_mm=-0.4), offset_v_mm=0.25)
    np.testing.assert_allclose(moved.poses, make_geometry(offset_u_mm=1.3, offset_v_mm=0.25).poses, atol=1e-12)


@pytest.mark.parametrize("roll_deg", [0.1, -3.0])
def test_a_roll_makes_the_axis_lean_by_its_angle_about_the_foot(roll_deg):
    upright = make_geometry(offset_u_mm=1.3, offset_v_mm=-0.4)
    rolled = place_panel(upright, roll_rad=math.radians(roll_deg))
    pitch_v, pitch_u = rolled.pitch_mm
    assert rolled.pitch_mm == pytest.approx(upright.pitch_mm)
    for view in range(rolled.n_views):
        foot = shadow(rolled, view, [0, 0, 0])
        assert foot == pytest.approx(shadow(upright, view, [0, 0, 0]))
        high = shadow(rolled, view, [0, 0, 3])
        lean = math.atan2((high[1] - foot[1]) * pitch_u, (high[0] - foot[0]) * pitch_v)
        assert lean == pytest.approx(math.radians(roll_deg))
    np.testing.assert_allclose(place_panel(rolled, roll_rad=0.0).poses, upright.poses, atol=1e-12)
