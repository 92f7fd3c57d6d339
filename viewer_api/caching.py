# SPDX-License-Identifier: Apache-2.0
"""What a client may keep: an instance does not change under its UID."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from fastapi.responses import Response

if TYPE_CHECKING:
    from fastapi import Request

    from pacs.index import InstanceRecord

#: Private: what a shared cache keeps, others could read.
_KEPT = "private, max-age=31536000, immutable"


def cache_headers(record: InstanceRecord, *form: object) -> dict[str, str]:
    """Headers of an answer that follows from an instance's bytes and the form in which it is sent."""
    text = "|".join([record.location.sha256, *(str(part) for part in form)])
    tag = hashlib.sha256(text.encode()).hexdigest()[:32]
    return {"ETag": f'"{tag}"', "Cache-Control": _KEPT, "Vary": "Accept"}


def not_modified(request: Request, headers: dict[str, str]) -> Response | None:
    """The answer to a client that has the same bytes already (RFC 9110 13.1.2), else None."""
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if headers["ETag"] in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return None
