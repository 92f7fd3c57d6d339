# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sqlite3
import threading
import time

import pytest

from pacs.errors import IndexUnavailableError
from pacs.index import Match, Query
from pacs.sql_index import SqlIndex
from pacs.tables import MIGRATIONS
from storage.database import apply_migrations, create_database_engine
from tests.support.index_engine import sqlite_index
from tests.support.records import make_record


@pytest.fixture
def index(tmp_path):
    with sqlite_index(tmp_path / "index.sqlite") as made:
        yield made


def test_a_version_is_kept_and_told(index):
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


def test_a_study_stays_with_its_first_patient(index):
    stray = make_record(1, number=2, PatientID="OTHER")
    index.register([make_record(1), stray], source="A")
    index.register([make_record(1, number=3, PatientID="OTHER")], source="A")
    assert [one["PatientID"] for one in index.find(Query("PATIENT"), limit=10)] == ["P1"]
    assert len(index.instances(study_uids=[stray.study_uid])) == 3
    assert [one["kind"] for one in index.events()] == ["study-of-two-patients"]


def test_a_series_uid_in_two_studies_gives_two_series_and_an_event(index):
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


def test_many_uids_in_one_request(index):
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


def test_several_writers_lose_nothing(tmp_path):
    """Own engines, as in several processes: every record is there once, whoever sent it first."""
    path = str(tmp_path / "index.sqlite")
    apply_migrations(create_database_engine(path), MIGRATIONS)
    totals = []

    def send():
        engine = create_database_engine(path)
        counts = [SqlIndex(engine).register([make_record(number=number)], source="A") for number in range(20)]
        totals.append(sum(count["added"] for count in counts))
        engine.dispose()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(totals) == 20
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM instance").fetchone() == (20,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


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
