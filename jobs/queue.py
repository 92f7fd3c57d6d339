# SPDX-License-Identifier: Apache-2.0
"""The queue of jobs in an SQL database, used by several programs on several machines at once.

Who submits and who runs meet only here.  A runner holds a job by a lease that it renews; one whose lease ran out
gets LeaseLostError at every write, because runner and attempt number fence it off.  Leases are judged by one clock:
PostgreSQL's server, or with SQLite the one machine that has the file.  So the machines' clocks need not agree.

Writers go one by one on every database: a claim sees all others, and events appear in the order of their ids.
Every method raises DatabaseError if the database does not answer.
"""

from __future__ import annotations

import datetime
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import func, select, update

from jobs.changes import Change, is_now
from jobs.errors import JobParameterError, JobStateError
from jobs.kinds import check_parameters, find_kind, read_parameters
from jobs.records import FINAL_STATES, Event, Job, JobState, NewJob, Progress, Resources
from jobs.rows import (
    candidates,
    find_job,
    is_worth_a_claim,
    oldest_startable,
    open_needs,
    read_events,
    read_jobs,
    read_shares,
    running_on,
)
from jobs.scheduling import RESERVE_AFTER_S, Ending, after_failure, choose
from jobs.tables import MIGRATIONS, job, job_event
from jobs.texts import (
    LOG_LEVELS,
    MAX_PRIORITY,
    checked_label,
    checked_number,
    json_object,
    one_text,
    require_possible,
    within,
)
from storage.database import apply_migrations, create_database_engine, read_transaction, write_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from types import TracebackType

    from sqlalchemy import Connection, Engine

    from jobs.kinds import JobKind

MAX_RESULT_BYTES = 1 << 20
MAX_LISTED = 1000
MAX_EVENTS = 10_000
_WRITERS = "jobs"

# Within JobQueue the name `list` is its method.
Jobs: TypeAlias = list[Job]
Events: TypeAlias = list[Event]


def open_queue(url: str, kinds: Mapping[str, JobKind]) -> JobQueue:
    """Open the queue in a database, whose schema is brought up to date; close it with `JobQueue.close` or ``with``.

    Parameters
    ----------
    url : str
        As for `storage.database.create_database_engine`.
    kinds : mapping name -> JobKind
        From `jobs.kinds.kinds_by_name`.
    """
    engine = create_database_engine(url)
    try:
        apply_migrations(engine, MIGRATIONS)
    except BaseException:
        engine.dispose()
        raise
    return JobQueue(engine, kinds)


