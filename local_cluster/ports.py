# SPDX-License-Identifier: Apache-2.0
"""Which ports the daemons listen on: free ones, or a fixed layout above a base."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from local_cluster.errors import ClusterOptionsError

#: Ports that a daemon of each kind listens on.
PORTS_OF_KIND: dict[str, tuple[str, ...]] = {
    "namenode": ("rpc", "http"),
    "master": ("rpc", "http"),
    "resourcemanager": ("rpc", "http", "scheduler", "tracker", "admin"),
    "datanode": ("data", "http", "ipc"),
    "worker": ("rpc", "http"),
    "nodemanager": ("rpc", "http", "localizer"),
}
_FIRST_OFFSET = {
    "namenode": 0, "master": 2, "resourcemanager": 4, "nodemanager": 10, "datanode": 20, "worker": 200,
}  # fmt: skip
#: Ports above the base that the layout uses.
PORT_SPAN = 400
_LOWEST = 15_000
_DEFAULT_RANGE = (32_768, 60_999)


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Different ports of `host` that are free at this moment.

    They lie below those that the system hands out for outgoing connections: none of these takes the place of a daemon
    that is restarted.

    Raises
    ------
    ClusterOptionsError
        If `host` is no address of this machine.
    """
    lowest, highest = _listening_range()
    found: list[int] = []
    for port in random.sample(range(lowest, highest), min(highest - lowest, 50 * count + 1000)):
        if len(found) == count:
            return found
        if is_free(host, port):
            found.append(port)
    raise ClusterOptionsError(f"{host} has no {count} free ports between {lowest} and {highest}")


def is_free(host: str, port: int) -> bool:
    """Whether nothing listens on this port.

    Raises
    ------
    ClusterOptionsError
        If `host` is no address of this machine.
    """
    with socket.socket() as probe:
        # As the daemons do: a connection that was closed a moment ago is not in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            return False
        except OSError as error:
            if not _is_ours(host):
                raise ClusterOptionsError(f"{host} is no address of this machine: {error.strerror}") from error
            return False
    return True


def ports_at(base: int, kind: str, index: int) -> dict[str, int]:
    """Ports of one daemon in the fixed layout: role -> port.

    NameNode at `base` and `base` + 1 (web), Spark's master at + 2 and + 3 (web), YARN at + 4 to + 12, data node i at
    + 20 + 3 i (data, web, IPC), worker i at + 200 + 2 i (and its web page).

    Raises
    ------
    ClusterOptionsError
        If there are more daemons of a kind than the layout has room for.
    """
    roles = PORTS_OF_KIND[kind]
    first = _FIRST_OFFSET[kind] + index * len(roles)
    room_ends = min(offset for offset in (*_FIRST_OFFSET.values(), PORT_SPAN) if offset > _FIRST_OFFSET[kind])
    if first + len(roles) > room_ends:
        raise ClusterOptionsError(f"the ports from {base} on have no room for {kind}{index}: leave the base out")
    return {role: base + first + number for number, role in enumerate(roles)}


def _is_ours(host: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _listening_range() -> tuple[int, int]:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
        first_outgoing = int(text[0])
    except (OSError, ValueError, IndexError):
        first_outgoing = _DEFAULT_RANGE[0]
    if first_outgoing - _LOWEST < 1000:
        return _DEFAULT_RANGE
    return _LOWEST, first_outgoing
