# SPDX-License-Identifier: Apache-2.0
"""The index in an SQL database: SQLite (WAL) by default, used by several threads and processes at once."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import exc, func, select

from pacs.attributes import INDEXED_KEYWORDS, LEVELS, UNIQUE_KEYS
from pacs.errors import IndexUnavailableError, InvalidQueryError
from pacs.index import InstanceRecord, Location
from pacs.query import COMPUTED_LEVEL
from pacs.sql_conditions import KEY_COLUMNS, LEVEL_TABLES, condition, is_selective
from pacs.sql_register import CHUNK_RECORDS, Registration
from pacs.tables import event, instance, instance_version, patient, series, storable, study
from storage.database import read_transaction, write_transaction
from storage.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection, Engine, Row, Select

    from pacs.index import Level, Outcome, Query

#: Values in one IN (...): SQLite takes 32766 variables.
_CHUNK_VALUES = 5000
_FROM = {
    "PATIENT": patient,
    "STUDY": patient.join(study),
    "SERIES": patient.join(study).join(series),
    "IMAGE": patient.join(study).join(series).join(instance),
}
_BYTES = ("path", "offset", "length", "sha256", "dataset_sha256", "pixel_offset")


class SqlIndex:
    """`pacs.index.Index` over SQLAlchemy Core.

    Parameters
    ----------
    engine : Engine
        An engine of `storage.database` whose schema is up to date (`pacs.tables.MIGRATIONS`).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._glob = engine.dialect.name == "sqlite"

    def register(self, records: Iterable[InstanceRecord], *, source: str) -> dict[Outcome, int]:
        """Add all records in one transaction (all or none), and count what came of them.

        `records` is read in chunks, so that a generator keeps memory small.

        Raises
        ------
        IndexUnavailableError
            If the database is full, locked for too long, or does not answer: nothing was added then.
        """
        remaining = iter(records)
        with self._transaction(_write) as connection:
            registration = Registration(connection, source)
            while chunk := list(islice(remaining, CHUNK_RECORDS)):
                registration.add(chunk)
        return registration.counts

    def find(self, query: Query, *, limit: int, offset: int = 0) -> list[dict[str, str]]:
        """One mapping keyword -> value for each entity at the query's level, in the order of their registration.

        Besides the wanted keywords all attributes of the level itself and the unique keys above it are given.

        Raises
        ------
        IndexUnavailableError
            If the database does not answer.
        """
        with self._transaction(read_transaction) as connection:
            rows = connection.execute(self._select(query).limit(limit).offset(offset)).all()
            found = [_answer(row, query) for row in rows]
            for keyword in query.wanted:
                if keyword in COMPUTED_LEVEL and _is_above(COMPUTED_LEVEL[keyword], query.level):
                    _add_computed(connection, keyword, rows, found)
        return found

    def instances(
        self, *, patient_id: str | None = None, study_uids: Sequence[str] = (), series_uids: Sequence[str] = (),
        sop_instance_uids: Sequence[str] = (),
    ) -> list[InstanceRecord]:  # fmt: skip
        """Instances under all the given keys, ordered by series, instance number, UID; the first version of each.

        Raises
        ------
        InvalidQueryError
            If no key is given.
        IndexUnavailableError
            If the database does not answer.
        """
        keys = {
            study.c.study_uid: _storable(study_uids),
            series.c.series_uid: _storable(series_uids),
            instance.c.sop_instance_uid: _storable(sop_instance_uids),
        }
        if patient_id is None and not any(keys.values()):
            raise InvalidQueryError("Instances were asked for without any key.")
        longest = max(keys, key=lambda column: len(keys[column]))
        chunks = _chunks(keys.pop(longest)) or [[]]
        rows: list[Row[Any]] = []
        with self._transaction(read_transaction) as connection:
            for chunk in chunks:
                statement = _select_instances()
                for column, values in {**keys, longest: chunk}.items():
                    if values:
                        statement = statement.where(column.in_(values))
                if patient_id is not None:
                    statement = statement.where(patient.c.patient_id == storable(patient_id))
                rows += connection.execute(statement).all()
        rows.sort(key=_by_series_number_uid)
        return [_record(row) for row in rows]

    def versions(self, sop_instance_uid: str) -> list[InstanceRecord]:
        """All kept versions of an instance, the first one (the answer) first; empty if the UID is unknown.

        Raises
        ------
        IndexUnavailableError
            If the database does not answer.
        """
        first = self.instances(sop_instance_uids=[sop_instance_uid])
        statement = (
            select(instance_version, instance.c.sop_instance_uid)
            .join(instance)
            .where(instance.c.sop_instance_uid == storable(sop_instance_uid))
            .order_by(instance_version.c.version)
        )
        with self._transaction(read_transaction) as connection:
            rows = connection.execute(statement).all()
        return first + [
            InstanceRecord(
                sop_instance_uid=row.sop_instance_uid,
                sop_class_uid=row.sop_class_uid,
                transfer_syntax_uid=row.transfer_syntax_uid,
                study_uid=row.study_uid,
                series_uid=row.series_uid,
                patient_id=row.patient_id,
                attributes=row.attributes,
                location=_location(row),
            )
            for row in rows
        ]

    def sizes(self) -> dict[Level, int]:
        """How many entities there are at each level; every row is counted, which takes a while where there are many.

        Raises
        ------
        IndexUnavailableError
            If the database does not answer.
        """
        with self._transaction(read_transaction) as connection:
            return {
                level: connection.execute(select(func.count()).select_from(LEVEL_TABLES[level])).scalar_one()
                for level in LEVELS
            }

    def located(self, paths: Sequence[str]) -> set[str]:
        """Which of these paths some instance or version lies at.

        Raises
        ------
        IndexUnavailableError
            If the database does not answer.
        """
        found: set[str] = set()
        with self._transaction(read_transaction) as connection:
            for chunk in _chunks(list(paths)):
                for table in (instance, instance_version):
                    rows = connection.execute(select(table.c.path).where(table.c.path.in_(chunk)).distinct())
                    found.update(rows.scalars())
        return found

    def events(self, *, limit: int = 1000, after: int = 0) -> list[dict[str, str]]:
        """Events with an id above `after`, oldest first: id, happened, kind, uid, detail (JSON).

        Raises
        ------
        IndexUnavailableError
            If the database does not answer.
        """
        with self._transaction(read_transaction) as connection:
            rows = connection.execute(select(event).where(event.c.id > after).order_by(event.c.id).limit(limit))
            return [{name: str(value) for name, value in row._mapping.items()} for row in rows]

    def _select(self, query: Query) -> Select[Any]:
        """The statement of a query, without its page."""
        levels = LEVELS[: LEVELS.index(query.level) + 1]
        columns = [LEVEL_TABLES[level].c.id.label(f"{level}_id") for level in levels]
        columns += [LEVEL_TABLES[level].c.attributes.label(f"{level}_attributes") for level in levels]
        columns += [KEY_COLUMNS[UNIQUE_KEYS[level]].label(UNIQUE_KEYS[level]) for level in levels]
        conditions = [
            found
            for keyword, match in query.matches.items()
            if (found := condition(keyword, match, query.level, glob=self._glob)) is not None
        ]
        statement = select(*columns).select_from(_FROM[query.level]).where(*conditions)
        row_id = LEVEL_TABLES[query.level].c.id
        if any(is_selective(keyword, match) for keyword, match in query.matches.items()):
            # An expression to sort by: otherwise SQLite walks the whole table by id, to save the sort.
            return statement.order_by(row_id + 0)
        return statement.order_by(row_id)

    @contextmanager
    def _transaction(self, kind: Callable[[Engine], AbstractContextManager[Connection]]) -> Iterator[Connection]:
        """A transaction whose failures are told in the package's own words."""
        try:
            with kind(self._engine) as connection:
                yield connection
        except (DatabaseError, exc.IntegrityError, exc.TimeoutError) as error:
            # What a database says of a double key quotes it, and the key may be a patient's.
            reason = "a key came twice" if isinstance(error, exc.IntegrityError) else str(error)
            raise IndexUnavailableError(f"The index does not answer: {reason}.") from error


