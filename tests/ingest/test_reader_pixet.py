# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from ingest.errors import FrameFormatError, ScanDescriptionError
from ingest.readers import SourceOptions, detect, open_source
from ingest.readers.pixet_files import PixetFile, read_pixet_description
from tests.support.imager_maker import write_pixet
from tests.support.peers import further_data_path
from tests.support.reader_samples_imagers import SAMPLES, counts

MINIPIX = "MiniPIXProject of dattatreyamdesai/MiniPIX_TPX3"
FRAMES = counts(3, 5, 7, high=30000)


def open_pixet(source, **settings):
    return open_source(source, source_format="pixet", options=SourceOptions(settings=settings))


def test_metadata(tmp_path):
    scan = open_pixet(SAMPLES["pixet_text"](tmp_path).source).scan
    assert (scan.manufacturer, scan.model, scan.acquired) == ("Advacam", "MiniPIX", "2019-06-20T16:53:39.466428")
    assert scan.exposure.exposure_time_ms == 250.0
    (energy_bin,) = scan.bins
    assert (energy_bin.kind, energy_bin.low_kev) == ("counter", 4.961)
    assert scan.geometry is None


def test_the_description_brings_the_geometry(tmp_path):
    source = write_pixet(tmp_path / "scan.pmf", FRAMES, kind="i16")
    (tmp_path / "scan.toml").write_text(
        '[geometry]\nkind = "circular"\nsod_mm = 50\nsdd_mm = 100\npitch_mm = 0.055\narc_deg = 360\nrows = "top-down"\n'
    )
    reader = open_pixet(source)
    assert reader.scan.geometry.is_full_turn
    np.testing.assert_array_equal(reader.read_views(0, 3)[0], FRAMES[:, ::-1])
    (tmp_path / "scan.toml").write_text("[geometry]\ncenter_col = 3.0\n")
    with pytest.raises(ScanDescriptionError, match="the pixet files give no geometry that it could correct"):
        open_pixet(source)


def test_an_index_that_names_the_first_frame_too(tmp_path):
    path = write_pixet(tmp_path / "scan.pmf", FRAMES, kind="i16", layout="[X,C]")
    index = tmp_path / "scan.pmf.idx"
    index.write_bytes(bytes(24) + index.read_bytes())
    np.testing.assert_array_equal(open_pixet(path).read_views(0, 3)[0], FRAMES)


@pytest.mark.parametrize("how", [{"kind": "i16"}, {"kind": "u32", "layout": "[X,Y,C]"}])
def test_without_an_index_text_is_searched_in_pieces(tmp_path, monkeypatch, how):
    monkeypatch.setattr("ingest.readers.pixet_files._CHUNK", 64)
    path = write_pixet(tmp_path / "scan.pmf", FRAMES, index=False, **how)
    np.testing.assert_array_equal(open_pixet(path).read_views(0, 3)[0], FRAMES)


def test_empty_sparse_frames(tmp_path):
    frames = np.zeros((3, 5, 7), np.uint16)
    frames[1, 2, 3] = 4
    for binary in (False, True):
        path = write_pixet(tmp_path / f"{binary}.pmf", frames, kind="i16", layout="[X,Y,C]", binary=binary)
        np.testing.assert_array_equal(open_pixet(path).read_views(0, 3)[0], frames)


def test_a_bare_matrix_is_read_on_request(tmp_path):
    for number, form in enumerate(("%d", "%.3f")):
        path = tmp_path / f"frame{number}.txt"
        np.savetxt(path, FRAMES[0], fmt=form)
        reader = open_pixet(path)
        np.testing.assert_array_equal(reader.read_views(0, 1)[0, 0], FRAMES[0])
        assert reader.scan.pixel_type == ("uint32", "float32")[number]
    (tmp_path / "frame2.txt").write_text("1 2 3\n4 5\n")
    with pytest.raises(FrameFormatError, match=r"frame2\.txt is not a matrix of text: its rows have \[2, 3\] numbers"):
        open_pixet(tmp_path / "frame2.txt")
    (tmp_path / "frame.pbf").write_bytes(bytes(70))
    with pytest.raises(FrameFormatError, match=r"frame\.pbf has no description frame\.pbf\.dsc beside it"):
        open_pixet(tmp_path / "frame.pbf")


