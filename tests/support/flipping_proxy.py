# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy on loopback that damages one byte of what a client sends."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class FlippingProxy:
    """Passes connections on to `target` (``host:port``); bytes number `flips` of the first ones get a bit flipped.

    One entry of `flips` is used up by each connection; later ones pass unharmed.
    """

    def __init__(self, target: str, flips: list[int]) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._flips = flips
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.n_connections = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> FlippingProxy:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.n_connections += 1
            server = socket.create_connection(self._target)
            flip = self._flips.pop(0) if self._flips else -1
            for source, sink, at in ((client, server, flip), (server, client, -1)):
                self._threads.append(threading.Thread(target=_pass_on, args=(source, sink, at), daemon=True))
                self._threads[-1].start()


def _pass_on(source: socket.socket, sink: socket.socket, flip: int) -> None:
    """Copy one direction until it ends."""
    seen = 0
    with source:
        try:
            while piece := source.recv(65_536):
                if seen <= flip < seen + len(piece):
                    damaged = bytearray(piece)
                    damaged[flip - seen] ^= 0x10
                    piece = bytes(damaged)
                seen += len(piece)
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return
