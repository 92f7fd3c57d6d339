# SPDX-License-Identifier: Apache-2.0
"""Take a data node or a worker out of service so that nothing is lost."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import TYPE_CHECKING

from local_cluster import hdfs, spark
from local_cluster.errors import DaemonFailedError, DrainError
from local_cluster.processes import send_signal
from local_cluster.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_cluster.state import ClusterState, DaemonRecord

_DECOMMISSIONED = "Decommissioned"


def exclude_data_node(state: ClusterState, name: str, java: Sequence[str]) -> ClusterState:
    """Tell the NameNode to copy the blocks of a data node elsewhere; return the state in which it is drained.

    Raises
    ------
    DrainError
        If those that are left could not hold as many copies as wanted.
    """
    left = [record for record in state.of_kind("datanode") if record.running and record.name != name]
    copies = state.options.replication
    if len(left) < copies:
        raise DrainError(
            f"{name} cannot be drained: {len(left)} data nodes would be left for {copies} copies of each block: add a "
            "data node first"
        )
    drained = state.with_record(replace(state.record(name), wanted="drained"))
    hdfs.write_excluded(state.options, drained.drained("datanode"))
    hdfs.refresh_nodes(state.options, java)
    return drained


def wait_until_decommissioned(state: ClusterState, record: DaemonRecord, timeout_s: float) -> None:
    """Wait until every block of an excluded data node has its copies on others.

    Raises
    ------
    DrainError
        If that is not so after `timeout_s` [s].
    """
    web_address = f"{state.options.bind}:{state.record('namenode').ports['http']}"
    address = hdfs.data_address(state.options, record)
    try:
        wait_until(
            f"{record.name} is decommissioned",
            lambda: hdfs.ask_name_node(web_address).admin_states.get(address, "not heard"),
            lambda seen: seen == _DECOMMISSIONED,
            timeout_s=timeout_s,
        )
    except DaemonFailedError as error:
        raise DrainError(f"{error}; it takes no new blocks, drain it again to wait on") from error


def drain_worker(state: ClusterState, record: DaemonRecord, timeout_s: float) -> None:
    """Let a worker take no new tasks and wait until its executors have ended.

    Raises
    ------
    DrainError
        If some still run after `timeout_s` [s].
    """
    if record.process is None or not send_signal(record.process, signal.SIGPWR):
        raise DrainError(f"{record.name} cannot be drained: it does not run")
    own = spark.host_of(state.options, record)
    master = f"{state.options.bind}:{state.of_kind('master')[0].ports['http']}"
    own_address, own_page = f"{own}:{record.ports['rpc']}", f"{own}:{record.ports['http']}"

    def work_left() -> str:
        seen = spark.ask_master(master).state_at(own_address)
        executors = spark.count_executors(own_page)
        if seen == "ALIVE":
            return "it still takes tasks"
        return f"{executors} executors still run" if executors else ""

    try:
        wait_until(f"{record.name} has no work", work_left, lambda seen: not seen, timeout_s=timeout_s)
    except DaemonFailedError as error:
        raise DrainError(
            f"{error}; drain it again to wait on (an application without spark.decommission.enabled=true goes on with "
            "the executors that it has)"
        ) from error
