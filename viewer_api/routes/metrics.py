# SPDX-License-Identifier: Apache-2.0
"""What Prometheus scrapes."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry  # noqa: TC002 - the file is read by FastAPI at run time
from prometheus_client.exposition import choose_encoder

router = APIRouter()


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """All metrics of this app, in the text format that the client accepts."""
    registry: CollectorRegistry = request.app.state.registry
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), headers={"Content-Type": content_type, "Cache-Control": "no-store"})
