# SPDX-License-Identifier: Apache-2.0
"""A real HDFS on loopback: one NameNode and some DataNodes, each a JVM process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from tests.support.fetch_minicluster import minicluster_jar, pyspark_jars
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

HOST = "127.0.0.1"
NAME_NODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
DATA_NODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"
SMALL_JVM = (
    "-Xmx128m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:ReservedCodeCacheSize=48m",
    "-Xss512k",
)
# Without slf4j the NameNode dies at once, without jcl-over-slf4j only the DataNode does.
CLIENT_JARS = (
    "hadoop-client-api",
    "hadoop-client-runtime",
    "slf4j-api",
    "log4j-slf4j2-impl",
    "log4j-api",
    "log4j-core",
    "log4j-1.2-api",
    "jcl-over-slf4j",
    "snappy-java",
    "leveldbjni-all",
)
LOGGING = """rootLogger.level = info
rootLogger.appenderRef.c.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{2}: %m%n
"""


class HdfsDaemons:
    """NameNode and DataNodes under `folder`, on free ports; use it as a context manager.

    The user who starts them is the superuser.  A dead DataNode is passed over after 3 s and given up after 11 s
    (the defaults are half a minute and ten minutes).
    """

    def __init__(self, folder: Path, *, data_nodes: int = 2, replication: int = 2, block_bytes: int = 4 << 20) -> None:
        self.folder = folder
        self.n_data_nodes = data_nodes
        self._replication = replication
        self._block_bytes = block_bytes
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        rpc_port, http_port = free_ports(2)
        self.url = f"hdfs://{HOST}:{rpc_port}"
        self.web_address = f"{HOST}:{http_port}"
        self.webhdfs_url = f"webhdfs://{self.web_address}"
        self._data_node_ports = [free_ports(3) for _ in range(data_nodes)]
        self.conf_folder = folder / "conf"
        self._class_path = os.pathsep.join([str(self.conf_folder), *map(str, daemon_jars())])

    def __enter__(self) -> HdfsDaemons:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout_s: float = 120.0) -> None:
        """Format the NameNode's folder, start all and wait until every DataNode takes part."""
        self._write_configuration()
        with (self.folder / "format.log").open("wb") as log:
            subprocess.run(
                self._java(NAME_NODE, "-format", "-nonInteractive"),
                check=True,
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._spawn("namenode", NAME_NODE)
        for index in range(self.n_data_nodes):
            self.start_data_node(index)
        self.wait_for_data_nodes(timeout_s)

    def stop(self) -> None:
        """End every process that is still there, DataNodes first."""
        for process in reversed(list(self._processes.values())):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def start_data_node(self, index: int) -> None:
        """Start (or start again, on the same ports and folder) one DataNode."""
        data, http, ipc = self._data_node_ports[index]
        self._spawn(
            f"datanode{index}",
            DATA_NODE,
            *("-D", f"dfs.datanode.data.dir={(self.folder / f'datanode{index}').as_uri()}"),
            *("-D", f"dfs.datanode.address={HOST}:{data}"),
            *("-D", f"dfs.datanode.http.address={HOST}:{http}"),
            *("-D", f"dfs.datanode.ipc.address={HOST}:{ipc}"),
        )

    def kill_data_node(self, index: int) -> None:
        """Kill one DataNode without a warning (SIGKILL)."""
        process = self._processes.pop(f"datanode{index}")
        process.send_signal(signal.SIGKILL)
        process.wait(20)

    def data_node_writing(self) -> int | None:
        """Index of a DataNode that holds a block being written, if there is one."""
        for index in range(self.n_data_nodes):
            if any((self.folder / f"datanode{index}").glob("current/BP*/current/rbw/blk_*")):
                return index
        return None

    def wait_for_data_nodes(self, timeout_s: float = 60.0) -> None:
        """Wait until the NameNode is out of safe mode and hears from every DataNode."""

        def state() -> dict[str, Any]:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    tail = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{name} ended with {process.returncode}:\n{tail}")
            overview = self._jmx("NameNodeInfo")
            nodes = json.loads(overview["LiveNodes"])
            heard = [node["lastContact"] for node in nodes.values() if node["lastContact"] <= 2]
            return {"safe_mode": overview["Safemode"], "heard": len(heard)}

        def ready(seen: dict[str, Any]) -> bool:
            return not seen["safe_mode"] and seen["heard"] == self.n_data_nodes

        wait_until("HDFS takes part", state, ready, timeout_s=timeout_s)

    def _jmx(self, bean: str) -> dict[str, Any]:
        query = f"http://{self.web_address}/jmx?qry=Hadoop:service=NameNode,name={bean}"
        with urllib.request.urlopen(query, timeout=5) as response:
            beans = json.load(response)["beans"]
        if not beans:
            raise ConnectionError(f"no bean {bean} yet")
        first: dict[str, Any] = beans[0]
        return first

    def _spawn(self, name: str, main_class: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._java(main_class, *arguments),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _java(self, main_class: str, *arguments: str) -> list[str]:
        java = shutil.which("java")
        if java is None:
            raise FileNotFoundError("no java on the PATH; the HDFS daemons need a JRE 17")
        log_folder = f"-Dhadoop.log.dir={self.folder}"
        return [java, *SMALL_JVM, log_folder, "-cp", self._class_path, main_class, *arguments]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "HADOOP_CONF_DIR": str(self.conf_folder)}

    def _write_configuration(self) -> None:
        self.conf_folder.mkdir(parents=True, exist_ok=True)
        (self.conf_folder / "log4j2.properties").write_text(LOGGING)
        write_properties(
            self.conf_folder / "core-site.xml",
            {"fs.defaultFS": self.url, "hadoop.tmp.dir": self.folder / "tmp"},
        )
        # No dfs.datanode.address here: the NameNode parses this file too.
        write_properties(
            self.conf_folder / "hdfs-site.xml",
            {
                "dfs.replication": self._replication,
                "dfs.blocksize": self._block_bytes,
                "dfs.namenode.name.dir": (self.folder / "namenode").as_uri(),
                "dfs.namenode.http-address": self.web_address,
                "dfs.namenode.datanode.registration.ip-hostname-check": "false",
                "dfs.namenode.handler.count": 8,
                "dfs.datanode.handler.count": 4,
                "dfs.heartbeat.interval": 1,
                "dfs.namenode.heartbeat.recheck-interval": 500,
                "dfs.namenode.stale.datanode.interval": 3000,
                "dfs.namenode.avoid.read.stale.datanode": "true",
                "dfs.namenode.avoid.write.stale.datanode": "true",
                "dfs.namenode.redundancy.interval.seconds": "1s",
                "dfs.namenode.reconstruction.pending.timeout-sec": 10,
                "dfs.namenode.safemode.extension": 0,
                "dfs.client.block.write.replace-datanode-on-failure.best-effort": "true",
            },
        )


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface that are free at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def daemon_jars() -> list[Path]:
    """The daemons' jar and those of pyspark's that it needs; not all of them, Spark's own Jetty would be in the way."""
    jars = [minicluster_jar()]
    for name in CLIENT_JARS:
        pattern = re.compile(rf"{re.escape(name)}-\d.*\.jar")
        found = [jar for jar in pyspark_jars().glob(f"{name}-*.jar") if pattern.fullmatch(jar.name)]
        if not found:
            raise FileNotFoundError(f"no {name} jar in {pyspark_jars()}")
        jars.append(found[0])
    return jars


def write_properties(path: Path, properties: dict[str, object]) -> None:
    """Write a Hadoop configuration file."""
    lines = [
        f"<property><name>{escape(k)}</name><value>{escape(str(v))}</value></property>" for k, v in properties.items()
    ]
    path.write_text("\n".join(["<configuration>", *lines, "</configuration>", ""]))
