# SPDX-License-Identifier: Apache-2.0
"""What the DIMSE services decide, as functions of values; `pacs.scp` binds them to pynetdicom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from pacs.dimse import MAX_CONTEXTS, UNCOMPRESSED
from pacs.errors import InvalidQueryError
from pacs.query import Model, parse_find, parse_retrieve, response_dataset
from pacs.status import CANCEL, LIMIT_REACHED, PENDING, status_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pynetdicom.presentation import PresentationContext

    from pacs.index import Index, InstanceRecord, Level

#: Query/Retrieve SOP classes and their information model.
FIND_MODELS: dict[str, Model] = {
    PatientRootQueryRetrieveInformationModelFind: "PATIENT_ROOT",
    StudyRootQueryRetrieveInformationModelFind: "STUDY_ROOT",
}
GET_MODELS: dict[str, Model] = {
    PatientRootQueryRetrieveInformationModelGet: "PATIENT_ROOT",
    StudyRootQueryRetrieveInformationModelGet: "STUDY_ROOT",
}
MOVE_MODELS: dict[str, Model] = {
    PatientRootQueryRetrieveInformationModelMove: "PATIENT_ROOT",
    StudyRootQueryRetrieveInformationModelMove: "STUDY_ROOT",
}
#: The counters of sub-operations have 16 bits (PS3.7 9.1.3).
MAX_SUB_OPERATIONS = 65_535
_PAGE = 500


def find_responses(
    index: Index, identifier: Dataset, model: Model, *, max_matches: Mapping[Level, int], ae_title: str,
    is_cancelled: Callable[[], bool],
) -> Iterator[tuple[int | Dataset, Dataset | None]]:  # fmt: skip
    """Yield statuses and identifiers of a C-FIND, paged; above the cap a warning comes last.

    Raises
    ------
    InvalidQueryError
        If the identifier cannot be answered.
    IndexUnavailableError
        If the index does not answer.
    """
    query = parse_find(identifier, model=model)
    cap = max_matches[query.level]
    n_answered = 0
    while True:
        size = min(_PAGE, cap - n_answered + 1)
        page = index.find(query, limit=size, offset=n_answered)
        for found in page:
            if is_cancelled():
                yield CANCEL, None
                return
            if n_answered == cap:
                yield status_dataset(LIMIT_REACHED, f"{cap} matches given, more exist: narrow the query"), None
                return
            n_answered += 1
            yield PENDING, response_dataset(found, identifier, query.level, retrieve_ae_title=ae_title)
        if len(page) < size:
            return


def instances_to_send(index: Index, identifier: Dataset, model: Model) -> list[InstanceRecord]:
    """Instances that a C-GET or C-MOVE asks for.

    Raises
    ------
    InvalidQueryError
        If the identifier lacks a key, or asks for more than one request can count.
    IndexUnavailableError
        If the index does not answer.
    """
    keys = parse_retrieve(identifier, model=model)
    records = index.instances(
        patient_id=keys.patient_id,
        study_uids=keys.study_uids,
        series_uids=keys.series_uids,
        sop_instance_uids=keys.sop_instance_uids,
    )
    if len(records) > MAX_SUB_OPERATIONS:
        raise InvalidQueryError(f"{len(records)} instances in one request, at most {MAX_SUB_OPERATIONS}.")
    return records


def contexts_for(kinds: Sequence[tuple[str, str]]) -> list[PresentationContext]:
    """Presentation contexts to send instances of these (SOP class, transfer syntax) pairs.

    Each pair is proposed as it is stored; uncompressed ones also in the other uncompressed form, which pynetdicom
    converts to where the peer takes only that.
    """
    stored = dict.fromkeys(kinds)
    fallback = dict.fromkeys(
        (sop_class, other) for sop_class, syntax in stored if syntax in UNCOMPRESSED for other in UNCOMPRESSED
    )
    pairs = list({**stored, **fallback})[:MAX_CONTEXTS]
    return [build_context(sop_class, syntax) for sop_class, syntax in pairs]


def unreadable(record: InstanceRecord) -> Dataset:
    """Stand-in for an instance that cannot be read: pynetdicom counts it as failed, under its UID."""
    ds = Dataset()
    ds.SOPInstanceUID = record.sop_instance_uid
    return ds
