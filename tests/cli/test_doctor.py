# SPDX-License-Identifier: Apache-2.0
"""`conepacs doctor` says what is there, what is missing, and what to do."""

from __future__ import annotations

import importlib.util
import json
import os
import sys

import pytest

from tests.support.command_line import conepacs


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
    assert found["index"]["found"] == "0 studies"
    assert all(
        check["remedy"] for check in found.values() if check["state"] != "ok" and "back end" not in check["name"]
    )
    assert [path.name for path in (tmp_path / "s").iterdir() if "doctor" in path.name] == []


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
