# SPDX-License-Identifier: Apache-2.0
"""Helsinki Tomography Challenge .mat files made here: both versions, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.io import savemat

from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers import SourceOptions
from ingest.readers.htc import looks_like, open_source
from tests.support.hdf5_maker import htc_struct, write_mat5, write_mat73

SINOGRAM = np.random.default_rng(4).normal(size=(4, 9))
ANGLES_DEG = np.array([0.0, 90.0, 180.0, 270.0])


def write(folder, version, sinogram=SINOGRAM, angles=ANGLES_DEG, **changes):
    writer = {5: write_mat5, 73: write_mat73}[version]
    return writer(folder / "scan.mat", htc_struct(sinogram, angles, **changes))


@pytest.fixture(params=[5, 73])
def version(request):
    return request.param


def test_line_integrals_and_geometry_are_read(tmp_path, version):
    path = write(tmp_path, version)
    assert looks_like(path)
    reader = open_source(path, SourceOptions())
    scan = reader.scan
    np.testing.assert_array_equal(reader.read_views(1, 3), SINOGRAM.astype(np.float32)[None, 1:3, None, :])
    assert (scan.content, scan.pixel_type) == ("line_integrals", "float32")
    orbit = scan.geometry.circular_orbit
    assert (orbit.sod_mm, orbit.sdd_mm) == (pytest.approx(410.66), pytest.approx(553.74))
    assert orbit.center_col == pytest.approx(4.0)
    # ASTRA's fan: at angle 0 the source stands on -y.
    expected = np.exp(1j * (np.deg2rad(ANGLES_DEG) - math.pi / 2))
    np.testing.assert_allclose(np.exp(1j * orbit.angles_rad), expected, atol=1e-12)
    assert scan.exposure.kvp == 45
    assert reader.read_flats() is None
    assert reader.read_darks() is None
    assert reader.read_bad_pixels() is None
    assert not any("Somebody" in note for note in scan.notes)


def test_columns_may_be_mirrored_and_geometry_replaced(tmp_path, version):
    path = write(tmp_path, version)
    (tmp_path / "scan.toml").write_text(
        '[geometry]\nkind = "circular"\nsod_mm = 1.0\nsdd_mm = 2.0\npitch_mm = 0.1\narc_deg = 360.0\n'
        'cols = "right-to-left"\n'
    )
    reader = open_source(path, SourceOptions())
    np.testing.assert_array_equal(reader.read_views(0, 4)[0, :, 0], SINOGRAM.astype(np.float32)[:, ::-1])
    assert reader.scan.geometry.sdd_mm == pytest.approx(2.0)


def test_one_view_is_a_scan_too(tmp_path, version):
    reader = open_source(write(tmp_path, version, SINOGRAM[:1], ANGLES_DEG[:1]), SourceOptions())
    assert (reader.scan.n_views, reader.scan.n_cols) == (1, 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"angles": ANGLES_DEG[:3]}, "3 angles for a sinogram of 4 views"),
        ({"numDetectorsPost": 8.0}, "numDetectorsPost is 8, but the sinogram has 9 columns"),
        ({"pixelSizePost": None}, "lacks the field 'pixelSizePost'"),
        ({"distanceUnit": "cm"}, "distances are in 'cm', expected mm"),
        ({"distanceSourceDetector": 400.0}, "must lie behind the axis"),
        ({"distanceSourceOrigin": "far"}, "distanceSourceOrigin is not a number, got 'far'"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(tmp_path, version, changes, message):
    with pytest.raises(FrameFormatError, match=message):
        open_source(write(tmp_path, version, **changes), SourceOptions())


def test_numbers_that_are_none_are_refused(tmp_path, version):
    sinogram = SINOGRAM.copy()
    sinogram[2, 5] = np.nan
    with pytest.raises(FrameFormatError, match="not a finite number at view 2, column 5"):
        open_source(write(tmp_path, version, sinogram), SourceOptions())


def test_a_truncated_file_is_refused_with_one_line(tmp_path, version):
    path = write(tmp_path, version)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(FrameFormatError, match=r"scan.mat: the MAT file is cut short or damaged") as error:
        open_source(path, SourceOptions())
    assert "\n" not in str(error.value)


def test_other_mat_files_are_refused(tmp_path):
    savemat(tmp_path / "other.mat", {"reconFullFbp": np.zeros((3, 3))})
    with pytest.raises(FrameFormatError, match="expected one variable CtDataFull or CtDataLimited, got reconFullFbp"):
        open_source(tmp_path / "other.mat", SourceOptions())
    savemat(tmp_path / "array.mat", {"CtDataFull": np.zeros((3, 3))})
    with pytest.raises(FrameFormatError, match="CtDataFull to be a struct"):
        open_source(tmp_path / "array.mat", SourceOptions())
    savemat(tmp_path / "poor.mat", {"CtDataFull": {"sinogram": SINOGRAM}})
    with pytest.raises(FrameFormatError, match="lacks the field 'sinogram' or 'parameters'"):
        open_source(tmp_path / "poor.mat", SourceOptions())
    (tmp_path / "text.mat").write_text("no MAT file")
    assert not looks_like(tmp_path / "text.mat")
    with pytest.raises(FrameFormatError, match=r"MAT file of version 5 or 7\.3"):
        open_source(tmp_path / "text.mat", SourceOptions())


def test_another_number_of_views_than_announced_is_refused(tmp_path, version):
    path = write(tmp_path, version)
    with pytest.raises(IncompleteScanError, match="holds 4 views, expected 6"):
        open_source(path, SourceOptions(settings={"n_views": 6}))
    with pytest.raises(ScanDescriptionError, match="unknown key 'axis'"):
        open_source(path, SourceOptions(settings={"axis": 1}))
