# SPDX-License-Identifier: Apache-2.0
"""Which daemons a cluster gets, and which ports they listen on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from local_cluster.errors import ClusterOptionsError
from local_cluster.ports import PORTS_OF_KIND, free_ports, is_free, ports_at
from local_cluster.state import ClusterState, DaemonRecord, Kind

if TYPE_CHECKING:
    from local_cluster.options import ClusterOptions

#: Of these a cluster has one, without a number in its name.
_SINGLE: tuple[Kind, ...] = ("namenode", "master", "resourcemanager", "nodemanager")


def first_state(options: ClusterOptions, old: ClusterState | None) -> ClusterState:
    """State of a cluster that is about to start.

    From an earlier start of the folder come the data nodes, since they hold blocks, and the ports, as far as they are
    free and neither address nor port base has changed: the URL stays the same then.

    Raises
    ------
    ClusterOptionsError
        If the address is no address of this machine, or a port of the fixed layout is taken.
    """
    state = _with_kind(ClusterState(options), old, "namenode", 1)
    if old is not None:
        for record in old.daemons:
            if record.kind == "datanode":
                state = state.with_record(_with_ports(options, old, replace(record, process=None)))
    state = _with_kind(state, old, "datanode", options.data_nodes)
    if options.spark:
        state = with_spark(state, old)
    if options.yarn:
        state = _with_kind(_with_kind(state, old, "resourcemanager", 1), old, "nodemanager", 1)
    return state


def with_spark(state: ClusterState, old: ClusterState | None = None) -> ClusterState:
    """Add Spark's master and workers."""
    return _with_kind(_with_kind(state, old, "master", 1), old, "worker", state.options.workers)


def added_records(state: ClusterState, kind: Kind, count: int) -> tuple[DaemonRecord, ...]:
    """Records of further daemons of a kind; a number that one has had is not used again.

    Raises
    ------
    ClusterOptionsError
        If `count` is below 1, or a port of the fixed layout is taken.
    """
    if count < 1:
        raise ClusterOptionsError(f"{count} daemons cannot be added, expected at least 1")
    first = 1 + max((record.index for record in state.daemons if record.kind == kind), default=-1)
    return tuple(_new_record(state.options, kind, first + number) for number in range(count))


def _with_kind(state: ClusterState, old: ClusterState | None, kind: Kind, count: int) -> ClusterState:
    """Add daemons of a kind until `count` of them should run."""
    index = 0
    while len(state.of_kind(kind)) < count:
        name = kind if kind in _SINGLE else f"{kind}{index}"
        if all(record.name != name for record in state.daemons):
            known = next((record for record in old.daemons if record.name == name), None) if old is not None else None
            if known is not None and old is not None:
                record = _with_ports(state.options, old, replace(known, process=None, wanted="up"))
            else:
                record = _new_record(state.options, kind, index)
            state = state.with_record(record)
        index += 1
    return state


def _with_ports(options: ClusterOptions, old: ClusterState, record: DaemonRecord) -> DaemonRecord:
    """Keep the ports of a record, or give it new ones where they cannot be kept."""
    same_place = (options.bind, options.port_base) == (old.options.bind, old.options.port_base)
    if same_place and all(is_free(options.bind, port) for port in record.ports.values()):
        return record
    return replace(record, ports=_new_record(options, record.kind, record.index).ports)


def _new_record(options: ClusterOptions, kind: Kind, index: int) -> DaemonRecord:
    name = kind if kind in _SINGLE else f"{kind}{index}"
    roles = PORTS_OF_KIND[kind]
    if options.port_base is None:
        return DaemonRecord(name, kind, dict(zip(roles, free_ports(len(roles), options.bind), strict=True)))
    ports = ports_at(options.port_base, kind, index)
    for role, port in ports.items():
        if not is_free(options.bind, port):
            raise ClusterOptionsError(
                f"port {port} of {options.bind}, {name}'s for {role}, is taken: give another port base, or none"
            )
    return DaemonRecord(name, kind, ports)
