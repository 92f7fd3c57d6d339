# SPDX-License-Identifier: Apache-2.0
"""Tunes plans for a store and a back end: a probe as one task, in this process or on Spark, and its rates kept."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ingest.chunks import open_scan_chunks
from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.rates import Rates
from spark_jobs.planning.tuning import DEFAULT_NAME, save_rates, tuning_path
from spark_jobs.running.stages import StageRunner
from spark_jobs.running.submit import open_submit
from spark_jobs.tasks.rate_probe import probe_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

    from spark_jobs.planning.request import ReconstructionRequest
    from storage.filesystem import Store


def tune_scan(
    store: Store,
    request: ReconstructionRequest,
    *,
    name: str = DEFAULT_NAME,
    session: Callable[[], SparkSession] | None = None,
    task_threads: int = 1,
) -> Rates:
    """Measure rates by a task of a few seconds with one stored scan, and keep them by name.

    Parameters
    ----------
    store, request : the scan, and the volume and back end that are meant.
    name : of the rates; ``default`` is read by every plan that names no other.
    session : gives Spark, so that an executor measures; None measures in this process.
    task_threads : of one task.

    Raises
    ------
    PlanError, TaskFailedError, and errors of the layers below
        If the name is none, or the scan cannot be planned or read.
    """
    tuning_path(name)
    stored = open_scan_chunks(store, request.scan_id)
    plan = make_plan(stored, dataclasses.replace(request, tuning="built-in"))
    with open_submit(store, stored, plan, task_threads=task_threads, publishers=0, again=True) as run:
        if session is None:
            result = probe_task(run.place, 0)
        else:
            result = StageRunner(session, run.place).run("probe", 1, probe_task).results[0]
    rates = dataclasses.replace(Rates(**result["rates"]), name=name)
    save_rates(store, rates)
    return rates
