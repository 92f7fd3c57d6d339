# SPDX-License-Identifier: Apache-2.0
"""The one Spark session of a test run, and slab tasks that fail on demand."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from pyspark import TaskContext

from spark_jobs.running.session import create_session
from spark_jobs.running.settings import SparkSettings
from spark_jobs.tasks.slab_task import reconstruct_slab
from storage.filesystem import open_store
from storage.publish import publish_bytes
from tests.support.peers import REPOSITORY
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

    from spark_jobs.tasks.workers import RunPlace


def start_spark(master: str, folder: Path, **settings: Any) -> SparkSession:
    """Start Spark; its workers find the packages of this checkout wherever the tests are run from."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    wanted = SparkSettings(**({"master": master, "task_tries": 3} | settings))
    return create_session(wanted, app_name="conepacs tests", log_file=folder / "spark.log")


def _attempt() -> int:
    context = TaskContext.get()
    assert context is not None
    return context.attemptNumber()


def fails_once(place: RunPlace, task: int) -> dict[str, Any]:
    """The slab task; task 1 writes its pack and then fails, the first time."""
    result = reconstruct_slab(place, task)
    if task == 1 and _attempt() == 0:
        raise OSError("the network is down for a moment")
    return result


def killed_once(place: RunPlace, task: int) -> dict[str, Any]:
    """The slab task; the worker of task 0 is killed, the first time, after its pack was written."""
    result = reconstruct_slab(place, task)
    if task == 0 and _attempt() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def fails_always(place: RunPlace, task: int) -> dict[str, Any]:
    """The slab task; task 1 never succeeds."""
    if task == 1:
        raise OSError("disk 7 of node 3 is gone")
    return reconstruct_slab(place, task)


def killed_always(place: RunPlace, task: int) -> dict[str, Any]:
    """The slab task; the worker of task 1 is killed every time, as one is that takes too much memory."""
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return reconstruct_slab(place, task)


def never_ends(place: RunPlace, task: int) -> dict[str, Any]:
    """The slab task; task 1 stays in the middle of its work."""
    if task == 1:
        time.sleep(120)
    return reconstruct_slab(place, task)


def must_not_run(place: RunPlace, task: int) -> dict[str, Any]:
    """No slab task may run."""
    raise AssertionError(f"slab task {task} of {place.folder} ran")


def stays_from_two(place: RunPlace, task: int) -> dict[str, Any]:
    """The slab task; from task 2 on it stays in the middle of its work."""
    if task >= 2:
        time.sleep(120)
    return reconstruct_slab(place, task)


def not_the_first_two(place: RunPlace, task: int) -> dict[str, Any]:
    """The slab task; none of the first two may run."""
    assert task >= 2, f"slab task {task} of {place.folder} ran again"
    return reconstruct_slab(place, task)


def notes_its_gpu(place: RunPlace, task: int) -> dict[str, Any]:
    """The slab task, which writes into the store what GPU it sees, and stays until another one runs beside it."""
    folder = f"{place.folder}/gpus"
    store = open_store(place.store_url)
    seen = {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid()}
    publish_bytes(store, f"{folder}/{task}", json.dumps(seen).encode(), kind="replace")
    if task < 2:
        wait_until("two tasks at once", lambda: len(store.list_folder(folder)) >= 2, timeout_s=60)
    return reconstruct_slab(place, task)


def hangs_first(place: RunPlace, task: int) -> dict[str, Any]:
    """The slab task; the first attempt at task 1 hangs, and leaves a process that ends its work too late.

    Spark kills the attempt once another one is done, but nobody kills that process.
    """
    if task == 1 and _attempt() == 0:
        values = json.dumps([dataclasses.asdict(place), task])
        command = [sys.executable, "-m", "tests.support.late_attempt", values]
        subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        time.sleep(300)
    return reconstruct_slab(place, task)
