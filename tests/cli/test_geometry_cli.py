# SPDX-License-Identifier: Apache-2.0
"""``conepacs geometry``: show, convert and export, from a source and from the store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ingest.readers import open_source
from reconstruction.exchange.files import geometry_bytes, read_geometry
from reconstruction.exchange.panels import Panel
from tests.support.command_line import conepacs
from tests.support.reader_samples_exchange import small_geometry, write_source


@pytest.fixture
def source(tmp_path):
    frames = np.random.default_rng(1).normal(1, 0.3, (1, 5, 4, 6)).astype(np.float32)
    text = "[scan]\nid = 'made'\ncontent = 'line_integrals'\n"
    return write_source(tmp_path / "made", frames, small_geometry(), text=text)


@pytest.fixture
def store(source, tmp_path, capsys):
    assert conepacs(capsys, "upload", source, "--store", tmp_path / "store").code == 0
    return tmp_path / "store"


def test_show_tells_what_the_poses_mean(source, store, capsys):
    by_file = conepacs(capsys, "geometry", "show", source)
    assert (by_file.code, by_file.err) == (0, "")
    for words in ("sod mm", "100", "4 rows x 6 columns", "view 0, source"):
        assert words in by_file.out
    one, other = (
        json.loads(conepacs(capsys, "geometry", "show", target, "--store", store, "--json").out)
        for target in (source, "made")
    )
    assert one == other
    assert (one["n_views"], one["sdd_mm"], one["volume"]) == (5, pytest.approx(160), None)


def test_convert_takes_a_source_a_scan_and_a_file(source, store, tmp_path, capsys):
    xml = tmp_path / "geometry.xml"
    outcome = conepacs(capsys, "geometry", "convert", "made", xml, "--to", "rtk", "--store", store)
    assert (outcome.code, outcome.err) == (0, "")
    assert "has 5 views for rtk" in outcome.out
    size = ("--panel", "4,6", "--pitch", "0.9,1.1")
    for to, name, more in (
        ("astra", "v.npy", size),
        ("leap", "l.cfg", size),
        ("tigre", "t.json", size),
        ("cil", "c.json", size),
    ):
        assert conepacs(capsys, "geometry", "convert", xml, tmp_path / name, "--to", to, *more).code == 0
        got = read_geometry(tmp_path / name, program=to, panel=Panel(4, 6)).geometry
        np.testing.assert_allclose(got.poses, small_geometry().poses, atol=1e-9)
    again = conepacs(capsys, "geometry", "show", tmp_path / "l.cfg")
    assert "volume" in again.out
    assert conepacs(capsys, "geometry", "show", tmp_path / "v.npy", "--from", "astra", "--panel", "4,6").code == 0


def test_export_makes_a_set_that_can_be_uploaded_again(source, store, tmp_path, capsys):
    for target, folder in ((source, tmp_path / "a"), ("made", tmp_path / "b")):
        outcome = conepacs(capsys, "geometry", "export", target, folder, "--to", "rtk", "--store", store)
        assert (outcome.code, outcome.err) == (0, "")
        assert "geometry.xml, projections.mha, scan.toml" in outcome.out
    assert (tmp_path / "a/projections.mha").read_bytes() == (tmp_path / "b/projections.mha").read_bytes()
    uploaded = conepacs(capsys, "upload", tmp_path / "a", "--store", tmp_path / "other", "--json")
    assert json.loads(uploaded.out)["scan_id"] == "made"
    reader = open_source(tmp_path / "b")
    np.testing.assert_array_equal(reader.read_views(0, 5)[0], np.load(source / "projections.npy")[0])
    reader.close()
    flex = conepacs(capsys, "geometry", "export", source, tmp_path / "c", "--to", "cil", "--json")
    assert "projections.nxs" in json.loads(flex.out)["files"]


def test_what_cannot_be_done_is_told_in_a_sentence(source, store, tmp_path, capsys):
    xml = tmp_path / "geometry.xml"
    xml.write_bytes(geometry_bytes(small_geometry(), "rtk"))

    def geometry(*arguments):
        return conepacs(capsys, "geometry", *arguments)

    geometry("show", "absent", "--store", store).failed_with(3, "absent")
    geometry("show", tmp_path / "absent" / "x").failed_with(3, "does not exist")
    geometry("show", xml).failed_with(3, "one stack of projections")
    geometry("show", xml).failed_with(3, "as a geometry of rtk alone it needs --panel and --pitch")
    for name in ("poses.txt", "poses.npy"):
        (tmp_path / name).write_bytes(geometry_bytes(small_geometry(), "poses", Path(name).suffix))
        geometry("show", tmp_path / name).failed_with(3, "needs --from poses or --from astra, and --panel")
    geometry("export", "made", source, "--to", "rtk", "--store", store).failed_with(3, "not an empty folder")
    geometry("export", "made", tmp_path / "x", "--to", "odl", "--store", store).failed_with(3, "exported to one of")
    geometry("convert", source, tmp_path / "x.bin", "--to", "rtk").failed_with(3, "written as .xml")
    for arguments, words in {
        ("--pitch", "1,1"): "--pitch needs --panel too",
        ("--panel", "4,0"): "two whole numbers above 0",
        ("--panel", "4,6", "--pitch", "1,-1"): "two positive lengths",
    }.items():
        outcome = geometry("show", xml, *arguments)
        assert outcome.code == 2
        assert words in outcome.err
