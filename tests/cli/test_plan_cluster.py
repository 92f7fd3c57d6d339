# SPDX-License-Identifier: Apache-2.0
"""``conepacs plan --cluster`` and ``--scan``: figures for a cluster that is not here, proposals, refusals."""

from __future__ import annotations

import json

import pytest

from tests.support.command_line import conepacs
from tests.support.peers import REPOSITORY

HOSPITAL = REPOSITORY / "conf" / "clusters" / "hospital-4.toml"
SCAN = """[scan]
views = 120
rows = 128
cols = 160
bins = 2
sod_mm = 200
sdd_mm = 300
pixel_mm = 0.4
"""


@pytest.fixture
def knee(tmp_path):
    """A scan that is a description and nothing else."""
    path = tmp_path / "knee.toml"
    path.write_text(SCAN)
    return path


def test_a_described_scan_is_planned_with_nothing_stored(knee, capsys, working_folder):
    outcome = conepacs(capsys, "plan", "--scan", knee)
    assert (outcome.code, outcome.err) == (0, "")
    assert "plan for knee" in outcome.out
    assert not (working_folder / "conepacs-store").exists()


def test_a_plan_on_a_cluster_says_what_it_comes_to(knee, capsys):
    outcome = conepacs(capsys, "plan", "--scan", knee, "--cluster", HOSPITAL)
    assert (outcome.code, outcome.err) == (0, "")
    for words in ("plan for knee on hospital-4 (4 nodes)", "memory per task", "tasks per node", "expected time",
                  "a node lost", "limited by", "price", "EUR", "through disks", "between nodes", "assumed", "stages",
                  "reconstruct", "register", "alternatives", "as asked", "proposal: "):  # fmt: skip
        assert words in outcome.out, words
    assert "gpu_gups" not in outcome.out


def test_in_json_all_figures_and_sources_are_there(knee, capsys):
    (found,) = json.loads(conepacs(capsys, "plan", "--scan", knee, "--cluster", HOSPITAL, "--json", "--seed", "3").out)
    assert (found["cluster"], found["nodes"], found["scan_id"]) == ("hospital-4", 4, "knee")
    assert found["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"]))
    assert found["lost_node_seconds"] > 0
    assert found["price"] == pytest.approx(4 * 0.5 * found["seconds"] / 3600)
    assert {rate["basis"] for rate in found["rates"].values()} == {"measured", "assumed"}
    assert found["best"] in [candidate["change"] for candidate in found["alternatives"]]
    assert len(found["alternatives"]) > 3


def test_memory_of_a_task_is_that_of_the_cluster_unless_it_is_given(knee, capsys):
    def memory(*options):
        out = conepacs(capsys, "plan", "--scan", knee, "--cluster", HOSPITAL, "--json", *options).out
        return json.loads(out)[0]["alternatives"][0]["task_memory_bytes"]

    assert memory() == int(128 * 2**30 * 0.8 / 16)
    assert memory("--task-memory", "3GiB") == 3 << 30


def test_a_stored_scan_is_planned_for_a_cluster(sample_scan, tmp_path, capsys):
    store = tmp_path / "store"
    assert conepacs(capsys, "upload", sample_scan, "--store", store).code == 0
    outcome = conepacs(capsys, "plan", "sample-marker", "--store", store, "--cluster", HOSPITAL)
    assert (outcome.code, outcome.err) == (0, "")
    assert "plan for sample-marker on hospital-4" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--scan", "elephant"], 3, "neither a .toml file nor one of the known sizes stone, artery"),
        (["--scan", "none.toml"], 3, "none.toml cannot be read"),
        (["--scan", "stone", "--cluster", "none.toml"], 3, "none.toml cannot be read: No such file or directory"),
        (["--scan", "stone", "--cluster", "typo.toml"], 3, "typo.toml: 'nodes.0.coers' is unknown"),
        (["--scan", "stone", "--cluster", "tiny.toml", "--bin", "0"], 3, "MiB are allowed"),
    ],
)
def test_what_cannot_be_gets_one_plain_sentence(arguments, code, words, working_folder, capsys):
    node = "count = 1\ncores = 4\nmemory_gib = 1\ndisks = 1\ndisk_mb_per_s = 100\nnetwork_mb_per_s = 100\n"
    (working_folder / "typo.toml").write_text(f'name = "typo"\n[[nodes]]\n{node}coers = 1\n')
    tiny = node.replace("memory_gib = 1", "memory_gib = 0.25")
    (working_folder / "tiny.toml").write_text(f'name = "tiny"\n[[nodes]]\n{tiny}')
    conepacs(capsys, "plan", *arguments).failed_with(code, words)


def test_without_a_scan_the_usage_is_told(capsys):
    outcome = conepacs(capsys, "plan")
    assert outcome.code == 2
    assert "give the id of a stored scan, or --scan" in outcome.err