class JobQueue:
    """Jobs with states, dependencies, priorities, fair share, leases and events.

    Parameters
    ----------
    engine : Engine
        Of `storage.database`, with `jobs.tables.MIGRATIONS` applied.
    kinds : mapping name -> JobKind
        The kinds that can be submitted here; running one needs no entry.
    now : callable or None
        The time, for tests; None takes the database's clock.
    reserve_after_s : float
        How long a job that does not fit a runner may be overtaken by younger ones (`jobs.scheduling.choose`) [s].
    """

    def __init__(
        self, engine: Engine, kinds: Mapping[str, JobKind], *,
        now: Callable[[], datetime.datetime] | None = None, reserve_after_s: float = RESERVE_AFTER_S,
    ) -> None:  # fmt: skip
        self.engine = engine
        self.kinds = kinds
        self._clock = now
        self._reserve_after_s = reserve_after_s

    def __enter__(self) -> JobQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the database."""
        self.engine.dispose()

    # ---- who submits and looks on

    def submit(self, job: NewJob) -> Job:
        """Add a job; it is cancelled at once if one that it needs has failed or was cancelled.

        Raises
        ------
        UnknownKindError, UnknownJobError
            If its kind, or a job that it depends on, does not exist.
        JobParameterError
            If its parameters do not fit the kind, or its user, attempts or resources are out of range.
        """
        kind = find_kind(self.kinds, job.kind)
        parameters = check_parameters(kind, job.parameters)
        needs = job.resources if job.resources is not None else kind.resources(read_parameters(kind, parameters))
        require_possible(job, needs)
        values = {
            "kind": kind.name,
            "parameters": json.dumps(parameters),
            "user_label": job.user,
            "priority": job.priority,
            "max_attempts": job.max_attempts,
            "cores": needs.cores,
            "memory_bytes": needs.memory_bytes,
            "gpus": needs.gpus,
        }
        depends_on = tuple(dict.fromkeys(job.depends_on))
        with self._write() as change:
            for needed in depends_on:
                find_job(change.connection, needed)
            job_id = change.add(values, depends_on, kind=kind.name, user=job.user)
            return find_job(change.connection, job_id)

    def get(self, job_id: int) -> Job:
        """Return a job.

        Raises
        ------
        UnknownJobError
            If there is none of that number.
        """
        with read_transaction(self.engine) as connection:
            return find_job(connection, job_id)

    def list(
        self, *, states: Collection[JobState] = (), user: str | None = None, kind: str | None = None,
        limit: int = 100, before_id: int | None = None,
    ) -> Jobs:  # fmt: skip
        """Return jobs, the newest first, at most 1000; `before_id` goes on from the last of another page."""
        statement = select(job).order_by(job.c.id.desc()).limit(within(limit, MAX_LISTED))
        if states:
            statement = statement.where(job.c.state.in_(states))
        if user is not None:
            statement = statement.where(job.c.user_label == one_text(user))
        if kind is not None:
            statement = statement.where(job.c.kind == one_text(kind))
        if before_id is not None:
            statement = statement.where(job.c.id < within(before_id))
        with read_transaction(self.engine) as connection:
            return read_jobs(connection, connection.execute(statement).all())

    def cancel(self, job_id: int, by: str = "") -> Job:
        """Cancel a waiting job and those that need it; ask the runner of a running one to stop it.

        Raises
        ------
        UnknownJobError
            If there is no such job.
        JobStateError
            If it is done or has failed.
        """
        with self._write() as change:
            found = find_job(change.connection, job_id)
            if found.state in ("done", "failed"):
                raise JobStateError(f"job {job_id} cannot be cancelled: it {is_now(found.state)}")
            if found.state == "waiting":
                return change.end(found, "cancelled", by=one_text(by))
            if found.state == "running" and not found.cancel_requested:
                change.set(job_id, cancel_requested=True)
                change.note(job_id, "state", {"state": "running", "cancel_requested": True, "by": one_text(by)})
            return find_job(change.connection, job_id)

    def retry(self, job_id: int, by: str = "") -> Job:
        """Let a failed or cancelled job wait again, with all its attempts.

        Raises
        ------
        UnknownJobError
            If there is no such job.
        JobStateError
            If it is in another state, or a job that it needs has failed or was cancelled.
        """
        with self._write() as change:
            found = find_job(change.connection, job_id)
            if found.state not in ("failed", "cancelled"):
                raise JobStateError(f"job {job_id} cannot be retried: it {is_now(found.state)}")
            for needed, state in open_needs(change.connection, job_id):
                if state in FINAL_STATES:
                    because = f"job {needed}, which it needs, {is_now(state)}; retry that first"
                    raise JobStateError(f"job {job_id} cannot be retried: {because}")
            change.set(
                job_id,
                state="waiting",
                waiting_since=change.now,
                not_before=change.now,
                passed_over_at=None,
                attempts_used=0,
                deaths=0,
                started_at=None,
                finished_at=None,
                cancel_requested=False,
                result=None,
                error="",
            )
            change.note(job_id, "state", {"state": "waiting", "by": one_text(by)})
            return find_job(change.connection, job_id)

    def set_priority(self, job_id: int, priority: int) -> Job:
        """Change the priority of a job that is not over.

        Raises
        ------
        UnknownJobError
            If there is no such job.
        JobStateError
            If it is over.
        JobParameterError
            If the priority is out of range.
        """
        checked_number("priority", priority, -MAX_PRIORITY, MAX_PRIORITY)
        with self._write() as change:
            found = find_job(change.connection, job_id)
            if found.state in FINAL_STATES:
                raise JobStateError(f"job {job_id} can have no other priority: it {is_now(found.state)}")
            change.set(job_id, priority=priority)
            change.note(job_id, "state", {"state": found.state, "priority": priority})
            return find_job(change.connection, job_id)

    def events(self, after_id: int = 0, *, job_id: int | None = None, limit: int = 500) -> Events:
        """Return what happened after the event `after_id`, oldest first.

        No event appears later with a smaller id than one that was seen, so who follows misses none.
        """
        with read_transaction(self.engine) as connection:
            most = within(limit, MAX_EVENTS)
            return read_events(connection, after_id=within(after_id), job_id=job_id, limit=most)

    def last_event_id(self) -> int:
        """Return the id of the newest event, for who wants only what comes after it; 0 if there is none."""
        with read_transaction(self.engine) as connection:
            return int(connection.execute(select(func.coalesce(func.max(job_event.c.id), 0))).scalar_one())

    def counts(self) -> dict[tuple[str, JobState], int]:
        """Return how many jobs there are, by kind and state."""
        statement = select(job.c.kind, job.c.state, func.count()).group_by(job.c.kind, job.c.state)
        with read_transaction(self.engine) as connection:
            return {(kind, state): number for kind, state, number in connection.execute(statement)}

    def oldest_waiting_s(self) -> float:
        """Return for how long the job that misses nothing but a runner has been waiting; 0 if there is none [s]."""
        with read_transaction(self.engine) as connection:
            now = self._now(connection)
            since = oldest_startable(connection, now)
        return 0.0 if since is None else max(now - since, 0.0)

    def delete_finished(self, older_than_s: float) -> int:
        """Delete jobs that ended so long ago [s], with their events, and return how many.

        One that another job needs stays as long as that job.
        """
        with self._write() as change:
            return change.delete_finished(older_than_s)

    # ---- who runs

    def claim(self, runner: str, *, kinds: Collection[str], free: Resources, lease_s: float) -> Job | None:
        """Take the next job for a runner, if there is one for it; each job goes to one runner only.

        The order is that of `jobs.scheduling.choose`; the runner's whole capacity is `free` and what it runs already.

        Parameters
        ----------
        runner : str
            Its name, another one for each runner.
        kinds : names
            What it can run.
        free : Resources
            What it can give at this moment.
        lease_s : float
            For how long it has the job unless it renews [s].
        """
        checked_label("runner", runner)
        with read_transaction(self.engine) as connection:
            # Most polls find nothing: they do not keep writers waiting.
            if not is_worth_a_claim(connection, kinds, self._now(connection)):
                return None
        with self._write() as change:
            change.expire()
            capacity = free.plus(running_on(change.connection, runner))
            waiting = candidates(change.connection, kinds, capacity, change.now)
            choice = choose(
                waiting,
                read_shares(change.connection, (one.user for one in waiting), change.now),
                free=free,
                capacity=capacity,
                now=change.now,
                reserve_after_s=self._reserve_after_s,
            )
            if choice.job_id is None:
                return None
            if choice.passed_over is not None:
                first_time = (job.c.id == choice.passed_over, job.c.passed_over_at.is_(None))
                change.connection.execute(update(job).where(*first_time).values(passed_over_at=change.now))
            return change.start(choice.job_id, runner, lease_s)

    def renew(self, job_id: int, runner: str, attempt: int, lease_s: float) -> Job:
        """Keep a job for `lease_s` [s] from now; the job says whether its runner is to stop it.

        Raises
        ------
        LeaseLostError
            If the job is not this runner's in this attempt any more.
        """
        with self._write() as change:
            change.held(job_id, runner, attempt)
            change.set(job_id, lease_until=change.now + lease_s)
            return find_job(change.connection, job_id)

    def report(
        self, job_id: int, runner: str, attempt: int, *,
        progress: Progress | None = None, log: tuple[str, str] | None = None, ui_url: str | None = None,
    ) -> None:  # fmt: skip
        """Write down how far a job is, a line (level, message) of its log, and where Spark shows it.

        Raises
        ------
        LeaseLostError
            If the job is not this runner's in this attempt any more.
        JobParameterError
            If the level of the log is none of debug, info, warning, error.
        """
        if log is not None and log[0] not in LOG_LEVELS:
            raise JobParameterError(f"log of job {job_id}: unknown level '{log[0]}', expected {', '.join(LOG_LEVELS)}")
        with self._write() as change:
            change.held(job_id, runner, attempt)
            if progress is not None:
                values = {"stage": one_text(progress.stage), "done": progress.done, "total": progress.total}
                change.set(job_id, **{f"progress_{name}": value for name, value in values.items()})
                change.note(job_id, "progress", values)
            if ui_url is not None:
                change.set(job_id, ui_url=one_text(ui_url))
                change.note(job_id, "state", {"state": "running", "ui_url": one_text(ui_url)})
            if log is not None:
                change.note(job_id, "log", {"level": log[0], "message": one_text(log[1])})

    def finish(self, job_id: int, runner: str, attempt: int, result: Mapping[str, Any]) -> Job:
        """End a job with its result; once more changes nothing (the answer to the first may have been lost).

        Raises
        ------
        LeaseLostError
            If the job is not this runner's in this attempt any more.
        JobParameterError
            If the result is not of JSON values or larger than 1 MiB as JSON.
        """
        text = json_object(f"the result of job {job_id}", result, MAX_RESULT_BYTES)
        with self._write() as change:
            found = find_job(change.connection, job_id)
            if found.state == "done" and (found.runner, found.attempt) == (runner, attempt):
                return found
            return change.end(change.held(job_id, runner, attempt), "done", result=text)

    def fail(
        self, job_id: int, runner: str, attempt: int, error: str, *, again: bool, delay_s: float = 0.0
    ) -> Job:  # fmt: skip
        """End an attempt that failed: with `again` the job waits for another, if there are attempts left.

        Parameters
        ----------
        error : str
            One sentence.
        delay_s : float
            The next attempt starts not before [s].

        Raises
        ------
        LeaseLostError
            If the job is not this runner's in this attempt any more.
        """
        with self._write() as change:
            found = find_job(change.connection, job_id)
            if found.state == "failed" and (found.runner, found.attempt) == (runner, attempt):
                return found
            found = change.held(job_id, runner, attempt)
            ending = after_failure(
                one_text(error),
                again=again,
                attempts_used=found.attempts_used,
                max_attempts=found.max_attempts,
                cancel_requested=found.cancel_requested,
            )
            return change.put_back(found, ending, delay_s=delay_s, reason=one_text(error))

    def release(self, job_id: int, runner: str, attempt: int) -> Job:
        """Give a job back unharmed, as if it had not been started: its runner stops.

        Raises
        ------
        LeaseLostError
            If the job is not this runner's in this attempt any more.
        """
        with self._write() as change:
            found = change.held(job_id, runner, attempt)
            if found.cancel_requested:
                return change.end(found, "cancelled")
            change.set(job_id, attempts_used=found.attempts_used - 1)
            return change.put_back(found, Ending("waiting"), delay_s=0.0, released=True)

    def cancelled(self, job_id: int, runner: str, attempt: int) -> Job:
        """End a job that its runner stopped on request.

        Raises
        ------
        LeaseLostError
            If the job is not this runner's in this attempt any more.
        JobStateError
            If nobody asked for it.
        """
        with self._write() as change:
            found = change.held(job_id, runner, attempt)
            if not found.cancel_requested:
                raise JobStateError(f"job {job_id} was stopped, but nobody asked for that")
            return change.end(found, "cancelled")

    def expire(self) -> Jobs:
        """Take back jobs whose leases ran out: they wait again, or have failed if no attempt is left."""
        with self._write() as change:
            return change.expire()

    @contextmanager
    def _write(self) -> Iterator[Change]:
        """Begin a write; no other can come between."""
        with write_transaction(self.engine, only_writer_of=_WRITERS) as connection:
            yield Change(connection, self._now(connection))

    def _now(self, connection: Connection) -> float:
        """Return the time that leases are judged by [s since 1970]."""
        if self._clock is not None:
            return self._clock().timestamp()
        if self.engine.dialect.name == "postgresql":
            found: datetime.datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
            return found.timestamp()
        return datetime.datetime.now(datetime.UTC).timestamp()
