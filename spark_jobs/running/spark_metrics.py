# SPDX-License-Identifier: Apache-2.0
"""What Spark itself counted of a stage: bytes shuffled, seconds of its executors, tasks that ran more than once."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark import SparkContext

#: Spark's listeners hear of a task's end a little after the driver does [ms].
_LISTENERS_MS = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SparkMetrics:
    """Counts of one or more stages.

    Attributes
    ----------
    shuffle_read_bytes, shuffle_written_bytes : between executors; pixels never go that way
    executor_run_s : seconds that executors spent in tasks
    failed_tasks : attempts that failed, and were tried again or ended the job
    killed_tasks : attempts that were ended because another one was quicker, or the job was stopped
    speculative_tasks : attempts that Spark started beside one that took long
    """

    shuffle_read_bytes: int = 0
    shuffle_written_bytes: int = 0
    executor_run_s: float = 0.0
    failed_tasks: int = 0
    killed_tasks: int = 0
    speculative_tasks: int = 0

    @property
    def shuffle_bytes(self) -> int:
        """Bytes read and written by shuffles."""
        return self.shuffle_read_bytes + self.shuffle_written_bytes

    def __add__(self, other: SparkMetrics) -> SparkMetrics:
        return SparkMetrics(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def job_group_metrics(context: SparkContext, group: str) -> SparkMetrics:
    """Add up what Spark counted for all stages of a job group that is done.

    The counts come from the status store that also feeds Spark's web pages and its REST interface; it is there without
    them too.  A driver whose listeners lag behind has incomplete counts, and says so in its log: no job fails for that.
    """
    from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]

    scala = context._jsc.sc()
    try:
        scala.listenerBus().waitUntilEmpty(_LISTENERS_MS)
    except Py4JJavaError:
        _log.warning("Spark's listeners lag behind: its counts of %s may be incomplete", group)
    status = scala.statusStore()
    tracker = context.statusTracker()
    total = SparkMetrics()
    for job in tracker.getJobIdsForGroup(group):
        info = tracker.getJobInfo(job)
        for stage in info.stageIds if info is not None else []:
            if tracker.getStageInfo(stage) is None:
                continue  # skipped
            try:
                attempt = status.lastStageAttempt(stage)
            except Py4JJavaError:
                _log.warning("Spark has no counts of stage %d of %s", stage, group)
                continue
            speculation = status.speculationSummary(stage, attempt.attemptId())
            total += SparkMetrics(
                shuffle_read_bytes=attempt.shuffleReadBytes(),
                shuffle_written_bytes=attempt.shuffleWriteBytes(),
                executor_run_s=attempt.executorRunTime() / 1e3,
                failed_tasks=attempt.numFailedTasks(),
                killed_tasks=attempt.numKilledTasks(),
                speculative_tasks=speculation.get().numTasks() if speculation.isDefined() else 0,
            )
    return total
