# SPDX-License-Identifier: Apache-2.0
"""The HDFS of a local cluster: configuration, command lines, what the NameNode says, decommissioning.

The user who starts it is the superuser; there is no authentication.  Faults are noticed quickly: a data node that does
not answer is passed over after 3 s and given up after 11 s (the defaults are half a minute and ten minutes).
"""

from __future__ import annotations

import getpass
import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from local_cluster.errors import DaemonFailedError
from local_cluster.waiting import ask_bean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from local_cluster.options import ClusterOptions
    from local_cluster.state import DaemonRecord

SMALL_JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:ReservedCodeCacheSize=48m",
    "-Xss512k",
    "-Djava.net.preferIPv4Stack=true",
)
_MAIN_CLASSES = {
    "namenode": "org.apache.hadoop.hdfs.server.namenode.NameNode",
    "datanode": "org.apache.hadoop.hdfs.server.datanode.DataNode",
}
_ADMIN = "org.apache.hadoop.hdfs.tools.DFSAdmin"
_EXCLUDED_NODES = "excluded-data-nodes"
_ADMIN_TIMEOUT_S = 120.0
_LOGGING = """rootLogger.level = info
rootLogger.appenderRef.c.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{2}: %m%n
logger.requests.name = http.requests
logger.requests.level = warn
"""


@dataclass(frozen=True, slots=True)
class NameNodeView:
    """What the NameNode says: safe mode (empty: it is out of it), the data nodes that live, blocks.

    `heard_s` and `admin_states` go by the data node's host:port: seconds since it was heard, and ``In Service``,
    ``Decommission In Progress`` or ``Decommissioned``.
    """

    safe_mode: str
    heard_s: dict[str, int]
    admin_states: dict[str, str]
    under_replicated_blocks: int
    missing_blocks: int


def conf_folder(folder: Path) -> Path:
    """HADOOP_CONF_DIR of a cluster's folder."""
    return folder / "hadoop-conf"


def data_folder(folder: Path) -> Path:
    """Where NameNode and data nodes keep what they hold, each in a folder of its name."""
    return folder / "hdfs"


def hdfs_url(options: ClusterOptions, namenode: DaemonRecord) -> str:
    """URL of the file system."""
    return f"hdfs://{options.bind}:{namenode.ports['rpc']}"


def is_formatted(folder: Path) -> bool:
    """Whether the NameNode's folder holds a file system."""
    return (data_folder(folder) / "namenode" / "current" / "VERSION").exists()


