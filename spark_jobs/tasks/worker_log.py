# SPDX-License-Identifier: Apache-2.0
"""The log of Spark's Python workers: the driver's ids travel with the work, and lines are JSON on standard error.

Spark collects a worker's standard error with its executor's log.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.log_context import current_log_ids, log_context
from storage.log_format import JsonLines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from spark_jobs.tasks.workers import RunPlace

_log = logging.getLogger(__name__)
_HANDLER = "conepacs-worker"


@dataclass(frozen=True, slots=True)
class LoggedWork:
    """Work on one task whose log lines carry scan, job, run, worker and task.

    Attributes
    ----------
    work : what is run: (place, task number) -> result
    ids : of the driver's context as the stage began
    level : of the driver's log
    """

    work: Callable[[RunPlace, int], dict[str, Any]]
    ids: Mapping[str, Any]
    level: int

    def __call__(self, place: RunPlace, task: int) -> dict[str, Any]:
        """Run the work on one task."""
        set_up_worker_log(self.level)
        ids = dict(self.ids)
        ids["run"] = ids.get("run") or place.folder.rpartition("/")[2]
        with log_context(**ids | {"worker": f"{platform.node()}:{os.getpid()}", "task": task}):
            started = time.perf_counter()
            try:
                result = self.work(place, task)
            except Exception as error:
                _log.warning("the task failed after %.1f s: %s", time.perf_counter() - started, type(error).__name__)
                raise
            _log.info("the task took %.1f s", time.perf_counter() - started)
            return result


def logged(work: Callable[[RunPlace, int], dict[str, Any]]) -> LoggedWork:
    """Return `work` with the ids and the log level of here and now, for Spark to carry to its workers."""
    return LoggedWork(work, current_log_ids(), logging.getLogger(__name__).getEffectiveLevel())


def set_up_worker_log(level: int) -> None:
    """Write this process's log to standard error as JSON lines, unless it goes somewhere already."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.name = _HANDLER
    handler.setFormatter(JsonLines())
    root.addHandler(handler)
    root.setLevel(max(level, logging.WARNING))
    for package in ("spark_jobs", "ingest", "pacs", "storage", "reconstruction"):
        logging.getLogger(package).setLevel(level)
    for library in ("pydicom", "pynetdicom", "py4j"):  # they quote what they read
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
