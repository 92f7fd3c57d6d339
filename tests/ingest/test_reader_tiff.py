# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import tifffile

from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers import SourceOptions, load_reader, open_source
from tests.support.peers import real_data_path
from tests.support.reader_samples_plain import GEOMETRY_TOML, counts, write_toml


@pytest.fixture
def open_tiff():
    readers = []

    def open_and_keep(source, **settings):
        readers.append(open_source(source, source_format="tiff", options=SourceOptions(settings=settings)))
        return readers[-1]

    yield open_and_keep
    for reader in readers:
        reader.close()


def write_series(folder, frames, name="v_{:04d}.tif", first=1):
    for index, frame in enumerate(frames):
        tifffile.imwrite(folder / name.format(first + index), frame)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"compression": "lzw"}, {"tile": (16, 16)}])
def test_types_and_layouts(tmp_path, dtype, options, open_tiff):
    frames = (counts(3, 20, 18) % 200).astype(dtype)
    tifffile.imwrite(tmp_path / "s.tif", frames, photometric="minisblack", **options)
    reader = open_tiff(tmp_path / "s.tif")
    assert reader.scan.pixel_type == dtype
    np.testing.assert_array_equal(reader.read_views(0, 3)[0], frames[:, ::-1])
    reader.close()


def test_an_imagej_stack(tmp_path, open_tiff):
    frames = counts(4, 5, 6)
    tifffile.imwrite(tmp_path / "s.tif", frames, imagej=True)
    reader = open_tiff(tmp_path / "s.tif")
    np.testing.assert_array_equal(reader.read_views(1, 4)[0], frames[1:, ::-1])
    reader.close()


def test_natural_order(tmp_path, open_tiff):
    frames = counts(12, 4, 6)
    write_series(tmp_path, frames, "v{}.tif", first=0)
    np.testing.assert_array_equal(open_tiff(tmp_path).read_views(0, 12)[0], frames[:, ::-1])


def test_missing_numbers_are_named(tmp_path, open_tiff):
    write_series(tmp_path, counts(6, 4, 6))
    (tmp_path / "v_0003.tif").unlink()
    (tmp_path / "v_0005.tif").unlink()
    with pytest.raises(IncompleteScanError, match=r"2 of 6 views are missing: v_0003\.tif, v_0005\.tif;"):
        open_tiff(tmp_path)


def test_missing_numbers_that_are_described_leave_out_their_poses(tmp_path, open_tiff):
    frames = counts(6, 4, 6)
    write_series(tmp_path, frames)
    for number in (1, 4):
        (tmp_path / f"v_000{number}.tif").unlink()
    write_toml(tmp_path, "[files]\nmissing_views = [1, 4]\n" + GEOMETRY_TOML)
    reader = open_tiff(tmp_path)
    assert reader.scan.n_views == 4
    beta = np.rad2deg(reader.scan.geometry.source_angles_rad) % 360
    np.testing.assert_allclose(beta, [60, 120, 240, 300])
    np.testing.assert_array_equal(reader.read_views(0, 4)[0], frames[[1, 2, 4, 5], ::-1])
    assert "Views 0, 3 of the series do not exist." in reader.scan.notes


def test_a_view_described_as_missing_must_be(tmp_path, open_tiff):
    write_series(tmp_path, counts(4, 4, 6))
    write_toml(tmp_path, "[files]\nmissing_views = [2]\n")
    with pytest.raises(IncompleteScanError, match=r"do not agree with missing_views \[2\]"):
        open_tiff(tmp_path)


def test_two_series_in_one_folder_need_a_description(tmp_path, open_tiff):
    write_series(tmp_path, counts(4, 4, 6))
    write_series(tmp_path, counts(2, 4, 6), "flat_{}.tif")
    with pytest.raises(FrameFormatError, match=r"several series \('flat_1.tif', 'v_0001.tif'\)"):
        open_tiff(tmp_path)


