# SPDX-License-Identifier: Apache-2.0
"""NXtomo files made here: which frame is what, geometry, and what is refused."""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest

from ingest.errors import FrameFormatError, ScanDescriptionError
from ingest.readers import SourceOptions
from ingest.readers.nxtomo import looks_like, open_source
from tests.support.hdf5_maker import CONE, write_nxtomo

KEYS = [2, 1, 1, 0, 0, 0, 1, 0]
FRAMES = np.random.default_rng(5).integers(0, 60000, (8, 4, 6)).astype(np.uint16)
ANGLES_DEG = [0, 0, 0, 0, 30, 60, 60, 90]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scan.nx"


def open_nx(path, **settings):
    return open_source(path, SourceOptions(settings=settings))


def test_frames_are_told_apart_by_their_image_key(path):
    write_nxtomo(path, FRAMES, KEYS, ANGLES_DEG)
    assert looks_like(path)
    reader = open_nx(path)
    top_down = FRAMES[:, ::-1]
    np.testing.assert_array_equal(reader.read_views(0, 4)[0], top_down[[3, 4, 5, 7]])
    np.testing.assert_array_equal(reader.read_views(2, 4)[0], top_down[[5, 7]])
    np.testing.assert_array_equal(reader.read_flats()[0], top_down[[1, 2, 6]])
    np.testing.assert_array_equal(reader.read_darks()[0], top_down[[0]])
    assert (reader.scan.flats.count, reader.scan.darks.count) == (3, 1)
    reader.close()


def test_without_a_source_distance_the_beam_is_parallel(path):
    extra = {"instrument/detector/x_pixel_size": (5.5e-5, "m"), "instrument/detector/y_pixel_size": 5.5e-5}
    write_nxtomo(path, FRAMES, KEYS, ANGLES_DEG, extra=extra)
    scan = open_nx(path).scan
    assert scan.geometry is None
    np.testing.assert_allclose(scan.parallel.angles_rad, -np.deg2rad([0, 30, 60, 90]))
    assert (scan.parallel.pitch_u_mm, scan.parallel.pitch_v_mm) == (pytest.approx(0.055), pytest.approx(0.055))
    assert any("gives no source distance" in note for note in scan.notes)


def test_source_and_detector_distance_make_a_cone(path):
    axis = {"instrument/detector/x_rotation_axis_pixel_position": 1.5}
    write_nxtomo(path, FRAMES, KEYS, ANGLES_DEG, extra={**CONE, **axis})
    orbit = open_nx(path).scan.geometry.circular_orbit
    assert (orbit.sod_mm, orbit.sdd_mm) == (pytest.approx(200.0), pytest.approx(250.0))
    assert (orbit.pitch_u_mm, orbit.pitch_v_mm) == (pytest.approx(0.055), pytest.approx(0.11))
    assert orbit.center_col == pytest.approx(2.5 + 1.5)
    np.testing.assert_allclose(orbit.angles_rad, -np.deg2rad([0, 30, 60, 90]), atol=1e-12)


def test_mirrored_columns_turn_the_axis_round(path):
    axis = {"instrument/detector/x_rotation_axis_pixel_position": 1.5}
    write_nxtomo(path, FRAMES, KEYS, ANGLES_DEG, extra={**CONE, **axis})
    (path.parent / "scan.toml").write_text('[geometry]\ncols = "right-to-left"\ntable_turns = "clockwise"\n')
    reader = open_nx(path)
    orbit = reader.scan.geometry.circular_orbit
    assert orbit.center_col == pytest.approx(2.5 - 1.5)
    np.testing.assert_allclose(orbit.angles_rad, np.deg2rad([0, 30, 60, 90]), atol=1e-12)
    np.testing.assert_array_equal(reader.read_views(0, 1)[0, 0], FRAMES[3, ::-1, ::-1])
    reader.close()


def test_a_synchrotron_is_a_parallel_beam_however_far(path):
    extra = {**CONE, "instrument/source/type": "Synchrotron X-ray Source"}
    write_nxtomo(path, FRAMES, KEYS, ANGLES_DEG, extra=extra)
    scan = open_nx(path).scan
    assert scan.geometry is None
    assert scan.parallel is not None


def test_scan_toml_replaces_the_geometry(path):
    write_nxtomo(path, FRAMES, KEYS, ANGLES_DEG)
    (path.parent / "scan.toml").write_text(
        '[geometry]\nkind = "circular"\nsod_mm = 100.0\nsdd_mm = 300.0\npitch_mm = 0.1\nangle_step_deg = 30.0\n'
    )
    scan = open_nx(path).scan
    assert scan.parallel is None
    assert scan.geometry.sdd_mm == pytest.approx(300.0)


def test_alignment_and_invalid_frames_are_left_out(path):
    control = [2, 1, 1, 0, -1, 0, 1, 0]
    keys = [2, 1, 1, 0, 0, 0, 1, 3]
    write_nxtomo(path, FRAMES, keys, ANGLES_DEG, control=control)
    reader = open_nx(path)
    np.testing.assert_array_equal(reader.read_views(0, 2)[0], FRAMES[[3, 5], ::-1])
    assert any("2 alignment or invalid frames" in note for note in reader.scan.notes)
    reader.close()


