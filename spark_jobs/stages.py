# SPDX-License-Identifier: Apache-2.0
"""One Spark stage of numbered tasks: numbers out, JSON results back, progress meanwhile."""

from __future__ import annotations

import functools
import json
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spark_jobs.errors import SparkJobError, TaskFailedError
from spark_jobs.workers import RunPlace, task_results

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

_RESULT_DDL = "task long, result string"
_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage gave: a result for each task, in the order of their numbers, and its wall seconds."""

    name: str
    wall_s: float
    results: list[dict[str, Any]] = field(repr=False)

    @property
    def peak_bytes(self) -> int:
        """Largest peak memory of a task."""
        return max((r["peak_bytes"] for r in self.results), default=0)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all tasks."""
        return float(sum(r["cpu_s"] for r in self.results))


def run_stage(
    spark: SparkSession,
    name: str,
    n_tasks: int,
    place: RunPlace,
    work: Callable[[RunPlace, int], dict[str, Any]],
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> StageResult:
    """Run `work` for each task number, a Spark task each, and collect the small results.

    Raises
    ------
    TaskFailedError
        If Spark gave a task up: the message is that of the error in the worker.
    SparkJobError
        If a task reported an error that no retry would cure.
    """
    started = time.perf_counter()
    context = spark.sparkContext
    group = f"conepacs {place.folder} {name}"
    context.setJobGroup(group, name)
    numbers = spark.range(0, n_tasks, 1, n_tasks)
    frame = numbers.mapInArrow(functools.partial(task_results, place=place, work=work), _RESULT_DDL)
    watcher = _Watcher(spark, group, name, n_tasks, progress)
    with watcher:
        try:
            rows = frame.collect()
        except Exception as error:
            raise TaskFailedError(f"stage '{name}' failed: {_worker_message(str(error))}") from error
    results = [json.loads(row["result"]) for row in sorted(rows, key=lambda row: row["task"])]
    for result in results:
        if "error" in result:
            raise SparkJobError(result["error"])
    if len(results) != n_tasks:
        raise TaskFailedError(f"stage '{name}' gave {len(results)} results for {n_tasks} tasks")
    return StageResult(name, time.perf_counter() - started, results)


def _worker_message(text: str) -> str:
    """One sentence out of what Spark hands over: of the error in the worker, or how the worker was lost."""
    python = re.findall(r"^(?:[A-Za-z_][\w.]*(?:Error|Exception|Interrupt)): (.+)$", text, flags=re.MULTILINE)
    if python:
        return str(python[-1]).strip()
    if "Python worker exited unexpectedly" in text or "Python worker failed to connect back" in text:
        return "a worker ended without a word, as one does that is killed or finds no memory: see Spark's log"
    spark = re.search(r"most recent failure: (?:Lost task [^:]*: )?(.+)", text) or re.search(r"Exception: (.+)", text)
    if spark:
        return spark[1].strip()[:_LONGEST_MESSAGE]
    return text.strip().partition("\n")[0][:_LONGEST_MESSAGE] or "Spark gave no reason"


class _Watcher:
    """Tells how many tasks are done while the driver waits for the stage."""

    def __init__(
        self,
        spark: SparkSession,
        group: str,
        name: str,
        n_tasks: int,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self._tracker = spark.sparkContext.statusTracker()
        self._group, self._name, self._n_tasks, self._progress = group, name, n_tasks, progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        if self._progress is not None:
            self._progress(self._name, 0, self._n_tasks)
            self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._progress is not None:
            self._stop.set()
            self._thread.join()
            if kind is None:
                self._progress(self._name, self._n_tasks, self._n_tasks)

    def _watch(self) -> None:
        assert self._progress is not None
        while not self._stop.wait(0.3):
            done = 0
            for job in self._tracker.getJobIdsForGroup(self._group):
                info = self._tracker.getJobInfo(job)
                for stage in info.stageIds if info is not None else []:
                    stage_info = self._tracker.getStageInfo(stage)
                    done += stage_info.numCompletedTasks if stage_info is not None else 0
            self._progress(self._name, min(done, self._n_tasks), self._n_tasks)
