# SPDX-License-Identifier: Apache-2.0
"""Tasks as functions: what they compute, what they refuse, how much memory they take.  No Spark is started."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from ingest.chunks import open_scan_chunks
from ingest.upload import upload
from pacs.errors import PackError
from pacs.pack import read_entry, read_pack_manifest, records_of
from pacs.register import register_packs
from reconstruction.correction import prepare_fields, prepare_without_fields, to_line_integrals
from reconstruction.fdk import FdkParameters, reconstruct
from reconstruction.geometry import ConeBeamGeometry
from spark_jobs.errors import PlanError
from spark_jobs.planning.plan import geometry_of, make_plan
from spark_jobs.planning.request import MEBIBYTE, ReconstructionRequest
from spark_jobs.planning.series import volume_digest
from spark_jobs.tasks.prepare_task import prepare_bin
from spark_jobs.tasks.slab_task import reconstruct_slab
from spark_jobs.tasks.workers import measured
from storage.filesystem import open_store
from tests.support.fake_index import FakeIndex
from tests.support.fake_reader import FakeReader, small_scan
from tests.support.local_run import LocalRun, store_sample
from tests.support.orbits import helix, stepped
from tests.support.peers import REPOSITORY

SCAN_ID = "sample-marker"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The store of a small sample scan in eight view blocks."""
    folder = tmp_path_factory.mktemp("small")
    store_sample(folder / "source", (folder / "store").as_uri())
    return open_store((folder / "store").as_uri())


@pytest.fixture(scope="module")
def judged(small):
    """The volume of the small scan in one slab, fused."""
    return run_of(small, n_slabs=1, mode="fused").volume()


def run_of(store, **wanted):
    return LocalRun(store, ReconstructionRequest(SCAN_ID, **({"bins": (0,), "voxel_pitch_mm": 0.14} | wanted)))


def off(got, expected):
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def test_the_batches_are_four_blocks_a_quarter_turn_apart(small):
    plan = run_of(small).plan
    assert plan.four_fold
    assert [len(batch) for batch in plan.batches] == [4, 4]
    assert plan.grid.shape[0] >= 7 * 16 - 15


@pytest.mark.parametrize("n_slabs", [3, 5])
@pytest.mark.parametrize("mode", ["fused", "two_stage"])
def test_other_slabs_and_modes_give_the_same_volume(small, judged, mode, n_slabs):
    got = run_of(small, n_slabs=n_slabs, mode=mode).volume()
    assert off(got, judged) < 1e-6
    if mode == "fused":
        assert np.array_equal(got, judged)


def test_float16_bands_give_nearly_the_same_volume(small, judged):
    assert 1e-7 < off(run_of(small, n_slabs=3, mode="two_stage", band_type="float16").volume(), judged) < 3e-4


def test_seven_slabs_of_short_memory_change_no_bit(small, judged):
    """Seven slabs; the views in small batches, and the rows filtered a few at a time."""
    fused = run_of(small, n_slabs=7, mode="fused")
    object.__setattr__(fused.plan, "batch_views", 8)
    assert len(fused.plan.slabs) == 7
    assert np.array_equal(fused.volume(), judged)
    staged = run_of(small, n_slabs=7, mode="two_stage", run_id="short")
    object.__setattr__(staged.plan, "batch_views", 8)
    object.__setattr__(staged.plan, "filter_rows", 11)
    assert off(staged.volume(), judged) < 1e-6
    assert len(staged.filtered) == 8 * 5


@pytest.mark.parametrize("mode", ["fused", "two_stage"])
def test_the_reference_agrees_and_does_not_hang_on_batches(small, mode):
    coarse = {"voxel_pitch_mm": 1.2, "mode": mode}
    reference = run_of(small, backend="numpy_reference", **coarse)
    first = reference.volume()
    assert off(run_of(small, **coarse).volume(), first) < 1e-5
    again = run_of(small, backend="numpy_reference", run_id="small batches", **coarse)
    object.__setattr__(again.plan, "batch_views", 4)
    assert np.array_equal(again.volume(), first)


