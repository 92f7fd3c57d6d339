# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import tifffile

from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers import SourceOptions, detect, open_source
from ingest.readers.xtekct import read_xtekct, xtek_angles_rad, xtek_geometry
from tests.support.peers import real_data_path
from tests.support.reader_samples_plain import GEOMETRY_TOML, XTEKCT, counts, nikon, write_toml


@pytest.fixture
def open_nikon():
    readers = []

    def open_and_keep(source, **settings):
        readers.append(open_source(source, source_format="nikon", options=SourceOptions(settings=settings)))
        return readers[-1]

    yield open_and_keep
    for reader in readers:
        reader.close()


def header_with(folder, **changes):
    return read_xtekct(nikon(folder, **changes).source / "bar.xtekct")


def picture_position(geometry, view, point_mm):
    """(row, column) of the picture as the file stores it where a point's shadow falls."""
    source, center, u_step, v_step = geometry.poses[view].reshape(4, 3)
    ray = np.asarray(point_mm, float) - source
    i, j, _ = np.linalg.solve(np.stack([u_step, v_step, -ray], axis=1), source - center)
    col, row = i + (geometry.n_cols - 1) / 2, j + (geometry.n_rows - 1) / 2
    return geometry.n_rows - 1 - row, geometry.n_cols - 1 - col


def test_fields_become_the_scan(tmp_path, open_nikon):
    reader = open_nikon(nikon(tmp_path).source)
    scan = reader.scan
    assert (scan.scan_id, scan.content, scan.white_level, scan.manufacturer) == ("bar", "normalized", 60000.0, "Nikon")
    assert scan.exposure.kvp == 160.0
    assert scan.exposure.tube_current_ma == pytest.approx(0.14)
    assert (scan.exposure.filter_material, scan.exposure.filter_thickness_mm) == ("Copper", 0.25)
    orbit = scan.geometry.circular_orbit
    assert (orbit.sod_mm, orbit.sdd_mm) == pytest.approx((100, 400))
    assert (orbit.pitch_u_mm, orbit.pitch_v_mm) == pytest.approx((0.2, 0.25))
    assert (orbit.center_col, orbit.center_row) == pytest.approx((2.5, 1.5))
    np.testing.assert_allclose(np.rad2deg(orbit.angles_rad), [10, 82, 154, -134, -62])


def test_the_table_turns_clockwise_and_columns_run_against_u(tmp_path):
    geometry = xtek_geometry(header := header_with(tmp_path), xtek_angles_rad(header, 5))
    beta = math.radians(10)
    near_source = 3 * np.array([math.cos(beta), math.sin(beta), 0])
    row0, col0 = picture_position(geometry, 0, near_source)
    assert (row0, col0) == pytest.approx((1.5, 2.5))
    # A clockwise turn of the table takes what faces the source to the left of its view: to higher columns.
    step = math.radians(1)
    turned = xtek_geometry(header, np.array([beta, beta + step]))
    _, col1 = picture_position(turned, 1, near_source)
    lab = 100 - 3 * math.cos(step), 3 * math.sin(step)
    assert col1 - col0 == pytest.approx(lab[1] / lab[0] * 400 / 0.2)
    row2, _ = picture_position(geometry, 0, [0, 0, 0.05])
    assert row2 == pytest.approx(1.5 - 0.05 * 4 / 0.25)


@pytest.mark.parametrize(("top", "bottom"), [(0.4, 0.4), (0.5, -0.1), (-0.3, 0.2)])
def test_the_axis_shadow_crosses_top_and_bottom_where_the_file_says(tmp_path, top, bottom):
    header = header_with(tmp_path, CentreOfRotationTop=str(top), CentreOfRotationBottom=str(bottom))
    geometry = xtek_geometry(header, xtek_angles_rad(header, 5))
    for view in (0, 3):
        (row_a, col_a), (row_b, col_b) = (picture_position(geometry, view, [0, 0, z]) for z in (-0.1, 0.1))
        slope = (col_b - col_a) / (row_b - row_a)
        height_rows = header.n_rows
        at_top = col_a + slope * (1.5 - height_rows / 2 - row_a)
        at_bottom = col_a + slope * (1.5 + height_rows / 2 - row_a)
        assert at_top == pytest.approx(2.5 + top / 0.2, abs=1e-9)
        assert at_bottom == pytest.approx(2.5 + bottom / 0.2, abs=1e-9)
    assert (geometry.circular_orbit is not None) == (top == bottom)


def test_an_object_offset_is_the_same_seen_at_the_object(tmp_path):
    header = header_with(tmp_path, ObjectOffsetX="0.1")
    orbit = xtek_geometry(header, xtek_angles_rad(header, 5)).circular_orbit
    assert orbit.center_col == pytest.approx(2.5 - 0.4 / 0.2)


