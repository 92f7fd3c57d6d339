# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers import SourceOptions, load_reader, open_source
from tests.support.reader_samples_plain import GEOMETRY_TOML, counts, write_toml


@pytest.fixture
def open_array():
    readers = []

    def open_and_keep(source, **settings):
        readers.append(open_source(source, source_format="array", options=SourceOptions(settings=settings)))
        return readers[-1]

    yield open_and_keep
    for reader in readers:
        reader.close()


def test_a_single_npy_needs_no_description(tmp_path, open_array):
    frames = counts(5, 4, 6)
    np.save(tmp_path / "a.npy", frames)
    reader = open_array(tmp_path / "a.npy")
    assert (reader.scan.scan_id, reader.scan.geometry, reader.scan.content) == ("a", None, "counts")
    np.testing.assert_array_equal(reader.read_views(2, 4)[0], frames[2:4])


@pytest.mark.parametrize(
    ("stored", "pixel_type"),
    [(">u2", "uint16"), ("<i4", "uint32"), ("int64", "uint32"), ("u1", "uint8"), ("f8", "float32"), (">f4", "float32")],
)
def test_types_become_those_of_the_store(tmp_path, stored, pixel_type, open_array):
    frames = counts(3, 4, 6).astype(stored)
    np.save(tmp_path / "a.npy", frames)
    reader = open_array(tmp_path / "a.npy")
    assert reader.scan.pixel_type == pixel_type
    read = reader.read_views(0, 3)
    assert read.dtype == np.dtype(pixel_type)
    np.testing.assert_array_equal(read[0], frames)


def test_fortran_order_is_read_right(tmp_path, open_array):
    frames = counts(2, 3, 4, 6)
    np.save(tmp_path / "a.npy", np.asfortranarray(frames))
    np.testing.assert_array_equal(open_array(tmp_path / "a.npy").read_views(0, 3), frames)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_brings_all_its_frames(tmp_path, save, open_array):
    frames, flats = counts(2, 5, 4, 6), counts(2, 3, 4, 6, seed=4)
    bad = np.eye(4, 6) > 0
    save(tmp_path / "a.npz", projections=frames, flats=flats, bad_pixels=bad)
    reader = open_array(tmp_path / "a.npz")
    for view in (3, 0, 4, 1):
        np.testing.assert_array_equal(reader.read_views(view, view + 1)[:, 0], frames[:, view])
    np.testing.assert_array_equal(reader.read_flats(), flats)
    np.testing.assert_array_equal(reader.read_bad_pixels(), bad)
    assert reader.read_darks() is None
    reader.close()


def test_a_folder_with_one_npz_is_that_npz(tmp_path):
    np.savez(tmp_path / "a.npz", projections=counts(5, 4, 6))
    write_toml(tmp_path, GEOMETRY_TOML)
    reader = open_source(tmp_path, source_format="array")
    assert reader.scan.n_views == 5
    assert reader.scan.geometry.sod_mm == pytest.approx(100)
    reader.close()


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"frames": np.zeros((2, 3, 4))}, "unknown array 'frames'"),
        ({"flats": np.zeros((2, 3, 4))}, "no array 'projections'"),
        ({"projections": np.zeros((2, 3, 4)), "flats": np.zeros((2, 3, 5))}, "3 rows x 5 columns, expected 3 x 4"),
        ({"projections": np.zeros((2, 2, 3, 4)), "flats": np.zeros((2, 3, 4))}, "1 energy bins, expected 2"),
        ({"projections": np.zeros(5)}, "the shape"),
        ({"projections": np.zeros((2, 0, 4))}, "the shape"),
        ({"projections": np.zeros((2, 3, 4), complex)}, "complex128 are not read"),
        ({"projections": np.zeros((2, 3, 4), bool)}, "bool are not read"),
        ({"projections": np.array([{}])}, "pickled objects"),
    ],
)
def test_what_is_no_scan_is_refused(tmp_path, arrays, sentence, open_array):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(FrameFormatError, match=sentence) as error:
        open_array(tmp_path / "a.npz")
    assert "a.npz" in str(error.value)


def test_text_called_npy_is_refused(tmp_path, open_array):
    (tmp_path / "a.npy").write_text("not an array at all")
    with pytest.raises(FrameFormatError, match=r"a\.npy is not a NumPy array"):
        open_array(tmp_path / "a.npy")


def test_a_truncated_npy_names_file_and_offset(tmp_path, open_array):
    np.save(tmp_path / "a.npy", counts(5, 4, 6))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-1])
    sentence = rf"a\.npy is truncated: .* bytes 128 to {len(whole)}, but the file has {len(whole) - 1}"
    with pytest.raises(FrameFormatError, match=sentence):
        open_array(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [(np.nan, "view 3, row 1, column 2 is nan"), (np.inf, "is inf"), (-1.0, "has the negative count -1")],
)
def test_insane_values_name_their_place(tmp_path, value, sentence, open_array):
    frames = counts(5, 4, 6).astype(np.float32)
    frames[3, 1, 2] = value
    np.save(tmp_path / "a.npy", frames)
    reader = open_array(tmp_path / "a.npy")
    reader.read_views(0, 3)
    with pytest.raises(FrameFormatError, match=sentence) as error:
        reader.read_views(2, 5)
    assert "view 3" in str(error.value)


def test_line_integrals_may_be_negative(tmp_path, open_array):
    np.save(tmp_path / "a.npy", np.full((2, 3, 4), -0.5, np.float32))
    write_toml(tmp_path, "[scan]\ncontent = 'line_integrals'\n")
    assert open_array(tmp_path / "a.npy").read_views(0, 1).min() == -0.5


