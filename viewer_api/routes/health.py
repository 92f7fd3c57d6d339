# SPDX-License-Identifier: Apache-2.0
"""Whether the service and its index answer."""

from importlib.metadata import version

from fastapi import APIRouter

from pacs.index import Query
from viewer_api.deps import ServicesDep
from viewer_api.models import Health

router = APIRouter()


@router.get("/health")
def health(services: ServicesDep) -> Health:
    """Ask the index for one study; 503 if it does not answer."""
    services.index.find(Query(level="STUDY"), limit=1)
    return Health(status="ok", version=version("conepacs"))
