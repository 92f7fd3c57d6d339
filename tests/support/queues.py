# SPDX-License-Identifier: Apache-2.0
"""Queues for tests: kinds without work, a clock that is set, and the databases they run on."""

from __future__ import annotations

import datetime
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.kinds import JobKind, kinds_by_name
from jobs.queue import JobQueue, open_queue
from jobs.records import NewJob, Resources
from tests.support.postgres import new_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

START = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
MANY = Resources(1000, 1 << 50, 1000)


@dataclass(frozen=True, slots=True)
class WorkParameters:
    """Parameters of the kinds ``work`` and ``other``."""

    number: int = 0
    cores: int = 1
    gpus: int = 0


def needs(parameters: WorkParameters) -> Resources:
    return Resources(parameters.cores, 0, parameters.gpus)


def run_work(_context: Any, parameters: WorkParameters) -> dict[str, Any]:
    return {"number": parameters.number}


KINDS = kinds_by_name(
    JobKind(name, f"{name}, for tests", WorkParameters, needs, "tests.support.queues:run_work")
    for name in ("work", "other")
)


@dataclass
class SetClock:
    """A clock that goes only when it is told to."""

    time: datetime.datetime = START

    def __call__(self) -> datetime.datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += datetime.timedelta(seconds=seconds)


@contextmanager
def database_url(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """URL of a new database, ``sqlite`` or ``postgresql``."""
    if kind == "sqlite":
        yield str(folder / "queue.sqlite")
    else:
        with new_database(request.getfixturevalue("postgresql_url")) as url:
            yield url


@contextmanager
def timed_queue(url: str, clock: SetClock, **options: Any) -> Iterator[JobQueue]:
    """A queue on that clock."""
    with open_queue(url, KINDS) as opened:
        yield JobQueue(opened.engine, KINDS, now=clock, **options)


def work(number: int = 0, *, kind: str = "work", cores: int = 1, **options: Any) -> NewJob:
    """A job of a test's kind."""
    return NewJob(kind, {"number": number, "cores": cores}, **options)


def claimed(queue: JobQueue, runner: str = "r1", *, free: Resources = MANY, lease_s: float = 60.0) -> int | None:
    """Number of the job that the runner gets next."""
    job = queue.claim(runner, kinds=["work", "other"], free=free, lease_s=lease_s)
    return job.job_id if job else None
