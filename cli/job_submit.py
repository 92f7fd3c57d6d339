# SPDX-License-Identifier: Apache-2.0
"""``conepacs jobs submit``: a job of any kind, with the options of ``reconstruct`` and ``plan`` for theirs."""

from __future__ import annotations

import getpass
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cli.archive import open_existing_store, open_queue
from cli.bundles import takes
from cli.job_output import tell_outcomes, wait_for
from cli.options import IndexOption, JsonOption, StoreOption
from cli.output import print_json
from cli.requests import RequestOptions
from cli.settings import StoreSettings, load
from cli.teach import help_of
from jobs.json_values import job_json

if TYPE_CHECKING:
    from collections.abc import Callable

_QUEUE = "The queue"
_GENERIC = "KIND"

ScanArgument = Annotated[str, typer.Argument(help="Id of a stored scan.", metavar="SCAN_ID")]
CoresOption = Annotated[
    int, typer.Option("--cores", help="Tasks to run at once; a runner has to have so many free.", metavar="N", min=1,
                      rich_help_panel=_QUEUE),
]  # fmt: skip
AfterOption = Annotated[
    list[int] | None,
    typer.Option("--after", help="Job that has to be done before; repeatable.", metavar="JOB", rich_help_panel=_QUEUE),
]
PriorityOption = Annotated[
    int, typer.Option("--priority", help="Higher goes first.", metavar="N", rich_help_panel=_QUEUE),
]  # fmt: skip
UserOption = Annotated[
    str | None,
    typer.Option("--user", help="For whom it runs; the queue is fair between users.", metavar="NAME",
                 show_default="who calls", rich_help_panel=_QUEUE),
]  # fmt: skip
AttemptsOption = Annotated[
    int, typer.Option("--attempts", help="How often it may be started.", metavar="N", min=1, rich_help_panel=_QUEUE),
]  # fmt: skip
WaitOption = Annotated[
    bool, typer.Option("--wait", help="Wait for its end; the exit code is the job's.", rich_help_panel=_QUEUE),
]  # fmt: skip


class _AnyKind(TyperGroup):
    """Takes every name: kinds without options of their own, and any kind with plain parameters, are submitted alike."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Leave to the command of a kind what is typed with its options, and the rest to the one for all kinds."""
        plain = any(text.split("=")[0] in ("--parameters", "-p", "--set") for text in args[1:])
        if args[0].startswith("-") or (args[0] in self.commands and args[0] != _GENERIC and not plain):
            return super().resolve_command(ctx, args)
        return _GENERIC, self.commands[_GENERIC], args


app = typer.Typer(
    help="Submit a job: reconstruct or plan with their own options, any kind with --parameters and --set.",
    no_args_is_help=True, cls=_AnyKind,
)  # fmt: skip


def _command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a verb; its docstring is its help."""
    return lambda verb: app.command(name, help=help_of(verb))(verb)


@dataclass(frozen=True, slots=True)
class _Place:
    """How a job goes into the queue, and what is done then: the options that all kinds share, as typed."""

    store: StoreOption = None
    index: IndexOption = None
    after: AfterOption = None
    priority: PriorityOption = 0
    user: UserOption = None
    attempts: AttemptsOption = 3
    wait: WaitOption = False
    as_json: JsonOption = False

    def submit(self, kind: str, parameters: dict[str, Any]) -> None:
        """Put a job into the queue and say its number; wait for it if asked to."""
        from jobs.records import NewJob

        settings = load(StoreSettings, store=self.store, index=self.index)
        queue = open_queue(open_existing_store(settings.store), settings.index)
        job = queue.submit(
            NewJob(
                kind, parameters, user=system_user() if self.user is None else self.user, priority=self.priority,
                depends_on=tuple(self.after or ()), max_attempts=self.attempts,
            )
        )  # fmt: skip
        if not self.as_json:
            typer.echo(f"job {job.job_id} is {job.state}")
        if self.wait:
            (job,) = wait_for(queue, [job.job_id], quiet=self.as_json)
        if self.as_json:
            print_json(job_json(job))
        if self.wait:
            tell_outcomes([job], quiet=self.as_json)


def system_user() -> str:
    """Name of who calls; empty where the system has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""


@_command("reconstruct")
@takes(options=RequestOptions, place=_Place)
def submit_reconstruct(
    scan_id: ScanArgument,
    options: RequestOptions,
    place: _Place,
    again: Annotated[bool, typer.Option("--again", help="Compute also what is registered already.")] = False,
    cores: CoresOption = 1,
) -> None:
    """Submit the reconstruction of a stored scan; a runner (jobs work) does it.

    Takes the options of conepacs reconstruct.  Killed half-way it goes on elsewhere, and ends with the same bytes.

        conepacs jobs submit reconstruct stone
        conepacs jobs submit reconstruct stone --filter hann --priority 5 --wait
        conepacs jobs submit reconstruct stone --bin 1 --after 12
    """
    place.submit("reconstruct", _parameters(options, scan_id) | {"cores": cores, "again": again})


@_command("plan")
@takes(options=RequestOptions, place=_Place)
def submit_plan(
    scan_id: ScanArgument,
    options: RequestOptions,
    place: _Place,
    cores: CoresOption = 1,
) -> None:
    """Submit the planning of a reconstruction: what it would do and cost is the job's result.

    conepacs jobs submit plan stone --voxel 0.05 --wait
    """
    place.submit("plan", _parameters(options, scan_id) | {"cores": cores})


@_command(_GENERIC)
@takes(place=_Place)
def submit_any(
    kind: Annotated[str, typer.Argument(help="Name of the kind; jobs kinds lists them.", metavar="KIND")],
    place: _Place,
    parameters: Annotated[
        Path | None, typer.Option("--parameters", "-p", help="File with a JSON object of parameters.", metavar="FILE")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter; its value is JSON, or a text.  Repeatable.", metavar="NAME=VALUE"),
    ] = None,
) -> None:
    """Submit a job of any kind with plain parameters; what is set wins over what the file says.

    conepacs jobs submit reconstruct --parameters stone.json --set cutoff=0.9
    conepacs jobs submit plan --set scan_id=stone --set bins=[0,1]
    """
    values = _read_object(parameters) if parameters is not None else {}
    place.submit(kind, values | _assigned(assignments or []))


def _parameters(options: RequestOptions, scan_id: str) -> dict[str, Any]:
    """Parameters of a job out of the options as typed."""
    from spark_jobs.running.kinds import values_of

    return values_of(options.request(scan_id))


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise typer.BadParameter(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{path} holds a JSON {type(values).__name__}, expected an object of parameters")
    return values


def _assigned(texts: list[str]) -> dict[str, Any]:
    """Read ``name=value`` texts; what is no JSON is a text."""
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"--set needs NAME=VALUE, got '{text}'")
        try:
            values[name.strip()] = json.loads(value)
        except ValueError:
            values[name.strip()] = value
    return values
