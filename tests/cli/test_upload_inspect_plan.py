# SPDX-License-Identifier: Apache-2.0
"""The verbs of a workstation and of an operator before anything is computed: upload, inspect, plan."""

from __future__ import annotations

import json
import shutil
import threading

import pytest

import cli.output
from cli.output import stage_progress
from ingest.upload_report import UploadProgress
from tests.support.command_line import conepacs, files_below


@pytest.fixture
def stored(sample_scan, tmp_path, capsys):
    """A store that holds the sample scan."""
    store = tmp_path / "store"
    assert conepacs(capsys, "upload", sample_scan, "--store", store).code == 0
    return store


def test_upload_says_what_it_did_and_what_comes_next(sample_scan, capsys, working_folder):
    outcome = conepacs(capsys, "upload", sample_scan)
    assert (outcome.code, outcome.err) == (0, "")
    assert "24, 2" in outcome.out
    assert "next: conepacs plan sample-marker\nthen: conepacs reconstruct sample-marker\n" in outcome.out
    assert (working_folder / "conepacs-store" / "scans" / "sample-marker" / "manifest.json").is_file()


def test_upload_tells_at_once_what_cannot_be_right(sample_scan, capsys, working_folder):
    folder = working_folder / "wrong"
    shutil.copytree(sample_scan, folder)
    text = (folder / "scan.toml").read_text()
    (folder / "scan.toml").write_text(text.replace("arc_deg = 360.0", "arc_deg = 6.2832"))
    told = conepacs(capsys, "upload", folder)
    assert told.code == 0
    assert "fault: the views cover 6.283 degrees only: angles are in degrees, not in radians" in told.out


def test_upload_again_changes_nothing_and_says_so(sample_scan, stored, capsys):
    before = files_below(stored)
    outcome = conepacs(capsys, "upload", sample_scan, "--store", stored)
    assert outcome.code == 0
    assert "already; nothing was changed" in outcome.out
    assert files_below(stored) == before


def test_upload_in_json(sample_scan, tmp_path, capsys):
    outcome = conepacs(
        capsys,
        "upload",
        sample_scan,
        "--store",
        tmp_path / "s",
        "--scan-id",
        "named",
        "--set",
        "bin_pixels=2",
        "--json",
    )
    report = json.loads(outcome.out)
    assert (report["scan_id"], report["n_views"], report["n_bins"], report["unchanged"]) == ("named", 24, 2, False)
    assert outcome.err == ""


def test_upload_takes_the_store_of_the_environment(sample_scan, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CONEPACS_STORE", str(tmp_path / "elsewhere"))
    assert conepacs(capsys, "upload", sample_scan).code == 0
    assert conepacs(capsys, "inspect").out == "sample-marker\n"
    assert (tmp_path / "elsewhere" / "scans").is_dir()


def test_a_setting_that_the_reader_does_not_know_is_not_laid_to_the_description(sample_scan, capsys, working_folder):
    told = conepacs(capsys, "upload", sample_scan, "--set", "colour=red").err
    assert told == "conepacs: what is set for this reader has the unknown key 'colour': none is known here\n"


def test_nothing_of_a_patient_is_printed(sample_scan, tmp_path, capsys, caplog, working_folder):
    scan = shutil.copytree(sample_scan, tmp_path / "scan")
    text = (scan / "scan.toml").read_text()
    head, _, tail = text.partition("[subject]")
    subject = 'kind = "patient"\nidentifier = "HN-4711"\nname = "Doe^Jane"\nbirth_date = "19700102"\nsex = "F"\n'
    (scan / "scan.toml").write_text(head + "[subject]\n" + subject + "\n[order]" + tail.partition("[order]")[2])
    said = ""
    with caplog.at_level("DEBUG"):
        for arguments in (["upload", scan], ["upload", scan, "--json"], ["inspect", scan], ["plan", "sample-marker"],
                          ["inspect", "sample-marker"], ["inspect", "sample-marker", "--json"]):  # fmt: skip
            outcome = conepacs(capsys, *arguments)
            assert outcome.code == 0, outcome.err
            said += outcome.out + outcome.err
    for word in ("Doe", "Jane", "4711", "19700102"):
        assert word not in said + caplog.text


def test_watch_takes_a_scan_as_it_is_written(sample_scan, tmp_path, capsys):
    late = tmp_path / "late"
    timer = threading.Timer(0.5, shutil.copytree, (sample_scan, late))
    timer.start()
    outcome = conepacs(capsys, "upload", late, "--store", tmp_path / "s", "--watch", "--timeout-s", "30")
    timer.join()
    assert outcome.code == 0, outcome.err
    assert "24, 2" in outcome.out


def test_watch_gives_up_with_a_sentence(tmp_path, capsys):
    store = tmp_path / "s"
    outcome = conepacs(capsys, "upload", tmp_path / "never", "--store", store, "--watch", "--timeout-s", "0")
    outcome.failed_with(3, "waited 0 s for a scan to begin", "does not exist")
    assert not store.exists()


def test_progress_shows_what_is_waited_for(capsys, monkeypatch):
    """A bar on a terminal; where there is none a line now and then, and none for what ends soon."""
    progress = UploadProgress("stone", "waiting", 3, 24, 0, 0, "3 of 24 views are there")
    with stage_progress() as show:
        show("views", progress.views_done, progress.n_views, progress.message)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cli.output, "LINE_EVERY_S", 0.0)
    with stage_progress() as show:
        show("views", progress.views_done, progress.n_views, progress.message)
        show("views", 0, 0)
    assert capsys.readouterr().err == "views 3/24: 3 of 24 views are there\nviews\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with stage_progress() as show:
        show("views", progress.views_done, progress.n_views, progress.message)
    err = capsys.readouterr().err
    assert "3/24" in err
    assert "3 of 24" in " ".join(err.split())
    with stage_progress(quiet=True) as show:
        show("views", 1, 2)
    assert capsys.readouterr().err == ""