@pytest.fixture(scope="module")
def specimen(tmp_path_factory):
    """Truth and volume of both bins of a finer sample scan."""
    folder = tmp_path_factory.mktemp("specimen")
    truth = store_sample(folder / "source", (folder / "store").as_uri(), n_views=120, n_rows=64, n_cols=96)
    run = run_of(open_store((folder / "store").as_uri()), bins=(), voxel_pitch_mm=None)
    return truth, run.plan.grid, [run.volume(bin_index) for bin_index in (0, 1)]


def ball_mean(volume, grid, center_mm, radius_mm):
    """Mean over the voxels within a ball."""
    z, y, x = (
        grid.origin_mm[2 - axis] + grid.voxel_pitch_mm[axis] * np.arange(grid.shape[axis]) - center_mm[2 - axis]
        for axis in range(3)
    )
    inside = z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2 < radius_mm**2
    return float(volume[inside].mean())


@pytest.mark.parametrize("bin_index", [0, 1])
def test_mu_is_that_of_the_specimen_and_nothing_is_mirrored(specimen, bin_index):
    truth, grid, volumes = specimen
    mu = {name: float(values[bin_index]) for name, values in truth.mu_in_specimen_per_mm.items()}
    shapes = {shape.name: shape for _, part in truth.phantom.parts for shape in part.shapes}
    iodine = next(name for name in mu if name.startswith("iodine"))
    for name, expected, tolerance in (
        ("iodine ball", mu[iodine], 0.03), ("bone ball", mu["bone"], 0.1), ("bone rod", mu["bone"], 0.15),
        ("empty ball", 0.0, None),
    ):  # fmt: skip
        shape = shapes[name]
        got = ball_mean(volumes[bin_index], grid, shape.center_mm, 0.6 * min(shape.half_axes_mm))
        allowed = 0.06 * mu["water"] if tolerance is None else tolerance * expected
        assert got == pytest.approx(expected, abs=allowed), name
        for mirrored in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)):
            place = tuple(c * s for c, s in zip(shape.center_mm, mirrored, strict=True))
            if np.linalg.norm(np.subtract(place, shape.center_mm)) > 2.5 * max(shape.half_axes_mm):
                there = ball_mean(volumes[bin_index], grid, place, 0.6 * min(shape.half_axes_mm))
                assert abs(there - expected) > 0.1 * mu["water"], f"{name} also at {mirrored}"
    water = ball_mean(volumes[bin_index], grid, (-0.42 * 10, 0.0, 0.0), 1.5)
    assert water == pytest.approx(mu["water"], rel=0.02)


def test_a_task_done_twice_writes_two_packs_of_the_same_bytes(small):
    run = run_of(small, n_slabs=3)
    first, second = (measured(run.place, 1, reconstruct_slab) for _ in range(2))
    assert first["pack"] != second["pack"]
    assert small.read_bytes(first["pack"]) == small.read_bytes(second["pack"])
    assert first["slice_sha256"] == second["slice_sha256"]
    assert first["peak_bytes"] > 100 * MEBIBYTE
    whole = run.volume()
    slab = run.plan.slabs[1]
    assert len(first["slice_sha256"]) == slab.n_slices
    assert first["n_instances"] == slab.n_slices + slab.n_slices // run.plan.preview_factor
    assert volume_digest(first["slice_sha256"]) == volume_digest(
        [hashlib.sha256(values.tobytes()).hexdigest() for values in whole[slab.z_start : slab.z_stop]]
    )


def test_a_changed_scan_or_a_broken_plan_is_told_plainly(small, tmp_path):
    run = run_of(small, n_slabs=3, run_id="changed")
    path = f"{run.place.folder}/plan.json"
    whole = small.read_bytes(path)
    with small.open_write(path) as handle:
        handle.write(whole.replace(run.plan.scan_sha256.encode(), b"0" * 64))
    got = measured(run.place, 0, reconstruct_slab)
    said = f"scan {SCAN_ID} is not the one that {run.place.folder} was planned for: submit the job again"
    assert got == {"error": said}
    with small.open_write(path) as handle:
        handle.write(whole.replace(b'"schema_version": 3', b'"schema_version": 1'))
    assert "plan schema version 1, expected 3" in measured(run.place, 0, reconstruct_slab)["error"]


