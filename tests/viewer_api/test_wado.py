# SPDX-License-Identifier: Apache-2.0
"""WADO-RS: instances, metadata, frames and bulk data."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from tests.support.dicom_objects import make_ct, part10
from tests.support.http_archive import (
    BASE,
    AppClient,
    HttpArchive,
    http_archive,
    instance_path,
    ramp_volume,
    split_parts,
)
from tests.support.series import series_spec
from viewer_api import instances as instances_module

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTS = 'multipart/related; type="application/dicom"'
OCTETS = 'multipart/related; type="application/octet-stream"'


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpArchive]:
    with http_archive(tmp_path_factory.mktemp("wado")) as archive:
        yield archive


@pytest.fixture(scope="module")
def slices(archive):
    return archive.add_series(series_spec(), ramp_volume())


@pytest.fixture(scope="module")
def client(archive: HttpArchive) -> AppClient:
    return archive.client()


def multiframe(number: int, n_frames: int = 3) -> Dataset:
    ds = make_ct(number, study=7)
    pixels = np.arange(n_frames * 16 * 16, dtype="<i2").reshape(n_frames, 16, 16)
    ds.NumberOfFrames = n_frames
    ds.PixelData = pixels.tobytes()
    return ds


@pytest.mark.parametrize("syntax", ["", "; transfer-syntax=*", "; transfer-syntax=1.2.840.10008.1.2.1"])
def test_series_comes_as_parts_byte_for_byte(client, slices, syntax):
    path = instance_path(slices[0]).rpartition("/instances/")[0]
    response = client.get(path, headers={"Accept": PARTS + syntax})
    assert response.status_code == 200
    parts = split_parts(response.content, response.headers["content-type"])
    assert [body for _, body in parts] == [one.part10_bytes for one in slices]
    assert parts[0][0]["Content-Type"] == "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
    study = client.get(path.rpartition("/series/")[0], headers={"Accept": PARTS + syntax})
    assert len(split_parts(study.content, study.headers["content-type"])) == len(slices)


def test_instance_as_a_file_is_kept_by_the_client(client, slices):
    response = client.get(instance_path(slices[1]), headers={"Accept": "application/dicom"})
    assert response.content == slices[1].part10_bytes
    assert int(response.headers["content-length"]) == len(response.content)
    assert "immutable" in response.headers["cache-control"]
    again = client.get(
        instance_path(slices[1]),
        headers={"Accept": "application/dicom", "If-None-Match": response.headers["etag"]},
    )
    assert again.status_code == 304
    assert again.content == b""


def test_long_instances_are_sent_in_pieces_and_checked(client, slices, monkeypatch):
    monkeypatch.setattr(instances_module, "CHECKED_BYTES", 1000)
    response = client.get(instance_path(slices[2]), headers={"Accept": "application/dicom"})
    assert response.content == slices[2].part10_bytes


def test_implicit_instance_is_sent_explicit_unless_any_syntax_is_taken(archive, client):
    ds = make_ct(3, study=5)
    record = archive.receive(part10(ds, ImplicitVRLittleEndian))
    default = client.get(instance_path(record), headers={"Accept": "application/dicom"})
    sent = dcmread(BytesIO(default.content))
    assert sent.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert sent.PixelData == ds.PixelData
    as_stored = client.get(instance_path(record), headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert dcmread(BytesIO(as_stored.content)).file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    refused = client.get(
        instance_path(record), headers={"Accept": "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90"}
    )
    assert refused.status_code == 406


def test_deflated_instance_is_inflated(archive, client):
    ds = make_ct(4, study=5)
    record = archive.receive(part10(ds, DeflatedExplicitVRLittleEndian))
    sent = dcmread(BytesIO(client.get(instance_path(record), headers={"Accept": "application/dicom"}).content))
    assert sent.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert sent.PixelData == ds.PixelData
    assert client.get(instance_path(record) + "/metadata").json()[0]["00280010"]["Value"] == [16]
    assert client.get(instance_path(record) + "/rendered").status_code == 200


def test_float_pixels_are_told_and_sent(archive, client):
    ds = make_ct(5, study=5)
    pixels = np.linspace(0, 1, 256, dtype="<f4").tobytes()
    del ds.PixelData, ds.PixelRepresentation, ds.BitsStored, ds.HighBit
    ds.BitsAllocated, ds.FloatPixelData = 32, pixels
    path = instance_path(archive.receive(part10(ds)))
    described = client.get(path + "/metadata").json()[0]["7FE00008"]
    assert described["vr"] == "OF"
    bulk = client.get(described["BulkDataURI"])
    ((_, body),) = split_parts(bulk.content, bulk.headers["content-type"])
    assert body == pixels
    assert client.get(path + "/rendered").status_code == 200


def test_metadata_has_all_but_pixels(client, slices):
    path = instance_path(slices[0])
    found = client.get(path + "/metadata").json()
    assert len(found) == 1
    ds = Dataset.from_json(found[0], bulk_data_uri_handler=lambda _tag, _vr, _uri: None)
    whole = dcmread(BytesIO(slices[0].part10_bytes))
    assert found[0]["7FE00010"]["BulkDataURI"].endswith(f"{slices[0].sop_instance_uid}/bulkdata/7FE00010")
    assert ds.ImagePositionPatient == whole.ImagePositionPatient
    assert found[0]["00280010"]["Value"] == [5]
    del ds.PixelData, whole.PixelData
    assert {element.tag for element in ds} == {element.tag for element in whole}
    series = client.get(path.rpartition("/instances/")[0] + "/metadata").json()
    assert [one["00080018"]["Value"][0] for one in series] == [one.sop_instance_uid for one in slices]
    # What instances share is described once; the answer is the same as for each alone.
    assert series == [client.get(instance_path(one) + "/metadata").json()[0] for one in slices]
    assert len(client.get(path.rpartition("/series/")[0] + "/metadata").json()) == 4


def test_metadata_reads_headers_only(archive, client, slices, monkeypatch):
    from pacs.retrieve import InstanceReader

    reads = []
    plain = InstanceReader.read_range

    def count(self, location, start, length):
        reads.append((start, length))
        return plain(self, location, start, length)

    monkeypatch.setattr(InstanceReader, "read_range", count)
    monkeypatch.setattr(InstanceReader, "open_bytes", None)
    assert client.get(instance_path(slices[0]).rpartition("/instances/")[0] + "/metadata").status_code == 200
    assert reads == [(0, one.pixel_offset) for one in slices]


def test_native_frame_by_one_ranged_read(client, slices):
    one = slices[3]
    response = client.get(instance_path(one) + "/frames/1", headers={"Accept": OCTETS})
    ((headers, body),) = split_parts(response.content, response.headers["content-type"])
    assert headers["Content-Type"] == "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
    assert body == dcmread(BytesIO(one.part10_bytes)).PixelData
    plain = client.get(instance_path(one) + "/frames/1", headers={"Accept": "application/octet-stream"})
    assert plain.content == body


def test_frames_of_a_multiframe_instance_and_its_bulk_data(archive, client):
    ds = multiframe(21)
    path = instance_path(archive.receive(part10(ds)))
    response = client.get(path + "/frames/3,1", headers={"Accept": OCTETS + "; transfer-syntax=*"})
    bodies = [body for _, body in split_parts(response.content, response.headers["content-type"])]
    assert bodies == [ds.PixelData[1024:1536], ds.PixelData[:512]]
    bulk = client.get(path + "/bulkdata/7FE00010")
    ((_, body),) = split_parts(bulk.content, bulk.headers["content-type"])
    assert body == ds.PixelData


def test_compressed_frames_as_stored_or_decoded(archive, client):
    ds = multiframe(22)
    native = ds.PixelData
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.compress(RLELossless, generate_instance_uid=False)
    path = instance_path(archive.receive(part10(ds, RLELossless)))
    stored = client.get(path + "/frames/2", headers={"Accept": 'multipart/related; type="image/dicom-rle"'})
    ((headers, body),) = split_parts(stored.content, stored.headers["content-type"])
    assert headers["Content-Type"] == f"image/dicom-rle; transfer-syntax={RLELossless}"
    assert body[:4] == b"\x02\0\0\0"
    decoded = client.get(path + "/frames/2,3", headers={"Accept": OCTETS})
    bodies = [body for _, body in split_parts(decoded.content, decoded.headers["content-type"])]
    assert bodies == [native[512:1024], native[1024:]]
    whole = client.get(path, headers={"Accept": "application/dicom"})
    assert dcmread(BytesIO(whole.content)).PixelData == native


def test_long_binary_values_are_told_by_address(archive, client):
    ds = make_ct(23, study=8)
    ds.add_new(0x00420011, "OB", bytes(range(256)) * 20)
    path = instance_path(archive.receive(part10(ds)))
    described = client.get(path + "/metadata").json()[0]["00420011"]
    assert described["vr"] == "OB"
    value = client.get(described["BulkDataURI"], headers={"Accept": "application/octet-stream"})
    assert value.content == bytes(range(256)) * 20
    assert client.get(path + "/bulkdata/00100010").status_code == 404


@pytest.mark.parametrize(
    ("suffix", "status"),
    [
        ("/frames/2", 404),
        ("/frames/0", 400),
        ("/frames/one", 400),
        ("/frames/1,,2", 400),
        ("/bulkdata/xyz", 400),
    ],
)
def test_bad_frames(client, slices, suffix, status):
    response = client.get(instance_path(slices[0]) + suffix)
    assert response.status_code == status
    assert response.json()["error"].endswith(".")


@pytest.mark.parametrize("path", ["", "/metadata", "/series/1.2.3", "/series/1.2.3/instances/1.2.4/frames/1"])
def test_unknown_uids_are_404(client, path):
    response = client.get(f"{BASE}/studies/1.2.3.4{path}")
    assert response.status_code == 404
    assert "1.2.3.4" in response.json()["error"]


def test_damage_in_the_store_is_told_without_details(archive, tmp_path):
    record = archive.receive(part10(make_ct(24, study=9)))
    (archive.reader.journal.folder / record.location.path.removeprefix("journal:")).write_bytes(b"\0" * 9000)
    response = archive.client().get(instance_path(record), headers={"Accept": "application/dicom"})
    assert response.status_code in (500, 503)
    assert "journal" not in response.json()["error"]