def _write(engine: Engine) -> AbstractContextManager[Connection]:
    """One writer at a time: what it found missing nobody else adds, and ids follow the order of the commits."""
    return write_transaction(engine, only_writer_of="pacs")


def _answer(row: Row[Any], query: Query) -> dict[str, str]:
    """Attributes of the row's own level, unique keys above it, and what is wanted of the levels above."""
    answer: dict[str, str] = {}
    wanted = set(query.wanted)
    for level in LEVELS[: LEVELS.index(query.level) + 1]:
        stored: Mapping[str, str] = getattr(row, f"{level}_attributes")
        for keyword in INDEXED_KEYWORDS[level]:
            if keyword in stored and (level == query.level or keyword in wanted):
                answer[keyword] = stored[keyword]
        answer[UNIQUE_KEYS[level]] = getattr(row, UNIQUE_KEYS[level])
    return answer


def _is_above(level: Level, other: Level) -> bool:
    """Whether `level` is `other` or above it."""
    return LEVELS.index(level) <= LEVELS.index(other)


def _add_computed(
    connection: Connection, keyword: str, rows: Sequence[Row[Any]], found: Sequence[dict[str, str]]
) -> None:  # fmt: skip
    """Add one computed attribute (PS3.4 C.3.4) to a page of answers."""
    level = COMPUTED_LEVEL[keyword]
    ids = [getattr(row, f"{level}_id") for row in rows]
    values: dict[int, str] = {}
    for chunk in _chunks(list(dict.fromkeys(ids))):
        values.update(_computed(connection, keyword, chunk))
    for answer, row_id in zip(found, ids, strict=True):
        answer[keyword] = values.get(row_id, "0" if keyword.startswith("NumberOf") else "")


