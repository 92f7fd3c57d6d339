# SPDX-License-Identifier: Apache-2.0
"""RTK's own Shepp-Logan projections judge our projector, our table and the mapping (xr, yr, zr) = (y, z, x)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.phantom import sample, shepp_logan_3d
from reconstruction.projector import forward_project

SOD_MM, SDD_MM, RADIUS_MM = 200.0, 280.0, 18.0


GRID = VolumeGrid((18, 22, 26), (2.0, 1.7, 1.5), (0.3, -0.4, 0.7))


@pytest.fixture(scope="module")
def geometry():
    return ConeBeamGeometry.circular(
        sod_mm=SOD_MM, sdd_mm=SDD_MM, angles_rad=np.deg2rad([0.0, 17.0, 90.0, 133.3, 271.0]), n_rows=41, n_cols=52,
        pitch_u_mm=1.1, pitch_v_mm=1.3, offset_u_mm=3.7, offset_v_mm=-2.9,
    )  # fmt: skip


@pytest.fixture(scope="module")
def theirs(rtk, geometry):
    return rtk.shepp_logan(geometry, GRID, RADIUS_MM)


def test_projections_agree(geometry, theirs):
    projections, _ = theirs
    ours = forward_project(shepp_logan_3d(RADIUS_MM), geometry)
    assert projections.max() > 20
    difference = np.abs(ours - projections)
    assert np.linalg.norm(difference) / np.linalg.norm(projections) < 1e-6
    assert difference.max() / projections.max() < 1e-4
    # No mirror image of ours does as well: the mapping is the only one that fits.
    for mirrored in (ours[:, ::-1], ours[:, :, ::-1], ours[::-1]):
        assert np.linalg.norm(mirrored - projections) / np.linalg.norm(projections) > 1e-2


def test_voxels_agree(theirs):
    _, voxels = theirs
    ours = sample(shepp_logan_3d(RADIUS_MM), GRID)
    assert voxels.max() == pytest.approx(2.0)
    np.testing.assert_allclose(ours, voxels, atol=1e-5)
    assert math.isclose(float(ours.sum()), float(voxels.sum()), rel_tol=1e-6)
