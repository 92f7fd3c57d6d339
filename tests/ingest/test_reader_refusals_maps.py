# SPDX-License-Identifier: Apache-2.0
"""Refusals of DICOM projections, of sets of other programs, and of descriptions that no other test brings about."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from pydicom import dcmread
from scipy.io import loadmat, savemat

from ingest.angles import read_angles_deg
from ingest.config import load_description
from ingest.described_geometry import build_geometry
from ingest.errors import FrameFormatError, ScanDescriptionError
from ingest.readers import SourceOptions, open_source
from ingest.readers.dicom_map import read_map
from tests.support.reader_samples_dicom import (
    OWN_MAP,
    add,
    counts,
    ct_pd,
    dicom_file,
    enhanced_xa,
    own_map,
)
from tests.support.reader_samples_exchange import cil_nexus, rtk_counts, tigre_matlab


def refused(source, source_format, error, said, **settings):
    with pytest.raises(error, match=said) as caught:
        open_source(source, source_format=source_format, options=SourceOptions(settings=settings)).close()
    assert "\n" not in str(caught.value)
    assert str(source) in str(caught.value)


# DICOM


def respell(path, change):
    """Change a DICOM file in place."""
    ds = dcmread(path)
    change(ds)
    ds.save_as(path)


def test_pixels_that_cannot_be_decoded_are_refused(tmp_path):
    source = own_map(tmp_path).source
    respell(tmp_path / "p20_1", lambda ds: setattr(ds, "PixelData", ds.PixelData[:-6]))
    reader = open_source(source, source_format="dicom", options=SourceOptions())
    said = r"p20_1: frame 0 cannot be decoded \(.*\): the file is cut short, or compressed in a way .* uncompressed"
    with pytest.raises(FrameFormatError, match=said):
        reader.read_views(1, 2)
    reader.close()


def test_pixels_of_several_colours_are_refused(tmp_path):
    source = own_map(tmp_path).source

    def colour(ds):
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.PixelData = counts(4, 6, 3).tobytes()

    respell(tmp_path / "p20_1", colour)
    reader = open_source(source, source_format="dicom", options=SourceOptions())
    said = r"p20_1: frame 0 has the shape \(4, 6, 3\), expected \(4, 6\) of one grey value a pixel"
    with pytest.raises(FrameFormatError, match=said):
        reader.read_views(1, 2)
    reader.close()


def other_angle(ds):
    ds.DetectorPrimaryAngle = 11.0


def nearer(ds):
    ds.DistanceSourceToDetector = 50.0


def two_slopes(ds):
    ds.RescaleSlope = [1.0, 2.0]


def no_pixels(ds):
    del ds.Rows


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_angle, "energy bins have different poses: upload them as scans of their own"),
        (nearer, r"p20_1: the detector must lie behind the axis: .*; correct the tag map or the elements it names"),
        (two_slopes, "p20_1: rescale slope and intercept should be numbers: "),
        (no_pixels, r"p20_1 holds no pixels \(.*\): take it out of the folder"),
    ],
)
def test_elements_that_contradict_are_refused(change, said, tmp_path):
    source = own_map(tmp_path).source
    respell(tmp_path / "p20_1", change)
    refused(source, "dicom", FrameFormatError, said)


@pytest.mark.parametrize(
    ("add_to_map", "said"),
    [
        ("center_col = { value = 1 }\noffset_u_mm = { value = 1 }\n", "gives offset_u_mm and center_col: keep one"),
        ("elevation_deg = { value = 4 }\n", "the source is inclined by 4 degrees .*: give poses by a map of the model"),
    ],
)
def test_a_map_that_says_too_much_is_refused(add_to_map, said, tmp_path):
    source = own_map(tmp_path).source
    (tmp_path / "own.toml").write_text(OWN_MAP + add_to_map)
    refused(source, "dicom", FrameFormatError, f"p20_0: .*{said}")


def test_an_inclined_arm_of_an_enhanced_xa_is_refused(tmp_path):
    source = enhanced_xa(tmp_path).source

    def incline(ds):
        item = ds.PerFrameFunctionalGroupsSequence[2]
        item.IsocenterReferenceSystemSequence[0].PositionerIsocenterSecondaryAngle = 12.5

    respell(source, incline)
    refused(source, "dicom", FrameFormatError, "the source is inclined by 12.5 degrees .*, expected 0: give poses by a")


def test_a_value_of_a_map_is_a_number_or_a_word(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(OWN_MAP.replace("value = 1.25", "value = [1, 2]"))
    with pytest.raises(
        ScanDescriptionError, match=r"m\.toml: .*center_row: value must be a number or a word, got \[1, 2"
    ):
        read_map(path)


def test_a_central_element_without_its_row_is_refused(tmp_path):
    source = ct_pd(tmp_path).source
    for path in tmp_path.glob("*.dcm"):
        respell(path, lambda ds: ds.add_new((0x7031, 0x1033), "FL", 3.5))
    refused(source, "dicom", FrameFormatError, "central_element has 1 numbers, expected a column and a row: name anoth")


@pytest.mark.parametrize(
    ("u_step", "said"),
    [
        ([0.0, 0.0, 0.0], "view 0 has its source in the plane of the panel, or no pixel pitch; correct the tag map"),
        ([0.0, 0.9], r"frame 0 has 2 numbers of u_step_mm, the element \(0029,1012\), expected 3"),
        (None, r"frame 0 has 0 numbers of u_step_mm, the element \(0029,1012\), expected 3"),
    ],
)
def test_poses_by_a_map_that_are_none_are_refused(u_step, said, tmp_path):
    vectors = {
        "source_mm": [100.0, 1, 2],
        "detector_center_mm": [-60.0, 3, 4],
        "u_step_mm": u_step,
        "v_step_mm": [0, 0, 1.1],
    }
    tags = "".join(f'{name} = {{ tag = "0029,10{10 + i}", vr = "FD" }}\n' for i, name in enumerate(vectors))
    (tmp_path / "m.toml").write_text('[map]\nname = "p"\nmodel = "poses"\n[tags]\n' + tags)
    path = tmp_path / "a.dcm"
    ds = dicom_file(path, np.ones((4, 6)))
    parts = enumerate(vectors.values())
    add(ds, {(0x0029, int(f"10{10 + i}", 16)): ("FD", part) for i, part in parts if part is not None})
    ds.save_as(path)
    refused(path, "dicom", FrameFormatError, said, map=str(tmp_path / "m.toml"))


# Sets of other programs


def test_patterns_that_name_other_numbers_of_files_are_refused(tmp_path):
    source = rtk_counts(tmp_path).source
    toml = source / "scan.toml"
    text = toml.read_text()
    named = next(line for line in text.splitlines() if line.startswith("projections"))
    toml.write_text(text.replace(named, 'projections = "projections-*.mha"'))
    said = r"projections 'projections-\*\.mha' names 2 files, expected 1, or put \{bin\} in it"
    refused(source, "exchange", ScanDescriptionError, said)
    toml.write_text(text.replace(named, 'projections = "*-{bin}.mha"'))
    (source / "other-1.mha").write_bytes((source / "projections-1.mha").read_bytes())
    said = r"projections '\*-\{bin\}\.mha' names \d files, expected 2, one for each of the \[\[bins\]\]"
    refused(source, "exchange", ScanDescriptionError, said)


def test_energy_bins_of_other_sizes_are_refused(tmp_path):
    source = tigre_matlab(tmp_path).source
    second = source / "projections-1.mat"
    values = loadmat(second)
    kept = {name: values[name] for name in ("geo", "angles", "proj")}
    savemat(second, kept | {"proj": kept["proj"].astype(np.float64)})
    said = (
        r"energy bins differ, 5 views of \(4, 6\) float64 and 5 of \(4, 6\) float32: upload them as scans of their own"
    )
    refused(source, "exchange", FrameFormatError, said)
    del kept["proj"]
    savemat(second, kept)
    said = r"projections-1\.mat holds TIGRE's geometry, but no projections: save them in it as 'proj'"
    refused(source, "exchange", FrameFormatError, said)


def drop_pixel_size(file):
    del file["entry1/tomo_entry/data/data"].attrs["pixel_size_h"]


def word_as_pixel_size(file):
    file["entry1/tomo_entry/data/data"].attrs["pixel_size_v"] = "small"


def word_as_scale(file):
    file["entry1/tomo_entry/data/data"].attrs["scale"] = "small"


def words_as_angles(file):
    del file["entry1/tomo_entry/config/angles"]
    file["entry1/tomo_entry/config/angles"] = "word"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            drop_pixel_size,
            "lacks the attribute pixel_size_h of entry1/tomo_entry/data/data: write it with the CIL of t",
        ),
        (word_as_pixel_size, "the attribute pixel_size_v should be a number: .*small"),
        (word_as_scale, "the attribute scale should be a number: .*small"),
        (words_as_angles, "entry1/tomo_entry/config/angles should hold numbers: "),
    ],
)
def test_a_cil_file_with_other_values_is_refused(spoil, said, tmp_path):
    source = cil_nexus(tmp_path).source
    with h5py.File(source, "a") as file:
        spoil(file)
    refused(source, "exchange", FrameFormatError, said)


def test_a_cil_file_that_is_damaged_inside_is_refused(tmp_path):
    source = cil_nexus(tmp_path).source
    name = "entry1/tomo_entry/config/angles"
    with h5py.File(source, "a") as file:
        angles = file[name][()]
        del file[name]
        packed = file.create_dataset(name, data=angles, chunks=angles.shape, compression="gzip")
        file.flush()
        place = packed.id.get_chunk_info(0)
    content = bytearray(source.read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    source.write_bytes(content)
    refused(source, "exchange", FrameFormatError, r"the HDF5 file is cut short or damaged \(")


# Descriptions


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("camera_positions = 3\n", r"must be a list of tables \[\[camera_positions\]\], got 3"),
        ("bins = 'two'\n", r"bins must be a list of tables \[\[bins\]\], got 'two'"),
        ("[geometry]\nkind = 'circular'\nangles_deg = 3\n", "angles_deg must be a list, got 3"),
        ("[geometry]\nkind = 'poses'\n", "of kind 'poses' needs poses_file, the name of a file of 12 numbers a view"),
        (
            "[geometry]\nkind = 'poses'\nposes_file = 'few.npy'\n",
            r"few\.npy: poses need 12 numbers a view .*, got an array of shape \(2, 6\)",
        ),
        ("[geometry]\nkind = 'poses'\nposes_file = 'flat.npy'\n", r"flat\.npy: view 0 has its source in the plane of"),
    ],
)
def test_a_description_that_cannot_be_followed_is_refused(text, said, tmp_path):
    (tmp_path / "scan.toml").write_text(text)
    np.save(tmp_path / "few.npy", np.ones((2, 6)))
    np.save(tmp_path / "flat.npy", np.ones((2, 12)))
    with pytest.raises(ScanDescriptionError, match=said) as caught:
        build_geometry(load_description(tmp_path, SourceOptions()), 2, 4, 6)
    assert str(tmp_path) in str(caught.value)


def test_angles_of_three_axes_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3, 4)))
    said = r"a\.npy: angles need one column, or view numbers and angles, got an array of shape \(2, 3, 4\)"
    with pytest.raises(ScanDescriptionError, match=said):
        read_angles_deg(tmp_path / "a.npy")
