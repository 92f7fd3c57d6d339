# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import date
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode, encode

from pacs.errors import InvalidQueryError
from pacs.index import Match
from pacs.matching import matches
from pacs.query import parse_find, parse_match, parse_retrieve, query_from_qido, response_dataset


def identifier(**values):
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def over_the_wire(ds, *, implicit=True):
    return decode(BytesIO(encode(ds, implicit, True)), implicit, True)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_study_root_identifier(implicit):
    ds = identifier(
        QueryRetrieveLevel="STUDY", PatientName="MÜL*", StudyDate="20260101-20260131", StudyTime="0930-",
        ModalitiesInStudy=["CT", "MR"], StudyInstanceUID=["1.2", "1.3"], AccessionNumber="", Modality="CT",
        NumberOfStudyRelatedInstances=7, StudyDescription="*", SpecificCharacterSet="ISO_IR 100",
    )  # fmt: skip
    ds.RequestAttributesSequence = [identifier(RequestedProcedureID="1")]
    ds.add_new(0x00091001, "LO", "private")
    query = parse_find(over_the_wire(ds, implicit=implicit), model="STUDY_ROOT")
    assert query.level == "STUDY"
    assert dict(query.matches) == {
        "PatientName": Match(wildcard="MÜL*"),
        "StudyDate": Match(range=("20260101", "20260131")),
        "StudyTime": Match(range=("093000.000000", "")),
        "ModalitiesInStudy": Match(exact=("CT", "MR")),
        "StudyInstanceUID": Match(exact=("1.2", "1.3")),
    }
    assert set(query.wanted) == set(query.matches) | {
        "AccessionNumber", "NumberOfStudyRelatedInstances", "StudyDescription",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 144", "Щукин^Юлий"),
        ("ISO_IR 192", "山田^太郎"),
        ("GB18030", "王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
)
def test_names_in_the_character_set_of_the_request(charset, name):
    ds = identifier(SpecificCharacterSet=charset, QueryRetrieveLevel="PATIENT", PatientName=name)
    query = parse_find(over_the_wire(ds), model="PATIENT_ROOT")
    assert query.matches["PatientName"] == Match(exact=(name,))


@pytest.mark.parametrize(
    ("values", "model", "sentence"),
    [
        ({}, "STUDY_ROOT", "QueryRetrieveLevel is missing"),
        ({"QueryRetrieveLevel": "FRAME"}, "STUDY_ROOT", "'FRAME', expected one of STUDY"),
        ({"QueryRetrieveLevel": "PATIENT"}, "STUDY_ROOT", "'PATIENT', expected one of STUDY, SERIES, IMAGE"),
        ({"QueryRetrieveLevel": "SERIES"}, "STUDY_ROOT", "SERIES level needs StudyInstanceUID as a single value"),
        ({"QueryRetrieveLevel": "STUDY"}, "PATIENT_ROOT", "STUDY level needs PatientID as a single value"),
        ({"QueryRetrieveLevel": "STUDY", "PatientID": "P*"}, "PATIENT_ROOT", "as a single value, got 'P.'"),
        ({"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": "1.2"}, "STUDY_ROOT", "IMAGE level needs SeriesInst"),
        ({"QueryRetrieveLevel": "STUDY", "StudyDate": "2026"}, "STUDY_ROOT", "StudyDate is '2026', expected YYYY"),
        ({"QueryRetrieveLevel": "STUDY", "StudyDate": "-"}, "STUDY_ROOT", "a range without ends"),
        ({"QueryRetrieveLevel": "STUDY", "StudyTime": "9h"}, "STUDY_ROOT", "StudyTime is '9h', expected HHMMSS"),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.*"}, "STUDY_ROOT", "is not a UID: '1.2..'"),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "../../etc"}, "STUDY_ROOT", "is not a UID"),
        ({"QueryRetrieveLevel": "STUDY", "SpecificCharacterSet": "KLINGON"}, "STUDY_ROOT", "'KLINGON' is not known"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_what_cannot_be_answered_is_refused_in_plain_words(values, model, sentence):
    with pytest.raises(InvalidQueryError, match=sentence):
        parse_find(identifier(**values), model=model)


def test_bytes_outside_the_character_set_are_refused():
    ds = over_the_wire(identifier(SpecificCharacterSet="ISO_IR 192", QueryRetrieveLevel="STUDY", PatientID="x"))
    raw = ds.get_item(0x00100020)
    ds[0x00100020] = raw._replace(value=b"\xff\xfe")
    with pytest.raises(InvalidQueryError, match="PatientID is not in the character set"):
        parse_find(ds, model="STUDY_ROOT")


@given(st.text(max_size=80), st.sampled_from(["PatientName", "StudyDate", "StudyTime", "StudyInstanceUID", "Rows"]))
def test_any_text_is_matched_or_refused(text, keyword):
    """Never an exception of another kind, and a match that can be evaluated."""
    try:
        match = parse_match(keyword, text)
    except InvalidQueryError:
        return
    if match is not None:
        assert matches(keyword, match, "") is False
        matches(keyword, match, "1")


DAYS = st.dates(min_value=date(1900, 1, 1))


@given(DAYS, DAYS, DAYS)
def test_date_ranges_are_those_of_the_calendar(low, high, day):
    match = parse_match("StudyDate", f"{low:%Y%m%d}-{high:%Y%m%d}")
    assert matches("StudyDate", match, f"{day:%Y%m%d}") == (low <= day <= high)


@given(st.text("AB?*", min_size=1, max_size=12), st.text("AB", min_size=1, max_size=12))
def test_wildcards_mean_what_a_shell_means(pattern, text):
    from fnmatch import fnmatchcase

    match = parse_match("PatientID", pattern)
    assert (match is None or matches("PatientID", match, text)) == fnmatchcase(text, pattern)


@pytest.mark.timeout(5)
def test_a_bomb_of_wildcards_is_quick():
    match = parse_match("PatientID", "*".join("A" * 12) + "*B")
    assert match is not None
    assert matches("PatientID", match, "A" * 64) is False


def test_retrieve_keys():
    ds = identifier(QueryRetrieveLevel="SERIES", StudyInstanceUID="1.2", SeriesInstanceUID=["1.2.1", "1.2.2"])
    keys = parse_retrieve(over_the_wire(ds), model="STUDY_ROOT")
    assert keys.study_uids == ("1.2",)
    assert keys.series_uids == ("1.2.1", "1.2.2")
    assert keys.patient_id is None
    with pytest.raises(InvalidQueryError, match="A retrieve at STUDY level needs StudyInstanceUID"):
        parse_retrieve(identifier(QueryRetrieveLevel="STUDY"), model="STUDY_ROOT")
    with pytest.raises(InvalidQueryError, match="one PatientID, without wildcards"):
        parse_retrieve(identifier(QueryRetrieveLevel="PATIENT", PatientID="P*"), model="PATIENT_ROOT")


def test_a_response_has_every_key_that_was_asked_for():
    ds = identifier(
        QueryRetrieveLevel="SERIES", StudyInstanceUID="1.2", SeriesInstanceUID="", SeriesNumber=None, Modality="",
        NumberOfSeriesRelatedInstances=None, PatientName="", PerformedStationName="", SpecificCharacterSet="ISO_IR 100",
    )  # fmt: skip
    ds.RequestAttributesSequence = []
    found = {
        "PatientID": "P1", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3", "SeriesNumber": "4",
        "Modality": "CT", "NumberOfSeriesRelatedInstances": "12", "PatientName": "山田^太郎", "BodyPartExamined": "X",
    }  # fmt: skip
    response = over_the_wire(response_dataset(found, over_the_wire(ds), "SERIES", retrieve_ae_title="CONEPACS"))
    assert str(response.PatientName) == "山田^太郎"
    assert response.SpecificCharacterSet == "ISO_IR 192"
    assert response.NumberOfSeriesRelatedInstances == 12
    assert response.SeriesNumber == 4
    assert response.RetrieveAETitle == "CONEPACS"
    assert response.InstanceAvailability == "ONLINE"
    assert response.QueryRetrieveLevel == "SERIES"
    assert response.PerformedStationName == ""
    assert len(response.RequestAttributesSequence) == 0
    assert "BodyPartExamined" not in response


@pytest.mark.filterwarnings("error")
def test_a_response_does_not_judge_stored_values():
    ds = identifier(QueryRetrieveLevel="IMAGE", ImagePositionPatient=None, StudyDate="", InstanceNumber=None)
    found = {"ImagePositionPatient": "1.00000000000000001234\\x\\3", "StudyDate": "soon", "InstanceNumber": "1"}
    response = response_dataset(found, ds, "IMAGE", retrieve_ae_title="A")
    assert encode(response, True, True) is not None


def test_qido_parameters():
    request = query_from_qido(
        [
            ("PatientName", "Mül*"), ("00080020", "20260101-"), ("StudyInstanceUID", "1.2,1.3"), ("limit", "20"),
            ("offset", "40"), ("includefield", "StudyDescription,00081030"), ("includefield", "Rows"),
            ("fuzzymatching", "true"), ("StationName", "X"), ("ModalitiesInStudy", "CT"),
        ],
        "STUDY",
    )  # fmt: skip
    assert dict(request.query.matches) == {
        "PatientName": Match(wildcard="Mül*"),
        "StudyDate": Match(range=("20260101", "")),
        "StudyInstanceUID": Match(exact=("1.2", "1.3")),
        "ModalitiesInStudy": Match(exact=("CT",)),
    }
    assert (request.limit, request.offset) == (20, 40)
    assert "StudyDescription" in request.query.wanted
    assert "NumberOfStudyRelatedSeries" in request.query.wanted
    assert request.warnings == (
        "Rows is not held by the index.",
        "fuzzymatching is not supported; names were matched literally.",
        "StationName is not matched at this level.",
    )


def test_qido_includefield_all():
    wanted = query_from_qido([("includefield", "all")], "SERIES").query.wanted
    assert {"PatientComments", "StudyDescription", "Manufacturer", "NumberOfStudyRelatedInstances"} <= set(wanted)
    assert "Rows" not in wanted


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("limit", "-1", "limit is '-1', expected a whole number"),
        ("offset", "9" * 13, "expected a whole number"),
        ("PatientNam", "x", "'PatientNam' is not an attribute"),
        ("0099zzzz", "x", "is not an attribute"),
        ("StudyDate", "yesterday", "StudyDate is 'yesterday'"),
    ],
)
def test_qido_parameters_that_are_refused(name, value, sentence):
    with pytest.raises(InvalidQueryError, match=sentence):
        query_from_qido([(name, value)], "STUDY")
