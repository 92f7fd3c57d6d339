# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told: by its own parser, by its conventions, and without anything of a patient or a scan."""

from __future__ import annotations

import datetime
import re
import threading
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from jobs.kinds import JobKind
from jobs.queue import open_queue
from jobs.records import NewJob, Resources
from pacs.counters import DicomCounters
from pacs.errors import IndexUnavailableError
from pacs.journal import Journal
from pacs.retrieve import InstanceReader
from storage.errors import StoreUnavailableError
from storage.filesystem import open_store
from tests.support.fake_index import FakeIndex
from tests.support.http_archive import BASE, AppClient, http_archive, ramp_volume
from tests.support.series import series_spec
from viewer_api.app import create_app
from viewer_api.metrics import count_jobs
from viewer_api.slow_value import SlowValue

FOREIGN = ("python_", "process_")
UNITS = ("_total", "_seconds", "_bytes", "_info", "_count", "_sum", "_bucket", "_created")


@dataclass(frozen=True)
class Parameters:
    """Of the kind below."""

    steps: int = 1


KINDS = MappingProxyType({"count": JobKind("count", "Count", Parameters, lambda _: Resources(), "nowhere:run")})


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    """One sample."""
    return samples(text)[name, tuple(sorted(labels.items()))]


def check_conventions(text: str) -> None:
    """Hold the naming rules of Prometheus: prefix, base units, help on each, counters end in _total, few labels."""
    for family in text_string_to_metric_families(text):
        if family.name.startswith(FOREIGN):
            continue
        assert re.fullmatch(r"conepacs_[a-z0-9_]+", family.name), family
        assert family.documentation.endswith("."), family
        assert family.type in {"counter", "gauge", "histogram", "summary"}, family
        assert not re.search(r"_(ms|milliseconds|mb|kb|minutes)(_|$)", family.name), family
        if family.type != "counter":
            assert not family.name.endswith("_total"), family
        for sample in family.samples:
            assert set(sample.labels) <= {
                "method", "route", "status", "service", "outcome", "kind", "state", "level", "version", "le", "stage",
                "result",
            }, sample  # fmt: skip


@pytest.fixture
def archive(tmp_path):
    """An archive with a patient's series."""
    with http_archive(tmp_path) as made:
        made.add_series(series_spec(), ramp_volume())
        yield made


def test_requests_are_counted_by_route_never_by_path(archive):
    client = archive.client()
    client.get(f"{BASE}/studies?PatientName=Beispiel*")
    uid = client.get(f"{BASE}/series").json()[0]["0020000D"]["Value"][0]
    client.get(f"{BASE}/studies/{uid}/series")
    client.get(f"{BASE}/studies/{uid}/metadata", {"Accept": "text/html"})
    client.get("/pages/viewer.js")
    client.get("/there/is/Beispiel")
    answer = client.get("/metrics")
    text = answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    check_conventions(text)
    requests = "conepacs_http_requests_total"
    assert value(text, requests, method="GET", route=f"{BASE}/studies", status="200") == 1
    assert value(text, requests, method="GET", route=f"{BASE}/studies/{{study_uid}}/series", status="200") == 1
    assert value(text, requests, method="GET", route=f"{BASE}/studies/{{study_uid}}/metadata", status="406") == 1
    assert value(text, requests, method="GET", route="/pages", status="200") == 1
    assert value(text, requests, method="GET", route="none", status="404") == 1
    assert value(text, "conepacs_http_request_duration_seconds_count", route=f"{BASE}/studies") == 1
    assert "Beispiel" not in text
    assert uid not in text


def test_index_and_store_tell_their_sizes(archive):
    text = archive.client().get("/metrics").text
    assert value(text, "conepacs_index_up") == 1
    assert value(text, "conepacs_store_up") == 1
    assert value(text, "conepacs_index_entities", level="study") == 1
    assert value(text, "conepacs_index_entities", level="image") == 4
    assert value(text, "conepacs_store_free_bytes") > 1e6
    assert ("conepacs_queue_up", ()) not in samples(text)


