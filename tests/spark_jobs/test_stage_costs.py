# SPDX-License-Identifier: Apache-2.0
"""What plans of large scans say, and what tasks of small ones really read and write."""

import numpy as np
import pytest

from ingest.chunks import open_scan_chunks
from ingest.upload import upload
from reconstruction.errors import MemoryBudgetError
from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.request import MEBIBYTE, ReconstructionRequest
from spark_jobs.planning.series import RunRecord, fix_run
from spark_jobs.running.submit import run_folder
from spark_jobs.tasks.job_stages import job_stages
from spark_jobs.tasks.workers import RunPlace, measured
from storage.counted_store import StoreCounts
from storage.publish import publish_bytes
from tests.support.fake_reader import FakeReader
from tests.support.fake_store import FakeStore
from tests.support.planned_scans import orbit, scan_of, stone, thorax


def plan_of(stored, **wanted):
    return make_plan(stored, ReconstructionRequest(stored.scan.scan_id, **wanted))


@pytest.mark.parametrize("pitch_mm", [0.11, 0.055])
def test_a_stone_reads_its_row_groups_about_once_by_default(pitch_mm):
    """Fused where the memory takes slabs that are high enough, in two stages where it does not."""
    stored = stone(pitch_mm)
    default = plan_of(stored)
    roomy = plan_of(stored, task_memory_bytes=4096 * MEBIBYTE)
    for made in (default, roomy):
        assert made.cost.row_group_amplification <= 1.5
        assert made.cost.task_bytes <= made.request.task_memory_bytes
        assert made.bricks is None
        assert made.slabs[0].n_slices > 64
        # All that is read, flats and footers too, over the scan as stored.
        first = next(stage for stage in made.cost.stages if stage.pixel_bytes and stage.name != "prepare")
        assert first.read_bytes < 1.5 * stored.manifest.stored_bytes
    assert default.two_stage
    assert not roomy.two_stage
    assert roomy.cost.slab_amplification <= 1.5 < default.cost.slab_amplification
    assert plan_of(stored, bins=(3,)).slabs == default.slabs


def test_a_thorax_is_cut_into_bricks_and_fits_the_memory():
    made = plan_of(thorax())
    assert made.bricks is not None
    assert made.two_stage
    assert made.cost.task_bytes <= 2048 * MEBIBYTE
    assert [stage.name for stage in made.cost.stages] == ["prepare", "filter", "bricks", "assemble"]
    assert made.cost.row_group_amplification < 1.01
    assert "no slab fits the memory" in made.cost.why
    assert [way.name for way in made.cost.ways] == ["bricks"]


def test_both_ways_are_told_with_the_reason():
    made = plan_of(thorax(), task_memory_bytes=4096 * MEBIBYTE)
    bricks, slabs = made.cost.ways
    assert (bricks.name, slabs.name) == ("bricks", "two-stage slabs")
    assert slabs.amplification > 4 > slabs.amplification / bricks.amplification * 0.5
    assert bricks.read_bytes + bricks.written_bytes < slabs.read_bytes + slabs.written_bytes
    assert "slabs that fit the memory would read each row group" in made.cost.why
    assert "were asked for" in plan_of(thorax(), task_memory_bytes=4096 * MEBIBYTE, cut="slabs").cost.why


def test_what_fits_in_no_way_is_refused_with_the_figure():
    with pytest.raises(MemoryBudgetError, match=r"needs \d+ MiB in one task, but 900 MiB are allowed: "):
        plan_of(thorax(), task_memory_bytes=900 * MEBIBYTE)
    with pytest.raises(MemoryBudgetError, match="the encoding of slices of scan scan-1 needs"):
        plan_of(thorax(), task_memory_bytes=900 * MEBIBYTE, cut="bricks")


@pytest.fixture(scope="module")
def noisy():
    """A store with a scan that is not tiny beside manifests and footers."""
    store = FakeStore()
    scan = scan_of(orbit(48, 160, 160, pitch_u_mm=0.3, pitch_v_mm=0.3))
    rng = np.random.default_rng(2)
    frames = rng.poisson(90, size=(2, 48, 160, 160)).astype("u2")
    flats, darks = (rng.poisson(mean, size=(2, 5, 160, 160)).astype("u2") for mean in (400, 2))
    upload(FakeReader(scan, frames, flats=flats, darks=darks), store, memory_bytes=4 * 160 * 160 * 12)
    return store


@pytest.mark.parametrize(
    "wanted",
    [
        {"mode": "fused"},
        {"mode": "two_stage"},
        {"mode": "two_stage", "band_type": "float16", "mu_range": (-0.5, 2.0)},
        {"cut": "bricks", "brick_voxels": (64, 64)},
        {"mode": "two_stage", "detector_binning": 2, "voxel_pitch_mm": 0.4},
        {"mode": "fused", "shape": (40, 48, 48), "center_mm": (4.0, 2.0, 3.0)},
    ],
    ids=["fused", "two stages", "float16", "bricks", "binned", "region"],
)
def test_tasks_read_and_write_what_the_plan_says(noisy, wanted, monkeypatch):
    """Bytes within 5 % in each stage, and as many reads and updates."""
    stored = open_scan_chunks(noisy, "scan-1")
    plan = plan_of(stored, n_slabs=3, run_id=str(sorted(wanted)), **wanted)
    folder = run_folder(plan)
    monkeypatch.setattr("spark_jobs.tasks.workers.open_store", lambda url, **_: noisy)
    publish_bytes(noisy, f"{folder}/plan.json", plan.to_bytes(), kind="replace")
    fix_run(noisy, folder, RunRecord("20260101", "120000", {}, {}, "1.0"))
    place = RunPlace(noisy.url, folder, 1, records=f"{folder}/done")
    updates = 0
    for stage, cost in zip(job_stages(plan), plan.cost.stages, strict=True):
        assert (stage.name, stage.n_tasks) == (cost.name, cost.n_tasks)
        results = [measured(place, task, stage.work) for task in range(stage.n_tasks)]
        counts = sum((StoreCounts(**result["store"]) for result in results), StoreCounts())
        assert counts.read_bytes == pytest.approx(cost.read_bytes, rel=0.05), stage.name
        assert counts.reads == pytest.approx(cost.reads, rel=0.05), stage.name
        if stage.name != "prepare":  # some kilobytes: how many pixels are bad is not known before
            assert counts.written_bytes == pytest.approx(cost.written_bytes, rel=0.05), stage.name
        updates += sum(result.get("updates", 0) for result in results)
        assert cost.updates == sum(result.get("updates", 0) for result in results), stage.name
    assert updates > 0
