# SPDX-License-Identifier: Apache-2.0
"""A socket that refuses PDUs longer than agreed: pynetdicom would collect 4 GiB in memory before it looks at them."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Any

_HEADER = struct.Struct(">BxL")


class GuardedSocket:
    """Passes everything on to a connected socket, and follows the PDU headers (PS3.8 9.3.1) in what is received.

    Parameters
    ----------
    connection : socket
    max_pdu_bytes : int
        A PDU that announces more ends the connection.
    """

    def __init__(self, connection: socket.socket, max_pdu_bytes: int) -> None:
        self._connection = connection
        self._max_pdu_bytes = max_pdu_bytes
        self._header = b""
        self._n_left = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def recv(self, n_bytes: int) -> bytes:
        """Receive like a socket.

        Raises
        ------
        ConnectionAbortedError
            If a PDU is too long; the connection is shut down then.
        """
        received = self._connection.recv(n_bytes)
        if len(received) <= self._n_left:
            self._n_left -= len(received)
        else:
            self._follow(received)
        return received

    def _follow(self, received: bytes) -> None:
        """Step through what was received, from one header to the next."""
        at = 0
        while at < len(received):
            step = min(self._n_left, len(received) - at)
            self._n_left -= step
            at += step
            if self._n_left or at == len(received):
                return
            missing = _HEADER.size - len(self._header)
            self._header += received[at : at + missing]
            at += missing
            if len(self._header) == _HEADER.size:
                self._n_left = _HEADER.unpack(self._header)[1]
                self._header = b""
                self._check()

    def _check(self) -> None:
        """End the connection if the PDU that begins is too long."""
        if self._n_left > self._max_pdu_bytes:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError(f"PDU of {self._n_left} bytes, expected at most {self._max_pdu_bytes}")
