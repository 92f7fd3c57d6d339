# SPDX-License-Identifier: Apache-2.0
"""The main job on a standalone Spark with two workers: as on one machine, and each task with its GPU."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from local_cluster.local_cluster import LocalCluster
from local_cluster.options import ClusterOptions
from pacs.journal import Journal
from pacs.retrieve import InstanceReader
from pacs.scp import PacsServer, ScpConfig
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.planning.series import volume_digest
from storage.filesystem import open_store
from tests.support.cluster import require_hdfs
from tests.support.index_engine import sqlite_index
from tests.support.local_run import LocalRun, store_sample
from tests.support.peers import require_program
from tests.support.reconstruct_alone import start_alone
from tests.support.spark_archive import SCAN_ID

pytestmark = [pytest.mark.spark, pytest.mark.timeout(600)]

WANTED = {"slab_slices": 16, "mode": "fused"}
N_SLABS = 6
TIMEOUT_S = 280


def told_by(process, folder):
    """What a job in a process of its own printed at its end."""
    try:
        printed, _ = process.communicate(timeout=TIMEOUT_S)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    assert process.returncode == 0, (folder / "alone.log").read_text()[-3000:]
    return json.loads(printed)


@dataclasses.dataclass
class Local:
    """The job without any Spark: a store with the scan alone, and the digest of each bin's volume."""

    store: Path
    volumes: list[str]

    def require_same(self, told):
        assert [each for each in told["volumes"] if each] == self.volumes


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    store_sample(folder / "source", (folder / "store").as_uri())
    shutil.copytree(folder / "store", folder / "untouched")
    run = LocalRun(open_store((folder / "store").as_uri()), ReconstructionRequest(SCAN_ID, **WANTED))
    digests = [[hashlib.sha256(values.tobytes()).hexdigest() for values in run.volume(b)] for b in run.plan.bins]
    return Local(folder / "untouched", [volume_digest(each) for each in digests])


@pytest.mark.hdfs
@pytest.mark.slow
def test_each_task_sees_its_own_gpu(local, tmp_path):
    """A worker with two GPUs, which a script tells of and nobody has."""
    require_hdfs()
    shutil.copytree(local.store, tmp_path / "store")
    options = ClusterOptions(
        tmp_path / "cluster", data_nodes=1, replication=1, workers=1, worker_cores=2, gpus_per_worker=2
    )
    with LocalCluster.start(options) as cluster:
        process = start_alone(
            tmp_path, cluster.spark_master, "notes_its_gpu", settings={"gpus_per_executor": 2, "gpus_per_task": 1},
            request={"scan_id": SCAN_ID, **WANTED},
        )  # fmt: skip
        told = told_by(process, tmp_path)
    local.require_same(told)
    notes = tmp_path / "store" / "runs" / told["report"]["run"] / "gpus"
    seen = [json.loads((notes / str(task)).read_text()) for task in range(N_SLABS)]
    assert {note["gpu"] for note in seen} == {"0", "1"}
    assert {note["gpu"] for note in seen[:2]} == {"0", "1"}  # these two ran at the same time
    assert len({note["pid"] for note in seen}) == N_SLABS  # no worker is used again


@pytest.mark.hdfs
@pytest.mark.dcmtk
def test_two_workers_and_hdfs_make_the_bytes_of_one_machine_and_dcmtk_finds_them(spark_cluster, local, tmp_path):
    findscu = require_program("findscu", "dcmtk")
    url = f"{spark_cluster.hdfs_url}/engine/plain"
    store_sample(tmp_path / "source", url)
    settings = {"publishers_per_node": 1}
    process = start_alone(
        tmp_path, spark_cluster.spark_master, "reconstruct_slab", store=url, settings=settings,
        request={"scan_id": SCAN_ID, **WANTED},
    )  # fmt: skip
    told = told_by(process, tmp_path)
    local.require_same(told)
    report = told["report"]
    assert report["shuffle_bytes"] < 1_000_000
    assert report["spark"]["ui_url"].startswith("http://")
    slabs = report["stages"][-1]
    assert slabs["executors"] == 2
    assert slabs["written_bytes"] == report["bytes"]["packs_written"]
    with sqlite_index(tmp_path / "index.sqlite") as index:
        reader = InstanceReader(open_store(url))
        with PacsServer(ScpConfig(port=0), index=index, reader=reader, journal=Journal(tmp_path / "journal")) as server:
            keys = ["QueryRetrieveLevel=SERIES", f"StudyInstanceUID={told['study_uid']}", "SeriesInstanceUID="]
            arguments = [word for key in keys for word in ("-k", key)]
            command = [findscu, "-v", "-S", "-aec", "CONEPACS", *arguments, "127.0.0.1", str(server.port)]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=60, check=True,
                env={**os.environ, "TCP_NODELAY": "1"},
            )  # fmt: skip
    said = done.stdout + done.stderr
    for series in told["series"]:
        assert f"[{series['series_uid']}" in said
    assert said.count("Find Response:") >= len(told["series"])
