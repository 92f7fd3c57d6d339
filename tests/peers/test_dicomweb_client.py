# SPDX-License-Identifier: Apache-2.0
"""dicomweb-client against the service, over a real socket."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
from dicomweb_client.api import DICOMwebClient
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.support.http_archive import BASE, http_archive, ramp_volume, served
from tests.support.series import series_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pacs.encode import EncodedSlice


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DICOMwebClient, list[EncodedSlice]]]:
    with http_archive(tmp_path_factory.mktemp("peer")) as archive:
        slices = archive.add_series(series_spec(), ramp_volume())
        with served(archive.app()) as url:
            yield DICOMwebClient(url + BASE), slices


def test_searches(peer):
    client, slices = peer
    header = slices[0].header
    (study,) = client.search_for_studies(search_filters={"PatientID": "stone-07"})
    assert Dataset.from_json(study).StudyInstanceUID == header.study_uid
    (series,) = client.search_for_series(header.study_uid, fields=["FrameOfReferenceUID"])
    assert Dataset.from_json(series).NumberOfSeriesRelatedInstances == 4
    assert Dataset.from_json(series).FrameOfReferenceUID
    instances = client.search_for_instances(header.study_uid, header.series_uid, limit=3)
    assert [one["00080018"]["Value"][0] for one in instances] == [one.sop_instance_uid for one in slices[:3]]
    assert len(client.search_for_instances(header.study_uid, header.series_uid, limit=3, get_remaining=True)) == 4
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []


def test_series_and_study_are_retrieved_pixel_by_pixel(peer):
    client, slices = peer
    header = slices[0].header
    for found in (
        client.retrieve_series(header.study_uid, header.series_uid),
        list(client.iter_series(header.study_uid, header.series_uid)),
        client.retrieve_study(header.study_uid),
    ):
        by_uid = {ds.SOPInstanceUID: ds for ds in found}
        assert len(by_uid) == 4
        for one in slices:
            ours = dcmread(BytesIO(one.part10_bytes))
            np.testing.assert_array_equal(by_uid[one.sop_instance_uid].pixel_array, ours.pixel_array)


def test_instance_metadata_frames_and_pictures(peer):
    client, slices = peer
    header = slices[2].header
    keys = (header.study_uid, header.series_uid, header.sop_instance_uid)
    ours = dcmread(BytesIO(slices[2].part10_bytes))
    assert client.retrieve_instance(*keys) == ours
    metadata = Dataset.from_json(client.retrieve_instance_metadata(*keys), bulk_data_uri_handler=lambda _uri: None)
    assert metadata.ImagePositionPatient == ours.ImagePositionPatient
    assert len(client.retrieve_series_metadata(*keys[:2])) == 4
    assert len(client.retrieve_study_metadata(keys[0])) == 4
    (frame,) = client.retrieve_instance_frames(*keys, frame_numbers=[1])
    assert frame == ours.PixelData
    rendered = client.retrieve_instance_rendered(*keys, media_types=("image/png",))
    assert Image.open(BytesIO(rendered)).size == (6, 5)
    (bulk,) = client.retrieve_bulkdata(client.retrieve_instance_metadata(*keys)["7FE00010"]["BulkDataURI"])
    assert bulk == ours.PixelData
