# SPDX-License-Identifier: Apache-2.0
"""The runner's loop, without Spark: ends of jobs, leases, cancelling, several runners, one that is killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from ingest.errors import ChunkCorruptError, IncompleteScanError
from jobs.errors import JobParameterError, KindUnavailableError, LeaseLostError
from jobs.kinds import JobKind, check_parameters, kinds_by_name, read_parameters
from jobs.queue import JobQueue
from jobs.records import NewJob, Progress, Resources
from pacs.errors import IndexUnavailableError
from reconstruction.errors import BackendUnavailableError, ParameterError
from reconstruction.fdk import FdkParameters
from spark_jobs.errors import JobStoppedError, PlanError, RunnerError, SessionError, TaskFailedError
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.running import held_job
from spark_jobs.running import runner as runner_module
from spark_jobs.running.held_job import HeldJob, sentence_of, verdict
from spark_jobs.running.kinds import SPARK_KINDS, ReconstructParameters, request_of, values_of
from spark_jobs.running.runner import Runner
from spark_jobs.running.runner_settings import RunnerSettings
from storage.errors import ChecksumError, DatabaseError, StoreUnavailableError
from tests.support.job_kinds import KINDS, NapParameters, nap_queue, nap_resources, nap_runner, submit_nap
from tests.support.peers import REPOSITORY
from tests.support.waiting import wait_until


@pytest.fixture
def queue(tmp_path):
    with nap_queue(tmp_path) as opened:
        yield opened


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(runner_module, "_FIRST_RETRY_S", 0.05)


@contextmanager
def working(runner):
    """The runner on a thread; stopped in the end."""
    ends = {}
    thread = threading.Thread(target=lambda: ends.update(runner.run()))
    thread.start()
    try:
        yield ends
    finally:
        runner.stop()
        thread.join(60)
        assert not thread.is_alive()


def wait_for_state(queue, job_id, *states):
    return wait_until(f"job {job_id}", lambda: queue.get(job_id), lambda job: job.state in states)


def files(folder, pattern):
    return sorted(path.name for path in folder.glob(pattern))


def test_a_job_is_run_and_its_progress_log_and_result_are_kept(queue, tmp_path):
    job = submit_nap(queue, tmp_path, seconds=0.1)
    assert nap_runner(queue, tmp_path, "one").run(once=True) == {"finish": 1}
    done = queue.get(job.job_id)
    assert (done.state, done.result, done.attempt, done.runner) == ("done", {"slept": 0.1}, 1, "one")
    assert done.progress == Progress("nap", 1, 1)
    assert [e.content["message"] for e in queue.events(job_id=job.job_id) if e.kind == "log"] == ["good night"]


def test_progress_is_told_when_it_changes_and_not_too_often(queue, tmp_path, monkeypatch):
    job_id = submit_nap(queue, tmp_path).job_id
    job = queue.claim("r", kinds=["nap"], free=Resources(9), lease_s=60)
    held = HeldJob(queue, job, "r", claimed=time.monotonic(), lease_s=60, delay_s=0)
    for done in (0, 0, 1, 2, 3, 3):
        held.progress("a", done, 3)
    monkeypatch.setattr(held_job, "REPORT_EVERY_S", 0.0)
    for done in (0, 0, 1, 1, 2):
        held.progress("b", done, 3)
    told = [e.content for e in queue.events(job_id=job_id) if e.kind == "progress"]
    assert [(each["stage"], each["done"]) for each in told] == [("a", 0), ("a", 3), ("b", 0), ("b", 1), ("b", 2)]


def test_once_drains_what_waits_for_others_and_ends(queue, tmp_path):
    first = submit_nap(queue, tmp_path, seconds=0.1)
    second = submit_nap(queue, tmp_path, after=(first.job_id,))
    assert nap_runner(queue, tmp_path).run(once=True) == {"finish": 2}
    assert queue.get(second.job_id).started_at >= queue.get(first.job_id).finished_at


def test_a_failure_of_the_machine_is_tried_again_later_and_one_of_the_input_never(queue, tmp_path):
    flaky = submit_nap(queue, tmp_path, failures=2)
    hopeless = submit_nap(queue, tmp_path, hopeless=True)
    lasting = submit_nap(queue, tmp_path, failures=9)
    assert nap_runner(queue, tmp_path).run(once=True) == {"finish": 1, "fail": 2, "again": 4}
    assert (queue.get(flaky.job_id).state, queue.get(flaky.job_id).attempt) == ("done", 3)
    failed = queue.get(hopeless.job_id)
    assert (failed.state, failed.attempt, failed.error) == ("failed", 1, "scan nowhere is not in the store")
    gone = queue.get(lasting.job_id)
    assert (gone.state, gone.attempt) == ("failed", 3)
    assert gone.error == "a fault of the program (OSError): the runner's log says where"


def test_retries_wait_longer_each_time(monkeypatch):
    monkeypatch.undo()
    assert [runner_module.retry_delay_s(n) for n in (0, 1, 2, 3, 20)] == [2, 2, 4, 8, 300]


def test_a_running_job_is_cancelled(queue, tmp_path):
    job = submit_nap(queue, tmp_path, seconds=60)
    with working(nap_runner(queue, tmp_path, lease_s=1.5)) as ends:
        wait_for_state(queue, job.job_id, "running")
        queue.cancel(job.job_id)
        wait_for_state(queue, job.job_id, "cancelled")
    assert ends == {"cancelled": 1}
    assert files(tmp_path, "stopped-*") == [f"stopped-{job.job_id}-1"]
    assert not files(tmp_path, "ended-*")


class BadLine(JobQueue):
    """A queue whose answers do not come at times."""

    def __init__(self, queue):
        super().__init__(queue.engine, queue.kinds)
        self.cut = set()
        self.tries = 0

    def _may(self, name):
        if name in self.cut:
            self.tries += 1
            raise DatabaseError("the database does not answer")

    def renew(self, *arguments):
        self._may("renew")
        return super().renew(*arguments)

    def claim(self, *arguments, **named):
        self._may("claim")
        return super().claim(*arguments, **named)

    def finish(self, *arguments):
        self._may("finish")
        return super().finish(*arguments)

    def report(self, *arguments, **named):
        self._may("report")
        return super().report(*arguments, **named)


def test_who_cannot_renew_stops_in_time_and_writes_nothing_and_another_does_the_job(queue, tmp_path):
    job = submit_nap(queue, tmp_path, seconds=2.5)
    line = BadLine(queue)
    with working(nap_runner(line, tmp_path, "cut off", lease_s=1.0)) as ends:
        wait_for_state(queue, job.job_id, "running")
        line.cut = {"renew", "claim", "report"}
        wait_until("the job to stop", lambda: files(tmp_path, "stopped-*"))
        with working(nap_runner(queue, tmp_path, "other")):
            wait_for_state(queue, job.job_id, "done")
    assert ends == {"nothing": 1}
    assert (queue.get(job.job_id).runner, queue.get(job.job_id).attempt) == ("other", 2)
    assert files(tmp_path, "ended-*") == [f"ended-{job.job_id}-2"]


def test_a_job_that_does_not_listen_cannot_write_once_it_lost_its_lease(queue, tmp_path):
    job = submit_nap(queue, tmp_path, seconds=2.0, deaf=True)
    line = BadLine(queue)
    with working(nap_runner(line, tmp_path, "deaf", lease_s=1.0)) as ends:
        wait_for_state(queue, job.job_id, "running")
        line.cut = {"renew", "claim", "report"}
        wait_until("its end", lambda: files(tmp_path, "ended-*"))
    assert ends == {"nothing": 1}
    assert queue.get(job.job_id).result is None
    assert [lost.state for lost in queue.expire()] == ["waiting"]


def test_a_job_comes_back_while_its_first_attempt_is_still_stopping(queue, tmp_path):
    job = submit_nap(queue, tmp_path, seconds=2.5, deaf=True)
    line = BadLine(queue)
    with working(nap_runner(line, tmp_path, lease_s=1.0, jobs=2)) as ends:
        wait_for_state(queue, job.job_id, "running")
        line.cut = {"renew"}
        wait_until("the second attempt", lambda: files(tmp_path, "begun-*-2"))
        line.cut = set()
        wait_for_state(queue, job.job_id, "done")
    assert ends == {"nothing": 1, "finish": 1}
    assert queue.get(job.job_id).attempt == 2


def test_an_end_is_written_down_past_a_queue_that_does_not_answer(queue, tmp_path):
    job = submit_nap(queue, tmp_path, seconds=0.1)
    line = BadLine(queue)
    line.cut = {"finish", "report"}
    with working(nap_runner(line, tmp_path)) as ends:
        wait_until("some tries", lambda: line.tries >= 3)
        line.cut = set()
        wait_for_state(queue, job.job_id, "done")
    assert ends == {"finish": 1}


def test_a_queue_that_does_not_answer_is_asked_again_and_with_once_it_is_an_error(queue, tmp_path):
    line = BadLine(queue)
    line.cut = {"claim"}
    job = submit_nap(queue, tmp_path)
    with working(nap_runner(line, tmp_path)):
        wait_until("some tries", lambda: line.tries >= 2)
        line.cut = set()
        wait_for_state(queue, job.job_id, "done")
    line.cut = {"claim"}
    with pytest.raises(DatabaseError):
        nap_runner(line, tmp_path).run(once=True)


def test_jobs_run_at_once_within_the_runners_resources(queue, tmp_path):
    wide = [submit_nap(queue, tmp_path, seconds=0.4, cores=3) for _ in range(2)]
    slim = submit_nap(queue, tmp_path, seconds=0.4, cores=1)
    nap_runner(queue, tmp_path, jobs=3).run(once=True)
    a, b = (queue.get(job.job_id) for job in wide)
    c = queue.get(slim.job_id)
    assert b.started_at >= a.finished_at
    assert c.started_at < a.finished_at


def test_what_no_runner_of_this_size_can_do_is_left(queue, tmp_path):
    job = submit_nap(queue, tmp_path, cores=5)
    assert nap_runner(queue, tmp_path).run(once=True) == {}
    assert queue.get(job.job_id).state == "waiting"


def broken(_context, _parameters):
    return {"voxels": "x" * (2 << 20)}


def test_a_result_too_large_for_the_queue_is_the_jobs_failure(tmp_path):
    kinds = kinds_by_name([JobKind("huge", "Too much", NapParameters, nap_resources, f"{__name__}:broken")])
    sys.modules.setdefault(__name__, sys.modules[broken.__module__])
    with nap_queue(tmp_path) as plain:
        queue = JobQueue(plain.engine, kinds)
        job = queue.submit(NewJob("huge", {"folder": str(tmp_path)}))
        runner = Runner(queue, RunnerSettings(cores=1), kinds, None, None, start_session=lambda: None)
        assert runner.run(once=True) == {"fail": 1}
        assert "the result of job 1" in queue.get(job.job_id).error


def test_a_kind_that_cannot_run_here_is_left_to_others_in_the_end(tmp_path):
    kinds = kinds_by_name([JobKind("far", "Elsewhere", NapParameters, nap_resources, "not_installed.here:run")])
    with nap_queue(tmp_path) as plain:
        queue = JobQueue(plain.engine, kinds)
        job = queue.submit(NewJob("far", {"folder": str(tmp_path)}, max_attempts=1))
        runner = Runner(queue, RunnerSettings(cores=1), kinds, None, None, start_session=lambda: None)
        assert runner.run(once=True) == {"fail": 1}
        assert "not_installed" in queue.get(job.job_id).error


# ---- processes


@contextmanager
def runner_process(folder, name, **settings):
    """A runner in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "tests.support.work_alone", str(folder), name, json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_two_runners_one_killed_every_job_once(queue, tmp_path):
    settings = {"jobs": 2, "lease_s": 8.0}
    with runner_process(tmp_path, "a", **settings) as a, runner_process(tmp_path, "b", **settings) as b:
        ids = [submit_nap(queue, tmp_path, seconds=0.5, cores=2).job_id for _ in range(10)]
        wait_until(
            "jobs in the hands of both",
            lambda: {job.runner for job in queue.list(states=["running"])},
            lambda runners: runners == {"a", "b"},
            interval_s=0.02,
        )
        a.send_signal(signal.SIGSTOP)  # so that nothing ends between the look and the kill
        orphans = {job.job_id for job in queue.list(states=["running"]) if job.runner == "a"}
        a.kill()
        for job_id in ids:
            wait_for_state(queue, job_id, "done", "failed")
        b.send_signal(signal.SIGTERM)
        out, _ = b.communicate(timeout=60)
    jobs = [queue.get(job_id) for job_id in ids]
    assert {job.state for job in jobs} == {"done"}
    assert {job.job_id for job in jobs if job.attempt == 2} == orphans
    # Each was written down as done by one runner, once.
    for job in jobs:
        ended = [e for e in queue.events(job_id=job.job_id) if e.kind == "state" and e.content["state"] == "done"]
        assert len(ended) == 1
        # What was killed may have had no time to begin.
        begun = {f"begun-{job.job_id}-{attempt}" for attempt in range(1, job.attempt + 1)}
        assert {f"begun-{job.job_id}-{job.attempt}"} <= set(files(tmp_path, f"begun-{job.job_id}-*")) <= begun
    by_a = sum(job.runner == "a" for job in jobs)
    assert json.loads(out) == {"finish": len(ids) - by_a}


