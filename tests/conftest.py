# SPDX-License-Identifier: Apache-2.0
"""Fixtures that all tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from local_cluster.local_cluster import LocalCluster
from local_cluster.options import ClusterOptions
from tests.support.cluster import require_hdfs, require_spark
from tests.support.postgres import postgresql_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

    from tests.support.s3_server import S3Server


@pytest.fixture(scope="session")
def hdfs_daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """The one HDFS of this test session (NameNode, three data nodes); each test writes under a folder of its own."""
    require_hdfs()
    options = ClusterOptions(tmp_path_factory.mktemp("hdfs"), block_bytes=4 << 20, spark=False, daemon_memory="128m")
    with LocalCluster.start(options) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def spark_cluster(hdfs_daemons: LocalCluster) -> LocalCluster:
    """The same HDFS with a standalone Spark beside it: a master and two workers of one core.

    The tests' own process has the local Spark of `spark_session`: a driver on this one runs in a process of its own.
    Whoever kills a daemon starts it again.
    """
    hdfs_daemons.start_spark(workers=2, worker_cores=1, worker_memory="1g")
    return hdfs_daemons


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The one S3 server of this test session, and keys for it in the environment."""
    # Only here: the other tests need no s3fs.
    from tests.support.s3_server import CREDENTIALS, S3Server, require_s3

    require_s3()
    with pytest.MonkeyPatch.context() as patch, S3Server(tmp_path_factory.mktemp("s3")) as server:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def spark_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The one Spark of this test session, with two workers."""
    # Only here: the other tests need no pyspark.
    from tests.support.spark_session import start_spark

    require_spark()
    spark = start_spark("local[2]", tmp_path_factory.mktemp("spark"))
    yield spark
    spark.stop()


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """The one PostgreSQL of this test session; each test makes a database of its own (`tests.support.postgres`)."""
    with postgresql_server() as url:
        yield url
