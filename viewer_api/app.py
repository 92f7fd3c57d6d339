# SPDX-License-Identifier: Apache-2.0
"""The HTTP service: DICOMweb below ``/dicom-web``, a small page at ``/``, ``/health``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from viewer_api.deps import BASE_PATH, Services
from viewer_api.errors import install_error_handlers
from viewer_api.guard import Guard
from viewer_api.routes import frames, health, metadata, pages, rendered, retrieve, search
from viewer_api.settings import HttpSettings

if TYPE_CHECKING:
    from pacs.index import Index
    from pacs.retrieve import InstanceReader


def create_app(index: Index, reader: InstanceReader, settings: HttpSettings | None = None) -> FastAPI:
    """Return the service over an archive.

    Parameters
    ----------
    index : where searches go.
    reader : where bytes come from.
    settings : HttpSettings, optional
        The caller listens at their host and port.
    """
    chosen = settings or HttpSettings()
    # No generated pages: they load scripts from elsewhere.
    app = FastAPI(title="ConePACS", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.services = Services(index, reader, chosen)
    install_error_handlers(app)
    app.add_middleware(Guard, settings=chosen)
    for resource in (search, retrieve, metadata, frames, rendered):
        app.include_router(resource.router, prefix=BASE_PATH)
    app.include_router(health.router)
    app.include_router(pages.router)
    app.mount("/pages", StaticFiles(directory=pages.PAGES_FOLDER))
    return app