def test_flats_and_darks_by_pattern(tmp_path, open_tiff):
    views, flats, darks = counts(4, 4, 6), counts(5, 4, 6, seed=2), counts(2, 4, 6, seed=3)
    for name, frames in {"proj": views, "ff": flats[:3]}.items():
        (tmp_path / name).mkdir()
        write_series(tmp_path / name, frames)
    tifffile.imwrite(tmp_path / "ff" / "v_0004.tif", flats[3:], photometric="minisblack")
    tifffile.imwrite(tmp_path / "darks.tif", darks, photometric="minisblack")
    tifffile.imwrite(tmp_path / "bad.tif", np.eye(4, 6, dtype=np.uint8))
    write_toml(tmp_path, "[files]\nprojections='proj/*.tif'\nflats='ff'\ndarks='darks.tif'\nbad_pixels='bad.tif'\n")
    reader = open_tiff(tmp_path)
    assert (reader.scan.flats.count, reader.scan.darks.count) == (5, 2)
    np.testing.assert_array_equal(reader.read_flats()[0], flats[:, ::-1])
    np.testing.assert_array_equal(reader.read_darks()[0], darks[:, ::-1])
    np.testing.assert_array_equal(reader.read_bad_pixels(), np.eye(4, 6)[::-1] > 0)


@pytest.mark.parametrize("key", ["projections", "flats"])
def test_a_pattern_without_files_is_refused(tmp_path, key, open_tiff):
    write_series(tmp_path, counts(4, 4, 6))
    write_toml(tmp_path, f"[files]\n{key} = 'x_*.tif'\n")
    with pytest.raises(IncompleteScanError, match=r"'x_\*\.tif' matches no file"):
        open_tiff(tmp_path)


def test_another_size_is_refused_by_name(tmp_path, open_tiff):
    write_series(tmp_path, counts(4, 4, 6))
    tifffile.imwrite(tmp_path / "v_0003.tif", counts(5, 6))
    sentence = r"v_0003\.tif has frames of 5 rows x 6 columns, expected 4 x 6 as in v_0001\.tif"
    with pytest.raises(FrameFormatError, match=sentence):
        open_tiff(tmp_path).read_views(0, 4)


def test_another_type_is_refused_by_name(tmp_path, open_tiff):
    write_series(tmp_path, counts(4, 4, 6))
    tifffile.imwrite(tmp_path / "v_0003.tif", counts(4, 6, dtype="uint32"))
    with pytest.raises(FrameFormatError, match=r"v_0003\.tif has pixels of type uint32, expected .?uint16"):
        open_tiff(tmp_path).read_views(0, 4)


def test_flats_of_another_size_are_refused(tmp_path, open_tiff):
    write_series(tmp_path, counts(4, 4, 6))
    (tmp_path / "f").mkdir()
    tifffile.imwrite(tmp_path / "f" / "1.tif", counts(4, 7))
    write_toml(tmp_path, "[files]\nflats = 'f'\n")
    with pytest.raises(FrameFormatError, match="4 rows x 7 columns, expected 4 x 6 as in the views"):
        open_tiff(tmp_path)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9, 0.99])
def test_a_stack_cut_anywhere_is_refused_with_the_offset(tmp_path, share, open_tiff):
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, counts(8, 16, 16), photometric="minisblack")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(FrameFormatError, match=r"s\.tif is (truncated: .* lies at bytes \d+ to \d+|not a TIFF)"):
        open_tiff(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "begins with nothing"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "begins with 89 50 4e 47"),
        (b"II\x2b\x01" + bytes(20), "its version is 299"),
        (b"II\x2a\x00" + bytes(20), "without pages"),
        (b"II\x2a\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00", "run in a circle at byte 8"),
    ],
)
def test_what_is_no_tiff_is_refused(tmp_path, content, sentence, open_tiff):
    (tmp_path / "s.tif").write_bytes(content)
    with pytest.raises(FrameFormatError, match=sentence):
        open_tiff(tmp_path / "s.tif")


def test_colour_is_refused(tmp_path, open_tiff):
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((4, 6, 3), np.uint8), photometric="rgb")
    with pytest.raises(FrameFormatError, match="expected one grey value a pixel"):
        open_tiff(tmp_path / "s.tif")


