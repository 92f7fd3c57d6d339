# SPDX-License-Identifier: Apache-2.0
"""A real HDFS and Spark on this machine: start, look, add, drain, kill, restart, stop.

Nothing is kept in the object but which daemons are children of this process: every call reads the state file of the
folder, so several processes can work with one cluster.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from local_cluster import hdfs, spark
from local_cluster.drain import drain_worker, exclude_data_node, wait_until_decommissioned
from local_cluster.errors import ClusterOptionsError, ClusterRunningError, NotRunningError
from local_cluster.launch import (
    forget_applications,
    hadoop_java,
    launch_of,
    master_of,
    require_parts,
    write_configuration,
)
from local_cluster.layout import added_records, first_state, with_spark
from local_cluster.operator_files import write_operator_files
from local_cluster.processes import (
    ProcessKey,
    collect_children,
    key_of,
    kill_process,
    marked_processes,
    spawn,
    stop_processes,
)
from local_cluster.readiness import wait_for_daemon, wait_for_master, wait_until_forgotten, wait_until_ready
from local_cluster.state import STATE_FILE, ClusterState, DaemonRecord, locked, read_state, write_state
from local_cluster.status import ClusterStatus, log_path, read_status

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from local_cluster.options import ClusterOptions

_log = logging.getLogger(__name__)

START_TIMEOUT_S = 240.0
DRAIN_TIMEOUT_S = 300.0
_FOLDERS = ("hdfs", "spark", "yarn", "hadoop-conf", "spark-conf", "journal")


class LocalCluster:
    """A cluster in a folder; as a context manager it is stopped at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @classmethod
    def start(cls, options: ClusterOptions, *, timeout_s: float = START_TIMEOUT_S) -> LocalCluster:
        """Start HDFS, and Spark and YARN if wanted, and wait until all of it takes part.

        Data that the folder holds from an earlier start stays and is served again, by as many data nodes as hold it.
        What a crash left running is ended first.

        Raises
        ------
        ClusterRunningError
            If the folder has a running cluster.
        MissingPartError, ClusterOptionsError, DaemonFailedError, StateFileError
            If it cannot start; nothing is left running then.
        """
        require_parts(options)
        cluster = cls(options.folder)
        with locked(cluster.folder):
            old = read_state(cluster.folder)
            if old is not None:
                _require_stopped(old)
            stop_processes(marked_processes(str(cluster.folder)))
            state = first_state(options, old)
            write_state(replace(state, starter=key_of(os.getpid())))
        try:
            forget_applications(state)
            cluster._bring_up(timeout_s)
        except BaseException:
            cluster._update(lambda state: replace(state, starter=None))
            cluster.stop()
            raise
        cluster._update(lambda state: replace(state, starter=None))
        return cluster

    @classmethod
    def open(cls, folder: Path) -> LocalCluster:
        """Take up the running cluster of a folder.

        Raises
        ------
        NotRunningError
            If none runs there.
        """
        cluster = cls(folder)
        cluster._running_state()
        return cluster

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def options(self) -> ClusterOptions:
        """What it was started with."""
        return self._state().options

    @property
    def hdfs_url(self) -> str:
        """URL of the file system, ``hdfs://host:port``."""
        state = self._state()
        return hdfs.hdfs_url(state.options, state.record("namenode"))

    @property
    def web_address(self) -> str:
        """host:port of the NameNode's web server."""
        return self._web_address("namenode")

    @property
    def webhdfs_url(self) -> str:
        """URL of the file system over HTTP, ``webhdfs://host:port``."""
        return f"webhdfs://{self.web_address}"

    @property
    def spark_master(self) -> str:
        """URL of Spark's master, ``spark://host:port``."""
        state = self._state()
        return spark.master_url(state.options, master_of(state))

    @property
    def spark_ui_url(self) -> str:
        """Page of Spark's master."""
        return f"http://{self._web_address(master_of(self._state()).name)}"

    @property
    def conf_folder(self) -> Path:
        """HADOOP_CONF_DIR."""
        return hdfs.conf_folder(self.folder)

    def log_path(self, name: str) -> Path:
        """Log file of a daemon."""
        return log_path(self.folder, self._state().record(name).name)

    def data_path(self, name: str) -> Path:
        """Folder that a data node or the NameNode keeps its blocks or its tables in."""
        return hdfs.data_folder(self.folder) / self._state().record(name).name

    def status(self) -> ClusterStatus:
        """Ask all daemons how they are; one that does not answer makes no error."""
        self._collect()
        return read_status(self._state())

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until HDFS is out of safe mode and every daemon that should run takes part.

        Raises
        ------
        DaemonFailedError
            If one of them is dead, or not ready in time.
        """
        self._collect()
        wait_until_ready(self._state(), timeout_s)

    def add(
        self, kind: Literal["datanode", "worker"], count: int = 1, *, timeout_s: float = START_TIMEOUT_S
    ) -> tuple[str, ...]:
        """Start further data nodes or workers and wait until they take part; return their names.

        Raises
        ------
        NotRunningError
            If there is no cluster, or it has no Spark.
        DaemonFailedError
            If one does not start; none of them is left then.
        """
        if kind not in ("datanode", "worker"):
            raise ClusterOptionsError(f"a {kind} cannot be added, expected datanode or worker")
        state = self._running_state()
        if kind == "worker":
            master_of(state)
        with locked(self.folder):
            state = self._state()
            records = added_records(state, kind, count)
            for record in records:
                state = state.with_record(record)
            write_state(state)
        names = tuple(record.name for record in records)
        try:
            for name in names:
                self._spawn(name)
            for name in names:
                wait_for_daemon(self._state(), name, timeout_s)
        except BaseException:
            self._stop_daemons(names)
            self._update(lambda state: state.without(names))
            raise
        return names

    def drain(self, name: str, timeout_s: float = DRAIN_TIMEOUT_S) -> None:
        """Take a data node or worker out of service without losing anything, then stop it.

        The blocks of a data node are copied to the others first.  A worker gets no new tasks, and ends when those it
        runs have.

        Raises
        ------
        DrainError
            If it cannot be drained, or has work left after `timeout_s` [s]; it stays out of service, and draining it
            again waits on.
        NotRunningError, UnknownDaemonError
            If it does not run, or there is none of this name.
        """
        record = self._require_running(name)
        if record.kind == "datanode":
            self._update(lambda state: exclude_data_node(state, name, hadoop_java(self.options)))
            wait_until_decommissioned(self._state(), record, timeout_s)
        elif record.kind == "worker":
            drain_worker(self._state(), record, timeout_s)
        else:
            raise ClusterOptionsError(f"{name} cannot be drained: only data nodes and workers can")
        self._stop_daemons([name])
        self._update(lambda state: state.with_record(replace(state.record(name), wanted="drained", process=None)))

    def kill(self, name: str) -> None:
        """Kill a daemon without a warning (SIGKILL).

        Raises
        ------
        NotRunningError, UnknownDaemonError
            If it does not run, or there is none of this name.
        """
        record = self._require_running(name)
        assert record.process is not None
        kill_process(record.process)
        self._collect()

    def restart(self, name: str, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start a daemon again on the same ports and folder, also one that was killed or drained; wait until it is in.

        Raises
        ------
        DaemonFailedError
            If it does not start.
        UnknownDaemonError
            If there is none of this name.
        """
        state = self._running_state()
        record = state.record(name)
        self._stop_daemons([name])
        if record.wanted == "drained":
            self._update(lambda state: state.with_record(replace(state.record(name), wanted="up")))
        if record.kind == "datanode" and record.wanted == "drained":
            state = self._state()
            hdfs.write_excluded(state.options, state.drained("datanode"))
            hdfs.refresh_nodes(state.options, hadoop_java(self.options))
        if record.kind == "worker":
            wait_until_forgotten(self._state(), record, timeout_s)
        self._spawn(name)
        wait_for_daemon(self._state(), name, timeout_s)

    def revive(self, *, timeout_s: float = START_TIMEOUT_S) -> tuple[str, ...]:
        """Start every daemon again that should run and is dead; return their names."""
        self._running_state()
        return self._bring_up(timeout_s)

    def start_spark(
        self, *, workers: int = 2, worker_cores: int = 1, worker_memory: str = "1g",
        timeout_s: float = START_TIMEOUT_S,
    ) -> None:  # fmt: skip
        """Add a standalone Spark, master and workers, to a cluster that has none.

        Raises
        ------
        ClusterRunningError
            If it has one.
        DaemonFailedError
            If it does not start.
        """
        if self._running_state().of_kind("master"):
            raise ClusterRunningError(f"the cluster in {self.folder} has a Spark already")
        options = replace(
            self.options, spark=True, workers=workers, worker_cores=worker_cores, worker_memory=worker_memory
        )
        self._update(lambda state: with_spark(replace(state, options=options)))
        self._bring_up(timeout_s)

    def stop(self, *, grace_s: float = 10.0) -> None:
        """End all daemons and what they started, by SIGTERM, after `grace_s` [s] by SIGKILL; data and logs stay.

        Raises
        ------
        ClusterRunningError
            If another process is just starting it.
        """
        if not self.folder.is_dir():
            return
        with locked(self.folder):
            state = read_state(self.folder)
            if state is not None and state.starter not in (None, key_of(os.getpid())):
                _require_no_starter(state)
            keys = [record.process for record in state.running() if record.process] if state is not None else []
            stubborn = stop_processes(keys, grace_s=grace_s)
            for key in stubborn:
                _log.warning("process %d did not end within %g s and was killed", key.pid, grace_s)
            # Executors end with their worker; what is left now was orphaned.
            stop_processes(marked_processes(str(self.folder)), grace_s=2.0)
            self._collect()
            self._children.clear()
            if state is not None:
                ended = tuple(replace(record, process=None) for record in state.daemons)
                write_state(replace(state, daemons=ended, starter=None))

    def wipe(self) -> None:
        """Delete the data, index, configuration and state of a cluster that is stopped; logs stay.

        Raises
        ------
        ClusterRunningError
            If it runs.
        """
        with locked(self.folder):
            state = read_state(self.folder)
            if state is None:
                return
            _require_stopped(state)
            for name in _FOLDERS:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            # The index and the journal of the settings in the folder go with the store that they are of.
            for pattern in ("env.sh", "conepacs.toml", "index.sqlite*", STATE_FILE):
                for path in self.folder.glob(pattern):
                    path.unlink()

    def _state(self) -> ClusterState:
        state = read_state(self.folder)
        if state is None:
            raise NotRunningError(f"{self.folder} has no cluster: conepacs cluster up starts one")
        return state

    def _running_state(self) -> ClusterState:
        state = self._state()
        if not state.running():
            raise NotRunningError(f"the cluster in {self.folder} does not run: conepacs cluster up starts it")
        return state

    def _update(self, change: Callable[[ClusterState], ClusterState]) -> None:
        with locked(self.folder):
            write_state(change(self._state()))

    def _web_address(self, name: str) -> str:
        state = self._state()
        record = state.record(name)
        return f"{spark.host_of(state.options, record)}:{record.ports['http']}"

    def _require_running(self, name: str) -> DaemonRecord:
        record = self._state().record(name)
        if not record.running:
            raise NotRunningError(f"{name} of the cluster in {self.folder} does not run")
        return record

    def _bring_up(self, timeout_s: float) -> tuple[str, ...]:
        """Start what should run and does not; what need not wait for each other at the same time."""
        started = time.monotonic()
        state = self._state()
        names = tuple(record.name for record in state.daemons if record.wanted == "up" and not record.running)
        write_configuration(state)
        early = [name for name in names if state.record(name).kind == "master"]
        late = [name for name in names if state.record(name).kind == "worker"]
        for name in early:
            self._spawn(name)
        if not hdfs.is_formatted(self.folder):
            hdfs.format_name_node(state.options, hadoop_java(state.options))
        for name in names:
            if name not in early and name not in late:
                self._spawn(name)
        if late:
            # A worker that comes before its master listens tries again only after seconds.
            wait_for_master(self._state(), timeout_s)
        for name in late:
            wait_until_forgotten(self._state(), state.record(name), timeout_s)
            self._spawn(name)
        self.wait_until_ready(timeout_s)
        write_operator_files(self._state())
        _log.info("cluster in %s ready after %.1f s", self.folder, time.monotonic() - started)
        return names

    def _spawn(self, name: str) -> None:
        """Start one daemon and note its process."""
        state = self._state()
        command, environment = launch_of(state, state.record(name))
        log = log_path(self.folder, name)
        child, key = spawn(command, log=log, folder=self.folder, environment=environment, mark=str(self.folder))
        self._children[name] = child
        self._update(lambda state: state.with_record(replace(state.record(name), process=key)))
        _log.info("%s started as process %d", name, key.pid)

    def _stop_daemons(self, names: tuple[str, ...] | list[str]) -> None:
        state = self._state()
        keys: list[ProcessKey] = [key for name in names if (key := state.record(name).process) is not None]
        stop_processes(keys)
        self._collect()

    def _collect(self) -> None:
        collect_children(list(self._children.values()))  # other threads may start daemons


def _require_stopped(state: ClusterState) -> None:
    _require_no_starter(state)
    running = state.running()
    if running:
        raise ClusterRunningError(
            f"the cluster in {state.options.folder} runs already ({len(running)} of {len(state.daemons)} daemons)"
        )


def _require_no_starter(state: ClusterState) -> None:
    if state.being_started:
        assert state.starter is not None
        raise ClusterRunningError(
            f"the cluster in {state.options.folder} is just being started by process {state.starter.pid}: wait for "
            "it, or interrupt it"
        )
