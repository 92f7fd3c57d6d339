# SPDX-License-Identifier: Apache-2.0
"""The standalone Spark of a local cluster: command lines, configuration, what the master and the workers say."""

from __future__ import annotations

import json
import os
import shlex
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_cluster.hdfs import conf_folder as hadoop_conf_folder
from local_cluster.hdfs import environment_of as hadoop_environment_of
from local_cluster.jars import spark_home
from local_cluster.waiting import get_json

if TYPE_CHECKING:
    from local_cluster.options import ClusterOptions
    from local_cluster.state import DaemonRecord

_MAIN_CLASSES = {
    "master": "org.apache.spark.deploy.master.Master",
    "worker": "org.apache.spark.deploy.worker.Worker",
}
#: A worker that does not answer is given up after this time; one that is killed is noticed at once.
_WORKER_TIMEOUT_S = 20
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What the master says of one worker; states: ALIVE, DECOMMISSIONED, DEAD, UNKNOWN."""

    worker_id: str
    address: str
    state: str
    cores: int
    cores_used: int


@dataclass(frozen=True, slots=True)
class MasterView:
    """What the master says: its workers, also those that are gone, and the names of the running applications."""

    workers: tuple[WorkerView, ...]
    running_apps: tuple[str, ...]

    def state_at(self, address: str) -> str | None:
        """State of the worker that listens on `address`; that of the living one, if it was started again."""
        states = [worker.state for worker in self.workers if worker.address == address]
        return "ALIVE" if "ALIVE" in states else (states[-1] if states else None)


def conf_folder(folder: Path) -> Path:
    """SPARK_CONF_DIR of a cluster's folder."""
    return folder / "spark-conf"


def work_folder(folder: Path) -> Path:
    """Where the workers keep logs and scratch files of their executors."""
    return folder / "spark"


def recovery_folder(folder: Path) -> Path:
    """Where the master notes its workers and applications, for when it is started again."""
    return work_folder(folder) / "recovery"


def host_of(options: ClusterOptions, record: DaemonRecord) -> str:
    """Address that a daemon of Spark listens on.

    On loopback each worker has one of its own (127.0.0.1, 127.0.0.2, ...: all of them are this machine's on Linux),
    so that Spark takes them for different hosts: it never starts the second copy of a slow task on the host of the
    first, and counts failures by host.
    """
    if record.kind != "worker" or options.bind != _LOOPBACK or not sys.platform.startswith("linux"):
        return options.bind
    return f"127.0.0.{1 + record.index % 254}"


def master_url(options: ClusterOptions, master: DaemonRecord) -> str:
    """URL that applications give as their master."""
    return f"spark://{options.bind}:{master.ports['rpc']}"


