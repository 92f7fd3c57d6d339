# SPDX-License-Identifier: Apache-2.0
"""WADO-RS rendered images and thumbnails (PS3.18 10.4.1.1.4 and 10.4.1.1.7)."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from pacs.index import InstanceRecord
from viewer_api.caching import cache_headers, not_modified
from viewer_api.deps import AcceptedDep, ServicesDep, Uid
from viewer_api.errors import UnknownResourceError
from viewer_api.instances import PLAIN_SYNTAXES, find_instances, frame_length, n_frames, parse, read_frames, read_header
from viewer_api.media_types import JPEG, PNG, Offer, choose
from viewer_api.rendering import (
    decoded_samples,
    encode_image,
    parse_viewport,
    parse_window,
    pixel_aspect,
    render,
    stored_samples,
)

router = APIRouter()
_SERIES = "/studies/{study_uid}/series/{series_uid}"
_INSTANCE = _SERIES + "/instances/{sop_instance_uid}"
_OFFERS = (Offer(JPEG), Offer(PNG))
_THUMBNAIL = "128,128"

WindowParam = Annotated[str, Query(max_length=256)]
ViewportParam = Annotated[str, Query(max_length=256)]
QualityParam = Annotated[int, Query(ge=1, le=100)]
FrameNumber = Annotated[int, Path(ge=1)]


@router.get(_INSTANCE + "/rendered")
def rendered_instance(
    request: Request,
    services: ServicesDep,
    accepted: AcceptedDep,
    study_uid: Uid,
    series_uid: Uid,
    sop_instance_uid: Uid,
    window: WindowParam = "",
    viewport: ViewportParam = "",
    quality: QualityParam = 90,
) -> Response:
    """Picture of an instance, of its first frame if it has several."""
    record = find_instances(services.index, study_uid, series_uid, sop_instance_uid)[0]
    return _picture(request, services, accepted, record, 1, window, viewport, quality)


@router.get(_INSTANCE + "/frames/{frame_number}/rendered")
def rendered_frame(
    request: Request,
    services: ServicesDep,
    accepted: AcceptedDep,
    study_uid: Uid,
    series_uid: Uid,
    sop_instance_uid: Uid,
    frame_number: FrameNumber,
    window: WindowParam = "",
    viewport: ViewportParam = "",
    quality: QualityParam = 90,
) -> Response:
    """Picture of one frame."""
    record = find_instances(services.index, study_uid, series_uid, sop_instance_uid)[0]
    return _picture(request, services, accepted, record, frame_number, window, viewport, quality)


@router.get("/studies/{study_uid}/thumbnail")
def thumbnail_of_study(
    request: Request, services: ServicesDep, accepted: AcceptedDep, study_uid: Uid, viewport: ViewportParam = _THUMBNAIL
) -> Response:
    """Small picture of the middle instance of a study."""
    records = find_instances(services.index, study_uid)
    return _picture(request, services, accepted, records[len(records) // 2], 1, "", viewport, 85)


@router.get(_SERIES + "/thumbnail")
def thumbnail_of_series(
    request: Request,
    services: ServicesDep,
    accepted: AcceptedDep,
    study_uid: Uid,
    series_uid: Uid,
    viewport: ViewportParam = _THUMBNAIL,
) -> Response:
    """Small picture of the middle instance of a series."""
    records = find_instances(services.index, study_uid, series_uid)
    return _picture(request, services, accepted, records[len(records) // 2], 1, "", viewport, 85)


@router.get(_INSTANCE + "/thumbnail")
def thumbnail_of_instance(
    request: Request,
    services: ServicesDep,
    accepted: AcceptedDep,
    study_uid: Uid,
    series_uid: Uid,
    sop_instance_uid: Uid,
    viewport: ViewportParam = _THUMBNAIL,
) -> Response:
    """Small picture of an instance."""
    record = find_instances(services.index, study_uid, series_uid, sop_instance_uid)[0]
    return _picture(request, services, accepted, record, 1, "", viewport, 85)


@router.get(_INSTANCE + "/frames/{frame_number}/thumbnail")
def thumbnail_of_frame(
    request: Request,
    services: ServicesDep,
    accepted: AcceptedDep,
    study_uid: Uid,
    series_uid: Uid,
    sop_instance_uid: Uid,
    frame_number: FrameNumber,
    viewport: ViewportParam = _THUMBNAIL,
) -> Response:
    """Small picture of one frame."""
    record = find_instances(services.index, study_uid, series_uid, sop_instance_uid)[0]
    return _picture(request, services, accepted, record, frame_number, "", viewport, 85)


def _picture(
    request: Request,
    services: ServicesDep,
    accepted: AcceptedDep,
    record: InstanceRecord,
    frame_number: int,
    window: str,
    viewport: str,
    quality: int,
) -> Response:
    """One frame as PNG or JPEG."""
    media_type = choose(accepted, _OFFERS).offer.media_type
    chosen_window = parse_window(window) if window else None
    chosen_viewport = parse_viewport(viewport, services.settings.max_viewport_px) if viewport else None
    headers = cache_headers(record, "rendered", frame_number, media_type, chosen_window, chosen_viewport, quality)
    if (kept := not_modified(request, headers)) is not None:
        return kept
    header, samples = _frame_samples(services, record, frame_number)
    pixels = render(header, samples, chosen_window)
    content = encode_image(pixels, media_type, viewport=chosen_viewport, aspect=pixel_aspect(header), quality=quality)
    return Response(content, media_type=media_type, headers=headers)


def _frame_samples(services: ServicesDep, record: InstanceRecord, number: int) -> tuple[Dataset, NDArray[np.generic]]:
    """Header and stored values of one frame, by as few reads as it takes."""
    total = n_frames(record)
    if number > total:
        raise UnknownResourceError(f"Instance {record.sop_instance_uid} has no frame {number} of its {total}.")
    start, length = record.location.pixel_offset, frame_length(record)
    is_plain = record.transfer_syntax_uid in PLAIN_SYNTAXES and start > 0 and length > 0
    if is_plain and total > 1:
        header = read_header(services.reader, record)
        if "PixelRepresentation" in header:
            frame = next(read_frames(services.reader, record, [number])).pixels
            return header, stored_samples(header, frame)
    whole = services.reader.open_bytes(record.location)
    if is_plain and total == 1:
        header = parse(whole[:start], record, pixels=False)
        # Float Pixel Data has no Pixel Representation.
        if "PixelRepresentation" in header:
            return header, stored_samples(header, whole[start : start + length])
    ds = parse(whole, record, pixels=True)
    samples = decoded_samples(ds, number - 1)
    if samples.ndim == 3:
        # pydicom turned the colours already.
        ds.PhotometricInterpretation = "RGB"
    return ds, samples
