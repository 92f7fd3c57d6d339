# SPDX-License-Identifier: Apache-2.0
"""Plans of tilted, stepped, stacked and helical scans: what tasks really read, write, compute and hold at peak."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from reconstruction.backends import load_backend
from reconstruction.fdk import FdkParameters, prepare
from reconstruction.geometry import Slab, VolumeGrid
from spark_jobs.planning.request import MEBIBYTE
from spark_jobs.planning.task_memory import BASE_BYTES, slab_task_bytes, volume_bytes
from spark_jobs.planning.view_groups import slab_steps, step_sizes, view_groups
from spark_jobs.tasks.memory import PeakMemory
from storage.counted_store import StoreCounts
from storage.filesystem import open_store
from tests.support.fake_store import FakeStore
from tests.support.orbit_jobs import MODES, OrbitJob, orbit_cases, store_scan, wanted_of
from tests.support.orbits import circle, degrees, helix, stack
from tests.support.peers import REPOSITORY
from tests.support.planned_scans import scan_of, stored_of

CASES = orbit_cases(36, 1.0)
#: What `make test` looks at, each way of making and adding views once in each mode; the campaign looks at all.
QUICK = {
    ("tilted", "fused"), ("tilted, general", "two stages"), ("merged", "bricks"), ("merged, tilted", "two stages"),
    ("merged, gaps", "fused"), ("positions", "bricks"), ("stack, merged", "fused"), ("stack, positions", "two stages"),
    ("helix, tilted", "bricks"), ("helix, general", "fused"),
}  # fmt: skip
#: What is freed goes back to the system late: buffers of other sizes then lie beside it [B].
SLACK = 12 * MEBIBYTE


def marked(name, mode):
    return pytest.param(name, mode, marks=() if (name, mode) in QUICK else pytest.mark.slow, id=f"{name}, {mode}")


@pytest.mark.parametrize(("name", "mode"), [marked(name, mode) for name in CASES for mode in MODES])
def test_tasks_read_and_write_what_the_plan_says(name, mode, monkeypatch):
    """Bytes and reads within 5 % in each stage, and as many updates; seven frames a view block fit no turn."""
    store = FakeStore()
    monkeypatch.setattr("spark_jobs.tasks.workers.open_store", lambda url, **_: store)
    geometry, fdk = CASES[name]()
    store_scan(store, geometry, block_views=7)
    job = OrbitJob(store, wanted_of(mode, fdk, 40, 16))
    updates = 0
    for cost in job.plan.cost.stages:
        results = job.run(cost.name)
        counts = sum((StoreCounts(**result["store"]) for result in results), StoreCounts())
        assert len(results) == cost.n_tasks
        assert counts.read_bytes == pytest.approx(cost.read_bytes, rel=0.05), cost.name
        assert counts.reads == pytest.approx(cost.reads, rel=0.05), cost.name
        if cost.name != "prepare":  # some kilobytes: how many pixels are bad is not known before
            assert counts.written_bytes == pytest.approx(cost.written_bytes, rel=0.05), cost.name
        assert cost.updates == sum(result.get("updates", 0) for result in results), cost.name
        updates += cost.updates
    assert updates > 0


#: All tasks of a run, stage by stage in a process of its own; then the first of each again: what the process held
#: before and at its peak [B].
_CHILD = """
import ctypes, gc, json, sys
from spark_jobs.tasks.job_stages import job_stages
from spark_jobs.tasks.memory import _resident
from spark_jobs.tasks.worker_environment import prepare_worker
from spark_jobs.tasks.workers import RunPlace, measured, open_run
url, *folders = sys.argv[1:]
prepare_worker(1)
found = []
for folder in folders:
    place, peaks = RunPlace(url, folder, 1), {}
    for stage in job_stages(open_run(place).plan):
        results = [measured(place, task, stage.work) for task in range(stage.n_tasks)]
        assert not [r for r in results if "error" in r], results
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        before = _resident("VmRSS:")
        peaks[stage.name] = before, max(measured(place, t, stage.work)["peak_bytes"] for t in range(stage.n_tasks)[:2])
    found.append(peaks)
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "tilted" else pytest.mark.slow) for name in CASES]
)
def test_peak_memory_stays_under_the_plan_in_every_mode(tmp_path, name):
    """What a task adds to a worker is less than is planned beside the worker, and no less than a quarter of it."""
    store = open_store((tmp_path / "store").as_uri())
    geometry, fdk = orbit_cases(96, 4.0)[name]()
    store_scan(store, geometry, block_views=32)
    roomy = {"task_memory_bytes": 4096 * MEBIBYTE, "mu_range": (-2.0, 4.0)}
    jobs = [OrbitJob(store, wanted_of(mode, fdk, 192, 32, **roomy)) for mode in MODES]
    for job, peaks in zip(jobs, _peaks(store, jobs), strict=True):
        for stage in job.plan.cost.stages:
            before, peak = peaks[stage.name]
            planned = stage.task_bytes - BASE_BYTES
            told = f"{stage.name}: {(peak - before) / MEBIBYTE:.1f} of {planned / MEBIBYTE:.1f} MiB"
            assert peak < stage.task_bytes, told
            assert peak - before < planned + SLACK, told
            if stage.name in ("filter", "reconstruct"):
                assert peak - before > 0.25 * planned, told


