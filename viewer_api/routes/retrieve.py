# SPDX-License-Identifier: Apache-2.0
"""WADO-RS retrieval of studies, series and instances as application/dicom (PS3.18 10.4.1.1.1)."""

from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from pacs.index import InstanceRecord
from pacs.retrieve import InstanceReader
from viewer_api.caching import cache_headers, not_modified
from viewer_api.deps import AcceptedDep, DicomWebUrlDep, ServicesDep, Uid
from viewer_api.errors import NotAcceptableError
from viewer_api.instances import explicit_little_endian, find_instances, instance_pieces
from viewer_api.media_types import DICOM, EXPLICIT_LITTLE_ENDIAN, Choice, Offer, choose
from viewer_api.models import record_path
from viewer_api.multipart import Part, begun, multipart_response

router = APIRouter()
_PARTS = Offer(DICOM, is_multipart=True)


@router.get("/studies/{study_uid}")
def retrieve_study(services: ServicesDep, accepted: AcceptedDep, base_url: DicomWebUrlDep, study_uid: Uid) -> Response:
    """All instances of a study."""
    choice = choose(accepted, (_PARTS,))
    return _many(services, choice, base_url, find_instances(services.index, study_uid))


@router.get("/studies/{study_uid}/series/{series_uid}")
def retrieve_series(
    services: ServicesDep, accepted: AcceptedDep, base_url: DicomWebUrlDep, study_uid: Uid, series_uid: Uid
) -> Response:
    """All instances of a series."""
    choice = choose(accepted, (_PARTS,))
    return _many(services, choice, base_url, find_instances(services.index, study_uid, series_uid))


@router.get("/studies/{study_uid}/series/{series_uid}/instances/{sop_instance_uid}")
def retrieve_instance(
    request: Request,
    services: ServicesDep,
    accepted: AcceptedDep,
    base_url: DicomWebUrlDep,
    study_uid: Uid,
    series_uid: Uid,
    sop_instance_uid: Uid,
) -> Response:
    """One instance, as one part or as the plain file."""
    choice = choose(accepted, (_PARTS, Offer(DICOM)))
    record = find_instances(services.index, study_uid, series_uid, sop_instance_uid)[0]
    syntax = _syntax_to_send(record, choice)
    headers = cache_headers(record, "instance", syntax, choice.offer)
    if (kept := not_modified(request, headers)) is not None:
        return kept
    if choice.offer.is_multipart:
        return multipart_response(_parts(services, base_url, [(record, syntax)]), DICOM, headers)
    if syntax == record.transfer_syntax_uid:
        headers["Content-Length"] = str(record.location.length)
    body = begun(_pieces(services.reader, record, syntax))
    return StreamingResponse(body, media_type=f"{DICOM}; transfer-syntax={syntax}", headers=headers)


def _many(services: ServicesDep, choice: Choice, base_url: str, records: list[InstanceRecord]) -> Response:
    """Several instances, after it is clear that each can be sent in a syntax that the client takes."""
    chosen = [(record, _syntax_to_send(record, choice)) for record in records]
    return multipart_response(_parts(services, base_url, chosen), DICOM, {"Cache-Control": "no-cache"})


def _parts(services: ServicesDep, base_url: str, chosen: Iterable[tuple[InstanceRecord, str]]) -> Iterator[Part]:
    """One part for each instance."""
    for record, syntax in chosen:
        content_type = f"{DICOM}; transfer-syntax={syntax}"
        yield Part(content_type, base_url + record_path(record), _pieces(services.reader, record, syntax))


def _pieces(reader: InstanceReader, record: InstanceRecord, syntax: str) -> Iterator[bytes]:
    """Bytes of an instance as they are stored, or in Explicit VR Little Endian."""
    if syntax == record.transfer_syntax_uid:
        yield from instance_pieces(reader, record.location)
    else:
        yield explicit_little_endian(reader.open_bytes(record.location), record)


def _syntax_to_send(record: InstanceRecord, choice: Choice) -> str:
    """The first transfer syntax that the client takes and that can be sent."""
    for wanted in choice.transfer_syntaxes:
        if wanted in ("*", record.transfer_syntax_uid):
            return record.transfer_syntax_uid
        if wanted in ("", EXPLICIT_LITTLE_ENDIAN):
            return EXPLICIT_LITTLE_ENDIAN
    raise NotAcceptableError(
        f"Instance {record.sop_instance_uid} can be sent in the transfer syntaxes {record.transfer_syntax_uid} and "
        f"{EXPLICIT_LITTLE_ENDIAN} only."
    )