def write_configuration(options: ClusterOptions, master: DaemonRecord) -> None:
    """Write the defaults of applications that are started on this machine with SPARK_CONF_DIR."""
    folder = conf_folder(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (work_folder(options.folder) / "scratch").mkdir(parents=True, exist_ok=True)
    properties = {
        "spark.master": master_url(options, master),
        "spark.driver.host": options.bind,
        "spark.driver.bindAddress": options.bind,
        # So that the executors of a worker that is drained end when their tasks have.
        "spark.decommission.enabled": "true",
    }
    lines = [f"{name} {value}\n" for name, value in properties.items()]
    (folder / "spark-defaults.conf").write_text("".join(lines), encoding="utf-8")


def daemon_command(options: ClusterOptions, record: DaemonRecord, master: DaemonRecord) -> list[str]:
    """Command line of a master or worker; the launcher becomes the daemon, the process stays the same."""
    ports = ["--port", str(record.ports["rpc"]), "--webui-port", str(record.ports["http"])]
    program = [str(spark_home() / "bin" / "spark-class"), _MAIN_CLASSES[record.kind]]
    command = [*program, "--host", host_of(options, record), *ports]
    if record.kind == "worker":
        size = ["--cores", str(options.worker_cores), "--memory", options.worker_memory]
        work = str(work_folder(options.folder) / record.name)
        command += [*size, "--work-dir", work, master_url(options, master)]
    return command


def environment_of(options: ClusterOptions, record: DaemonRecord) -> dict[str, str]:
    """Environment of a master or worker; what a worker has its executors have too."""
    work = work_folder(options.folder)
    daemon = {
        "spark.worker.timeout": _WORKER_TIMEOUT_S,
        "spark.port.maxRetries": 0,
        "spark.decommission.enabled": "true",
    }
    master = {
        # Running applications outlive the master.
        "spark.deploy.recoveryMode": "FILESYSTEM",
        "spark.deploy.recoveryDirectory": recovery_folder(options.folder),
        "spark.master.rest.enabled": "false",
    }
    worker: dict[str, object] = {"spark.worker.cleanup.enabled": "true"}
    if options.gpus_per_worker and record.kind == "worker":
        worker["spark.worker.resource.gpu.amount"] = options.gpus_per_worker
        worker["spark.worker.resource.gpu.discoveryScript"] = _gpu_script_path(options, record)
    return hadoop_environment_of(options) | {
        "SPARK_HOME": str(spark_home()),
        "SPARK_CONF_DIR": str(conf_folder(options.folder)),
        "SPARK_LOCAL_IP": host_of(options, record),
        "SPARK_PUBLIC_DNS": host_of(options, record),
        "SPARK_LOCAL_DIRS": str(work / "scratch"),
        "SPARK_DAEMON_MEMORY": options.daemon_memory,
        "SPARK_DAEMON_JAVA_OPTS": (
            "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.net.preferIPv4Stack=true " + _java_options(daemon)
        ),
        "SPARK_LAUNCHER_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        "SPARK_MASTER_OPTS": _java_options(master),
        "SPARK_WORKER_OPTS": _java_options(worker),
        "SPARK_NO_DAEMONIZE": "1",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": python_path(),
    }


def write_gpu_script(options: ClusterOptions, worker: DaemonRecord) -> None:
    """Write the program that tells Spark which GPUs a worker has, unless one is given; no two workers have the same."""
    if not options.gpus_per_worker or options.gpu_discovery_script is not None:
        return
    first = worker.index * options.gpus_per_worker
    addresses = [str(first + number) for number in range(options.gpus_per_worker)]
    path = _gpu_script_path(options, worker)
    path.write_text(f"#!/bin/sh\necho '{json.dumps({'name': 'gpu', 'addresses': addresses})}'\n", encoding="ascii")
    path.chmod(0o755)


def python_path() -> str:
    """PYTHONPATH that lets executors import these packages: a checkout's root, or nothing when they are installed."""
    root = Path(__file__).resolve().parents[1]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    paths = [*([] if root in installed else [str(root)]), *filter(None, given)]
    return os.pathsep.join(dict.fromkeys(paths))


def ask_master(web_address: str) -> MasterView:
    """Ask the master for its workers and applications.

    Raises
    ------
    OSError
        If it does not answer.
    """
    answer = get_json(web_address, "/json/")
    workers = tuple(_worker_view(each) for each in answer["workers"])
    return MasterView(workers, tuple(str(app["name"]) for app in answer["activeapps"]))


def count_executors(worker_web_address: str) -> int:
    """Executors that run on a worker.

    Raises
    ------
    OSError
        If it does not answer.
    """
    return len(get_json(worker_web_address, "/json/")["executors"])


def application_environment(options: ClusterOptions) -> dict[str, str]:
    """Variables with which an application on this machine uses this Spark."""
    return {
        "HADOOP_CONF_DIR": str(hadoop_conf_folder(options.folder)),
        "SPARK_CONF_DIR": str(conf_folder(options.folder)),
        "SPARK_LOCAL_IP": options.bind,
    }


def _worker_view(told: dict[str, Any]) -> WorkerView:
    address = f"{told['host']}:{told['port']}"
    return WorkerView(str(told["id"]), address, str(told["state"]), int(told["cores"]), int(told["coresused"]))


def _java_options(properties: dict[str, object]) -> str:
    """JVM options in one text, which Spark's launcher splits as a shell does."""
    return " ".join(shlex.quote(f"-D{name}={value}") for name, value in properties.items())


def _gpu_script_path(options: ClusterOptions, worker: DaemonRecord) -> Path:
    return options.gpu_discovery_script or conf_folder(options.folder) / f"gpus-of-{worker.name}.sh"