def damaged(store, folder, name):
    """The only change: one byte in the middle of each file of a folder that has this name in it."""
    found = [entry.path for entry in store.list_folder(folder) if name in entry.path]
    assert found
    for path in found:
        content = bytearray(store.read_bytes(path))
        content[len(content) // 2] ^= 0x40
        with store.open_write(path) as handle:
            handle.write(bytes(content))


def test_damaged_chunks_bands_and_packs_are_told_by_their_names(tmp_path):
    store_sample(tmp_path / "source", (tmp_path / "store").as_uri())
    store = open_store((tmp_path / "store").as_uri())
    staged = run_of(store, mode="two_stage", voxel_pitch_mm=0.6)
    damaged(store, f"{staged.place.folder}/bands-bin00", "block0003")
    error = measured(staged.place, 0, reconstruct_slab)["error"]
    assert "block0003" in error
    assert "checksum" in error
    fused = run_of(store, mode="fused", voxel_pitch_mm=0.6)
    pack = measured(fused.place, 0, reconstruct_slab)["pack"]
    record = records_of(read_pack_manifest(store, pack), pack)[0]
    assert len(read_entry(store, record.location)) == record.location.length
    content = store.read_bytes(pack)
    index = FakeIndex()
    for broken in (content[:-40], content[: len(content) // 2]):
        with store.open_write(pack) as handle:
            handle.write(broken)
        with pytest.raises(PackError, match=pack):
            register_packs(index, store, [pack], source="test")
    assert index.kept == []
    damaged(store, f"scans/{SCAN_ID}", "projections-bin00")
    error = measured(fused.place, 0, reconstruct_slab)["error"]
    assert error.startswith(f"scan {SCAN_ID}, bin 0, view block ")
    assert "\n" not in error


def test_a_scan_without_what_a_task_needs_is_refused(small):
    stored = open_scan_chunks(small, SCAN_ID)
    assert geometry_of(stored).n_views == 48
    with pytest.raises(PlanError, match="asked for bin 7"):
        make_plan(stored, ReconstructionRequest(SCAN_ID, bins=(7,)))


#: One task in a process of its own: its peak, and what the plan says of it [B].
_ONE_TASK = """
import json, sys
from spark_jobs.tasks.brick_task import back_project_brick
from spark_jobs.tasks.filter_task import filter_rows
from spark_jobs.tasks.prepare_task import prepare_bin
from spark_jobs.tasks.slab_task import reconstruct_slab
from spark_jobs.tasks.workers import RunPlace, measured
url, folder, kind, task = sys.argv[1:]
result = measured(RunPlace(url, folder, 1), int(task), globals()[kind])
print(json.dumps(result.get("peak_bytes") or result))
"""


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """The store of a scan whose pixels weigh something beside a worker's libraries."""
    store = open_store((tmp_path_factory.mktemp("larger") / "store").as_uri())
    n_views, n_rows, n_cols = 128, 256, 256
    geometry = ConeBeamGeometry.circular(
        sod_mm=200.0, sdd_mm=280.0, angles_rad=np.arange(n_views) * 2 * np.pi / n_views, n_rows=n_rows, n_cols=n_cols,
        pitch_u_mm=0.1, pitch_v_mm=0.1,
    )  # fmt: skip
    rng = np.random.default_rng(4)
    view = rng.poisson(9000, size=(1, 1, n_rows, n_cols)).astype("u2")
    fields = rng.poisson(20000, size=(1, 12, n_rows, n_cols)).astype("u2")
    scan = small_scan(n_views=n_views, n_bins=1, n_rows=n_rows, n_cols=n_cols, geometry=geometry, scan_id=SCAN_ID)
    reader = FakeReader(scan, np.repeat(view, n_views, axis=1), flats=fields, darks=fields // 4000)
    upload(reader, store, memory_bytes=32 * n_rows * n_cols * 2)
    return store


@pytest.mark.parametrize(
    ("wanted", "kinds"),
    [
        ({"mode": "fused"}, {"reconstruct_slab": "reconstruct"}),
        ({"mode": "two_stage"}, {"reconstruct_slab": "reconstruct", "filter_rows": "filter"}),
        (
            {"cut": "bricks", "brick_voxels": (240, 120)},
            {"back_project_brick": "bricks", "reconstruct_slab": "assemble"},
        ),
    ],
    ids=["fused", "two stages", "bricks"],
)
def test_peak_memory_of_a_task_stays_under_its_plan(larger, wanted, kinds):
    run = run_of(larger, n_slabs=2, voxel_pitch_mm=None, mu_range=(-1.0, 3.0), **wanted)
    assert run.plan.four_fold == (run.plan.bricks is None)
    peaks = _peaks_of(run, kinds)
    for kind, stage in kinds.items():
        planned, peak = run.plan.cost.stage(stage).task_bytes, peaks[kind]
        # A worker that has back-projected before keeps the kernels: they are planned for tasks that need none too.
        least = 0.2 if stage == "assemble" else 0.4
        assert least * planned < peak < planned, f"{kind}: {peak / MEBIBYTE:.0f} of {planned / MEBIBYTE:.0f} MiB"


@pytest.mark.parametrize(
    ("geometry", "wanted", "kinds"),
    [
        (
            helix(3.0, 64, 12.0, n_rows=128, n_cols=256, pitch_u_mm=0.3, pitch_v_mm=0.3),
            {"mode": "fused"}, {"reconstruct_slab": "reconstruct"},
        ),
        pytest.param(
            stepped((-13.0, 13.0), (0.0, 0.0), 96, n_rows=256, n_cols=160, pitch_u_mm=0.3, pitch_v_mm=0.3),
            {"mode": "two_stage"}, {"filter_rows": "filter"}, marks=pytest.mark.slow,
        ),
        (
            stepped((-13.0, 13.0), (0.0, 0.0), 96, n_rows=256, n_cols=160, pitch_u_mm=0.3, pitch_v_mm=0.3),
            {"mode": "fused"}, {"reconstruct_slab": "reconstruct"},
        ),
    ],
    ids=["helix", "merged two stages", "merged fused"],
)  # fmt: skip
def test_peak_memory_on_other_orbits_stays_under_its_plan(tmp_path, geometry, wanted, kinds):
    store = open_store((tmp_path / "store").as_uri())
    panel = geometry.n_rows, geometry.n_cols
    rng = np.random.default_rng(4)
    view = rng.poisson(9000, size=(1, 1, *panel)).astype("u2")
    fields = rng.poisson(20000, size=(1, 4, *panel)).astype("u2")
    scan = small_scan(
        n_views=geometry.n_views, n_bins=1, n_rows=panel[0], n_cols=panel[1], geometry=geometry, scan_id=SCAN_ID
    )
    frames = np.repeat(view, geometry.n_views, axis=1)
    upload(FakeReader(scan, frames, flats=fields, darks=fields // 4000), store, memory_bytes=96 * panel[0] * panel[1])
    run = run_of(
        store, n_slabs=2, voxel_pitch_mm=0.2, shape=(64, 192, 192), mu_range=(-1.0, 3.0), **wanted,
        fdk=FdkParameters(field_radius_mm=18.0),
    )  # fmt: skip
    peaks = _peaks_of(run, kinds)
    for kind, stage in kinds.items():
        planned, peak = run.plan.cost.stage(stage).task_bytes, peaks[kind]
        assert 0.4 * planned < peak < planned, f"{kind}: {peak / MEBIBYTE:.0f} of {planned / MEBIBYTE:.0f} MiB"


def test_peak_memory_of_the_search_for_bad_pixels_stays_under_the_plan(tmp_path):
    """A wide panel with many field frames, and few views: the first stage needs most."""
    store = open_store((tmp_path / "store").as_uri())
    panel = (1, 20, 600, 800)
    fields = np.random.default_rng(5).poisson(20000, size=panel).astype("u2")
    geometry = ConeBeamGeometry.circular(
        sod_mm=200.0, sdd_mm=280.0, angles_rad=np.arange(4) * np.pi / 2, n_rows=600, n_cols=800, pitch_u_mm=0.1,
        pitch_v_mm=0.1,
    )  # fmt: skip
    scan = small_scan(n_views=4, n_bins=1, n_rows=600, n_cols=800, geometry=geometry, scan_id=SCAN_ID)
    upload(FakeReader(scan, fields[:, :4] // 2, flats=fields, darks=fields // 4000), store)
    run = run_of(store, mode="fused", slab_slices=16, voxel_pitch_mm=1.0)
    peak = _peaks_of(run, ["prepare_bin"])["prepare_bin"]
    planned = run.plan.cost.task_bytes
    assert 0.4 * planned < peak < planned, f"{peak / MEBIBYTE:.0f} MiB of {planned / MEBIBYTE:.0f} MiB planned"


def _peaks_of(run, kinds):
    """Largest peak of each kind of task, in fresh processes at the same time [B]."""
    place = run.place
    running = {
        kind: subprocess.Popen(
            [sys.executable, "-c", _ONE_TASK, place.store_url, place.folder, kind, "0"], stdout=subprocess.PIPE,
            text=True, cwd=REPOSITORY,
        )
        for kind in kinds
    }  # fmt: skip
    peaks = {kind: json.loads(process.communicate(timeout=120)[0]) for kind, process in running.items()}
    assert all(isinstance(peak, int) for peak in peaks.values()), peaks
    return peaks


def test_prepare_finds_the_same_range_every_time(small):
    run = run_of(small, bins=())
    place = run.place
    assert [measured(place, task, prepare_bin)["mu_range"] for task in (0, 1)] == [r["mu_range"] for r in run.prepared]
    low, high = run.prepared[0]["mu_range"]
    assert low < 0 < float(run.volume().max()) < high


@pytest.mark.parametrize("mode", ["fused", "two_stage"])
@pytest.mark.parametrize("content", ["counts", "normalized", "line_integrals"])
def test_tasks_make_of_any_content_what_the_kernels_make_of_it_whole(tmp_path, content, mode):
    """Bands of rows against the whole panel at once; two rows of the panel have no good pixel, at a slab's border."""
    geometry = ConeBeamGeometry.circular(
        sod_mm=200.0, sdd_mm=280.0, angles_rad=np.arange(16) * np.pi / 8, n_rows=40, n_cols=32, pitch_u_mm=0.5,
        pitch_v_mm=0.5,
    )  # fmt: skip
    rng = np.random.default_rng(6)
    pixel_type = "float32" if content == "line_integrals" else "uint16"
    frames = rng.poisson(500, size=(1, 16, 40, 32)).astype(pixel_type)
    if content == "line_integrals":
        frames /= np.float32(400)
    bad = rng.random((40, 32)) < 0.03
    bad[19:21] = True
    fields = {}
    if content == "counts":
        fields = {"flats": rng.poisson(900, size=(1, 6, 40, 32)).astype("u2"), "darks": np.ones((1, 2, 40, 32), "u2")}
    white = {"white_level": 900.0} if content == "normalized" else {}
    scan = small_scan(
        n_views=16, n_bins=1, n_rows=40, n_cols=32, scan_id=SCAN_ID, geometry=geometry, content=content,
        pixel_type=pixel_type, **white,
    )  # fmt: skip
    store = open_store((tmp_path / "store").as_uri())
    upload(FakeReader(scan, frames, bad_pixels=bad, **fields), store, memory_bytes=4 * frames[0, 0].nbytes)
    run = run_of(store, mode=mode, n_slabs=2, voxel_pitch_mm=0.35)
    got = run.volume()
    assert len(run.plan.slabs) == 2
    if content == "counts":
        correction = prepare_fields(fields["flats"][0], fields["darks"][0], bad)
    else:
        correction = prepare_without_fields(content, 40, 32, white_level=scan.white_level or 1.0, bad_pixels=bad)
    lines, _ = to_line_integrals(frames[0], correction)
    expected = reconstruct(lines, geometry, run.plan.grid)
    assert float(expected.max()) > 0
    assert off(got, expected) < 1e-6
    if mode == "fused":
        assert np.array_equal(got, expected)
