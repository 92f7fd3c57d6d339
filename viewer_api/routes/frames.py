# SPDX-License-Identifier: Apache-2.0
"""WADO-RS frames and bulk data: pixels without header (PS3.18 10.4.1.1.6 and 10.4.1.1.5)."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydicom.pixels.utils import pixel_array

from pacs.index import InstanceRecord
from viewer_api.caching import cache_headers, not_modified
from viewer_api.deps import AcceptedDep, DicomWebUrlDep, ServicesDep, Uid
from viewer_api.errors import BadRequestError, NotAcceptableError, UnknownResourceError
from viewer_api.instances import PLAIN_SYNTAXES, find_instances, n_frames, parse, read_frames, read_header
from viewer_api.media_types import EXPLICIT_LITTLE_ENDIAN, OCTETS, Choice, MediaRange, Offer, choose
from viewer_api.models import is_bulk, record_path
from viewer_api.multipart import Part, multipart_response

router = APIRouter()
_INSTANCE = "/studies/{study_uid}/series/{series_uid}/instances/{sop_instance_uid}"
_MAX_FRAMES = 1000
_PIXEL_TAGS = ("7FE00008", "7FE00009", "7FE00010")
#: Media types of compressed frames (PS3.18 Table 8.7.3-5).
_COMPRESSED = {
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}


@router.get(_INSTANCE + "/frames/{frame_list}")
def retrieve_frames(
    request: Request,
    services: ServicesDep,
    accepted: AcceptedDep,
    base_url: DicomWebUrlDep,
    study_uid: Uid,
    series_uid: Uid,
    sop_instance_uid: Uid,
    frame_list: Annotated[str, Path(max_length=8192)],
) -> Response:
    """Frames by number from 1, ``/frames/1,2``: as stored, or decoded where the client wants that."""
    numbers = _frame_numbers(frame_list)
    record = find_instances(services.index, study_uid, series_uid, sop_instance_uid)[0]
    return _frames(request, services, accepted, base_url, record, numbers)


@router.get(_INSTANCE + "/bulkdata/{tag}")
def retrieve_bulk_data(
    request: Request,
    services: ServicesDep,
    accepted: AcceptedDep,
    base_url: DicomWebUrlDep,
    study_uid: Uid,
    series_uid: Uid,
    sop_instance_uid: Uid,
    tag: Annotated[str, Path(pattern=r"^[0-9A-Fa-f]{8}$")],
) -> Response:
    """A long binary value that metadata tells by address."""
    record = find_instances(services.index, study_uid, series_uid, sop_instance_uid)[0]
    if tag.upper() in _PIXEL_TAGS:
        return _frames(
            request, services, accepted, base_url, record, list(range(1, n_frames(record) + 1)), joined_as=tag.upper()
        )
    choice = choose(accepted, (Offer(OCTETS, is_multipart=True), Offer(OCTETS)))
    headers = cache_headers(record, "bulkdata", tag, choice.offer)
    header = read_header(services.reader, record)
    if int(tag, 16) not in header or not is_bulk(header[int(tag, 16)]):
        raise UnknownResourceError(f"Instance {sop_instance_uid} has no bulk data ({tag[:4]},{tag[4:]}).")
    value: bytes = header[int(tag, 16)].value
    if choice.offer.is_multipart:
        location = f"{base_url}{record_path(record)}/bulkdata/{tag}"
        return multipart_response([Part(OCTETS, location, [value])], OCTETS, headers)
    return Response(value, media_type=OCTETS, headers=headers)


def _frames(
    request: Request,
    services: ServicesDep,
    accepted: list[MediaRange],
    base_url: str,
    record: InstanceRecord,
    numbers: list[int],
    *,
    joined_as: str = "",
) -> Response:
    """Frames in the form that the client takes; `joined_as` a tag, native ones are one part."""
    compressed = _COMPRESSED.get(record.transfer_syntax_uid)
    offers = [Offer(compressed, is_multipart=True)] if compressed else []
    offers.append(Offer(OCTETS, is_multipart=True))
    if len(numbers) == 1:
        offers.append(Offer(OCTETS))
    choice = choose(accepted, offers)
    media_type = choice.offer.media_type
    syntax = _syntax_to_send(record, choice)
    headers = cache_headers(record, "frames", numbers, syntax, choice.offer, joined_as)
    if (kept := not_modified(request, headers)) is not None:
        return kept
    frames = _pixels(services, record, numbers, syntax)
    content_type = f"{media_type}; transfer-syntax={syntax}"
    if not choice.offer.is_multipart:
        return Response(next(frames), media_type=content_type, headers=headers)
    url = base_url + record_path(record)
    if joined_as and syntax == EXPLICIT_LITTLE_ENDIAN:
        return multipart_response([Part(content_type, f"{url}/bulkdata/{joined_as}", frames)], media_type, headers)
    parts = (
        Part(content_type, f"{url}/frames/{number}", [pixels]) for number, pixels in zip(numbers, frames, strict=True)
    )
    return multipart_response(parts, media_type, headers)


def _pixels(services: ServicesDep, record: InstanceRecord, numbers: list[int], syntax: str) -> Iterator[bytes]:
    """Frames in the syntax that is sent: as they are stored, or decoded."""
    if syntax == record.transfer_syntax_uid or record.transfer_syntax_uid in PLAIN_SYNTAXES:
        yield from (frame.pixels for frame in read_frames(services.reader, record, numbers))
        return
    ds = parse(services.reader.open_bytes(record.location), record, pixels=True)
    for number in numbers:
        if number > n_frames(record):
            raise UnknownResourceError(f"Instance {record.sop_instance_uid} has no frame {number}.")
        try:
            samples = pixel_array(ds, index=number - 1, raw=True)
        except (AttributeError, ValueError, RuntimeError, NotImplementedError, KeyError) as error:
            raise NotAcceptableError(
                f"Instance {record.sop_instance_uid} is compressed and cannot be decoded here; accept "
                "transfer-syntax=* to get its frames as they are."
            ) from error
        yield samples.astype(samples.dtype.newbyteorder("<")).tobytes()


def _syntax_to_send(record: InstanceRecord, choice: Choice) -> str:
    """The first transfer syntax that the client takes; native frames are the same in all of the plain ones."""
    stored = record.transfer_syntax_uid
    is_compressed_type = choice.offer.media_type != OCTETS
    for wanted in choice.transfer_syntaxes:
        if stored in PLAIN_SYNTAXES and wanted in ("", "*", *PLAIN_SYNTAXES):
            return EXPLICIT_LITTLE_ENDIAN
        if wanted in ("*", stored) or (is_compressed_type and not wanted):
            return stored
        if wanted in ("", EXPLICIT_LITTLE_ENDIAN):
            return EXPLICIT_LITTLE_ENDIAN
    raise NotAcceptableError(
        f"Frames of instance {record.sop_instance_uid} can be sent in the transfer syntaxes {stored} and "
        f"{EXPLICIT_LITTLE_ENDIAN} only."
    )


def _frame_numbers(frame_list: str) -> list[int]:
    """Numbers of a frame list."""
    parts = frame_list.split(",")
    if len(parts) > _MAX_FRAMES:
        raise BadRequestError(f"{len(parts)} frames were asked for, at most {_MAX_FRAMES} are sent at once.")
    if not all(part.isascii() and part.isdigit() and len(part) <= 9 and int(part) > 0 for part in parts):
        raise BadRequestError(f"'{frame_list[:64]}' is not a list of frame numbers from 1.")
    return [int(part) for part in parts]
