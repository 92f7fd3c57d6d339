# SPDX-License-Identifier: Apache-2.0
"""A tiny job that shows whether Spark's workers could do the real one: Python, packages, store, memory, clock."""

from __future__ import annotations

import functools
import importlib
import json
import os
import platform
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from spark_jobs.errors import TaskFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

_PACKAGES = ("spark_jobs.tasks.slab_task", "numba", "pyarrow", "pydicom")
_SCHEMA = pa.schema([("result", pa.string())])
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class WorkerFindings:
    """What one worker process found.

    Attributes
    ----------
    host, python
    package_fault : why packages cannot be imported; empty if they can
    store_fault : why the store cannot be used; empty if it can
    memory_bytes : of its machine that is free, or of its limit if that is less; 0 if it is not known [B]
    temporary_bytes : room in its folder for temporary files [B]
    clock_s : its time [s since 1970]
    """

    host: str
    python: str
    package_fault: str
    store_fault: str
    memory_bytes: int
    temporary_bytes: int
    clock_s: float


def check_workers(spark: SparkSession, store_url: str, n_tasks: int) -> list[WorkerFindings]:
    """Run a task in each of some worker processes, and return what each host and Python of them found.

    Raises
    ------
    TaskFailedError
        If Spark could not run it.
    """
    frame = spark.range(0, n_tasks, 1, n_tasks).mapInArrow(
        functools.partial(_look, store_url=store_url), "result string"
    )
    try:
        rows = frame.collect()
    except Exception as error:
        line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise TaskFailedError(f"Spark could not run a task: {line.strip()[:_LONGEST]}") from error
    found = [WorkerFindings(**json.loads(row["result"])) for row in rows]
    return list({(one.host, one.python, one.package_fault, one.store_fault): one for one in found}.values())


def _look(batches: Iterator[pa.RecordBatch], store_url: str) -> Iterator[pa.RecordBatch]:
    """What a worker finds, once a task."""
    for _ in batches:
        pass
    yield pa.RecordBatch.from_pydict({"result": [json.dumps(worker_findings(store_url))]}, schema=_SCHEMA)


def worker_findings(store_url: str) -> dict[str, Any]:
    """Look at this process's machine, packages and store, as JSON values of `WorkerFindings`."""
    package_fault = ""
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            package_fault = f"{name}: {error}"[:_LONGEST]
            break
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "package_fault": package_fault,
        "store_fault": _store_fault(store_url),
        "memory_bytes": _free_memory(),
        "temporary_bytes": shutil.disk_usage(tempfile.gettempdir()).free,
        "clock_s": time.time(),
    }


def _store_fault(store_url: str) -> str:
    """Why the store cannot be listed; empty if it can."""
    from storage.errors import StorageError
    from storage.filesystem import local_path, open_store

    try:
        store = open_store(store_url)
        store.list_folder("")
        folder = local_path(store, "")
        if folder is not None and not folder.is_dir():
            return f"{folder} is not there: a local folder must be one that all nodes share"
    except StorageError as error:
        return str(error)[:_LONGEST]
    return ""


def _free_memory() -> int:
    """Memory that this process could still have."""
    free = 0
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 0)
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit:
            text = limit.read().strip()
        return min(free, int(text)) if text.isdigit() else free
    except OSError:
        return free