def test_damaged_compression_is_refused_by_page(tmp_path, open_tiff):
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, counts(2, 32, 32), compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[1].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = bytes(40)
    path.write_bytes(content)
    reader = open_tiff(path)
    reader.read_views(0, 1)
    with pytest.raises(FrameFormatError, match=r"s\.tif: page 1 cannot be decoded"):
        reader.read_views(1, 2)
    reader.close()


def test_pages_of_several_frames_are_no_series(tmp_path, open_tiff):
    write_series(tmp_path, counts(3, 4, 6))
    tifffile.imwrite(tmp_path / "v_0002.tif", counts(2, 4, 6), photometric="minisblack")
    with pytest.raises(FrameFormatError, match=r"v_0002\.tif holds 2 frames"):
        open_tiff(tmp_path).read_views(0, 3)


def test_a_folder_without_pictures(tmp_path, open_tiff):
    with pytest.raises(IncompleteScanError, match=r"holds no \.tif"):
        open_tiff(tmp_path)


def test_a_folder_that_the_scanner_still_fills(tmp_path, open_tiff):
    frames = counts(3, 4, 6)
    write_toml(tmp_path, "[scan]\nn_views = 3\n" + GEOMETRY_TOML)
    write_series(tmp_path, frames[:1])
    reader = open_tiff(tmp_path)
    assert (reader.scan.n_views, reader.available_views()) == (3, 1)
    tifffile.imwrite(tmp_path / "v_0002.tif", frames[1])
    whole = (tmp_path / "v_0002.tif").read_bytes()
    (tmp_path / "v_0002.tif").write_bytes(whole[:-8])
    assert reader.available_views() == 1
    (tmp_path / "v_0002.tif").write_bytes(whole)
    assert reader.available_views() == 2
    tifffile.imwrite(tmp_path / "v_0003.tif", frames[2])
    assert reader.available_views() == 3
    np.testing.assert_array_equal(reader.read_views(0, 3)[0], frames[:, ::-1])


def test_more_files_than_n_views(tmp_path, open_tiff):
    write_series(tmp_path, counts(3, 4, 6))
    with pytest.raises(FrameFormatError, match="holds 3 files of views, but n_views says 2"):
        open_tiff(tmp_path, n_views=2)


def test_a_description_with_a_mistake_is_refused_before_the_frames(tmp_path, open_tiff):
    write_series(tmp_path, counts(3, 4, 6))
    write_toml(tmp_path, GEOMETRY_TOML + "colour = 1\n")
    with pytest.raises(ScanDescriptionError, match="unknown key 'colour'"):
        open_tiff(tmp_path)


def test_looks(tmp_path):
    module = load_reader("tiff")
    (tmp_path / "a.tif").write_text("no")
    assert not module.looks_like(tmp_path)
    tifffile.imwrite(tmp_path / "b.tif", counts(4, 6))
    assert module.looks_like(tmp_path)
    assert module.looks_like(tmp_path / "b.tif")


@pytest.mark.real_data
def test_a_real_slice_of_another_program_is_read():
    path = real_data_path("spectral_pcct") / "bin1_slice0194.tif"
    reader = open_source(path, source_format="tiff", options=SourceOptions(scan_id="mouse"))
    assert (reader.scan.n_views, reader.scan.n_rows, reader.scan.n_cols) == (1, 690, 690)
    assert reader.scan.pixel_type == "float32"
    reader.close()


def test_a_damaged_text_in_a_picture_is_refused_by_name(tmp_path, open_tiff):
    """tifffile stumbles over what is no JSON with an error of its own."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(4, 6))
    path.write_bytes(path.read_bytes().replace(b'{"shape": [4, 6]}', b'{"shape": [4, \x02]}'))
    write_toml(tmp_path, GEOMETRY_TOML)
    with pytest.raises(FrameFormatError, match=r"a\.tif is not a readable TIFF: invalid image description"):
        open_tiff(path)
