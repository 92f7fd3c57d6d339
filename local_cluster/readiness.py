# SPDX-License-Identifier: Apache-2.0
"""Wait until daemons take part; one that has died meanwhile ends the waiting with the line of its log that says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_cluster import hdfs, spark, yarn
from local_cluster.errors import DaemonFailedError
from local_cluster.status import log_path
from local_cluster.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from local_cluster.state import ClusterState, DaemonRecord

#: A data node counts as heard if its last heartbeat is not older.
_HEARD_S = 2
_TAIL_BYTES = 20_000
_FAULTS = (" ERROR ", " FATAL ", "Exception", "Error:", "error:")


def wait_until_ready(state: ClusterState, timeout_s: float) -> None:
    """Wait until HDFS is out of safe mode, all its data nodes are heard, and all workers are alive.

    Raises
    ------
    DaemonFailedError
        If a daemon that should run is dead, or `timeout_s` [s] are over.
    """
    wanted = [record for record in state.daemons if record.wanted == "up"]
    _wait_for_hdfs(state, wanted, timeout_s)
    for record in state.of_kind("worker"):
        _wait_for_worker(state, record, timeout_s)
    if state.of_kind("nodemanager"):
        _wait_for_yarn(state, timeout_s)


def wait_for_daemon(state: ClusterState, name: str, timeout_s: float) -> None:
    """Wait until one daemon takes part.

    Raises
    ------
    DaemonFailedError
        If it is dead, or `timeout_s` [s] are over.
    """
    record = state.record(name)
    if record.kind == "namenode":
        _wait_for_hdfs(state, [record], timeout_s)
    elif record.kind == "datanode":
        _wait_for_data_node(state, record, timeout_s)
    elif record.kind == "master":
        wait_for_master(state, timeout_s)
        for worker in state.of_kind("worker"):
            if worker.running:
                _wait_for_worker(state, worker, timeout_s)
    elif record.kind == "worker":
        _wait_for_worker(state, record, timeout_s)
    else:
        _wait_for_yarn(state, timeout_s)


def wait_until_forgotten(state: ClusterState, worker: DaemonRecord, timeout_s: float) -> None:
    """Wait until the master knows of the end of a worker: it refuses another one at the address of one that lives.

    Raises
    ------
    DaemonFailedError
        If the master is dead, or `timeout_s` [s] are over.
    """
    masters = state.of_kind("master")
    web_address = f"{state.options.bind}:{masters[0].ports['http']}"
    address = f"{spark.host_of(state.options, worker)}:{worker.ports['rpc']}"

    def forgotten() -> bool:
        return spark.ask_master(web_address).state_at(address) not in ("ALIVE", "DECOMMISSIONED")

    _wait(f"Spark's master knows that {worker.name} has ended", state, masters, timeout_s, forgotten)


def wait_for_master(state: ClusterState, timeout_s: float) -> None:
    """Wait until Spark's master answers.

    Raises
    ------
    DaemonFailedError
        If it is dead, or `timeout_s` [s] are over.
    """
    masters = state.of_kind("master")
    address = f"{state.options.bind}:{masters[0].ports['http']}"
    _wait("Spark's master answers", state, masters, timeout_s, lambda: spark.ask_master(address) is not None)


def _wait_for_hdfs(state: ClusterState, watched: Iterable[DaemonRecord], timeout_s: float) -> None:
    web_address = f"{state.options.bind}:{state.record('namenode').ports['http']}"
    expected = [record for record in state.of_kind("datanode") if record.running]

    def lacking() -> str:
        view = hdfs.ask_name_node(web_address)
        silent = [record.name for record in expected if not _is_heard(state, record, view)]
        return "; ".join([*(["safe mode"] if view.safe_mode else []), *(f"{name} not heard" for name in silent)])

    _wait("HDFS takes part", state, watched, timeout_s, lacking, until_empty=True)


def _wait_for_data_node(state: ClusterState, record: DaemonRecord, timeout_s: float) -> None:
    web_address = f"{state.options.bind}:{state.record('namenode').ports['http']}"
    what = f"{record.name} takes part in HDFS"
    _wait(what, state, [record], timeout_s, lambda: _is_heard(state, record, hdfs.ask_name_node(web_address)))


def _is_heard(state: ClusterState, record: DaemonRecord, view: hdfs.NameNodeView) -> bool:
    """Whether NameNode and data node say so: the former counts one that was killed a moment ago still."""
    address = hdfs.data_address(state.options, record)
    known = view.admin_states.get(address) == "In Service" and view.heard_s[address] <= _HEARD_S
    return known and hdfs.takes_part(state.options, record)


def _wait_for_worker(state: ClusterState, record: DaemonRecord, timeout_s: float) -> None:
    master = state.of_kind("master")[0]
    web_address = f"{state.options.bind}:{master.ports['http']}"
    address = f"{spark.host_of(state.options, record)}:{record.ports['rpc']}"
    what = f"{record.name} is known to Spark's master as ALIVE"
    _wait(what, state, [record], timeout_s, lambda: spark.ask_master(web_address).state_at(address) == "ALIVE")


def _wait_for_yarn(state: ClusterState, timeout_s: float) -> None:
    managers = state.of_kind("resourcemanager")
    address = f"{state.options.bind}:{managers[0].ports['http']}"
    watched = [*managers, *state.of_kind("nodemanager")]
    _wait("YARN has a node", state, watched, timeout_s, lambda: yarn.count_nodes(address) > 0)


def _wait(
    what: str, state: ClusterState, watched: Iterable[DaemonRecord], timeout_s: float, probe: Callable[[], object],
    *, until_empty: bool = False,
) -> None:  # fmt: skip
    """Wait until `probe` gives something true (or, the other way round, nothing that is lacking)."""
    watched = list(watched)

    def checked() -> object:
        for record in watched:
            if not record.running:
                raise DaemonFailedError(_obituary(state.options.folder, record.name))
        return probe()

    wait_until(what, checked, (lambda seen: not seen) if until_empty else bool, timeout_s=timeout_s)


def _obituary(folder: Path, name: str) -> str:
    """Say that a daemon has ended, with the last line of its log that looks like a reason."""
    path = log_path(folder, name)
    try:
        lines = path.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").splitlines()
    except OSError:
        lines = []
    told = [line.strip() for line in lines if line.strip()]
    faults = [line for line in told if any(mark in line for mark in _FAULTS) and not line.startswith("at ")]
    reason = (faults or told or ["its log is empty"])[-1]
    return f"{name} has ended ({reason[:300]}): see {path}"
