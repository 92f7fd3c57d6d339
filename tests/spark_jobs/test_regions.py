# SPDX-License-Identifier: Apache-2.0
"""Regions of interest and coarse voxels: the voxels of the whole, from fewer rows, and said so in the plan."""

import numpy as np
import pytest

from ingest.chunks import open_scan_chunks
from reconstruction.geometry import VolumeGrid
from spark_jobs.errors import PlanError
from spark_jobs.planning.coarse_voxels import fitting_binning
from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.request import ReconstructionRequest
from storage.filesystem import open_store
from tests.support.local_run import LocalRun, store_sample
from tests.support.planned_scans import stone

SCAN_ID = "sample-marker"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regions")
    store_sample(folder / "source", (folder / "store").as_uri(), n_views=48, n_rows=64, n_cols=96)
    return open_store((folder / "store").as_uri())


def run_of(store, **wanted):
    return LocalRun(store, ReconstructionRequest(SCAN_ID, **({"bins": (0,), "voxel_pitch_mm": 0.3} | wanted)))


@pytest.fixture(scope="module")
def whole(store):
    run = run_of(store)
    return run.plan, run.volume()


def region_of(grid, start, shape):
    """Centre of the voxels from `start` (z, y, x) on."""
    origin, pitch = grid.origin_mm, grid.voxel_pitch_mm
    return tuple(origin[2 - axis] + (start[axis] + (shape[axis] - 1) / 2) * pitch[axis] for axis in (2, 1, 0))


@pytest.mark.parametrize("mode", ["fused", "two_stage"])
def test_a_region_beside_the_axis_has_the_voxels_of_the_whole(store, whole, mode):
    """The object sticks out of the region on all sides: its rows are filtered as a whole all the same."""
    plan, volume = whole
    start, shape = (plan.grid.shape[0] - 18, 20, 30), (10, 16, 20)
    center = region_of(plan.grid, start, shape)
    assert VolumeGrid(shape, plan.grid.voxel_pitch_mm, center).origin_mm == pytest.approx(
        tuple(o + s * 0.3 for o, s in zip(plan.grid.origin_mm, reversed(start), strict=True))
    )
    region = run_of(store, shape=shape, center_mm=center, mode=mode)
    got = region.volume()
    expected = volume[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]
    assert float(np.abs(expected).max()) > 0.3 * float(np.abs(volume).max())
    assert float(np.abs(got - expected).max()) < 1e-5 * float(np.abs(volume).max())
    low, high = region.plan.rows
    assert high - low < 0.6 * (plan.rows[1] - plan.rows[0])
    assert region.plan.cost.stored_read_bytes < 0.7 * plan.cost.stored_read_bytes
    assert region.plan.cost.updates == 10 * 16 * 20 * 48


def test_bricks_of_a_region_agree_too(store, whole):
    plan, volume = whole
    start, shape = (4, 14, 18), (20, 36, 32)
    center = region_of(plan.grid, start, shape)
    got = run_of(store, shape=shape, center_mm=center, cut="bricks", brick_voxels=(20, 20)).volume()
    expected = volume[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]
    assert float(np.abs(got - expected).max()) < 1e-5 * float(np.abs(volume).max())


def test_averaged_pixels_give_nearly_the_coarse_volume(store):
    coarse = run_of(store, voxel_pitch_mm=0.8)
    assert any("averaging" in note for note in coarse.plan.notes)
    assert coarse.plan.detector_binning == 1
    binned = run_of(store, voxel_pitch_mm=0.8, detector_binning="auto", shape=coarse.plan.grid.shape,
                    center_mm=coarse.plan.grid.center_mm)  # fmt: skip
    factor = binned.plan.detector_binning
    assert factor in (2, 4)
    assert binned.plan.run_name != coarse.plan.run_name
    a, b = coarse.volume(), binned.volume()
    middle = tuple(slice(n // 4, -(n // 4)) for n in a.shape)
    assert float(np.abs(a[middle].mean() - b[middle].mean())) < 0.02 * float(np.abs(a[middle]).mean())
    assert np.corrcoef(a[middle].ravel(), b[middle].ravel())[0, 1] > 0.95  # the noise of single pixels apart
    same = [run_of(store, voxel_pitch_mm=0.8, detector_binning=2, mode=m, n_slabs=1).volume() for m in
            ("fused", "two_stage")]  # fmt: skip
    assert float(np.abs(same[0] - same[1]).max()) < 1e-6 * float(np.abs(same[0]).max())


def test_coarse_voxels_are_planned_right():
    stored = stone()
    pixel = 0.11 * 200 / 280
    plain, fine, binned = (
        make_plan(stored, ReconstructionRequest("scan-1", voxel_pitch_mm=2 * pixel, mode="two_stage", **wanted))
        for wanted in ({}, {"detector_binning": 1}, {"detector_binning": "auto"})
    )
    assert plain.run_name == fine.run_name
    assert "averaging 2 x 2 pixels" in " ".join(plain.notes)
    assert "averaging" not in " ".join(binned.notes)
    assert binned.detector_binning == 2
    assert binned.cost.updates == pytest.approx(plain.cost.updates, rel=0.01)
    assert binned.cost.stage("filter").read_bytes == pytest.approx(plain.cost.stage("filter").read_bytes, rel=0.05)
    assert binned.cost.band_bytes == pytest.approx(plain.cost.band_bytes / 4, rel=0.02)
    assert make_plan(stored, ReconstructionRequest("scan-1")).cost.updates == pytest.approx(
        8 * plain.cost.updates, rel=0.02
    )
    told = make_plan(stored, ReconstructionRequest("scan-1", voxel_pitch_mm=pixel, detector_binning=4))
    assert "details below" in " ".join(told.notes)


def test_binning_follows_the_voxel():
    assert [fitting_binning(ratio * 0.1, 0.1) for ratio in (0.5, 1, 1.9, 2, 3.9, 4, 9)] == [1, 1, 1, 2, 2, 4, 4]
    with pytest.raises(PlanError, match="detector_binning must be auto, 1, 2 or 4, got 3"):
        ReconstructionRequest("scan-1", detector_binning=3)
    with pytest.raises(PlanError, match="unknown cut 'cubes'"):
        ReconstructionRequest("scan-1", cut="cubes")
    with pytest.raises(PlanError, match="bricks read rows that were filtered before"):
        ReconstructionRequest("scan-1", cut="bricks", mode="fused")
    with pytest.raises(PlanError, match="a brick's size needs the cut 'bricks'"):
        ReconstructionRequest("scan-1", brick_voxels=(64, 64))


def test_a_region_reads_the_rows_of_its_shadow(store):
    stored = open_scan_chunks(store, SCAN_ID)
    made = make_plan(stored, ReconstructionRequest(SCAN_ID, shape=(8, 20, 20), center_mm=(3.0, 2.0, 4.0)))
    setup = made.setup(stored.scan.geometry, 0)
    assert made.rows[0] >= setup.band.row_start // stored.layout.row_group * stored.layout.row_group
    assert setup.ramp.n_fft > 2 * stored.scan.n_cols - 2  # whole rows go through the ramp
