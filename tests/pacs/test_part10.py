# SPDX-License-Identifier: Apache-2.0
"""Received objects are described as pydicom reads them, and hostile ones are refused in one sentence."""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import tarfile
import zlib

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from pacs.attributes import ALL_KEYWORDS
from pacs.encode import SeriesEncoder
from pacs.errors import ConformanceError
from pacs.part10 import HeaderLimits, describe_dataset, describe_instance, file_meta_bytes, read_file_meta
from tests.support.peers import real_data_path
from tests.support.series import PATIENT, series_spec

SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}


def _dataset():
    spec = series_spec(study=PATIENT)
    encoded = SeriesEncoder(spec).encode_slice(0, np.full((5, 6), 0.04, np.float32))
    ds = pydicom.dcmread(io.BytesIO(encoded.part10_bytes))
    ds.NumberOfFrames = 1
    inner, outer = Dataset(), Dataset()
    inner.CodeValue, inner.PatientID, inner.SOPInstanceUID = "X", "not this one", "1.2.3"
    outer.ConceptNameCodeSequence = Sequence([inner, Dataset()])
    # Stands before the keys of the image, so that a walk that loses its way is noticed.
    ds.RequestAttributesSequence = ds.AnatomicRegionSequence = Sequence([outer, Dataset(), outer])
    return ds


def _as_text(value):
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)


def _written(ds, syntax=ExplicitVRLittleEndian, *, undefined=False):
    if undefined:
        for element in ds.iterall():
            if element.VR == "SQ":
                element.is_undefined_length = True
                for item in element.value:
                    item.is_undefined_length_sequence_item = True
    ds = pydicom.Dataset(ds)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", "1.2")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2")
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("undefined", [False, True], ids=["lengths", "delimiters"])
@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
def test_every_transfer_syntax_is_described_alike(syntax, undefined):
    ds = _dataset()
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
    part10_bytes = _written(ds, syntax, undefined=undefined)
    header = describe_instance(part10_bytes)
    for keyword in ALL_KEYWORDS:
        assert header.attributes.get(keyword, "") == _as_text(ds.get(keyword)), keyword
    assert (header.sop_instance_uid, header.patient_id) == (ds.SOPInstanceUID, "P-17")
    assert header.attributes["PatientName"] == "Müller^Jörg"
    assert header.transfer_syntax_uid == syntax
    start = read_file_meta(part10_bytes).dataset_offset
    assert header.dataset_sha256 == hashlib.sha256(part10_bytes[start:]).hexdigest()
    if syntax == DeflatedExplicitVRLittleEndian:
        assert header.pixel_offset == -1
    else:
        assert part10_bytes[header.pixel_offset :] == ds.PixelData


def test_a_data_set_alone_gives_the_same_header_and_its_own_offsets():
    part10_bytes = _written(_dataset())
    start = read_file_meta(part10_bytes).dataset_offset
    of_file, of_dataset = (
        describe_instance(part10_bytes),
        describe_dataset(part10_bytes[start:], ExplicitVRLittleEndian),
    )
    assert of_dataset.pixel_offset == of_file.pixel_offset - start
    assert of_dataset.dataset_sha256 == of_file.dataset_sha256
    assert of_dataset.attributes == of_file.attributes


def test_file_meta_written_is_read_by_pydicom():
    part10_bytes = _written(_dataset())
    start = read_file_meta(part10_bytes).dataset_offset
    ds = pydicom.dcmread(
        io.BytesIO(file_meta_bytes(CTImageStorage, "1.2.3", ExplicitVRLittleEndian) + part10_bytes[start:])
    )
    assert ds.file_meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert ds.PatientID == "P-17"


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Buc^Jérôme"),
        ("ISO_IR 144", "Жуков^Фёдор"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
)
def test_character_sets_become_unicode(charset, name):
    ds = _dataset()
    ds.SpecificCharacterSet = charset
    ds.PatientName = name
    assert describe_instance(_written(ds)).attributes["PatientName"] == name


def test_an_unknown_character_set_does_not_keep_an_instance_out():
    ds = _dataset()
    part10_bytes = _written(ds).replace(b"ISO_IR 192", b"KLINGON 12")
    assert describe_instance(part10_bytes).attributes["PatientID"] == "P-17"


def test_encapsulated_pixels_begin_behind_their_header():
    ds = _dataset()
    ds.PixelData = pydicom.encaps.encapsulate([b"\1\2\3\4"])
    ds["PixelData"].is_undefined_length = True
    part10_bytes = _written(ds, JPEG2000Lossless)
    assert part10_bytes[describe_instance(part10_bytes).pixel_offset :][:4] == b"\xfe\xff\x00\xe0"


def test_fragments_that_do_not_end_are_refused():
    ds = _dataset()
    ds.PixelData = pydicom.encaps.encapsulate([b"\1\2\3\4"])
    ds["PixelData"].is_undefined_length = True
    with pytest.raises(ConformanceError, match="is not a readable DICOM data set"):
        describe_instance(_written(ds, JPEG2000Lossless)[:-8])


