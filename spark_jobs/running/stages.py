# SPDX-License-Identifier: Apache-2.0
"""One Spark stage of numbered tasks: numbers out, JSON results back, progress meanwhile."""

from __future__ import annotations

import functools
import json
import re
import threading
import time
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from spark_jobs.errors import JobStoppedError, SparkJobError, TaskFailedError
from spark_jobs.running.spark_metrics import SparkMetrics, job_group_metrics
from spark_jobs.tasks.worker_log import logged
from spark_jobs.tasks.workers import RunPlace, task_results

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyspark.sql import SparkSession

_RESULT_DDL = "task long, result string"
_LONGEST_MESSAGE = 300
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage gave: a result for each task, in the order of their numbers, and its wall seconds.

    Attributes
    ----------
    name, wall_s
    results : of all tasks
    reused : places in `results` of those that an earlier submit had finished
    spark : what Spark counted
    """

    name: str
    wall_s: float
    results: list[dict[str, Any]] = field(repr=False)
    reused: frozenset[int] = frozenset()
    spark: SparkMetrics = field(default_factory=SparkMetrics)

    @property
    def computed(self) -> list[dict[str, Any]]:
        """Results of the tasks that ran in this submit."""
        return [result for place, result in enumerate(self.results) if place not in self.reused]

    @property
    def peak_bytes(self) -> int:
        """Largest peak memory of a task."""
        return max((r["peak_bytes"] for r in self.results), default=0)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all tasks that ran."""
        return float(sum(r["cpu_s"] for r in self.computed))


@dataclass(frozen=True, slots=True)
class StageRunner:
    """Runs the stages of one submit.

    Attributes
    ----------
    session : gives Spark, started when first asked for
    place : where tasks find the run
    progress : called with the stage's name, tasks done, tasks in all
    should_stop : whether to stop; asked between stages, and by a thread of its own during them
    planned_bytes : memory that the plan says a task needs, told of a worker that is killed
    """

    session: Callable[[], SparkSession]
    place: RunPlace
    progress: Callable[[str, int, int], None] | None = None
    should_stop: Callable[[], bool] | None = None
    planned_bytes: int = 0

    def run(
        self,
        name: str,
        n_tasks: int,
        work: Callable[[RunPlace, int], dict[str, Any]],
        *,
        finished: Mapping[int, dict[str, Any]] = MappingProxyType({}),
    ) -> StageResult:
        """Run `work` for each task number, a Spark task each, and collect the small results.

        Tasks that are `finished` are not run; their results are taken.  Spark is not asked for if all of them are.

        Raises
        ------
        JobStoppedError
            If `should_stop` said so; tasks under way are cancelled.
        TaskFailedError
            If Spark gave a task up: the message is that of the error in the worker.
        SparkJobError
            If a task reported an error that no retry would cure.
        """
        started = time.perf_counter()
        self.stop_if_told(name, len(finished), n_tasks)
        tasks = tuple(task for task in range(n_tasks) if task not in finished)
        if self.progress is not None:
            self.progress(name, len(finished), n_tasks)
        results, metrics = dict(finished), SparkMetrics()
        if tasks:
            group = f"conepacs {self.place.submit_folder} {name}"
            fresh = self._collect(name, group, tasks, n_tasks, work)
            results |= fresh
            metrics = job_group_metrics(self.session().sparkContext, group)
        ordered = [results[task] for task in range(n_tasks)]
        return StageResult(name, time.perf_counter() - started, ordered, frozenset(finished), metrics)

    def stop_if_told(self, name: str, done: int, of: int) -> None:
        """Raise JobStoppedError if the job shall stop."""
        if self.should_stop is not None and self.should_stop():
            raise _stopped(name, done, of)

    def _collect(
        self, name: str, group: str, tasks: tuple[int, ...], n_tasks: int, work: Callable[..., dict[str, Any]]
    ) -> dict[int, dict[str, Any]]:
        """Run these tasks; results by task number."""
        spark = self.session()
        spark.sparkContext.setJobGroup(group, name, interruptOnCancel=True)
        numbers = tasks if len(tasks) < n_tasks else ()
        frame = spark.range(0, len(tasks), 1, len(tasks)).mapInArrow(
            functools.partial(task_results, place=self.place, work=logged(work), tasks=numbers), _RESULT_DDL
        )
        watcher = _Watcher(spark, group, self._progress_of(name, n_tasks, n_tasks - len(tasks)), self.should_stop)
        error: Exception | None = None
        rows: list[Any] = []
        with watcher:
            try:
                rows = frame.collect()
            except Exception as caught:  # noqa: BLE001 - Spark raises what it likes; it is told in one sentence below
                error = caught
        if watcher.stopped:
            raise _stopped(name, n_tasks - len(tasks) + watcher.done, n_tasks) from error
        if error is not None:
            raise TaskFailedError(
                f"stage '{name}' failed: {_worker_message(str(error), self.planned_bytes)}"
            ) from error
        results = {row["task"]: json.loads(row["result"]) for row in rows}
        for task in sorted(results):
            if "error" in results[task]:
                raise SparkJobError(results[task]["error"])
        if set(results) != set(tasks):
            raise TaskFailedError(f"stage '{name}' gave {len(results)} results for {len(tasks)} tasks")
        if self.progress is not None:
            self.progress(name, n_tasks, n_tasks)
        return results

    def _progress_of(self, name: str, n_tasks: int, finished: int) -> Callable[[int], None] | None:
        """What tells of the tasks of this submit that are done."""
        progress = self.progress
        if progress is None:
            return None
        return lambda done: progress(name, min(finished + done, n_tasks), n_tasks)