def test_sigterm_lets_a_job_finish_within_the_grace_time_and_takes_no_other(queue, tmp_path):
    first, second = submit_nap(queue, tmp_path, seconds=1.0), submit_nap(queue, tmp_path)
    with runner_process(tmp_path, "a", grace_s=30.0) as process:
        wait_for_state(queue, first.job_id, "running")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)) == (0, {"finish": 1})
    assert (queue.get(first.job_id).state, queue.get(second.job_id).state) == ("done", "waiting")


def test_sigterm_gives_back_what_does_not_finish_and_that_counts_as_no_attempt(queue, tmp_path):
    job = submit_nap(queue, tmp_path, seconds=60)
    with runner_process(tmp_path, "a", grace_s=0.2) as process:
        wait_for_state(queue, job.job_id, "running")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)) == (0, {"release": 1})
    back = queue.get(job.job_id)
    assert (back.state, back.attempts_used, back.error) == ("waiting", 0, "")


def test_a_second_sigterm_ends_the_grace_time(queue, tmp_path):
    job = submit_nap(queue, tmp_path, seconds=60)
    with runner_process(tmp_path, "a", grace_s=300.0) as process:
        wait_for_state(queue, job.job_id, "running")
        process.send_signal(signal.SIGTERM)
        time.sleep(0.6)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert json.loads(out) == {"release": 1}


