# SPDX-License-Identifier: Apache-2.0
"""Entry point of the ``conepacs`` command; verbs import what they need when they run."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from cli import backup, cluster, demo, doctor, geometry, inspect, jobs, look, pacs, plan, reconstruct, serve, upload
from cli.errors import EXIT_CODE_HELP, INTERRUPTED, UNAVAILABLE, UNEXPECTED, SettingError, exit_code_of
from cli.logs import LogConfig, LogFormat, LogLevel, LogSettings, set_up_logging
from cli.settings import load
from cli.teach import help_of
from storage.log_format import places_of

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

#: What typer raises on wrong usage.  It brings its own copy of click, or imports click, as its version has it.
_UsageFault: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

_PACKAGES = (
    "cli", "viewer_api", "spark_jobs", "data_samples", "pacs", "ingest", "jobs", "storage", "reconstruction",
    "local_cluster",
)  # fmt: skip

_INTRODUCTION = """
From a scanner's projections to a series that any DICOM viewer finds.

A scanner workstation runs [bold]upload[/], an operator [bold]plan[/] and [bold]reconstruct[/]; [bold]serve[/] answers
viewers by DICOM Query/Retrieve and DICOMweb.  [bold]demo[/] shows all of it on a made scan, [bold]doctor[/] says what
is missing here.  [bold]conepacs VERB --help[/] has examples.

All verbs work on one store: a folder, or a URL such as hdfs://host:port/path, given by --store or CONEPACS_STORE; the
default is the folder conepacs-store.  Settings come from conepacs.toml in the working folder (or CONEPACS_CONFIG) and
from CONEPACS_... variables.

"""


def _reflowed(text: str) -> str:
    """Join the lines of each paragraph: the terminal's width breaks them."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


app = typer.Typer(
    help=_reflowed(_INTRODUCTION) + "\n\n" + EXIT_CODE_HELP, no_args_is_help=True, rich_markup_mode="rich",
    pretty_exceptions_enable=False, add_completion=False,
)  # fmt: skip


def _add(verb: Callable[..., None]) -> None:
    app.command(help=help_of(verb))(verb)


_add(upload.upload)
_add(inspect.inspect)
app.add_typer(geometry.app, name="geometry")
_add(plan.plan)
_add(look.preview)
_add(look.sweep)
_add(reconstruct.reconstruct)
_add(serve.serve)
app.add_typer(pacs.app, name="pacs")
app.add_typer(jobs.app, name="jobs")
app.add_typer(backup.app, name="backup")
app.add_typer(cluster.app, name="cluster")
_add(doctor.doctor)
_add(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"conepacs {version('conepacs')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what happens, not only what goes wrong."),
    log_format: Annotated[
        LogFormat | None,
        typer.Option("--log-format", help="Log as text, or as JSON: one object a line.", show_default="text"),
    ] = None,
    log_file: Annotated[
        str | None, typer.Option("--log-file", help="Log to a file.", metavar="FILE", show_default="standard error")
    ] = None,
    show_version: bool = typer.Option(False, "--version", help="Print the version.", callback=_version, is_eager=True),
) -> None:
    """Set up logging for all verbs."""
    del show_version
    try:
        config = load(LogSettings).log
    except SettingError:
        if not context.obj["asks_for_help"]:
            raise
        config = LogConfig()  # who asks for help gets it, whatever the settings are
    level: LogLevel = "info" if verbose and config.level != "debug" else config.level
    config = replace(config, level=level, format=log_format or config.format, file=log_file or config.file)
    set_up_logging(config, _PACKAGES)


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; every expected error is one sentence on standard error."""
    try:
        command = typer.main.get_command(app)
        asked = {"asks_for_help": "--help" in (sys.argv if arguments is None else arguments)}
        result = command.main(args=arguments, prog_name="conepacs", standalone_mode=False, obj=asked)
    except _UsageFault as fault:
        return _tell_usage(fault)
    except (typer.Abort, KeyboardInterrupt):
        result = INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the rim: whatever is left becomes a sentence and an exit code
        if isinstance(error, ModuleNotFoundError) and not _is_ours(error.name or ""):
            print(f"conepacs: this needs the package {error.name}, which is not installed: conepacs doctor says how to "
                  "get what is missing", file=sys.stderr)  # fmt: skip
            return UNAVAILABLE
        code = exit_code_of(error)
        if code is None:
            return _apologize(error)
        _log.info("ends with exit code %d: %s", code, type(error).__name__)
        print(f"conepacs: {error}", file=sys.stderr)
        return code
    if result == INTERRUPTED:
        print("conepacs: interrupted", file=sys.stderr)
    return result if isinstance(result, int) else 0


def _tell_usage(fault: BaseException) -> int:
    """Say in one sentence what is wrong with the command line, then how it is meant; return the exit code."""
    code = int(getattr(fault, "exit_code", 2))
    if type(fault).__name__ == "NoArgsIsHelpError":
        return code  # the help is on the terminal already
    sentence = str(fault.format_message())  # type: ignore[attr-defined]  # of typer's click, whichever it is
    print(f"conepacs: {sentence.removeprefix('Invalid value: ')}", file=sys.stderr)
    context = getattr(fault, "ctx", None)
    if context is not None:
        print(f"{context.get_usage()}\nTry '{context.command_path} --help'.", file=sys.stderr)
    return code


def _is_ours(module: str) -> bool:
    """Whether a module belongs to this program; one that is missing then is a fault, not a role left out."""
    return module.partition(".")[0] in _PACKAGES


def _apologize(error: Exception) -> int:
    """Say that the program failed and where the traceback is; return the exit code."""
    _log.info("unexpected error", exc_info=error)  # on the terminal with --verbose only
    print(f"conepacs: sorry, this is a fault of the program: {type(error).__name__}: {error}", file=sys.stderr)
    try:
        descriptor, name = tempfile.mkstemp(prefix="conepacs-error-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8") as log:
            # Without the values that messages quote: this file is sent to others.
            log.write("\n".join(["Traceback, innermost last", *places_of(error), ""]))
    except OSError:
        print("conepacs: run it with --verbose to see where", file=sys.stderr)
    else:
        print(f"conepacs: what to report is in {name}", file=sys.stderr)
    return UNEXPECTED
