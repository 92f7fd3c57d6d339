# SPDX-License-Identifier: Apache-2.0
"""Messages of several parts (RFC 2387, PS3.18 8.6), written as a stream that holds one part at a time."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from fastapi.responses import StreamingResponse

from viewer_api.media_types import MULTIPART

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its Content-Type, where it came from, and its bytes in pieces."""

    content_type: str
    location: str
    pieces: Iterable[bytes]


def multipart_response(
    parts: Iterable[Part], media_type: str, headers: Mapping[str, str] | None = None
) -> StreamingResponse:  # fmt: skip
    """Stream parts as multipart/related.

    The first bytes are made before the answer begins, so that an error in them still gets its status; one that comes
    later breaks the connection off, and the client sees a message without an end.
    """
    boundary = uuid.uuid4().hex
    body = begun(_message(parts, boundary))
    content_type = f'{MULTIPART}; type="{media_type}"; boundary={boundary}'
    return StreamingResponse(body, headers=dict(headers or {}), media_type=content_type)


def begun(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces, the first one made already."""
    first = next(pieces, b"")
    return chain((first,), pieces)


def _message(parts: Iterable[Part], boundary: str) -> Iterator[bytes]:
    """The body of the message."""
    line_end = b""
    for part in parts:
        lead = f"--{boundary}\r\nContent-Type: {part.content_type}\r\nContent-Location: {part.location}\r\n\r\n"
        pieces = iter(part.pieces)
        yield line_end + lead.encode("ascii") + next(pieces, b"")
        yield from pieces
        line_end = b"\r\n"
    yield line_end + f"--{boundary}--\r\n".encode("ascii")