def test_inspect_a_source_and_draw_it(sample_scan, capsys, working_folder):
    outcome = conepacs(capsys, "inspect", sample_scan, "--draw", "pictures")
    assert outcome.code == 0, outcome.err
    for words in ("sample-marker", "24 rows x 32 columns", "24 of 24"):
        assert words in outcome.out
    for name in ("geometry.png", "projection.png"):
        assert (working_folder / "pictures" / name).read_bytes().startswith(b"\x89PNG")
    assert not (working_folder / "conepacs-store").exists()


def test_inspect_a_stored_scan(stored, capsys, working_folder):
    found = json.loads(conepacs(capsys, "inspect", "sample-marker", "--store", stored, "--json").out)
    assert (found["where"], found["shape"]) == ("store", [2, 24, 24, 32])
    outcome = conepacs(capsys, "inspect", "sample-marker", "--store", stored, "--draw", "p")
    assert "pictures are in p" in outcome.out
    assert len(files_below(working_folder / "p")) == 2


def test_inspect_lists_the_store(stored, tmp_path, capsys):
    assert conepacs(capsys, "inspect", "--store", stored).out == "sample-marker\n"
    assert json.loads(conepacs(capsys, "inspect", "--store", stored, "--json").out) == ["sample-marker"]
    (tmp_path / "empty").mkdir()
    assert "no scan in file://" in conepacs(capsys, "inspect", "--store", tmp_path / "empty").out


def test_plan_prints_what_it_would_cost(stored, capsys):
    before = files_below(stored)
    outcome = conepacs(capsys, "plan", "sample-marker", "--store", stored, "--slabs", "3", "--cores", "1")
    assert (outcome.code, outcome.err) == (0, "")
    for label in ("volume", "filter", "back end", "mode", "slabs", "memory per task", "read", "amplification",
                  "voxel updates", "expected time"):  # fmt: skip
        assert label in outcome.out
    assert "ranged reads" in outcome.out
    assert files_below(stored) == before


def test_plan_in_json_follows_the_options(stored, capsys):
    (made,) = json.loads(
        conepacs(
            capsys, "plan", "sample-marker", "-s", stored, "--bin", "1", "--shape", "4,10,12", "--voxel", "0.5",
            "--center", "0,0,1", "--mode", "two_stage", "--task-memory", "1 GiB", "--filter", "hann", "--json",
        ).out
    )  # fmt: skip
    assert (made["bins"], made["shape_zyx"], made["mode"]) == ([1], [4, 10, 12], "two_stage")
    assert made["voxel_pitch_mm"] == [0.5, 0.5, 0.5]
    assert made["center_mm"] == [0, 0, 1]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--mode", "hasty"], 3, "unknown mode 'hasty'"),
        (["--band-type", "int8"], 3, "unknown band type 'int8'"),
        (["--filter", "round"], 3, "'round'"),
        (["--cutoff", "2"], 3, "2"),
        (["--backend", "abacus"], 4, "unknown back end 'abacus'"),
        (["--bin", "7"], 3, "7"),
        (["--voxel", "-1"], 3, "-1"),
        (["--slabs", "0"], 3, "0"),
        (["--mu-range", "2,1"], 3, "low < high"),
        (["--task-memory", "1k"], 3, "sample-marker"),
        (["--field-radius", "1000"], 3, "1000"),
    ],
)
def test_plan_refuses_what_cannot_be(options, code, words, stored, capsys):
    conepacs(capsys, "plan", "sample-marker", "--store", stored, *options).failed_with(code, words)


@pytest.mark.parametrize("verb", [["plan"], ["reconstruct"], ["inspect"]])
def test_an_unknown_scan_or_store_is_named(verb, stored, tmp_path, capsys):
    conepacs(capsys, *verb, "nobody", "--store", stored).failed_with(3, "nobody")
    missing = tmp_path / "typo"
    conepacs(capsys, *verb, "nobody", "--store", missing).failed_with(3, f"the store {missing} does not exist")
    assert not missing.exists()
    assert "index.sqlite" not in files_below(stored)
    conepacs(capsys, *verb, "nobody", "--store", "ftp://host/x").failed_with(3, "unknown scheme 'ftp'")


def test_a_batch_with_an_unknown_scan_is_refused_before_anything_runs(stored, capsys):
    before = files_below(stored)
    conepacs(capsys, "reconstruct", "sample-marker", "nobody", "--store", stored).failed_with(3, "nobody")
    assert files_below(stored) == before
