# SPDX-License-Identifier: Apache-2.0
"""Tables of the index, and the migrations that make them.

A row holds its level's attributes as they are answered (JSON), and beside them, in comparable form
(`pacs.matching`), the few keys that people search by: these have SQL indices.  In the JSON a key ``~Keyword`` is
the comparable form of a value where it differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, Integer, MetaData, Table, Text, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB

from storage.database import Migration

if TYPE_CHECKING:
    from sqlalchemy import Connection

metadata = MetaData()
# SQLite numbers rows by itself only in a column of this type; its integers have 64 bits too.
_NUMBER = BigInteger().with_variant(Integer, "sqlite")
_ATTRIBUTES = JSON().with_variant(JSONB, "postgresql")

patient = Table(
    "patient",
    metadata,
    Column("id", _NUMBER, primary_key=True),
    # PatientID, or for patients without one a backslash with name and birth date (no PatientID has a backslash).
    Column("identity", Text, nullable=False, unique=True),
    Column("patient_id", Text, nullable=False),
    Column("name_alphabetic", Text, nullable=False),
    Column("name_ideographic", Text, nullable=False),
    Column("name_phonetic", Text, nullable=False),
    Column("birth_date", Text, nullable=False),
    Column("attributes", _ATTRIBUTES, nullable=False),
    Index("patient_by_id", "patient_id"),
    Index("patient_by_alphabetic", "name_alphabetic"),
    Index("patient_by_ideographic", "name_ideographic"),
    Index("patient_by_phonetic", "name_phonetic"),
    Index("patient_by_birth_date", "birth_date"),
)

study = Table(
    "study",
    metadata,
    Column("id", _NUMBER, primary_key=True),
    Column("patient", ForeignKey("patient.id"), nullable=False),
    Column("study_uid", Text, nullable=False, unique=True),
    Column("study_date", Text, nullable=False),
    Column("accession_number", Text, nullable=False),
    Column("study_id", Text, nullable=False),
    Column("attributes", _ATTRIBUTES, nullable=False),
    Index("study_by_patient", "patient"),
    Index("study_by_date", "study_date"),
    Index("study_by_accession", "accession_number"),
    Index("study_by_study_id", "study_id"),
)

series = Table(
    "series",
    metadata,
    Column("id", _NUMBER, primary_key=True),
    Column("study", ForeignKey("study.id"), nullable=False),
    Column("series_uid", Text, nullable=False),
    Column("modality", Text, nullable=False),
    Column("attributes", _ATTRIBUTES, nullable=False),
    UniqueConstraint("study", "series_uid", name="series_once_a_study"),
    Index("series_by_uid", "series_uid"),
    Index("series_by_modality", "study", "modality"),
)


def storable(text: str) -> str:
    """A text without the character 0, which DICOM forbids within a value and PostgreSQL in any."""
    return text.replace("\0", "\ufffd")


def _byte_columns() -> list[Column[object]]:
    """Columns of `pacs.index.Location`, and who sent the bytes and when."""
    return [
        Column("sop_class_uid", Text, nullable=False),
        Column("transfer_syntax_uid", Text, nullable=False),
        Column("path", Text, nullable=False),
        Column("offset", BigInteger, nullable=False),
        Column("length", BigInteger, nullable=False),
        Column("pixel_offset", BigInteger, nullable=False),
        Column("sha256", Text, nullable=False),
        Column("dataset_sha256", Text, nullable=False),
        Column("source", Text, nullable=False),
        Column("received", Text, nullable=False),
    ]


instance = Table(
    "instance",
    metadata,
    Column("id", _NUMBER, primary_key=True),
    Column("series", ForeignKey("series.id"), nullable=False),
    Column("sop_instance_uid", Text, nullable=False, unique=True),
    Column("instance_number", BigInteger),
    Column("attributes", _ATTRIBUTES, nullable=False),
    *_byte_columns(),
    Index("instance_by_series", "series", "sop_class_uid"),
    Index("instance_by_path", "path"),
)

#: Other bytes under a known SOP Instance UID, numbered from 2; they may name another study, series or patient.
instance_version = Table(
    "instance_version",
    metadata,
    Column("id", _NUMBER, primary_key=True),
    Column("instance", ForeignKey("instance.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("study_uid", Text, nullable=False),
    Column("series_uid", Text, nullable=False),
    Column("patient_id", Text, nullable=False),
    Column("attributes", _ATTRIBUTES, nullable=False),
    *_byte_columns(),
    UniqueConstraint("instance", "version", name="version_once"),
    UniqueConstraint("instance", "dataset_sha256", name="version_bytes_once"),
    Index("instance_version_by_path", "path"),
)

#: What an administrator should know of: kind "version", "study-of-two-patients", "series-of-two-studies".
event = Table(
    "event",
    metadata,
    Column("id", _NUMBER, primary_key=True),
    Column("happened", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("uid", Text, nullable=False),
    Column("detail", Text, nullable=False),
    UniqueConstraint("kind", "uid", "detail", name="event_once"),
)


# Types of the first schema.  PostgreSQL compares texts byte by byte, as SQLite does: a language's order has no place
# in ranges of UIDs and dates, and only so an SQL index serves a prefix.
_TYPES = {
    "sqlite": {"number": "INTEGER", "row_id": "INTEGER NOT NULL", "text": "TEXT", "json": "JSON"},
    "postgresql": {
        "number": "BIGINT",
        "row_id": "BIGINT GENERATED BY DEFAULT AS IDENTITY",
        "text": 'TEXT COLLATE "C"',
        "json": "JSONB",
    },
}
_BYTES = """
    sop_class_uid {text} NOT NULL, transfer_syntax_uid {text} NOT NULL, path {text} NOT NULL,
    "offset" BIGINT NOT NULL, length BIGINT NOT NULL, pixel_offset BIGINT NOT NULL,
    sha256 {text} NOT NULL, dataset_sha256 {text} NOT NULL, source {text} NOT NULL, received {text} NOT NULL"""
_TABLES = (
    """CREATE TABLE patient (
    id {row_id}, identity {text} NOT NULL, patient_id {text} NOT NULL,
    name_alphabetic {text} NOT NULL, name_ideographic {text} NOT NULL, name_phonetic {text} NOT NULL,
    birth_date {text} NOT NULL, attributes {json} NOT NULL,
    PRIMARY KEY (id), UNIQUE (identity))""",
    "CREATE INDEX patient_by_id ON patient (patient_id)",
    "CREATE INDEX patient_by_alphabetic ON patient (name_alphabetic)",
    "CREATE INDEX patient_by_ideographic ON patient (name_ideographic)",
    "CREATE INDEX patient_by_phonetic ON patient (name_phonetic)",
    "CREATE INDEX patient_by_birth_date ON patient (birth_date)",
    """CREATE TABLE study (
    id {row_id}, patient {number} NOT NULL, study_uid {text} NOT NULL, study_date {text} NOT NULL,
    accession_number {text} NOT NULL, study_id {text} NOT NULL, attributes {json} NOT NULL,
    PRIMARY KEY (id), FOREIGN KEY (patient) REFERENCES patient (id), UNIQUE (study_uid))""",
    "CREATE INDEX study_by_patient ON study (patient)",
    "CREATE INDEX study_by_date ON study (study_date)",
    "CREATE INDEX study_by_accession ON study (accession_number)",
    "CREATE INDEX study_by_study_id ON study (study_id)",
    """CREATE TABLE series (
    id {row_id}, study {number} NOT NULL, series_uid {text} NOT NULL, modality {text} NOT NULL,
    attributes {json} NOT NULL,
    PRIMARY KEY (id), FOREIGN KEY (study) REFERENCES study (id),
    CONSTRAINT series_once_a_study UNIQUE (study, series_uid))""",
    "CREATE INDEX series_by_uid ON series (series_uid)",
    "CREATE INDEX series_by_modality ON series (study, modality)",
    """CREATE TABLE instance (
    id {row_id}, series {number} NOT NULL, sop_instance_uid {text} NOT NULL, instance_number BIGINT,
    attributes {json} NOT NULL,"""
    + _BYTES
    + """,
    PRIMARY KEY (id), FOREIGN KEY (series) REFERENCES series (id), UNIQUE (sop_instance_uid))""",
    "CREATE INDEX instance_by_series ON instance (series, sop_class_uid)",
    "CREATE INDEX instance_by_path ON instance (path)",
    """CREATE TABLE instance_version (
    id {row_id}, instance {number} NOT NULL, version INTEGER NOT NULL, study_uid {text} NOT NULL,
    series_uid {text} NOT NULL, patient_id {text} NOT NULL, attributes {json} NOT NULL,"""
    + _BYTES
    + """,
    PRIMARY KEY (id), FOREIGN KEY (instance) REFERENCES instance (id),
    CONSTRAINT version_once UNIQUE (instance, version),
    CONSTRAINT version_bytes_once UNIQUE (instance, dataset_sha256))""",
    "CREATE INDEX instance_version_by_path ON instance_version (path)",
    """CREATE TABLE event (
    id {row_id}, happened {text} NOT NULL, kind {text} NOT NULL, uid {text} NOT NULL, detail {text} NOT NULL,
    PRIMARY KEY (id), CONSTRAINT event_once UNIQUE (kind, uid, detail))""",
)


def _create_tables(connection: Connection) -> None:
    """Make the first schema; never changed any more, later ones alter it."""
    for statement in _TABLES:
        connection.exec_driver_sql(statement.format(**_TYPES[connection.dialect.name]))


#: For `storage.database.apply_migrations`.
MIGRATIONS = (Migration("pacs", 1, "index of patients, studies, series, instances and their versions", _create_tables),)
