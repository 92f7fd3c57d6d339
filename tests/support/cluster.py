# SPDX-License-Identifier: Apache-2.0
"""The cluster of the tests: what it needs, and which of its data nodes is just being written to."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from typing import TYPE_CHECKING

from local_cluster.hdfs import environment_of, java_command
from local_cluster.jars import cached_jar, hadoop_class_path, java_program
from tests.support.peers import require_peer

if TYPE_CHECKING:
    from local_cluster.local_cluster import LocalCluster


def require_spark() -> None:
    """Go on if Spark can run here."""
    require_peer("pyspark", importlib.util.find_spec("pyspark") is not None, "install the extra conepacs[spark]")
    require_peer("java", shutil.which("java") is not None, "install a JRE 17")


def require_hdfs() -> None:
    """Go on if the HDFS daemons can run here."""
    require_spark()
    fetchable = cached_jar().exists() or shutil.which("mvn") is not None
    require_peer("the HDFS daemons' jar", fetchable, "python -m local_cluster.jars fetches it with Maven")


def data_node_writing(cluster: LocalCluster) -> str | None:
    """Name of a data node that holds a block being written, if there is one."""
    blocks = cluster.data_path("namenode").parent.glob("datanode*/current/BP*/current/rbw/blk_*")
    return next((path.parents[4].name for path in blocks), None)


def set_safe_mode(cluster: LocalCluster, *, on: bool) -> None:
    """Let the NameNode refuse every write, or take them again."""
    java = java_command(cluster.options, java_program(), hadoop_class_path())
    command = [*java, "org.apache.hadoop.hdfs.tools.DFSAdmin", "-safemode", "enter" if on else "leave"]
    subprocess.run(
        command, check=True, cwd=cluster.folder, env=environment_of(cluster.options), stdin=subprocess.DEVNULL,
        capture_output=True, timeout=120,
    )  # fmt: skip