# ---- decisions


@pytest.mark.parametrize(
    ("error", "stop", "expected"),
    [
        (None, None, "finish"),
        (None, "cancelled", "finish"),  # it was done before it heard of it
        (None, "released", "finish"),
        (None, "lost", "nothing"),
        (JobStoppedError("x"), "cancelled", "cancelled"),
        (OSError("x"), "cancelled", "cancelled"),
        (JobStoppedError("x"), "released", "release"),
        (JobStoppedError("x"), "lost", "nothing"),
        (LeaseLostError("x"), None, "nothing"),
        (IncompleteScanError("x"), None, "fail"),
        (ChunkCorruptError("x"), None, "fail"),
        (ChecksumError("x"), None, "fail"),
        (PlanError("x"), None, "fail"),
        (ParameterError("x"), None, "fail"),
        (JobParameterError("x"), None, "fail"),
        (TaskFailedError("x"), None, "again"),
        (SessionError("x"), None, "again"),
        (JobStoppedError("x"), None, "again"),
        (BackendUnavailableError("x"), None, "again"),
        (KindUnavailableError("x"), None, "again"),
        (IndexUnavailableError("x"), None, "again"),
        (StoreUnavailableError("x"), None, "again"),
        (DatabaseError("x"), None, "again"),
        (ZeroDivisionError("x"), None, "again"),
    ],
)
def test_how_an_end_is_written_down(error, stop, expected):
    assert verdict(error, stop) == expected


