# SPDX-License-Identifier: Apache-2.0
"""The built wheel in a clean environment, submitted as an operator of a real cluster submits it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from local_cluster.local_cluster import LocalCluster
from local_cluster.options import ClusterOptions
from tests.support.cluster_job import registered
from tests.support.local_run import store_sample
from tests.support.wheel import build_wheel

pytestmark = [pytest.mark.hdfs, pytest.mark.spark]

#: One bin of the sample, coarse.
ARGUMENTS = ("reconstruct", "sample-marker", "--bin", "0", "--voxel", "0.5", "--slabs", "2", "--json")


@pytest.fixture(scope="session")
def clean_python(tmp_path_factory) -> Path:
    """The interpreter of a fresh environment: our package from the built wheel, the libraries from this one.

    A path file names the folder of the libraries; what that folder itself says of this checkout is not read.
    """
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel(folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run([*install, "--disable-pip-version-check"], check=True)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def submit(
    python: Path, master: str, folder: Path, *arguments: object, properties: dict[str, str] | None = None,
    variables: dict[str, str] | None = None,
) -> list[dict]:  # fmt: skip
    """Run the job by spark-submit, away from the checkout, and return its result."""
    spec = importlib.util.find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    # Nothing of the checkout may be found by the way of a variable.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CONEPACS_", "PYTHON", "PYSPARK"))}
    environment |= {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(Path(spec.origin).parent)} | (variables or {})
    program = subprocess.run(
        [str(python), "-c", "import cli.submit; cli.submit.show_path()"], capture_output=True, text=True, check=True,
        cwd=folder, env=environment,
    ).stdout.strip()  # fmt: skip
    assert str(python.parents[1]) in program
    given = {"spark.pyspark.python": str(python), "spark.executorEnv.PYTHONPATH": ""} | (properties or {})
    command = [
        str(Path(spec.origin).parent / "bin" / "spark-submit"), "--master", master,
        *(part for key, value in given.items() for part in ("--conf", f"{key}={value}")),
        program, *ARGUMENTS, *map(str, arguments),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=280, check=False,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return json.loads(done.stdout[done.stdout.index("[") :])


def test_the_wheel_is_submitted_to_standalone_workers(clean_python, spark_cluster, tmp_path):
    url = f"{spark_cluster.hdfs_url}/submitted"
    store_sample(tmp_path / "source", url)
    (result,) = submit(
        clean_python, spark_cluster.spark_master, tmp_path, "--store", url, "--index", tmp_path / "index.sqlite"
    )  # fmt: skip
    assert result["outcomes"]["added"] > 0
    assert len(registered(tmp_path / "index.sqlite")) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_is_submitted_to_yarn(clean_python, tmp_path):
    """One executor in a container of a NodeManager, the driver here."""
    options = ClusterOptions(
        tmp_path / "cluster", data_nodes=1, replication=1, spark=False, yarn=True, worker_memory="2g"
    )
    with LocalCluster.start(options) as cluster:
        url = f"{cluster.hdfs_url}/submitted"
        store_sample(tmp_path / "source", url)
        spec = importlib.util.find_spec("pyspark")
        assert spec is not None
        assert spec.origin is not None
        properties = {
            "spark.yarn.jars": f"local:{Path(spec.origin).parent}/jars/*",
            "spark.executor.instances": "1",
            "spark.executor.memory": "512m",
            "spark.executor.memoryOverhead": "1g",
            "spark.yarn.am.memory": "512m",
            "spark.driver.host": "127.0.0.1",
        }
        (result,) = submit(
            clean_python, "yarn", tmp_path, "--store", url, "--index", tmp_path / "index.sqlite",
            properties=properties,
            variables={"HADOOP_CONF_DIR": str(cluster.conf_folder), "HADOOP_USER_NAME": "root"},
        )  # fmt: skip
    assert result["outcomes"]["added"] > 0
    assert len(registered(tmp_path / "index.sqlite")) == 2
