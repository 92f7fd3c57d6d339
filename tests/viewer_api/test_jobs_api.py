# SPDX-License-Identifier: Apache-2.0
"""Jobs over HTTP: submit, list, steer, logs, and events that a client can take up again where it lost them."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager

import anyio
import httpx
import pytest

from jobs.records import Progress, Resources
from storage.errors import DatabaseError
from tests.support.http_archive import http_archive, served
from tests.support.job_kinds import nap_queue, submit_nap
from tests.support.waiting import wait_until
from viewer_api import job_events
from viewer_api.app import create_app
from viewer_api.settings import HttpSettings

ALL = Resources(cores=99, memory_bytes=1 << 40)


@pytest.fixture
def queue(tmp_path):
    with nap_queue(tmp_path) as opened:
        yield opened


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch):
    monkeypatch.setattr(job_events, "POLL_S", 0.02)
    monkeypatch.setattr(job_events, "RETRY_S", 0.02)


@pytest.fixture
def service(queue, tmp_path):
    """Opens the service on an ephemeral port; yields a client of it."""

    @contextmanager
    def open_service(*, with_queue=True, **settings):
        with http_archive(tmp_path) as archive:
            app = create_app(
                archive.index, archive.reader, HttpSettings(**settings), queue=queue if with_queue else None
            )
            with served(app) as address, httpx.Client(base_url=address, timeout=30) as client:
                yield client

    return open_service


@pytest.fixture
def client(service):
    with service() as opened:
        yield opened


def claim(queue, runner="r"):
    return queue.claim(runner, kinds=["nap"], free=ALL, lease_s=60)


def finish(queue, job):
    queue.finish(job.job_id, "r", job.attempt, {"slept": 1})


def read_events(lines, count):
    """So many events of a stream, each as its fields; comments are under ``comment``."""
    events, fields = [], {}
    for line in lines:
        if line == "":
            if set(fields) - {"comment", "retry"}:
                events.append(fields)
            fields = {}
            if len(events) == count:
                break
        else:
            name, _, value = line.partition(": ")
            fields[name or "comment"] = value
    return events


# ---- submit, list, steer


def test_a_job_is_submitted_and_shown(client, queue, tmp_path):
    body = {"kind": "nap", "parameters": {"folder": str(tmp_path), "cores": 2}, "user": "anna", "priority": 3}
    answer = client.post("/api/jobs", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == "/api/jobs/1"
    assert answer.headers["cache-control"] == "no-store"
    shown = client.get(answer.headers["location"]).json()
    assert shown == answer.json()
    assert (shown["state"], shown["user"], shown["priority"]) == ("waiting", "anna", 3)
    assert shown["parameters"] == {
        "folder": str(tmp_path), "seconds": 0.0, "failures": 0, "hopeless": False, "deaf": False, "cores": 2,
    }  # fmt: skip
    assert shown["resources"] == {"cores": 2, "memory_bytes": 0, "gpus": 0}
    assert shown["submitted_at"].endswith("Z")
    assert queue.get(1).user == "anna"


def test_kinds_come_with_the_schemas_of_their_parameters(client):
    (kind,) = client.get("/api/kinds").json()["kinds"]
    assert (kind["name"], kind["title"]) == ("nap", "Sleep")
    assert kind["parameters"]["required"] == ["folder"]
    assert kind["parameters"]["properties"]["seconds"] == {"default": 0.0, "title": "Seconds", "type": "number"}


def test_jobs_are_listed_by_state_user_and_kind_in_pages(client, queue, tmp_path):
    ids = [submit_nap(queue, tmp_path).job_id for _ in range(5)]
    first = claim(queue)
    assert [job["job_id"] for job in client.get("/api/jobs").json()["jobs"]] == ids[::-1]
    running = client.get("/api/jobs", params={"state": "running"}).json()
    assert [job["job_id"] for job in running["jobs"]] == [first.job_id]
    assert running["next_before_id"] is None
    seen, before = [], None
    while True:
        page = client.get("/api/jobs", params={"limit": 2} | ({} if before is None else {"before_id": before})).json()
        seen += [job["job_id"] for job in page["jobs"]]
        before = page["next_before_id"]
        if before is None:
            break
    assert seen == ids[::-1]
    assert client.get("/api/jobs", params={"user": "nobody"}).json()["jobs"] == []
    assert client.get("/api/jobs", params={"kind": "other"}).json()["jobs"] == []
    both = client.get("/api/jobs", params=[("state", "running"), ("state", "waiting")]).json()
    assert len(both["jobs"]) == 5


def test_a_job_is_cancelled_retried_and_given_a_priority(client, queue, tmp_path):
    path = f"/api/jobs/{submit_nap(queue, tmp_path).job_id}"
    assert client.post(f"{path}/priority", json={"priority": 7}).json()["priority"] == 7
    assert client.post(f"{path}/cancel").json()["state"] == "cancelled"
    assert client.post(f"{path}/retry").json()["state"] == "waiting"
    claim(queue)
    stopping = client.post(f"{path}/cancel").json()
    assert (stopping["state"], stopping["cancel_requested"]) == ("running", True)


def test_the_log_is_read_in_pages(client, queue, tmp_path):
    job_id = submit_nap(queue, tmp_path).job_id
    job = claim(queue)
    for number in range(5):
        queue.report(job_id, "r", job.attempt, progress=Progress("nap", number, 5))
        queue.report(job_id, "r", job.attempt, log=("info", f"line {number}"))
    first = client.get(f"/api/jobs/{job_id}/log", params={"limit": 3}).json()
    assert [line["message"] for line in first["lines"]] == ["line 0", "line 1", "line 2"]
    assert set(first["lines"][0]) == {"event_id", "at", "level", "message"}
    rest = client.get(f"/api/jobs/{job_id}/log", params={"after_id": first["next_after_id"]}).json()
    assert [line["message"] for line in rest["lines"]] == ["line 3", "line 4"]
    after = client.get(f"/api/jobs/{job_id}/log", params={"after_id": rest["next_after_id"]}).json()
    assert after == {"lines": [], "next_after_id": rest["next_after_id"]}


# ---- what is refused


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"kind": "other"}, 400, "no kind of job is named 'other'"),
        ({"kind": "nap"}, 400, "'folder' is missing"),
        ({"kind": "nap", "parameters": {"folder": "x", "bed": 1}}, 400, "'bed'"),
        ({"kind": "nap", "parameters": {"folder": "x"}, "depends_on": [99]}, 404, "no job 99"),
        ({"kind": "nap", "parameters": {"folder": "x"}, "max_attempts": 0}, 400, "attempts"),
        ({"parameters": {}}, 400, "malformed in kind"),
        ({"kind": "nap", "prio": 3}, 400, "malformed in prio"),
        ({"kind": "nap", "parameters": [1]}, 400, "malformed in parameters"),
    ],
)
def test_a_job_that_cannot_be_is_refused_in_one_sentence(client, queue, body, status, words):
    answer = client.post("/api/jobs", json=body)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert words in answer.json()["error"]
    assert queue.list() == []


def test_what_is_no_json_or_too_large_is_refused(client):
    headers = {"Content-Type": "application/json"}
    assert client.post("/api/jobs", content=b"{", headers=headers).status_code == 400
    answer = client.post("/api/jobs", content=b"{}", headers={"Content-Type": "text/plain"})
    assert "application/json" in answer.json()["error"]
    answer = client.post("/api/jobs", content=b" " * (2 << 20), headers=headers)
    assert (answer.status_code, "larger than" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/api/jobs/9", 404, "no job 9"),
        ("POST", "/api/jobs/9/cancel", 404, "no job 9"),
        ("POST", "/api/jobs/1/retry", 409, "cannot be retried"),
        ("GET", "/api/jobs/9/log", 404, "no job 9"),
        ("GET", "/api/jobs/9/events", 404, "no job 9"),
        ("GET", "/api/jobs/x", 400, "malformed in job_id"),
        ("GET", "/api/jobs?state=asleep", 400, "malformed in state"),
        ("GET", "/api/jobs?limit=0", 400, "malformed in limit"),
        ("GET", "/api/events?after_id=-1", 400, "malformed in after_id"),
        ("DELETE", "/api/jobs/1", 405, "DELETE"),
    ],
)
def test_what_is_not_there_or_cannot_be_done_is_said(client, queue, tmp_path, method, path, status, words):
    submit_nap(queue, tmp_path)
    answer = client.request(method, path)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_without_a_queue_the_routes_say_so(service):
    with service(with_queue=False) as client:
        for path in ("/api/kinds", "/api/jobs", "/api/jobs/1", "/api/events"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["error"]) == (404, "This server has no queue of jobs.")


def test_a_database_that_does_not_answer_is_503_without_its_address(client, queue, monkeypatch):
    def broken(*_, **__):
        raise DatabaseError("database postgresql://db7/archive: no route to host")

    monkeypatch.setattr(queue, "list", broken)
    answer = client.get("/api/jobs")
    assert (answer.status_code, "db7" in answer.text) == (503, False)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_sites_change_nothing(client, queue, tmp_path, headers):
    job = submit_nap(queue, tmp_path)
    answer = client.post(f"/api/jobs/{job.job_id}/cancel", headers=headers)
    assert answer.status_code == 403
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert queue.get(job.job_id).state == "waiting"
    assert client.get("/api/jobs", headers={"Host": "evil.example"}).status_code == 400


def test_the_services_own_pages_may(client, queue, tmp_path):
    job = submit_nap(queue, tmp_path)
    own = {"Origin": str(client.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert client.post(f"/api/jobs/{job.job_id}/cancel", headers=own).status_code == 200


@pytest.mark.parametrize(
    ("settings", "client_address", "allowed"),
    [
        ({}, "127.0.0.1", True),
        ({"host": "0.0.0.0"}, "127.0.0.1", True),
        ({"host": "0.0.0.0"}, "::1", True),
        ({"host": "0.0.0.0"}, "192.0.2.7", False),
        ({"host": "0.0.0.0"}, "", False),
        ({"host": "0.0.0.0", "remote_changes": True}, "192.0.2.7", True),
    ],
)
def test_who_may_change_jobs_is_decided_by_address_and_setting(settings, client_address, allowed):
    assert HttpSettings(**settings).allows_changes_from(client_address) is allowed


def test_another_machine_may_look_but_not_steer(queue, tmp_path):
    job = submit_nap(queue, tmp_path)
    with http_archive(tmp_path) as archive:
        app = create_app(archive.index, archive.reader, HttpSettings(host="0.0.0.0"), queue=queue)

        async def calls():
            transport = httpx.ASGITransport(app, client=("192.0.2.7", 5))
            async with httpx.AsyncClient(transport=transport, base_url="http://pacs") as far:
                return await far.get("/api/jobs"), await far.post(f"/api/jobs/{job.job_id}/cancel")

        looked, steered = anyio.run(calls)
    assert (looked.status_code, steered.status_code) == (200, 403)
    assert "http.remote_changes" in steered.json()["error"]


# ---- events


def test_a_jobs_events_come_as_they_happen_and_end_with_it(client, queue, tmp_path):
    job_id = submit_nap(queue, tmp_path).job_id
    with client.stream("GET", f"/api/jobs/{job_id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        lines = answer.iter_lines()
        (submitted,) = read_events(lines, 1)
        assert json.loads(submitted["data"])["content"]["state"] == "waiting"
        job = claim(queue)
        queue.report(job_id, "r", 1, progress=Progress("nap", 1, 2))
        queue.report(job_id, "r", 1, log=("info", "naïve"))
        kinds = [event["event"] for event in read_events(lines, 3)]
        assert kinds == ["state", "progress", "log"]
        finish(queue, job)
        done, end = read_events(lines, 2)
        assert json.loads(done["data"])["content"]["state"] == "done"
        assert (end["event"], json.loads(end["data"])) == ("end", {"job_id": job_id, "state": "done"})
        assert "id" not in end
        assert list(lines) == []
    again = client.get(f"/api/jobs/{job_id}/events", headers={"Last-Event-ID": done["id"]})
    assert again.status_code == 204


def test_a_client_that_comes_back_misses_and_doubles_nothing(client, queue, tmp_path):
    job_id = submit_nap(queue, tmp_path).job_id
    claim(queue)

    def report(number):
        queue.report(job_id, "r", 1, log=("info", f"line {number}"))

    def follow(count, **how):
        with client.stream("GET", f"/api/jobs/{job_id}/events", **how) as answer:
            return read_events(answer.iter_lines(), count)

    for number in range(3):
        report(number)
    first = follow(4)  # two states, two lines
    report(3)
    rest = follow(2, headers={"Last-Event-ID": first[-1]["id"]})
    assert rest == follow(2, params={"after_id": first[-1]["id"]})
    events = [json.loads(event["data"]) for event in first + rest]
    assert [e["content"]["message"] for e in events if e["kind"] == "log"] == [f"line {n}" for n in range(4)]
    assert [e["event_id"] for e in events] == [e.event_id for e in queue.events(job_id=job_id)]
    assert all(event["id"] == str(json.loads(event["data"])["event_id"]) for event in first)
    assert client.get(f"/api/jobs/{job_id}/events", headers={"Last-Event-ID": "x"}).status_code == 400


def test_events_of_all_jobs_begin_now_and_go_on(client, queue, tmp_path):
    submit_nap(queue, tmp_path)
    with client.stream("GET", "/api/events") as answer:
        lines = answer.iter_lines()
        while not next(lines).startswith("retry"):
            pass
        second = submit_nap(queue, tmp_path)
        (event,) = read_events(lines, 1)
    assert json.loads(event["data"])["job_id"] == second.job_id
    with client.stream("GET", "/api/events", params={"after_id": 0}) as answer:
        assert len(read_events(answer.iter_lines(), 2)) == 2


def test_a_silent_stream_shows_that_it_lives(client, queue, tmp_path, monkeypatch):
    monkeypatch.setattr(job_events, "BEAT_S", 0.05)
    with client.stream("GET", "/api/events") as answer:
        assert any(line == ": still here" for line in answer.iter_lines())


def test_a_stream_outlives_a_database_that_does_not_answer(client, queue, tmp_path, monkeypatch):
    job_id = submit_nap(queue, tmp_path).job_id
    plain, fails = queue.events, threading.Event()

    def flaky(*arguments, **named):
        if fails.is_set():
            raise DatabaseError("gone")
        return plain(*arguments, **named)

    monkeypatch.setattr(queue, "events", flaky)
    with client.stream("GET", f"/api/jobs/{job_id}/events") as answer:
        lines = answer.iter_lines()
        read_events(lines, 1)
        fails.set()
        job = claim(queue)
        time.sleep(0.1)
        fails.clear()
        (event,) = read_events(lines, 1)
    assert json.loads(event["data"])["content"]["runner"] == job.runner


def test_there_are_only_so_many_streams_and_a_client_that_goes_makes_room(service):
    with service(max_event_streams=1) as client:
        with client.stream("GET", "/api/events") as answer:
            lines = answer.iter_lines()  # the stream would be closed with it
            next(lines)
            refused = client.get("/api/events")
            assert (refused.status_code, list(refused.json())) == (503, ["error"])

        def opened():
            with client.stream("GET", "/api/events") as answer:
                return answer.status_code

        del lines
        assert wait_until("room", opened, lambda status: status == 200) == 200


def test_the_service_ends_although_clients_follow_events(service):
    with service() as client, socket.create_connection((client.base_url.host, client.base_url.port)) as follower:
        follower.sendall(b"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert follower.recv(100).startswith(b"HTTP/1.1 200")
        leaving = time.monotonic()
    assert time.monotonic() - leaving < 20
