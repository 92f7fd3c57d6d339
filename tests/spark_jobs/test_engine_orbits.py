# SPDX-License-Identifier: Apache-2.0
"""Stored scans on any orbit: the tasks of a job make what `reconstruction.fdk` makes in memory, however it is cut."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ingest.chunks import open_scan_chunks
from ingest.upload import upload
from reconstruction.fdk import FdkParameters, reconstruct
from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.planning.series import RunRecord, fix_run, volume_digest
from spark_jobs.running.submit import run_folder
from spark_jobs.tasks.job_stages import job_stages
from spark_jobs.tasks.slab_task import slab_volume
from spark_jobs.tasks.workers import RunPlace, measured
from storage.checksum import sha256_of_bytes
from storage.counted_store import StoreCounts
from storage.filesystem import open_store
from storage.publish import publish_bytes
from tests.support.fake_reader import FakeReader, small_scan
from tests.support.index_engine import sqlite_index
from tests.support.orbits import circle, degrees, helix, stack, stepped, tilted
from tests.support.spark_archive import archive_at

PANEL = {"n_rows": 28, "n_cols": 40, "pitch_u_mm": 1.4, "pitch_v_mm": 1.4}
NARROW = PANEL | {"n_cols": 26}
ORBITS = {
    "stack": stack((-12.0, 0.0, 12.0), degrees(0, 360, 10), **PANEL),
    "helix": helix(4.3, 36, 9.0, **PANEL),
    "merged": stepped((-12.0, 12.0), (0.0, 0.0), 36, **(NARROW | {"n_rows": 56})),
    "positions": stepped((-12.0, 12.0), (0.0, 0.5), 36, **(NARROW | {"n_rows": 56})),
    "tilted": tilted(circle(degrees(0, 360, 10), **(PANEL | {"n_rows": 60})), roll_deg=2.0, pitch_deg=1.0),
}
#: A region small enough for every orbit, in three slabs.
WANTED = {"shape": (40, 24, 24), "voxel_pitch_mm": (0.7, 1.0, 1.0), "mu_range": (-2.0, 4.0)}
FDK = FdkParameters(field_radius_mm=11.0, outside_value=-0.5)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The same kind of frames on each orbit, in a store each; seven frames a view block, which no turn fits."""
    made = {}
    for name, geometry in ORBITS.items():
        shape = geometry.n_views, geometry.n_rows, geometry.n_cols
        frames = np.random.default_rng(3).normal(0.4, 0.2, size=(1, *shape)).astype("f4")
        scan = small_scan(
            scan_id=name, n_bins=1, n_views=shape[0], n_rows=shape[1], n_cols=shape[2], geometry=geometry,
            content="line_integrals", pixel_type="float32",
        )  # fmt: skip
        store = open_store((tmp_path_factory.mktemp(name) / "store").as_uri())
        upload(FakeReader(scan, frames), store, memory_bytes=8 * shape[1] * shape[2] * 4 * 7)
        made[name] = store, frames[0]
    return made


class Job:
    """A plan whose stages run one task after the other, all but the last one when first needed."""

    def __init__(self, store, scan_id, **wanted):
        self.stored = open_scan_chunks(store, scan_id)
        self.plan = make_plan(self.stored, ReconstructionRequest(scan_id, **({"fdk": FDK} | WANTED | wanted)))
        folder = run_folder(self.plan)
        self.place = RunPlace(store.url, folder, 1)
        publish_bytes(store, f"{folder}/plan.json", self.plan.to_bytes(), kind="replace")
        fix_run(store, folder, RunRecord("20260101", "120000", {}, {}, "1.0"))
        self.results = {}
        for stage in job_stages(self.plan)[:-1]:
            self.results[stage.name] = self._run(stage)

    def _run(self, stage):
        results = [measured(self.place, task, stage.work) for task in range(stage.n_tasks)]
        assert not [result["error"] for result in results if "error" in result]
        return results

    def finish(self):
        """Run the last stage too."""
        stage = job_stages(self.plan)[-1]
        self.results[stage.name] = self._run(stage)

    def volume(self):
        return np.concatenate([slab_volume(self.place, task) for task in range(len(self.plan.tasks))])


