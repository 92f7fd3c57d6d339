# SPDX-License-Identifier: Apache-2.0
"""More that goes wrong while the main job runs; each ends with the same bytes and each series once: `make campaign`."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster import set_safe_mode
from tests.support.cluster_job import ClusterJob, executors, python_workers, run_undisturbed
from tests.support.command_line import conepacs_apart, start_conepacs
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.hdfs, pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(900)]

#: Overtake a task that takes thrice as long as the others, a second at least.
SPECULATION = {
    "spark.speculation": "true",
    "spark.speculation.interval": "200ms",
    "spark.speculation.multiplier": "3",
    "spark.speculation.quantile": "0.5",
    "spark.speculation.minTaskRuntime": "1s",
}


@pytest.fixture(scope="module")
def undisturbed(spark_cluster, tmp_path_factory):
    return run_undisturbed(spark_cluster, tmp_path_factory.mktemp("campaign"))


def daemon_pid(job: ClusterJob, name: str) -> int:
    return next(daemon.pid for daemon in job.cluster.status().daemons if daemon.name == name)


@contextmanager
def stopped(find: Callable[[], list[int]]) -> Iterator[None]:
    """Let processes stand still; `find` looks for them until there are some."""
    pids = wait_until("processes to stop", find)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def packs(job: ClusterJob) -> list[str]:
    """All packs of slab tasks in the store."""
    return [pack.path for run in job.store.list_folder("packs") for pack in job.store.list_folder(run.path)]


def recorded_packs(job: ClusterJob) -> set[str]:
    """Packs that the records of finished slabs name."""
    return {json.loads(job.store.read_bytes(path))["pack"] for path in job.finished_slabs()}


def test_the_name_node_is_killed_and_started_again(undisturbed):
    job = undisturbed.again("name-node").start()
    job.wait_for_slabs(2)
    undisturbed.cluster.kill("namenode")
    time.sleep(3)
    undisturbed.cluster.restart("namenode")
    undisturbed.require_same(job, job.result())


def test_the_driver_is_killed_and_the_job_resumed(undisturbed):
    job = undisturbed.again("driver").start()
    seen = job.wait_for_slabs(4)
    job.kill()
    kept = set(job.finished_slabs())
    assert len(kept) >= seen
    packs_before = recorded_packs(job)
    result = job.start().result()
    undisturbed.require_same(job, result)
    # What was finished is used again, not computed again.
    assert packs_before <= {task["pack"] for task in result["report"]["tasks"]}


def test_the_runner_is_killed_and_another_takes_over(undisturbed):
    job = undisturbed.again("runner")
    job.folder.mkdir()
    job.write_settings(runner={"lease_s": 6, "poll_s": 0.5})
    place = ("--store", job.store_url, "--index", job.index)
    submitted = conepacs_apart(
        "jobs", "submit", "reconstruct", job.scan_id, *job.arguments, *place, "--json", folder=job.folder
    )
    assert submitted.code == 0, submitted
    job_id = json.loads(submitted.out)["job_id"]
    job.process = start_conepacs("jobs", "work", *place, folder=job.folder, start_new_session=True)
    job.wait_for_slabs(3)
    job.kill()
    job.process = start_conepacs("jobs", "work", *place, folder=job.folder, start_new_session=True)

    def state() -> dict[str, object]:
        return json.loads(conepacs_apart("jobs", "show", str(job_id), *place, "--json", folder=job.folder).out)

    shown = wait_until("the job", state, lambda now: now["state"] not in ("waiting", "running"), timeout_s=300)
    assert (shown["state"], shown["attempt"]) == ("done", 2), shown
    job.process.terminate()
    _, err = job.process.communicate(timeout=120)
    assert job.process.returncode in (0, 143), err
    undisturbed.require_same_series(job)


def test_an_executor_is_short_of_memory(undisturbed):
    """All Python workers of one executor are denied memory: its tasks fail, the other executor's do not."""
    job = undisturbed.again("memory", spark={"spark.task.maxFailures": "8"}).start()
    job.wait_for_slabs(2)
    starved = 0
    for worker in python_workers(daemon_pid(job, "worker0"), with_daemons=True):
        status = Path(f"/proc/{worker}/status").read_text().splitlines()
        used = int(next(line for line in status if line.startswith("VmSize")).split()[1]) * 1024
        resource.prlimit(worker, resource.RLIMIT_AS, (used + (16 << 20), used + (16 << 20)))
        starved += 1
    assert starved
    undisturbed.require_same(job, job.result())


def test_a_task_hangs_and_is_overtaken(undisturbed):
    """A Python worker stops in the middle of its task and goes on when the job is over: a late duplicate attempt."""
    job = undisturbed.again("hanging", spark=SPECULATION).start()
    job.wait_for_slabs(3)
    with stopped(lambda: python_workers(daemon_pid(job, "worker0"))):
        result = job.result()
    undisturbed.require_same(job, result)


def test_a_lost_executor_comes_back_late(undisturbed):
    """A whole executor stands still until it is given up, then writes its slab after another has."""
    quick = {
        "spark.network.timeout": "12s",
        "spark.network.timeoutInterval": "4s",
        "spark.executor.heartbeatInterval": "2s",
    }
    job = undisturbed.again("zombie", spark=quick).start()
    job.wait_for_slabs(3)
    with stopped(lambda: executors(daemon_pid(job, "worker0"))):
        result = job.result()
    time.sleep(5)
    undisturbed.require_same(job, result)
    named = {task["pack"] for task in result["report"]["tasks"]}
    assert named <= set(packs(job))


def test_the_store_refuses_writes_for_twenty_seconds(undisturbed):
    job = undisturbed.again("safe-mode").start()
    job.wait_for_slabs(2)
    set_safe_mode(undisturbed.cluster, on=True)
    try:
        time.sleep(20)
    finally:
        set_safe_mode(undisturbed.cluster, on=False)
    undisturbed.require_same(job, job.result())


def test_a_worker_is_added_and_used_and_one_is_drained(undisturbed):
    job = undisturbed.again("added").start()
    job.wait_for_slabs(2)
    # The small job would be over before a worker is up: the others' tasks stand still meanwhile.
    with stopped(lambda: [pid for name in ("worker0", "worker1") for pid in python_workers(daemon_pid(job, name))]):
        (added,) = undisturbed.cluster.add("worker")
        wait_until("a Python worker of the new one", lambda: python_workers(daemon_pid(job, added)), timeout_s=120)
    try:
        undisturbed.cluster.drain("worker0", timeout_s=60)
        result = job.result()
        undisturbed.require_same(job, result)
    finally:
        undisturbed.cluster.restart("worker0")
        undisturbed.cluster.drain(added, timeout_s=60)
