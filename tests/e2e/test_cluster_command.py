# SPDX-License-Identifier: Apache-2.0
"""The command's cluster on real daemons: started, grown, drained, mended, stopped, and nothing of its data lost."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from local_cluster.local_cluster import LocalCluster
from local_cluster.options import ClusterOptions
from local_cluster.processes import marked_processes, send_signal
from storage.filesystem import open_store
from storage.publish import publish_bytes
from tests.support.cluster import require_hdfs
from tests.support.command_line import conepacs_apart
from tests.support.namespaces import Link, require_namespaces

pytestmark = [pytest.mark.hdfs, pytest.mark.timeout(600)]

FILES = 6


def content(number: int) -> bytes:
    return random.Random(number).randbytes(700_000)


def digests(store) -> list[str]:
    return [hashlib.sha256(store.read_bytes(f"scan/{number}")).hexdigest() for number in range(FILES)]


def fill(store) -> list[str]:
    for number in range(FILES):
        publish_bytes(store, f"scan/{number}", content(number), kind="replace")
    return [hashlib.sha256(content(number)).hexdigest() for number in range(FILES)]


def listening_addresses(folder: Path) -> set[str]:
    """IPv4 addresses that the daemons of a cluster listen on."""
    inodes = set()
    for key in marked_processes(str(folder)):
        for descriptor in Path(f"/proc/{key.pid}/fd").iterdir():
            try:
                target = os.readlink(descriptor)
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                octets = bytes.fromhex(fields[1].partition(":")[0])[-4:]  # of IPv6: the IPv4 address mapped into it
                found.add(".".join(str(octet) for octet in reversed(octets)))
    return found


@pytest.mark.spark
def test_a_cluster_lives_by_the_command(tmp_path):
    require_hdfs()
    folder = tmp_path / "cluster"

    def cluster(*words, code=0):
        outcome = conepacs_apart("cluster", *words, "--folder", folder, folder=tmp_path, timeout_s=300.0)
        assert outcome.code == code, outcome
        assert "Traceback" not in outcome.err
        return outcome.out

    def seen(code=0):
        return json.loads(cluster("status", "--json", code=code))

    start = ("up", "--workers", 1, "--worker-memory", "512m", "--block-size", "1MiB", "--json")
    try:
        places = json.loads(cluster(*start))
        assert places["news"].startswith("ready after")
        assert json.loads(cluster(*start))["news"] == "runs already"
        assert listening_addresses(folder) == {"127.0.0.1"}
        store = open_store(places["store"])
        stored = fill(store)
        status = seen()
        assert (status["hdfs"]["live_data_nodes"], status["spark"]["workers"]) == (3, {"worker0": "ALIVE"})

        assert cluster("add", "worker") == "added: worker1\n"
        assert seen()["spark"]["workers"] == {"worker0": "ALIVE", "worker1": "ALIVE"}
        cluster("drain", "worker0")
        cluster("drain", "datanode1")
        status = seen()
        states = {daemon["name"]: daemon["state"] for daemon in status["daemons"]}
        assert (states["worker0"], states["worker1"], states["datanode1"]) == ("drained", "alive", "drained")
        assert status["hdfs"]["under_replicated_blocks"] == status["hdfs"]["missing_blocks"] == 0
        assert digests(store) == stored

        pids = {daemon["name"]: daemon["pid"] for daemon in status["daemons"]}
        for name in ("datanode0", "worker1"):
            os.kill(pids[name], signal.SIGKILL)
        states = {daemon["name"]: daemon["state"] for daemon in seen(code=4)["daemons"]}
        assert (states["datanode0"], states["worker1"]) == ("dead", "dead")
        assert digests(store) == stored
        assert json.loads(cluster(*start))["started_again"] == ["datanode0", "worker1"]
        assert seen()["spark"]["workers"] == {"worker1": "ALIVE"}

        assert cluster("down").startswith("5 daemons of ")
        assert marked_processes(str(folder)) == []
        assert (folder / "logs" / "worker1.log").stat().st_size > 0
        cluster("status", code=4)
        assert "its data are deleted" in cluster("down", "--wipe")
        assert not (folder / "hdfs").exists()
    finally:
        LocalCluster(folder).stop()


def test_what_a_crash_left_is_cleaned_and_the_data_served_again(tmp_path):
    require_hdfs()
    options = ClusterOptions(tmp_path / "cluster", data_nodes=1, replication=1, spark=False, block_bytes=1 << 20)
    with LocalCluster.start(options) as cluster:
        url = cluster.hdfs_url
        stored = fill(open_store(url))
        # As after a crash: nothing runs but an orphan, and the state file says that all does.
        orphan = subprocess.Popen(["sleep", "600"], env={**os.environ, "CONEPACS_DAEMON_OF": str(cluster.folder)})
        for daemon in cluster.status().daemons:
            cluster.kill(daemon.name)
        with LocalCluster.start(options) as again:
            assert orphan.wait(10) == -signal.SIGTERM
            assert again.hdfs_url == url
            assert digests(open_store(url)) == stored
            assert [key for key in marked_processes(str(again.folder)) if not send_signal(key, signal.SIGCONT)] == []
        assert marked_processes(str(again.folder)) == []


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.netns
def test_every_daemon_listens_on_the_address_that_was_asked_for(tmp_path):
    require_hdfs()
    require_namespaces()
    with Link() as link:
        options = ClusterOptions(tmp_path / "cluster", bind=link.address, data_nodes=1, replication=1, workers=1)
        with LocalCluster.start(options) as cluster:
            # A data node has a part of its web server on loopback, whatever it is told.
            assert listening_addresses(cluster.folder) == {link.address, "127.0.0.1"}
            read = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).status)"
            for url in (cluster.spark_ui_url, f"http://{cluster.web_address}/jmx"):
                told = subprocess.run(
                    [*link.inside, sys.executable, "-c", read, url], capture_output=True, text=True, check=True
                )
                assert told.stdout == "200\n"
