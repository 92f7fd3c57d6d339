# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told of this program: its requests as they come, everything else asked for at each scrape.

Each app has a registry of its own.  Labels have few values, known beforehand: no paths, no scans, no peers, no users.
"""

from __future__ import annotations

import datetime
import logging
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

from storage.free_space import free_bytes
from viewer_api.slow_value import SlowValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.core import Metric
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from jobs.queue import JobQueue
    from jobs.records import JobState
    from pacs.counters import DicomCounts
    from pacs.index import Index
    from storage.filesystem import Store

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: Rows are counted one by one: not at every scrape.
_SIZES_KEPT_S = 60.0
_STORE_KEPT_S = 15.0
_QUEUE_KEPT_S = 5.0
_PATIENCE_S = 3.0
_CLOCK_GRACE_S = 5.0
_MOST_RUNNING = 1000
_RUNNING: tuple[JobState, ...] = ("running",)
_access_log = logging.getLogger("viewer_api.access")


@dataclass(frozen=True, slots=True)
class JobCounts:
    """The queue of jobs at one moment.

    Attributes
    ----------
    jobs : by kind and state
    oldest_waiting_s : for how long the oldest job waits that lacks only a runner [s]; 0 if none does
    runners : those that hold a job by a lease that has not run out
    overdue : running jobs whose lease ran out: their runner fell silent, and no other has taken them yet
    """

    jobs: Mapping[tuple[str, JobState], int]
    oldest_waiting_s: float
    runners: int
    overdue: int


@dataclass(frozen=True, slots=True)
class MetricsSources:
    """What is asked at a scrape; None for what this program does not have.

    Attributes
    ----------
    index, store : of the archive
    dicom : counts of the DICOM server
    queue : of jobs
    """

    index: Index
    store: Store
    dicom: Callable[[], DicomCounts] | None = None
    queue: JobQueue | None = None


def count_jobs(queue: JobQueue) -> JobCounts:
    """Ask the queue how it stands.

    Raises
    ------
    DatabaseError
        If it does not answer.
    """
    running = queue.list(states=_RUNNING, limit=_MOST_RUNNING)
    # A few seconds of grace: a runner that renews in time is never overdue, whatever the clocks say.
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=_CLOCK_GRACE_S)
    held = [job for job in running if job.lease_until is not None and job.lease_until >= now]
    return JobCounts(
        queue.counts(), queue.oldest_waiting_s(), len({job.runner for job in held}), len(running) - len(held)
    )


class HttpMetrics:
    """Counts of HTTP requests, by route as it is written in the code."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "conepacs_http_requests", "HTTP requests answered.", ("method", "route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "conepacs_http_request_duration_seconds",
            "Time from a request's head to the last byte of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_progress = Gauge(
            "conepacs_http_requests_in_progress", "HTTP requests that are being answered.", registry=registry
        )


def make_registry(sources: MetricsSources) -> tuple[CollectorRegistry, HttpMetrics]:
    """Make the registry of one app, and the counts that `Measured` keeps in it."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    about = Gauge("conepacs_build_info", "Version of the program, always 1.", ("version",), registry=registry)
    about.labels(version("conepacs")).set(1)
    http = HttpMetrics(registry)
    registry.register(_Archive(sources))
    if sources.dicom is not None:
        registry.register(_Dicom(sources.dicom))
    if sources.queue is not None:
        registry.register(_Jobs(sources.queue))
    return registry, http


class Measured:
    """ASGI middleware: counts, times and logs requests by their route; never by path or query string."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and measure it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            with self._metrics.in_progress.track_inprogress():
                await self._app(scope, receive, send_counted)
        finally:
            seconds = time.perf_counter() - started
            route = _route(scope)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            _access_log.info("%s %s %d in %.0f ms", method, route, status, seconds * 1000)


def _route(scope: Scope) -> str:
    """The route that took a request, as the code writes it: ``/studies/{study_uid}``."""
    route = scope.get("route")
    if route is not None:
        template = str(route.path)
        if ":path}" in template:
            return template
        # The template may lack the prefix under which its router was included: as many parts as the path has more.
        parts = str(scope["path"]).split("/")
        return "/".join(parts[: len(parts) - template.count("/")]) + template
    return "/pages" if str(scope["path"]).startswith("/pages/") else "none"


