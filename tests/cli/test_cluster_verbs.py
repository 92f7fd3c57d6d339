# SPDX-License-Identifier: Apache-2.0
"""`conepacs cluster` where nothing runs: what is wrong is one sentence with its exit code."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from local_cluster.layout import first_state
from local_cluster.options import ClusterOptions
from local_cluster.processes import key_of
from local_cluster.state import write_state
from tests.support.command_line import conepacs


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CONEPACS_CLUSTER", raising=False)
    return folder


@pytest.mark.parametrize("words", [("status",), ("add", "worker"), ("drain", "worker0"), ("down",)])
def test_a_folder_without_a_cluster_is_told(capsys, here, words):
    conepacs(capsys, "cluster", *words).failed_with(4, f"{here}/conepacs-cluster has no cluster")
    assert list(here.iterdir()) == []


def test_the_folder_is_named_by_the_environment_too(capsys, here, monkeypatch):
    monkeypatch.setenv("CONEPACS_CLUSTER", str(here / "other"))
    conepacs(capsys, "cluster", "status").failed_with(4, f"{here}/other has no cluster")
    conepacs(capsys, "cluster", "status", "--folder", here / "third").failed_with(4, "third has no cluster")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--bind", "localhost"), "'localhost', expected an IPv4 address"),
        (("--data-nodes", 1), "1 data nodes cannot hold 2 copies"),
        (("--worker-memory", "lots"), "worker_memory is 'lots'"),
        (("--folder", "with space"), "only letters, digits"),
        (("--bind", "192.0.2.1"), "192.0.2.1 is no address of this machine"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(capsys, here, words, reason):
    conepacs(capsys, "cluster", "up", *words).failed_with(2, reason)
    assert list(here.iterdir()) == []


def test_wrong_words_are_usage_errors(capsys):
    for words in (("add", "namenode"), ("up", "--block-size", "big"), ("up", "--port-base", "x")):
        outcome = conepacs(capsys, "cluster", *words)
        assert outcome.code == 2
        assert outcome.err.startswith("conepacs: ")


def test_status_and_down_of_one_that_is_half_dead(capsys, here):
    """Played by this process as the NameNode's, which answers nothing."""
    folder = here / "conepacs-cluster"
    folder.mkdir()
    state = first_state(ClusterOptions(folder), None)
    write_state(state.with_record(replace(state.record("namenode"), process=key_of(os.getpid()))))
    outcome = conepacs(capsys, "cluster", "status")
    assert outcome.code == 4
    assert "no answer" in outcome.out
    assert "worker1" in outcome.out
    seen = json.loads(conepacs(capsys, "cluster", "status", "--json").out)
    assert seen["healthy"] is False
    assert {daemon["name"]: daemon["state"] for daemon in seen["daemons"]}["worker0"] == "dead"
    conepacs(capsys, "cluster", "drain", "worker9").failed_with(2, "has no daemon 'worker9': it has namenode")
    conepacs(capsys, "cluster", "drain", "worker0").failed_with(4, "worker0 of the cluster in", "does not run")

    write_state(state)
    conepacs(capsys, "cluster", "status").failed_with(4, "does not run: conepacs cluster up starts it")
    outcome = conepacs(capsys, "cluster", "down", "--wipe")
    assert outcome.code == 0
    assert "no daemon of" in outcome.out
    assert not (folder / "state.json").exists()
