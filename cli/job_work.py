# SPDX-License-Identifier: Apache-2.0
"""``conepacs jobs work``: the runner that works jobs off by Spark."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.archive import open_existing_store, open_index, open_queue
from cli.options import IndexOption, MasterOption, SparkLogOption, StoreOption, parse_bytes
from cli.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.work_settings import WorkSettings
    from spark_jobs.running.metrics import RunnerMetrics
    from spark_jobs.running.runner import Runner

_GIBIBYTE = 1 << 30
#: How ends of jobs are told, in this order.
_ENDS = {
    "finish": "done", "fail": "failed", "again": "to be tried again", "cancelled": "cancelled",
    "release": "given back", "nothing": "lost to another runner",
}  # fmt: skip


def work(
    once: Annotated[bool, typer.Option("--once", help="End when nothing is left that this runner could take.")] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", help="Jobs to run at once.", metavar="N", min=1, show_default="1")
    ] = None,
    cores: Annotated[
        int | None,
        typer.Option(
            "--cores", help="Cores that its jobs may ask for together.", metavar="N", min=1, show_default="all here"
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", help="Memory that its jobs may ask for together.", metavar="BYTES", show_default="all here"
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", help="GPUs that its jobs may ask for together.", metavar="N", min=0, show_default="0"),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            help="Port of 127.0.0.1 to tell Prometheus of the work on; 0 takes a free one.",
            metavar="PORT",
            min=0,
            max=65535,
            show_default="none",
        ),
    ] = None,
    store: StoreOption = None,
    index: IndexOption = None,
    master: MasterOption = None,
    spark_log: SparkLogOption = None,
) -> None:
    """Work jobs off by Spark until told to end.

    Any number of runners may share a queue; one that is killed loses its jobs to the others after its lease.  SIGTERM
    or Ctrl-C ends it: it takes no more jobs and gives those at hand some time to finish; again: they go back to the
    queue at once.

        conepacs jobs work
        conepacs jobs work --once
        conepacs jobs work --jobs 2 --master spark://head:7077 --cores 64
    """
    from cli.work_settings import WorkSettings
    from spark_jobs.running.metrics import RunnerMetrics

    settings = load(WorkSettings, store=store, index=index)
    given = {"jobs": jobs, "cores": cores, "gpus": gpus}
    given_gib = None if memory is None else parse_bytes(memory) / _GIBIBYTE
    chosen = {name: value for name, value in (given | {"memory_gib": given_gib}).items() if value is not None}
    spark = settings.spark if master is None else dataclasses.replace(settings.spark, master=master)
    settings = settings.model_copy(
        update={"runner": dataclasses.replace(settings.runner, **chosen), "spark": spark}  # type: ignore[arg-type]
    )
    log_file = spark_log or Path(tempfile.gettempdir(), f"conepacs-spark-{secrets.token_hex(8)}.log")
    metrics = RunnerMetrics()
    runner = make_runner(settings, log_file, metrics)
    with contextlib.ExitStack() as open_here:
        if metrics_port is not None:
            typer.echo(f"metrics: http://127.0.0.1:{open_here.enter_context(metrics.served(metrics_port))}/metrics")
        open_here.enter_context(_ended_by_signals(runner))
        typer.echo(f"runner {runner.name} works; end it with Ctrl-C")
        ends = runner.run(once=once)
    told = [f"{ends[end]} {words}" for end, words in _ENDS.items() if ends.get(end)]
    typer.echo(f"ended; jobs: {', '.join(told) or 'none'}")


@contextlib.contextmanager
def _ended_by_signals(runner: Runner) -> Iterator[None]:
    """Let what a service manager sends, and Ctrl-C, end the runner within its grace time."""

    def end(*_: object) -> None:
        runner.stop()

    kept = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def make_runner(settings: WorkSettings, log_file: Path, metrics: RunnerMetrics | None = None) -> Runner:
    """Make the runner of the settings; Spark starts when a job first needs it."""
    from cli.job_kinds import all_kinds
    from spark_jobs.running.runner import Runner
    from spark_jobs.running.session import create_session

    spark = settings.spark
    if settings.runner.jobs > 1:  # jobs at once share the cores fairly instead of one after the other
        spark = dataclasses.replace(spark, extra={"spark.scheduler.mode": "FAIR"} | spark.extra)
    store = open_existing_store(settings.store)
    return Runner(
        open_queue(store, settings.index), settings.runner, all_kinds(), store, open_index(store, settings.index),
        start_session=lambda: create_session(spark, app_name="conepacs jobs", log_file=log_file),
        spark=spark, metrics=metrics,
    )  # fmt: skip
