# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import tifffile

from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers import SourceOptions, detect, open_source
from ingest.readers.skyscan_log import read_skyscan_log, skyscan_angles_rad, skyscan_geometry, skyscan_notes
from ingest.scan import ParallelBeam
from tests.support.peers import further_data_path
from tests.support.reader_samples_imagers import counts, skyscan

LOGS = "docs/source/demo/bruker of xray-imaging/meta-cli, the two logs renamed"


def open_skyscan(source, **settings):
    return open_source(source, source_format="skyscan", options=SourceOptions(settings=settings))


def log_with(folder, **changes):
    changes = {key.replace("_", " "): value for key, value in changes.items()}
    return read_skyscan_log(skyscan(folder, **changes).source / "stone~00.log")


def geometry_of(log):
    return skyscan_geometry(log, skyscan_angles_rad(log, log.n_files, clockwise=log.clockwise))


def test_fields_become_the_scan(tmp_path):
    scan = open_skyscan(skyscan(tmp_path).source).scan
    assert (scan.scan_id, scan.content, scan.white_level) == ("stone-00", "normalized", 57000.0)
    assert (scan.manufacturer, scan.model, scan.acquired) == ("Bruker SkyScan", "SkyScan1272", "2023-03-14T09:00:40")
    exposure = scan.exposure
    assert (exposure.kvp, exposure.tube_current_ma, exposure.exposure_time_ms) == (60.0, 0.166, 1175.0)
    assert (exposure.filter_material, exposure.filter_thickness_mm) == ("Al", 0.25)
    orbit = scan.geometry.circular_orbit
    assert (orbit.sod_mm, orbit.sdd_mm) == pytest.approx((100, 200))
    assert orbit.pitch_u_mm == orbit.pitch_v_mm == pytest.approx(0.036)
    # Line 1 from the bottom of four; the table turns counter-clockwise, the source clockwise.
    assert (orbit.center_col, orbit.center_row) == pytest.approx((2.5, 1.0))
    np.testing.assert_allclose(np.rad2deg(orbit.angles_rad), [-0.4 * k for k in range(6)], atol=1e-12)


def test_the_direction_of_the_log_and_of_the_description(tmp_path):
    source = skyscan(tmp_path, **{"Rotation Direction": "CW"}).source
    assert np.rad2deg(open_skyscan(source).scan.geometry.source_angles_rad[1]) == pytest.approx(0.4)
    (tmp_path / "scan.toml").write_text('[geometry]\ntable_turns = "counter-clockwise"\n')
    assert np.rad2deg(open_skyscan(source).scan.geometry.source_angles_rad[1]) == pytest.approx(-0.4)
    (tmp_path / "scan.toml").write_text("[geometry]\ncenter_row = 1.0\n")
    scan = open_skyscan(source).scan
    assert scan.geometry.circular_orbit.center_row == pytest.approx(2.0)
    assert any("overrides what the skyscan files say of center_row" in note for note in scan.notes)


def test_the_image_pixel_rules_and_the_cameras_is_noted(tmp_path):
    log = log_with(tmp_path, **{"Image Pixel Size (um)": "10.0"})
    orbit = geometry_of(log).circular_orbit
    assert orbit.pitch_u_mm * orbit.sod_mm / orbit.sdd_mm == pytest.approx(0.010)
    assert any("camera's pixel would be 18 um at the object" in note for note in skyscan_notes(log, clockwise=False))


def test_the_pixel_at_the_object_follows_from_the_camera_if_need_be(tmp_path):
    log = log_with(tmp_path, **{"Image Pixel Size (um)": None})
    assert log.image_pixel_mm == pytest.approx(0.018)
    (tmp_path / "other").mkdir()
    far = log_with(tmp_path / "other", **{"Camera to Source (mm)": None})
    assert geometry_of(far).circular_orbit.sdd_mm == pytest.approx(200)


def test_what_is_not_applied_is_noted(tmp_path):
    sample = skyscan(tmp_path, **{
        "Image Rotation": "0.17", "Image crop origin Y": "20", "Number of connected scans": "2",
        "Reference Intensity": None, "Rotation Direction": None, "Use 360 Rotation": "YES",
    })  # fmt: skip
    (tmp_path / "camera.crv").touch()
    (tmp_path / "stone_TS.csv").touch()
    scan = open_skyscan(sample.source).scan
    assert scan.white_level == 65535
    for words in (
        "Image Rotation 0.17 degrees is not applied", "cropped by 20 rows", "one of 2 connected",
        "white is taken as 65535",
        "the log does not say", "make 2.4 degrees, not one full turn", "Not applied: camera.crv, stone_TS.csv",
    ):  # fmt: skip
        assert any(words in note for note in scan.notes), words


