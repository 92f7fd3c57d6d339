# SPDX-License-Identifier: Apache-2.0
"""Fixtures that all tests share."""

from __future__ import annotations

import importlib.util
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.fetch_minicluster import cached_jar
from tests.support.hdfs_daemons import HdfsDaemons
from tests.support.peers import require_peer
from tests.support.postgres import postgresql_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def hdfs_daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HdfsDaemons]:
    """The one HDFS of this test session (NameNode, two DataNodes); each test writes under a folder of its own."""
    require_peer("pyspark", importlib.util.find_spec("pyspark") is not None, "install the extra conepacs[spark]")
    require_peer("java", shutil.which("java") is not None, "install a JRE 17")
    fetchable = cached_jar().exists() or shutil.which("mvn") is not None
    require_peer("the HDFS daemons' jar", fetchable, "python -m tests.support.fetch_minicluster fetches it with Maven")
    with HdfsDaemons(tmp_path_factory.mktemp("hdfs")) as daemons:
        yield daemons


@pytest.fixture(scope="session")
def spark_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The one Spark of this test session, with two workers."""
    # Only here: the other tests need no pyspark.
    from tests.support.spark_session import start_spark

    require_peer("pyspark", importlib.util.find_spec("pyspark") is not None, "install the extra conepacs[spark]")
    require_peer("java", shutil.which("java") is not None, "install a JRE 17")
    spark = start_spark("local[2]", tmp_path_factory.mktemp("spark"))
    yield spark
    spark.stop()


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """The one PostgreSQL of this test session; each test makes a database of its own (`tests.support.postgres`)."""
    with postgresql_server() as url:
        yield url