def test_foreign_errors_are_told_without_their_words():
    assert sentence_of(PlanError("two\nlines")) == "two lines"
    assert "Miller" not in sentence_of(ValueError("patient Miller"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"jobs": 0}, "jobs = 0"),
        ({"cores": -1}, "cores"),
        ({"lease_s": 1.0, "poll_s": 1.0}, "poll_s < lease_s"),
        ({"poll_s": 0.0}, "poll_s"),
        ({"grace_s": -1.0}, "grace_s"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, words):
    with pytest.raises(RunnerError, match=words):
        RunnerSettings(**wrong)


def test_a_runner_has_the_machine_unless_told_otherwise():
    found = RunnerSettings().resources()
    assert found.cores == os.cpu_count()
    assert found.memory_bytes > 1 << 28
    assert RunnerSettings(cores=3, memory_gib=1.5, gpus=2).resources() == Resources(3, 3 << 29, 2)


# ---- the kinds


def test_every_choice_of_a_request_can_be_made_in_a_job():
    chosen = {field.name for field in dataclasses.fields(ReconstructionRequest)} - {"fdk", "correction", "iterative"}
    chosen |= {field.name for field in dataclasses.fields(FdkParameters)}
    chosen |= {"method", "iterations", "subsets", "tv_strength"}
    assert chosen <= {field.name for field in dataclasses.fields(ReconstructParameters)}
    assert request_of(ReconstructParameters("stone")) == ReconstructionRequest("stone")