def test_a_far_source_is_a_parallel_beam(tmp_path):
    beam = geometry_of(log_with(tmp_path, **{"Object to Source (mm)": "1000000"}))
    assert isinstance(beam, ParallelBeam)
    assert beam.pitch_u_mm == pytest.approx(0.018)


def test_pictures_that_are_not_corrected_are_counts(tmp_path):
    scan = open_skyscan(skyscan(tmp_path, **{"Flat Field Correction": "OFF"}).source).scan
    assert (scan.content, scan.white_level) == ("counts", None)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"Object to Source (mm)": None}, "lacks Object to Source"),
        ({"Object to Source (mm)": "near"}, r"Object to Source \(mm\) must be a number, got 'near'"),
        ({"Object to Source (mm)": "500"}, "the detector must lie behind the axis"),
        ({"Rotation Step (deg)": "nan"}, r"Rotation Step \(deg\) must be a finite number"),
        ({"Number Of Files": "0"}, "Number Of Files must be a whole number above 0"),
        ({"Rotation Direction": "UP"}, "Rotation Direction must be CC or CW, got 'UP'"),
        ({"Scanning Trajectory": "HELICAL"}, "Scanning Trajectory is HELICAL, only ROUND is read; describe the poses"),
        ({"Image Pixel Size (um)": "-1"}, "must be above 0"),
        ({"Image Pixel Size (um)": None, "Camera to Source (mm)": None}, r"lacks Image Pixel Size \(um\)"),
    ],
)
def test_a_bad_log_is_refused_by_field(tmp_path, changes, sentence):
    source = skyscan(tmp_path, **changes).source
    with pytest.raises(ScanDescriptionError, match=sentence) as error:
        open_skyscan(source)
    assert "stone~00.log" in str(error.value)


@pytest.mark.parametrize("content", ["", "no ini file", "[Other]\nx=1\n", "[System]\nScanner=x\n"])
def test_what_is_no_log_is_refused(tmp_path, content):
    (tmp_path / "a.log").write_text(content)
    with pytest.raises(ScanDescriptionError, match=r"a\.log is not a SkyScan log"):
        open_skyscan(tmp_path / "a.log")


def test_a_folder_of_reconstructed_slices_is_refused(tmp_path):
    skyscan(tmp_path)
    (tmp_path / "stone~00.log").rename(tmp_path / "stone_rec.log")
    assert detect(tmp_path) == "skyscan"
    with pytest.raises(ScanDescriptionError, match=r"holds reconstructed slices .* name the folder of the scan"):
        open_skyscan(tmp_path)
    with pytest.raises(ScanDescriptionError, match="is the log of reconstructed slices"):
        open_skyscan(tmp_path / "stone_rec.log")
    (tmp_path / "b.log").write_text("[System]\nScanner=x\n[Acquisition]\nx=1\n[Reconstruction]\nSections Count=5\n")
    with pytest.raises(ScanDescriptionError, match="is the log of a reconstruction, not of a scan"):
        open_skyscan(tmp_path / "b.log")


def test_a_log_of_slices_beside_the_scans_own_is_passed_over(tmp_path):
    sample = skyscan(tmp_path)
    (tmp_path / "stone_rec.log").write_bytes((tmp_path / "stone~00.log").read_bytes())
    assert open_skyscan(tmp_path).scan.n_views == 6
    (tmp_path / "stone~01.log").write_bytes((tmp_path / "stone~00.log").read_bytes())
    with pytest.raises(FrameFormatError, match=r"stone~00\.log, stone~01\.log: name the file itself"):
        open_skyscan(tmp_path)
    np.testing.assert_array_equal(open_skyscan(tmp_path / "stone~00.log").read_views(0, 6), sample.frames)