def write_configuration(options: ClusterOptions, namenode: DaemonRecord, excluded: Iterable[DaemonRecord]) -> None:
    """Write the configuration that daemons and clients share, and the list of data nodes taken out of service."""
    folder = conf_folder(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = data_folder(options.folder)
    data.mkdir(parents=True, exist_ok=True)
    (folder / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")
    write_excluded(options, excluded)
    write_properties(
        folder / "core-site.xml",
        {
            "fs.defaultFS": hdfs_url(options, namenode),
            "hadoop.tmp.dir": data / "tmp",
            "hadoop.http.staticuser.user": getpass.getuser(),
        },
    )
    # No dfs.datanode.address here: the NameNode parses this file too.
    write_properties(
        folder / "hdfs-site.xml",
        {
            "dfs.replication": options.replication,
            "dfs.blocksize": options.block_bytes,
            "dfs.namenode.fs-limits.min-block-size": min(options.block_bytes, 1 << 20),
            "dfs.namenode.name.dir": (data / "namenode").as_uri(),
            "dfs.namenode.http-address": f"{options.bind}:{namenode.ports['http']}",
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.namenode.handler.count": 8,
            "dfs.datanode.handler.count": 4,
            "dfs.hosts.exclude": folder / _EXCLUDED_NODES,
            "dfs.namenode.decommission.interval": "1s",
            "dfs.heartbeat.interval": "1s",
            "dfs.namenode.heartbeat.recheck-interval": 500,
            "dfs.namenode.stale.datanode.interval": 3000,
            "dfs.namenode.avoid.read.stale.datanode": "true",
            "dfs.namenode.avoid.write.stale.datanode": "true",
            "dfs.namenode.redundancy.interval.seconds": "1s",
            # A copy sent to a node that died is sent again after 10 s, not 5 min.
            "dfs.namenode.reconstruction.pending.timeout-sec": 10,
            "dfs.namenode.safemode.extension": 0,
            "dfs.client.block.write.replace-datanode-on-failure.best-effort": "true",
            # A file whose last block the NameNode has not heard of yet is asked for again after 25 ms, not 400.
            "dfs.client.block.write.locateFollowingBlock.initial.delay.ms": 25,
            "dfs.client.block.write.locateFollowingBlock.retries": 10,
        },
    )


def write_properties(path: Path, properties: dict[str, object]) -> None:
    """Write a Hadoop configuration file."""
    lines = [
        f"<property><name>{escape(k)}</name><value>{escape(str(v))}</value></property>" for k, v in properties.items()
    ]
    path.write_text("\n".join(["<configuration>", *lines, "</configuration>", ""]), encoding="utf-8")


def write_excluded(options: ClusterOptions, excluded: Iterable[DaemonRecord]) -> None:
    """Write the list of data nodes that are taken out of service; `refresh_nodes` makes the NameNode read it."""
    lines = [f"{data_address(options, record)}\n" for record in excluded]
    (conf_folder(options.folder) / _EXCLUDED_NODES).write_text("".join(lines), encoding="ascii")


def data_address(options: ClusterOptions, data_node: DaemonRecord) -> str:
    """host:port by which the NameNode knows a data node."""
    return f"{options.bind}:{data_node.ports['data']}"


def daemon_command(options: ClusterOptions, record: DaemonRecord, java: Sequence[str]) -> list[str]:
    """Command line of a NameNode or data node; `java` is that of `java_command`."""
    command = [*java, _MAIN_CLASSES[record.kind]]
    if record.kind == "datanode":
        settings = {
            "dfs.datanode.data.dir": (data_folder(options.folder) / record.name).as_uri(),
            "dfs.datanode.address": data_address(options, record),
            "dfs.datanode.http.address": f"{options.bind}:{record.ports['http']}",
            "dfs.datanode.ipc.address": f"{options.bind}:{record.ports['ipc']}",
            # Without it WebHDFS sends clients to the name of this machine, wherever that points.
            "dfs.datanode.hostname": options.bind,
        }
        for name, value in settings.items():
            command += ["-D", f"{name}={value}"]
    return command


def java_command(options: ClusterOptions, java: str, class_path: Iterable[Path]) -> list[str]:
    """Beginning of the command line of every Hadoop daemon."""
    paths = os.pathsep.join([str(conf_folder(options.folder)), *map(str, class_path)])
    log_folder = f"-Dhadoop.log.dir={options.folder / 'logs'}"
    return [java, f"-Xmx{options.daemon_memory}", *SMALL_JVM, log_folder, "-cp", paths]


def environment_of(options: ClusterOptions) -> dict[str, str]:
    """Environment of the Hadoop daemons: the caller's, without the settings it has for another cluster."""
    foreign = ("HADOOP_", "HDFS_", "YARN_", "SPARK_", "PYSPARK_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"HADOOP_CONF_DIR": str(conf_folder(options.folder))}


def format_name_node(options: ClusterOptions, java: Sequence[str]) -> None:
    """Make an empty file system.

    Raises
    ------
    DaemonFailedError
        If that fails.
    """
    log = options.folder / "logs" / "format.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [*java, _MAIN_CLASSES["namenode"], "-format", "-nonInteractive"]
    _run_tool(options, command, log, "the NameNode's folder could not be formatted")


def refresh_nodes(options: ClusterOptions, java: Sequence[str]) -> None:
    """Make the NameNode read again which data nodes are taken out of service.

    Raises
    ------
    DaemonFailedError
        If it refuses, or does not answer.
    """
    log = options.folder / "logs" / "refresh-nodes.log"
    _run_tool(options, [*java, _ADMIN, "-refreshNodes"], log, "the NameNode did not read its list of data nodes")


def ask_name_node(web_address: str) -> NameNodeView:
    """Ask the NameNode how HDFS is.

    Raises
    ------
    OSError
        If it does not answer.
    """
    of_node = "Hadoop:service=NameNode,name="
    live, safe_mode = ask_bean(web_address, of_node + "NameNodeInfo", ["LiveNodes", "Safemode"])
    lacking = ["UnderReplicatedBlocks", "MissingBlocks"]
    under_replicated, missing = ask_bean(web_address, of_node + "FSNamesystem", lacking)
    nodes: dict[str, dict[str, Any]] = {node["xferaddr"]: node for node in json.loads(live).values()}
    return NameNodeView(
        safe_mode=safe_mode,
        heard_s={address: int(node["lastContact"]) for address, node in nodes.items()},
        admin_states={address: str(node["adminState"]) for address, node in nodes.items()},
        under_replicated_blocks=int(under_replicated),
        missing_blocks=int(missing),
    )


def takes_part(options: ClusterOptions, data_node: DaemonRecord) -> bool:
    """Whether a data node says of itself that it reports to the NameNode.

    Raises
    ------
    OSError
        If it does not answer.
    """
    address = f"{options.bind}:{data_node.ports['http']}"
    (told,) = ask_bean(address, "Hadoop:service=DataNode,name=DataNodeInfo", ["BPServiceActorInfo"])
    actors = json.loads(told)
    return bool(actors) and all(actor["ActorState"] == "RUNNING" for actor in actors)


def _run_tool(options: ClusterOptions, command: list[str], log: Path, failure: str) -> None:
    """Run one of Hadoop's tools with its output in `log`."""
    with log.open("ab") as output:
        try:
            code = subprocess.run(
                command, check=False, cwd=options.folder, env=environment_of(options), stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, timeout=_ADMIN_TIMEOUT_S,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise DaemonFailedError(f"{failure} within {_ADMIN_TIMEOUT_S:g} s: see {log}") from error
    if code:
        raise DaemonFailedError(f"{failure} (exit code {code}): see {log}")
