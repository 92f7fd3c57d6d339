# SPDX-License-Identifier: Apache-2.0
"""Rows of the queue as records, within a transaction that the caller owns."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import exists, func, select

from jobs.errors import UnknownJobError
from jobs.records import Event, Job, Progress, Resources
from jobs.scheduling import Candidate, Share, decayed
from jobs.tables import job, job_dependency, job_event, job_usage
from jobs.texts import within

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from sqlalchemy import ColumnElement, Connection, Row

    from jobs.records import JobState


def find_job(connection: Connection, job_id: int) -> Job:
    """Read one job.

    Raises
    ------
    UnknownJobError
        If there is none of that number.
    """
    row = connection.execute(select(job).where(job.c.id == within(job_id))).one_or_none()
    if row is None:
        raise UnknownJobError(f"there is no job {job_id}")
    return read_jobs(connection, [row])[0]


def read_jobs(connection: Connection, rows: Sequence[Row[Any]]) -> list[Job]:
    """Make jobs of rows of the table, in their order, with what they depend on."""
    needs: dict[int, list[int]] = {row.id: [] for row in rows}
    found = select(job_dependency).where(job_dependency.c.job.in_(list(needs))).order_by(job_dependency.c.needs)
    for one in connection.execute(found):
        needs[one.job].append(one.needs)
    return [_job(row, tuple(needs[row.id])) for row in rows]


def read_events(connection: Connection, *, after_id: int, job_id: int | None, limit: int) -> list[Event]:
    """Events with a higher id, oldest first."""
    statement = select(job_event).where(job_event.c.id > after_id).order_by(job_event.c.id).limit(limit)
    if job_id is not None:
        statement = statement.where(job_event.c.job == within(job_id))
    return [
        Event(row.id, row.job, moment(row.at), row.kind, json.loads(row.content))
        for row in connection.execute(statement)
    ]


def candidates(
    connection: Connection, kinds: Collection[str], capacity: Resources, now: float
) -> list[Candidate]:  # fmt: skip
    """Jobs that a runner of these kinds and this capacity could run, if there were room.

    Of jobs of one user that are alike (priority, resources) only the oldest is given: no other of them can be next.
    """
    alike = [job.c.user_label, job.c.priority, job.c.cores, job.c.memory_bytes, job.c.gpus, job.c.passed_over_at]
    rank = func.row_number().over(partition_by=alike, order_by=job.c.id).label("rank")
    fitting = (
        select(job.c.id, *alike, rank)
        .where(
            *_startable(now),
            job.c.kind.in_(list(kinds)),
            job.c.cores <= capacity.cores,
            job.c.memory_bytes <= capacity.memory_bytes,
            job.c.gpus <= capacity.gpus,
        )
        .subquery()
    )
    return [
        Candidate(
            row.id,
            row.user_label,
            row.priority,
            Resources(row.cores, row.memory_bytes, row.gpus),
            row.passed_over_at,
        )
        for row in connection.execute(select(fitting).where(fitting.c.rank == 1))
    ]


def is_worth_a_claim(connection: Connection, kinds: Collection[str], now: float) -> bool:
    """Whether some job of these kinds could start, or some lease has run out."""
    startable = select(job.c.id).where(*_startable(now), job.c.kind.in_(list(kinds))).limit(1)
    return (
        connection.execute(startable).first() is not None
        or connection.execute(select(job.c.id).where(*lease_is_over(now)).limit(1)).first() is not None
    )


def oldest_startable(connection: Connection, now: float) -> float | None:
    """Since when the job that misses only a runner for longest has been waiting [s since 1970]."""
    found: float | None = connection.execute(select(func.min(job.c.waiting_since)).where(*_startable(now))).scalar_one()
    return found


def lease_is_over(now: float) -> tuple[ColumnElement[bool], ...]:
    """Conditions on a running job whose runner is taken for dead."""
    return job.c.state == "running", job.c.lease_until < now


def running_on(connection: Connection, runner: str) -> Resources:
    """Return what the jobs that run on one runner need together."""
    sums = [func.coalesce(func.sum(column), 0) for column in (job.c.cores, job.c.memory_bytes, job.c.gpus)]
    row = connection.execute(select(*sums).where(job.c.state == "running", job.c.runner == runner)).one()
    return Resources(*(int(value) for value in row))


def read_shares(connection: Connection, users: Iterable[str], now: float) -> dict[str, Share]:
    """Return what each of these users has of the machines."""
    wanted = sorted(set(users))
    running = select(job.c.user_label, func.sum(job.c.cores)).where(job.c.state == "running")
    running = running.where(job.c.user_label.in_(wanted)).group_by(job.c.user_label)
    cores = {user: int(total) for user, total in connection.execute(running)}
    used = {
        row.user_label: decayed(row.core_s, now - row.at)
        for row in connection.execute(select(job_usage).where(job_usage.c.user_label.in_(wanted)))
    }
    return {user: Share(cores.get(user, 0), used.get(user, 0.0)) for user in wanted}


def open_needs(connection: Connection, job_id: int) -> list[tuple[int, JobState]]:
    """Return (id, state) of what a job depends on and that is not done, in order."""
    statement = (
        select(job.c.id, job.c.state)
        .join(job_dependency, job_dependency.c.needs == job.c.id)
        .where(job_dependency.c.job == job_id, job.c.state != "done")
        .order_by(job.c.id)
    )
    return [(needed, state) for needed, state in connection.execute(statement)]


def moment(seconds: float) -> datetime.datetime:
    """Return the time of so many seconds since 1970, in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _startable(now: float) -> tuple[ColumnElement[bool], ...]:
    """Conditions on a job that waits for nothing but a runner."""
    needed = job.alias("needed")
    open_need = exists(
        select(needed.c.id)
        .join(job_dependency, job_dependency.c.needs == needed.c.id)
        .where(job_dependency.c.job == job.c.id, needed.c.state != "done")
        .correlate(job)
    )
    return job.c.state == "waiting", job.c.not_before <= now, ~open_need


def _job(row: Row[Any], depends_on: tuple[int, ...]) -> Job:
    """Make a record of a row."""
    return Job(
        job_id=row.id,
        kind=row.kind,
        parameters=json.loads(row.parameters),
        user=row.user_label,
        priority=row.priority,
        depends_on=depends_on,
        max_attempts=row.max_attempts,
        resources=Resources(row.cores, row.memory_bytes, row.gpus),
        state=row.state,
        submitted_at=moment(row.submitted_at),
        attempt=row.attempt,
        attempts_used=row.attempts_used,
        started_at=_moment_or_none(row.started_at),
        finished_at=_moment_or_none(row.finished_at),
        runner=row.runner,
        lease_until=_moment_or_none(row.lease_until),
        cancel_requested=row.cancel_requested,
        progress=Progress(row.progress_stage, row.progress_done, row.progress_total),
        result=None if row.result is None else json.loads(row.result),
        error=row.error,
        ui_url=row.ui_url,
    )


def _moment_or_none(seconds: float | None) -> datetime.datetime | None:
    return None if seconds is None else moment(seconds)
