# SPDX-License-Identifier: Apache-2.0
"""What every answer carries and every request must have, so that a browser keeps foreign pages away."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

from viewer_api.errors import error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from viewer_api.settings import HttpSettings

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


#: Methods that change nothing.
_READING = ("GET", "HEAD", "OPTIONS")


class Guard:
    """ASGI middleware: refuses foreign host names (DNS rebinding) and changes that a page of another site asks for.

    Adds the security headers to every answer.
    """

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        if not self._settings.allows_host(headers.get("host", "")):
            refusal = error_response(400, "This service is not known by the host name of the request.")
            await refusal(scope, receive, send_guarded)
            return
        if scope["method"] not in _READING and not self._is_own_page(headers):
            refusal = error_response(403, "Pages of other sites change nothing here.")
            await refusal(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)

    def _is_own_page(self, headers: Headers) -> bool:
        """Whether a request comes from a page of this service, or from no page at all.

        Browsers name the page's site with every request that changes something; other programs do not.
        """
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return False
        origin = headers.get("origin")
        if origin is None:
            return True
        own = {urlsplit(self._settings.public_url).netloc, headers.get("host", "")} - {""}
        return urlsplit(origin).netloc in own
