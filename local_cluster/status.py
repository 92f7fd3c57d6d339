# SPDX-License-Identifier: Apache-2.0
"""How a cluster is: its daemons, HDFS and Spark, as they say themselves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from local_cluster import hdfs, spark, yarn

if TYPE_CHECKING:
    from pathlib import Path

    from local_cluster.state import ClusterState, DaemonRecord


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """One daemon.

    `state` is ``dead`` (it should run and does not), ``stopped``, ``drained``, ``starting``, ``running``, and for data
    nodes and workers that take part what HDFS and Spark say: ``in service``, ``decommission in progress``,
    ``decommissioned``, ``alive``.
    """

    name: str
    kind: str
    pid: int | None
    state: str
    address: str
    web_address: str
    log: Path


@dataclass(frozen=True, slots=True)
class HdfsStatus:
    """HDFS; `reachable` is False where the NameNode does not answer, and nothing else is known then."""

    url: str
    reachable: bool
    safe_mode: bool = False
    live_data_nodes: int = 0
    under_replicated_blocks: int = 0
    missing_blocks: int = 0


@dataclass(frozen=True, slots=True)
class SparkStatus:
    """Spark; `workers` is name -> ALIVE, DECOMMISSIONED, DEAD or UNKNOWN."""

    master: str
    reachable: bool
    workers: dict[str, str]
    cores: int = 0
    cores_used: int = 0
    running_apps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class YarnStatus:
    """YARN; `resource_manager` is host:port of its page, `nodes` those that it counts on."""

    resource_manager: str
    reachable: bool
    nodes: int = 0


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """All of it; `healthy` says that every daemon that should run takes part and no block lacks a copy."""

    folder: Path
    daemons: tuple[DaemonStatus, ...]
    hdfs: HdfsStatus
    spark: SparkStatus | None
    yarn: YarnStatus | None
    healthy: bool

    @property
    def live_data_nodes(self) -> int:
        """Data nodes that HDFS counts on."""
        return self.hdfs.live_data_nodes

    @property
    def under_replicated_blocks(self) -> int:
        """Blocks that lack a copy."""
        return self.hdfs.under_replicated_blocks

    def daemon(self, name: str) -> DaemonStatus:
        """Return one daemon by its name."""
        return next(each for each in self.daemons if each.name == name)

    def as_json(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        values = asdict(self)
        values["folder"] = str(self.folder)
        for daemon in values["daemons"]:
            daemon["log"] = str(daemon["log"])
        return values


def read_status(state: ClusterState) -> ClusterStatus:
    """Ask the daemons; one that does not answer makes no error."""
    options = state.options
    namenode = state.record("namenode")
    nodes = _name_node_view(f"{options.bind}:{namenode.ports['http']}") if namenode.running else None
    masters = state.of_kind("master")
    workers = None
    if masters and masters[0].running:
        workers = _master_view(f"{options.bind}:{masters[0].ports['http']}")
    daemons = tuple(_daemon_status(state, record, nodes, workers) for record in state.daemons)
    hdfs_status = _hdfs_status(state, namenode, nodes)
    spark_status = _spark_status(state, masters[0], workers) if masters else None
    yarn_status = _yarn_status(state)
    expected = [each for each in daemons if state.record(each.name).wanted == "up"]
    healthy = (
        all(each.state in ("running", "in service", "alive") for each in expected)
        and hdfs_status.reachable
        and not (hdfs_status.safe_mode or hdfs_status.under_replicated_blocks or hdfs_status.missing_blocks)
        and (spark_status is None or spark_status.reachable)
        and (yarn_status is None or yarn_status.nodes > 0)
    )
    return ClusterStatus(options.folder, daemons, hdfs_status, spark_status, yarn_status, healthy)


def log_path(folder: Path, name: str) -> Path:
    """Log file of a daemon; it is appended to and stays when the cluster is stopped."""
    return folder / "logs" / f"{name}.log"


def _address(state: ClusterState, record: DaemonRecord) -> str:
    role = "data" if record.kind == "datanode" else "rpc"
    return f"{spark.host_of(state.options, record)}:{record.ports[role]}"


def _daemon_status(
    state: ClusterState, record: DaemonRecord, nodes: hdfs.NameNodeView | None, workers: spark.MasterView | None
) -> DaemonStatus:
    return DaemonStatus(
        name=record.name,
        kind=record.kind,
        pid=record.process.pid if record.running and record.process else None,
        state=_state_of(state, record, nodes, workers),
        address=_address(state, record),
        web_address=f"{spark.host_of(state.options, record)}:{record.ports['http']}",
        log=log_path(state.options.folder, record.name),
    )


def _state_of(
    state: ClusterState, record: DaemonRecord, nodes: hdfs.NameNodeView | None, workers: spark.MasterView | None
) -> str:
    if record.wanted == "drained" and not record.running:
        return "drained"
    if not record.running:
        return "dead" if state.running() else "stopped"
    address = _address(state, record)
    if record.kind == "datanode" and nodes is not None:
        return nodes.admin_states.get(address, "starting").lower()
    if record.kind == "worker" and workers is not None:
        told = workers.state_at(address)
        return "starting" if told in (None, "DEAD") else told.lower()  # DEAD: the one before it on this address
    return "running"


def _hdfs_status(state: ClusterState, namenode: DaemonRecord, nodes: hdfs.NameNodeView | None) -> HdfsStatus:
    url = hdfs.hdfs_url(state.options, namenode)
    if nodes is None:
        return HdfsStatus(url, reachable=False)
    return HdfsStatus(
        url, True, bool(nodes.safe_mode), len(nodes.heard_s), nodes.under_replicated_blocks, nodes.missing_blocks
    )


def _spark_status(state: ClusterState, master: DaemonRecord, workers: spark.MasterView | None) -> SparkStatus:
    url = spark.master_url(state.options, master)
    if workers is None:
        return SparkStatus(url, reachable=False, workers={})
    states = {
        record.name: workers.state_at(_address(state, record)) or "UNKNOWN"
        for record in state.daemons
        if record.kind == "worker" and not (record.wanted == "drained" and not record.running)
    }
    alive = [worker for worker in workers.workers if worker.state == "ALIVE"]
    return SparkStatus(
        url, True, states, sum(worker.cores for worker in alive), sum(worker.cores_used for worker in alive),
        workers.running_apps,
    )  # fmt: skip


def _yarn_status(state: ClusterState) -> YarnStatus | None:
    managers = state.of_kind("resourcemanager")
    if not managers:
        return None
    address = f"{state.options.bind}:{managers[0].ports['http']}"
    try:
        return YarnStatus(address, True, yarn.count_nodes(address))
    except (OSError, ValueError):
        return YarnStatus(address, False)


def _name_node_view(web_address: str) -> hdfs.NameNodeView | None:
    try:
        return hdfs.ask_name_node(web_address)
    except (OSError, ValueError):
        return None


def _master_view(web_address: str) -> spark.MasterView | None:
    try:
        return spark.ask_master(web_address)
    except (OSError, ValueError):
        return None
