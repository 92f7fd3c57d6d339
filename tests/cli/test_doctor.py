# SPDX-License-Identifier: Apache-2.0
"""`conepacs doctor` says what is there, what is missing, and what to do."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from cli.checks.hdfs import check_hdfs
from cli.checks.machine import check_gpu
from cli.checks.spark import check_spark, judge_worker
from jobs.queue import open_queue
from spark_jobs.running.settings import SparkSettings
from spark_jobs.tasks.worker_check import WorkerFindings, check_workers, worker_findings
from storage.database import create_database_engine, write_transaction
from storage.filesystem import open_store
from tests.support.command_line import conepacs
from tests.support.index_engine import sql_index, sqlite_index
from tests.support.postgres import new_database


@pytest.fixture
def no_java(tmp_path, monkeypatch):
    """A PATH with nothing on it, to which programs can be added."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


def checks(capsys, *arguments):
    outcome = conepacs(capsys, "doctor", *arguments, "--json")
    return outcome.code, {check["name"]: check for check in json.loads(outcome.out)}


def write_java(folder, sentence):
    java = folder / "java"
    java.write_text(f"#!{sys.executable}\nimport sys\nprint({sentence!r}, file=sys.stderr)\n")
    java.chmod(0o755)


def test_it_looks_over_everything(tmp_path, capsys):
    (tmp_path / "s").mkdir()
    code, found = checks(capsys, "--store", tmp_path / "s")
    assert code in (0, 4)  # 4 where the disk is nearly full
    assert found["system"]["state"] == "ok"
    assert found["back end numpy_reference"]["state"] == "ok"
    assert found[f"store {tmp_path / 's'}"]["state"] == "ok"
    assert found["index"] == {
        "name": "index", "state": "missing", "found": "no such database yet",
        "remedy": "serve, pacs import and reconstruct make it",
    }  # fmt: skip
    without = ("back end", "gpu")  # a machine without a GPU lacks nothing
    assert all(check["remedy"] for check in found.values() if check["state"] == "wrong")
    assert all(
        check["remedy"] for name, check in found.items() if check["state"] == "missing" and not name.startswith(without)
    )
    assert list((tmp_path / "s").iterdir()) == [], "looking makes nothing"


def test_an_index_is_told_with_its_kind_and_a_newer_one_is_refused(tmp_path, capsys):
    (tmp_path / "s").mkdir()
    url = str(tmp_path / "s" / "index.sqlite")
    with sqlite_index(tmp_path / "s" / "index.sqlite"):
        pass
    code, found = checks(capsys, "--store", tmp_path / "s")
    assert "jobs is brought up to date" in found["index"]["found"]
    with open_queue(url, {}):
        pass
    code, found = checks(capsys, "--store", tmp_path / "s", "--index", url)
    assert found["index"]["found"].startswith("sqlite 3")
    assert found["index"]["found"].endswith(", 0 studies")
    engine = create_database_engine(url)
    with write_transaction(engine) as connection:
        connection.exec_driver_sql("INSERT INTO schema_migration VALUES ('pacs', 99, 'later', '2030-01-01 00:00:00')")
    engine.dispose()
    code, found = checks(capsys, "--store", tmp_path / "s")
    assert (code, found["index"]["state"]) == (4, "wrong")
    assert "newer program" in found["index"]["found"]


@pytest.mark.postgresql
def test_a_postgresql_that_answers_and_one_that_does_not(tmp_path, capsys, postgresql_url):
    (tmp_path / "s").mkdir()
    with new_database(postgresql_url) as url:
        with sql_index(url), open_queue(url, {}):
            pass
        _, found = checks(capsys, "--store", tmp_path / "s", "--index", url)
        assert found["index"]["found"].startswith("postgresql ")
        assert found["database's clock"]["state"] == "ok"
    code, found = checks(capsys, "--store", tmp_path / "s", "--index", "postgresql://u:secret@127.0.0.1:1/none")
    assert (code, found["index"]["state"]) == (4, "wrong")
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("nodes", "vendor", "program", "state", "words"),
    [
        ([], "0x8086", None, "missing", "no NVIDIA GPU"),
        ([], "0x10de", None, "wrong", "no driver is loaded"),
        (["nvidia0"], "0x10de", None, "wrong", "no program nvidia-smi"),
        (["nvidia0"], "0x10de", "print('Failed to initialize NVML'); raise SystemExit(18)", "wrong", "Failed to init"),
        (["nvidia0"], "0x10de", "print('Card, 550.1, 81920 MiB, 9.0')", "ok", "81920 MiB"),
    ],
)
def test_a_gpu_and_its_driver(nodes, vendor, program, state, words, tmp_path, monkeypatch, no_java):
    device = tmp_path / "devices" / "0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text("0x030000\n")
    (tmp_path / "dev").mkdir()
    for node in nodes:
        (tmp_path / "dev" / node).touch()
    if program is not None:
        smi = no_java / "nvidia-smi"
        smi.write_text(f"#!{sys.executable}\n{program}\n")
        smi.chmod(0o755)
    found = next(check_gpu(tmp_path / "devices", tmp_path / "dev"))
    assert (found.state, words in found.found) == (state, True), found
    assert bool(found.remedy) == (state == "wrong")


