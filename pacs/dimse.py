# SPDX-License-Identifier: Apache-2.0
"""What the SCP and the SCU set the same way on pynetdicom."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

from pynetdicom import _config

if TYPE_CHECKING:
    from pynetdicom.events import Event

#: Asked of peers for what they send; 16 KiB, pynetdicom's own, costs a third more CPU.
MAX_PDU_BYTES = 128 * 1024
UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
#: Presentation contexts that one association can have (PS3.8 9.3.2.2).
MAX_CONTEXTS = 128


def set_up_pynetdicom() -> None:
    """Process-wide settings of pynetdicom, made by who starts a server or opens an association.

    Its log would hold identifiers and data set values; private and unknown storage classes are taken like known ones.
    """
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


def set_no_delay(event: Event) -> None:
    """Switch Nagle's algorithm off as a connection opens: with it every exchange waits 40 ms."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
