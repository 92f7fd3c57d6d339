# SPDX-License-Identifier: Apache-2.0
"""The options of the iterative methods on `plan` and on the queue."""

from __future__ import annotations

import json

import pytest

from tests.support.command_line import conepacs


@pytest.fixture
def stored(sample_scan, tmp_path, capsys):
    store = tmp_path / "store"
    assert conepacs(capsys, "upload", sample_scan, "--store", store).code == 0
    return store


def test_plan_prints_method_halo_and_work(stored, capsys):
    outcome = conepacs(
        capsys, "plan", "sample-marker", "--store", stored, "--method", "tv", "--iterations", 5, "--tv-strength", 0.5
    )
    assert outcome.code == 0
    text = " ".join(outcome.out.split())
    assert "method tv, 5 passes, total variation x 0.5" in text
    assert "slices of halo" in text
    assert "voxels for each one made" in text


def test_a_job_keeps_the_method(stored, capsys):
    outcome = conepacs(
        capsys, "jobs", "submit", "reconstruct", "sample-marker", "--store", stored, "--method", "os-sart",
        "--iterations", 3, "--subsets", 4, "--json",
    )  # fmt: skip
    assert outcome.code == 0
    parameters = json.loads(outcome.out)["parameters"]
    assert (parameters["method"], parameters["iterations"], parameters["subsets"]) == ("os-sart", 3, 4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--method", "art"), "expected one of fdk, sirt, os-sart, tv"),
        (("--iterations", "3"), "do not go with the method fdk"),
        (("--method", "tv", "--mode", "two_stage"), "leave cut and mode at auto"),
    ],
)
def test_what_does_not_go_together_is_refused(stored, capsys, options, told):
    outcome = conepacs(capsys, "plan", "sample-marker", "--store", stored, *options)
    assert outcome.code != 0
    assert told in " ".join(outcome.err.split())
