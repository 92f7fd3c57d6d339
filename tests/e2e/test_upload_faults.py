# SPDX-License-Identifier: Apache-2.0
"""Uploads into a real HDFS that something happens to: no byte is lost, none is doubled, nothing half-written stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from ingest.chunks import list_scans
from local_cluster.local_cluster import LocalCluster
from local_cluster.options import ClusterOptions
from storage.filesystem import open_store
from storage.retrying import PATIENCE_S
from tests.support.cluster import data_node_writing, require_hdfs
from tests.support.namespaces import Link, require_namespaces
from tests.support.peers import REPOSITORY
from tests.support.upload_faults import require_whole, run_upload, temporaries

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.hdfs
UPLOAD = [sys.executable, "-m", "tests.support.upload_faults"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """The same scan, uploaded undisturbed."""
    store = open_store(tmp_path_factory.mktemp("whole"))
    run_upload(store)
    return store


def start_upload(url: str, before: list[str] | None = None) -> subprocess.Popen[str]:
    """The upload as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [*(before or []), *UPLOAD, url], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
    )


def wait_for_files(process: subprocess.Popen[str], n_files: int) -> list[str]:
    """Read what it says until so many files are written."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("done") or int(line.split()[0]) >= n_files:
            return said
    raise AssertionError(f"the upload ended: {said[-3:]}")


@pytest.mark.parametrize("route", ["hdfs", "webhdfs"])
def test_a_client_killed_in_the_middle_goes_on_when_run_again(hdfs_daemons: LocalCluster, whole, route: str) -> None:
    base = hdfs_daemons.hdfs_url if route == "hdfs" else hdfs_daemons.webhdfs_url
    url = f"{base}/upload-{uuid.uuid4().hex}"
    process = start_upload(url)
    try:
        wait_for_files(process, 2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    store = open_store(url)
    assert list_scans(store) == []
    report = run_upload(store)
    assert report.files_kept >= 2
    assert report.files_kept + report.files_written == 6
    assert report.sent_bytes < report.stored_bytes
    require_whole(store, whole)


@pytest.mark.parametrize("route", ["hdfs", "webhdfs"])
def test_a_data_node_dies_in_the_write(hdfs_daemons: LocalCluster, whole, route: str) -> None:
    base = hdfs_daemons.hdfs_url if route == "hdfs" else hdfs_daemons.webhdfs_url
    killed: list[str] = []
    over = threading.Event()

    def kill_one() -> None:
        """Kill a DataNode as soon as it is seen writing: a quick upload writes each block for moments only."""
        while not over.is_set() and not killed:
            victim = data_node_writing(hdfs_daemons)
            if victim is not None:
                hdfs_daemons.kill(victim)
                killed.append(victim)
            time.sleep(0.001)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        for _ in range(10):
            store = open_store(f"{base}/upload-{uuid.uuid4().hex}")
            report = run_upload(store)
            assert report.files_written == 6
            assert temporaries(store) == []
            require_whole(store, whole)
            if killed:
                break
    finally:
        over.set()
        killer.join()
        hdfs_daemons.revive()
    assert killed


@pytest.mark.slow
@pytest.mark.parametrize("route", ["hdfs", "webhdfs"])
def test_the_name_node_is_restarted_in_an_upload(hdfs_daemons: LocalCluster, whole, route: str) -> None:
    base = hdfs_daemons.hdfs_url if route == "hdfs" else hdfs_daemons.webhdfs_url
    store = open_store(f"{base}/upload-{uuid.uuid4().hex}")
    back = threading.Thread(target=hdfs_daemons.restart, args=("namenode",))

    def kill_it(progress) -> None:
        if progress.files_written >= 1 and back.ident is None:
            hdfs_daemons.kill("namenode")
            back.start()

    try:
        report = run_upload(store, kill_it)
        assert back.ident is not None
        assert report.files_written == 6
        require_whole(store, whole)
    finally:
        back.join()
        hdfs_daemons.revive()


@pytest.mark.slow
@pytest.mark.netns
def test_the_network_is_cut_for_some_seconds(tmp_path: Path, whole) -> None:
    """The client lives in a network namespace; its only link to the cluster goes down and up again."""
    require_hdfs()
    require_namespaces()
    with Link() as link:
        options = ClusterOptions(tmp_path / "cluster", bind=link.address, block_bytes=4 << 20, spark=False)
        with LocalCluster.start(options) as cluster:
            url = f"{cluster.webhdfs_url}/upload"
            process = start_upload(url, link.inside)
            up_again = threading.Timer(8.0, link.up)
            try:
                wait_for_files(process, 1)
                link.down()
                up_again.start()
                said, _ = process.communicate(timeout=120 + PATIENCE_S)
            finally:
                process.kill()
                process.wait()
                up_again.join()
            assert process.returncode == 0, said
            assert said.splitlines()[-1].startswith("done")
            store = open_store(url)
            assert list_scans(store) == ["stone-1"]
            require_whole(store, whole)