def test_counts_that_do_not_fit_are_refused(tmp_path, open_array):
    frames = counts(2, 3, 4).astype(np.int64)
    frames[1, 0, 0] = 2**32
    np.save(tmp_path / "a.npy", frames)
    with pytest.raises(FrameFormatError, match="view 1, row 0, column 0 is 4294967296, above 4294967295"):
        open_array(tmp_path / "a.npy").read_views(0, 2)


def test_flats_of_a_wider_type_widen_the_views(tmp_path, open_array):
    np.save(tmp_path / "p.npy", counts(2, 3, 4))
    np.save(tmp_path / "f.npy", np.full((1, 3, 4), 0.5))
    write_toml(tmp_path, "[files]\nprojections = 'p.npy'\nflats = 'f.npy'\n")
    reader = open_array(tmp_path)
    assert reader.scan.pixel_type == "float32"
    assert reader.read_flats()[0, 0, 0, 0] == 0.5
    np.testing.assert_array_equal(reader.read_views(0, 2)[0], counts(2, 3, 4))


def test_a_file_for_each_energy_bin(tmp_path, open_array):
    frames = counts(2, 5, 4, 6)
    for index in range(2):
        np.save(tmp_path / f"bin{index}.npy", frames[index])
    bins = "[[bins]]\nlow_kev = 20\nhigh_kev = 40\n[[bins]]\nlow_kev = 40\n"
    write_toml(tmp_path, "[files]\nprojections = 'bin{bin}.npy'\n" + bins)
    np.testing.assert_array_equal(open_array(tmp_path).read_views(0, 5), frames)
    np.save(tmp_path / "bin1.npy", frames[1, :4])
    with pytest.raises(FrameFormatError, match="energy bin 1 has 4 views"):
        open_array(tmp_path)


def test_angles_must_match_the_frames(tmp_path, open_array):
    np.save(tmp_path / "a.npy", counts(5, 4, 6))
    write_toml(tmp_path, GEOMETRY_TOML.replace("arc_deg = 360.0", "angles_deg = [0, 1]"))
    with pytest.raises(ScanDescriptionError, match="got 2 angles for 5 views"):
        open_array(tmp_path / "a.npy")


def test_one_view_can_stand_for_a_turn(tmp_path, open_array):
    frames = counts(4, 6)
    np.save(tmp_path / "a.npy", frames)
    write_toml(tmp_path, GEOMETRY_TOML)
    reader = open_array(tmp_path / "a.npy", repeat_views=8)
    assert reader.scan.n_views == reader.available_views() == 8
    assert reader.scan.geometry.is_full_turn
    np.testing.assert_array_equal(reader.read_views(3, 6)[0], np.stack([frames] * 3))
    np.save(tmp_path / "a.npy", counts(2, 4, 6))
    with pytest.raises(ScanDescriptionError, match="repeat_views 8 needs a source with one view, got 2"):
        open_array(tmp_path / "a.npy", repeat_views=8)


def test_a_growing_folder(tmp_path, open_array):
    frames = counts(4, 4, 6)
    write_toml(tmp_path, "[scan]\nn_views = 4\n" + GEOMETRY_TOML)
    np.save(tmp_path / "v_0001.npy", frames[0])
    reader = open_array(tmp_path)
    assert (reader.scan.n_views, reader.available_views()) == (4, 1)
    with pytest.raises(IncompleteScanError, match=r"v_0002\.npy: view 1 is missing, only the first 1 of 4"):
        reader.read_views(0, 2)
    np.save(tmp_path / "v_0003.npy", frames[2])
    assert reader.available_views() == 1
    np.save(tmp_path / "v_0002.npy", frames[1])
    assert reader.available_views() == 3
    np.save(tmp_path / "whole.tmp.npy", frames[3])
    half = (tmp_path / "whole.tmp.npy").read_bytes()
    (tmp_path / "whole.tmp.npy").unlink()
    (tmp_path / "v_0004.npy").write_bytes(half[:-5])
    assert reader.available_views() == 3
    (tmp_path / "v_0004.npy").write_bytes(half)
    assert reader.available_views() == 4
    np.testing.assert_array_equal(reader.read_views(0, 4)[0], frames)


def test_n_views_must_be_there_in_a_single_file(tmp_path, open_array):
    np.save(tmp_path / "a.npy", counts(3, 4, 6))
    with pytest.raises(IncompleteScanError, match="holds 3 views, expected 4"):
        open_array(tmp_path / "a.npy", n_views=4)
    with pytest.raises(IncompleteScanError, match=r"a\.npy holds 3 views, expected 4"):
        open_array(tmp_path, n_views=4)
    assert open_array(tmp_path, n_views=3).scan.n_views == 3
    write_toml(tmp_path, "[files]\nprojections = 'a*.npy'\n" + GEOMETRY_TOML)
    with pytest.raises(IncompleteScanError, match=r"a\.npy holds 3 views, expected 4"):
        open_array(tmp_path, n_views=4)


def test_files_of_several_views_are_no_series(tmp_path, open_array):
    for number in (1, 2):
        np.save(tmp_path / f"v_{number}.npy", counts(3, 4, 6))
    write_toml(tmp_path, GEOMETRY_TOML)
    with pytest.raises(FrameFormatError, match=r"v_1\.npy holds 3 frames, expected a file for each of 6 views"):
        open_array(tmp_path, n_views=6)


def test_looks(tmp_path):
    module = load_reader("array")
    assert not module.looks_like(tmp_path)
    np.save(tmp_path / "a.npy", np.zeros(3))
    assert module.looks_like(tmp_path)
    assert module.looks_like(tmp_path / "a.npy")


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(FrameFormatError, match="does not exist"):
        open_source(tmp_path / "none")
