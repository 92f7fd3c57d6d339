# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sqlite3
import threading
import time

import pytest
import sqlalchemy

from pacs.errors import IndexUnavailableError
from pacs.index import Match, Query
from pacs.sql_index import SqlIndex
from pacs.tables import MIGRATIONS, metadata
from storage.database import apply_migrations, create_database_engine, read_transaction, write_transaction
from tests.support.index_engine import sql_index, sqlite_index
from tests.support.postgres import new_database
from tests.support.records import make_record

BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture
def index(tmp_path):
    with sqlite_index(tmp_path / "index.sqlite") as made:
        yield made


@pytest.fixture(params=BOTH)
def url(request, tmp_path):
    if request.param == "sqlite":
        yield str(tmp_path / "index.sqlite")
    else:
        with new_database(request.getfixturevalue("postgresql_url")) as made:
            yield made


@pytest.fixture
def any_index(url):
    with sql_index(url) as made:
        yield made


def test_a_version_is_kept_and_told(any_index):
    index = any_index
    first, second, third = (make_record(content=content) for content in "abc")
    index.register([first], source="SCANNER")
    index.register([second, third, second], source="INTRUDER")
    assert [one.location for one in index.versions(first.sop_instance_uid)] == [
        one.location for one in (first, second, third)
    ]
    events = index.events()
    assert [one["kind"] for one in events] == ["version", "version"]
    detail = json.loads(events[0]["detail"])
    assert detail == {"version": 2, "dataset_sha256": second.location.dataset_sha256, "source": "INTRUDER"}
    assert index.events(after=int(events[0]["id"])) == events[1:]


def test_a_study_stays_with_its_first_patient(any_index):
    index = any_index
    stray = make_record(1, number=2, PatientID="OTHER")
    index.register([make_record(1), stray], source="A")
    index.register([make_record(1, number=3, PatientID="OTHER")], source="A")
    assert [one["PatientID"] for one in index.find(Query("PATIENT"), limit=10)] == ["P1"]
    assert len(index.instances(study_uids=[stray.study_uid])) == 3
    assert [one["kind"] for one in index.events()] == ["study-of-two-patients"]


def test_a_series_uid_in_two_studies_gives_two_series_and_an_event(any_index):
    index = any_index
    one, other = make_record(1), make_record(2)
    moved = type(other)(**{**_fields(other), "series_uid": one.series_uid})
    index.register([one, moved], source="A")
    assert len(index.find(Query("SERIES"), limit=10)) == 2
    assert [event["kind"] for event in index.events()] == ["series-of-two-studies"]


def _fields(record):
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def test_patients_without_an_id_are_told_apart_by_name_and_birth_date(index):
    index.register(
        [
            make_record(1, PatientID="", PatientName="A^B"),
            make_record(2, PatientID="", PatientName="A^B"),
            make_record(3, PatientID="", PatientName="C"),
        ],
        source="A",
    )
    assert [one["PatientName"] for one in index.find(Query("PATIENT"), limit=10)] == ["A^B", "C"]


def test_queries_by_key_are_answered_through_an_sql_index(index):
    index.register([make_record(patient, StudyDate="20260101") for patient in range(1, 30)], source="A")
    queries = {
        "patient_by_alphabetic": {"PatientName": Match(wildcard="name7*")},
        "patient_by_id": {"PatientID": Match(exact=("P7",))},
        "study_by_date": {"StudyDate": Match(range=("20260101", "20260102"))},
        "study_by_accession": {"AccessionNumber": Match(wildcard="A1*")},
        "sqlite_autoindex_study": {"StudyInstanceUID": Match(exact=("1.2.7.1",))},
    }
    with index._engine.connect() as connection:
        for name, matches in queries.items():
            statement = index._select(Query("IMAGE", matches)).limit(10).compile(index._engine)
            values = statement.construct_params()
            arguments = tuple(values[key] for key in statement.positiontup)
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", arguments).all()
            steps = " ".join(row[3] for row in plan)
            assert name in steps
            assert "SCAN" not in steps


def test_many_uids_in_one_request(any_index):
    index = any_index
    index.register([make_record(number=number) for number in range(1, 20)], source="A")
    asked = [f"1.2.1.1.1.{number}" for number in range(12_000)]
    found = index.instances(study_uids=["1.2.1.1"], sop_instance_uids=asked)
    assert [one.attributes["InstanceNumber"] for one in found] == [str(number) for number in range(1, 20)]
    assert index.find(Query("IMAGE", {"SOPInstanceUID": Match(exact=tuple(asked[:10_000]))}), limit=5)


def test_a_thousand_instances_register_quickly(index):
    records = [make_record(number=number, ImageType="A\\B", Rows="512") for number in range(2000)]
    start = time.process_time()
    assert index.register(iter(records), source="A")["added"] == 2000
    assert time.process_time() - start < 2.0


def test_several_writers_lose_nothing(url):
    """Own engines, as in several processes: every record is there once, whoever sent it first."""
    with sql_index(url):
        pass
    totals = []

    def send():
        engine = create_database_engine(url)
        counts = [SqlIndex(engine).register([make_record(number=number)], source="A") for number in range(20)]
        totals.append(sum(count["added"] for count in counts))
        engine.dispose()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(totals) == 20
    with sql_index(url) as index:
        assert len(index.instances(study_uids=["1.2.1.1"])) == 20


