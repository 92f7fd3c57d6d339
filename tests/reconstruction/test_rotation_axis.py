# SPDX-License-Identifier: Apache-2.0
"""The axis is found where the geometry of an analytic phantom has it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reconstruction.errors import ParameterError
from reconstruction.geometry import ConeBeamGeometry
from reconstruction.phantom import Cylinder, Ellipsoid, Phantom
from reconstruction.projector import forward_project
from reconstruction.rotation_axis import axis_by_edges, axis_by_symmetry

FINDERS = (axis_by_symmetry, axis_by_edges)


def geometry(*, center_col, n_views=1, n_rows=96, n_cols=160):
    pitch = 0.2
    return ConeBeamGeometry.circular(
        sod_mm=77.0,
        sdd_mm=300.0,
        angles_rad=0.3 + 2 * math.pi * np.arange(n_views) / n_views,
        n_rows=n_rows,
        n_cols=n_cols,
        pitch_u_mm=pitch,
        pitch_v_mm=pitch,
        offset_u_mm=((n_cols - 1) / 2 - center_col) * pitch,
    )


def bar():
    """A bar with a denser core about the axis; rows at both ends of the panel show nothing of it."""
    return Phantom(
        (
            Cylinder((0, 0, 0), (2.6, 2.6, 2.0), 0.05),
            Ellipsoid((0, 0, 0.4), (1.5, 1.5, 1.2), 0.02),
        )
    )


def lean(picture, slope, center_col):
    """Shear a picture so that its axis leans, by linear interpolation."""
    n_rows, n_cols = picture.shape
    cols = np.arange(n_cols, dtype=float)
    middle = (n_rows - 1) / 2
    return np.stack([np.interp(cols - slope * (row - middle), cols, picture[row]) for row in range(n_rows)])


@pytest.mark.parametrize("find", FINDERS)
@pytest.mark.parametrize("center_col", [79.5, 83.27, 70.0, 91.81])
def test_one_view_of_an_axisymmetric_body(find, center_col):
    picture = forward_project(bar(), geometry(center_col=center_col))[0]
    noisy = picture + np.random.default_rng(1).normal(0, 0.003, picture.shape)
    axis = find(noisy, band_rows=8)
    assert axis.center_col == pytest.approx(center_col, abs=0.05)
    assert axis.slope == pytest.approx(0, abs=2e-3)
    assert axis.scatter_px < 0.1
    assert axis.n_measured >= 4


@pytest.mark.parametrize("find", FINDERS)
def test_the_mean_of_a_full_turn_of_any_body(find):
    """Each view of a ball beside the axis shows it somewhere else; their mean is symmetric."""
    center_col = 76.4
    body = Phantom((Cylinder((0, 0, 0), (1.0, 0.6, 1.5), 0.02), Ellipsoid((1.6, 0.7, 0.2), (0.8, 0.8, 1.6), 0.03)))
    views = forward_project(body, geometry(center_col=center_col, n_views=90))
    assert find(views.mean(axis=0), band_rows=4).center_col == pytest.approx(center_col, abs=0.05)
    assert abs(find(views[0], band_rows=4).center_col - center_col) > 2


@pytest.mark.parametrize("find", FINDERS)
@pytest.mark.parametrize("slope", [0.01, -0.004])
def test_a_lean_is_measured(find, slope):
    center_col = 82.3
    picture = forward_project(bar(), geometry(center_col=center_col))[0]
    axis = find(lean(picture, slope, center_col), band_rows=4)
    assert axis.slope == pytest.approx(slope, abs=1.5e-3)
    assert axis.center_col == pytest.approx(center_col, abs=0.1)
    assert axis.col_at(axis.center_row + 10) == pytest.approx(center_col + 10 * slope, abs=0.1)
    assert math.tan(axis.roll_rad((0.2, 0.4))) == pytest.approx(2 * axis.slope)


@pytest.mark.parametrize("find", FINDERS)
def test_a_piece_beside_the_axis_is_left_out(find):
    """A fifth of the rows shows something that is not on the axis."""
    center_col = 79.5
    picture = forward_project(bar(), geometry(center_col=center_col))[0]
    rows = np.flatnonzero(picture.max(axis=1) > 0.1)
    moved = rows[: len(rows) // 5]
    picture[moved] = np.roll(picture[moved], 3, axis=1)
    assert find(picture, band_rows=2).center_col == pytest.approx(center_col, abs=0.1)


@pytest.mark.parametrize("find", FINDERS)
@pytest.mark.parametrize(
    ("picture", "settings", "message"),
    [
        (np.zeros((4, 5, 6)), {}, r"got the shape \(4, 5, 6\)"),
        (np.full((64, 32), np.nan), {}, "not finite"),
        (np.zeros((64, 32)), {}, "no rotation axis found"),
        (np.ones((64, 32)), {"band_rows": 33}, "half of the picture's rows, got 33"),
    ],
)
def test_what_shows_no_axis_is_refused(find, picture, settings, message):
    with pytest.raises(ParameterError, match=message):
        find(picture, **settings)


def test_a_body_that_fills_the_panel_has_no_edges():
    with pytest.raises(ParameterError, match="with the specimen's edges on both sides"):
        axis_by_edges(np.ones((64, 32)))


def test_the_level_of_an_edge_is_a_share():
    with pytest.raises(ParameterError, match="between 0 and 1, got 1"):
        axis_by_edges(np.ones((64, 32)), level=1.0)
