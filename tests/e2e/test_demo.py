# SPDX-License-Identifier: Apache-2.0
"""`conepacs demo` from end to end: what a new user runs first, and what its verdict is worth."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread

from cli.archive import open_index
from cli.fetch import volume_of
from data_samples.compare import compare_regions
from data_samples.make_sample import make_sample
from pacs.journal import Journal
from pacs.retrieve import InstanceReader
from storage.filesystem import open_store
from tests.support.command_line import conepacs, conepacs_apart, files_below
from tests.support.peers import require_peer

pytestmark = pytest.mark.spark
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One run of the demo over an earlier, unfinished one; its folder and what it said."""
    require_peer("pyspark", importlib.util.find_spec("pyspark") is not None, "install the extra conepacs[spark]")
    require_peer("java", shutil.which("java") is not None, "install a JRE 17")
    work = tmp_path_factory.mktemp("demo")
    (work / "shown").mkdir()
    (work / "shown" / ".conepacs-demo").touch()
    (work / "shown" / "left-over").write_text("of an earlier demo")
    outcome = conepacs_apart("demo", "shown", "--master", "local[2]", folder=work, timeout_s=280)
    assert outcome.code == 0, outcome.err
    return work / "shown", outcome


@pytest.fixture(scope="module")
def sample(demo, tmp_path_factory):
    """The truth of the demo's scan."""
    return make_sample(tmp_path_factory.mktemp("truth"))


def volumes(folder):
    """Grid and volume of each bin, read back from the archive; by series description."""
    store = open_store(folder / "store")
    index = open_index(store)
    reader = InstanceReader(store, Journal(folder / "store" / "journal"))
    report = json.loads((folder / "report.json").read_text())
    for series in report["series"]:
        if series["volume_sha256"]:
            records = index.instances(series_uids=[series["series_uid"]])
            yield volume_of([dcmread(BytesIO(reader.open_bytes(record.location))) for record in records])


def test_it_ends_well_and_says_where_everything_is(demo):
    folder, outcome = demo
    # On a slow machine lines of progress, and nothing of Spark's.
    assert [line for line in outcome.err.splitlines() if not re.fullmatch(r"[a-zA-Z ]+( \d+/\d+)?", line)] == []
    for words in ("uploaded it into the store", "reconstructed", "found and fetched", "conepacs serve --store",
                  "planes.png", "report.html"):  # fmt: skip
        assert words in outcome.out
    assert "WRONG" not in outcome.out
    for name in ("scan/scan.toml", "store/index.sqlite", "report.html"):
        assert (folder / name).stat().st_size > 0
    assert (folder / "planes.png").read_bytes().startswith(PNG)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["shown"], "nothing lies outside its folder"


def test_an_earlier_demo_was_replaced(demo):
    assert not (demo[0] / "left-over").exists()


def test_every_region_agrees_in_both_bins(demo):
    report = json.loads((demo[0] / "report.json").read_text())
    assert {region["bin_index"] for region in report["regions"]} == {0, 1}
    assert {region["material"] for region in report["regions"]} == {"water", "bone", "iodine solution"}
    for region in report["regions"]:
        assert abs(region["mean_per_mm"] / region["truth_per_mm"] - 1) <= region["tolerance"], region
    # The low bin attenuates more: the bins are not mixed up.
    low, high = ([r["mean_per_mm"] for r in report["regions"] if r["bin_index"] == index] for index in (0, 1))
    assert all(a > b for a, b in zip(low, high, strict=True))


def test_the_report_shows_its_picture_and_links_to_the_run(demo):
    page = (demo[0] / "report.html").read_text()
    assert "planes.png" in page
    link = page.partition("href='")[2].partition("'")[0]
    assert (demo[0] / link).is_file()


def test_the_specimen_comes_out_unmirrored_and_no_mirror_image_would_pass(demo, sample):
    """The demo's own verdict would fail on any volume that is mirrored or turned."""
    seen = 0
    for bin_index, (grid, volume) in enumerate(volumes(demo[0])):
        seen += 1
        assert all(found.agrees for found in compare_regions(sample, grid, volume, bin_index))
        wrong = {axis: np.flip(volume, axis) for axis in range(3)}
        wrong |= {
            "half turn": volume[:, ::-1, ::-1],
            "upside down": volume[::-1, ::-1],
            "point": volume[::-1, ::-1, ::-1],
        }
        if volume.shape[1] == volume.shape[2]:
            wrong["transposed"] = volume.transpose(0, 2, 1)
        for how, other in wrong.items():
            assert not all(found.agrees for found in compare_regions(sample, grid, other, bin_index)), how
    assert seen == 2


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("three years of work")
    before = files_below(tmp_path)
    outcome = conepacs(capsys, "demo", tmp_path)
    assert outcome.code == 2
    assert "is not empty and no earlier demo: name another folder" in outcome.err.splitlines()[0]
    assert files_below(tmp_path) == before
    assert conepacs(capsys, "demo", tmp_path / "thesis.txt").code == 2
    assert files_below(tmp_path) == before
