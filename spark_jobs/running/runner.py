# SPDX-License-Identifier: Apache-2.0
"""Works jobs off: claims what fits, runs it, keeps its lease, tells how far it is, stops it when it has to.

Each job runs on a thread of its own; a heartbeat renews all leases.  Several runners share a queue: a job belongs to
whoever has its lease, and a runner that is killed loses its jobs to the others when their leases run out.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from jobs.kinds import load_run, read_parameters
from spark_jobs.running.held_job import HeldJob
from spark_jobs.running.job_context import JobContext
from spark_jobs.running.runner_session import RunnerSession
from spark_jobs.running.settings import SparkSettings
from storage.errors import StorageError
from storage.log_context import log_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyspark.sql import SparkSession

    from jobs.kinds import JobKind
    from jobs.queue import JobQueue
    from jobs.records import Resources
    from pacs.index import Index
    from spark_jobs.running.held_job import Verdict
    from spark_jobs.running.metrics import RunnerMetrics
    from spark_jobs.running.runner_settings import RunnerSettings
    from storage.filesystem import Store

#: Seconds between two looks at whether to end, and between two heartbeats at most: how soon a cancelled job is told.
_GLANCE_S = 0.2
_LONGEST_BEAT_S = 2.0
#: Seconds that a queue which does not answer is left alone at most.
_LONGEST_PAUSE_S = 30.0
#: Seconds between two attempts of a job: after its first failure, and at most.
_FIRST_RETRY_S, _LONGEST_RETRY_S = 2.0, 300.0
#: Seconds that a job has to stop in once it was told to, when the runner ends; and once Spark was stopped under it.
#: One that goes on even then is left to the end of its lease.
_STOP_S, _LAST_S = 30.0, 5.0

_log = logging.getLogger(__name__)


def retry_delay_s(attempts_used: int) -> float:
    """Seconds before the next attempt after one that failed: longer after each."""
    return min(_FIRST_RETRY_S * 2.0 ** max(attempts_used - 1, 0), _LONGEST_RETRY_S)


def runner_name() -> str:
    """Name of a runner that no other has: host, process, and something random as processes are numbered anew."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class Runner:
    """Works off the jobs of one queue.

    Parameters
    ----------
    queue : where jobs come from and where their ends are written down.
    settings : what it may use at once, and its times.
    kinds : what it can run, by name; jobs of other kinds are left to other runners.
    store, index : of the archive, handed to every job.
    start_session : starts Spark; called when a job first asks for it, and again after Spark has died.
    spark : how Spark is started; told to the jobs.
    name : of this runner; by default a new one.
    metrics : is told of every job.
    """

    def __init__(
        self,
        queue: JobQueue,
        settings: RunnerSettings,
        kinds: Mapping[str, JobKind],
        store: Store,
        index: Index,
        *,
        start_session: Callable[[], SparkSession],
        spark: SparkSettings | None = None,
        name: str = "",
        metrics: RunnerMetrics | None = None,
    ) -> None:
        self.name = name or runner_name()
        self._queue, self._settings, self._kinds = queue, settings, kinds
        self._store, self._index, self._spark = store, index, spark or SparkSettings()
        self._resources = settings.resources()
        self._metrics = metrics
        self._session = RunnerSession(start_session)
        # By number and attempt: a job that lost its lease may come back while its first attempt is still stopping.
        self._held: dict[tuple[int, int], tuple[HeldJob, threading.Thread]] = {}
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._done = threading.Event()
        self._stops = 0
        self._ends: Counter[Verdict] = Counter()
        #: When the jobs that failed here for the time being have all come to their next attempt.
        self._again_at = 0.0

    def stop(self) -> None:
        """Tell the runner to end: it takes no more jobs and gives those it has the grace time; again: no grace.

        Does nothing but count, so that a signal's handler may call it.
        """
        self._stops += 1

    def run(self, *, once: bool = False) -> dict[str, int]:
        """Work until `stop` is called; with `once` until nothing is left that this runner could take.

        Returns
        -------
        dict
            How many jobs ended how: ``finish``, ``fail``, ``again``, ``cancelled``, ``release``, ``nothing`` (lost).

        Raises
        ------
        StorageError
            With `once`, if the queue does not answer; otherwise it is asked again until it does.
        """
        _log.info("runner %s begins with %s", self.name, self._resources)
        beats = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beats.start()
        try:
            with log_context(worker=self.name):
                try:
                    self._loop(once=once)
                finally:
                    self._let_end()
        finally:
            self._session.close()
            self._join(_LAST_S)
            self._done.set()
            beats.join(_LAST_S)
        _log.info("runner %s ends", self.name)
        return {str(end): n for end, n in self._ends.items()}

    def _loop(self, *, once: bool) -> None:
        """Claim and start jobs as long as there are some that fit."""
        pause_s = self._settings.poll_s
        while not self._stops:
            self._changed.clear()
            # Before the queue is asked: a job that ends meanwhile may make room for one that was passed over.
            idle = not self._held
            try:
                claimed = self._claim()
            except StorageError as error:
                if once:
                    raise
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                _log.warning("the queue does not answer (%s); asked again in %.0f s", error, pause_s)
            else:
                pause_s = self._settings.poll_s
                if claimed:
                    continue
                if once and idle and time.monotonic() > self._again_at:
                    return
            self._pause(pause_s)

    def _pause(self, pause_s: float) -> None:
        """Wait until a job has ended, the time is over, or the runner is to end."""
        until = time.monotonic() + pause_s
        while not self._stops and time.monotonic() < until and not self._changed.wait(_GLANCE_S):
            pass

    def _claim(self) -> bool:
        """Take one job that fits and start it; whether there was one."""
        with self._lock:
            held = [each for each, _ in self._held.values()]
        if len(held) >= self._settings.jobs:
            return False
        before = time.monotonic()
        job = self._queue.claim(
            self.name, kinds=list(self._kinds), free=_left(self._resources, held), lease_s=self._settings.lease_s
        )
        if job is None:
            return False
        mine = HeldJob(
            self._queue, job, self.name, claimed=before, lease_s=self._settings.lease_s,
            delay_s=retry_delay_s(job.attempts_used),
        )  # fmt: skip
        thread = threading.Thread(target=self._work, args=(mine,), name=f"job-{job.job_id}", daemon=True)
        with self._lock:
            self._held[job.job_id, job.attempt] = (mine, thread)
        thread.start()
        return True

    def _work(self, held: HeldJob) -> None:
        """Run one job to its end and write that down: what a job's thread does."""
        job = held.job
        with log_context(job_id=job.job_id, worker=self.name):
            _log.info("job %d (%s) begins, attempt %d", job.job_id, job.kind, job.attempt)
            began = time.monotonic()
            if self._metrics is not None:
                self._metrics.job_started()
            error: Exception | None = None
            result: dict[str, Any] = {}
            try:
                result = self._run(held)
            except Exception as fault:  # noqa: BLE001 - the rim: whatever a job raises is written down as its end
                error = fault
            end: Verdict = "nothing"
            try:
                end = held.settle(error, result)
                _tell(held, end, error)
            finally:
                if self._metrics is not None:
                    self._metrics.job_ended(job.kind, end, time.monotonic() - began, result)
                with self._lock:
                    del self._held[job.job_id, job.attempt]
                    self._ends[end] += 1
                    if end == "again":
                        self._again_at = max(self._again_at, time.monotonic() + held.delay_s + self._settings.poll_s)
                self._changed.set()

    def _run(self, held: HeldJob) -> dict[str, Any]:
        """Call what runs jobs of this kind."""
        kind = self._kinds[held.job.kind]
        parameters = read_parameters(kind, held.job.parameters)
        function = load_run(kind)

        def session() -> SparkSession:
            spark = self._session.session_for(held.job.job_id)
            if url := self._session.ui_url():
                held.show_ui(url)
            return spark

        context = JobContext(
            job=held.job, store=self._store, index=self._index, session=session, spark=self._spark,
            progress=held.progress, log=held.log, should_stop=held.should_stop,
        )  # fmt: skip
        return dict(function(context, parameters))

    def _beat(self) -> None:
        """Renew leases and cancel on Spark what has to stop, until the runner has ended."""
        beat_s = min(self._settings.lease_s / 3, _LONGEST_BEAT_S)
        while not self._done.wait(beat_s):
            with self._lock:
                held = [each for each, _ in self._held.values()]
            for each in held:
                each.renew()
                if each.should_stop() and not each.spark_cancelled:
                    each.spark_cancelled = True
                    self._session.cancel(each.job.job_id)

    def _let_end(self) -> None:
        """Wait for the jobs at hand within the grace time, then tell them to stop and wait for that."""
        asked = self._stops
        until = time.monotonic() + self._settings.grace_s
        while self._held and time.monotonic() < until and self._stops == asked:
            self._changed.clear()
            self._changed.wait(_GLANCE_S)
        with self._lock:
            left = list(self._held.values())
        for held, _ in left:
            held.stop("released")
        for job_id in self._join(_STOP_S):
            _log.warning("job %d does not stop: Spark is stopped under it", job_id)

    def _join(self, within_s: float) -> list[int]:
        """Wait for the jobs at hand to end; the numbers of those that have not."""
        with self._lock:
            left = [(job_id, thread) for (job_id, _), (_, thread) in self._held.items()]
        until = time.monotonic() + within_s
        for _, thread in left:
            thread.join(max(0.0, until - time.monotonic()))
        return [job_id for job_id, thread in left if thread.is_alive()]


def _left(resources: Resources, held: list[HeldJob]) -> Resources:
    """What is left of a runner's resources besides the jobs that it has."""
    for each in held:
        resources = resources.minus(each.job.resources)
    return resources


def _tell(held: HeldJob, end: Verdict, error: Exception | None) -> None:
    """Log how a job ended; of an error that is a fault of the program, with the place."""
    job = held.job
    if error is None or held.stop_reason is not None:
        _log.info("job %d (%s) ended: %s", job.job_id, job.kind, end)
    else:
        _log.warning("job %d (%s) ended: %s, %s", job.job_id, job.kind, end, type(error).__name__, exc_info=error)
