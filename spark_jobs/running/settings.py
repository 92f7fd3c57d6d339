# SPDX-License-Identifier: Apache-2.0
"""Settings of the Spark session."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spark_jobs.errors import SessionError
from spark_jobs.tasks.worker_environment import pool_variables

#: What the JVM of an executor needs beside its heap [MiB].
_JVM_OVERHEAD_MIB = 384
#: No pixels pass through a JVM: what its optimising compiler and parallel collectors win, tasks on the same cores lose.
_JVM_OPTIONS = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
#: Names of values that Spark shows to nobody; its own default knows access.key and accesskey.
_SECRETS = r"(?i)secret|password|passwd|token|access[._]?key|credential"


@dataclass(frozen=True, slots=True)
class SparkSettings:
    """How Spark is started, and what it may use.

    Attributes
    ----------
    master : ``local[*]``, ``local[2]``, ``spark://host:port``, ``yarn``, ``k8s://...``
    driver_memory : of the JVM; no pixels pass through it.
    task_tries : how often a task may fail before the job does.
    task_threads : threads of one task, and ``spark.task.cpus``; also of each library's thread pool in a task.
    task_memory_mib : what the Python worker of one task may use [MiB]; it must not be below what is planned.
    executor_cores : cores of one executor, and so its tasks at once; 0 for all that a worker has.
    executor_memory : of an executor's JVM; no pixels pass through it.
    gpus_per_executor, gpus_per_task : GPUs; a fraction such as 0.5 lets two tasks share one.
    gpu_discovery_script : program on each node that tells Spark its GPUs (``conf/gpu-discovery.sh``); "" where the
        cluster manager does.
    speculation : start a second copy of a task that takes long; None for wherever several machines work.
    speculation_quantile, speculation_multiplier, speculation_min_s : a copy starts once this share of the stage's tasks
        is done, for tasks that take so many times their median, and at least so long [s].
    publishers_per_node : tasks of a node that publish at the same time; others wait. 0 for all.
    extra : further Spark properties; they win.
    """

    master: str = "local[*]"
    driver_memory: str = "512m"
    task_tries: int = 4
    task_threads: int = 1
    task_memory_mib: int = 2048
    executor_cores: int = 0
    executor_memory: str = "512m"
    gpus_per_executor: int = 0
    gpus_per_task: float = 0.0
    gpu_discovery_script: str = ""
    speculation: bool | None = None
    speculation_quantile: float = 0.75
    speculation_multiplier: float = 3.0
    speculation_min_s: float = 60.0
    publishers_per_node: int = 4
    extra: dict[str, str] = field(default_factory=dict)

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic, where settings are composed

    def __post_init__(self) -> None:
        if self.task_tries < 1 or self.task_threads < 1:
            raise SessionError(
                f"task_tries and task_threads must be at least 1, got {self.task_tries} and {self.task_threads}"
            )
        if self.executor_cores and self.executor_cores < self.task_threads:
            raise SessionError(
                f"an executor of {self.executor_cores} cores cannot run a task of {self.task_threads} threads"
            )
        if self.task_memory_mib < 1:
            raise SessionError(f"task_memory_mib must be at least 1, got {self.task_memory_mib}")
        if self.publishers_per_node < 0 or self.executor_cores < 0:
            raise SessionError(
                f"publishers_per_node and executor_cores cannot be negative, got {self.publishers_per_node} and "
                f"{self.executor_cores}"
            )
        if not 0 <= self.gpus_per_task <= self.gpus_per_executor or (self.gpus_per_executor and not self.gpus_per_task):
            raise SessionError(
                f"gpus_per_task must lie above 0 and not above gpus_per_executor, got {self.gpus_per_task:g} and "
                f"{self.gpus_per_executor}"
            )
        if not 0 < self.speculation_quantile <= 1 or self.speculation_multiplier < 1 or self.speculation_min_s < 0:
            raise SessionError(
                "speculation needs a quantile above 0 up to 1, a multiplier of at least 1 and no negative time, got "
                f"{self.speculation_quantile:g}, {self.speculation_multiplier:g} and {self.speculation_min_s:g} s"
            )

    @property
    def is_local(self) -> bool:
        """Whether tasks run beside the driver, without executors of their own (``local-cluster`` has some)."""
        return self.master == "local" or self.master.startswith("local[")

    @property
    def tasks_per_executor(self) -> int:
        """Tasks that an executor runs at once; one where its cores are left to the cluster."""
        return max(1, self.executor_cores // self.task_threads)

    @property
    def python_memory_mib(self) -> int:
        """Memory of an executor beside its JVM's [MiB]: the Python workers of all its tasks, and what the JVM adds."""
        return self.tasks_per_executor * self.task_memory_mib + _JVM_OVERHEAD_MIB

    def properties(self) -> dict[str, Any]:
        """Spark properties of a quiet session on loopback or the given master."""
        master = self.master
        if self.is_local and "," not in master:
            # In local mode Spark never retries a task unless the master says how often it may fail.
            cores = master[len("local[") : -1] if "[" in master else "1"
            master = f"local[{cores},{self.task_tries}]"
        values: dict[str, Any] = {
            "spark.master": master,
            "spark.driver.memory": self.driver_memory,
            "spark.driver.defaultJavaOptions": _JVM_OPTIONS,
            "spark.executor.defaultJavaOptions": _JVM_OPTIONS,
            "spark.task.maxFailures": self.task_tries,
            "spark.task.cpus": self.task_threads,
            "spark.ui.showConsoleProgress": "false",
            "spark.sql.execution.arrow.maxRecordsPerBatch": 1,
            "spark.python.worker.reuse": "true",
            "spark.sql.shuffle.partitions": 1,
            "spark.redaction.regex": _SECRETS,
            **{f"spark.executorEnv.{name}": value for name, value in pool_variables(self.task_threads).items()},
            **self._speculation(),
            **self._gpus(),
        }
        if self.is_local:
            values |= {
                "spark.driver.host": "127.0.0.1",
                "spark.driver.bindAddress": "127.0.0.1",
                "spark.ui.enabled": "false",
            }
        else:
            values |= self._cluster()
        return values | self.extra

    def _cluster(self) -> dict[str, Any]:
        """What only executors on other machines have."""
        values: dict[str, Any] = {
            "spark.executor.memory": self.executor_memory,
            # Where the cluster manager holds an executor to its memory (YARN, Kubernetes); standalone workers do not.
            "spark.executor.memoryOverhead": f"{self.python_memory_mib}m",
            # A task is tried elsewhere after two failures on one executor; a node is not given up, as its store may be.
            # Spark takes no offer at all where a node's limit is not below that of the task.
            "spark.excludeOnFailure.enabled": "true" if self.task_tries > 1 else "false",
            "spark.excludeOnFailure.task.maxTaskAttemptsPerExecutor": min(2, self.task_tries),
            "spark.excludeOnFailure.task.maxTaskAttemptsPerNode": max(1, self.task_tries - 1),
            "spark.excludeOnFailure.stage.maxFailedTasksPerExecutor": 2 * self.task_tries,
            "spark.excludeOnFailure.stage.maxFailedExecutorsPerNode": 2 * self.task_tries,
            "spark.excludeOnFailure.application.maxFailedTasksPerExecutor": 4 * self.task_tries,
            "spark.excludeOnFailure.application.maxFailedExecutorsPerNode": 4 * self.task_tries,
            # An executor that is drained ends its tasks; there are no blocks of Spark's own to move.
            "spark.decommission.enabled": "true",
            "spark.storage.decommission.enabled": "false",
        }
        if self.executor_cores:
            values["spark.executor.cores"] = self.executor_cores
        return values

    def _speculation(self) -> dict[str, Any]:
        wanted = not self.is_local if self.speculation is None else self.speculation
        if not wanted:
            return {"spark.speculation": "false"}
        return {
            "spark.speculation": "true",
            "spark.speculation.quantile": self.speculation_quantile,
            "spark.speculation.multiplier": self.speculation_multiplier,
            "spark.speculation.minTaskRuntime": f"{round(self.speculation_min_s * 1000)}ms",
            "spark.speculation.interval": "1s",
        }

    def _gpus(self) -> dict[str, Any]:
        if not self.gpus_per_executor:
            return {}
        values: dict[str, Any] = {
            "spark.executor.resource.gpu.amount": self.gpus_per_executor,
            "spark.task.resource.gpu.amount": f"{self.gpus_per_task:g}",
            # CUDA starts with the GPU of a worker's first task, and another task may be given another one.
            "spark.python.worker.reuse": "false",
        }
        if self.gpu_discovery_script:
            values["spark.executor.resource.gpu.discoveryScript"] = self.gpu_discovery_script
        return values
