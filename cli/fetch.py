# SPDX-License-Identifier: Apache-2.0
"""A PACS on free loopback ports, and series fetched from it as a viewer would: by DIMSE and by DICOMweb."""

from __future__ import annotations

import io
import json
import urllib.request
from contextlib import contextmanager
from email.parser import BytesParser
from email.policy import HTTP
from typing import TYPE_CHECKING, cast

import numpy as np

from pacs.errors import PeerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from pacs.index import Index
    from pacs.scu import Peer
    from reconstruction.geometry import VolumeGrid
    from storage.filesystem import Store

_TIMEOUT_S = 30.0


@contextmanager
def running_servers(store: Store, index: Index, journal_folder: Path) -> Iterator[tuple[Peer, str]]:
    """Run the DICOM server and DICOMweb on free ports of loopback; yields the peer and the DICOMweb address."""
    from pacs.journal import Journal
    from pacs.retrieve import InstanceReader
    from pacs.scp import PacsServer, ScpConfig
    from pacs.scu import Peer
    from viewer_api.app import create_app
    from viewer_api.server import HttpServer
    from viewer_api.settings import HttpSettings

    journal = Journal(journal_folder)
    reader = InstanceReader(store, journal)
    settings = HttpSettings(port=0)
    app = create_app(index=index, reader=reader, settings=settings)
    with (
        PacsServer(ScpConfig(port=0), index=index, reader=reader, journal=journal) as server,
        HttpServer(app, settings) as web,
    ):
        yield Peer("127.0.0.1", server.port, server.config.ae_title), f"http://127.0.0.1:{web.port}/dicom-web"


def fetch_by_dimse(peer: Peer, study_uid: str, series_uid: str) -> dict[str, Dataset]:
    """Find a series by C-FIND and fetch it by C-GET: instances by SOP Instance UID."""
    from pydicom import dcmread

    from pacs.scu import find, get

    keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
    rows = find(peer, "SERIES", keys | {"NumberOfSeriesRelatedInstances": ""})
    if len(rows) != 1:
        raise PeerError(f"{peer} found {len(rows)} series for one UID")
    received: list[bytes] = []
    get(peer, "SERIES", keys, received.append, sop_classes=("1.2.840.10008.5.1.4.1.1.2",))
    instances: dict[str, Dataset] = {}
    for content in received:
        ds = dcmread(io.BytesIO(content))
        instances[str(ds.SOPInstanceUID)] = ds
    if len(instances) != int(rows[0]["NumberOfSeriesRelatedInstances"]):
        raise PeerError(f"{peer} sent {len(instances)} of {rows[0]['NumberOfSeriesRelatedInstances']} instances")
    return instances


def fetch_by_dicomweb(url: str, study_uid: str, series_uid: str) -> dict[str, Dataset]:
    """Find a series by QIDO-RS and fetch it by WADO-RS: instances by SOP Instance UID."""
    from pydicom import dcmread

    found = json.loads(
        _read(f"{url}/studies/{study_uid}/series?SeriesInstanceUID={series_uid}", "application/dicom+json")[1]
    )
    if len(found) != 1:
        raise PeerError(f"{url} found {len(found)} series for one UID")
    kind, body = _read(f"{url}/studies/{study_uid}/series/{series_uid}", 'multipart/related; type="application/dicom"')
    parser = BytesParser(policy=HTTP)
    message = parser.parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    instances: dict[str, Dataset] = {}
    for part in message.iter_parts():
        ds = dcmread(io.BytesIO(cast("bytes", part.get_payload(decode=True))))
        instances[str(ds.SOPInstanceUID)] = ds
    return instances


def _read(url: str, accept: str) -> tuple[str, bytes]:
    """Content type and body of one GET on loopback."""
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        return answer.headers["Content-Type"], answer.read()


def volume_of(instances: Sequence[Dataset]) -> tuple[VolumeGrid, NDArray[np.float64]]:
    """Stack slices by their position: the grid they say they lie on, and output values (z, y, x).

    Only what a viewer has is used: positions, pixel spacing and rescale of each instance.
    """
    from reconstruction.geometry import VolumeGrid

    slices = sorted(instances, key=lambda ds: float(ds.ImagePositionPatient[2]))
    first, last = slices[0], slices[-1]
    volume = np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in slices])
    py, px = (float(pitch) for pitch in first.PixelSpacing)
    low, high = float(first.ImagePositionPatient[2]), float(last.ImagePositionPatient[2])
    pz = (high - low) / (len(slices) - 1) if len(slices) > 1 else float(first.SliceThickness)
    nz, ny, nx = volume.shape
    x0, y0 = (float(value) for value in first.ImagePositionPatient[:2])
    center = (x0 + (nx - 1) / 2 * px, y0 + (ny - 1) / 2 * py, (low + high) / 2)
    return VolumeGrid((nz, ny, nx), (pz, py, px), center), volume
