# SPDX-License-Identifier: Apache-2.0
"""Averaged pixels: their places, and what they hold."""

import math

import numpy as np
import pytest

from reconstruction.binning import bin_pixels, binned_geometry
from reconstruction.coverage import projection_matrices
from reconstruction.errors import GeometryError, ParameterError
from reconstruction.geometry import ConeBeamGeometry


def orbit(n_rows, n_cols):
    return ConeBeamGeometry.circular(
        sod_mm=100.0, sdd_mm=160.0, angles_rad=np.arange(12) * 2 * math.pi / 12, n_rows=n_rows, n_cols=n_cols,
        pitch_u_mm=0.5, pitch_v_mm=0.4, offset_u_mm=0.3, offset_v_mm=-1.0,
    )  # fmt: skip


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("size", [(32, 48), (33, 51)])
def test_a_block_stands_at_the_middle_of_its_pixels(factor, size):
    geometry = orbit(*size)
    binned = binned_geometry(geometry, factor)
    assert (binned.n_rows, binned.n_cols) == (size[0] // factor, size[1] // factor)
    assert binned.circular_orbit is not None
    points = np.random.default_rng(1).uniform(-5, 5, size=(3, 20))
    for fine, coarse in zip(projection_matrices(geometry), projection_matrices(binned), strict=True):
        pixels = [m[:, :3] @ points + m[:, 3:4] for m in (fine, coarse)]
        there = [p[:2] / p[2] for p in pixels]
        assert there[0] == pytest.approx(factor * there[1] + (factor - 1) / 2, abs=1e-9)


def test_blocks_are_means_and_the_rest_is_left_out():
    lines = np.arange(2 * 4 * 7, dtype=np.float32).reshape(2, 4, 7)
    got = bin_pixels(lines, 2)
    assert got.shape == (2, 2, 3)
    assert got[1, 1, 2] == lines[1, 2:4, 4:6].mean()
    assert bin_pixels(lines, 1) is lines
    with pytest.raises(ParameterError, match="5 rows cannot be averaged in blocks of 2"):
        bin_pixels(np.zeros((1, 5, 4), np.float32), 2)
    with pytest.raises(GeometryError, match="a panel of 3 x 48 pixels has no block of 4 x 4"):
        binned_geometry(orbit(3, 48), 4)
    assert binned_geometry(orbit(3, 48), 1).n_rows == 3


def test_a_block_with_a_column_of_a_gap_is_a_gap():
    angles = np.arange(4) * np.pi / 2
    geometry = ConeBeamGeometry.circular(
        sod_mm=100, sdd_mm=160, angles_rad=angles, n_rows=8, n_cols=31, pitch_u_mm=1, pitch_v_mm=1
    )
    gaps = ConeBeamGeometry(geometry.poses, 8, 31, ((3, 5), (7, 8), (20, 24), (29, 31)))
    assert binned_geometry(gaps, 3).column_gaps == ((1, 3), (6, 8), (9, 10))
    assert binned_geometry(gaps, 1) == gaps
