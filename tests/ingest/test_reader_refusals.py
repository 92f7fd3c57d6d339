# SPDX-License-Identifier: Apache-2.0
"""Refusals of readers that no sample of theirs brings about: what cannot be opened, and headers that contradict."""

import io
import math
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from ingest.errors import FrameFormatError, ScanDescriptionError
from ingest.readers import load_reader
from ingest.readers.array_frames import ArrayFrames, parse_axes
from ingest.readers.dicom_map import Quantity, TagMap, read_map, shipped_maps
from ingest.readers.elekta import HisFile
from ingest.readers.image_stacks import read_stack_header
from ingest.readers.npy_files import NpyFile, NpzMember, npz_keys, open_mask
from ingest.readers.ole_images import OleImages
from ingest.readers.pixet_files import PixetFile, read_pixet_description
from ingest.readers.skyscan_log import read_skyscan_log
from ingest.readers.tiff_pages import TiffPages
from ingest.readers.toolkit_files import open_cil_nexus, write_cil_nexus
from ingest.readers.varian_frames import ObiFile, XimFile
from ingest.readers.xml_values import XmlValues
from ingest.readers.xtekct import read_xtekct
from reconstruction.exchange import cil
from tests.support.orbits import circle, degrees

FRAMES = (
    HisFile,
    read_stack_header,
    NpyFile,
    OleImages,
    PixetFile,
    read_pixet_description,
    TiffPages,
    ObiFile,
    XimFile,
)
DESCRIPTIONS = (read_map, read_skyscan_log, XmlValues.read, read_xtekct)


@pytest.mark.parametrize("read", [*FRAMES, *DESCRIPTIONS], ids=lambda read: read.__qualname__)
def test_a_file_that_cannot_be_opened_is_named_with_the_reason(read, tmp_path):
    error = FrameFormatError if read in FRAMES else ScanDescriptionError
    with pytest.raises(error, match=r"gone\.dat (cannot be read: No such file|is not a readable TIFF: .*No such file)"):
        read(tmp_path / "gone.dat")


def test_archives_that_are_not_there_are_refused(tmp_path):
    for ask in (npz_keys, lambda path: NpzMember(path, "projections")):
        with pytest.raises(FrameFormatError, match=r"gone\.npz is truncated or not a \.npz file: .*No such file"):
            ask(tmp_path / "gone.npz")


def meta(**changes):
    fields = {
        "NDims": "3", "DimSize": "4 3 2", "ElementType": "MET_USHORT", "ElementSpacing": "1 1 1",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "HeaderSize": "0", "ElementDataFile": "pixels.raw",
    } | changes  # fmt: skip
    return "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None).encode()


