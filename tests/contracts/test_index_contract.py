# SPDX-License-Identifier: Apache-2.0
"""What every index does: run on the fake, on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest

from pacs.errors import InvalidQueryError
from pacs.index import Match, Query
from tests.support.fake_index import FakeIndex
from tests.support.index_engine import sql_index, sqlite_index
from tests.support.postgres import empty_tables, new_database
from tests.support.records import make_record


@pytest.fixture(scope="module")
def postgresql_database(postgresql_url):
    with new_database(postgresql_url) as url:
        yield url


@pytest.fixture(params=["fake", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def index(request, tmp_path):
    if request.param == "fake":
        yield FakeIndex()
    elif request.param == "postgresql":
        url = request.getfixturevalue("postgresql_database")
        empty_tables(url)
        with sql_index(url) as made:
            yield made
    else:
        with sqlite_index(tmp_path / "index.sqlite") as made:
            yield made


#: Attributes of the one study of each patient in the matching tests.
STUDIES = {
    1: {
        "PatientName": "Müller^Anna",
        "PatientBirthDate": "19700131",
        "PatientSex": "F",
        "StudyDate": "20260102",
        "StudyTime": "093015.5",
    },
    2: {
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "StudyDate": "20260131",
        "StudyTime": "12",
        "AccessionNumber": "Ax1",
    },
    3: {
        "PatientName": "Brackets^[x]",
        "StudyDate": "20260201",
        "StudyTime": "235959",
        "AccessionNumber": "A*1",
        "Modality": "MR",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
    },
    4: {"PatientName": "100%_sure", "StudyDescription": "left knee", "ReferringPhysicianName": "House^Gregory"},
}


def uids(found, keyword):
    return [one[keyword] for one in found]


def test_counts_what_came_of_the_records(index):
    records = [make_record(number=n) for n in (1, 2, 3)]
    assert index.register(records, source="A") == {"added": 3, "identical": 0, "version": 0}
    assert index.register(records, source="A") == {"added": 0, "identical": 3, "version": 0}
    other = make_record(number=2, content="other")
    assert index.register([other], source="B") == {"added": 0, "identical": 0, "version": 1}
    assert index.register([other, records[1]], source="B") == {"added": 0, "identical": 2, "version": 0}


def test_the_first_version_stays_the_answer(index):
    first = make_record(content="first", SeriesDescription="first")
    index.register([first], source="A")
    index.register([make_record(content="second", InstanceNumber="9", SeriesDescription="second")], source="A")
    (kept,) = index.instances(sop_instance_uids=[first.sop_instance_uid])
    assert kept.location == first.location
    assert kept.attributes["InstanceNumber"] == "1"
    (answer,) = index.find(Query("SERIES", wanted=("SeriesDescription",)), limit=10)
    assert answer["SeriesDescription"] == "first"


def test_sizes_count_entities_at_each_level(index):
    assert index.sizes() == {"PATIENT": 0, "STUDY": 0, "SERIES": 0, "IMAGE": 0}
    index.register([make_record(number=n) for n in (1, 2, 3)] + [make_record(number=2, content="other")], source="A")
    assert index.sizes() == {"PATIENT": 1, "STUDY": 1, "SERIES": 1, "IMAGE": 3}


def test_a_uid_twice_within_one_call(index):
    one, other = make_record(content="a"), make_record(content="b")
    assert index.register([one, one, other, other], source="A") == {"added": 1, "identical": 2, "version": 1}
    assert index.instances(sop_instance_uids=[one.sop_instance_uid])[0].location == one.location


def test_the_same_uid_in_another_study_is_a_version(index):
    first = make_record(study=1, uid="1.2.3")
    stray = make_record(study=2, uid="1.2.3")
    assert index.register([first, stray], source="A") == {"added": 1, "identical": 0, "version": 1}
    assert uids(index.find(Query("STUDY"), limit=10), "StudyInstanceUID") == [first.study_uid]


def test_all_or_none(index):
    def broken():
        yield make_record(number=1)
        raise ValueError("the source failed")

    with pytest.raises(ValueError, match="source failed"):
        index.register(broken(), source="A")
    assert index.find(Query("STUDY"), limit=10) == []
    assert index.register([make_record(number=1)], source="A")["added"] == 1


def test_one_answer_for_each_entity_at_each_level(index):
    index.register(
        [make_record(p, st, se, n) for p in (1, 2) for st in (1, 2) for se in (1, 2, 3) for n in (1, 2)], source="A"
    )
    assert len(index.find(Query("PATIENT"), limit=100)) == 2
    assert len(index.find(Query("STUDY"), limit=100)) == 4
    assert len(index.find(Query("SERIES"), limit=100)) == 12
    assert len(index.find(Query("IMAGE"), limit=100)) == 24


def test_pages_are_stable_while_more_arrives(index):
    index.register([make_record(p) for p in range(1, 6)], source="A")
    first = uids(index.find(Query("PATIENT"), limit=3), "PatientID")
    index.register([make_record(p) for p in range(6, 9)], source="A")
    second = uids(index.find(Query("PATIENT"), limit=3, offset=3), "PatientID")
    assert first + second == ["P1", "P2", "P3", "P4", "P5", "P6"]


def test_answers_hold_the_level_the_keys_above_and_what_is_wanted(index):
    index.register([make_record(StudyDate="20260102", SeriesDescription="Bin 30-45 keV", Rows="512")], source="A")
    (answer,) = index.find(Query("SERIES", wanted=("StudyDate", "AccessionNumber")), limit=1)
    assert answer["SeriesDescription"] == "Bin 30-45 keV"
    assert answer["PatientID"] == "P1"
    assert answer["StudyInstanceUID"] == "1.2.1.1"
    assert answer["StudyDate"] == "20260102"
    assert "AccessionNumber" not in answer
    assert "PatientName" not in answer
    assert "Rows" not in answer


def test_computed_attributes(index):
    index.register([make_record(1, 1, 1, n) for n in (1, 2, 3)], source="A")
    index.register([make_record(1, 1, 2, 1, Modality="SEG", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")], source="A")
    index.register([make_record(1, 2, 1, 1)], source="A")
    wanted = (
        "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances",
        "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "ModalitiesInStudy", "SOPClassesInStudy",
    )  # fmt: skip
    first, second = index.find(Query("STUDY", wanted=wanted), limit=10)
    assert {keyword: first[keyword] for keyword in wanted} == {
        "NumberOfPatientRelatedStudies": "2",
        "NumberOfPatientRelatedSeries": "3",
        "NumberOfPatientRelatedInstances": "5",
        "NumberOfStudyRelatedSeries": "2",
        "NumberOfStudyRelatedInstances": "4",
        "ModalitiesInStudy": "CT\\SEG",
        "SOPClassesInStudy": "1.2.840.10008.5.1.4.1.1.2\\1.2.840.10008.5.1.4.1.1.66.4",
    }
    assert second["NumberOfStudyRelatedInstances"] == "1"
    series = index.find(Query("SERIES", wanted=("NumberOfSeriesRelatedInstances",)), limit=10)
    assert uids(series, "NumberOfSeriesRelatedInstances") == ["3", "1", "1"]


@pytest.mark.parametrize(
    ("keyword", "match", "patients"),
    [
        ("PatientID", Match(exact=("P2",)), [2]),
        ("PatientID", Match(exact=("p2",)), []),
        ("PatientID", Match(wildcard="P*"), [1, 2, 3, 4]),
        ("PatientID", Match(wildcard="p*"), []),
        ("PatientID", Match(wildcard="?2"), [2]),
        ("PatientID", Match(wildcard="P?\\X*"), [1, 2, 3, 4]),
        ("PatientName", Match(exact=("MÜLLER^anna",)), [1]),
        ("PatientName", Match(exact=("Müller^Anna^^",)), [1]),
        ("PatientName", Match(exact=("Müller",)), []),
        ("PatientName", Match(wildcard="müll*"), [1]),
        ("PatientName", Match(wildcard="*[x]*"), [3]),
        ("PatientName", Match(exact=("山田^太郎",)), [2]),
        ("PatientName", Match(wildcard="yamada*"), [2]),
        ("PatientName", Match(wildcard="=山田*"), [2]),
        ("PatientName", Match(wildcard="100%_*"), [4]),
        ("PatientBirthDate", Match(exact=("19700131",)), [1]),
        ("StudyDate", Match(range=("20260101", "20260131")), [1, 2]),
        ("StudyDate", Match(range=("20260115", "")), [2, 3]),
        ("StudyDate", Match(range=("", "20260102")), [1]),
        ("StudyTime", Match(range=("0930", "0930")), [1]),
        ("StudyTime", Match(range=("", "12")), [1, 2]),
        ("AccessionNumber", Match(exact=("A*1",)), [3]),
        ("AccessionNumber", Match(wildcard="A*"), [2, 3]),
        ("StudyInstanceUID", Match(exact=("1.2.1.1", "1.2.3.1")), [1, 3]),
        ("ModalitiesInStudy", Match(exact=("MR",)), [3]),
        ("ModalitiesInStudy", Match(exact=("CT", "MR")), [1, 2, 3, 4]),
        ("SOPClassesInStudy", Match(exact=("1.2.840.10008.5.1.4.1.1.4",)), [3]),
        ("StudyDescription", Match(wildcard="*knee*"), [4]),
        ("ReferringPhysicianName", Match(wildcard="house*"), [4]),
        ("PatientSex", Match(exact=("F",)), [1]),
    ],
)
def test_matching_at_study_level(index, keyword, match, patients):
    index.register([make_record(patient, **attributes) for patient, attributes in STUDIES.items()], source="A")
    found = index.find(Query("STUDY", matches={keyword: match}), limit=10)
    assert uids(found, "PatientID") == [f"P{patient}" for patient in patients]


@pytest.mark.parametrize(
    ("keyword", "match", "numbers"),
    [
        ("InstanceNumber", Match(exact=("2",)), ["02"]),
        ("InstanceNumber", Match(exact=("002",)), ["02"]),
        ("ImageType", Match(exact=("AXIAL",)), ["1"]),
        ("ImageType", Match(exact=("AXI",)), []),
        ("ImageType", Match(wildcard="LOC*"), ["02"]),
        ("SOPInstanceUID", Match(exact=("1.2.1.1.1.1",)), ["1"]),
        ("Rows", Match(exact=("512",)), ["1", "02"]),
    ],
)
def test_matching_at_image_level(index, keyword, match, numbers):
    index.register(
        [
            make_record(number=1, ImageType="ORIGINAL\\PRIMARY\\AXIAL", Rows="512"),
            make_record(number=2, InstanceNumber="02", ImageType="ORIGINAL\\PRIMARY\\LOCALIZER", Rows="512"),
        ],
        source="A",
    )
    query = Query("IMAGE", matches={"SeriesInstanceUID": Match(exact=("1.2.1.1.1",)), keyword: match})
    assert uids(index.find(query, limit=10), "InstanceNumber") == numbers


def test_instances_are_ordered_and_taken_under_all_keys(index):
    index.register(
        [make_record(1, 1, se, n) for se in (1, 2) for n in (10, 9, 1)] + [make_record(2, 1, 1, 1)], source="A"
    )
    found = index.instances(patient_id="P1", study_uids=["1.2.1.1"])
    assert [one.sop_instance_uid for one in found] == [f"1.2.1.1.{se}.{n}" for se in (1, 2) for n in (1, 9, 10)]
    assert [one.sop_instance_uid for one in index.instances(series_uids=["1.2.1.1.2"])] == [
        f"1.2.1.1.2.{n}" for n in (1, 9, 10)
    ]
    assert index.instances(patient_id="P2", study_uids=["1.2.1.1"]) == []
    assert len(index.instances(sop_instance_uids=["1.2.1.1.1.9", "1.2.2.1.1.1", "9.9"])) == 2
    with pytest.raises(InvalidQueryError, match="without any key"):
        index.instances()


def test_an_instance_comes_back_as_it_was_registered(index):
    record = make_record(PatientName="Müller^Anna", StudyTime="0930", ImageType="DERIVED\\PRIMARY\\AXIAL")
    index.register([record], source="A")
    assert index.instances(sop_instance_uids=[record.sop_instance_uid]) == [record]


def test_located(index):
    record, version = make_record(), make_record(content="other")
    index.register([record, version], source="A")
    assert index.located([record.location.path, version.location.path, "journal:none"]) == {
        record.location.path,
        version.location.path,
    }
