# SPDX-License-Identifier: Apache-2.0
"""The whole main job on an S3 server: upload, Spark, packs, index, and a slice read back."""

from __future__ import annotations

import hashlib

import pytest

from pacs.retrieve import InstanceReader
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.running.reconstruct_scan import reconstruct_scan
from storage.filesystem import open_store
from storage.publish import is_temporary
from tests.support.index_engine import sqlite_index
from tests.support.local_run import store_sample
from tests.support.s3_server import CREDENTIALS

pytestmark = pytest.mark.spark


@pytest.fixture
def spark_with_keys(spark_session):
    """The session, whose workers have the keys of the S3 server."""
    environment = spark_session.sparkContext.environment
    before = dict(environment)
    environment.update(CREDENTIALS)
    yield spark_session
    environment.clear()
    environment.update(before)


def test_the_main_job_on_s3_gives_what_a_local_folder_gives(s3_server, spark_with_keys, tmp_path):
    request = ReconstructionRequest("sample-marker", slab_slices=16, mode="two_stage")
    results = {}
    for place, url in (("s3", s3_server.make_bucket()), ("local", (tmp_path / "store").as_uri())):
        store_sample(tmp_path / f"source-{place}", url, n_views=16, n_rows=32, n_cols=40)
        store = open_store(url)
        with sqlite_index(tmp_path / f"{place}.sqlite") as index:
            result = results[place] = reconstruct_scan(store, index, request, session=lambda: spark_with_keys)
            assert result.outcomes["added"] == sum(series.n_instances for series in result.series) > 0
            record = index.instances(series_uids=[result.series[0].series_uid])[0]
        part10 = InstanceReader(store).open_bytes(record.location)
        assert hashlib.sha256(part10).hexdigest() == record.location.sha256
        assert part10[128:132] == b"DICM"
        assert store.exists(result.report_path)
        assert not [entry for entry in store.list_folder(f"runs/{result.run_name}") if is_temporary(entry.path)]
    assert results["s3"].run_name == results["local"].run_name
    for ours, theirs in zip(results["s3"].series, results["local"].series, strict=True):
        assert ours.volume_sha256 == theirs.volume_sha256
        assert (ours.series_uid, ours.n_instances) == (theirs.series_uid, theirs.n_instances)
