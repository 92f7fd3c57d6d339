# SPDX-License-Identifier: Apache-2.0
"""What the function that runs a job is given by its runner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

    from jobs.records import Job
    from pacs.index import Index
    from spark_jobs.running.settings import SparkSettings
    from storage.filesystem import Store

LogLevel = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class JobContext:
    """A job's surroundings: the first argument of every kind's run function.

    Attributes
    ----------
    job : the job as it was claimed
    store, index : of the archive
    session : gives the runner's Spark, started when first asked for; what the calling thread then runs on Spark belongs
        to this job and is cancelled with it
    spark : how Spark was started
    progress : takes the stage's name, tasks done, tasks in all
    log : takes a level (info, warning, error) and a line of the job's log, without patient data
    should_stop : whether to stop as soon as possible and write nothing any more: the job was cancelled, its lease was
        lost, or the runner is to end.  Whoever sees it raises JobStoppedError
    """

    job: Job
    store: Store
    index: Index
    session: Callable[[], SparkSession]
    spark: SparkSettings
    progress: Callable[[str, int, int], None]
    log: Callable[[LogLevel, str], None]
    should_stop: Callable[[], bool]