def test_missing_pictures(tmp_path):
    source = skyscan(tmp_path).source
    (tmp_path / "stone~0000000003.tif").unlink()
    reader = open_skyscan(source)
    assert (reader.scan.n_views, reader.available_views()) == (6, 3)
    with pytest.raises(IncompleteScanError, match=r"stone~0000000003\.tif: view 3 is missing"):
        reader.read_views(0, 6)
    (tmp_path / "scan.toml").write_text("[files]\nmissing_views = [3]\n")
    scan = open_skyscan(source).scan
    np.testing.assert_allclose(np.rad2deg(scan.geometry.source_angles_rad), [0, -0.4, -0.8, -1.6, -2.0], atol=1e-12)
    for path in tmp_path.glob("stone~000000000*.tif"):
        path.unlink()
    (tmp_path / "scan.toml").unlink()
    with pytest.raises(IncompleteScanError, match=r"no picture called stone~0000000000\.tif .* name the pictures"):
        open_skyscan(source)


def test_pictures_must_have_the_size_of_the_log(tmp_path):
    source = skyscan(tmp_path, **{"Number Of Columns": "7"}).source
    with pytest.raises(FrameFormatError, match=r"stone~0000000000\.tif has 4 rows x 6 columns, but stone~00\.log says"):
        open_skyscan(source)
    with pytest.raises(IncompleteScanError, match=r"stone~00\.log holds 6 views, expected 7 as n_views says"):
        open_skyscan(source, n_views=7)
    with pytest.raises(ScanDescriptionError, match="repeat_views is not for SkyScan"):
        open_skyscan(source, repeat_views=7)


def test_flat_frames_of_the_description(tmp_path):
    source = skyscan(tmp_path, **{"Flat Field Correction": "OFF"}).source
    tifffile.imwrite(tmp_path / "flat.tif", counts(4, 6, seed=3))
    (tmp_path / "scan.toml").write_text('[files]\nflats = "flat.tif"\n')
    np.testing.assert_array_equal(open_skyscan(source).read_flats()[0, 0], counts(4, 6, seed=3)[::-1, ::-1])


def cone_angles_deg(log):
    """Full opening angles of the cone along columns and rows, as NRecon counts them."""
    orbit = geometry_of(log).circular_orbit
    sides = ((log.n_cols, orbit.pitch_u_mm), (log.n_rows, orbit.pitch_v_mm))
    return [math.degrees(2 * math.atan(n / 2 * pitch / orbit.sdd_mm)) for n, pitch in sides]


def test_the_cone_is_the_one_that_nrecon_computed(tmp_path):
    """NRecon writes the angles of the cone into its own log: they follow from source distance and image pixel alone."""
    fields = {
        "Number Of Rows": "896",
        "Number Of Columns": "1075",
        "Camera to Source (mm)": "270.98833",
        "Object to Source (mm)": "200.70900",
        "Camera Pixel Size (um)": "9.0",
        "Camera binning": "3x3",
        "Image Pixel Size (um)": "19.797722",
    }
    assert cone_angles_deg(log_with(tmp_path, **fields)) == pytest.approx([6.069781, 5.060536], abs=1e-6)


@pytest.mark.real_data
def test_a_real_log():
    path = further_data_path("skyscan_logs", LOGS) / "skyscan_1272.log"
    log = read_skyscan_log(path)
    said = path.parent.joinpath("skyscan_1272_rec.log").read_text(encoding="latin-1")
    angles = [float(said.split(f"Cone-beam Angle {side}.(deg)=")[1].split()[0]) for side in ("Horiz", "Vert")]
    assert cone_angles_deg(log) == pytest.approx(angles, abs=1e-6)
    assert (log.prefix, log.index_length, log.n_files, log.axis_line) == ("DRP_P21_3~00", 8, 471, 528.0)
    assert (log.white_level, log.acquired) == (57000.0, "2023-03-14T09:00:40")


@pytest.mark.real_data
def test_an_older_real_log():
    log = read_skyscan_log(further_data_path("skyscan_logs", LOGS) / "skyscan_1173.log")
    assert (log.index_length, log.n_files, log.post_alignment_px, log.white_level) == (4, 1200, 0.5, 65535.0)
    assert log.acquired == "2023-07-20T11:26:30"
    # The panel stands half a column further to the left: the foot of the central ray moves the other way.
    orbit = geometry_of(log).circular_orbit
    assert (orbit.center_col, orbit.center_row) == pytest.approx((2239 / 2 + 0.5, 1088))
