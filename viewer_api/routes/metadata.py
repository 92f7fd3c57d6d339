# SPDX-License-Identifier: Apache-2.0
"""WADO-RS metadata: headers as DICOM JSON (PS3.18 10.4.1.1.3), streamed one by one."""

import json
from collections.abc import Iterator

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from pacs.index import InstanceRecord
from viewer_api.caching import cache_headers, not_modified
from viewer_api.deps import AcceptedDep, DicomWebUrlDep, ServicesDep, Uid
from viewer_api.instances import find_instances, read_header
from viewer_api.media_types import DICOM_JSON, JSON, Offer, choose
from viewer_api.models import KnownElements, header_json, pixel_element, record_path
from viewer_api.multipart import begun

router = APIRouter()
_OFFERS = (Offer(DICOM_JSON), Offer(JSON))


@router.get("/studies/{study_uid}/metadata")
def study_metadata(services: ServicesDep, accepted: AcceptedDep, base_url: DicomWebUrlDep, study_uid: Uid) -> Response:
    """Headers of a study's instances."""
    return _metadata(services, accepted, base_url, find_instances(services.index, study_uid))


@router.get("/studies/{study_uid}/series/{series_uid}/metadata")
def series_metadata(
    services: ServicesDep, accepted: AcceptedDep, base_url: DicomWebUrlDep, study_uid: Uid, series_uid: Uid
) -> Response:
    """Headers of a series' instances."""
    return _metadata(services, accepted, base_url, find_instances(services.index, study_uid, series_uid))


@router.get("/studies/{study_uid}/series/{series_uid}/instances/{sop_instance_uid}/metadata")
def instance_metadata(
    request: Request,
    services: ServicesDep,
    accepted: AcceptedDep,
    base_url: DicomWebUrlDep,
    study_uid: Uid,
    series_uid: Uid,
    sop_instance_uid: Uid,
) -> Response:
    """Header of one instance."""
    records = find_instances(services.index, study_uid, series_uid, sop_instance_uid)
    headers = cache_headers(records[0], "metadata", base_url, choose(accepted, _OFFERS).offer)
    return not_modified(request, headers) or _metadata(services, accepted, base_url, records, headers)


def _metadata(
    services: ServicesDep,
    accepted: AcceptedDep,
    base_url: str,
    records: list[InstanceRecord],
    headers: dict[str, str] | None = None,
) -> Response:
    """A JSON array, written while the headers are read."""
    offer = choose(accepted, _OFFERS).offer
    pieces = begun(_pieces(services, base_url, records))
    return StreamingResponse(pieces, media_type=offer.media_type, headers=headers or {"Cache-Control": "no-cache"})


def _pieces(services: ServicesDep, base_url: str, records: list[InstanceRecord]) -> Iterator[bytes]:
    """The array in pieces of one header each."""
    lead = "["
    known: KnownElements = {}
    for record in records:
        header = read_header(services.reader, record)
        pixels = pixel_element(header) if record.location.pixel_offset > 0 else None
        described = header_json(header, base_url + record_path(record), pixels, known=known)
        yield (lead + json.dumps(described, ensure_ascii=False)).encode()
        lead = ","
    yield b"]"
