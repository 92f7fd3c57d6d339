# SPDX-License-Identifier: Apache-2.0
"""Any sequence of requests: the queue does what the model does, and old attempts never write."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jobs.errors import JobStateError, LeaseLostError
from jobs.queue import JobQueue
from jobs.records import Progress, Resources
from jobs.tables import MIGRATIONS
from storage.database import apply_migrations, create_database_engine
from tests.support.queue_model import RESERVE_AFTER_S, QueueModel
from tests.support.queues import KINDS, START, SetClock, work

USERS = st.sampled_from(["anna", "bert", ""])
CORES = st.sampled_from([1, 1, 2, 4, 6])
RUNNERS = st.sampled_from(["r1", "r2"])
CAPACITY = {"r1": 4, "r2": 6}
LEASE_S = 200.0


class QueueMachine(RuleBasedStateMachine):
    """The queue on SQLite beside the model."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.engine = create_database_engine(str(Path(self.folder.name) / "queue.sqlite"))
        # Nobody cuts the power here, and the disk is what takes the time.
        sqlalchemy.event.listen(self.engine, "connect", lambda one, _record: one.execute("PRAGMA synchronous = OFF"))
        apply_migrations(self.engine, MIGRATIONS)
        self.clock = SetClock()
        self.queue = JobQueue(self.engine, KINDS, now=self.clock, reserve_after_s=RESERVE_AFTER_S)
        self.model = QueueModel()
        self.attempts: list[tuple[int, str, int]] = []

    def teardown(self):
        self.engine.dispose()
        self.folder.cleanup()

    def any_job(self, data, *states):
        jobs = [job for job in self.model.jobs.values() if not states or job.state in states]
        return data.draw(st.sampled_from(jobs)) if jobs else None

    @initialize(jobs=st.lists(st.tuples(USERS, st.integers(0, 1), CORES), min_size=5, max_size=9))
    def fill(self, jobs):
        for user, priority, cores in jobs:
            self.add(user, priority, cores, 2, frozenset())

    def add(self, user, priority, cores, most, needs):
        expected = self.model.submit(user, priority, cores, needs, most)
        options = {"user": user, "priority": priority, "depends_on": tuple(needs), "max_attempts": most}
        job = self.queue.submit(work(cores=cores, **options))
        assert (job.job_id, job.state) == (expected.job_id, expected.state)

    @rule(data=st.data(), user=USERS, priority=st.integers(0, 1), cores=CORES, most=st.integers(1, 2))
    def submit(self, data, user, priority, cores, most):
        older = st.sampled_from(sorted(self.model.jobs))
        self.add(user, priority, cores, most, data.draw(st.frozensets(older, max_size=2)))

    @rule(runner=RUNNERS, times=st.integers(1, 3))
    def claim(self, runner, times):
        for _ in range(times):
            free = CAPACITY[runner] - sum(job.cores for job in self.model.running() if job.runner == runner)
            job = self.queue.claim(runner, kinds=["work"], free=Resources(free, 0, 0), lease_s=LEASE_S)
            expected = self.model.claim(runner, free, LEASE_S)
            assert (job and job.job_id) == (expected and expected.job_id)
            if job is not None:
                assert (job.attempt, job.runner) == (expected.attempt, runner)
                self.attempts.append((job.job_id, runner, job.attempt))

    @rule(seconds=st.sampled_from([1, 51, 201]))
    def wait(self, seconds):
        self.clock.advance(seconds)
        self.model.now += seconds

    @precondition(lambda self: self.model.running())
    @rule(data=st.data(), seconds=st.sampled_from([3, 51]))
    def finish_after_a_while(self, data, seconds):
        self.wait(seconds)
        job = self.any_job(data, "running")
        self.queue.finish(job.job_id, job.runner, job.attempt, {"attempt": job.attempt})
        self.model.end(job, "done")

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), how=st.sampled_from(["renew", "report", "finish", "fail", "again", "release", "cancelled"]))
    def write(self, data, how):
        """A runner writes about an attempt that it has, or had once."""
        job_id, runner, attempt = data.draw(st.sampled_from(self.attempts))
        expected = self.model.jobs[job_id]
        calls = {
            "renew": lambda: self.queue.renew(job_id, runner, attempt, LEASE_S),
            "report": lambda: self.queue.report(job_id, runner, attempt, progress=Progress("x", 1, 2)),
            "finish": lambda: self.queue.finish(job_id, runner, attempt, {"attempt": attempt}),
            "fail": lambda: self.queue.fail(job_id, runner, attempt, "bad", again=False),
            "again": lambda: self.queue.fail(job_id, runner, attempt, "bad", again=True),
            "release": lambda: self.queue.release(job_id, runner, attempt),
            "cancelled": lambda: self.queue.cancelled(job_id, runner, attempt),
        }
        if expected.state != "running" or (expected.runner, expected.attempt) != (runner, attempt):
            same = (expected.runner, expected.attempt) == (runner, attempt)
            repeated = (expected.state, how) in {("done", "finish"), ("failed", "fail"), ("failed", "again")}
            before = self.queue.get(job_id)
            if same and repeated:
                assert calls[how]() == before
            else:
                with pytest.raises(LeaseLostError):
                    calls[how]()
            assert self.queue.get(job_id) == before
        elif how == "cancelled" and not expected.stop:
            with pytest.raises(JobStateError):
                calls[how]()
        else:
            calls[how]()
            if how == "renew":
                expected.lease = self.model.now + LEASE_S
            elif how in ("fail", "again"):
                self.model.fail(expected, again=how == "again")
            elif how == "release":
                self.model.release(expected)
            elif how != "report":
                self.model.end(expected, {"finish": "done", "cancelled": "cancelled"}[how])

    @rule(data=st.data(), what=st.sampled_from(["cancel", "retry", "set_priority"]))
    def operate(self, data, what):
        job = self.any_job(data, "failed", "cancelled") if what == "retry" else None
        job = job or self.any_job(data)
        if what == "retry":
            allowed = self.model.retry(job)
        elif what == "cancel":
            allowed = job.state not in ("done", "failed")
            self.model.cancel(job)
        else:
            allowed = job.state in ("waiting", "running")
            job.priority = 2 if allowed else job.priority
        calls = {
            "retry": lambda: self.queue.retry(job.job_id),
            "cancel": lambda: self.queue.cancel(job.job_id, by="x"),
            "set_priority": lambda: self.queue.set_priority(job.job_id, 2),
        }
        if allowed:
            calls[what]()
        else:
            with pytest.raises(JobStateError):
                calls[what]()

    @rule()
    def expire(self):
        assert [job.job_id for job in self.queue.expire()] == self.model.expire()

    @invariant()
    def the_same_jobs(self):
        kept = {job.job_id: job for job in self.queue.list(limit=1000)}
        found = {
            number: (job.state, job.attempt, job.attempts_used, job.cancel_requested) for number, job in kept.items()
        }
        assert found == {
            number: (job.state, job.attempt, job.used, job.stop) for number, job in self.model.jobs.items()
        }
        for job in kept.values():
            assert (job.lease_until is not None) == (job.state == "running")
            assert (job.finished_at is not None) == (job.state in ("done", "failed", "cancelled"))
            assert (job.result is not None) == (job.state == "done")
            assert job.result is None or job.result == {"attempt": job.attempt}
            assert job.submitted_at >= START

    @invariant()
    def the_last_event_tells_the_state(self):
        events = self.queue.events(limit=10_000)
        told = {event.job_id: event.content["state"] for event in events if event.kind == "state"}
        assert told == {number: job.state for number, job in self.model.jobs.items()}


QueueMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestQueueModel = QueueMachine.TestCase
