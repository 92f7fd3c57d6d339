# SPDX-License-Identifier: Apache-2.0
"""Parts of the cluster die while the main job runs: the same bytes come, and each series once.

What takes longer is in `test_fault_campaign.py`.
"""

from __future__ import annotations

import os
import signal

import pytest

from spark_jobs.running.reconstruct_scan import reconstruct_scan
from storage.filesystem import open_store
from tests.support.cluster_job import copy_scan, python_workers, registered, request_of, run_undisturbed, volumes
from tests.support.index_engine import sqlite_index
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.hdfs, pytest.mark.spark]


@pytest.fixture(scope="module")
def undisturbed(spark_cluster, tmp_path_factory):
    return run_undisturbed(spark_cluster, tmp_path_factory.mktemp("faults"))


def test_a_data_node_is_killed(undisturbed):
    job = undisturbed.again("data-node").start()
    job.wait_for_slabs(2)
    undisturbed.cluster.kill("datanode0")
    try:
        undisturbed.require_same(job, job.result())
    finally:
        undisturbed.cluster.restart("datanode0")


def test_a_spark_worker_is_killed(undisturbed):
    job = undisturbed.again("worker").start()
    job.wait_for_slabs(2)
    undisturbed.cluster.kill("worker0")
    try:
        undisturbed.require_same(job, job.result())
    finally:
        undisturbed.cluster.restart("worker0")


def test_a_python_worker_is_killed(undisturbed):
    job = undisturbed.again("python").start()
    job.wait_for_slabs(2)
    worker = next(d for d in undisturbed.cluster.status().daemons if d.name == "worker1")
    for victim in wait_until("a Python worker", lambda: python_workers(worker.pid)):
        os.kill(victim, signal.SIGKILL)
    undisturbed.require_same(job, job.result())


def test_the_local_run_has_the_same_voxels(undisturbed, spark_session, tmp_path):
    """The cluster's bytes are those of one machine without any server."""
    url = (tmp_path / "store").as_uri()
    copy_scan(undisturbed.job.store_url, url, undisturbed.result["run_name"])
    with sqlite_index(tmp_path / "index.sqlite") as index:
        result = reconstruct_scan(open_store(url), index, request_of(), session=lambda: spark_session)
    assert {s.series_uid: s.volume_sha256 for s in result.series if s.volume_sha256} == volumes(undisturbed.result)
    assert registered(tmp_path / "index.sqlite") == registered(undisturbed.job.index)