def nifti(axes=3, code=4, offset=352.0):
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, axes, 4, 3, 2, 2, 1, 1, 1)
    struct.pack_into("<h", head, 70, code)
    struct.pack_into("<8f", head, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<f", head, 108, offset)
    head[344:348] = b"n+1\0"
    return bytes(head)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("s.mhd", meta(DimSize="4 3 2 2"), "has 4 axes, expected columns, rows and views"),
        ("s.mhd", meta(DimSize=None), "lacks the field DimSize"),
        ("s.mhd", meta(ElementSpacing="0 1 1"), r"has the spacing \(0.0, 1.0, 1.0\), expected positive lengths"),
        ("s.mhd", meta(HeaderSize="-8"), "has the HeaderSize -8, expected 0 or more"),
        ("s.mhd", meta(DimSize="nan 3 2"), "DimSize should hold finite numbers, got 'nan 3 2'"),
        ("s.mhd", meta(HeaderSize="inf"), "HeaderSize should hold finite numbers, got 'inf'"),
        ("s.mhd", meta(HeaderSize=""), "HeaderSize should hold finite numbers, got ''"),
        ("s.mhd", meta(ElementType="MET_NONE"), "type MET_NONE x 1, expected one number each, of MET_"),
        ("s.mhd", meta(ElementDataFile="gone.raw"), r"should be in gone\.raw, which is not there: put both into one"),
        ("s.mhd", meta(TransformMatrix="0 1 0 1 0 0 0 0 1"), "is turned .* along its axes: write it unturned"),
        ("s.nii", bytes(400), r"not a NIfTI-1 file with its pixels in it: write header and pixels into one \.nii"),
        ("s.nii", nifti(offset=math.nan), "has its pixels at byte nan, expected 0 or more"),
        ("s.nii", nifti(offset=-1.0), "has its pixels at byte -1, expected 0 or more"),
        ("s.nii", nifti(axes=4), "has 4 axes, expected columns, rows and views"),
        ("s.nii", nifti(code=1792), "has pixels of NIfTI type 1792, which is not read: write one of 2, 4, 8"),
    ],
)
def test_a_header_of_a_stack_that_contradicts_is_refused(name, content, said, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    (tmp_path / "pixels.raw").write_bytes(bytes(48))
    with pytest.raises(FrameFormatError, match=said):
        read_stack_header(path)


def npy_bytes(array, *, version=(1, 0)):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


def archive(path, content, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as files:
        files.writestr("frames.npy", content)
    return path


def test_arrays_that_cannot_be_read_frame_by_frame_are_refused(tmp_path):
    frames = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    whole = npy_bytes(frames)
    turned = archive(tmp_path / "turned.npz", npy_bytes(np.asfortranarray(frames)))
    with pytest.raises(FrameFormatError, match="'frames' is compressed in Fortran order, expected C order"):
        NpzMember(turned, "frames")
    short = archive(tmp_path / "short.npz", whole[:-6])
    with pytest.raises(FrameFormatError, match="'frames' is truncated: 170 bytes, expected 176"):
        NpzMember(short, "frames")
    with pytest.raises(FrameFormatError, match=r"array 'other' cannot be read: .*other\.npy"):
        NpzMember(archive(tmp_path / "plain.npz", whole), "other")
    later = tmp_path / "later.npy"
    later.write_bytes(npy_bytes(frames, version=(3, 0)))
    with pytest.raises(FrameFormatError, match=r"is a \.npy of version 3\.0, expected 1\.0 or 2\.0"):
        NpyFile(later)


def test_compressed_frames_that_are_damaged_are_refused_by_number(tmp_path):
    frames = np.random.default_rng(1).integers(0, 60000, (4, 40, 50)).astype(np.uint16)
    path = archive(tmp_path / "damaged.npz", npy_bytes(frames))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 600] = bytes(600)
    path.write_bytes(content)
    member = NpzMember(path, "frames")
    with pytest.raises(FrameFormatError, match=r"frame \d is damaged: "):
        [member.read(index) for index in range(4)]
    member.close()


def test_a_mask_of_another_size_is_refused(tmp_path):
    path = tmp_path / "mask.npy"
    np.save(path, np.zeros((3, 5), dtype=np.uint8))
    with pytest.raises(FrameFormatError, match="need one frame of 3 rows x 4 columns, got 1 of 3 x 5"):
        open_mask(path, (3, 4), NpyFile)


def test_axes_that_do_not_fit_the_array_are_refused():
    with pytest.raises(FrameFormatError, match="has 5 axes, but its layout is 'view, row, col'"):
        parse_axes("view, row, col", 5, "a.h5: /frames")
    with pytest.raises(FrameFormatError, match=r"need the axes \(view, row, col\), got the shape \(2, 0, 4\)"):
        ArrayFrames(Path("a.h5"), np.zeros((2, 0, 4)), ("view", "row", "col"))


def test_an_unknown_format_is_refused_with_those_that_exist():
    with pytest.raises(FrameFormatError, match=r"unknown source format 'raw': expected one of .*merlin"):
        load_reader("raw")


def cil_file(path):
    """A file of CIL's writer, open."""
    cone = cil.to_cil(circle(degrees(0, 360, 90), n_rows=3, n_cols=4))
    return write_cil_nexus(path, cone, 1, np.dtype(np.float32))


def other_axes(file):
    file["entry1/tomo_entry/data/data"].attrs["dim1"] = "depth"


def no_source(file):
    del file["entry1/tomo_entry/config/source/position"]


def no_detector(file):
    del file["entry1/tomo_entry/config/detector/position"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (other_axes, "has the axes angle, depth, horizontal, expected angle, vertical and horizontal"),
        (no_source, "is not of a cone beam, or of an older CIL: write it with the CIL of today"),
        (no_detector, "lacks the data set entry1/tomo_entry/config/detector/position"),
    ],
)
def test_a_cil_file_that_lacks_something_is_refused(spoil, said, tmp_path):
    path = tmp_path / "scan.nxs"
    with cil_file(path) as file:
        spoil(file)
    with pytest.raises(FrameFormatError, match=said):
        open_cil_nexus(path, 0)


@pytest.mark.parametrize(
    ("quantity", "value", "said"),
    [
        (Quantity("0018,1110"), "far", r"sdd_mm \(0018,1110\) is not a number"),
        (Quantity("0018,1110"), ["1.0", "2.0"], "sdd_mm should be one number, got 2: give an index in the map"),
        (Quantity("0018,1110", index=3), ["1.0", "2.0"], "sdd_mm has 2 values, the map asks for 3"),
        (Quantity("0018,1110", scale=math.inf), "2.0", r"sdd_mm \(0018,1110\) is not a finite number"),
    ],
)
def test_a_dicom_quantity_that_is_no_number_is_refused(quantity, value, said):
    made = TagMap(Path("map.toml"), shipped_maps()[0].section, {"sdd_mm": quantity})
    dataset = Dataset()
    dataset.add(DataElement(0x00181110, "LO", value))
    with pytest.raises(FrameFormatError, match=said):
        made.number("sdd_mm", dataset, 0, "a.dcm")
