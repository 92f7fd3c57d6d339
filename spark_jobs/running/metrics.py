# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told of a runner: its jobs, and the work that Spark did for them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from spark_jobs.errors import RunnerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from spark_jobs.running.held_job import Verdict

_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
#: Labels of the ends of jobs.
_RESULTS: dict[Verdict, str] = {
    "finish": "done", "fail": "failed", "again": "retried", "cancelled": "cancelled", "release": "released",
    "nothing": "lost",
}  # fmt: skip


def run_figures(report: Mapping[str, Any]) -> dict[str, float]:
    """Pick from the report of a run what metrics and job results tell of it; empty where nothing was computed.

    Returns
    -------
    dict
        ``tasks`` and ``task_s`` [s] of the slabs that were computed, ``failed_tasks`` of all stages, ``gups`` of the
        stage [1e9 voxel updates/s], ``updates``, ``read_bytes`` and ``written_bytes`` [B].
    """
    if not report:
        return {}
    computed = [task for task in report["tasks"] if not task.get("reused", False)]
    stage_s = report["seconds"].get("stage reconstruct", 0.0)
    return {
        "tasks": len(computed),
        "task_s": round(sum(task["wall_s"] for task in computed), 3),
        "failed_tasks": report.get("spark", {}).get("failed_tasks", 0),
        "gups": report["gups"]["stage"],
        "updates": report["gups"]["stage"] * 1e9 * stage_s,
        "read_bytes": report["bytes"]["read_by_tasks"],
        "written_bytes": report["bytes"]["bands_written"] + report["bytes"]["packs_written"],
    }


class RunnerMetrics:
    """Counts of one runner, in a registry of its own; its methods may be called by several threads."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"conepacs_runner_{name}", text, labels, registry=registry)

        self._running = Gauge("conepacs_runner_jobs_running", "Jobs that this runner has.", registry=registry)
        self._jobs = counter("jobs", "Jobs whose attempt ended here.", ("kind", "result"))
        self._seconds = Histogram(
            "conepacs_runner_job_duration_seconds", "Time from a job's claim to its end here.", ("kind",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._lost = counter("leases_lost", "Jobs that went to another runner because this one was silent.")
        self._tasks = counter("tasks", "Slab tasks computed.")
        self._task_seconds = counter("task_seconds", "Time that slab tasks took.")
        self._failed_tasks = counter("task_failures", "Attempts of Spark tasks that failed.")
        self._updates = counter("voxel_updates", "Voxel updates computed.")
        self._read = counter("read_bytes", "Bytes that tasks read from the store.")
        self._written = counter("written_bytes", "Bytes of bands and packs that tasks wrote to the store.")
        self._rate = Gauge(
            "conepacs_runner_voxel_updates_per_second", "Voxel updates a second of the last run.", registry=registry
        )

    def job_started(self) -> None:
        """A job was claimed."""
        self._running.inc()

    def job_ended(self, kind: str, end: Verdict, seconds: float, result: Mapping[str, Any]) -> None:
        """A job's attempt is over.

        Parameters
        ----------
        kind : a registered kind
        end : what was written down of it
        seconds : since its claim [s]
        result : what the job gave; with `run_figures` under ``figures`` if it computed
        """
        self._running.dec()
        self._jobs.labels(kind, _RESULTS[end]).inc()
        self._seconds.labels(kind).observe(seconds)
        if end == "nothing":
            self._lost.inc()
        figures = result.get("figures") or {}
        if figures:
            self._tasks.inc(figures["tasks"])
            self._task_seconds.inc(figures["task_s"])
            self._failed_tasks.inc(figures["failed_tasks"])
            self._updates.inc(figures["updates"])
            self._read.inc(figures["read_bytes"])
            self._written.inc(figures["written_bytes"])
            self._rate.set(figures["gups"] * 1e9)

    @contextmanager
    def served(self, port: int, host: str = "127.0.0.1") -> Iterator[int]:
        """Answer Prometheus on a port meanwhile; yields the port, a free one for 0.

        Raises
        ------
        RunnerError
            If the address is taken, or not this machine's.
        """
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise RunnerError(f"metrics cannot listen on {host} port {port}: {error.strerror}") from error
        try:
            yield int(server.server_port)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
