# SPDX-License-Identifier: Apache-2.0
"""Runs the HTTP service: in the foreground, or on a thread beside other work."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from types import TracebackType

    from fastapi import FastAPI

    from viewer_api.settings import HttpSettings

_START_TIMEOUT_S = 30.0


class HttpServer:
    """An application on one address; as a context manager it serves on a thread.

    Parameters
    ----------
    app : FastAPI
    settings : HttpSettings
        Port 0 takes a free one; `port` says which.

    Raises
    ------
    OSError
        If the address is taken or not this machine's.
    """

    def __init__(self, app: FastAPI, settings: HttpSettings) -> None:
        self._app = app
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((settings.host, settings.port))
        except OSError:
            self._socket.close()
            raise
        self.port = int(self._socket.getsockname()[1])
        self._server = uvicorn.Server(
            # Its own access log would hold query strings; `viewer_api.metrics` logs the routes.
            uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
        )
        self._thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        """Serve until interrupted or stopped."""
        self._server.run(sockets=[self._socket])

    def __enter__(self) -> HttpServer:
        self._thread.start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise OSError(f"the HTTP service did not start on port {self.port}")
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Streams of events have no end of their own, and the server waits for what is open.
        self._app.state.event_streams.stopping.set()
        self._server.should_exit = True
        self._thread.join(_START_TIMEOUT_S)
        self._socket.close()
