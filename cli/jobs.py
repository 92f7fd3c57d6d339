# SPDX-License-Identifier: Apache-2.0
"""``conepacs jobs``: submit, watch and steer jobs, and work them off."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from cli import job_submit, job_work
from cli.archive import open_existing_store, open_queue
from cli.job_output import (
    LOOK_EVERY_S,
    event_line,
    print_job,
    print_jobs,
    tell_outcomes,
    wait_for,
)
from cli.options import IndexOption, JsonOption, StoreOption, parse_duration_s
from cli.output import print_json, print_table
from cli.settings import StoreSettings, load
from cli.teach import help_of
from jobs.json_values import event_json, job_json, kind_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.queue import JobQueue
    from jobs.records import JobState

app = typer.Typer(help="A queue of jobs: submit, watch and steer them, and work them off.", no_args_is_help=True)
app.add_typer(job_submit.app, name="submit")

JobArgument = Annotated[int, typer.Argument(help="Number of a job.", metavar="JOB", min=1)]
JobsArgument = Annotated[list[int], typer.Argument(help="Numbers of jobs.", metavar="JOB", min=1)]


def _command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a verb; its docstring is its help."""
    return lambda verb: app.command(name, help=help_of(verb))(verb)


def _queue(store: str | None, index: str | None) -> JobQueue:
    """Open the queue that the settings name."""
    settings = load(StoreSettings, store=store, index=index)
    return open_queue(open_existing_store(settings.store), settings.index)


def _state(text: str) -> JobState:
    """Read the name of a state."""
    from jobs.records import JobState

    for state in get_args(JobState):
        if text == state:
            return cast("JobState", state)
    raise typer.BadParameter(f"--state is one of {', '.join(get_args(JobState))}, got '{text}'")


@_command("list")
def list_(
    states: Annotated[
        list[str] | None,
        typer.Option("--state", help="waiting, running, done, failed or cancelled; repeatable.", metavar="STATE"),
    ] = None,
    user: Annotated[str | None, typer.Option("--user", help="Of one user.", metavar="NAME")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Of one kind.", metavar="KIND")] = None,
    limit: Annotated[int, typer.Option("--limit", help="How many at most, newest first.", min=1, metavar="N")] = 25,
    before: Annotated[
        int | None, typer.Option("--before", help="Only jobs older than this one: the next page.", metavar="JOB")
    ] = None,
    store: StoreOption = None,
    index: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first.

    conepacs jobs list
    conepacs jobs list --state running --state waiting --user anna
    """
    wanted = [_state(text) for text in states or []]
    found = _queue(store, index).list(states=wanted, user=user, kind=kind, limit=limit, before_id=before)
    if as_json:
        print_json([job_json(job) for job in found])
    else:
        print_jobs(found)


@_command("kinds")
def kinds(as_json: JsonOption = False) -> None:
    """List the kinds of jobs that can be submitted; with --json also the schemas of their parameters.

    conepacs jobs kinds --json
    """
    from cli.job_kinds import all_kinds

    known = all_kinds().values()
    if as_json:
        print_json([kind_json(kind) for kind in known])
    else:
        print_table("kinds of jobs", ["kind", "what it does"], [[kind.name, kind.title] for kind in known])


@_command("show")
def show(
    job_id: JobArgument, store: StoreOption = None, index: IndexOption = None, as_json: JsonOption = False
) -> None:
    """Show one job: its state, parameters, progress, and result or error.

    conepacs jobs show 12
    """
    job = _queue(store, index).get(job_id)
    if as_json:
        print_json(job_json(job))
    else:
        print_job(job)


@_command("log")
def log(
    job_id: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    store: StoreOption = None,
    index: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what happened to a job: its states, its progress, and the lines of its log; JSON is one object a line.

    conepacs jobs log 12 --follow
    """
    import json

    from jobs.records import FINAL_STATES

    queue = _queue(store, index)
    last = 0
    while True:
        # Asked before the events: those that came with the end are then among them.
        ended = queue.get(job_id).state in FINAL_STATES
        events = queue.events(last, job_id=job_id)
        for event in events:
            typer.echo(json.dumps(event_json(event)) if as_json else event_line(event))
            last = event.event_id
        if not events:
            if ended or not follow:
                return
            time.sleep(LOOK_EVERY_S)


@_command("cancel")
def cancel(job_ids: JobsArgument, store: StoreOption = None, index: IndexOption = None) -> None:
    """Cancel jobs: one that waits at once, one that runs as soon as its runner has stopped it.

    conepacs jobs cancel 12 13
    """
    queue = _queue(store, index)
    for job_id in job_ids:
        job = queue.cancel(job_id, by=job_submit.system_user())
        typer.echo(f"job {job_id} is {job.state}" + (", and being stopped" if job.state == "running" else ""))


@_command("retry")
def retry(job_ids: JobsArgument, store: StoreOption = None, index: IndexOption = None) -> None:
    """Let failed or cancelled jobs wait again.

    conepacs jobs retry 12
    """
    queue = _queue(store, index)
    for job_id in job_ids:
        typer.echo(f"job {job_id} is {queue.retry(job_id, by=job_submit.system_user()).state}")


@_command("priority")
def priority(
    job_id: JobArgument,
    value: Annotated[int, typer.Argument(help="Higher goes first; 0 by default.", metavar="N")],
    store: StoreOption = None,
    index: IndexOption = None,
) -> None:
    """Change the priority of a job that waits.

    conepacs jobs priority 12 5
    """
    job = _queue(store, index).set_priority(job_id, value)
    typer.echo(f"job {job_id} has priority {job.priority}")


@_command("wait")
def wait(
    job_ids: JobsArgument,
    timeout: Annotated[
        str | None, typer.Option("--timeout", help="Wait so long at most, such as 30min.", metavar="DURATION")
    ] = None,
    store: StoreOption = None,
    index: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait until jobs have ended: exit code 0 if all are done, 6 if one failed, 7 if one was cancelled.

    conepacs jobs wait 12
    conepacs jobs wait 12 13 --timeout 2h
    """
    timeout_s = None if timeout is None else parse_duration_s(timeout)
    ended = wait_for(_queue(store, index), job_ids, quiet=as_json, timeout_s=timeout_s)
    if as_json:
        print_json([job_json(job) for job in ended])
    tell_outcomes(ended, quiet=as_json)


@_command("sweep")
def sweep(
    older_than: Annotated[
        str, typer.Option("--older-than", help="How long ago they ended, such as 30d.", metavar="DURATION")
    ] = "30d",
    store: StoreOption = None,
    index: IndexOption = None,
) -> None:
    """Delete jobs that ended long ago, with their logs; what they made stays.

    conepacs jobs sweep --older-than 90d
    """
    count = _queue(store, index).delete_finished(parse_duration_s(older_than))
    typer.echo(f"{count} job(s) deleted")


_command("work")(job_work.work)