def test_openmetrics_is_given_where_it_is_asked_for(archive):
    answer = archive.client().get("/metrics", {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "conepacs_http_requests" in {family.name for family in parse_openmetrics(answer.text)}


def test_two_apps_count_apart(archive):
    one, other = archive.client(), archive.client()
    one.get("/health")
    assert "/health" in one.get("/metrics").text
    assert "/health" not in other.get("/metrics").text


class Silent:
    """An index and a store that do not answer."""

    url = "memory://silent"

    def sizes(self) -> Any:
        raise IndexUnavailableError("Beispiel^Berta")

    def list_folder(self, path: str) -> Any:
        raise StoreUnavailableError(f"Beispiel^Berta {path}")


def test_what_does_not_answer_is_down_and_the_page_stays(tmp_path, caplog):
    index = FakeIndex()
    index.sizes = Silent().sizes
    reader = InstanceReader(Silent(), Journal(tmp_path))
    text = AppClient(create_app(index, reader)).get("/metrics").text
    assert value(text, "conepacs_index_up") == 0
    assert value(text, "conepacs_store_up") == 0
    assert "index is not known: IndexUnavailableError" in caplog.text
    assert "Beispiel" not in caplog.text


def test_a_value_that_hangs_is_not_waited_for_and_asked_for_once():
    release, asked = threading.Event(), []

    def read() -> int:
        asked.append(1)
        release.wait(30)
        return 7

    slow = SlowValue("slow", read, keep_s=60, patience_s=0.05)
    assert slow.get() is None
    assert slow.get() is None
    release.set()
    patient = SlowValue("quick", lambda: 8, keep_s=60, patience_s=30)
    assert patient.get() == 8
    assert len(asked) == 1


def test_the_queue_and_its_runners(tmp_path):
    with open_queue(str(tmp_path / "index.sqlite"), KINDS) as queue:
        for _ in range(4):
            queue.submit(NewJob("count", {}))
        held = queue.claim("a", kinds=["count"], free=Resources(cores=2), lease_s=60)
        queue.claim("a", kinds=["count"], free=Resources(), lease_s=60)
        queue.claim("b", kinds=["count"], free=Resources(), lease_s=0.01)
        assert held is not None
        reader = InstanceReader(open_store(tmp_path), Journal(tmp_path))
        text = AppClient(create_app(FakeIndex(), reader, queue=queue)).get("/metrics").text
        counts = count_jobs(queue)
    check_conventions(text)
    assert value(text, "conepacs_queue_up") == 1
    assert value(text, "conepacs_jobs", kind="count", state="running") == 3
    assert value(text, "conepacs_jobs", kind="count", state="waiting") == 1
    assert value(text, "conepacs_jobs_oldest_waiting_seconds") >= 0
    assert value(text, "conepacs_runners_working") >= 1
    assert counts.runners in (1, 2)  # the second is taken for dead some seconds after its lease
    assert counts.overdue in (0, 1)


def test_a_runner_that_fell_silent_is_told(tmp_path):
    clock = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    with open_queue(str(tmp_path / "index.sqlite"), KINDS) as queue:
        queue._clock = lambda: clock
        queue.submit(NewJob("count", {}))
        queue.claim("a", kinds=["count"], free=Resources(), lease_s=1)
        queue._clock = None
        assert (count_jobs(queue).runners, count_jobs(queue).overdue) == (0, 1)


def test_the_dicom_server(tmp_path):
    counters = DicomCounters()
    counters.accepted("one")
    counters.accepted("two")
    counters.ended("one")
    counters.received(10)
    with counters.operation("C-STORE"):
        pass
    with counters.operation("C-FIND") as fail:
        fail()
    reader = InstanceReader(open_store(tmp_path), Journal(tmp_path))
    text = AppClient(create_app(FakeIndex(), reader, dicom=counters.counts)).get("/metrics").text
    check_conventions(text)
    assert value(text, "conepacs_dicom_associations_total") == 2
    assert value(text, "conepacs_dicom_associations_open") == 1
    assert value(text, "conepacs_dicom_operations_total", service="C-FIND", outcome="failed") == 1
    assert value(text, "conepacs_dicom_operation_duration_seconds_count", service="C-STORE") == 1
    assert value(text, "conepacs_dicom_received_bytes_total") == 10
