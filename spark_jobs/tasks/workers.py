# SPDX-License-Identifier: Apache-2.0
"""How tasks run in Spark's Python workers: a task number in, a small JSON result out; pixels go through the store.

Every task (`prepare_task`, `filter_task`, `slab_task`) can run any number of times: what it publishes is the same
bytes, and a slab's pack carries the attempt in its name.  Errors that no retry would cure come back as results, so that
the job ends at once with one sentence.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ingest.chunks import open_scan_chunks
from ingest.errors import IngestError
from pacs.errors import PacsError
from reconstruction.errors import ReconstructionError
from spark_jobs.errors import SparkJobError
from spark_jobs.planning.plan import plan_from_bytes
from spark_jobs.tasks.memory import PeakMemory
from spark_jobs.tasks.publish_slots import publish_slot
from spark_jobs.tasks.worker_environment import prepare_worker
from storage.counted_store import count_store
from storage.filesystem import open_store
from storage.retrying import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from ingest.chunks import StoredScan
    from spark_jobs.planning.plan import ReconstructionPlan
    from storage.counted_store import CountedStore
    from storage.filesystem import Store

RESULT_SCHEMA = pa.schema([("task", pa.int64()), ("result", pa.string())])
_HOPELESS = (IngestError, PacsError, ReconstructionError, SparkJobError)


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a task finds its run: all that Spark carries.

    Attributes
    ----------
    store_url : the store.
    folder : of the run, shared by all its submits: what lies there is the same bytes whoever writes it.
    threads : of one task.
    submit : folder of one submit, with its plan (another may ask for other bins, or have other memory); "" for the
        run's own.
    records : where finished slabs are recorded (`spark_jobs.tasks.checkpoints`); "" keeps no records.
    bands : how the folders of filtered rows begin; "" for ``bands`` in the folder of the submit.
    publishers : tasks of a node that publish at the same time; 0 for all.
    """

    store_url: str
    folder: str
    threads: int
    submit: str = ""
    records: str = ""
    bands: str = ""
    publishers: int = 0

    @property
    def submit_folder(self) -> str:
        """Where the plan of this submit lies."""
        return self.submit or self.folder

    @property
    def bands_stem(self) -> str:
        """How the folders of filtered rows begin."""
        return self.bands or f"{self.submit_folder}/bands"

    @property
    def own_folder(self) -> str:
        """Folder of what is deleted once the series are registered: the run's, or the submit's that shares nothing."""
        return self.bands_stem.rpartition("/")[0]


@dataclass(slots=True)
class OpenRun:
    """A run as a task sees it, or its driver, which counts nothing."""

    store: Store
    plan: ReconstructionPlan
    stored: StoredScan
    place: RunPlace
    counted: CountedStore | None = None

    def publishing(self) -> AbstractContextManager[float]:
        """Hold one of the node's slots for publishing; gives the seconds waited."""
        return publish_slot(self.store.url, self.place.publishers)

    def store_counts(self) -> dict[str, Any]:
        """What this task read from the store and wrote to it so far, as ``store`` in its result."""
        return {"store": asdict(self.counted.counts)} if self.counted is not None else {}


def open_run(place: RunPlace) -> OpenRun:
    """Open a run from where it lies, by a store that counts; SparkJobError if the scan is another one by now."""
    store, counted = count_store(open_store(place.store_url, first_contact_s=PATIENCE_S))
    path = f"{place.submit_folder}/plan.json"
    plan = plan_from_bytes(store.read_bytes(path), path)
    stored = open_scan_chunks(store, plan.request.scan_id)
    if stored.manifest_sha256 != plan.scan_sha256:
        raise SparkJobError(
            f"scan {plan.request.scan_id} is not the one that {place.folder} was planned for: submit the job again"
        )
    return OpenRun(store, plan, stored, place, counted)


def task_results(
    batches: Iterator[pa.RecordBatch],
    place: RunPlace,
    work: Callable[[RunPlace, int], dict[str, Any]],
    tasks: tuple[int, ...] = (),
) -> Iterator[pa.RecordBatch]:
    """Run `work` on each number of the batches (column ``id``) and yield results as `RESULT_SCHEMA`.

    A number counts within `tasks`, the task numbers of a stage that has not all of them to do; empty for all.  A result
    is JSON with ``wall_s``, ``cpu_s`` and ``peak_bytes`` added, or with ``error`` alone.
    """
    prepare_worker(place.threads)
    for batch in batches:
        for number in batch.column("id").to_pylist():
            task = tasks[number] if tasks else number
            result = measured(place, task, work)
            yield pa.RecordBatch.from_pydict({"task": [task], "result": [json.dumps(result)]}, schema=RESULT_SCHEMA)


def measured(place: RunPlace, task: int, work: Callable[[RunPlace, int], dict[str, Any]]) -> dict[str, Any]:
    """Run one task and measure it."""
    try:
        return with_figures(lambda: work(place, task))
    except _HOPELESS as error:
        return {"error": str(error)}


def with_figures(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do some work and add its wall and CPU seconds and its peak of memory to what it returns.

    Figures that are there stay: they are those of an attempt that was finished earlier.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    with PeakMemory() as memory:
        result = work()
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    figures = {"wall_s": wall_s, "cpu_s": cpu_s, "peak_bytes": memory.peak_bytes}
    return figures | _whereabouts() | result


def _whereabouts() -> dict[str, Any]:
    """Which executor this is, by its host and the parent process of its Python workers, and which try of the task."""
    from pyspark import TaskContext

    context = TaskContext.get()
    attempt = context.attemptNumber() if context is not None else 0
    return {"executor": f"{socket.gethostname()}/{os.getppid()}", "attempt": attempt}