def test_the_sqlite_file_has_a_write_ahead_log(index, tmp_path):
    with sqlite3.connect(tmp_path / "index.sqlite") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_query_sees_one_state_of_the_database(any_index):
    """A page and the counts beside it belong together, whoever registers meanwhile."""
    index = any_index
    index.register([make_record()], source="A")
    count = sqlalchemy.text("SELECT count(*) FROM instance")
    with read_transaction(index._engine) as connection:
        assert connection.execute(count).scalar() == 1
        index.register([make_record(number=2)], source="B")
        assert connection.execute(count).scalar() == 1


@pytest.mark.parametrize("keyword", ["PatientID", "PatientName", "AccessionNumber", "Modality", "StudyDescription"])
def test_values_that_no_standard_allows_are_kept(any_index, keyword):
    """Far too long for an index of PostgreSQL, with a character that it refuses in any text."""
    index = any_index
    text = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(9000))
    first = make_record(number=1, **{keyword: f"A\0B{text}"})
    assert index.register([first, make_record(2, number=1)], source="A")["added"] == 2
    other = make_record(3, number=1, **{keyword: f"A\0B{text}C"})
    assert index.register([other], source="A")["added"] == 1
    assert len(index.find(Query("PATIENT"), limit=10)) == 3
    wanted = Query("STUDY", {keyword: Match(wildcard="A\ufffdB*")}, wanted=(keyword,))
    level = {"Modality": "SERIES"}.get(keyword, "STUDY")
    found = index.find(Query(level, wanted.matches, wanted=wanted.wanted), limit=10)
    assert len(found) == 2
    assert {answer[keyword][:4] for answer in found} == {f"A\ufffdB{text[0]}"}
    assert index.find(Query(level, {keyword: Match(exact=("x\0y",))}), limit=10) == []


def test_the_first_schema_is_that_of_the_tables(url):
    """It is written down literally; the tables that the program knows must be the same."""
    engine = create_database_engine(url)
    apply_migrations(engine, MIGRATIONS)
    inspector = sqlalchemy.inspect(engine)
    assert {*inspector.get_table_names()} == {*metadata.tables, "schema_migration"}
    for table in metadata.tables.values():
        columns = {column["name"]: column for column in inspector.get_columns(table.name)}
        assert list(columns) == [column.name for column in table.columns]
        for column in table.columns:
            there = columns[column.name]
            assert there["nullable"] == column.nullable
            kind = column.type.compile(engine.dialect)
            assert str(there["type"].compile(engine.dialect)).split(" COLLATE")[0] == kind
        uniques = {tuple(one["column_names"]) for one in inspector.get_unique_constraints(table.name)}
        indexes = {
            one["name"]: one["column_names"]
            for one in inspector.get_indexes(table.name)
            if tuple(one["column_names"]) not in uniques
        }
        assert indexes == {str(one.name): [column.name for column in one.columns] for one in table.indexes}
        named = [one for one in table.constraints if isinstance(one, sqlalchemy.UniqueConstraint)]
        assert uniques == {tuple(column.name for column in one.columns) for one in named}
        links = {(*one["constrained_columns"], one["referred_table"]) for one in inspector.get_foreign_keys(table.name)}
        assert links == {(link.parent.name, link.column.table.name) for link in table.foreign_keys}
    engine.dispose()


@pytest.mark.postgresql
def test_queries_by_key_are_answered_through_an_index_of_postgresql(postgresql_url):
    with new_database(postgresql_url) as url, sql_index(url) as index:
        index.register([make_record(patient) for patient in range(1, 30)], source="A")
        queries = {
            "patient_by_alphabetic": {"PatientName": Match(wildcard="name7*")},
            "patient_by_id": {"PatientID": Match(exact=("P7",))},
            "study_by_accession": {"AccessionNumber": Match(wildcard="A1*")},
            "study_study_uid_key": {"StudyInstanceUID": Match(exact=("1.2.7.1",))},
        }
        with write_transaction(index._engine) as connection:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            for name, matches in queries.items():
                level = "PATIENT" if name.startswith("patient") else "STUDY"
                statement = index._select(Query(level, matches)).limit(10).compile(index._engine)
                plan = connection.exec_driver_sql(f"EXPLAIN {statement}", statement.params).scalars().all()
                assert name in " ".join(plan)
                assert "Index Cond" in " ".join(plan)


def test_a_database_without_the_tables_is_told_in_plain_words(tmp_path):
    engine = create_database_engine(str(tmp_path / "empty.sqlite"))
    with pytest.raises(IndexUnavailableError, match="no such table"):
        SqlIndex(engine).find(Query("STUDY"), limit=1)
    engine.dispose()


def test_a_full_database_adds_nothing(index):
    with index._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 40")
    with pytest.raises(IndexUnavailableError, match="full"):
        index.register([make_record(number=number) for number in range(3000)], source="A")
    assert index.find(Query("STUDY"), limit=1) == []
