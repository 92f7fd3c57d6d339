# SPDX-License-Identifier: Apache-2.0
"""What verbs print: tables and JSON on standard output, progress on standard error."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.progress import TaskID

_PIPE_WIDTH = 200
#: Seconds between two lines of progress where there is no terminal.
LINE_EVERY_S = 15.0


class ShowProgress(Protocol):
    """Takes how far a stage is."""

    def __call__(self, stage: str, done: int, total: int, message: str = "") -> None:
        """Show that `done` of `total` (0: not known yet) are done; `message` says what is waited for."""


def console() -> Console:
    """Return the console for results: as wide as the terminal, and wide enough for two UIDs in a pipe or file.

    Texts are printed as they are: what comes from files and other nodes is no markup.
    """
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=width)


def print_json(value: Any) -> None:
    """Print one JSON object."""
    print(json.dumps(value, indent=2, default=str))


def print_pairs(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print labels and values."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, str(text))
    _print_under(title, table)


def print_table(title: str, columns: list[str], rows: Iterable[list[str]]) -> None:
    """Print a table with headings."""
    table = Table(box=None, pad_edge=False, header_style="cyan")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    _print_under(title, table)


def _print_under(title: str, table: Table) -> None:
    """Print a table under its title."""
    out = console()
    out.print(title, style="bold")
    out.print(table)


def mebibytes(n_bytes: float) -> str:
    """Write a number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


@contextmanager
def stage_progress(quiet: bool = False) -> Iterator[ShowProgress]:
    """Show each stage on standard error; yields ``show(stage, done, total, message="")``.

    On a terminal each stage has a bar.  Elsewhere (a log file, a pipe) a plain line comes when a stage goes on for
    long, so that what ends soon says nothing but its result.
    """
    if quiet:
        yield lambda stage, done, total, message="": None
    elif sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        yield _Lines()


@contextmanager
def _bars() -> Iterator[ShowProgress]:
    """A bar for each stage."""
    bars: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[message]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=Console(file=sys.stderr), transient=False) as progress:

        def show(stage: str, done: int, total: int, message: str = "") -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=total, message="")
            progress.update(bars[stage], completed=done, total=total or None, message=message)

        yield show


class _Lines:
    """A line now and then, for what is no terminal."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._said = ""

    def __call__(self, stage: str, done: int, total: int, message: str = "") -> None:
        now = time.monotonic()
        count = f" {done}/{total}" if total else ""
        line = f"{stage}{count}{': ' + message if message else ''}"
        if now - self._last >= LINE_EVERY_S and line != self._said:
            self._last, self._said = now, line
            print(line, file=sys.stderr, flush=True)
