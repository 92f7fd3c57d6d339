# SPDX-License-Identifier: Apache-2.0
"""Helsinki Tomography Challenge: the files read exactly, and a projection of known images fixes the geometry.

The full reconstruction of the disc (and the segmentation of a disc with holes) is projected along the rays of the
geometry that the reader gives, and compared with the measured rows.  The disc alone is nearly symmetric: it
fixes size and scale; the holes fix the sense of rotation, the side of the columns and the zero of the angles.
"""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat
from scipy.ndimage import map_coordinates

from ingest.readers import detect, open_source
from tests.support.peers import real_data_path

pytestmark = pytest.mark.real_data

DISC, HOLES = "solid_disc_subsample73.mat", "htc2022_ta_sparse_example.mat"
FULL_RECONSTRUCTION, SEGMENTATION = "htc2022_solid_disc_full_recon_fbp.mat", "htc2022_ta_full_recon_fbp_seg.png"
EVERY_VIEW, EVERY_COL = 10, 4


def open_htc(name):
    return open_source(real_data_path("htc2022") / name)


def project(image, poses, cols, n_cols, pixel_mm):
    """Line integrals (view, col) of an image (row 0 the highest y) along the rays of poses, half-pixel steps."""
    up = image[::-1]  # row 0 the lowest y
    size = up.shape[0]
    step = pixel_mm / 2
    along = np.arange(-size * pixel_mm, size * pixel_mm, step) * math.sqrt(0.5)
    step *= math.sqrt(0.5)
    rows = np.empty((len(poses), len(cols)))
    for view, pose in enumerate(poses):
        source, center, u_step = pose[0:2], pose[3:5], pose[6:8]
        pixels = center + (cols[:, None] - (n_cols - 1) / 2) * u_step
        direction = pixels - source
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        nearest = -(direction @ source)
        points = source + direction[:, None, :] * (nearest[:, None] + along)[..., None]
        where = points[..., ::-1].transpose(2, 0, 1) / pixel_mm + (size - 1) / 2
        rows[view] = map_coordinates(up, where, order=1).sum(axis=1) * step
    return rows


def measured_and_projected(name, image, *, mirror_angles=False, mirror_cols=False, turn_rad=0.0):
    """Measured rows and the projection of an image, in every tenth view and every fourth column."""
    reader = open_htc(name)
    scan = reader.scan
    measured = reader.read_views(0, scan.n_views)[0, ::EVERY_VIEW, 0, ::EVERY_COL].astype(np.float64)
    orbit = scan.geometry.circular_orbit
    beta = orbit.angles_rad[::EVERY_VIEW]
    if mirror_angles:  # the other sense, from the same first view
        beta = 2 * beta[0] - beta
    poses = (
        type(scan.geometry)
        .circular(
            sod_mm=orbit.sod_mm,
            sdd_mm=orbit.sdd_mm,
            angles_rad=beta + turn_rad,
            n_rows=1,
            n_cols=scan.n_cols,
            pitch_u_mm=orbit.pitch_u_mm,
            pitch_v_mm=orbit.pitch_v_mm,
        )
        .poses
    )
    cols = np.arange(0, scan.n_cols, EVERY_COL)
    if mirror_cols:
        cols = scan.n_cols - 1 - cols
    pixel_mm = orbit.pitch_u_mm * orbit.sod_mm / orbit.sdd_mm
    return measured, project(image, poses, cols, scan.n_cols, pixel_mm), pixel_mm


def relative_rmse(measured, projected):
    return float(np.sqrt(((projected - measured) ** 2).sum() / (measured**2).sum()))


def test_version_5_is_read_exactly():
    struct = loadmat(real_data_path("htc2022") / HOLES, squeeze_me=True, struct_as_record=False)["CtDataLimited"]
    reader = open_htc(HOLES)
    scan = reader.scan
    np.testing.assert_array_equal(reader.read_views(0, 121)[0, :, 0], struct.sinogram.astype(np.float32))
    assert (scan.n_views, scan.n_rows, scan.n_cols, scan.content) == (121, 1, 560, "line_integrals")
    np.testing.assert_allclose(scan.geometry.source_angles_rad, np.deg2rad(struct.parameters.angles - 90), atol=1e-12)


