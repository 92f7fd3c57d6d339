# SPDX-License-Identifier: Apache-2.0
"""Daemons are told by pid and start time: another process with the pid of one is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from local_cluster import processes
from local_cluster.errors import (
    ClusterRunningError,
    DaemonFailedError,
    DrainError,
    MissingPartError,
    NotRunningError,
    StateFileError,
    UnknownDaemonError,
)
from local_cluster.layout import first_state
from local_cluster.local_cluster import LocalCluster
from local_cluster.options import ClusterOptions
from local_cluster.processes import (
    is_running,
    key_of,
    kill_process,
    marked_processes,
    send_signal,
    spawn,
    stop_processes,
)
from local_cluster.readiness import wait_for_daemon
from local_cluster.state import ClusterState, read_state, write_state
from tests.support.waiting import wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); "
            "time.sleep(600)"]  # fmt: skip


@pytest.fixture
def start(tmp_path):
    """Start a process as daemons are started; all are ended afterwards."""
    children = []

    def start_one(command, mark=None):
        child, key = spawn(
            command, log=tmp_path / "logs" / "x.log", folder=tmp_path, environment=os.environ, mark=mark or "nothing"
        )
        children.append(child)
        return key

    yield start_one
    for child in children:
        child.kill()
        child.wait()


def reused(key):
    """The key of an earlier process that had this pid."""
    return replace(key, started=key.started.rpartition("/")[0] + "/1")


def test_a_process_is_known_by_its_start(start):
    key = start(SLEEP)
    assert key_of(key.pid) == key
    assert is_running(key)
    assert not is_running(reused(key))
    assert not is_running(replace(key, started=f"another-boot/{key.started.rpartition('/')[2]}"))
    kill_process(key)
    assert not is_running(key)
    assert key_of(key.pid) is None  # although it waits to be collected
    assert send_signal(key, signal.SIGTERM) is False


def test_a_reused_pid_is_never_signalled(start):
    key = start(SLEEP)
    assert send_signal(reused(key), signal.SIGKILL) is False
    assert stop_processes([reused(key)]) == []
    kill_process(reused(key))
    assert is_running(key)


def test_what_does_not_end_is_killed_after_a_grace(start, tmp_path):
    polite, stubborn = start(SLEEP), start(STUBBORN)
    wait_until("it ignores SIGTERM", lambda: "up" in (tmp_path / "logs" / "x.log").read_text())
    assert stop_processes([polite, stubborn], grace_s=0.5) == [stubborn]
    assert not is_running(polite)
    assert not is_running(stubborn)


def test_orphans_are_found_by_their_mark(start):
    mark = uuid.uuid4().hex
    parent = start(
        [sys.executable, "-c", f"import subprocess, time; subprocess.Popen({SLEEP!r}, start_new_session=True); "
         "time.sleep(600)"], mark)  # fmt: skip
    wait_until("the child runs", lambda: len(marked_processes(mark)) == 2)
    kill_process(parent)
    (orphan,) = marked_processes(mark)
    assert marked_processes(mark + "x") == []
    stop_processes([orphan])
    assert marked_processes(mark) == []


def test_a_program_that_is_not_there_is_told(start):
    with pytest.raises(MissingPartError, match="/no/such/java does not run: No such file"):
        start(["/no/such/java"])


def test_other_systems_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    with pytest.raises(MissingPartError, match="needs Linux"):
        processes.require_linux()


def running_state(tmp_path: Path, keys: dict[str, processes.ProcessKey]) -> ClusterState:
    """State of a cluster whose daemons are the given processes."""
    state = first_state(ClusterOptions(tmp_path), None)
    for name, key in keys.items():
        state = state.with_record(replace(state.record(name), process=key))
    write_state(state)
    return state


def test_the_state_is_read_as_it_was_written(tmp_path, start):
    state = running_state(tmp_path, {"namenode": start(SLEEP)})
    state = replace(state.with_record(replace(state.record("worker1"), wanted="drained")), starter=key_of(os.getpid()))
    write_state(state)
    assert read_state(tmp_path) == state
    assert [record.name for record in state.running()] == ["namenode"]
    assert state.being_started
    assert [path.name for path in tmp_path.glob(".state*")] == []
    assert read_state(tmp_path / "elsewhere") is None
    with pytest.raises(UnknownDaemonError, match="has no daemon 'worker7': it has namenode, datanode0"):
        state.record("worker7")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "is damaged"),
        (b"[]", "is damaged"),
        (b'{"schema": 99}', "is of version 99, expected 1"),
        (b'{"schema": 1, "options": {}, "daemons": [{"kind": "cat"}], "starter": null}', "is damaged"),
        (b"\xff\xfe", "is damaged"),
    ],
)
def test_a_damaged_state_file_is_told(tmp_path, content, reason):
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(StateFileError, match=reason):
        read_state(tmp_path)


def test_stopping_ends_our_processes_and_no_others(tmp_path, start):
    ours, orphan, stranger = start(SLEEP), start(SLEEP, mark=str(tmp_path)), start(SLEEP)
    running_state(tmp_path, {"namenode": ours, "worker0": reused(stranger)})
    cluster = LocalCluster.open(tmp_path)
    cluster.stop()
    assert not is_running(ours)
    assert not is_running(orphan)
    assert is_running(stranger)
    state = read_state(tmp_path)
    assert state is not None
    assert [record.process for record in state.daemons if record.process] == []
    with pytest.raises(NotRunningError, match="does not run: conepacs cluster up starts it"):
        LocalCluster.open(tmp_path)
    cluster.stop()  # twice is no fault


def test_what_runs_is_neither_started_nor_wiped(tmp_path, start, monkeypatch):
    monkeypatch.setattr("local_cluster.local_cluster.require_parts", lambda options: None)
    running_state(tmp_path, {"namenode": start(SLEEP)})
    with pytest.raises(ClusterRunningError, match=r"runs already \(1 of 7 daemons\)"):
        LocalCluster.start(ClusterOptions(tmp_path))
    with pytest.raises(ClusterRunningError, match="runs already"):
        LocalCluster(tmp_path).wipe()


def test_nobody_interferes_while_another_process_starts_it(tmp_path, start, monkeypatch):
    monkeypatch.setattr("local_cluster.local_cluster.require_parts", lambda options: None)
    state = first_state(ClusterOptions(tmp_path), None)
    other = start(SLEEP)
    write_state(replace(state, starter=other))
    with pytest.raises(ClusterRunningError, match=f"just being started by process {other.pid}"):
        LocalCluster.start(ClusterOptions(tmp_path))
    with pytest.raises(ClusterRunningError, match="just being started"):
        LocalCluster(tmp_path).stop()
    write_state(replace(state, starter=reused(other)))
    LocalCluster(tmp_path).stop()
    assert is_running(other)


def test_wiping_leaves_logs_only(tmp_path, start):
    state = running_state(tmp_path, {"namenode": start(SLEEP)})
    for name in ("hdfs/namenode/current/VERSION", "spark/worker0/x", "logs/namenode.log", "index.sqlite-wal", "env.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "mine.txt").write_text("x")
    cluster = LocalCluster(state.options.folder)
    cluster.stop()
    cluster.wipe()
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["lock", "logs/namenode.log", "logs/x.log", "mine.txt"]
    cluster.wipe()


def test_a_dead_daemon_is_told_with_its_reason(tmp_path, start):
    gone = start([sys.executable, "-c", "pass"])
    state = running_state(tmp_path, {"namenode": gone, "worker0": gone})
    (tmp_path / "logs" / "namenode.log").write_text(
        "INFO starting\n2026 ERROR NameNode: java.net.BindException: Address in use\n\tat java.base/x\nINFO exiting\n"
    )
    wait_until("it has ended", lambda: not is_running(gone))
    with pytest.raises(DaemonFailedError, match=r"namenode has ended \(2026 ERROR NameNode: .*Address in use\): see /"):
        wait_for_daemon(state, "namenode", 5.0)
    with pytest.raises(DaemonFailedError, match="worker0 has ended"):
        wait_for_daemon(state, "worker0", 5.0)


def test_what_cannot_be_drained_or_killed_is_told(tmp_path, start):
    keys = {name: start(SLEEP) for name in ("namenode", "datanode0", "datanode1")}
    running_state(tmp_path, keys)
    cluster = LocalCluster.open(tmp_path)
    with pytest.raises(DrainError, match="datanode0 cannot be drained: 1 data nodes would be left for 2 copies"):
        cluster.drain("datanode0")
    with pytest.raises(NotRunningError, match=r"worker0 of the cluster in .* does not run"):
        cluster.drain("worker0")
    with pytest.raises(ValueError, match="namenode cannot be drained: only data nodes and workers can"):
        cluster.drain("namenode")
    with pytest.raises(ValueError, match="a namenode cannot be added"):
        cluster.add("namenode")
    with pytest.raises(NotRunningError):
        cluster.kill("worker1")
    cluster.kill("datanode1")
    assert not is_running(keys["datanode1"])
    seen = cluster.status()
    assert (seen.daemon("datanode1").state, seen.daemon("datanode0").state) == ("dead", "running")
    assert not seen.hdfs.reachable
    assert not seen.healthy


def test_children_that_end_leave_nothing_behind(tmp_path):
    """A process that starts daemons and goes on collects them."""
    child, key = spawn(
        [sys.executable, "-c", "pass"], log=tmp_path / "x.log", folder=tmp_path, environment=os.environ, mark="x"
    )
    wait_until("it has ended", lambda: not is_running(key))
    processes.collect_children([child])
    assert not Path(f"/proc/{key.pid}").exists()
    assert isinstance(child, subprocess.Popen)
