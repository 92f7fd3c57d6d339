# SPDX-License-Identifier: Apache-2.0
"""``conepacs doctor``: what this machine can do, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cli.errors import UNAVAILABLE
from cli.options import IndexOption, JsonOption, StoreOption
from cli.output import console, print_json
from cli.settings import StoreSettings, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.checks.check import Check


def doctor(
    store: StoreOption = None,
    index: IndexOption = None,
    master: Annotated[
        str | None,
        typer.Option("--master", help="Spark master.", metavar="URL", show_default="as conepacs.toml says"),
    ] = None,
    master_ui: Annotated[
        str,
        typer.Option(
            "--master-ui", help="Web address of Spark's master.", metavar="HOST:PORT", show_default="port 8080"
        ),
    ] = "",
    deep: Annotated[
        bool, typer.Option("--deep", help="Run a small Spark job too, and let the database check its file.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Look over Python, Java, GPU, packages, HDFS, Spark, store, index, disks and ports, and say what to do.

    A missing part is no fault where its role is not needed: a workstation that only uploads needs no Java.  Exit code
    4 if something is wrong.

        conepacs doctor
        conepacs doctor --deep --master spark://head:7077
        conepacs doctor --index postgresql://db/conepacs --json
    """
    settings = load(StoreSettings, store=store, index=index)
    checks = list(_checks(settings, master, master_ui, deep=deep))
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        colours = {"ok": "green", "missing": "yellow", "wrong": "red"}
        out = console()
        for check in checks:
            out.print(Text.assemble((f"{check.state:<7}", colours[check.state]), f" {check.name}: {check.found}"))
            if check.remedy:
                out.print(f"        -> {check.remedy}")
    if any(check.state == "wrong" for check in checks):
        raise typer.Exit(UNAVAILABLE)


def _checks(settings: StoreSettings, master: str | None, master_ui: str, *, deep: bool) -> Iterator[Check]:
    """Everything, one after the other."""
    from cli.checks.archive import check_archive, check_ports
    from cli.checks.hdfs import check_hdfs
    from cli.checks.machine import check_machine
    from cli.checks.spark import check_spark
    from cli.job_settings import JobSettings

    yield from check_machine()
    yield from check_hdfs(settings.store)
    yield from check_archive(settings.store, settings.index, deep=deep)
    spark = load(JobSettings, store=settings.store, index=settings.index).spark
    spark = spark if master is None else replace(spark, master=master)
    yield from check_spark(spark, settings.store, ui=master_ui, deep=deep)
    if importlib.util.find_spec("pynetdicom") is not None:
        from cli.serve_settings import ServeSettings

        yield from check_ports(load(ServeSettings, store=settings.store, index=settings.index))
