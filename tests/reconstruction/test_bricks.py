# SPDX-License-Identifier: Apache-2.0
"""Bricks: the same voxels as in the whole slab, from the part of the filtered rows that their shadow touches."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconstruction.backends import load_backend
from reconstruction.bricks import Area, brick_windows, cut_evenly, has_field
from reconstruction.coverage import projection_matrices
from reconstruction.errors import GeometryError, ParameterError
from reconstruction.fdk import FdkParameters, prepare
from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid

N_VIEWS = 24
ORBIT = ConeBeamGeometry.circular(
    sod_mm=100.0, sdd_mm=160.0, angles_rad=0.1 + np.arange(N_VIEWS) * 2 * math.pi / N_VIEWS, n_rows=64, n_cols=90,
    pitch_u_mm=0.5, pitch_v_mm=0.5,
)  # fmt: skip
GRID = VolumeGrid((48, 80, 80), (0.3, 0.3, 0.3))
VIEW_STARTS = np.arange(0, N_VIEWS, 8)


def tilted():
    poses = ORBIT.poses.copy()
    poses[:, 2] += np.linspace(0, 1, N_VIEWS)
    return ConeBeamGeometry(poses, ORBIT.n_rows, ORBIT.n_cols)


def windows_of(setup):
    return brick_windows(
        projection_matrices(setup.geometry), VIEW_STARTS, setup.grid, setup.slab, setup.made_area, setup.radius_mm,
        panel_rows=setup.geometry.n_rows, filtered_cols=(setup.ramp.col_start, setup.ramp.n_out),
    )  # fmt: skip


@pytest.mark.parametrize("geometry", [ORBIT, tilted()], ids=["circular", "any_pose"])
@pytest.mark.parametrize("name", ["numpy_reference", "numba"])
@pytest.mark.parametrize("pitch_z", [0.3, 2.5])
def test_bricks_hold_the_voxels_of_the_slab(geometry, name, pitch_z):
    """The kernel for coarse steps too; bits are the same on a circular orbit."""
    grid = VolumeGrid((16, 80, 80) if pitch_z < 1 else (6, 80, 80), (pitch_z, 0.3, 0.3), (0.0, 0.0, 2.0))
    backend = load_backend(name)
    views = np.arange(N_VIEWS)
    whole = prepare(geometry, grid, FdkParameters(), four_fold=False)
    rows = np.random.default_rng(3).normal(size=(N_VIEWS, geometry.n_rows, whole.ramp.n_out)).astype(np.float32)
    accumulator = backend.start(whole, threads=1)
    for start in VIEW_STARTS:
        part = views[start : start + 8]
        accumulator.add_filtered(np.ascontiguousarray(rows[part, slice(*_rows(whole, part))]), part)
    expected = accumulator.read_slices(0, grid.shape[0])
    borders = cut_evenly(80, 3, 16)
    made = np.zeros_like(expected)
    read = 0
    for (y0, y1), (x0, x1) in itertools.product(itertools.pairwise(borders), repeat=2):
        setup = prepare(geometry, grid, FdkParameters(), four_fold=True, area=Area(y0, y1, x0, x1))
        assert setup.quarter is None
        brick = backend.start(setup, threads=1)
        for start, window in zip(VIEW_STARTS, windows_of(setup), strict=True):
            part = views[start : start + 8]
            cut = rows[part, window.row_start : window.row_stop, window.col_start : window.col_stop]
            read += window.n_rows * window.n_cols
            brick.add_filtered(np.ascontiguousarray(cut), part, window)
        made[:, y0:y1, x0:x1] = brick.read_slices(0, grid.shape[0])
    scale = float(np.abs(expected).max())
    assert scale > 0
    assert float(np.abs(made - expected).max()) <= (0 if geometry is ORBIT else 1e-6) * scale
    assert read < 9 * len(VIEW_STARTS) * geometry.n_rows * whole.ramp.n_out


def _rows(setup, views):
    band = setup.band_of(views)
    return band.row_start, band.row_stop


@settings(max_examples=40, deadline=None)
@given(
    y=st.tuples(st.integers(0, 70), st.integers(1, 40)), x=st.tuples(st.integers(0, 70), st.integers(1, 40)),
    z=st.tuples(st.integers(0, 40), st.integers(1, 30)), radius=st.floats(2.0, 14.0),
)  # fmt: skip
def test_a_window_holds_the_shadow_of_every_voxel_in_the_field(y, x, z, radius):
    area = Area(y[0], min(80, y[0] + y[1]), x[0], min(80, x[0] + x[1]))
    slab = Slab(z[0], min(48, z[0] + z[1]))
    if not has_field(GRID, area, radius):
        return
    setup = prepare(ORBIT, GRID, FdkParameters(field_radius_mm=radius), slab, area=area)
    windows = windows_of(setup)
    x0, y0, z0 = GRID.origin_mm
    px, py, pz = np.meshgrid(
        x0 + 0.3 * np.arange(area.x_start, area.x_stop), y0 + 0.3 * np.arange(area.y_start, area.y_stop),
        z0 + 0.3 * np.array([slab.z_start, slab.z_stop - 1]), indexing="ij",
    )  # fmt: skip
    inside = px**2 + py**2 <= radius**2
    points = np.stack([px[inside], py[inside], pz[inside], np.ones(int(inside.sum()))])
    for view, matrix in enumerate(projection_matrices(ORBIT)):
        a, b, w = matrix @ points
        col, row = a / w - setup.ramp.col_start, b / w
        window = windows[view // 8]
        assert max(0, np.floor(row.min())) >= window.row_start or window.row_start == ORBIT.n_rows - 1
        assert min(ORBIT.n_rows, np.floor(row.max()) + 2) <= window.row_stop or window.row_stop == 1
        assert np.floor(col.min()) >= window.col_start
        assert min(setup.ramp.n_out, np.floor(col.max()) + 2) <= window.col_stop


def test_bricks_beside_the_field_are_told_apart():
    assert not has_field(GRID, Area(0, 8, 0, 8), 12.0)
    assert has_field(GRID, Area(0, 8, 32, 48), 12.0)
    assert has_field(GRID, Area(0, 80, 0, 80), 0.3)


def test_crooked_bricks_are_refused():
    with pytest.raises(GeometryError, match="0 <= start < stop"):
        Area(3, 3, 0, 4)
    with pytest.raises(ParameterError, match="cannot cut 0 voxels"):
        cut_evenly(0, 2, 16)
    assert cut_evenly(80, 3, 16) == (0, 32, 48, 80)
    assert cut_evenly(20, 9, 16) == (0, 16, 20)
