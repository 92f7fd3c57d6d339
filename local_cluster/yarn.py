# SPDX-License-Identifier: Apache-2.0
"""The YARN of a local cluster: one ResourceManager and one NodeManager, to try ``--master yarn``.

Hadoop's daemons of YARN need Bouncy Castle, which pyspark does not bring: Maven fetches it once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from local_cluster import hdfs
from local_cluster.jars import fetch_jar
from local_cluster.processes import MARK
from local_cluster.waiting import get_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from local_cluster.options import ClusterOptions
    from local_cluster.state import DaemonRecord

_MAIN_CLASSES = {
    "resourcemanager": "org.apache.hadoop.yarn.server.resourcemanager.ResourceManager",
    "nodemanager": "org.apache.hadoop.yarn.server.nodemanager.NodeManager",
}
# Without them the ResourceManager dies at once.
_BOUNCY_CASTLE = ("bcprov-jdk18on", "bcpkix-jdk18on", "bcutil-jdk18on")
_BOUNCY_CASTLE_VERSION = "1.82"
# The jar has neither the pages nor the settings of the usual scheduler.
_SCHEDULER = "org.apache.hadoop.yarn.server.resourcemanager.scheduler.fifo.FifoScheduler"
_PAGES = ("cluster", "node", "yarn", "static")
#: What a node offers beyond the executors: the application master.
_MASTER_MEMORY_MB = 1024


def bouncy_castle_jars() -> list[Path]:
    """Jars that YARN needs beside those of HDFS, fetched by Maven if they are not in the cache.

    Raises
    ------
    MissingPartError
        If they cannot be fetched.
    """
    return [fetch_jar("org.bouncycastle", name, _BOUNCY_CASTLE_VERSION) for name in _BOUNCY_CASTLE]


def work_folder(folder: Path) -> Path:
    """Where the NodeManager keeps files and logs of its containers."""
    return folder / "yarn"


def write_configuration(options: ClusterOptions, manager: DaemonRecord, node: DaemonRecord) -> None:
    """Write what daemons and clients of YARN share, beside the configuration of HDFS."""
    conf = hdfs.conf_folder(options.folder)
    work = work_folder(options.folder)
    for name in _PAGES:
        (conf / "webapps" / name).mkdir(parents=True, exist_ok=True)
    for name in ("local", "logs"):
        (work / name).mkdir(parents=True, exist_ok=True)
    hdfs.write_properties(
        conf / "yarn-site.xml",
        {
            "yarn.resourcemanager.hostname": options.bind,
            "yarn.resourcemanager.address": f"{options.bind}:{manager.ports['rpc']}",
            "yarn.resourcemanager.scheduler.address": f"{options.bind}:{manager.ports['scheduler']}",
            "yarn.resourcemanager.resource-tracker.address": f"{options.bind}:{manager.ports['tracker']}",
            "yarn.resourcemanager.admin.address": f"{options.bind}:{manager.ports['admin']}",
            "yarn.resourcemanager.webapp.address": f"{options.bind}:{manager.ports['http']}",
            "yarn.resourcemanager.scheduler.class": _SCHEDULER,
            "yarn.scheduler.minimum-allocation-mb": 256,
            "yarn.nodemanager.hostname": options.bind,
            "yarn.nodemanager.address": f"{options.bind}:{node.ports['rpc']}",
            "yarn.nodemanager.localizer.address": f"{options.bind}:{node.ports['localizer']}",
            "yarn.nodemanager.webapp.address": f"{options.bind}:{node.ports['http']}",
            "yarn.nodemanager.local-dirs": work / "local",
            "yarn.nodemanager.log-dirs": work / "logs",
            "yarn.nodemanager.resource.memory-mb": _memory_mb(options),
            "yarn.nodemanager.resource.cpu-vcores": max(1, options.workers) * options.worker_cores + 1,
            # A JVM maps far more than it uses, and this machine may be fuller than a node of a cluster is.
            "yarn.nodemanager.vmem-check-enabled": "false",
            "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": 99,
            "yarn.nodemanager.env-whitelist": f"JAVA_HOME,HADOOP_CONF_DIR,PATH,LANG,TZ,{MARK}",
        },
    )


def daemon_command(record: DaemonRecord, java: Sequence[str]) -> list[str]:
    """Command line of a ResourceManager or NodeManager; `java` has Bouncy Castle on its class path."""
    return [*java, _MAIN_CLASSES[record.kind]]


def environment_of(options: ClusterOptions) -> dict[str, str]:
    """Environment of YARN's daemons."""
    return hdfs.environment_of(options) | {"YARN_CONF_DIR": str(hdfs.conf_folder(options.folder))}


def count_nodes(web_address: str) -> int:
    """Nodes that the ResourceManager counts on.

    Raises
    ------
    OSError
        If it does not answer.
    """
    answer: dict[str, Any] = get_json(web_address, "/ws/v1/cluster/metrics")
    return int(answer["clusterMetrics"]["activeNodes"])


def _memory_mb(options: ClusterOptions) -> int:
    """Room for as many executors as there are workers, with Spark's overhead, and for the application master."""
    size = int(options.worker_memory[:-1]) * (1024 if options.worker_memory.endswith("g") else 1)
    return max(1, options.workers) * (size + max(384, size // 10)) + _MASTER_MEMORY_MB