def test_an_instance_without_pixels_has_no_offset():
    ds = _dataset()
    del ds.PixelData
    assert describe_instance(_written(ds)).pixel_offset == -1


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 200, b"\0" * 128 + b"DICX"])
def test_what_is_no_dicom_file_is_refused(content):
    with pytest.raises(ConformanceError, match="mail is not a DICOM file: it has no 'DICM'"):
        describe_instance(content, name="mail")


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("uid", ["", "../../x", "1.2.A"])
def test_missing_and_crooked_uids_are_refused(keyword, uid):
    ds = _dataset()
    part10_bytes = _written(ds)
    old = ds[keyword].value.encode()
    old += b"\0" * (len(old) % 2)
    new = uid.encode().ljust(len(old), b"\0")
    start = read_file_meta(part10_bytes).dataset_offset
    with pytest.raises(ConformanceError, match=f"{keyword} of the file must be a UID"):
        describe_instance(part10_bytes[:start] + part10_bytes[start:].replace(old, new))


@pytest.fixture(scope="module")
def philips():
    """Members of the archive of a real CT series by name, one in seven."""
    with tarfile.open(real_data_path("ct_philips_phantom") / "S2010_28slices.tar.xz") as archive:
        members = [member for member in archive if member.isfile()]
        chosen = [member for member in members[::7] if not member.name.endswith("DIRFILE")]
        chosen += [member for member in members if member.name.endswith("DIRFILE")]
        return {member.name: archive.extractfile(member).read() for member in chosen}


@pytest.mark.real_data
def test_a_directory_of_a_medium_is_refused_politely(philips):
    (name,) = [name for name in philips if name.endswith("DIRFILE")]
    with pytest.raises(ConformanceError, match="is a DICOMDIR, the table of contents of a medium"):
        describe_instance(philips[name], name=name)


@pytest.mark.real_data
def test_real_files_are_described_as_pydicom_reads_them(philips):
    contents = [content for name, content in philips.items() if not name.endswith("DIRFILE")]
    assert len(contents) >= 3
    for content in contents:
        header, ds = describe_instance(content), pydicom.dcmread(io.BytesIO(content))
        assert (header.sop_instance_uid, header.study_uid) == (ds.SOPInstanceUID, ds.StudyInstanceUID)
        for keyword in ("Rows", "Modality", "PatientName", "InstanceNumber", "SeriesDescription"):
            assert header.attributes.get(keyword, "") == _as_text(ds.get(keyword))
        at, length = header.pixel_offset, len(ds.PixelData)
        assert content[at : at + length] == ds.PixelData


def test_a_deflate_bomb_is_refused_without_being_inflated():
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join([compressor.compress(bytes(1 << 20)) for _ in range(8)]) + compressor.flush()
    with pytest.raises(ConformanceError, match="inflates to more than 1000000 bytes"):
        describe_dataset(bomb, DeflatedExplicitVRLittleEndian, limits=HeaderLimits(inflated_bytes=1_000_000))
    with pytest.raises(ConformanceError, match="ends too early"):
        describe_dataset(bomb[:-20], DeflatedExplicitVRLittleEndian)
    with pytest.raises(ConformanceError, match="cannot be inflated"):
        describe_dataset(b"\xff" * 40, DeflatedExplicitVRLittleEndian)


def test_deep_nesting_is_refused():
    sequence = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    with pytest.raises(ConformanceError, match="nested more than 32 deep"):
        describe_dataset(sequence * 100_000, ExplicitVRLittleEndian)


def test_too_many_elements_are_refused():
    with pytest.raises(ConformanceError, match="more than 10 elements"):
        describe_instance(_written(_dataset()), limits=HeaderLimits(elements=10))


def test_elements_out_of_order_are_refused():
    part10_bytes = _written(_dataset())
    start = read_file_meta(part10_bytes).dataset_offset
    with pytest.raises(ConformanceError, match=r"element \(0008,0005\) stands after \(7FE0,0010\)|stands after"):
        describe_dataset(part10_bytes[start : start + 18] * 2, ExplicitVRLittleEndian)


@pytest.mark.parametrize("undefined", [False, True])
def test_a_file_cut_anywhere_is_refused_or_has_whole_keys(undefined):
    part10_bytes = _written(_dataset(), undefined=undefined)
    whole = describe_instance(part10_bytes)
    n_refused = 0
    for end in range(0, len(part10_bytes), 7):
        try:
            header = describe_instance(part10_bytes[:end])
        except ConformanceError:
            n_refused += 1
        else:
            assert header.sop_instance_uid == whole.sop_instance_uid
            assert header.pixel_offset == -1
    assert n_refused > len(part10_bytes) / 7 / 2


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_garbled_bytes_raise_nothing_but_conformance_errors(data):
    part10_bytes = bytearray(TEMPLATE)
    for _ in range(data.draw(st.integers(1, 5))):
        part10_bytes[data.draw(st.integers(132, len(part10_bytes) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ConformanceError):
        describe_instance(bytes(part10_bytes))


TEMPLATE = _written(_dataset(), ImplicitVRLittleEndian, undefined=True)