def _peaks(store, jobs):
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, store.url, *(job.place.folder for job in jobs)], capture_output=True, text=True,
        cwd=REPOSITORY, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_thin_slabs_are_planned_with_the_slices_that_fill_up_a_simd_step(tmp_path):
    grid = VolumeGrid((3, 40, 40), (0.5, 0.6, 0.6))
    setup = prepare(circle(degrees(0, 360, 10), n_rows=40), grid, FdkParameters())
    held = load_backend("numba").start(setup, threads=1).volume
    assert held.shape == (40, 40, 16)
    assert volume_bytes(setup, "numba-portable") == held.nbytes
    assert volume_bytes(setup, "numpy_reference") == 8 * grid.n_voxels
    store = open_store((tmp_path / "store").as_uri())
    store_scan(store, circle(degrees(0, 360, 10), n_rows=40), block_views=9)
    wanted = {"mode": "fused", "shape": (2, 1000, 1000), "voxel_pitch_mm": (0.5, 0.028, 0.028), "mu_range": (-2.0, 4.0)}
    job = OrbitJob(store, wanted | {"fdk": FdkParameters(field_radius_mm=14.0)})
    before, peak = _peaks(store, [job])[0]["reconstruct"]
    planned = job.plan.cost.stage("reconstruct").task_bytes - BASE_BYTES
    assert 0.5 * planned < peak - before < planned + SLACK
    assert planned > 16 * 1000 * 1000 * 4


@pytest.mark.parametrize(
    "geometry",
    [helix(20.0, 360, 9.0, n_rows=64), stack(tuple(9.0 * i for i in range(20)), degrees(0, 360, 1), n_rows=64)],
    ids=["helix", "stack"],
)
def test_shares_of_thousands_of_views_are_planned_as_they_are_found(geometry):
    """A helix of many turns needs memory for the turns of a few slices at a time, not of all slices."""
    z = geometry.poses[:, 2]
    n_slices = int(np.ptp(z) / 0.5)
    grid = VolumeGrid((n_slices, 64, 64), (0.5, 0.5, 0.5), (0.0, 0.0, float(z.min() + z.max()) / 2))
    parameters = FdkParameters(field_radius_mm=14.0)
    prepare(helix(2.0, 36, 9.0, n_rows=64), VolumeGrid((1, 8, 8), (1.0, 1.0, 1.0)), parameters)
    stored = stored_of(scan_of(geometry, n_bins=1), memory_bytes=40 * geometry.n_rows * geometry.n_cols * 2)
    with PeakMemory() as memory:
        before = memory_now()
        setup = prepare(geometry, grid, parameters, Slab(n_slices // 32 * 16, n_slices // 32 * 16 + 64))
    groups = view_groups(setup, stored.view_blocks)
    steps = slab_steps(setup, groups, tuple((place,) for place in range(len(groups))), stored.view_blocks)
    planned = slab_task_bytes(
        stored, setup, backend="numba-avx512", sizes=step_sizes(steps, groups), batch_views=32, band_item_bytes=None
    )
    assert memory.peak_bytes - before < planned - BASE_BYTES < 3 * (memory.peak_bytes - before) + 64 * MEBIBYTE


def memory_now():
    """What this process holds [B]."""
    with PeakMemory() as memory:
        pass
    return memory.peak_bytes