def test_angles_in_radians_and_without_unit(path, tmp_path):
    write_nxtomo(path, FRAMES, KEYS, np.deg2rad(ANGLES_DEG), units="rad")
    assert open_nx(path).scan.parallel.angles_rad[3] == pytest.approx(-math.pi / 2)
    write_nxtomo(tmp_path / "b.nx", FRAMES, KEYS, ANGLES_DEG, units=None)
    assert open_nx(tmp_path / "b.nx").scan.parallel.angles_rad[3] == pytest.approx(-math.pi / 2)


def test_metadata_and_pixel_mask(path):
    mask = np.zeros((4, 6), dtype=np.uint8)
    mask[0, 1] = 1
    extra = {
        "start_time": "2025-03-04T05:06:07+01:00",
        "instrument/name": "ID19",
        "instrument/detector/count_time": (np.full(8, 0.05), "s"),
        "instrument/detector/pixel_mask": mask,
    }
    write_nxtomo(path, FRAMES, KEYS, ANGLES_DEG, extra=extra)
    reader = open_nx(path)
    assert reader.scan.acquired == "2025-03-04T05:06:07"
    assert reader.scan.station == "ID19"
    assert reader.scan.exposure.exposure_time_ms == pytest.approx(50.0)
    np.testing.assert_array_equal(reader.read_bad_pixels(), mask[::-1] != 0)
    reader.close()


def test_an_entry_is_chosen_by_name(path):
    write_nxtomo(path, FRAMES, KEYS, ANGLES_DEG, entry="entry0000")
    write_nxtomo(path, FRAMES + np.uint16(1), KEYS, ANGLES_DEG, entry="entry0001")
    with pytest.raises(FrameFormatError, match=r"entries entry0000, entry0001: choose one by the setting 'entry'"):
        open_nx(path)
    reader = open_nx(path, entry="entry0001")
    np.testing.assert_array_equal(reader.read_darks()[0], FRAMES[:1, ::-1] + np.uint16(1))
    reader.close()
    with pytest.raises(ScanDescriptionError, match="no entry 'entry9', expected one of entry0000, entry0001"):
        open_nx(path, entry="entry9")


def test_views_without_angles_have_no_geometry(path):
    write_nxtomo(path, FRAMES, KEYS, None)
    scan = open_nx(path).scan
    assert scan.geometry is None
    assert scan.parallel is None
    assert any("no angles" in note for note in scan.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"angles": ANGLES_DEG[:7]}, "7 angles for 8 frames"),
        ({"keys": KEYS[:7]}, "image_key has 7 values for 8 frames"),
        ({"keys": [2, 1, 1, 0, 7, 0, 1, 0]}, "frame 4 has the image key 7"),
        ({"keys": [1] * 8}, "none of the 8 frames is a projection"),
        ({"control": [0] * 9}, "image_key_control has 9 values for 8 frames"),
        ({"units": "steps"}, "is in 'steps', expected an angle"),
        ({"angles": [math.nan] * 8}, "holds a number that is not finite"),
        ({"frames": FRAMES[0]}, r"needs the axes \(frame, row, col\), got the shape \(4, 6\)"),
        ({"extra": {**CONE, "instrument/detector/distance": (1.0, "furlong")}}, "in 'furlong', expected a length"),
        ({"extra": {"instrument/detector/pixel_mask": np.zeros((3, 3))}}, "expected .4, 6. as the frames"),
    ],
)
def test_what_does_not_fit_is_refused(path, changes, message):
    arguments = {"frames": FRAMES, "keys": KEYS, "angles": ANGLES_DEG} | changes
    write_nxtomo(path, **arguments)
    with pytest.raises(FrameFormatError, match=message):
        open_nx(path)


def test_counts_that_are_none_are_refused_on_reading(path):
    frames = FRAMES.astype(np.float32)
    frames[4, 2, 1] = -1
    write_nxtomo(path, frames, KEYS, ANGLES_DEG)
    reader = open_nx(path)
    with pytest.raises(FrameFormatError, match="view 1, row 1, column 1 has the negative count"):
        reader.read_views(0, 4)
    reader.close()


def test_a_truncated_file_is_refused(path):
    write_nxtomo(path, FRAMES, KEYS, ANGLES_DEG)
    path.write_bytes(path.read_bytes()[:-100])
    assert looks_like(path)
    with pytest.raises(FrameFormatError, match=r"scan.nx: the HDF5 file is cut short or damaged"):
        open_nx(path)


def test_a_damaged_chunk_is_refused_on_reading(path):
    with h5py.File(path, "w") as file:
        detector = file.create_group("entry/instrument/detector")
        detector.create_dataset("data", data=np.zeros((8, 64, 64), np.uint16), chunks=(1, 64, 64), compression="gzip")
        detector["image_key"] = KEYS
        offset = detector["data"].id.get_chunk_info(4).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 10] = bytes(10)
    path.write_bytes(bytes(content))
    reader = open_nx(path)
    with pytest.raises(FrameFormatError, match=r"frames 3 to 5 of /entry/instrument/detector/data cannot be read"):
        reader.read_views(0, 4)
    reader.close()


def test_other_files_are_refused(tmp_path):
    with h5py.File(tmp_path / "other.nxs", "w") as file:
        file["entry/data"] = 1
    assert not looks_like(tmp_path / "other.nxs")
    with pytest.raises(FrameFormatError, match="no NXtomo entry"):
        open_nx(tmp_path / "other.nxs")
    (tmp_path / "text.nxs").write_text("no HDF5")
    with pytest.raises(FrameFormatError, match="expected an HDF5 file"):
        open_nx(tmp_path / "text.nxs")
