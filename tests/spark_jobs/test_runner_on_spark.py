# SPDX-License-Identifier: Apache-2.0
"""A scan goes through queue, runner and Spark to one registered series, also if the runner is killed on the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from jobs.queue import open_queue
from jobs.records import NewJob
from pacs.index import Query
from spark_jobs.running import runner_session
from spark_jobs.running.runner_session import RunnerSession, job_tag
from tests.support.index_engine import sqlite_index
from tests.support.local_run import store_sample
from tests.support.peers import REPOSITORY
from tests.support.waiting import wait_until
from tests.support.work_on_spark import HOLD, KINDS, spark_runner

pytestmark = pytest.mark.spark

SCAN = {"scan_id": "sample-marker", "bins": [0], "n_slabs": 2, "task_memory_bytes": 1 << 30}
PRODUCTS = 2  # a volume and its preview


@pytest.fixture(scope="module")
def sample_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    store_sample(folder / "source", (folder / "store").as_uri(), n_views=24, n_rows=24, n_cols=32)
    return folder / "store"


@pytest.fixture
def folder(sample_folder, tmp_path, monkeypatch):
    """A store with a scan; the session that all tests share is not stopped by a runner that ends."""
    shutil.copytree(sample_folder, tmp_path / "store")
    monkeypatch.setattr(runner_session, "_discard", lambda _session: None)
    return tmp_path


@pytest.fixture
def index(folder):
    with sqlite_index(folder / "index.sqlite") as opened:
        yield opened


@pytest.fixture
def queue(folder, index):
    with open_queue(str(folder / "index.sqlite"), KINDS) as opened:
        yield opened


def series_of(index):
    return sorted(row["SeriesInstanceUID"] for row in index.find(Query("SERIES"), limit=99))


def wait_for(queue, job_id, *states, timeout_s=240.0):
    return wait_until(f"job {job_id}", lambda: queue.get(job_id), lambda job: job.state in states, timeout_s=timeout_s)


def runner_once(queue, index, folder, spark, **settings):
    return spark_runner(queue, index, folder, lambda: spark, lease_s=60.0, **settings).run(once=True)


def test_a_planned_and_reconstructed_scan_is_registered_once(queue, index, folder, spark_session):
    plan = queue.submit(NewJob("plan", SCAN))
    first = queue.submit(NewJob("reconstruct", SCAN, depends_on=(plan.job_id,)))
    beside = queue.submit(NewJob("reconstruct", SCAN | {"run_id": "beside"}, depends_on=(plan.job_id,)))
    second = queue.submit(NewJob("reconstruct", SCAN, depends_on=(first.job_id,)))
    assert runner_once(queue, index, folder, spark_session, jobs=2) == {"finish": 4}
    planned, made, other, again = (queue.get(job.job_id).result for job in (plan, first, beside, second))
    assert planned["n_tasks"] == 2
    assert made["run"] == planned["run"] == again["run"] != other["run"]
    assert (made["unchanged"], again["unchanged"]) == (False, True)
    assert series_of(index) == sorted(series["series_uid"] for run in (made, other) for series in run["series"])
    assert [len(run["series"]) for run in (made, other)] == [PRODUCTS] * 2
    assert queue.get(beside.job_id).started_at < queue.get(first.job_id).finished_at  # side by side
    stages = [e.content["stage"] for e in queue.events(job_id=first.job_id) if e.kind == "progress"]
    assert list(dict.fromkeys(stages)) == ["prepare", "reconstruct"]
    assert made["figures"]["tasks"] == 2
    unknown = queue.submit(NewJob("reconstruct", SCAN | {"scan_id": "nowhere"}))
    assert runner_once(queue, index, folder, spark_session) == {"fail": 1}
    assert "no scan 'nowhere'" in queue.get(unknown.job_id).error


def test_a_cancelled_job_leaves_spark_although_it_does_not_listen(queue, index, folder, spark_session):
    job = queue.submit(NewJob("endless", {}))
    runner = spark_runner(queue, index, folder, lambda: spark_session, lease_s=60.0)
    ends = {}
    thread = threading.Thread(target=lambda: ends.update(runner.run(once=True)))
    thread.start()
    tracker = spark_session.sparkContext.statusTracker()
    wait_until("a Spark job", tracker.getActiveJobsIds, timeout_s=120)
    queue.cancel(job.job_id)
    thread.join(120)
    assert ends == {"cancelled": 1}
    assert queue.get(job.job_id).state == "cancelled"
    wait_until("Spark to be free", tracker.getActiveJobsIds, lambda ids: not ids, timeout_s=60)


def test_each_jobs_work_is_marked_as_its_own(spark_session):
    held = RunnerSession(lambda: spark_session)
    found = {}

    def work(job_id):
        context = held.session_for(job_id).sparkContext
        found[job_id] = (set(context.getJobTags()), context.getLocalProperty("spark.scheduler.pool"))

    threads = [threading.Thread(target=work, args=(job_id,)) for job_id in (7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: ({job_tag(n)}, job_tag(n)) for n in (7, 8)}


@contextmanager
def runner_process(folder):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "tests.support.work_on_spark", str(folder)]
    with (folder / "runner.log").open("wb") as log, subprocess.Popen(command, stderr=log, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_spark_is_started_anew_when_it_died_and_a_killed_runners_job_ends_with_the_same_bytes(
    queue, index, folder, spark_session, tmp_path_factory
):
    deadly = queue.submit(NewJob("deadly", {}))
    held = queue.submit(NewJob("held", SCAN, depends_on=(deadly.job_id,)))
    (folder / HOLD).touch()
    with runner_process(folder) as process:
        survived = wait_for(queue, deadly.job_id, "done", "failed")
        assert (survived.result, survived.attempt) == ({"count": 3}, 2)
        wait_until(
            "one of two slabs", lambda: queue.get(held.job_id).progress,
            lambda progress: (progress.stage, progress.done) == ("reconstruct", 1), timeout_s=240,
        )  # fmt: skip
        process.kill()
    assert series_of(index) == []
    (folder / HOLD).unlink()
    with_lease = time.monotonic()
    while queue.get(held.job_id).state != "done":
        assert time.monotonic() - with_lease < 240
        runner_once(queue, index, folder, spark_session)
        time.sleep(0.5)
    done = queue.get(held.job_id)
    assert done.attempt == 2
    assert len(series_of(index)) == PRODUCTS

    # The same in one go, elsewhere.
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(folder / "store" / "scans", other / "store" / "scans")
    with sqlite_index(other / "index.sqlite") as plain, open_queue(str(other / "index.sqlite"), KINDS) as plain_queue:
        job = plain_queue.submit(NewJob("held", SCAN))
        runner_once(plain_queue, plain, other, spark_session)
        assert plain_queue.get(job.job_id).result["volumes"] == done.result["volumes"]
        assert series_of(plain) == series_of(index)
