# SPDX-License-Identifier: Apache-2.0
"""The surroundings of a task: variables that executors get, thread pools as large as a task's cores, its GPUs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from spark_jobs.errors import SparkJobError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Read when their libraries are loaded: BLAS, OpenMP, numba, and the Rust runtime of hdfs-native.
_POOLS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "TOKIO_WORKER_THREADS",
)  # fmt: skip
#: What a store needs that the driver was given by its environment.
_STORE_NAMES = ("HADOOP_CONF_DIR", "HADOOP_USER_NAME", "KRB5_CONFIG", "KRB5CCNAME")
_STORE_PREFIXES = ("AWS_", "CONEPACS_S3_")
_CUDA_LIBRARIES = ("cupy", "astra")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def pool_variables(threads: int) -> dict[str, str]:
    """Variables that keep every thread pool of a Python worker within the cores of its task."""
    return dict.fromkeys(_POOLS, str(threads))


def store_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what an executor on another machine needs of this environment to open the store, and nothing else.

    Spark keeps secrets out of its web pages and logs by their names (``spark.redaction.regex``).
    """
    return {
        name: value for name, value in environment.items() if name in _STORE_NAMES or name.startswith(_STORE_PREFIXES)
    }


def prepare_worker(threads: int) -> None:
    """Fit this Python worker to the task that it is about to run.

    Called before a back end is loaded: CUDA looks at its variable once, when it starts.

    Raises
    ------
    SparkJobError
        If a library of GPUs is loaded already and the task was given another GPU than it knows.
    """
    # Only here: settings are made of this module on machines without it.
    import pyarrow as pa

    pa.set_cpu_count(threads)
    pa.set_io_thread_count(threads)
    addresses = task_gpus()
    if not addresses:
        return
    wanted = ",".join(addresses)
    loaded = [name for name in _CUDA_LIBRARIES if name in sys.modules]
    if loaded and os.environ.get(_VISIBLE) != wanted:
        raise SparkJobError(
            f"this task was given GPU {wanted}, but its worker runs {loaded[0]} on GPU "
            f"{os.environ.get(_VISIBLE) or 'any'} already: leave spark.python.worker.reuse false"
        )
    os.environ[_VISIBLE] = wanted


def task_gpus() -> list[str]:
    """Addresses of the GPUs that Spark gave this task; none outside of a task."""
    from pyspark import TaskContext

    context = TaskContext.get()
    gpus = context.resources().get("gpu") if context is not None else None
    return list(gpus.addresses) if gpus is not None else []
