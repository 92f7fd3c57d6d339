# SPDX-License-Identifier: Apache-2.0
"""`conepacs reconstruct` on the session that all Spark tests share."""

from __future__ import annotations

import json

import pytest

from data_samples.make_sample import make_sample
from tests.support.command_line import conepacs, files_below

pytestmark = pytest.mark.spark


def test_a_batch_and_then_the_same_again(spark_session, sample_scan, tmp_path, capsys):
    store = tmp_path / "store"
    other = make_sample(tmp_path / "other", n_views=24, n_rows=24, n_cols=32, scan_id="second").folder
    for scan in (sample_scan, other):
        assert conepacs(capsys, "upload", scan, "--store", store).code == 0
    batch = ["reconstruct", "sample-marker", "second", "--store", store, "--bin", "1"]

    outcome = conepacs(capsys, *batch)
    assert outcome.code == 0, outcome.err
    for words in ("scan sample-marker, study", "scan second, study", "Bin 2/2", "report: runs/", "GUPS"):
        assert words in outcome.out
    before = {name: size for name, size in files_below(store).items() if not name.startswith("index.sqlite")}

    outcome = conepacs(capsys, *batch)
    assert outcome.code == 0
    assert outcome.out.count("this run is registered already; nothing was computed or changed") == 2
    first, second = json.loads(conepacs(capsys, *batch, "--json").out)
    assert first["unchanged"]
    assert second["unchanged"]
    after = {name: size for name, size in files_below(store).items() if not name.startswith("index.sqlite")}
    assert after == before

    rows = json.loads(conepacs(capsys, "pacs", "find", "series", "--store", store, "--json").out)
    assert {series["series_uid"] for run in (first, second) for series in run["series"]} == {
        row["SeriesInstanceUID"] for row in rows
    }


def test_no_java_is_one_sentence(sample_scan, tmp_path, capsys, monkeypatch):
    store = tmp_path / "store"
    assert conepacs(capsys, "upload", sample_scan, "--store", store).code == 0
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    outcome = conepacs(capsys, "reconstruct", "sample-marker", "--store", store)
    outcome.failed_with(4, "Spark needs a Java runtime (17 or newer) and found none")