def test_object_roll_and_tilt_lean_the_axis(tmp_path):
    header = header_with(tmp_path, ObjectRoll="2.0")
    geometry = xtek_geometry(header, xtek_angles_rad(header, 5))
    (row_a, col_a), (row_b, col_b) = (picture_position(geometry, 1, [0, 0, z]) for z in (0.0, 0.1))
    # Its top leans to the right as seen from the source: to lower columns, up the picture.
    lean = math.atan2((col_a - col_b) * 0.2, (row_a - row_b) * 0.25)
    assert lean == pytest.approx(math.radians(2), abs=1e-12)
    header = header_with(tmp_path, ObjectTilt="30.0")
    geometry = xtek_geometry(header, xtek_angles_rad(header, 5))
    for pose in geometry.poses:
        source = pose[:3]
        assert np.linalg.norm(source) == pytest.approx(100)
        assert source[2] == pytest.approx(-100 * math.sin(math.radians(30)))
        assert np.linalg.norm(source - [0, 0, 1]) > np.linalg.norm(source - [0, 0, -1])
        np.testing.assert_allclose(np.cross(source, source - pose[3:6]), 0, atol=1e-9)


def test_a_description_corrects_centre_and_roll_of_the_header(tmp_path, open_nikon):
    source = nikon(tmp_path, CentreOfRotationTop="0.5", CentreOfRotationBottom="0.3").source
    write_toml(tmp_path, "[geometry]\ncenter_col = 2.0\nroll_deg = 1.5\n")
    scan = open_nikon(source).scan
    row, col = picture_position(scan.geometry, 0, [0, 0, 0])
    assert (row, col) == pytest.approx((1.5, 2.0))
    high_row, high_col = picture_position(scan.geometry, 0, [0, 0, 1])
    # To the right as seen from the source is to lower columns of the picture; up is to lower rows.
    assert math.atan2((col - high_col) * 0.2, (row - high_row) * 0.25) == pytest.approx(math.radians(1.5))
    assert any("overrides what the nikon files say of center_col, roll_deg" in note for note in scan.notes)
    write_toml(tmp_path, "[geometry]\nangle_step_deg = 2.0\n")
    with pytest.raises(ScanDescriptionError, match=r"scan\.toml: \[geometry\] without a kind .* 'angle_step_deg'"):
        open_nikon(source)


def test_a_detector_offset_moves_the_panel_and_is_noted(tmp_path, open_nikon):
    reader = open_nikon(nikon(tmp_path, DetectorOffsetX="0.2", DetectorOffsetY="0.25").source)
    row, col = picture_position(reader.scan.geometry, 0, [0, 0, 0])
    assert (row, col) == pytest.approx((0.5, 1.5))
    assert any("DetectorOffsetX" in note for note in reader.scan.notes)


def test_measured_angles_replace_the_even_steps(tmp_path, open_nikon):
    nikon(tmp_path)
    header = read_xtekct(tmp_path / "bar.xtekct")
    for sign in (1, -1):
        measured = [0.0, 72.5, 143.5, 216.0, 288.5]
        lines = [f"{k + 1}:\t{(sign * angle) % 360}" for k, angle in enumerate(measured)]
        (tmp_path / "bar.ang").write_text("Projection\tAngle(deg)\n" + "\n".join(lines) + "\n")
        beta = open_nikon(tmp_path).scan.geometry.source_angles_rad
        np.testing.assert_allclose(np.rad2deg(beta) % 360, np.add(measured, header.initial_angle_deg), atol=1e-9)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [("1:\t0\n2:\t72\n", "got 2 angles for 5 views"), ("0\n1\n2\n3\n4\n", "go on by 1 degrees, but AngularStep")],
)
def test_measured_angles_that_do_not_fit_are_refused(tmp_path, lines, sentence, open_nikon):
    nikon(tmp_path)
    (tmp_path / "bar.ang").write_text(lines)
    with pytest.raises(ScanDescriptionError, match=sentence) as error:
        open_nikon(tmp_path)
    assert "bar.ang" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"SrcToObject": ""}, "lacks SrcToObject"),
        ({"SrcToObject": "near"}, "SrcToObject must be a number, got 'near'"),
        ({"SrcToObject": "500"}, "the detector must lie behind the axis"),
        ({"Projections": "0"}, "Projections must be a whole number above 0"),
        ({"WhiteLevel": "nan"}, "WhiteLevel must be a finite number"),
        ({"InputFolderName": "gone"}, "InputFolderName 'gone' is not a folder"),
    ],
)
def test_a_bad_header_is_refused_by_field(tmp_path, changes, sentence, open_nikon):
    nikon(tmp_path, **changes)
    with pytest.raises(ScanDescriptionError, match=sentence) as error:
        open_nikon(tmp_path)
    assert "bar.xtekct" in str(error.value)


@pytest.mark.parametrize("content", ["", "no ini file", "[Other]\nx=1\n"])
def test_what_is_no_xtekct_is_refused(tmp_path, content, open_nikon):
    (tmp_path / "a.xtekct").write_text(content)
    with pytest.raises(ScanDescriptionError, match=r"a\.xtekct is not an \.xtekct file"):
        open_nikon(tmp_path / "a.xtekct")


def test_pictures_must_have_the_size_of_the_header(tmp_path, open_nikon):
    nikon(tmp_path, DetectorPixelsX="7")
    with pytest.raises(FrameFormatError, match=r"bar_0001\.tif has pictures of 4 rows x 6 columns"):
        open_nikon(tmp_path)


