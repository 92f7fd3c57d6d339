# SPDX-License-Identifier: Apache-2.0
"""Tables of the index, and the migrations that make them.

A row holds its level's attributes as they are answered (JSON), and beside them, in comparable form
(`pacs.matching`), the few keys that people search by: these have SQL indices.  In the JSON a key ``~Keyword`` is
the comparable form of a value where it differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, Integer, MetaData, Table, Text, UniqueConstraint

from storage.database import Migration

if TYPE_CHECKING:
    from sqlalchemy import Connection

metadata = MetaData()

patient = Table(
    "patient",
    metadata,
    Column("id", Integer, primary_key=True),
    # PatientID, or for patients without one a backslash with name and birth date (no PatientID has a backslash).
    Column("identity", Text, nullable=False, unique=True),
    Column("patient_id", Text, nullable=False),
    Column("name_alphabetic", Text, nullable=False),
    Column("name_ideographic", Text, nullable=False),
    Column("name_phonetic", Text, nullable=False),
    Column("birth_date", Text, nullable=False),
    Column("attributes", JSON, nullable=False),
    Index("patient_by_id", "patient_id"),
    Index("patient_by_alphabetic", "name_alphabetic"),
    Index("patient_by_ideographic", "name_ideographic"),
    Index("patient_by_phonetic", "name_phonetic"),
    Index("patient_by_birth_date", "birth_date"),
)

study = Table(
    "study",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("patient", ForeignKey("patient.id"), nullable=False),
    Column("study_uid", Text, nullable=False, unique=True),
    Column("study_date", Text, nullable=False),
    Column("accession_number", Text, nullable=False),
    Column("study_id", Text, nullable=False),
    Column("attributes", JSON, nullable=False),
    Index("study_by_patient", "patient"),
    Index("study_by_date", "study_date"),
    Index("study_by_accession", "accession_number"),
    Index("study_by_study_id", "study_id"),
)

series = Table(
    "series",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", ForeignKey("study.id"), nullable=False),
    Column("series_uid", Text, nullable=False),
    Column("modality", Text, nullable=False),
    Column("attributes", JSON, nullable=False),
    UniqueConstraint("study", "series_uid", name="series_once_a_study"),
    Index("series_by_uid", "series_uid"),
    Index("series_by_modality", "study", "modality"),
)


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
    Column("id", Integer, primary_key=True),
    Column("series", ForeignKey("series.id"), nullable=False),
    Column("sop_instance_uid", Text, nullable=False, unique=True),
    Column("instance_number", BigInteger),
    Column("attributes", JSON, nullable=False),
    *_byte_columns(),
    Index("instance_by_series", "series", "sop_class_uid"),
    Index("instance_by_path", "path"),
)

#: Other bytes under a known SOP Instance UID, numbered from 2; they may name another study, series or patient.
instance_version = Table(
    "instance_version",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("instance", ForeignKey("instance.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("study_uid", Text, nullable=False),
    Column("series_uid", Text, nullable=False),
    Column("patient_id", Text, nullable=False),
    Column("attributes", JSON, nullable=False),
    *_byte_columns(),
    UniqueConstraint("instance", "version", name="version_once"),
    UniqueConstraint("instance", "dataset_sha256", name="version_bytes_once"),
    Index("instance_version_by_path", "path"),
)

#: What an administrator should know of: kind "version", "study-of-two-patients", "series-of-two-studies".
event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("happened", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("uid", Text, nullable=False),
    Column("detail", Text, nullable=False),
    UniqueConstraint("kind", "uid", "detail", name="event_once"),
)


def _create_tables(connection: Connection) -> None:
    """Make the first schema.  Before a table changes its shape above, its shape of today moves here literally."""
    metadata.create_all(connection, checkfirst=False)


#: For `storage.database.apply_migrations`.
MIGRATIONS = (Migration("pacs", 1, "index of patients, studies, series, instances and their versions", _create_tables),)
