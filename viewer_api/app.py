# SPDX-License-Identifier: Apache-2.0
"""The HTTP service: DICOMweb below ``/dicom-web``, jobs below ``/api``, a page at ``/``, ``/health``, ``/metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from viewer_api.deps import API_PATH, BASE_PATH, Services
from viewer_api.errors import install_error_handlers
from viewer_api.guard import Guard
from viewer_api.job_events import EventStreams
from viewer_api.metrics import Measured, MetricsSources, make_registry
from viewer_api.routes import frames, health, jobs, metadata, metrics, pages, rendered, retrieve, search
from viewer_api.settings import HttpSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.queue import JobQueue
    from pacs.counters import DicomCounts
    from pacs.index import Index
    from pacs.retrieve import InstanceReader


def create_app(
    index: Index,
    reader: InstanceReader,
    settings: HttpSettings | None = None,
    *,
    queue: JobQueue | None = None,
    dicom: Callable[[], DicomCounts] | None = None,
) -> FastAPI:
    """Return the service over an archive.

    Parameters
    ----------
    index : where searches go.
    reader : where bytes come from.
    settings : HttpSettings, optional
        The caller listens at their host and port.
    queue : JobQueue, optional
        Of the routes below ``/api``, which answer 404 without one, and for the metrics.
    dicom : callable, optional
        Counts of the DICOM server beside it, for the metrics.
    """
    chosen = settings or HttpSettings()
    # No generated pages: they load scripts from elsewhere.
    app = FastAPI(title="ConePACS", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.services = Services(index, reader, chosen, queue)
    app.state.event_streams = EventStreams(chosen.max_event_streams)
    app.state.registry, http_metrics = make_registry(MetricsSources(index, reader.store, dicom, queue))
    install_error_handlers(app)
    app.add_middleware(Guard, settings=chosen)
    app.add_middleware(Measured, metrics=http_metrics)
    for resource in (search, retrieve, metadata, frames, rendered):
        app.include_router(resource.router, prefix=BASE_PATH)
    app.include_router(jobs.router, prefix=API_PATH)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(pages.router)
    app.mount("/pages", StaticFiles(directory=pages.PAGES_FOLDER))
    return app
