# SPDX-License-Identifier: Apache-2.0
"""What the ``conepacs jobs`` verbs print, and how they wait for a job."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import typer

from cli.errors import JobCancelledError, JobFailedError, WaitedTooLongError
from cli.output import mebibytes, print_pairs, print_table, stage_progress
from jobs.records import FINAL_STATES

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterable

    from jobs.queue import JobQueue
    from jobs.records import Event, Job, Resources

#: Seconds between two looks at a job that is waited for.
LOOK_EVERY_S = 0.5


def print_jobs(jobs: Iterable[Job]) -> None:
    """Print a table of jobs, newest first."""
    columns = ["job", "state", "kind", "user", "priority", "submitted", "progress", "what"]
    print_table("jobs", columns, [_row(job) for job in jobs])


def _row(job: Job) -> list[str]:
    what = str(job.parameters.get("scan_id", ""))
    if job.error:
        what = f"{what}: {job.error}" if what else job.error
    return [
        str(job.job_id), job.state + (" (to be cancelled)" if _is_stopping(job) else ""), job.kind, job.user,
        str(job.priority), _moment(job.submitted_at), _progress(job), what,
    ]  # fmt: skip


def _is_stopping(job: Job) -> bool:
    return job.cancel_requested and job.state not in FINAL_STATES


def _moment(moment: datetime.datetime | None) -> str:
    """Local time to the second."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment is not None else ""


def _progress(job: Job) -> str:
    progress = job.progress
    return f"{progress.stage} {progress.done}/{progress.total}" if progress.stage else ""


def _needs(resources: Resources | None) -> str:
    if resources is None:
        return ""
    gpus = f", {resources.gpus} GPU(s)" if resources.gpus else ""
    return f"{resources.cores} core(s), {mebibytes(resources.memory_bytes)}{gpus}"


def print_job(job: Job) -> None:
    """Print all of one job that says something."""
    given = {name: value for name, value in job.parameters.items() if value not in (None, [], "")}
    rows = [
        ("state", job.state + (", to be cancelled" if _is_stopping(job) else "")),
        ("kind", job.kind),
        ("user", job.user),
        ("priority", str(job.priority)),
        ("after", ", ".join(map(str, job.depends_on))),
        ("needs", _needs(job.resources)),
        ("submitted", _moment(job.submitted_at)),
        ("started", f"{_moment(job.started_at)}, attempt {job.attempt}" if job.started_at else ""),
        ("runner", job.runner),
        ("finished", _moment(job.finished_at)),
        ("progress", _progress(job)),
        ("Spark's page", job.ui_url),
        ("error", job.error),
        *((f"with {name}", _text(value)) for name, value in given.items()),
        *((f"result {name}", _text(value)) for name, value in (job.result or {}).items()),
    ]
    print_pairs(f"job {job.job_id}", [(label, text) for label, text in rows if text])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def event_line(event: Event) -> str:
    """One line of a job's log."""
    content = event.content
    if event.kind == "log":
        said = f"{content.get('level', '')}: {content.get('message', '')}"
    elif event.kind == "progress":
        said = f"{content.get('stage', '')} {content.get('done', 0)}/{content.get('total', 0)}"
    else:
        error = content.get("error", "")
        said = f"{content.get('state', '')}{f': {error}' if error else ''}"
    return f"{_moment(event.at)} {said}"


def wait_for(queue: JobQueue, job_ids: list[int], *, quiet: bool, timeout_s: float | None = None) -> list[Job]:
    """Wait until jobs have ended, and show their progress meanwhile.

    Raises
    ------
    WaitedTooLongError
        If one of them has not ended within `timeout_s`.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    ended: list[Job] = []
    with stage_progress(quiet) as show:
        for job_id in job_ids:
            job = queue.get(job_id)
            while job.state not in FINAL_STATES:
                if deadline is not None and time.monotonic() >= deadline:
                    raise WaitedTooLongError(f"job {job_id} is still {job.state} after {timeout_s:g} s")
                if job.progress.stage:
                    show(f"job {job_id} {job.progress.stage}", job.progress.done, job.progress.total)
                else:
                    show(f"job {job_id} {job.state}", 0, 0)
                time.sleep(LOOK_EVERY_S)
                job = queue.get(job_id)
            ended.append(job)
    return ended


def tell_outcomes(jobs: list[Job], *, quiet: bool = False) -> None:
    """Say how jobs ended.

    Raises
    ------
    JobFailedError, JobCancelledError
        For the first that is not done.
    """
    if not quiet:
        for job in jobs:
            if job.state == "done":
                typer.echo(f"job {job.job_id} is done")
    for job in jobs:
        reason = f": {job.error}" if job.error else ""
        if job.state == "failed":
            raise JobFailedError(f"job {job.job_id} failed{reason}")
        if job.state == "cancelled":
            raise JobCancelledError(f"job {job.job_id} was cancelled{reason}")
