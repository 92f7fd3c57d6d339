# SPDX-License-Identifier: Apache-2.0
"""What the routes work with, passed on from `create_app` by FastAPI's dependencies."""

# FastAPI reads these annotations at run time: no postponed evaluation here and in the routes.
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request

from jobs.queue import JobQueue
from pacs.index import Index
from pacs.retrieve import InstanceReader
from viewer_api.media_types import MediaRange, parse_accept
from viewer_api.settings import LOOPBACK_NAMES, HttpSettings

#: Where DICOMweb begins, and where the queue of jobs does.
BASE_PATH = "/dicom-web"
API_PATH = "/api"


@dataclass(frozen=True, slots=True)
class Services:
    """The archive behind the routes: what there is, its bytes, the settings, and the queue of jobs if there is one."""

    index: Index
    reader: InstanceReader
    settings: HttpSettings
    queue: JobQueue | None = None


def services_of(request: Request) -> Services:
    """Services of the app that the request came to."""
    services: Services = request.app.state.services
    return services


def accepted(request: Request) -> list[MediaRange]:
    """What the client accepts: the query parameter ``accept`` (PS3.18 8.3.3.1), else the header."""
    texts = request.query_params.getlist("accept") or request.headers.getlist("accept")
    return parse_accept(",".join(texts))


def dicomweb_url(request: Request) -> str:
    """Address of the DICOMweb service as the client sees it, without a slash at the end."""
    public = services_of(request).settings.public_url
    if not public:
        url = request.base_url
        port = (request.scope.get("server") or (None, None))[1]
        # Some clients send a Host header without the port; on loopback no proxy is known to have taken it off.
        if url.port is None and port is not None and f"{url.hostname}" in LOOPBACK_NAMES:
            url = url.replace(port=port)
        public = str(url)
    return public.rstrip("/") + BASE_PATH


ServicesDep = Annotated[Services, Depends(services_of)]
AcceptedDep = Annotated[list[MediaRange], Depends(accepted)]
DicomWebUrlDep = Annotated[str, Depends(dicomweb_url)]
Uid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]
