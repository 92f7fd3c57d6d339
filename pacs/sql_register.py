# SPDX-License-Identifier: Apache-2.0
"""Registration of instances in the index tables, within a transaction that the caller owns.

A known SOP Instance UID with an equal digest of the data set is "identical" and changes nothing.  With other
bytes it becomes a version and an event; the first stays the answer.  The attributes of patient, study and series
are those of the first instance that named them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, insert, select

from pacs.attributes import INDEXED_KEYWORDS
from pacs.matching import canonical, name_groups
from pacs.tables import event, instance, instance_version, patient, series, storable, study

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from pacs.index import InstanceRecord, Level, Outcome

#: Instances looked up and inserted together.
CHUNK_RECORDS = 500
#: Longest value [characters] that an SQL index holds whole; PostgreSQL's holds 2704 bytes.  DICOM allows 64 a group.
MAX_KEY_CHARACTERS = 500


@dataclass(slots=True)
class Registration:
    """One call of `Index.register`: its connection and what it has looked up so far."""

    connection: Connection
    source: str
    counts: dict[Outcome, int] = field(default_factory=lambda: {"added": 0, "identical": 0, "version": 0})
    _series_ids: dict[tuple[str, str, str], int] = field(default_factory=dict)
    _now: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def add(self, records: Sequence[InstanceRecord]) -> None:
        """Add up to `CHUNK_RECORDS` records."""
        known = self._known([record.sop_instance_uid for record in records])
        fresh: dict[str, InstanceRecord] = {}
        for record in records:
            uid = record.sop_instance_uid
            if uid in fresh and fresh[uid].location.dataset_sha256 != record.location.dataset_sha256:
                self._insert(list(fresh.values()))
                known.update(self._known(list(fresh)))
                fresh = {}
            if uid in fresh:
                self.counts["identical"] += 1
            elif uid in known:
                self.counts[self._compare(known[uid], record)] += 1
            else:
                fresh[uid] = record
        self._insert(list(fresh.values()))

    def _known(self, uids: list[str]) -> dict[str, tuple[int, str]]:
        """Row id and digest of the instances that are there already."""
        columns = (instance.c.sop_instance_uid, instance.c.id, instance.c.dataset_sha256)
        rows = self.connection.execute(select(*columns).where(instance.c.sop_instance_uid.in_(uids)))
        return {uid: (row_id, digest) for uid, row_id, digest in rows}

    def _compare(self, known: tuple[int, str], record: InstanceRecord) -> Outcome:
        """Another arrival of a known UID: the same bytes as one that is kept, or a new version."""
        row_id, digest = known
        if digest == record.location.dataset_sha256:
            return "identical"
        versions = self.connection.execute(
            select(instance_version.c.dataset_sha256).where(instance_version.c.instance == row_id)
        )
        kept = set(versions.scalars())
        if record.location.dataset_sha256 in kept:
            return "identical"
        number = len(kept) + 2
        row = {
            "instance": row_id,
            "version": number,
            "study_uid": record.study_uid,
            "series_uid": record.series_uid,
            "patient_id": _key(record.patient_id),
            "attributes": {keyword: storable(value) for keyword, value in record.attributes.items()},
            **self._bytes_row(record),
        }
        self.connection.execute(insert(instance_version), [row])
        detail = {"version": number, "dataset_sha256": record.location.dataset_sha256, "source": self.source}
        self._note("version", record.sop_instance_uid, detail)
        return "version"

    def _insert(self, records: list[InstanceRecord]) -> None:
        """Insert instances that are not there yet."""
        if not records:
            return
        rows = [
            {
                "series": self._series_id(record),
                "sop_instance_uid": record.sop_instance_uid,
                "instance_number": _integer(record.attributes.get("InstanceNumber", "")),
                "attributes": _stored(record, "IMAGE"),
                **self._bytes_row(record),
            }
            for record in records
        ]
        self.connection.execute(insert(instance), rows)
        self.counts["added"] += len(rows)

    def _bytes_row(self, record: InstanceRecord) -> dict[str, Any]:
        """The columns that instances and versions share."""
        location = record.location
        return {
            "sop_class_uid": record.sop_class_uid,
            "transfer_syntax_uid": record.transfer_syntax_uid,
            "path": location.path,
            "offset": location.offset,
            "length": location.length,
            "pixel_offset": location.pixel_offset,
            "sha256": location.sha256,
            "dataset_sha256": location.dataset_sha256,
            "source": self.source,
            "received": self._now,
        }

    def _series_id(self, record: InstanceRecord) -> int:
        """Row id of the record's series, made if need be."""
        identity = _identity(record)
        key = (identity, record.study_uid, record.series_uid)
        if key not in self._series_ids:
            study_id = self._study_id(record, identity)
            found = self._scalar(
                select(series.c.id).where(series.c.study == study_id, series.c.series_uid == record.series_uid)
            )
            self._series_ids[key] = found if found is not None else self._new_series(record, study_id)
        return self._series_ids[key]

    def _new_series(self, record: InstanceRecord, study_id: int) -> int:
        """Insert a series; the same UID in another study is told."""
        elsewhere = self._scalar(select(series.c.id).where(series.c.series_uid == record.series_uid).limit(1))
        if elsewhere is not None:
            self._note("series-of-two-studies", record.series_uid, {"study_uid": record.study_uid})
        modality = _key(canonical("Modality", record.attributes.get("Modality", "")))
        return self._insert_one(
            series,
            study=study_id,
            series_uid=record.series_uid,
            modality=modality,
            attributes=_stored(record, "SERIES"),
        )

    def _study_id(self, record: InstanceRecord, identity: str) -> int:
        """Row id of the record's study, made if need be; it stays with the patient who came first."""
        row = self.connection.execute(
            select(study.c.id, patient.c.identity).join(patient).where(study.c.study_uid == record.study_uid)
        ).one_or_none()
        if row is not None:
            if row.identity != identity:
                self._note("study-of-two-patients", record.study_uid, {"patient": identity[:300]})
            return int(row.id)
        attributes = _stored(record, "STUDY")
        patient_id = self._scalar(select(patient.c.id).where(patient.c.identity == identity))
        return self._insert_one(
            study,
            patient=patient_id if patient_id is not None else self._new_patient(record, identity),
            study_uid=record.study_uid,
            study_date=_key(_comparable(attributes, "StudyDate")),
            accession_number=_key(_comparable(attributes, "AccessionNumber")),
            study_id=_key(_comparable(attributes, "StudyID")),
            attributes=attributes,
        )

    def _new_patient(self, record: InstanceRecord, identity: str) -> int:
        """Insert a patient."""
        attributes = _stored(record, "PATIENT")
        alphabetic, ideographic, phonetic = name_groups(record.attributes.get("PatientName", ""))
        return self._insert_one(
            patient,
            identity=identity,
            patient_id=_key(record.patient_id),
            name_alphabetic=_key(alphabetic),
            name_ideographic=_key(ideographic),
            name_phonetic=_key(phonetic),
            birth_date=_key(_comparable(attributes, "PatientBirthDate")),
            attributes=attributes,
        )

    def _note(self, kind: str, uid: str, detail: dict[str, Any]) -> None:
        """Record an event, once."""
        text = json.dumps(detail, sort_keys=True, ensure_ascii=False)
        same = (event.c.kind == kind, event.c.uid == uid, event.c.detail == text)
        if not self.connection.execute(select(func.count()).select_from(event).where(*same)).scalar_one():
            row = {"happened": self._now, "kind": kind, "uid": uid, "detail": text}
            self.connection.execute(insert(event), [row])

    def _scalar(self, statement: Any) -> int | None:
        """A row id, or None."""
        value = self.connection.execute(statement).scalar_one_or_none()
        return int(value) if value is not None else None

    def _insert_one(self, table: Any, **values: Any) -> int:
        """Insert a row and return its id."""
        statement = insert(table).values(**values).returning(table.c.id)
        return int(self.connection.execute(statement).scalar_one())


