# SPDX-License-Identifier: Apache-2.0
"""Runs by bricks: the slabs' voxels and digests, from bands tiled in u and bricks in the store."""

import numpy as np
import pytest

from spark_jobs.errors import BandCorruptError, TaskFailedError
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.planning.series import volume_digest
from spark_jobs.run_files.bands import BandFile, read_band, write_band
from spark_jobs.run_files.brick_files import BrickFile, read_brick, write_brick
from spark_jobs.running.reconstruct_scan import reconstruct_scan
from spark_jobs.tasks.brick_task import back_project_brick
from spark_jobs.tasks.job_stages import job_stages
from spark_jobs.tasks.slab_task import reconstruct_slab
from spark_jobs.tasks.workers import measured
from storage.errors import MissingFileError
from storage.filesystem import open_store
from tests.support.fake_store import FakeStore
from tests.support.index_engine import sqlite_index
from tests.support.local_run import LocalRun, store_sample

SCAN_ID = "sample-marker"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bricks")
    store_sample(folder / "source", (folder / "store").as_uri())
    return open_store((folder / "store").as_uri())


def run_of(store, **wanted):
    return LocalRun(store, ReconstructionRequest(SCAN_ID, **({"bins": (0,), "voxel_pitch_mm": 0.2} | wanted)))


def digests(run):
    return [measured(run.place, task, reconstruct_slab)["slice_sha256"] for task in range(len(run.plan.tasks))]


@pytest.mark.parametrize("band_type", ["float32", "float16"])
def test_bricks_give_the_digests_of_the_slabs(small, band_type):
    """The kernel of any circular orbit on the same filtered rows: the same bits."""
    slabs = run_of(small, mode="two_stage", band_type=band_type, four_fold=False, n_slabs=2)
    bricks = run_of(small, cut="bricks", band_type=band_type, n_slabs=2, brick_voxels=(60, 40))
    assert bricks.plan.bricks is not None
    assert len(bricks.plan.bricks.areas) > 4
    assert bricks.plan.run_name != slabs.plan.run_name
    assert [stage.name for stage in job_stages(bricks.plan)] == ["prepare", "filter", "bricks", "assemble"]
    assert [cost.name for cost in bricks.plan.cost.stages] == ["prepare", "filter", "bricks", "assemble"]
    assert digests(bricks) == digests(slabs)
    whole = bricks.volume()
    assert float(whole.max()) > 0
    _, ny, nx = bricks.plan.grid.shape
    y, x = np.mgrid[:ny, :nx] - (ny - 1) / 2
    assert not whole[:, 0.2 * np.hypot(y, x) > bricks.plan.radius_mm].any()


def test_bricks_agree_with_the_four_fold_slabs_and_the_reference(small):
    whole = run_of(small, mode="fused", n_slabs=1).volume()
    cut = run_of(small, cut="bricks", n_slabs=3, brick_voxels=(80, 80)).volume()
    assert float(np.abs(cut - whole).max()) < 1e-6 * float(np.abs(whole).max())
    coarse = {"voxel_pitch_mm": 1.2, "backend": "numpy_reference"}
    judge = run_of(small, mode="two_stage", **coarse).volume()
    assert np.array_equal(run_of(small, cut="bricks", brick_voxels=(16, 16), **coarse).volume(), judge)


def test_bricks_beside_the_field_are_not_made(small):
    run = run_of(small, cut="bricks", brick_voxels=(16, 16), shape=(20, 128, 128), voxel_pitch_mm=0.14)
    assert len(run.plan.bricks.areas) == 8 * 8 - 4
    assert run.volume().shape == (20, 128, 128)
    assert not run.volume()[:, :16, :16].any()


