# SPDX-License-Identifier: Apache-2.0
"""Changes of jobs and the events that tell of them, within a transaction that the caller owns."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, exists, insert, select, update

from jobs.errors import LeaseLostError
from jobs.records import FINAL_STATES
from jobs.rows import find_job, lease_is_over, open_needs, read_jobs
from jobs.scheduling import USAGE_HALF_LIFE_S, Ending, after_death, decayed
from jobs.tables import job, job_dependency, job_event, job_usage

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

    from jobs.records import Job, JobState

_HAPPENED = {"failed": "has failed", "cancelled": "was cancelled"}


def is_now(state: JobState) -> str:
    """Return a state as the end of a sentence."""
    return _HAPPENED.get(state, f"is {state}")


@dataclass(frozen=True, slots=True)
class Change:
    """One write to the queue: its connection, and the time of all that happens in it [s since 1970]."""

    connection: Connection
    now: float

    def add(self, values: dict[str, Any], depends_on: tuple[int, ...], *, kind: str, user: str) -> int:
        """Insert a waiting job, whose dependencies exist, and return its number."""
        row = {
            "state": "waiting",
            "submitted_at": self.now,
            "waiting_since": self.now,
            "not_before": self.now,
            "attempt": 0,
            "attempts_used": 0,
            "deaths": 0,
            "runner": "",
            "cancel_requested": False,
            "progress_stage": "",
            "progress_done": 0,
            "progress_total": 0,
            "error": "",
            "ui_url": "",
            **values,
        }
        job_id = int(self.connection.execute(insert(job).values(**row).returning(job.c.id)).scalar_one())
        if depends_on:
            rows = [{"job": job_id, "needs": needed} for needed in depends_on]
            self.connection.execute(insert(job_dependency), rows)
        self.note(job_id, "state", {"state": "waiting", "kind": kind, "user": user})
        for needed, state in open_needs(self.connection, job_id):
            if state in _HAPPENED:
                self._cancel_for(job_id, needed, state)
                break
        return job_id

    def held(self, job_id: int, runner: str, attempt: int) -> Job:
        """Read a job that this runner has in this attempt.

        Raises
        ------
        LeaseLostError
            If it has not, or no longer.
        """
        found = find_job(self.connection, job_id)
        if found.state == "running" and (found.runner, found.attempt) == (runner, attempt):
            return found
        now = f"it {is_now(found.state)}"
        if found.state == "running":
            now = f"'{found.runner}' has it in attempt {found.attempt}"
        raise LeaseLostError(f"job {job_id} is no longer that of runner '{runner}' in attempt {attempt}: {now}")

    def set(self, job_id: int, **values: Any) -> None:
        """Write columns of a job."""
        self.connection.execute(update(job).where(job.c.id == job_id).values(**values))

    def note(self, job_id: int, kind: str, content: dict[str, Any]) -> None:
        """Record an event."""
        row = {"job": job_id, "at": self.now, "kind": kind, "content": json.dumps(content)}
        self.connection.execute(insert(job_event), [row])

    def start(self, job_id: int, runner: str, lease_s: float) -> Job:
        """Give a waiting job to a runner."""
        self.connection.execute(
            update(job)
            .where(job.c.id == job_id)
            .values(
                state="running",
                attempt=job.c.attempt + 1,
                attempts_used=job.c.attempts_used + 1,
                started_at=self.now,
                runner=runner,
                lease_until=self.now + lease_s,
                passed_over_at=None,
                progress_stage="",
                progress_done=0,
                progress_total=0,
                error="",
            )
        )
        found = find_job(self.connection, job_id)
        self.note(job_id, "state", {"state": "running", "runner": runner, "attempt": found.attempt})
        return found

    def end(self, found: Job, state: JobState, *, error: str = "", result: str | None = None, **told: Any) -> Job:
        """Take a job from its runner, or a waiting one from the queue, and do what follows for those that need it.

        Parameters
        ----------
        found : Job
            Waiting or running.
        state : JobState
            The new one.
        error : str
            Kept with the job unless it is done.
        result : str or None
            JSON text.
        **told
            More of what the event tells.
        """
        if found.state == "running":
            self._account(found)
        values: dict[str, Any] = {"state": state, "lease_until": None, "ui_url": "", "error": error, "result": result}
        if state == "waiting":
            values |= {"waiting_since": self.now, "started_at": None}
        else:
            values |= {"finished_at": self.now}
        self.set(found.job_id, **values)
        told = {**told, **({"error": error} if error else {})}
        if found.state == "running":
            told = {"runner": found.runner, "attempt": found.attempt, **told}
        self.note(found.job_id, "state", {"state": state, **told})
        if state in _HAPPENED:
            self._cancel_dependents(found.job_id, state)
        elif state == "done":
            self._wake_dependents(found.job_id)
        return find_job(self.connection, found.job_id)

    def expire(self) -> list[Job]:
        """Take back the jobs whose leases ran out."""
        rows = self.connection.execute(select(job).where(*lease_is_over(self.now)).order_by(job.c.id)).all()
        ended = []
        for row, found in zip(rows, read_jobs(self.connection, rows), strict=True):
            deaths = row.deaths + 1
            self.set(found.job_id, deaths=deaths)
            ending = after_death(
                runner=found.runner,
                deaths=deaths,
                attempts_used=found.attempts_used,
                max_attempts=found.max_attempts,
                cancel_requested=found.cancel_requested,
            )
            ended.append(self.end(found, ending.state, error=ending.error, lease_ran_out=True))
        return ended

    def put_back(self, found: Job, ending: Ending, *, delay_s: float, **told: Any) -> Job:
        """End an attempt that failed; one that comes again does so after `delay_s` [s] at the earliest."""
        if ending.state == "waiting":
            self.set(found.job_id, not_before=self.now + delay_s)
        return self.end(found, ending.state, error=ending.error, **told)

    def delete_finished(self, older_than_s: float) -> int:
        """Delete jobs that ended so long ago [s], unless one that stays needs them, and users who were long away."""
        dependent = job.alias("dependent")

        def is_old(one: Any) -> tuple[ColumnElement[bool], ...]:
            return one.c.state.in_(FINAL_STATES), one.c.finished_at < self.now - older_than_s

        still_needed = exists(
            select(dependent.c.id)
            .join(job_dependency, job_dependency.c.job == dependent.c.id)
            .where(job_dependency.c.needs == job.c.id, ~and_(*is_old(dependent)))
            .correlate(job)
        )
        count = self.connection.execute(delete(job).where(*is_old(job), ~still_needed)).rowcount
        forgotten = self.now - 30 * USAGE_HALF_LIFE_S
        self.connection.execute(delete(job_usage).where(job_usage.c.at < forgotten))
        return count

    def _cancel_dependents(self, job_id: int, state: str) -> None:
        """Cancel what waits for a job that will not be done, and what waits for that."""
        ended = [(job_id, state)]
        while ended:
            needed, how = ended.pop(0)
            waiting = (
                select(job.c.id)
                .join(job_dependency, job_dependency.c.job == job.c.id)
                .where(job_dependency.c.needs == needed, job.c.state == "waiting")
                .order_by(job.c.id)
            )
            for dependent in self.connection.execute(waiting).scalars().all():
                self._cancel_for(dependent, needed, how)
                ended.append((dependent, "cancelled"))

    def _cancel_for(self, job_id: int, needed: int, state: str) -> None:
        """Cancel one waiting job because another will not be done."""
        error = f"job {needed}, which it needs, {_HAPPENED[state]}"
        self.set(job_id, state="cancelled", finished_at=self.now, error=error)
        self.note(job_id, "state", {"state": "cancelled", "error": error})

    def _wake_dependents(self, job_id: int) -> None:
        """Let the waiting time of those count from now that missed this one."""
        dependents = select(job_dependency.c.job).where(job_dependency.c.needs == job_id)
        self.connection.execute(
            update(job).where(job.c.id.in_(dependents), job.c.state == "waiting").values(waiting_since=self.now)
        )

    def _account(self, found: Job) -> None:
        """Add what a running job has used to its user's core-seconds."""
        started = found.started_at.timestamp() if found.started_at else self.now
        core_s = found.resources.cores * max(self.now - started, 0.0)
        row = self.connection.execute(select(job_usage).where(job_usage.c.user_label == found.user)).one_or_none()
        if row is not None:
            core_s += decayed(row.core_s, self.now - row.at)
            self.connection.execute(delete(job_usage).where(job_usage.c.user_label == found.user))
        self.connection.execute(insert(job_usage), [{"user_label": found.user, "core_s": core_s, "at": self.now}])
