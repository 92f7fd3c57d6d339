# SPDX-License-Identifier: Apache-2.0
"""Entry point of the ``conepacs`` command; verbs import what they need when they run."""

from __future__ import annotations

import logging
import sys

import click
import typer

from cli import demo, doctor, inspect, pacs, plan, reconstruct, serve, upload
from cli.errors import EXIT_CODE_HELP, INTERRUPTED, exit_code_of

_INTRODUCTION = """
From a scanner's projections to a series that any DICOM viewer finds.

A scanner workstation runs [bold]upload[/], an operator [bold]plan[/] and [bold]reconstruct[/]; [bold]serve[/] answers
viewers by DICOM Query/Retrieve and DICOMweb.  [bold]demo[/] shows all of it on a made scan, [bold]doctor[/] says what
is missing here.

All verbs work on one store: a folder, or a URL such as hdfs://host:port/path, given by --store or CONEPACS_STORE.
Settings come from conepacs.toml in the working folder (or CONEPACS_CONFIG) and from CONEPACS_... variables.

"""


def _reflowed(text: str) -> str:
    """Join the lines of each paragraph: the terminal's width breaks them."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


app = typer.Typer(
    help=_reflowed(_INTRODUCTION) + "\n\n" + EXIT_CODE_HELP, no_args_is_help=True, rich_markup_mode="rich",
    pretty_exceptions_enable=False, add_completion=False,
)  # fmt: skip
app.command()(upload.upload)
app.command()(inspect.inspect)
app.command()(plan.plan)
app.command()(reconstruct.reconstruct)
app.command()(serve.serve)
app.add_typer(pacs.app, name="pacs")
app.command()(doctor.doctor)
app.command()(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"conepacs {version('conepacs')}")
        raise typer.Exit


@app.callback()
def options(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what happens to standard error."),
    show_version: bool = typer.Option(False, "--version", help="Print the version.", callback=_version, is_eager=True),
) -> None:
    """Set up logging for all verbs."""
    del show_version
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; every expected error is one sentence on standard error."""
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name="conepacs", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("conepacs: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return 0
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        print(f"conepacs: {error}", file=sys.stderr)
        return code
    return result if isinstance(result, int) else 0


def main() -> None:
    """Run the command line."""
    sys.exit(run())
