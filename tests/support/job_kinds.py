# SPDX-License-Identifier: Apache-2.0
"""Kinds of jobs for tests: cheap, without Spark; each leaves a file for every start and one for its end."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.errors import IncompleteScanError
from jobs.kinds import JobKind, kinds_by_name
from jobs.queue import open_queue
from jobs.records import NewJob, Resources
from spark_jobs.errors import JobStoppedError
from spark_jobs.running.runner import Runner
from spark_jobs.running.runner_settings import RunnerSettings
from storage.filesystem import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.queue import JobQueue
    from jobs.records import Job
    from spark_jobs.running.job_context import JobContext

QUICK = {"lease_s": 30.0, "poll_s": 0.05, "grace_s": 0.5, "cores": 4, "memory_gib": 1.0}


@dataclass(frozen=True)
class NapParameters:
    """A nap that ends early when it is told to stop.

    Attributes
    ----------
    folder : where its files go
    seconds : how long
    failures : how many first attempts fail: of the machine
    hopeless : whether it fails for ever: of the input
    deaf : whether it goes on when it is told to stop
    cores : that it asks for
    """

    folder: str
    seconds: float = 0.0
    failures: int = 0
    hopeless: bool = False
    deaf: bool = False
    cores: int = 1


def nap(context: JobContext, parameters: NapParameters) -> dict[str, Any]:
    """Sleep in small steps and write files."""
    job, folder = context.job, Path(parameters.folder)
    (folder / f"begun-{job.job_id}-{job.attempt}").write_text(str(os.getpid()))
    context.log("info", "good night")
    until = time.monotonic() + parameters.seconds
    while time.monotonic() < until:
        if context.should_stop() and not parameters.deaf:
            (folder / f"stopped-{job.job_id}-{job.attempt}").touch()
            raise JobStoppedError(f"job {job.job_id} was told to stop")
        time.sleep(0.02)
    if job.attempt <= parameters.failures:
        raise OSError("a disk is gone for a moment")
    if parameters.hopeless:
        raise IncompleteScanError("scan nowhere is not in the store")
    context.progress("nap", 1, 1)
    (folder / f"ended-{job.job_id}-{job.attempt}").touch()
    return {"slept": parameters.seconds}


def nap_resources(parameters: NapParameters) -> Resources:
    return Resources(cores=parameters.cores)


KINDS = kinds_by_name([JobKind("nap", "Sleep", NapParameters, nap_resources, "tests.support.job_kinds:nap")])


@contextmanager
def nap_queue(folder: Path) -> Iterator[JobQueue]:
    """A queue of naps in a SQLite file of this folder."""
    with open_queue(str(folder / "index.sqlite"), KINDS) as queue:
        yield queue


def submit_nap(queue: JobQueue, folder: Path, *, priority: int = 0, after: tuple[int, ...] = (), **parameters) -> Job:
    """Submit a nap that writes its files into this folder."""
    return queue.submit(NewJob("nap", {"folder": str(folder), **parameters}, "anna", priority, after))


def nap_runner(queue: JobQueue, folder: Path, name: str = "", **settings) -> Runner:
    """A runner of naps, which needs no Spark and no index."""

    def no_spark():
        raise AssertionError("a nap needs no Spark")

    return Runner(
        queue, RunnerSettings(**(QUICK | settings)), KINDS, open_store(folder.as_uri()), None,
        start_session=no_spark, name=name,
    )  # fmt: skip
