# SPDX-License-Identifier: Apache-2.0
"""QIDO-RS: search for studies, series and instances (PS3.18 10.6)."""

import json
from itertools import chain

from fastapi import APIRouter, Request
from fastapi.responses import Response

from pacs.attributes import INDEXED_KEYWORDS, LEVELS
from pacs.index import Level
from pacs.query import query_from_qido
from viewer_api.deps import AcceptedDep, DicomWebUrlDep, ServicesDep, Uid
from viewer_api.media_types import DICOM_JSON, JSON, Offer, choose
from viewer_api.models import search_answer

router = APIRouter()
_CAPPED = "The number of results exceeded the maximum supported by the server. Additional results can be requested."


@router.get("/studies")
def search_studies(
    request: Request, services: ServicesDep, accepted: AcceptedDep, base_url: DicomWebUrlDep
) -> Response:
    """Search for studies."""
    return _search(request, services, accepted, base_url, "STUDY", {})


@router.get("/series")
def search_series(request: Request, services: ServicesDep, accepted: AcceptedDep, base_url: DicomWebUrlDep) -> Response:
    """Search for series of all studies."""
    return _search(request, services, accepted, base_url, "SERIES", {})


@router.get("/instances")
def search_instances(
    request: Request, services: ServicesDep, accepted: AcceptedDep, base_url: DicomWebUrlDep
) -> Response:
    """Search for instances of all studies."""
    return _search(request, services, accepted, base_url, "IMAGE", {})


@router.get("/studies/{study_uid}/series")
def search_series_of_study(
    request: Request, services: ServicesDep, accepted: AcceptedDep, base_url: DicomWebUrlDep, study_uid: Uid
) -> Response:
    """Search for series of one study."""
    return _search(request, services, accepted, base_url, "SERIES", {"StudyInstanceUID": study_uid})


@router.get("/studies/{study_uid}/instances")
def search_instances_of_study(
    request: Request, services: ServicesDep, accepted: AcceptedDep, base_url: DicomWebUrlDep, study_uid: Uid
) -> Response:
    """Search for instances of one study."""
    return _search(request, services, accepted, base_url, "IMAGE", {"StudyInstanceUID": study_uid})


@router.get("/studies/{study_uid}/series/{series_uid}/instances")
def search_instances_of_series(
    request: Request,
    services: ServicesDep,
    accepted: AcceptedDep,
    base_url: DicomWebUrlDep,
    study_uid: Uid,
    series_uid: Uid,
) -> Response:
    """Search for instances of one series."""
    keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
    return _search(request, services, accepted, base_url, "IMAGE", keys)


def _search(
    request: Request,
    services: ServicesDep,
    accepted: AcceptedDep,
    base_url: str,
    level: Level,
    path_keys: dict[str, str],
) -> Response:
    """Answer one search: 200 with a list, which is empty where nothing matches."""
    offer = choose(accepted, (Offer(DICOM_JSON), Offer(JSON))).offer
    params = [(name, value) for name, value in request.query_params.multi_items() if name != "accept"]
    found_request = query_from_qido(chain(params, _parents(level, path_keys), path_keys.items()), level)
    most = services.settings.max_results
    limit = most if found_request.limit is None else min(found_request.limit, most)
    is_capped = found_request.limit is None or found_request.limit > most
    # One more than is sent tells whether something was cut off.
    found = services.index.find(found_request.query, limit=limit + is_capped, offset=found_request.offset)
    warnings = list(found_request.warnings)
    if len(found) > limit:
        warnings.append(_CAPPED)
    content = json.dumps([search_answer(one, level, base_url) for one in found[:limit]], ensure_ascii=False)
    headers = {"Cache-Control": "no-store"}
    if warnings:
        headers["Warning"] = ", ".join(f'299 conepacs "{sentence}"' for sentence in dict.fromkeys(warnings))
    return Response(content.encode(), media_type=offer.media_type, headers=headers)


def _parents(level: Level, path_keys: dict[str, str]) -> list[tuple[str, str]]:
    """What is told of study and series where the path does not name them (PS3.18 Table 10.6.3-4 and 5)."""
    keys_of = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID"}
    fields: list[str] = []
    for above in LEVELS[1 : LEVELS.index(level)]:
        if keys_of[above] not in path_keys:
            fields += INDEXED_KEYWORDS[above]
            fields += INDEXED_KEYWORDS["PATIENT"] if above == "STUDY" else ()
    return [("includefield", ",".join(fields))] if fields else []