class _Archive:
    """Index and store: whether they answer, how much they hold."""

    def __init__(self, sources: MetricsSources) -> None:
        store = sources.store
        self._sizes = SlowValue("index", sources.index.sizes, keep_s=_SIZES_KEPT_S, patience_s=_PATIENCE_S)
        self._listed = SlowValue("store", lambda: store.list_folder(""), keep_s=_STORE_KEPT_S, patience_s=_PATIENCE_S)
        self._free = SlowValue("disk", lambda: free_bytes(store), keep_s=_STORE_KEPT_S, patience_s=_PATIENCE_S)

    def describe(self) -> list[Metric]:
        """Say nothing beforehand, so that registering asks nobody."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        sizes, free = self._sizes.get(), self._free.get()
        yield GaugeMetricFamily("conepacs_index_up", "Whether the index answers.", float(sizes is not None))
        up = self._listed.get() is not None
        yield GaugeMetricFamily("conepacs_store_up", "Whether the store answers.", float(up))
        entities = GaugeMetricFamily("conepacs_index_entities", "Entities in the index by level.", labels=["level"])
        for level, count in (sizes or {}).items():
            entities.add_metric([level.lower()], count)
        yield entities
        if free is not None:
            yield GaugeMetricFamily("conepacs_store_free_bytes", "Room left on the disk of a local store.", free)


class _Dicom:
    """The DICOM server."""

    def __init__(self, read: Callable[[], DicomCounts]) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        """Say nothing beforehand."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the counts of this moment."""
        counts = self._read()
        yield CounterMetricFamily(
            "conepacs_dicom_associations", "DICOM associations accepted.", float(counts.associations)
        )
        yield CounterMetricFamily(
            "conepacs_dicom_associations_rejected", "DICOM associations rejected.", float(counts.rejected)
        )
        yield GaugeMetricFamily(
            "conepacs_dicom_associations_open", "DICOM associations that are open.", counts.open_associations
        )
        operations = CounterMetricFamily(
            "conepacs_dicom_operations", "DIMSE requests answered.", labels=["service", "outcome"]
        )
        for (service, outcome), count in counts.operations.items():
            operations.add_metric([service, outcome], count)
        yield operations
        seconds = SummaryMetricFamily(
            "conepacs_dicom_operation_duration_seconds", "Time that DIMSE requests took.", labels=["service"]
        )
        for service, spent in counts.seconds.items():
            total = sum(count for (one, _), count in counts.operations.items() if one == service)
            seconds.add_metric([service], total, spent)
        yield seconds
        yield CounterMetricFamily(
            "conepacs_dicom_received_bytes", "Data sets received by C-STORE and kept.", float(counts.received_bytes)
        )
        yield CounterMetricFamily(
            "conepacs_dicom_sent_bytes", "Instances read for C-GET and C-MOVE.", float(counts.sent_bytes)
        )


class _Jobs:
    """The queue of jobs."""

    def __init__(self, queue: JobQueue) -> None:
        self._counts = SlowValue("queue", lambda: count_jobs(queue), keep_s=_QUEUE_KEPT_S, patience_s=_PATIENCE_S)

    def describe(self) -> list[Metric]:
        """Say nothing beforehand."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        counts = self._counts.get()
        yield GaugeMetricFamily("conepacs_queue_up", "Whether the queue answers.", float(counts is not None))
        if counts is None:
            return
        jobs = GaugeMetricFamily("conepacs_jobs", "Jobs in the queue.", labels=["kind", "state"])
        for (kind, state), count in counts.jobs.items():
            jobs.add_metric([kind, state], count)
        yield jobs
        yield GaugeMetricFamily(
            "conepacs_jobs_oldest_waiting_seconds",
            "For how long the oldest job waits that lacks only a runner.",
            counts.oldest_waiting_s,
        )
        yield GaugeMetricFamily(
            "conepacs_jobs_lease_overdue",
            "Running jobs whose runner fell silent, and that no other has taken yet.",
            counts.overdue,
        )
        yield GaugeMetricFamily(
            "conepacs_runners_working", "Runners that hold a job by a lease that has not run out.", counts.runners
        )
