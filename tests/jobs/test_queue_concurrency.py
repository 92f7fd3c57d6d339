# SPDX-License-Identifier: Apache-2.0
"""Several threads and processes at one queue, some of which are killed: every job once, no event missed."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from jobs.errors import LeaseLostError
from jobs.queue import open_queue
from jobs.records import Progress
from tests.support.peers import REPOSITORY
from tests.support.queues import KINDS, MANY, claimed, database_url, work
from tests.support.waiting import wait_until

N_JOBS = 40


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def url(request, tmp_path):
    with database_url(request.param, request, tmp_path) as made:
        yield made


@pytest.fixture
def queue(url):
    with open_queue(url, KINDS) as made:
        yield made


@contextmanager
def runner_process(url, name, *how):
    """A runner that is ready; killed at the end if it is still there."""
    command = [sys.executable, "-m", "tests.support.queue_runner", url, name, *how]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        yield process
    finally:
        process.kill()
        process.communicate()


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def work_off(url, name, finished):
    """A runner as a thread, with connections of its own."""
    with open_queue(url, KINDS) as queue:
        while job := queue.claim(name, kinds=["work"], free=MANY, lease_s=60.0):
            queue.report(job.job_id, name, job.attempt, progress=Progress("work", 1, 1))
            queue.finish(job.job_id, name, job.attempt, {"by": name})
            finished.append(job.job_id)


def test_every_job_goes_to_one_of_many_runners(url, queue):
    for number in range(N_JOBS):
        queue.submit(work(number, user="abc"[number % 3], depends_on=(number,) if number % 4 == 3 else ()))
    by_threads: list[int] = []
    seen = []
    with runner_process(url, "p1") as one, runner_process(url, "p2") as other:
        threads = [threading.Thread(target=work_off, args=(url, f"t{n}", by_threads)) for n in range(3)]
        for process in (one, other):
            go(process)
        for thread in threads:
            thread.start()
        while queue.list(states=["waiting", "running"], limit=1):
            seen += queue.events(seen[-1].event_id if seen else 0)
        for thread in threads:
            thread.join()
        answers = [process.communicate(timeout=60) for process in (one, other)]
    assert [error for _, error in answers] == ["", ""]
    by_processes = [int(number) for output, _ in answers for number in output.split()]
    assert sorted(by_threads + by_processes) == list(range(1, N_JOBS + 1))
    events = queue.events(limit=10_000)
    starts = [event.job_id for event in events if event.content.get("state") == "running"]
    assert sorted(starts) == list(range(1, N_JOBS + 1))
    # Who followed while all wrote has missed nothing.
    seen += queue.events(seen[-1].event_id if seen else 0, limit=10_000)
    assert seen == events
    assert {job.result["by"] for job in queue.list()} <= {"t0", "t1", "t2", "p1", "p2"}


def test_many_submit_at_once(url, queue):
    def submit(name):
        with open_queue(url, KINDS) as own:
            for number in range(8):
                own.submit(work(number, user=name))

    threads = [threading.Thread(target=submit, args=(f"u{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.counts() == {("work", "waiting"): 32}
    assert len({job.job_id for job in queue.list()}) == 32


def test_the_job_of_a_killed_runner_comes_again(url, queue):
    queue.submit(work())
    with runner_process(url, "dies", "hang") as process:
        go(process)
        assert process.stdout.readline() == "1\n"
        assert claimed(queue, "other") is None
        process.kill()
        process.wait()
    assert wait_until("the lease runs out", lambda: claimed(queue, "other")) == 1
    job = queue.get(1)
    assert (job.runner, job.attempt) == ("other", 2)
    with pytest.raises(LeaseLostError):
        queue.finish(1, "dies", 1, {})
    assert queue.finish(1, "other", 2, {}).state == "done"


def test_a_runner_killed_in_the_middle_of_a_write_leaves_nothing(url, queue):
    queue.submit(work())
    with runner_process(url, "dies", "hold") as process:
        go(process)
        assert process.stdout.readline() == "holding\n"
        waiting = threading.Thread(target=queue.set_priority, args=(1, 5))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()  # one writer at a time
        assert queue.get(1).priority == 0  # readers do not wait, and see nothing half done
        process.kill()
        process.wait()
        waiting.join(60)
    assert queue.get(1).priority == 5