def test_version_7_3_is_read_exactly():
    with h5py.File(real_data_path("htc2022") / DISC) as file:
        sinogram = file["CtDataLimited/sinogram"][()].T
    reader = open_htc(DISC)
    scan = reader.scan
    np.testing.assert_array_equal(reader.read_views(0, 61)[0, :, 0], sinogram.astype(np.float32))
    assert (scan.n_views, scan.n_rows, scan.n_cols) == (61, 1, 560)
    assert (scan.geometry.sod_mm, scan.geometry.sdd_mm) == (pytest.approx(410.66), pytest.approx(553.74))
    assert scan.geometry.pitch_mm == (pytest.approx(0.2), pytest.approx(0.2))
    assert math.degrees(scan.geometry.arc_rad) == pytest.approx(30.5)
    assert not scan.geometry.is_full_turn
    assert scan.acquired.startswith("2022-06-23")
    assert (scan.exposure.kvp, scan.exposure.tube_current_ma, scan.exposure.exposure_time_ms) == (45, 1, 1200)
    assert (scan.exposure.filter_material, scan.exposure.filter_thickness_mm) == ("Al", 0.5)


@pytest.mark.parametrize("name", [DISC, HOLES])
def test_names_of_persons_stay_out_of_the_manifest(name):
    assert detect(real_data_path("htc2022") / name) == "htc"
    assert not any("Meaney" in str(value) for value in (open_htc(name).scan, open_htc(name).scan.notes))


def test_the_full_reconstruction_projects_onto_the_measured_rows():
    """Values are mu times the pixel, 0.1483 mm: summed over pixels they give the line integral.

    Relative RMSE 3.3 % (2.9 % after the best scale, 0.986): most of it is the reconstruction's own background,
    which is not zero outside the disc and adds up to 0.03 to 0.09 along a ray, besides noise.
    """
    image = loadmat(real_data_path("htc2022") / FULL_RECONSTRUCTION)["reconFullFbp"]
    measured, projected, pixel_mm = measured_and_projected(DISC, image)
    assert pixel_mm == pytest.approx(0.148322, abs=1e-6)
    projected /= pixel_mm
    assert relative_rmse(measured, projected) < 0.035
    scale = float((projected * measured).sum() / (projected**2).sum())
    assert scale == pytest.approx(1.0, abs=0.02)
    assert 0.025 < image[200:300, 200:300].mean() / pixel_mm < 0.035  # mu of an acrylic disc [1/mm]


@pytest.fixture(scope="module")
def holes():
    """The segmented disc with eight holes."""
    with Image.open(real_data_path("htc2022") / SEGMENTATION) as picture:
        return np.asarray(picture, dtype=np.float64)


def fit(image, **changes):
    """Relative RMSE with the best mu (one number), and how well what changes from view to view correlates."""
    measured, projected, _ = measured_and_projected(HOLES, image, **changes)
    mu = (projected * measured).sum() / (projected**2).sum()
    moving, expected = projected - projected.mean(axis=0), measured - measured.mean(axis=0)
    correlation = (moving * expected).sum() / math.sqrt((moving**2).sum() * (expected**2).sum())
    return relative_rmse(measured, mu * projected), float(correlation)


@pytest.fixture(scope="module")
def right_fit(holes):
    return fit(holes)


def test_the_holes_lie_where_the_geometry_says(right_fit):
    rmse, correlation = right_fit
    assert rmse < 0.05
    assert correlation > 0.98


@pytest.mark.parametrize(
    "changes",
    [
        {"mirror_angles": True},
        {"mirror_cols": True},
        {"mirror_angles": True, "mirror_cols": True},
        {"turn_rad": math.pi / 2},
        {"turn_rad": math.pi},
        {"turn_rad": -math.pi / 2},
    ],
    ids=["other sense", "other side", "both", "a quarter on", "half a turn on", "a quarter back"],
)
def test_any_other_sense_side_or_zero_is_clearly_worse(holes, right_fit, changes):
    rmse, correlation = fit(holes, **changes)
    assert correlation < 0.3 < right_fit[1]
    assert rmse > 3 * right_fit[0]


@pytest.mark.parametrize("turn_deg", [-1.0, 1.0])
def test_the_zero_of_the_angles_is_right_within_a_degree(holes, right_fit, turn_deg):
    rmse, correlation = fit(holes, turn_rad=math.radians(turn_deg))
    assert correlation < right_fit[1] - 0.005
    assert rmse > right_fit[0]