def _stopped(name: str, done: int, of: int) -> JobStoppedError:
    return JobStoppedError(f"stopped in stage '{name}' after {done} of {of} tasks")


def _worker_message(text: str, planned_bytes: int) -> str:
    """One sentence out of what Spark hands over: of the error in the worker, or how the worker was lost."""
    python = re.findall(r"^(?:[A-Za-z_][\w.]*(?:Error|Exception|Interrupt)): (.+)$", text, flags=re.MULTILINE)
    if python:
        return str(python[-1]).strip()
    if "Python worker exited unexpectedly" in text or "Python worker failed to connect back" in text:
        return (
            "a worker ended without a word, as one does that is killed or finds no memory "
            f"({planned_bytes / _MIB:.0f} MiB are planned for a task): see Spark's log"
        )
    spark = re.search(r"most recent failure: (?:Lost task [^:]*: )?(.+)", text) or re.search(r"Exception: (.+)", text)
    if spark:
        return spark[1].strip()[:_LONGEST_MESSAGE]
    return text.strip().partition("\n")[0][:_LONGEST_MESSAGE] or "Spark gave no reason"


class _Watcher:
    """Looks every 0.3 s, while the driver waits for a stage, how many tasks are done, and whether to stop.

    Attributes
    ----------
    done : tasks of the stage that are done
    stopped : the job group was cancelled because `should_stop` said so, or raised an error
    """

    def __init__(
        self,
        spark: SparkSession,
        group: str,
        progress: Callable[[int], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self._context, self._group = spark.sparkContext, group
        self._progress, self._should_stop = progress, should_stop
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._error: BaseException | None = None
        self.done = 0
        self.stopped = False

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _watch(self) -> None:
        try:
            while not self._end.wait(0.3):
                self._look()
        except Exception as error:  # noqa: BLE001 - what a callback raises is raised again by the thread that waits
            self._error = error
            self._context.cancelJobGroup(self._group)

    def _look(self) -> None:
        self.done = self._count_done()
        if self._progress is not None:
            self._progress(self.done)
        if not self.stopped and self._should_stop is not None and self._should_stop():
            self.stopped = True
        if self.stopped:  # again and again: the job may not have begun when it was cancelled first
            self._context.cancelJobGroup(self._group)

    def _count_done(self) -> int:
        tracker = self._context.statusTracker()
        done = 0
        for job in tracker.getJobIdsForGroup(self._group):
            info = tracker.getJobInfo(job)
            for stage in info.stageIds if info is not None else []:
                stage_info = tracker.getStageInfo(stage)
                done += stage_info.numCompletedTasks if stage_info is not None else 0
        return done
