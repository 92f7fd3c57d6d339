# SPDX-License-Identifier: Apache-2.0
"""Configuration files, command lines and environments of the daemons, and what is said when a part is missing."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from local_cluster import hdfs, jars, spark, yarn
from local_cluster.errors import ClusterOptionsError, MissingPartError, NotRunningError
from local_cluster.launch import launch_of, master_of, require_parts, write_configuration
from local_cluster.layout import first_state
from local_cluster.operator_files import write_operator_files
from local_cluster.options import ClusterOptions
from tests.support.peers import require_peer


@pytest.fixture
def state(tmp_path):
    return first_state(ClusterOptions(tmp_path, gpus_per_worker=2, worker_memory="2g", yarn=True), None)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A PATH with nothing on it, to which programs can be added."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("CONEPACS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAVA_HOME", raising=False)

    def add(name: str, body: str) -> Path:
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
        return folder / name

    return add


def properties(path: Path) -> dict[str, str]:
    return {each.findtext("name", ""): each.findtext("value", "") for each in ET.parse(path).iter("property")}


def test_every_address_is_the_one_that_was_asked_for(state):
    options = replace(state.options, bind="10.0.0.7", block_bytes=128 << 10)
    write_configuration(replace(state, options=options))
    seen = {}
    for name in ("core-site.xml", "hdfs-site.xml", "yarn-site.xml"):
        seen |= properties(hdfs.conf_folder(options.folder) / name)
    addresses = [value for name, value in seen.items() if name.endswith(("address", "defaultFS", "hostname"))]
    assert len(addresses) == 12
    assert all("10.0.0.7" in value for value in addresses)
    assert seen["dfs.replication"] == "2"
    assert int(seen["dfs.namenode.fs-limits.min-block-size"]) <= 128 << 10
    # Two executors of 2 GiB with Spark's overhead, and the application master.
    assert int(seen["yarn.nodemanager.resource.memory-mb"]) == 2 * (2048 + 384) + 1024
    command = hdfs.daemon_command(options, state.record("datanode1"), ["java"])
    given = dict(text.split("=", 1) for text in command if text.startswith("dfs."))
    assert given.pop("dfs.datanode.data.dir") == (options.folder / "hdfs" / "datanode1").as_uri()
    assert len(given) == 4
    assert all(value.startswith("10.0.0.7") for value in given.values())


def test_data_nodes_out_of_service_are_listed_by_address(state):
    write_configuration(state.with_record(replace(state.record("datanode1"), wanted="drained")))
    path = properties(hdfs.conf_folder(state.options.folder) / "hdfs-site.xml")["dfs.hosts.exclude"]
    assert Path(path).read_text() == f"127.0.0.1:{state.record('datanode1').ports['data']}\n"


def test_properties_are_escaped(tmp_path):
    hdfs.write_properties(tmp_path / "x.xml", {"a<b": "c & d"})
    assert properties(tmp_path / "x.xml") == {"a<b": "c & d"}


def test_settings_for_another_cluster_do_not_reach_the_daemons(state, monkeypatch):
    for name in ("SPARK_MASTER_HOST", "SPARK_WORKER_PORT", "HADOOP_OPTS", "HADOOP_USER_NAME", "PYSPARK_SUBMIT_ARGS"):
        monkeypatch.setenv(name, "foreign")
    monkeypatch.setenv("LANG", "C.UTF-8")
    for environment in (
        hdfs.environment_of(state.options),
        spark.environment_of(state.options, state.record("worker0")),
        yarn.environment_of(state.options),
    ):
        assert "foreign" not in environment.values()
        assert environment["LANG"] == "C.UTF-8"
        assert environment["HADOOP_CONF_DIR"] == str(hdfs.conf_folder(state.options.folder))


def test_workers_find_these_packages_and_python(state, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/given")
    environment = spark.environment_of(state.options, state.record("worker0"))
    assert environment["PYSPARK_PYTHON"] == sys.executable
    paths = environment["PYTHONPATH"].split(os.pathsep)
    assert paths[-1] == "/given"
    found = importlib.util.find_spec("local_cluster")
    assert found is not None
    assert found.origin is not None
    assert Path(paths[0]) == Path(found.origin).parents[1]


def test_workers_of_one_machine_offer_different_gpus(state):
    write_configuration(state)
    addresses = []
    for name in ("worker0", "worker1"):
        record = state.record(name)
        spark.write_gpu_script(state.options, record)
        words = shlex.split(spark.environment_of(state.options, record)["SPARK_WORKER_OPTS"])
        values = dict(word.removeprefix("-D").split("=", 1) for word in words)
        assert values["spark.worker.resource.gpu.amount"] == "2"
        told = subprocess.run([values["spark.worker.resource.gpu.discoveryScript"]], capture_output=True, check=True)
        seen = json.loads(told.stdout)
        assert seen["name"] == "gpu"
        addresses += seen["addresses"]
    assert addresses == ["0", "1", "2", "3"]
    own = replace(state.options, gpu_discovery_script=Path("/opt/gpus"))
    assert "discoveryScript=/opt/gpus" in spark.environment_of(own, state.record("worker0"))["SPARK_WORKER_OPTS"]
    assert "gpu" not in spark.environment_of(own, state.record("master"))["SPARK_WORKER_OPTS"]


def test_operator_files_name_store_and_master(state, monkeypatch):
    environment_file, settings_file = write_operator_files(state)
    settings = tomllib.loads(settings_file.read_text())
    assert settings["store"] == f"hdfs://127.0.0.1:{state.record('namenode').ports['rpc']}/pacs"
    assert settings["spark"] == {"master": f"spark://127.0.0.1:{state.record('master').ports['rpc']}"}
    command = f". {shlex.quote(str(environment_file))} && echo $CONEPACS_CONFIG $HADOOP_CONF_DIR"
    told = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.split()
    assert told == [str(settings_file), str(hdfs.conf_folder(state.options.folder))]

    from cli.settings import StoreSettings, load

    monkeypatch.setenv("CONEPACS_CONFIG", str(settings_file))
    assert load(StoreSettings).store == settings["store"]


def test_a_cluster_without_spark_has_no_master(tmp_path):
    state = first_state(ClusterOptions(tmp_path, spark=False), None)
    with pytest.raises(NotRunningError, match="has no Spark"):
        master_of(state)
    _, settings_file = write_operator_files(state)
    assert "spark" not in tomllib.loads(settings_file.read_text())


def test_every_daemon_has_its_command_line(state):
    require_peer("pyspark", importlib.util.find_spec("pyspark") is not None, "install the extra conepacs[spark]")
    require_peer("the HDFS daemons' jar", jars.cached_jar().exists(), "python -m local_cluster.jars fetches it")
    write_configuration(state)
    for record in state.daemons:
        if record.kind in ("resourcemanager", "nodemanager"):
            continue  # its jars may not be there
        command, environment = launch_of(state, record)
        assert Path(command[0]).exists()
        assert any(word.endswith(("NameNode", "DataNode", "Master", "Worker")) for word in command)
        assert environment["HADOOP_CONF_DIR"]
    worker, _ = launch_of(state, state.record("worker1"))
    assert worker[-1] == spark.master_url(state.options, state.record("master"))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "no java on the PATH, which HDFS and Spark need: install a Java runtime 17"),
        ("""echo 'openjdk version "11.0.2" 2019' >&2""", "is version 11, expected 17 or newer"),
        ("echo hello", "is of no version it tells, expected 17"),
    ],
)
def test_a_java_that_will_not_do_is_told(programs, body, reason):
    if body is not None:
        programs("java", body)
    with pytest.raises(MissingPartError, match=reason):
        jars.require_java()


def test_a_wrong_java_home_is_told(programs, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(MissingPartError, match="JAVA_HOME is /nowhere, but /nowhere/bin/java does not run: correct"):
        jars.require_java()


def test_a_missing_pyspark_is_told(programs, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPartError, match=r"pyspark, .* is not installed: pip install 'conepacs\[spark\]'"):
        jars.hadoop_version()


def test_maven_is_asked_once_and_its_failure_is_told(programs, tmp_path):
    with pytest.raises(MissingPartError, match=r"x-1\.jar is not in .*cache/conepacs and Maven, .*: apt install maven"):
        jars.fetch_jar("group", "x", "1")
    maven = programs("mvn", "echo '[ERROR] no route to host'; exit 1")
    with pytest.raises(MissingPartError, match=r"could not fetch group:x:1 \(\[ERROR\] no route to host\): check"):
        jars.fetch_jar("group", "x", "1")
    maven.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(MissingPartError, match="no reason told"):
        jars.fetch_jar("group", "x", "1")
    assert list((tmp_path / "cache" / "conepacs").iterdir()) == []
    maven.write_text('#!/bin/sh\nfor word in "$@"; do case $word in -DoutputDirectory=*) echo jar > '
                     '"${word#*=}/x-1.jar";; esac; done\n')  # fmt: skip
    fetched = jars.fetch_jar("group", "x", "1")
    assert fetched.read_text() == "jar\n"
    maven.unlink()
    assert jars.fetch_jar("group", "x", "1") == fetched


def test_a_discovery_script_that_cannot_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("local_cluster.launch.require_java", lambda: None)
    monkeypatch.setattr("local_cluster.launch.hadoop_class_path", list)
    monkeypatch.setattr("local_cluster.launch.spark_home", lambda: tmp_path)
    script = tmp_path / "gpus.sh"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(ClusterOptionsError, match=r"gpus\.sh is no program"):
        require_parts(ClusterOptions(tmp_path, gpu_discovery_script=script))
    with pytest.raises(ClusterOptionsError, match=r"192\.0\.2\.1 is no address of this machine"):
        require_parts(ClusterOptions(tmp_path, bind="192.0.2.1"))
    script.chmod(0o755)
    require_parts(ClusterOptions(tmp_path, gpu_discovery_script=script))
