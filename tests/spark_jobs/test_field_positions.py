# SPDX-License-Identifier: Apache-2.0
"""Field frames of each camera position, from the description to mu: a job's tasks, one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.chunks import open_scan_chunks
from ingest.readers import open_source
from ingest.upload import upload
from reconstruction.bad_pixels import CorrectionParameters
from reconstruction.errors import CalibrationError
from reconstruction.fdk import FdkParameters
from spark_jobs.looks.parameters import PreviewParameters
from spark_jobs.looks.preview import preview
from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.planning.series import RunRecord, fix_run
from spark_jobs.running.submit import delete_intermediates, run_folder
from spark_jobs.tasks.corrected_rows import RowCorrector, find_mask, has_white
from spark_jobs.tasks.job_stages import job_stages
from spark_jobs.tasks.slab_task import slab_volume
from spark_jobs.tasks.workers import RunPlace, measured, open_run
from storage.counted_store import StoreCounts
from storage.filesystem import open_store
from storage.publish import publish_bytes
from tests.support.orbits import regions
from tests.support.stepped_scan import DEAD, PANEL, write_stepped_scan

FDK = FdkParameters(field_radius_mm=13.0)
WANTED = {"shape": (2, 44, 44), "voxel_pitch_mm": (0.8, 0.6, 0.6), "fdk": FDK}
#: merged into wide views; of angles of their own; both positions at each angle; fields of one position for all.
SCANS = {
    "merged": {},
    "apart": {"turned": (0.0, 0.5)},
    "interleaved": {"interleaved": True},
    "common": {"common_flats": True},
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    made = {}
    for name, how in SCANS.items():
        folder = tmp_path_factory.mktemp(name)
        truth = write_stepped_scan(folder / "scan", scan_id=name, **how)
        store = open_store((folder / "store").as_uri())
        reader = open_source(folder / "scan")
        upload(reader, store, memory_bytes=30 * 8 * 40 * 2)
        made[name] = store, truth
    return made


class Job:
    """A plan whose stages run one task after the other, all but the last one at once."""

    def __init__(self, store, scan_id, **wanted):
        self.stored = open_scan_chunks(store, scan_id)
        self.plan = make_plan(self.stored, ReconstructionRequest(scan_id, **(WANTED | wanted)))
        folder = run_folder(self.plan)
        self.place = RunPlace(store.url, folder, 1)
        publish_bytes(store, f"{folder}/plan.json", self.plan.to_bytes(), kind="replace")
        fix_run(store, folder, RunRecord("20260101", "120000", {}, {}, "1.0"))
        self.results = {stage.name: self.run(stage) for stage in job_stages(self.plan)[:-1]}

    def run(self, stage):
        results = [measured(self.place, task, stage.work) for task in range(stage.n_tasks)]
        assert not [result["error"] for result in results if "error" in result]
        return results

    def volume(self):
        return np.concatenate([slab_volume(self.place, task) for task in range(len(self.plan.tasks))])

    def mu(self):
        """Mean of each region over its truth."""
        return {name: float(found.mean()) for name, found in regions(self.volume(), self.plan.grid).items()}


@pytest.mark.parametrize("name", ["merged", "apart", "interleaved"])
def test_mu_is_right_by_the_fields_of_each_position(stores, name):
    store, _ = stores[name]
    for region, found in Job(store, name, mode="fused").mu().items():
        assert found == pytest.approx(1.0, abs=5e-3), region


def test_the_fields_of_one_position_give_other_numbers(stores):
    store, _ = stores["common"]
    worst = max(abs(found - 1) for found in Job(store, "common", mode="fused").mu().values())
    assert worst > 0.05


@pytest.mark.parametrize("name", ["merged", "interleaved"])
def test_both_ways_to_cut_the_work_give_the_same(stores, name):
    store, _ = stores[name]
    fused = Job(store, name, mode="fused").volume()
    assert np.abs(Job(store, name, mode="two_stage").volume() - fused).max() < 1e-6 * np.abs(fused).max()


@pytest.mark.parametrize("mode", ["fused", "two_stage"])
@pytest.mark.parametrize("name", ["merged", "apart"])
def test_tasks_read_and_write_what_the_plan_says(stores, name, mode):
    store, _ = stores[name]
    job = Job(store, name, mode=mode, run_id=f"counted-{mode}")
    stages = job_stages(job.plan)
    job.results[stages[-1].name] = job.run(stages[-1])
    for cost in job.plan.cost.stages:
        counts = sum((StoreCounts(**result["store"]) for result in job.results[cost.name]), StoreCounts())
        assert counts.read_bytes == pytest.approx(cost.read_bytes, rel=0.05), cost.name
        assert counts.reads == pytest.approx(cost.reads, rel=0.05), cost.name
        if cost.name == "prepare":
            assert counts.written_bytes == pytest.approx(cost.written_bytes, rel=0.05)


@pytest.mark.parametrize("folder", [True, False])
def test_each_frame_becomes_its_line_integrals(stores, folder):
    store, truth = stores["interleaved"]
    job = Job(store, "interleaved", mode="fused", run_id="rows")
    mask, words = find_mask(job.stored, 0, CorrectionParameters())
    assert mask[DEAD]
    assert mask.sum() == 1
    assert "at 2 camera positions together" in words
    corrector = RowCorrector(
        job.stored, 0, mask, CorrectionParameters(), 1, 7, folder=job.place.own_folder if folder else None
    )
    for rows in ((1, 7), (2, 5)):
        blocks = [corrector.read_block(block, rows) for block in range(job.stored.n_view_blocks)]
        frames = np.array([0, 1, 2, 61, 62, 64, 170, 179])
        found, expected = corrector.lines_of_frames(blocks, frames), truth.lines[frames, slice(*rows)]
        assert np.abs(found - expected)[:, ~mask[slice(*rows)]].max() < 2e-3


def test_a_preview_takes_the_fields_of_each_position(stores):
    store, _ = stores["merged"]
    wanted = PreviewParameters(scan_id="merged", voxels=48, field_radius_mm=13.0)
    found = preview(open_scan_chunks(store, "merged"), wanted)
    for name, mu in regions(found.volume, found.grid).items():
        assert mu.mean() == pytest.approx(1.0, abs=5e-3), name


def test_plans_count_white_and_dark_of_each_position(stores):
    stored = {name: open_scan_chunks(stores[name][0], name) for name in ("merged", "common")}
    plans = {name: make_plan(each, ReconstructionRequest(name, **WANTED)) for name, each in stored.items()}
    stages = {name: plan.cost.stage("reconstruct") for name, plan in plans.items()}
    rows = PANEL["n_rows"]
    assert stages["merged"].task_bytes - stages["common"].task_bytes == pytest.approx(24 * rows * 40, rel=0.2)
    more = stages["merged"].read_bytes - stages["common"].read_bytes
    record = 4 + 2 * 4 * PANEL["n_cols"]
    manifests = len(stored["merged"].manifest.to_bytes()) - len(stored["common"].manifest.to_bytes())
    assert more - manifests == pytest.approx(rows * record, abs=0.35 * rows * record)


def test_white_of_every_position_is_kept_and_deleted(stores):
    store, _ = stores["merged"]
    job = Job(store, "merged", run_id="white")
    folder = job.place.own_folder
    names = [entry.path.rsplit("/", 1)[-1] for entry in store.list_folder(folder)]
    assert [name for name in names if "white" in name] == ["white-bin00-pos00.rows", "white-bin00-pos01.rows"]
    assert has_white(job.stored, folder, 0)
    store.delete(f"{folder}/white-bin00-pos01.rows")
    assert not has_white(job.stored, folder, 0)
    delete_intermediates(open_run(job.place))
    assert not [entry for entry in store.list_folder(folder) if "white" in entry.path]


def test_a_position_whose_flats_are_dark_is_named(tmp_path):
    write_stepped_scan(tmp_path / "scan", n_views=6)
    np.save(tmp_path / "scan/flats1.npy", np.zeros((2, 8, 40), dtype="<u2"))
    store = open_store((tmp_path / "store").as_uri())
    upload(open_source(tmp_path / "scan"), store)
    with pytest.raises(CalibrationError, match="camera position 1: no pixel of the flat fields is brighter"):
        find_mask(open_scan_chunks(store, "stepped"), 0, CorrectionParameters())
