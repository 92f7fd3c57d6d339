# SPDX-License-Identifier: Apache-2.0
"""RTK's own Shepp-Logan projections judge our projector, our table and the mapping (xr, yr, zr) = (y, z, x)."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest

from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.phantom import sample, shepp_logan_3d
from reconstruction.projector import forward_project
from tests.support.peers import require_peer

# ITK's modules load lazily and warn of SWIG's own old ways; as an error that warning crashes the interpreter.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SOD_MM, SDD_MM, RADIUS_MM = 200.0, 280.0, 18.0


@pytest.fixture(scope="module")
def rtk():
    require_peer("itk-rtk", importlib.util.find_spec("itk") is not None, "pip install itk-rtk")
    import itk

    return itk, itk.RTK


def constant_image(itk, rtk, size, spacing, origin):
    source = rtk.ConstantImageSource[itk.Image[itk.F, 3]].New()
    source.SetSize([int(n) for n in size])
    source.SetSpacing([float(s) for s in spacing])
    source.SetOrigin([float(o) for o in origin])
    source.Update()
    return source.GetOutput()


def test_projections_agree(rtk):
    itk, RTK = rtk
    n_rows, n_cols, pitch_u, pitch_v, offset_u, offset_v = 41, 52, 1.1, 1.3, 3.7, -2.9
    angles_deg = [0.0, 17.0, 90.0, 133.3, 271.0]
    ours = forward_project(
        shepp_logan_3d(RADIUS_MM),
        ConeBeamGeometry.circular(
            sod_mm=SOD_MM, sdd_mm=SDD_MM, angles_rad=np.deg2rad(angles_deg), n_rows=n_rows, n_cols=n_cols,
            pitch_u_mm=pitch_u, pitch_v_mm=pitch_v, offset_u_mm=offset_u, offset_v_mm=offset_v,
        ),
    )  # fmt: skip
    geometry = RTK.ThreeDCircularProjectionGeometry.New()
    for angle in angles_deg:
        geometry.AddProjection(SOD_MM, SDD_MM, angle)
    image_type = itk.Image[itk.F, 3]
    phantom = RTK.SheppLoganPhantomFilter[image_type, image_type].New()
    origin = (-(n_cols - 1) / 2 * pitch_u + offset_u, -(n_rows - 1) / 2 * pitch_v + offset_v, 0.0)
    size = (n_cols, n_rows, len(angles_deg))
    phantom.SetInput(constant_image(itk, RTK, size, (pitch_u, pitch_v, 1.0), origin))
    phantom.SetGeometry(geometry)
    phantom.SetPhantomScale(RADIUS_MM)
    phantom.Update()
    theirs = itk.array_from_image(phantom.GetOutput())
    assert theirs.max() > 20
    difference = np.abs(ours - theirs)
    assert np.linalg.norm(difference) / np.linalg.norm(theirs) < 1e-6
    assert difference.max() / theirs.max() < 1e-4
    # No mirror image of ours does as well: the mapping is the only one that fits.
    for mirrored in (ours[:, ::-1], ours[:, :, ::-1], ours[::-1]):
        assert np.linalg.norm(mirrored - theirs) / np.linalg.norm(theirs) > 1e-2


def test_voxels_agree(rtk):
    itk, RTK = rtk
    grid = VolumeGrid((18, 22, 26), (2.0, 1.7, 1.5), (0.3, -0.4, 0.7))
    image_type = itk.Image[itk.F, 3]
    (nz, ny, nx), (pz, py, px), (x0, y0, z0) = grid.shape, grid.voxel_pitch_mm, grid.origin_mm
    draw = RTK.DrawSheppLoganFilter[image_type, image_type].New()
    draw.SetInput(constant_image(itk, RTK, (ny, nz, nx), (py, pz, px), (y0, z0, x0)))
    draw.SetPhantomScale(RADIUS_MM)
    draw.Update()
    theirs = np.transpose(itk.array_from_image(draw.GetOutput()), (1, 2, 0))  # (zr, yr, xr) = (x, z, y) -> (z, y, x)
    ours = sample(shepp_logan_3d(RADIUS_MM), grid)
    assert theirs.max() == pytest.approx(2.0)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert math.isclose(float(ours.sum()), float(theirs.sum()), rel_tol=1e-6)