def test_a_brick_is_made_again_after_its_file_was_damaged(small):
    run = run_of(small, cut="bricks", brick_voxels=(80, 80), run_id="damaged")
    place, plan = run.place, run.plan
    folder = f"{place.bands_stem}-bin00"
    path = next(e.path for e in small.list_folder(folder) if e.path.endswith(".voxels"))
    content = bytearray(small.read_bytes(path))
    content[len(content) // 2] ^= 0x40
    with small.open_write(path) as handle:
        handle.write(bytes(content))
    found = [measured(place, task, reconstruct_slab) for task in range(len(plan.tasks))]
    assert any("does not have its checksum" in r.get("error", "") for r in found)
    assert "written_bytes" in measured(place, int(path[-13:-7]), back_project_brick)
    assert "pack" in measured(place, 0, reconstruct_slab)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tiles_hold_the_values_of_the_whole_row(dtype):
    store = FakeStore()
    rng = np.random.default_rng(2)
    rows = (rng.standard_normal((4, 5, 70)) * 10.0 ** np.arange(70)[None, None, :] ** 0.3).astype(np.float32)
    plain, tiled = BandFile("a.band", 10, 15, 4, 70, dtype), BandFile("b.band", 10, 15, 4, 70, dtype, 32)
    write_band(store, plain, rows)
    assert write_band(store, tiled, rows) == len(store.files["b.band"]) == 5 * tiled.row_bytes
    expected = read_band(store, plain, 11, 14)
    assert np.array_equal(read_band(store, tiled, 11, 14), expected)
    for cols, n_tiles in (((0, 32), 1), ((31, 33), 2), ((40, 70), 2), ((64, 66), 1)):
        store.reads.clear()
        assert np.array_equal(read_band(store, tiled, 11, 14, cols=cols), expected[:, :, slice(*cols)])
        assert len(store.reads) == n_tiles
        assert sum(length for _, _, length in store.reads) == 3 * tiled.bytes_of_columns(*cols)
    other = BandFile("b.band", 10, 15, 4, 70, dtype, 35)
    with pytest.raises(BandCorruptError, match=r"b\.band"):
        read_band(store, other, 10, 12)


def test_brick_files_refuse_what_was_not_written_so():
    store, brick = FakeStore(), BrickFile("r/brick.voxels", (5, 3, 4))
    voxels = np.random.default_rng(1).normal(size=brick.shape).astype(np.float32)
    assert write_brick(store, brick, lambda a, b: voxels[a:b], step=2) == len(store.files[brick.path])
    out = np.empty((2, 3, 4), dtype=np.float32)
    assert read_brick(store, brick, 1, 3, out=out) == 2 * brick.slice_bytes
    assert np.array_equal(out, voxels[1:3])
    whole = store.files[brick.path]
    store.files[brick.path] = whole[brick.slice_bytes :] + whole[: brick.slice_bytes]
    with pytest.raises(BandCorruptError, match="slice 1 does not have its checksum"):
        read_brick(store, brick, 1, 3, out=out)
    store.files[brick.path] = whole[:-1]
    with pytest.raises(BandCorruptError, match=f"brick.voxels has {len(whole) - 1} B, expected {len(whole)} B"):
        read_brick(store, brick, 3, 5, out=out)
    del store.files[brick.path]
    with pytest.raises(MissingFileError):
        read_brick(store, brick, 3, 5, out=out)


@pytest.mark.spark
def test_the_job_runs_by_bricks_and_goes_on_with_finished_ones(small, tmp_path, spark_session):
    request = ReconstructionRequest(
        SCAN_ID, bins=(0,), voxel_pitch_mm=0.4, cut="bricks", brick_voxels=(32, 32), n_slabs=2, run_id="job"
    )
    with sqlite_index(tmp_path / "index.sqlite") as index:

        def reconstruct(**changes):
            return reconstruct_scan(small, index, request, session=lambda: spark_session, **changes)

        def broken(place, task):
            raise RuntimeError("told to fail")

        with pytest.raises(TaskFailedError, match="told to fail"):
            reconstruct(slab_work=broken)
        done = reconstruct()
        run = LocalRun(small, request)
        assert done.report["reused_tasks"]["bricks"] == len(run.plan.brick_tasks) > 4
        assert done.outcomes["added"] > 0
        assert reconstruct().unchanged
        assert done.series[0].volume_sha256 == volume_digest([d for part in digests(run) for d in part])
