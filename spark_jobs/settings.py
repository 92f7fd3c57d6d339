# SPDX-License-Identifier: Apache-2.0
"""Settings of the Spark session."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spark_jobs.errors import SessionError


@dataclass(frozen=True, slots=True)
class SparkSettings:
    """How Spark is started.

    Attributes
    ----------
    master : ``local[*]``, ``local[2]``, ``spark://host:port``, ``yarn``, ``k8s://...``
    driver_memory : of the JVM; no pixels pass through it.
    task_tries : how often a task may fail before the job does.
    task_threads : threads of one task, and ``spark.task.cpus``.
    extra : further Spark properties.
    """

    master: str = "local[*]"
    driver_memory: str = "512m"
    task_tries: int = 4
    task_threads: int = 1
    extra: dict[str, str] = field(default_factory=dict)

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic, where settings are composed

    def __post_init__(self) -> None:
        if self.task_tries < 1 or self.task_threads < 1:
            raise SessionError(
                f"task_tries and task_threads must be at least 1, got {self.task_tries} and {self.task_threads}"
            )

    def properties(self) -> dict[str, Any]:
        """Spark properties of a quiet session on loopback or the given master."""
        master = self.master
        local = master.startswith("local")
        if local and "," not in master:
            # In local mode Spark never retries a task unless the master says how often it may fail.
            cores = master[len("local[") : -1] if "[" in master else "1"
            master = f"local[{cores},{self.task_tries}]"
        values: dict[str, Any] = {
            "spark.master": master,
            "spark.driver.memory": self.driver_memory,
            "spark.task.maxFailures": self.task_tries,
            "spark.task.cpus": self.task_threads,
            "spark.ui.showConsoleProgress": "false",
            "spark.sql.execution.arrow.maxRecordsPerBatch": 1,
            "spark.python.worker.reuse": "true",
            "spark.sql.shuffle.partitions": 1,
        }
        if local:
            values |= {
                "spark.driver.host": "127.0.0.1",
                "spark.driver.bindAddress": "127.0.0.1",
                "spark.ui.enabled": "false",
            }
        return values | self.extra