def described(folder, **how):
    path = write_pixet(folder / "scan.pmf", FRAMES, **({"kind": "i16"} | how))
    return path, folder / "scan.pmf.dsc", folder / "scan.pmf.idx"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (b"A000000003", b"A000000004", "announces 4 frames, but describes 3: it is truncated or malformed"),
        (b"A000000003", b"C000000003", "is not a Pixet description"),
        (b"[F2]", b"[F7]", "announces 3 frames, but describes 3"),
        (b"i16 matrix", b"i16 spiral", "frames of type 'i16 spiral' are not read, expected one of i16, u16"),
        (b"i16 matrix", b"float matrix", "frames of type 'float matrix' are not read"),
        (b"height=5", b"height=0", "0 rows x 7 columns are no frame"),
    ],
)
def test_a_bad_description_is_refused(tmp_path, old, new, sentence):
    path, dsc, _ = described(tmp_path)
    dsc.write_bytes(dsc.read_bytes().replace(old, new))
    with pytest.raises(FrameFormatError, match=sentence) as error:
        open_pixet(path)
    assert "scan.pmf.dsc" in str(error.value)


def test_frames_of_several_kinds_are_refused(tmp_path):
    path, dsc, _ = described(tmp_path)
    dsc.write_bytes(dsc.read_bytes().replace(b"width=7", b"width=6", 1))
    with pytest.raises(FrameFormatError, match="frames of several kinds: i16 matrix 6 5 and i16 matrix 7 5"):
        read_pixet_description(dsc)
    assert path.exists()


def test_an_index_that_does_not_fit_is_refused(tmp_path):
    path, _, idx = described(tmp_path, layout="[X,C]", binary=True)
    whole = idx.read_bytes()
    idx.write_bytes(whole[:24])
    with pytest.raises(FrameFormatError, match=r"scan\.pmf\.idx has 24 bytes, expected 48 for 3 frames"):
        PixetFile(path)
    idx.write_bytes(whole[24:] + whole[:24])
    with pytest.raises(FrameFormatError, match=r"scan\.pmf\.idx: the frames do not follow each other"):
        PixetFile(path)
    idx.write_bytes(whole[:32] + (10**6).to_bytes(8, "little") + whole[40:])
    with pytest.raises(FrameFormatError, match=r"scan\.pmf is truncated: its last frame begins at byte 1000000"):
        PixetFile(path)
    idx.unlink()
    with pytest.raises(FrameFormatError, match=r"3 sparse binary frames, which need scan\.pmf\.idx beside it"):
        PixetFile(path)


def test_pixels_that_do_not_fit_are_refused(tmp_path):
    path, _, idx = described(tmp_path, layout="[X,C]")
    idx.unlink()
    text = path.read_bytes()
    for content, sentence in (
        (text.replace(b"0\t", b"99\t", 1), "has a pixel outside of its 5 rows x 7 columns"),
        (text.replace(b"0\t", b"x\t", 1), "holds what is no number"),
        (b"1 40000\r\n#\r\n#\r\n", "holds a number that its type int16 does not"),
        (b"1 2 3\r\n#\r\n#\r\n", "3 numbers are no whole pixels"),
        (text[:-4], "is truncated: its last line does not end"),
        (text.replace(b"#", b"", 1), "is truncated: it has 2 frames up to byte"),
    ):
        path.write_bytes(content)
        with pytest.raises(FrameFormatError, match=rf"scan\.pmf.*{sentence}"):
            open_pixet(path).read_views(0, 3)


def test_a_binary_file_of_another_length_is_refused(tmp_path):
    path, _, _ = described(tmp_path, binary=True)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(FrameFormatError, match="goes on behind its frames: it has 214 bytes, its description says 210"):
        open_pixet(path)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["testImg1_ToT.txt", "testImg2_ToT.pbf"])
def test_real_frames_of_a_minipix(name):
    path = further_data_path("pixet", MINIPIX) / name
    assert detect(path) == "pixet"
    reader = open_pixet(path)
    expected = np.loadtxt(path) if path.suffix == ".txt" else np.fromfile(path, "<i2").reshape(256, 256)
    np.testing.assert_array_equal(reader.read_views(0, 1)[0, 0], expected)
    scan = reader.scan
    assert (scan.n_rows, scan.n_cols, scan.pixel_type, scan.model) == (256, 256, "uint16", "MiniPIX")
    assert (scan.bins[0].low_kev, scan.exposure.exposure_time_ms) == (4.981, 1000.0)
    assert scan.acquired.startswith("2024-11-15T11:33:1")


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["testImg1_ToA.txt", "testImg2_ToA.pbf"])
def test_real_times_of_arrival_are_no_counts(name):
    reader = open_pixet(further_data_path("pixet", MINIPIX) / name)
    with pytest.raises(FrameFormatError, match=rf"{name}: view 0, row 0, column 4 has the negative count -20\.3125"):
        reader.read_views(0, 1)
