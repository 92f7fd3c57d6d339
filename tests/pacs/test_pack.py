# SPDX-License-Identifier: Apache-2.0
"""Packs are plain ZIPs that other tools open, one ranged read an instance, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import subprocess
import zipfile
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from pacs.encode import SeriesEncoder
from pacs.errors import ConformanceError, PackError
from pacs.pack import PackWriter, read_entry, read_frame_tables, read_pack_manifest, records_of
from pacs.part10 import describe_instance
from pacs.zip_stream import ZipStreamWriter, read_directory_tail
from storage.errors import ChecksumError
from storage.filesystem import open_store
from storage.publish import publish
from tests.support.fake_store import FakeStore
from tests.support.peers import require_program
from tests.support.series import series_spec


class Unseekable:
    """A handle that can only write, like one of HDFS."""

    def __init__(self):
        self.content = b""

    def write(self, content):
        self.content += bytes(content)
        return len(content)


@pytest.fixture(scope="module")
def slices():
    spec = series_spec()
    encoder = SeriesEncoder(spec)
    values = np.random.default_rng(1).uniform(0, 0.1, spec.grid.shape).astype(np.float32)
    return [encoder.encode_slice(z, values[z]) for z in range(4)]


def _pack(slices, **options):
    handle = Unseekable()
    writer = PackWriter(handle, source="run r1", sequence=3, receipt={"slab": [0, 4]}, **options)
    for encoded in slices:
        writer.add(encoded.part10_bytes, encoded.header)
    manifest = writer.finish()
    return handle.content, manifest


def _store(content):
    store = FakeStore()
    store.files["packs/a.zip"] = content
    return store


@pytest.mark.parametrize("options", [{}, {"zip64_from": 500}, {"zip64_from": 5000}], ids=["plain", "all64", "far64"])
def test_pythons_zipfile_reads_it(slices, options):
    content, _ = _pack(slices, **options)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == [f"{encoded.sop_instance_uid}.dcm" for encoded in slices] + ["frames.json", "manifest.json"]
        for encoded, information in zip(slices, archive.infolist(), strict=False):
            assert archive.read(information) == encoded.part10_bytes
            assert information.compress_type == zipfile.ZIP_STORED
            assert not information.flag_bits & 8, "a data descriptor"
            assert information.date_time == (1980, 1, 1, 0, 0, 0)
    crc, size, length = struct.unpack_from("<III", content, 14)
    assert crc != 0
    assert size == length == (0xFFFFFFFF if options.get("zip64_from") == 500 else len(slices[0].part10_bytes))


@pytest.mark.parametrize("options", [{}, {"zip64_from": 500}], ids=["plain", "zip64"])
def test_unzip_tests_it_clean(slices, options, tmp_path):
    unzip = require_program("unzip", "unzip")
    path = tmp_path / "a.zip"
    path.write_bytes(_pack(slices, **options)[0])
    result = subprocess.run([unzip, "-tq", path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "No errors" in result.stdout


def test_writing_it_again_gives_the_same_bytes(slices):
    assert _pack(slices)[0] == _pack(slices)[0]


@pytest.mark.parametrize("zip64_from", [None, 500, 5000])
def test_the_manifest_read_from_the_end_is_the_one_written(slices, zip64_from):
    content, manifest = _pack(slices, zip64_from=zip64_from)
    store = _store(content)
    assert read_pack_manifest(store, "packs/a.zip") == manifest
    assert len(store.reads) <= 3
    assert (manifest.source, manifest.sequence, manifest.receipt) == ("run r1", 3, {"slab": [0, 4]})


def test_one_ranged_read_brings_an_instance(slices):
    content, manifest = _pack(slices)
    store = _store(content)
    records = records_of(manifest, "packs/a.zip")
    for encoded, record in zip(slices, records, strict=True):
        assert read_entry(store, record.location) == encoded.part10_bytes
        assert record.sop_instance_uid == encoded.sop_instance_uid
        assert record.attributes == encoded.attributes
        assert record.location.dataset_sha256 == encoded.dataset_sha256
        at = record.location.offset + record.location.pixel_offset
        assert content[at : at + 60] == encoded.part10_bytes[-60:]
    assert len(store.reads) == 4


def test_records_of_a_manifest_read_back_are_the_same(slices):
    content, manifest = _pack(slices)
    again = read_pack_manifest(_store(content), "packs/a.zip")
    assert records_of(again, "p") == records_of(manifest, "p")


def test_a_published_pack_is_there_whole_or_not_at_all(slices, tmp_path):
    store = open_store(tmp_path)

    def produce(handle):
        writer = PackWriter(handle, source="run r1")
        for encoded in slices:
            writer.add(encoded.part10_bytes, encoded.header)
        return writer.finish()

    def fail(handle):
        PackWriter(handle, source="run r1").add(slices[0].part10_bytes, slices[0].header)
        raise PackError("stopped")

    with pytest.raises(PackError, match="stopped"):
        publish(store, "packs/b.zip", fail, kind="write_once")
    assert not store.exists("packs/b.zip")
    manifest = publish(store, "packs/b.zip", produce, kind="write_once")
    assert read_pack_manifest(store, "packs/b.zip") == manifest
    for encoded, record in zip(slices, records_of(manifest, "packs/b.zip"), strict=True):
        assert read_entry(store, record.location) == encoded.part10_bytes


def test_changed_bytes_are_noticed(slices):
    content, manifest = _pack(slices)
    broken = bytearray(content)
    location = records_of(manifest, "packs/a.zip")[1].location
    broken[location.offset + 900] ^= 1
    with pytest.raises(ChecksumError, match=r"packs/a\.zip, bytes"):
        read_entry(_store(bytes(broken)), location)


@pytest.mark.parametrize("keep", [0, 10, 21, 5000, -1])
def test_a_truncated_pack_is_refused(slices, keep):
    content, _ = _pack(slices)
    with pytest.raises(PackError, match="does not end like a pack"):
        read_pack_manifest(_store(content[:keep]), "packs/a.zip")


def test_a_damaged_directory_or_manifest_is_refused(slices):
    content, _ = _pack(slices)
    at = content.rindex(b"PK\x01\x02")
    with pytest.raises(PackError, match="damaged directory"):
        read_pack_manifest(_store(content[:at] + b"XX" + content[at + 2 :]), "packs/a.zip")
    at = content.index(b'"schema_version":1,"sequence"')
    with pytest.raises(PackError, match="CRC differs"):
        read_pack_manifest(_store(content[:at] + b"'" + content[at + 1 :]), "packs/a.zip")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"other.json": b"{}"}, "it has no entry 'manifest.json'"),
        ({"manifest.json": b"nonsense"}, "not JSON"),
        ({"manifest.json": b'{"schema_version":2}'}, "schema version 2 in 'manifest.json', expected 1"),
        ({"manifest.json": b"[]"}, "schema version None"),
        ({"manifest.json": b'{"schema_version":1}'}, "lacks or misspells 'source'"),
    ],
)
def test_a_zip_that_is_no_pack_is_refused(entries, message):
    handle = io.BytesIO()
    writer = ZipStreamWriter(handle)
    for name, content in entries.items():
        writer.add(name, content)
    writer.finish()
    with pytest.raises(PackError, match=message):
        read_pack_manifest(_store(handle.getvalue()), "packs/a.zip")


def test_many_entries_need_a_second_read_and_zip64():
    handle = io.BytesIO()
    writer = ZipStreamWriter(handle)
    for i in range(65_600):
        writer.add(f"{i}", b"")
    size = writer.finish()
    assert size == len(handle.getvalue())
    store = _store(handle.getvalue())
    assert len(read_directory_tail(store, "packs/a.zip")) == 65_600
    assert len(store.reads) == 2
    with zipfile.ZipFile(handle) as archive:
        assert len(archive.namelist()) == 65_600


def test_a_second_version_gets_a_name_of_its_own(slices):
    content, manifest = _pack([slices[0], slices[0]])
    uid = slices[0].sop_instance_uid
    assert [entry.name for entry in manifest.entries] == [f"{uid}.dcm", f"{uid}-2.dcm"]
    assert zipfile.ZipFile(io.BytesIO(content)).testzip() is None


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.2/3", "", "1..2", "1.2.", "01.2", "1." + "2" * 63])
def test_names_that_are_no_uids_are_refused(slices, uid):
    writer = PackWriter(io.BytesIO(), source="x")
    with pytest.raises(ConformanceError, match="must be a UID"):
        writer.add(slices[0].part10_bytes, replace(slices[0].header, sop_instance_uid=uid))


def test_nothing_is_added_to_a_finished_pack(slices):
    writer = PackWriter(io.BytesIO(), source="x")
    writer.finish()
    with pytest.raises(PackError, match="the file is finished"):
        writer.add(slices[0].part10_bytes, slices[0].header)


def _frames_of(ds):
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    part10_bytes = buffer.getvalue()
    handle = io.BytesIO()
    writer = PackWriter(handle, source="x")
    entry = writer.add(part10_bytes, describe_instance(part10_bytes))
    writer.finish()
    table = read_frame_tables(_store(handle.getvalue()), "packs/a.zip")[entry.name]
    return [b"".join(part10_bytes[at : at + length] for at, length in ranges) for ranges in table.frames]


def test_native_frames_are_found(slices):
    ds = pydicom.dcmread(io.BytesIO(slices[0].part10_bytes))
    assert _frames_of(ds) == [ds.PixelData]
    ds.NumberOfFrames = 3
    ds.PixelData = b"".join(bytes([i]) * 60 for i in range(3))
    assert _frames_of(ds) == [bytes([i]) * 60 for i in range(3)]
    ds.NumberOfFrames = 4
    assert _frames_of(ds) == []
    del ds.PixelData
    assert _frames_of(ds) == []


@pytest.mark.parametrize("per_frame", [1, 2])
@pytest.mark.parametrize("has_table", [True, False])
def test_encapsulated_frames_are_found(slices, per_frame, has_table):
    ds = pydicom.dcmread(io.BytesIO(slices[0].part10_bytes))
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    frames = [bytes([i]) * (20 + 4 * i) for i in range(1, 4)]
    ds.NumberOfFrames = len(frames)
    ds.PixelData = encapsulate(frames, fragments_per_frame=per_frame, has_bot=has_table)
    ds["PixelData"].is_undefined_length = True
    expected = frames if has_table or per_frame == 1 else []
    assert [frame.rstrip(b"\0") for frame in _frames_of(ds)] == expected
    ds.NumberOfFrames = 1
    ds.PixelData = encapsulate(frames[:1], fragments_per_frame=per_frame, has_bot=has_table)
    assert _frames_of(ds) == frames[:1]


def test_digests_are_those_of_the_bytes(slices):
    _, manifest = _pack(slices)
    for encoded, entry in zip(slices, manifest.entries, strict=True):
        assert entry.sha256 == hashlib.sha256(encoded.part10_bytes).hexdigest()
    assert json.dumps(dict(manifest.receipt)) == '{"slab": [0, 4]}'
