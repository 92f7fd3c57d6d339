# SPDX-License-Identifier: Apache-2.0
"""Settings of the HTTP service."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import ClassVar

#: Names under which a browser on the same machine reaches a service bound to loopback.
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where the service listens, and what one answer may cost.

    Attributes
    ----------
    host, port : where it listens; loopback unless told otherwise.
    public_url : the address that clients use, where a proxy stands before it; empty: that of the request.
    allowed_hosts : names that a request's Host header may have; empty: those of loopback if `host` is
        loopback (so that no foreign page reaches it by a name of its own), any otherwise.
    max_results : answers of one search at most; a client pages on with ``offset``.
    max_viewport_px : longest side of a rendered image.
    max_event_streams : clients that may follow events of jobs at once.
    remote_changes : whether jobs may be submitted and steered from other machines; there are no user accounts yet.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    host: str = "127.0.0.1"
    port: int = 8042
    public_url: str = ""
    allowed_hosts: tuple[str, ...] = ()
    max_results: int = 5000
    max_viewport_px: int = 4096
    max_event_streams: int = 64
    remote_changes: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}, expected 0 to 65535")
        if self.max_results < 1:
            raise ValueError(f"max_results is {self.max_results}, expected 1 or more")
        if self.max_viewport_px < 1:
            raise ValueError(f"max_viewport_px is {self.max_viewport_px}, expected 1 or more")
        if self.max_event_streams < 0:
            raise ValueError(f"max_event_streams is {self.max_event_streams}, expected 0 or more")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the service."""
        return _is_loopback(self.host)

    def allows_changes_from(self, client: str) -> bool:
        """Whether a client at this address may change something."""
        return self.remote_changes or self.is_loopback or _is_loopback(client)

    def allows_host(self, host_header: str) -> bool:
        """Whether a request with this Host header is answered."""
        name = host_header.strip().lower()
        # A port follows the last colon, unless that is one within an IPv6 address.
        if ":" in name and not name.endswith("]"):
            name = name.rpartition(":")[0]
        if self.allowed_hosts:
            return "*" in self.allowed_hosts or name in self.allowed_hosts
        return not self.is_loopback or name in LOOPBACK_NAMES or name == self.host


def _is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
