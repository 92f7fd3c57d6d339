# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct

import numpy as np
import pytest

from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers import SourceOptions, open_source
from ingest.readers.elekta import HisFile
from tests.support.imager_maker import frames_xml, his_bytes
from tests.support.reader_samples_imagers import counts, elekta


def open_elekta(source, **settings):
    return open_source(source, source_format="elekta", options=SourceOptions(settings=settings))


def test_a_scan(tmp_path):
    scan = open_elekta(elekta(tmp_path).source).scan
    assert (scan.content, scan.white_level, scan.pixel_type) == ("normalized", 65536.0, "uint16")
    geometry = scan.geometry
    assert (geometry.sod_mm, geometry.sdd_mm) == pytest.approx((1000, 1536))
    assert geometry.pitch_mm == pytest.approx((51.2, 51.2))
    np.testing.assert_allclose(np.rad2deg(geometry.source_angles_rad) % 360, [0, 90, 180, 270], atol=1e-9)
    poses = geometry.poses
    np.testing.assert_allclose(np.sum(poses[:, 3:6] * poses[:, 6:9], axis=1) / 51.2, -115, atol=1e-9)
    np.testing.assert_allclose(np.sum(poses[:, 3:6] * poses[:, 9:12], axis=1) / 51.2, -1, atol=1e-9)
    assert (scan.exposure.kvp, scan.exposure.tube_current_ma, scan.exposure.exposure_time_ms) == (120, 25, 40)


def test_the_xml_of_an_anonymised_scan(tmp_path):
    source = elekta(tmp_path).source
    xml = (tmp_path / "_Frames.xml").read_text()
    for old, new in {"GantryAngle": "antryAngle", "UCentre": "Uentre", "VCentre": "Ventre", "False": "true"}.items():
        xml = xml.replace(old, new)
    (tmp_path / "_Frames.xml").write_text(xml)
    scan = open_elekta(source).scan
    assert scan.geometry.n_views == 4
    assert any("4 frames are marked Inactive" in note for note in scan.notes)


def test_without_the_xml_file_the_description_must_say(tmp_path):
    source = elekta(tmp_path).source
    (tmp_path / "_Frames.xml").unlink()
    scan = open_elekta(source).scan
    assert scan.geometry is None
    assert any("no _Frames.xml: give the [geometry]" in note for note in scan.notes)
    toml = '[geometry]\nkind = "circular"\nsod_mm = 1000\nsdd_mm = 1536\npitch_mm = 51.2\narc_deg = 360\n'
    (tmp_path / "scan.toml").write_text(toml)
    assert open_elekta(source).scan.geometry.is_full_turn


def test_missing_frames(tmp_path):
    source = elekta(tmp_path).source
    (tmp_path / "00002.1.3.46.423632.his").unlink()
    with pytest.raises(IncompleteScanError, match="1 of 4 frames are missing: 00002; if they do not exist, name them"):
        open_elekta(source)
    (tmp_path / "scan.toml").write_text("[files]\nmissing_views = [2]\n")
    geometry = open_elekta(source).scan.geometry
    np.testing.assert_allclose(np.rad2deg(geometry.source_angles_rad) % 360, [0, 180, 270], atol=1e-9)


def test_the_last_number_of_the_name_is_not_the_frames(tmp_path):
    """Names end with the acquisition's UID: frames are told apart by the number in front."""
    sample = elekta(tmp_path)
    np.testing.assert_array_equal(open_elekta(tmp_path).read_views(1, 3), sample.frames[:, 1:3])


def test_frames_and_files_must_agree(tmp_path):
    source = elekta(tmp_path).source
    (tmp_path / "_Frames.xml").write_text(frames_xml([0, 90], [0, 0], [0, 0]))
    with pytest.raises(IncompleteScanError, match=r"_Frames\.xml describes 2 frames, but there are 4 \.his views"):
        open_elekta(source)
    (tmp_path / "b_Frames.xml").touch()
    with pytest.raises(ScanDescriptionError, match=r"_Frames\.xml, b_Frames\.xml: leave only that of this scan there"):
        open_elekta(source)


def test_an_angle_that_is_no_number(tmp_path):
    source = elekta(tmp_path).source
    (tmp_path / "_Frames.xml").write_text(frames_xml([0] * 4, [0] * 4, [0] * 4).replace("<UCentre>0.0", "<UCentre>x"))
    with pytest.raises(ScanDescriptionError, match=r"_Frames\.xml: UCentre must be a number, got 'x'"):
        open_elekta(source)


def test_frames_in_one_file(tmp_path):
    values = counts(3, 8, 8)
    (tmp_path / "all.his").write_bytes(his_bytes(values))
    reader = open_elekta(tmp_path / "all.his")
    np.testing.assert_array_equal(reader.read_views(0, 3)[0], (65536 - values.astype(int)).astype(np.uint16))


def test_malformed_files_are_refused(tmp_path):
    good = his_bytes(counts(8, 8))
    cases = {
        b"abcd" + good[4:]: "is not a .his file: it begins with 61 62 63 64",
        good[:40]: "is truncated: its header has 40 bytes, expected 68",
        good[:32] + struct.pack("<H", 32) + good[34:]: "pixels of type 32 are not read, expected 4",
        good[:20] + struct.pack("<H", 0) + good[22:]: "says 0 frames of columns 1 to 8 and rows 1 to 8, expected",
        good[:-1]: "is truncated: its pixels lie at bytes 100 to 228, but the file has 227",
    }
    for content, sentence in cases.items():
        (tmp_path / "a.his").write_bytes(content)
        with pytest.raises(FrameFormatError, match=rf"a\.his.*{sentence}"):
            HisFile(tmp_path / "a.his")


def test_flat_frames_and_repeated_views_are_refused(tmp_path):
    source = elekta(tmp_path).source
    with pytest.raises(ScanDescriptionError, match="repeat_views is not for Elekta"):
        open_elekta(source, repeat_views=4)
    with pytest.raises(IncompleteScanError, match="holds 4 views, expected 5 as n_views says"):
        open_elekta(source, n_views=5)
    (tmp_path / "scan.toml").write_text('[files]\nflats = "00001*.his"\n')
    with pytest.raises(ScanDescriptionError, match=r"corrected already, \[files\] flats must go"):
        open_elekta(source)
