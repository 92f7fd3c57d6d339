# SPDX-License-Identifier: Apache-2.0
"""What the lines of a log belong to: scan, job, run and worker, set once around the work that they tell of.

::

    with log_context(scan_id="stone-17", job_id=4):
        ...  # every line logged in here, by whatever module, carries both
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

#: All that a line can carry, in the order in which it is written.
LOG_IDS = ("scan_id", "job_id", "run", "worker", "task")

_ids: ContextVar[Mapping[str, str | int]] = ContextVar("conepacs_log_ids", default=MappingProxyType({}))


@contextmanager
def log_context(
    *,
    scan_id: str | None = None,
    job_id: int | None = None,
    run: str | None = None,
    worker: str | None = None,
    task: int | None = None,
) -> Iterator[None]:
    """Let every line that is logged within carry these ids, besides those of the contexts around it.

    It holds for this thread and for what it awaits; `in_log_context` takes it over to another thread.

    Parameters
    ----------
    scan_id : name of a scan in the store; never a name of a patient.
    job_id : number in the queue.
    run : name of a run.
    worker : who works: host and process.
    task : number of a task in its stage.
    """
    given = {"scan_id": scan_id, "job_id": job_id, "run": run, "worker": worker, "task": task}
    known: dict[str, str | int] = {name: value for name, value in given.items() if value is not None}
    token = _ids.set(MappingProxyType({**_ids.get(), **known}))
    try:
        yield
    finally:
        _ids.reset(token)


def current_log_ids() -> dict[str, str | int]:
    """Ids of the contexts around the caller, in the order of `LOG_IDS`."""
    ids = _ids.get()
    return {name: ids[name] for name in LOG_IDS if name in ids}


def in_log_context(work: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Return `work` bound to the ids of here and now, to be run by another thread."""
    ids = _ids.get()

    @functools.wraps(work)
    def bound(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        token = _ids.set(ids)
        try:
            return work(*arguments, **named)
        finally:
            _ids.reset(token)

    return bound