def _computed(connection: Connection, keyword: str, ids: list[int]) -> dict[int, str]:
    """Counts by row id, or the distinct values below it joined by a backslash."""
    studies_series = study.join(series)
    source, parent, counted = {
        "NumberOfPatientRelatedStudies": (study, study.c.patient, study.c.id),
        "NumberOfPatientRelatedSeries": (studies_series, study.c.patient, series.c.id),
        "NumberOfPatientRelatedInstances": (studies_series.join(instance), study.c.patient, instance.c.id),
        "NumberOfStudyRelatedSeries": (series, series.c.study, series.c.id),
        "NumberOfStudyRelatedInstances": (series.join(instance), series.c.study, instance.c.id),
        "NumberOfSeriesRelatedInstances": (instance, instance.c.series, instance.c.id),
        "ModalitiesInStudy": (series, series.c.study, series.c.modality),
        "SOPClassesInStudy": (series.join(instance), series.c.study, instance.c.sop_class_uid),
    }[keyword]
    if keyword.startswith("NumberOf"):
        statement = select(parent, func.count(counted)).select_from(source).where(parent.in_(ids)).group_by(parent)
        return {row_id: str(number) for row_id, number in connection.execute(statement)}
    listing = select(parent, counted).distinct().select_from(source).where(parent.in_(ids), counted != "")
    values: dict[int, list[str]] = {}
    for row_id, value in connection.execute(listing.order_by(parent, counted)):
        values.setdefault(row_id, []).append(value)
    return {row_id: "\\".join(listed) for row_id, listed in values.items()}


def _select_instances() -> Select[Any]:
    """Every column that an `InstanceRecord` needs."""
    return select(
        instance,
        patient.c.patient_id,
        study.c.study_uid,
        series.c.series_uid,
        patient.c.attributes.label("patient_attributes"),
        study.c.attributes.label("study_attributes"),
        series.c.attributes.label("series_attributes"),
    ).select_from(_FROM["IMAGE"])


def _by_series_number_uid(row: Row[Any]) -> tuple[int, bool, int, str]:
    """Order of instances; those without a number come last in their series."""
    return row.series, row.instance_number is None, row.instance_number or 0, row.sop_instance_uid


def _record(row: Row[Any]) -> InstanceRecord:
    """An instance as it was registered."""
    merged = {**row.patient_attributes, **row.study_attributes, **row.series_attributes, **row.attributes}
    return InstanceRecord(
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        study_uid=row.study_uid,
        series_uid=row.series_uid,
        patient_id=row.patient_id,
        attributes={keyword: value for keyword, value in merged.items() if not keyword.startswith("~")},
        location=_location(row),
    )


def _location(row: Row[Any]) -> Location:
    """Where the bytes of a row lie."""
    return Location(**{name: row._mapping[name] for name in _BYTES})


def _storable(uids: Iterable[str]) -> list[str]:
    """UIDs that were asked for, each once."""
    return list(dict.fromkeys(map(storable, uids)))


def _chunks(values: list[Any]) -> list[list[Any]]:
    """Values in pieces that fit one statement."""
    return [values[start : start + _CHUNK_VALUES] for start in range(0, len(values), _CHUNK_VALUES)]