@pytest.mark.parametrize("name", ORBITS)
def test_tasks_make_what_is_made_in_memory_however_it_is_cut(stores, name):
    store, frames = stores[name]
    fused = Job(store, name, mode="fused", slab_slices=16)
    assert len(fused.plan.slabs) == 3
    volume = fused.volume()
    expected = reconstruct(frames, ORBITS[name], fused.plan.grid, FDK, threads=1)
    assert np.abs(volume - expected).max() < 1e-6 * np.abs(expected).max()
    outside = np.hypot(*np.meshgrid(np.arange(24) - 11.5, np.arange(24) - 11.5)) > 11.0
    assert (volume[:, outside] == -0.5).all()
    assert (Job(store, name, mode="fused", slab_slices=32).volume() == volume).all()
    two_stage = Job(store, name, mode="two_stage", slab_slices=16).volume()
    assert np.abs(two_stage - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["stack", "helix", "merged"])
def test_bricks_make_the_same(stores, name):
    store, frames = stores[name]
    job = Job(store, name, cut="bricks", brick_voxels=(16, 16), slab_slices=16)
    expected = reconstruct(frames, ORBITS[name], job.plan.grid, FDK, threads=1)
    assert np.abs(job.volume() - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("mode", ["fused", "two_stage"])
@pytest.mark.parametrize("name", ["stack", "helix", "merged"])
def test_tasks_read_and_write_what_the_plan_says(stores, name, mode):
    store, _ = stores[name]
    job = Job(store, name, mode=mode, slab_slices=16, mu_range=None, run_id="counted")
    job.finish()
    for cost in job.plan.cost.stages:
        results = job.results[cost.name]
        counts = sum((StoreCounts(**result["store"]) for result in results), StoreCounts())
        assert len(results) == cost.n_tasks
        assert counts.read_bytes == pytest.approx(cost.read_bytes, rel=0.05), cost.name
        assert cost.updates == sum(result.get("updates", 0) for result in results), cost.name


def test_a_view_that_a_slab_does_not_use_is_not_read(stores):
    store, _ = stores["stack"]
    job = Job(store, "stack", mode="fused", slab_slices=16)
    whole = job.stored.layout.pixel_bytes
    reads = [measured(job.place, task, job_stages(job.plan)[-1].work)["read_bytes"] for task in range(3)]
    assert max(reads) < 0.8 * whole
    assert job.plan.cost.stage("reconstruct").updates < 40 * 24 * 24 * ORBITS["stack"].n_views


def test_the_plan_says_what_is_done(stores):
    said = {name: " ".join(Job(store, name).plan.path) for name, (store, _) in stores.items()}
    assert "3 circles along the axis" in said["stack"]
    assert "on a helix" in said["helix"]
    assert "2 camera positions at the same angle are merged" in said["merged"]
    assert "2 times the work" in said["positions"]
    assert "resampled onto an upright one" in said["tilted"]


def check_slices(images):
    """Voxels that are no cubes lie where they belong, and those outside the field keep their value."""
    images.sort(key=lambda image: image.InstanceNumber)
    assert len(images) == 40
    for image in images:
        assert [float(p) for p in image.PixelSpacing] == [1.0, 1.0]
        assert float(image.SliceThickness) == pytest.approx(0.7)
        corner = image.pixel_array[0, 0] * float(image.RescaleSlope) + float(image.RescaleIntercept)
        assert corner == pytest.approx(-0.5, abs=float(image.RescaleSlope))
    places = np.array([[float(x) for x in image.ImagePositionPatient] for image in images])
    assert np.linalg.norm(np.diff(places, axis=0), axis=1) == pytest.approx(np.full(39, 0.7))


@pytest.mark.spark
def test_series_of_all_orbits_hold_the_same_voxels(stores, spark_session):
    for name in ("stack", "helix", "merged"):
        store, _ = stores[name]
        folder = store.url.removeprefix("file://").removesuffix("/store")
        with sqlite_index(f"{folder}/index.sqlite") as index:
            archive = archive_at(Path(folder), index, spark_session)
            result = archive.reconstruct(scan_id=name, fdk=FDK, mode="fused", **WANTED)
            job = Job(store, name, mode="fused", slab_slices=16)
            voxels, plan = job.volume(), job.plan
            digests = [sha256_of_bytes(np.ascontiguousarray(s, dtype="<f4").data) for s in voxels]
            assert result.series[0].volume_sha256 == volume_digest(digests)
            assert result.report["path"] == list(plan.path)
            images = [pydicom.dcmread(io.BytesIO(content)) for content in archive.part10(result).values()]
            check_slices([image for image in images if image.SeriesInstanceUID == result.series[0].series_uid])