def test_a_request_goes_through_the_queue_and_comes_out_the_same():
    request = ReconstructionRequest(
        "stone", bins=(0, 2), voxel_pitch_mm=0.05, shape=(8, 9, 10), center_mm=(0.0, 1.5, 2.0),
        fdk=FdkParameters("hann", 0.9, 4.0), mode="two_stage", band_type="float16", n_slabs=3, mu_range=(-1.0, 2.5),
        task_memory_bytes=1 << 28, run_id="second",
    )  # fmt: skip
    kind = SPARK_KINDS["reconstruct"]
    kept = json.loads(json.dumps(check_parameters(kind, values_of(request) | {"cores": 3})))
    parameters = read_parameters(kind, kept)
    assert request_of(parameters) == request
    assert kind.resources(parameters) == Resources(3, 3 << 28, 0)
    assert kind.resources(dataclasses.replace(parameters, backend="cupy")).gpus == 3
    assert SPARK_KINDS["plan"].resources(parameters) == Resources(1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scan_id": ""}, "the id of a stored scan"),
        ({"cores": 0}, "at least one core"),
        ({"task_memory_bytes": 0}, "some memory"),
        ({"filter_window": "box"}, "filter window 'box'"),
        ({"mu_range": [2, 1]}, "mu range"),
        ({"mode": "both"}, "'mode'"),
        ({"voxels": 3}, "'voxels'"),
    ],
)
def test_parameters_that_cannot_be_used_are_refused_at_the_submit(wrong, words):
    with pytest.raises(JobParameterError, match=words):
        check_parameters(SPARK_KINDS["reconstruct"], {"scan_id": "stone"} | wrong)


def test_who_submits_needs_no_spark():
    program = (
        "import sys; from spark_jobs.running.kinds import SPARK_KINDS; import jobs.queue; "
        "sys.exit(sorted({'pyspark', 'pyarrow', 'pydicom', 'numba'} & {n.partition('.')[0] for n in sys.modules}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(KINDS) == {"nap"}


def test_once_takes_what_a_job_that_ends_while_the_queue_is_asked_makes_room_for(queue, tmp_path):
    """The answer is that nothing fits, and the job that was in the way has ended by then."""

    class LateAnswer:
        """A queue that answers a claim when nobody works any more."""

        def __getattr__(self, name):
            return getattr(queue, name)

        def claim(self, *args, **options):
            job = queue.claim(*args, **options)
            if job is None:
                wait_until("nobody works", lambda: not queue.list(states=("running",)))
                time.sleep(0.2)
            return job

    wide = [submit_nap(queue, tmp_path, seconds=0.4, cores=4) for _ in range(2)]
    assert nap_runner(LateAnswer(), tmp_path, jobs=2).run(once=True) == {"finish": 2}
    assert [queue.get(job.job_id).state for job in wide] == ["done", "done"]
