# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.support.work_on_spark FOLDER``: a runner on a Spark of its own, and kinds of jobs that go wrong.

Works on the store, index and queue in the folder until it is killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jobs.kinds import JobKind, kinds_by_name
from jobs.queue import open_queue
from jobs.records import Resources
from spark_jobs.running.kinds import SPARK_KINDS, ReconstructParameters, reconstruct_resources, request_of
from spark_jobs.running.reconstruct_scan import reconstruct_scan
from spark_jobs.running.runner import Runner
from spark_jobs.running.runner_settings import RunnerSettings
from spark_jobs.tasks.slab_task import reconstruct_slab
from storage.filesystem import open_store
from tests.support.index_engine import sqlite_index
from tests.support.spark_session import start_spark

if TYPE_CHECKING:
    from spark_jobs.running.job_context import JobContext
    from spark_jobs.tasks.workers import RunPlace

#: While there is a file of this name beside the store, the second slab does not end.
HOLD = "hold"


@dataclass(frozen=True)
class NoParameters:
    """Nothing to choose."""


def held_slab(place: RunPlace, task: int) -> dict[str, Any]:
    """The slab task; task 1 stays until nothing holds it."""
    hold = Path(urlsplit(place.store_url).path).parent / HOLD
    while task == 1 and hold.exists():
        time.sleep(0.1)
    return reconstruct_slab(place, task)


def run_held(context: JobContext, parameters: ReconstructParameters) -> dict[str, Any]:
    """A reconstruction whose second slab can be held."""
    result = reconstruct_scan(
        context.store, context.index, request_of(parameters), session=context.session, progress=context.progress,
        should_stop=context.should_stop, slab_work=held_slab,
    )  # fmt: skip
    return {"volumes": [s.volume_sha256 for s in result.series], "outcomes": result.outcomes}


def run_deadly(context: JobContext, _parameters: NoParameters) -> dict[str, Any]:
    """Kill Spark's JVM in the first attempt; count to 3 on it in the second."""
    spark = context.session()
    if context.job.attempt == 1:
        os.kill(spark.sparkContext._gateway.proc.pid, signal.SIGKILL)
    return {"count": spark.range(3).count()}


def run_endless(context: JobContext, _parameters: NoParameters) -> dict[str, Any]:
    """A Spark job that never asks whether to stop."""
    return {"count": context.session().sparkContext.range(0, 2, 1, 2).map(_sleep).count()}


def _sleep(number: int) -> int:
    time.sleep(600)
    return number


def _one_core(_parameters: object) -> Resources:
    return Resources(1)


KINDS = kinds_by_name(
    [
        *SPARK_KINDS.values(),
        JobKind("held", "Held", ReconstructParameters, reconstruct_resources, "tests.support.work_on_spark:run_held"),
        JobKind("deadly", "Deadly", NoParameters, _one_core, "tests.support.work_on_spark:run_deadly"),
        JobKind("endless", "Endless", NoParameters, _one_core, "tests.support.work_on_spark:run_endless"),
    ]
)


def spark_runner(queue, index, folder: Path, start, **settings) -> Runner:
    """A runner over the archive in a folder."""
    chosen = {"lease_s": 5.0, "poll_s": 0.1, "cores": 2} | settings
    store = open_store((folder / "store").as_uri())
    return Runner(queue, RunnerSettings(**chosen), KINDS, store, index, start_session=start)


def main() -> None:
    folder = Path(sys.argv[1])
    with sqlite_index(folder / "index.sqlite") as index, open_queue(str(folder / "index.sqlite"), KINDS) as queue:
        spark_runner(queue, index, folder, lambda: start_spark("local[2]", folder)).run()


if __name__ == "__main__":
    main()