def _key(text: str) -> str:
    """A value as its SQL index holds it: one that is far too long is found by its beginning only."""
    return storable(text[:MAX_KEY_CHARACTERS])


def _identity(record: InstanceRecord) -> str:
    """What makes two records the same patient."""
    identity = _whole_identity(record)
    if len(identity) > MAX_KEY_CHARACTERS:
        return f"{_key(identity)}\\{hashlib.sha256(identity.encode()).hexdigest()}"
    return storable(identity)


def _whole_identity(record: InstanceRecord) -> str:
    """PatientID, or name and birth date after backslashes where there is none."""
    if record.patient_id:
        return record.patient_id
    name, birth = record.attributes.get("PatientName", ""), record.attributes.get("PatientBirthDate", "")
    return f"\\{canonical('PatientName', name)}\\{canonical('PatientBirthDate', birth)}"


def _stored(record: InstanceRecord, level: Level) -> dict[str, str]:
    """A level's attributes as they are answered, with comparable forms where these differ."""
    stored: dict[str, str] = {}
    for keyword in INDEXED_KEYWORDS[level]:
        value = storable(record.attributes.get(keyword, ""))
        if not value:
            continue
        stored[keyword] = value
        comparable = canonical(keyword, value)
        if comparable != value:
            stored["~" + keyword] = comparable
    return stored


def _comparable(stored: dict[str, str], keyword: str) -> str:
    """The comparable form of a stored attribute, or ""."""
    return stored.get("~" + keyword) or stored.get(keyword, "")


def _integer(text: str) -> int | None:
    """A number to sort by; None where the text is none."""
    value = canonical("InstanceNumber", text)
    return int(value) if value.lstrip("-").isascii() and value.lstrip("-").isdigit() and len(value) < 18 else None
