# SPDX-License-Identifier: Apache-2.0
"""Previews and sweeps: quick, right, and at the best value."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data_samples.make_sample import make_sample
from ingest.chunks import open_scan_chunks
from ingest.scan import EnergyBin
from ingest.upload import upload
from reconstruction.coverage import default_grid
from reconstruction.fdk import FdkParameters, reconstruct
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.orbits import find_orbits
from reconstruction.phantom import marker_phantom
from reconstruction.projector import forward_project
from reconstruction.rectify import virtual_views
from spark_jobs.errors import PlanError
from spark_jobs.looks.kind_runs import preview_figures
from spark_jobs.looks.parameters import PreviewParameters, SweepParameters
from spark_jobs.looks.preview import Preview, preview
from spark_jobs.looks.sheet import contact_sheet, preview_png
from spark_jobs.looks.spread_views import spread_views
from spark_jobs.looks.sweep import changed_geometry, sweep
from spark_jobs.planning.few_views import few_views_note
from storage.filesystem import open_store
from tests.support.command_line import conepacs, conepacs_apart
from tests.support.fake_reader import FakeReader, small_scan
from tests.support.orbits import circle, degrees, helix, pillars, stack, stepped, tilted

SHIFT_PX = 1.5


def orbit(offset_u_mm=0.0, n_views=120):
    return ConeBeamGeometry.circular(
        sod_mm=200.0, sdd_mm=280.0, angles_rad=2 * np.pi * np.arange(n_views) / n_views, n_rows=48, n_cols=96,
        pitch_u_mm=0.4, pitch_v_mm=0.4, offset_u_mm=offset_u_mm,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """A scan whose manifest knows nothing of a panel that stood 1.5 pixels beside."""
    store = open_store((tmp_path_factory.mktemp("looks") / "store").as_uri())
    lines = forward_project(marker_phantom(11.0), orbit(SHIFT_PX * 0.4))
    scan = small_scan(
        n_views=120, n_bins=1, n_rows=48, n_cols=96, geometry=orbit(), scan_id="shifted", content="line_integrals",
        pixel_type="float32",
    )  # fmt: skip
    scan = replace(scan, bins=(EnergyBin(0),))
    upload(FakeReader(scan, lines[None]), store, memory_bytes=30 * 48 * 96 * 4)
    return store, lines


def test_a_slice_from_all_views_is_that_of_the_reconstruction(shifted):
    store, lines = shifted
    stored = open_scan_chunks(store, "shifted")
    look = preview(stored, PreviewParameters("shifted", voxels=48, views=120, z_mm=2.0))
    expected = reconstruct(lines, orbit(), look.grid, FdkParameters("hann"))
    np.testing.assert_allclose(look.volume, expected, atol=2e-7)
    assert look.volume.shape == (1, 48, 48)
    assert look.n_views == 120
    assert look.read_bytes < lines.nbytes / 2, "only the rows of the slice are read"


@pytest.mark.parametrize(
    "geometry",
    [
        stack((-6.0, 6.0), degrees(0, 360, 6)),
        tilted(circle(degrees(0, 360, 6)), yaw_deg=4.0, pitch_deg=3.0, roll_deg=2.0),
        helix(2.5, 60, 9.0),
        stepped((-24.0, 0.0, 24.0), (0.0, 0.0, 0.0), 60, n_cols=36),
    ],
    ids=["stack", "tilted", "helix", "stepped"],
)  # fmt: skip
def test_orbits_are_judged_by_whole_panels_though_some_rows_are_read(geometry, tmp_path):
    lines = forward_project(marker_phantom(11.0), geometry)
    scan = small_scan(
        n_views=geometry.n_views, n_bins=1, n_rows=geometry.n_rows, n_cols=geometry.n_cols, geometry=geometry,
        scan_id="orbit", content="line_integrals", pixel_type="float32",
    )  # fmt: skip
    store = open_store(tmp_path.as_uri())
    upload(FakeReader(replace(scan, bins=(EnergyBin(0),)), lines[None]), store)
    stored = open_scan_chunks(store, "orbit")
    look = preview(stored, PreviewParameters("orbit", voxels=64, views=1000))
    np.testing.assert_allclose(look.volume, reconstruct(lines, geometry, look.grid, FdkParameters("hann")), atol=2e-7)
    swept = sweep(stored, SweepParameters("orbit", voxels=64, views=1000, values=(0.0, 1.0)))
    np.testing.assert_allclose(swept.slices[0], look.volume[0], atol=2e-7)


def test_few_views_and_a_coarse_volume_are_near_it(shifted):
    stored = open_scan_chunks(shifted[0], "shifted")
    few = preview(stored, PreviewParameters("shifted", voxels=24, views=60, z_mm=2.0))
    whole = preview(stored, PreviewParameters("shifted", voxels=24, views=120, z_mm=2.0))
    assert few.n_views == 60
    assert any("60 of 120 views" in note for note in few.notes)
    assert np.sqrt(np.mean((few.volume - whole.volume) ** 2)) < 0.05 * np.abs(whole.volume).max()
    coarse = preview(stored, PreviewParameters("shifted", coarse=True, voxels=24))
    grid = default_grid(orbit())
    assert coarse.grid.shape[1:] == (24, 24)
    assert coarse.grid.shape[0] * coarse.grid.voxel_pitch_mm[0] <= grid.shape[0] * grid.voxel_pitch_mm[0]
    assert coarse.binning == 2
    picture = Image.open(io.BytesIO(preview_png(coarse)))
    assert picture.width > 3 * 24


def test_slices_are_drawn_as_dicom_shows_them_and_planes_along_the_axis_upright():
    volume = np.zeros((2, 64, 64), dtype=np.float32)
    volume[0, 5, 40] = volume[1, 5, 40] = 1.0  # low y, x beyond the middle
    volume[1, 32, 50] = 1.0  # the upper of two slices
    look = Preview(volume, VolumeGrid((2, 64, 64), (1.0, 1.0, 1.0), (0.0, 0.0, -1e-15)), 4, 1, 0, 0.0, ())
    picture = np.asarray(Image.open(io.BytesIO(preview_png(look))).convert("L"))
    slice_, coronal = picture[6:70, 6:70], picture[6:8, 132:196]
    assert np.argwhere(slice_ == 255).tolist() == [[5, 40], [32, 50]]
    assert np.argwhere(coronal == 255).tolist() == [[0, 50]]
    figures = preview_figures(look)
    assert (figures["black_per_mm"], figures["white_per_mm"], figures["center_mm"]) == (0.0, 1.0, [0.0, 0.0, 0.0])
    assert str(figures["center_mm"][2]) == "0.0"


def test_voxels_smaller_than_pixels_ask_for_no_more_views(shifted):
    stored = open_scan_chunks(shifted[0], "shifted")
    assert preview(stored, PreviewParameters("shifted", voxels=256, views=120)).notes == ()
    few = preview(stored, PreviewParameters("shifted", voxels=256, views=40)).notes
    assert "40 views are few for a field of 256 voxels" in few[0]


@pytest.mark.parametrize(
    ("geometry", "most", "per_turn"),
    [
        (helix(6.0, 120, 9.0), 60, 60),
        (helix(6.0, 126, 9.0), 60, 42),
        (stack((-16.0, 0.0, 16.0), degrees(0, 360, 3)), 60, 60),
        (stepped((-24.0, 0.0, 24.0), (0.0, 0.0, 0.0), 120, n_cols=36), 60, 60),
        (stepped((-24.0, 0.0, 24.0), (0.0, 0.5, 0.25), 120, n_cols=36), 60, 60),
        (circle(degrees(0, 220, 2)), 60, 55),
        (circle(degrees(0, 360, 3)), 1000, 120),
    ],
    ids=["helix", "helix of 126", "stack", "merged", "positions", "arc", "all"],
)
def test_each_turn_is_spread_evenly(geometry, most, per_turn):
    """Every turn, circle and camera position keeps directions a step apart, and merged positions stay merged."""
    part = geometry.select(spread_views(geometry, most))
    before, after = find_orbits(geometry), find_orbits(part)
    assert after.kind == before.kind
    assert len(after.tracks) == len(before.tracks)
    for track in after.tracks:
        steps = np.diff(track.angles_rad)
        assert steps == pytest.approx(np.full(steps.size, steps[0]))
        turns = max(1.0, (track.angles_rad[-1] + steps[0] - track.angles_rad[0]) / (2 * np.pi))
        assert track.views.size == pytest.approx(turns * per_turn, abs=1)
    merged = [virtual_views(g, rectify=True) for g in (geometry, part)]
    assert (merged[0] is None) == (merged[1] is None)


def test_a_slice_of_a_helix_has_views_from_all_sides_and_reads_no_other_turn(tmp_path):
    geometry = helix(6.0, 120, 9.0)
    lines = forward_project(pillars(), geometry)
    scan = small_scan(
        n_views=720, n_bins=1, n_rows=30, n_cols=100, geometry=geometry, scan_id="helix", content="line_integrals",
        pixel_type="float32",
    )  # fmt: skip
    store = open_store(tmp_path.as_uri())
    upload(FakeReader(replace(scan, bins=(EnergyBin(0),)), lines[None]), store, memory_bytes=8 * 40 * 30 * 100 * 4)
    stored = open_scan_chunks(store, "helix")
    look = preview(stored, PreviewParameters("helix", voxels=48, views=60, z_mm=9.5))
    whole = reconstruct(lines, geometry, look.grid, FdkParameters("hann"))
    assert np.sqrt(np.mean((look.volume - whole) ** 2)) < 0.03 * np.abs(whole).max()
    assert 60 <= look.n_views < 180
    assert look.notes[-1] == f"{look.n_views} of {2 * look.n_views} views were used: the job has less streaks"
    assert look.read_bytes < 0.6 * lines.nbytes
    swept = sweep(stored, SweepParameters("helix", voxels=48, views=60, z_mm=9.5, values=(-2.0, 0.0, 2.0)))
    assert swept.best == 1
    assert swept.n_views == look.n_views
    np.testing.assert_allclose(swept.slices[1], look.volume[0], atol=2e-7)
    coarse = preview(stored, PreviewParameters("helix", voxels=24, views=60, coarse=True))
    assert 300 < coarse.n_views <= 360


def test_memory_bounds_a_look_by_averaging_pixels(shifted):
    store, _ = shifted
    stored = open_scan_chunks(store, "shifted")
    small = preview(stored, PreviewParameters("shifted", coarse=True, voxels=48, memory_bytes=1 << 20))
    assert small.binning > 1
    with pytest.raises(PlanError, match="at least 1 MiB"):
        PreviewParameters("shifted", memory_bytes=100)


@pytest.mark.parametrize("score", ["entropy", "sharpness"])
def test_a_sweep_finds_the_shift_of_the_panel(shifted, score):
    store, _ = shifted
    values = tuple(np.arange(-1.0, 4.5, 0.5).tolist())
    found = sweep(
        open_scan_chunks(store, "shifted"),
        SweepParameters("shifted", voxels=96, views=120, filter_window="ram-lak", z_mm=0.5, values=values, score=score),
    )
    assert found.values[found.best] == SHIFT_PX
    assert found.refined == pytest.approx(SHIFT_PX, abs=0.3)
    sheet = Image.open(io.BytesIO(contact_sheet(found, "shift-px")))
    assert sheet.width >= 4 * 96


def test_a_roll_and_a_shift_along_columns_are_those_of_the_geometry():
    geometry = orbit()
    moved = changed_geometry(geometry, "shift-v-px", 2.0)
    np.testing.assert_allclose(moved.poses[:, 5] - geometry.poses[:, 5], 0.8)
    turned = changed_geometry(orbit(offset_u_mm=3.0), "roll-deg", 90.0)
    np.testing.assert_allclose(turned.poses[:, 6:9], [[0, 0, 0.4]] * 120, atol=1e-12)
    # The panel's middle, 3 mm along u from the foot, is 3 mm above it then.
    np.testing.assert_allclose(turned.poses[:, 5], 3.0)
    back = changed_geometry(turned, "roll-deg", -90.0)
    np.testing.assert_allclose(back.poses, orbit(offset_u_mm=3.0).poses, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameter": "tilt"}, "unknown parameter 'tilt'"),
        ({"score": "beauty"}, "unknown score 'beauty'"),
        ({"values": (1.0,)}, "2 to 64 values, got 1"),
        ({"parameter": "filter"}, "takes names of filter windows, got '1.0'"),
        ({"parameter": "cutoff", "values": (0.5, 1.5)}, "cut-off"),
        ({"values": ("a", "b")}, "takes numbers, got 'a'"),
        ({"coarse": True}, "a sweep is of one slice"),
        ({"voxels": 4}, "8 to 4096 voxels"),
        ({"views": 2}, "at least 3 views"),
    ],
)
def test_what_a_sweep_cannot_do_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        SweepParameters("shifted", **({"values": (1.0, 2.0)} | changes))


def test_a_slice_or_bin_that_is_not_there_is_refused(shifted):
    stored = open_scan_chunks(shifted[0], "shifted")
    with pytest.raises(PlanError, match=r"the slice at 50 mm lies outside of what is seen of scan shifted: -?\d"):
        preview(stored, PreviewParameters("shifted", z_mm=50.0))
    with pytest.raises(PlanError, match=r"has the bins 0 to 0, asked for bin 3"):
        preview(stored, PreviewParameters("shifted", bin=3))


def test_few_views_are_told_with_what_to_do():
    note = few_views_note(90, 10.0, 0.05)
    assert "90 views are few for a field of 400 voxels" in note
    assert "voxels of 0.17 mm or more" in note
    assert few_views_note(90, 10.0, 0.175) == ""


def test_the_commands_and_the_jobs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_sample(tmp_path / "scan")
    store = tmp_path / "store"
    assert conepacs(capsys, "upload", tmp_path / "scan", "--store", store).code == 0
    shown = conepacs(capsys, "preview", "sample-marker", "--store", store, "--voxels", 64)
    assert shown.code == 0, shown
    assert "sample-marker-preview.png" in shown.out
    with Image.open("sample-marker-preview.png") as picture:
        assert picture.size[1] > 64
    swept = conepacs(
        capsys, "sweep", "sample-marker", "--store", store, "--from", -1, "--to", 1, "--steps", 3, "--voxels", 64,
        "--out", "sheet.png", "--json",
    )  # fmt: skip
    assert swept.code == 0, swept
    figures = json.loads(swept.out)
    assert figures["values"] == [-1.0, 0.0, 1.0]
    assert figures["best"] == 0.0
    submitted = conepacs(
        capsys, "jobs", "submit", "preview", "--set", "scan_id=sample-marker", "--set", "voxels=32", "--store", store,
        "--json",
    )  # fmt: skip
    assert submitted.code == 0, submitted
    worked = conepacs_apart("jobs", "work", "--once", "--store", store, folder=tmp_path)
    assert worked.code == 0, worked
    job = json.loads(conepacs(capsys, "jobs", "show", 1, "--store", store, "--json").out)
    assert job["state"] == "done", job
    assert (store / job["result"]["picture"]).read_bytes().startswith(b"\x89PNG")
    unclear = conepacs(capsys, "sweep", "sample-marker", "--store", store)
    assert unclear.code == 2
    assert "give --from and --to, or --values" in unclear.err
