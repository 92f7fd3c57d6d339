# SPDX-License-Identifier: Apache-2.0
"""QIDO-RS over a real index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pacs.provenance import parameters_sha256
from pacs.uids import RunKey
from tests.support.http_archive import BASE, AppClient, HttpArchive, http_archive, ramp_volume
from tests.support.series import PARAMETERS, PATIENT, series_spec

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpArchive]:
    with http_archive(tmp_path_factory.mktemp("qido")) as archive:
        for bin_index in (0, 1):
            archive.add_series(series_spec(bin_index=bin_index), ramp_volume(), "specimen")
        key = RunKey("b" * 64, parameters_sha256(PARAMETERS))
        archive.add_series(series_spec(study=PATIENT, key=key), ramp_volume(), "patient")
        yield archive


@pytest.fixture(scope="module")
def client(archive: HttpArchive) -> AppClient:
    return archive.client()


def _values(answer: dict, tag: str) -> list:
    return answer[tag].get("Value", [])


def test_studies_carry_counts_modalities_and_where_to_retrieve(client):
    response = client.get(f"{BASE}/studies")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/dicom+json"
    by_id = {_values(study, "00100020")[0]: study for study in response.json()}
    specimen = by_id["stone-07"]
    assert _values(specimen, "00201206") == [2]
    assert _values(specimen, "00201208") == [8]
    assert _values(specimen, "00080061") == ["CT"]
    assert _values(specimen, "00080056") == ["ONLINE"]
    uid = _values(specimen, "0020000D")[0]
    assert _values(specimen, "00081190") == [f"http://127.0.0.1:8042/dicom-web/studies/{uid}"]
    assert _values(by_id["P-17"], "00100010") == [{"Alphabetic": "Müller^Jörg"}]
    assert list(specimen) == sorted(specimen)


@pytest.mark.parametrize(
    ("query", "n_found"),
    [
        ("PatientID=P-17", 1),
        ("00100020=P-17", 1),
        ("PatientName=m*", 1),
        ("PatientID=nobody", 0),
        ("StudyDate=20260101-20261231", 2),
        ("StudyDate=20270101-", 0),
        ("ModalitiesInStudy=CT", 2),
        ("ModalitiesInStudy=MR", 0),
        ("limit=1", 1),
        ("limit=5&offset=1", 1),
        ("offset=7", 0),
        ("limit=0", 0),
    ],
)
def test_parameters_of_a_search(client, query, n_found):
    response = client.get(f"{BASE}/studies?{query}")
    assert response.status_code == 200
    assert len(response.json()) == n_found


def test_series_and_instances_below_their_parents(client):
    study = client.get(f"{BASE}/studies?PatientID=stone-07").json()[0]["0020000D"]["Value"][0]
    series = client.get(f"{BASE}/studies/{study}/series").json()
    assert [one["00200011"]["Value"] for one in series] == [[1], [2]]
    assert [one["00201209"]["Value"] for one in series] == [[4], [4]]
    assert "00080020" not in series[0]
    first = series[0]["0020000E"]["Value"][0]
    instances = client.get(f"{BASE}/studies/{study}/series/{first}/instances").json()
    assert [one["00200013"]["Value"][0] for one in instances] == [1, 2, 3, 4]
    assert instances[0]["00280010"]["Value"] == [5]
    assert instances[0]["00280030"]["Value"] == [0.09, 0.1]
    assert instances[0]["00081190"]["Value"][0].endswith(instances[0]["00080018"]["Value"][0])
    assert len(client.get(f"{BASE}/studies/{study}/instances").json()) == 8


def test_searches_of_all_studies_tell_their_parents(client):
    series = client.get(f"{BASE}/series").json()
    assert len(series) == 3
    assert {one["00100020"]["Value"][0] for one in series} == {"stone-07", "P-17"}
    instances = client.get(f"{BASE}/instances?SeriesNumber=1&limit=3").json()
    assert len(instances) == 3
    assert instances[0]["0008103E"]["Value"][0].startswith("Bin 1/3")


def test_includefield(client):
    plain = client.get(f"{BASE}/series?Modality=CT&limit=1").json()[0]
    study = plain["0020000D"]["Value"][0]
    bare = client.get(f"{BASE}/studies/{study}/series?limit=1").json()[0]
    asked = client.get(f"{BASE}/studies/{study}/series?limit=1&includefield=PatientID,StudyDate").json()[0]
    assert "00080020" not in bare
    assert asked["00080020"]["Value"] == ["20260105"]
    everything = client.get(f"{BASE}/studies/{study}/series?limit=1&includefield=all").json()[0]
    assert "00100020" in everything


def test_capped_search_says_so_and_pages_on(archive):
    client = archive.client(max_results=3)
    capped = client.get(f"{BASE}/instances")
    assert len(capped.json()) == 3
    assert capped.headers["warning"].startswith('299 conepacs "The number of results exceeded')
    assert "warning" not in client.get(f"{BASE}/instances?limit=2").headers
    rest = [client.get(f"{BASE}/instances?limit=3&offset={offset}").json() for offset in range(0, 15, 3)]
    uids = [one["00080018"]["Value"][0] for page in rest for one in page]
    assert len(uids) == len(set(uids)) == 12


def test_fuzzy_matching_is_declined_by_a_warning(client):
    response = client.get(f"{BASE}/studies?PatientName=M*&fuzzymatching=true")
    assert response.status_code == 200
    assert "fuzzymatching is not supported" in response.headers["warning"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/studies?limit=-1", 400),
        ("/studies?limit=many", 400),
        ("/studies?StudyDate=yesterday", 400),
        ("/studies?NoSuchKeyword=1", 400),
        ("/studies/..%2F/series", 404),
        ("/studies/1.2.x/series", 400),
        ("/nothing", 404),
    ],
)
def test_bad_requests_get_one_plain_sentence(client, path, status):
    response = client.get(BASE + path)
    assert response.status_code == status
    sentence = response.json()["error"]
    assert sentence.endswith(".")
    assert "Traceback" not in sentence


def test_other_media_types_are_not_acceptable(client):
    response = client.get(f"{BASE}/studies", headers={"Accept": "application/dicom+xml"})
    assert response.status_code == 406
    assert "application/dicom+json" in response.json()["error"]
    plain = client.get(f"{BASE}/studies", headers={"Accept": "text/html;q=0.1, application/json"})
    assert plain.headers["content-type"] == "application/json"


def test_foreign_host_names_are_refused_on_loopback(archive):
    client = archive.client()
    assert client.get("/health", headers={"Host": "evil.example:8042"}).status_code == 400
    assert client.get("/health", headers={"Host": "localhost:8042"}).json()["status"] == "ok"
    assert client.get("/health", headers={"Host": "[::1]:8042"}).status_code == 200
    open_client = archive.client(host="0.0.0.0")
    assert open_client.get("/health", headers={"Host": "pacs.example"}).status_code == 200


def test_every_answer_carries_the_security_headers(client):
    for path in ("/", "/health", f"{BASE}/studies", "/pages/viewer.js", "/none"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"


def test_an_index_that_does_not_answer_is_503(archive, monkeypatch):
    from pacs.errors import IndexUnavailableError
    from pacs.sql_index import SqlIndex

    def fail(*_args: object, **_kwargs: object) -> None:
        raise IndexUnavailableError("database /srv/secret is locked")

    monkeypatch.setattr(SqlIndex, "find", fail)
    response = archive.client().get(f"{BASE}/studies")
    assert response.status_code == 503
    assert "secret" not in response.text