def test_missing_pictures(tmp_path, open_nikon):
    nikon(tmp_path)
    (tmp_path / "bar_0003.tif").unlink()
    reader = open_nikon(tmp_path)
    assert (reader.scan.n_views, reader.available_views()) == (5, 2)
    with pytest.raises(IncompleteScanError, match="view 2 is missing"):
        reader.read_views(0, 5)
    write_toml(tmp_path, "[files]\nmissing_views = [3]\n")
    reader = open_nikon(tmp_path)
    assert reader.available_views() == reader.scan.n_views == 4
    np.testing.assert_allclose(np.rad2deg(reader.scan.geometry.source_angles_rad), [10, 82, -134, -62])


def test_pictures_in_a_folder_of_their_own(tmp_path, open_nikon):
    sample = nikon(tmp_path, InputFolderName="pictures")
    (tmp_path / "pictures").mkdir()
    for path in tmp_path.glob("*.tif"):
        path.rename(tmp_path / "pictures" / path.name)
    np.testing.assert_array_equal(open_nikon(tmp_path).read_views(0, 5), sample.frames)


def test_a_description_can_say_more(tmp_path, open_nikon):
    nikon(tmp_path)
    write_toml(tmp_path, "[scan]\nid = 'x'\nwhite_level = 61000\n" + GEOMETRY_TOML)
    scan = open_nikon(tmp_path).scan
    assert (scan.scan_id, scan.white_level) == ("x", 61000.0)
    assert scan.geometry.sdd_mm == pytest.approx(200)
    assert any("61000 as described, not 60000" in note for note in scan.notes)


def test_several_headers_in_a_folder_must_be_told_apart(tmp_path, open_nikon):
    nikon(tmp_path)
    (tmp_path / "other.xtekct").write_text(XTEKCT.format(name="o", cols=6, rows=4, views=5, step=72))
    with pytest.raises(FrameFormatError, match=r"bar\.xtekct, other\.xtekct: name the file itself"):
        open_nikon(tmp_path)
    assert open_nikon(tmp_path / "bar.xtekct").scan.n_views == 5


def test_one_view_over_a_full_turn(tmp_path, open_nikon):
    nikon(tmp_path, views=1, Projections="3142", AngularStep="0.1145")
    reader = open_nikon(tmp_path, repeat_views=12, bin_pixels=2)
    assert reader.scan.n_views == reader.available_views() == 12
    assert reader.scan.geometry.is_full_turn
    steps = np.diff(np.rad2deg(reader.scan.geometry.source_angles_rad)) % 360
    np.testing.assert_allclose(steps, 30)
    tifffile.imwrite(tmp_path / "bar_0002.tif", counts(4, 6))
    with pytest.raises(ScanDescriptionError, match="needs one picture, got 2"):
        open_nikon(tmp_path, repeat_views=12)


@pytest.mark.real_data
def test_the_real_radiogram(open_nikon):
    folder = real_data_path("nikon_radiogram")
    source = folder / "radiogram.xtekct"
    assert detect(source) == "nikon"
    settings = {"repeat_views": 720, "white_level": 61097, "bin_pixels": 4}
    reader = open_nikon(source, **settings)
    scan = reader.scan
    assert (scan.scan_id, scan.n_views, scan.n_rows, scan.n_cols) == ("SNO20160626_R20_00_025Cu", 720, 500, 375)
    assert (scan.white_level, scan.pixel_type) == (61097.0, "float32")
    orbit = scan.geometry.circular_orbit
    assert orbit.sod_mm == pytest.approx(76.7511959075928)
    assert orbit.sdd_mm == pytest.approx(1127.464)
    assert (orbit.pitch_u_mm, orbit.pitch_v_mm) == pytest.approx((0.8, 0.8))
    assert (orbit.center_col, orbit.center_row) == pytest.approx((187.0, 249.5))
    assert math.degrees(orbit.angles_rad[0]) == pytest.approx(3.36500000953674)
    assert orbit.pitch_u_mm * orbit.sod_mm / orbit.sdd_mm == pytest.approx(4 * 0.013614837863123, rel=1e-6)
    views = reader.read_views(718, 720)
    picture = tifffile.imread(folder / "radiogram_counts_u16.tif").astype(np.float64)
    expected = picture.reshape(500, 4, 375, 4).mean(axis=(1, 3))[::-1, ::-1].astype(np.float32)
    np.testing.assert_array_equal(views, np.stack([expected, expected])[None])
    reader.close()


@pytest.mark.real_data
def test_the_real_settings_of_another_scan():
    header = read_xtekct(real_data_path("nikon_radiogram") / "settings.xtekct")
    assert (header.n_cols, header.n_rows, header.n_projections) == (2000, 2000, 3142)
    assert header.source_to_object_mm == 76.7192516326904
    assert (header.exposure.kvp, header.exposure.tube_current_ma) == (160.0, pytest.approx(0.16))
    geometry = xtek_geometry(header, xtek_angles_rad(header, header.n_projections))
    assert geometry.is_full_turn
    assert math.degrees(geometry.source_angles_rad[0]) == pytest.approx(5.84749984741211)
