# SPDX-License-Identifier: Apache-2.0
"""The whole main job on a real HDFS: upload, Spark, packs, index, and a slice read back."""

import hashlib

import pytest

from pacs.pack import read_entry
from pacs.retrieve import InstanceReader
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.running.reconstruct_scan import reconstruct_scan
from storage.filesystem import open_store
from tests.support.index_engine import sqlite_index
from tests.support.local_run import store_sample

pytestmark = [pytest.mark.hdfs, pytest.mark.spark]


def test_the_main_job_on_hdfs_gives_what_a_local_folder_gives(hdfs_daemons, spark_session, tmp_path):
    """In two stages, so that filtered rows go over HDFS too."""
    request = ReconstructionRequest("sample-marker", slab_slices=16, mode="two_stage")
    results = {}
    for place, url in (("hdfs", f"{hdfs_daemons.hdfs_url}/main-job"), ("local", (tmp_path / "store").as_uri())):
        store_sample(tmp_path / f"source-{place}", url)
        store = open_store(url)
        with sqlite_index(tmp_path / f"{place}.sqlite") as index:
            result = results[place] = reconstruct_scan(store, index, request, session=lambda: spark_session)
            assert result.outcomes == {"added": 136, "identical": 0, "version": 0}
            records = index.instances(series_uids=[result.series[0].series_uid])
        assert len(records) == 45
        record = records[22]
        part10 = InstanceReader(store).open_bytes(record.location)
        assert part10 == read_entry(store, record.location)
        assert hashlib.sha256(part10).hexdigest() == record.location.sha256
        assert part10[128:132] == b"DICM"
        folders = [entry.path for entry in store.list_folder(f"runs/{result.run_name}") if entry.is_folder]
        assert folders == [f"runs/{result.run_name}/done"]
        assert store.exists(result.report_path)
    assert results["hdfs"].run_name == results["local"].run_name
    for ours, theirs in zip(results["hdfs"].series, results["local"].series, strict=True):
        assert ours.volume_sha256 == theirs.volume_sha256
        assert (ours.series_uid, ours.n_instances) == (theirs.series_uid, theirs.n_instances)