def test_workers_of_another_python_are_told(no_java, capsys, monkeypatch):
    other = no_java / "python"
    other.write_text("#!/bin/sh\necho 3.4\n")
    other.chmod(0o755)
    monkeypatch.setenv("PYSPARK_PYTHON", str(other))
    code, found = checks(capsys)
    assert code == 4
    assert "is Python 3.4, this one is" in found["workers' Python"]["found"]
    monkeypatch.setenv("PYSPARK_PYTHON", "nowhere")
    assert "does not run" in checks(capsys)[1]["workers' Python"]["found"]


class Answers(BaseHTTPRequestHandler):
    """Answers with what its server has for a path."""

    def do_GET(self) -> None:
        name = self.path.rpartition("name=")[2].removeprefix("NameNode%2Cname%3D") if "?" in self.path else self.path
        content = json.dumps(self.server.content.get(unquote(name).rpartition("=")[2], {})).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def date_time_string(self, timestamp=None):
        return formatdate(time.time() + self.server.ahead_s, usegmt=True)

    def log_message(self, *_):
        pass


@contextmanager
def answering(content, ahead_s=0.0):
    """A server of JSON by path; its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.content, server.ahead_s = content, ahead_s
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def name_node(**changes):
    values = {
        "NumLiveDataNodes": 3, "NumDeadDataNodes": 0, "MissingBlocks": 0, "UnderReplicatedBlocks": 2,
        "CapacityTotal": 1e12, "CapacityRemaining": 5e11, "Safemode": "", "tag.HAState": "active",
    } | changes  # fmt: skip
    return {"FSNamesystem": {"beans": [values]}, "NameNodeInfo": {"beans": [values]}}


@pytest.mark.parametrize(
    ("changes", "ahead_s", "wrong", "words"),
    [
        ({}, 0, None, ""),
        ({"Safemode": "Safe mode is ON. 3 blocks are lacking"}, 0, "NameNode", "nothing can be written"),
        ({"NumLiveDataNodes": 0}, 0, "DataNodes", "0 live"),
        ({"NumLiveDataNodes": 1}, 0, "DataNodes", "fewer copies than wanted"),
        ({"MissingBlocks": 7}, 0, "blocks", "7 are on no live DataNode"),
        ({"CapacityRemaining": 1e9}, 0, "room in HDFS", "1 of 1000 GB left"),
        ({}, 3600, "HDFS clock", " s from this machine"),
    ],
)
def test_a_name_node_is_judged(changes, ahead_s, wrong, words):
    with answering(name_node(**changes), ahead_s) as port:
        found = {check.name: check for check in check_hdfs(f"webhdfs://127.0.0.1:{port}/pacs")}
    assert set(found) == {"NameNode", "DataNodes", "blocks", "room in HDFS", "HDFS clock"}
    assert [name for name, check in found.items() if check.state == "wrong"] == ([wrong] if wrong else [])
    if wrong:
        assert words in found[wrong].found
        assert found[wrong].remedy


def test_hdfs_that_is_not_there_is_told(monkeypatch, tmp_path):
    (refused,) = check_hdfs("hdfs://127.0.0.1:1/pacs")
    assert (refused.name, refused.state) == ("NameNode", "wrong")
    assert "nobody answers on 127.0.0.1 port 1" in refused.found
    assert list(check_hdfs("/a/folder")) == []
    monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path))
    assert next(check_hdfs("hdfs://127.0.0.1:1/pacs")).state == "wrong"
    (tmp_path / "core-site.xml").write_text("<configuration><property></configuration>")
    assert "not a Hadoop configuration" in next(check_hdfs("hdfs://127.0.0.1:1/pacs")).found


@pytest.mark.parametrize(
    ("state", "expected", "words"),
    [
        ({"aliveworkers": 2, "cores": 8, "coresused": 2, "memory": 4096, "memoryused": 1024}, "ok", "6 of 8 cores"),
        ({"aliveworkers": 0, "cores": 0, "coresused": 0, "memory": 0, "memoryused": 0}, "wrong", "0 alive"),
        ({"aliveworkers": 2, "cores": 8, "coresused": 8, "memory": 9, "memoryused": 9}, "wrong", "0 of 8 cores"),
        ({}, "missing", "do not answer"),
    ],
)
def test_a_spark_master_and_its_workers(state, expected, words):
    with answering({"/json/": state}) as port:
        settings = SparkSettings(master=f"spark://127.0.0.1:{port}")
        master, workers = check_spark(settings, "store", ui=f"127.0.0.1:{port}")
    assert master.state == "ok"
    assert (workers.state, words in workers.found) == (expected, True), workers


def test_spark_that_is_not_there_is_told(monkeypatch):
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    monkeypatch.delenv("YARN_CONF_DIR", raising=False)
    for master in ("spark://127.0.0.1:1", "spark://127.0.0.1:1,127.0.0.1:2", "yarn", "k8s://https://127.0.0.1:1"):
        (found,) = check_spark(SparkSettings(master=master), "store")
        assert (found.name, found.state, bool(found.remedy)) == ("Spark master", "wrong", True)


def test_what_a_worker_finds_is_judged(tmp_path):
    fine = WorkerFindings(**worker_findings(str(tmp_path)))
    assert judge_worker(replace(fine, memory_bytes=8 << 30)).state == "ok"
    assert "is not there" in WorkerFindings(**worker_findings(str(tmp_path / "none"))).store_fault
    for changes, words in (
        ({"python": "3.4.1"}, "Python is 3.4.1"), ({"package_fault": "numba: none"}, "cannot import numba"),
        ({"store_fault": "refused"}, "cannot use the store"), ({"clock_s": time.time() + 500}, "clock"),
        ({"memory_bytes": 1 << 20}, "1 MiB of memory"),
    ):  # fmt: skip
        found = judge_worker(replace(fine, **changes))
        assert (found.state, words in found.found, bool(found.remedy)) == ("wrong", True, True)


def test_ports_that_are_taken_are_told(capsys, monkeypatch, tmp_path):
    with answering({}) as port:
        monkeypatch.setenv("CONEPACS_HTTP__PORT", str(port))
        monkeypatch.setenv("CONEPACS_SCP__PORT", "0")
        code, found = checks(capsys)
    assert (code, found["HTTP port"]["state"]) == (4, "wrong")
    assert "DICOM port" not in found
    with answering({"/health": {"version": "1.2"}}) as port:
        monkeypatch.setenv("CONEPACS_HTTP__PORT", str(port))
        assert checks(capsys)[1]["HTTP port"]["found"].startswith("conepacs 1.2 answers")


@pytest.mark.spark
def test_a_small_job_runs_on_the_workers(spark_session, tmp_path):
    (one,) = check_workers(spark_session, open_store(tmp_path).url, 2)
    assert (one.package_fault, one.store_fault) == ("", "")
    assert one.python == platform.python_version()


@pytest.mark.hdfs
def test_a_real_hdfs_is_found_well(hdfs_daemons):
    found = {check.name: check for check in check_hdfs(hdfs_daemons.webhdfs_url)}
    assert {found[name].state for name in ("NameNode", "blocks", "HDFS clock")} == {"ok"}
    assert " live, " in found["DataNodes"].found


def test_a_missing_java_and_its_remedy(no_java, capsys, working_folder):
    outcome = conepacs(capsys, "doctor")
    assert outcome.code == 0, "a workstation that only uploads needs none"
    assert "missing java: needed to reconstruct (Spark)" in outcome.out
    assert "-> install a Java runtime 17 or newer" in outcome.out
    assert list(working_folder.iterdir()) == [], "looking makes nothing"


@pytest.mark.parametrize(
    ("sentence", "state"),
    [
        ('openjdk version "17.0.12" 2024-07-16', "ok"),
        ('openjdk version "21" 2023-09-19', "ok"),
        ('java version "1.8.0_402"', "wrong"),
        ("Error: something else", "wrong"),
    ],
)
def test_the_version_of_java_counts(sentence, state, no_java, capsys):
    write_java(no_java, sentence)
    code, found = checks(capsys)
    assert found["java"]["state"] == state
    assert code == (4 if state == "wrong" else 0)
    assert bool(found["java"]["remedy"]) == (state == "wrong")


def test_a_wrong_java_home_is_named(no_java, capsys, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    code, found = checks(capsys)
    assert code == 4
    assert "JAVA_HOME is /nowhere" in found["java"]["found"]
    assert "correct JAVA_HOME" in found["java"]["remedy"]


def test_a_missing_package_and_the_extra_that_brings_it(capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastapi" else find_spec(name))
    _, found = checks(capsys)
    assert found["package fastapi"]["remedy"] == "pip install 'conepacs[api]'"


def test_a_store_that_is_not_there_yet_and_one_that_cannot_be_written(tmp_path, capsys):
    code, found = checks(capsys, "--store", tmp_path / "new")
    assert (code, found[f"store {tmp_path / 'new'}"]["state"]) == (0, "missing")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    code, found = checks(capsys, "--store", tmp_path / "file")
    assert (code, found[f"store {tmp_path / 'file'}"]["state"]) == (4, "wrong")


def test_a_damaged_index_is_found(tmp_path, capsys):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "index.sqlite").write_bytes(os.urandom(8192))
    code, found = checks(capsys, "--store", tmp_path / "s")
    assert (code, found["index"]["state"]) == (4, "wrong")
