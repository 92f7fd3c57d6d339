# SPDX-License-Identifier: Apache-2.0
"""Iterative jobs on any orbit: slabs of tasks are the whole made in memory, and mu is that of the phantom."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.chunks import open_scan_chunks
from ingest.upload import upload
from reconstruction.geometry import VolumeGrid
from reconstruction.iterative.parameters import IterativeParameters
from reconstruction.iterative.reconstruct import reconstruct_iterative
from reconstruction.projector import forward_project
from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.planning.series import RunRecord, fix_run
from spark_jobs.running.submit import run_folder
from spark_jobs.tasks.prepare_task import prepare_bin
from spark_jobs.tasks.slab_task import slab_volume
from spark_jobs.tasks.workers import RunPlace, measured
from storage.filesystem import open_store
from storage.publish import publish_bytes
from tests.support.fake_reader import FakeReader, small_scan
from tests.support.orbits import circle, degrees, helix, pillars, regions, stack, stepped, tilted

PANEL = {"n_rows": 30, "n_cols": 40, "pitch_u_mm": 1.4, "pitch_v_mm": 1.4}
ORBITS = {
    "stack": stack((-10.0, 0.0, 10.0), degrees(0, 360, 12), **PANEL),
    "helix": helix(4.3, 30, 9.0, **PANEL),
    "stepped": stepped((-12.0, 12.0), (0.0, 0.5), 30, **(PANEL | {"n_cols": 26, "n_rows": 44})),
    "offset": circle(degrees(0, 360, 8), **(PANEL | {"n_cols": 30, "n_rows": 44, "offset_u_mm": 11.0})),
    "tilted": tilted(circle(degrees(0, 360, 12), **(PANEL | {"n_rows": 48})), roll_deg=2.0, pitch_deg=1.0),
}
GRID = VolumeGrid((40, 26, 26), (0.6, 1.0, 1.0))
OS_SART = IterativeParameters("os-sart", iterations=8)
TV = IterativeParameters("tv", iterations=6)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Line integrals of tall pillars on each orbit, stored; and the same in memory."""
    made = {}
    for name, geometry in ORBITS.items():
        lines = forward_project(pillars(), geometry, supersample=2)
        _, n_rows, n_cols = lines.shape
        scan = small_scan(
            scan_id=name, n_bins=1, n_views=len(lines), n_rows=n_rows, n_cols=n_cols, geometry=geometry,
            content="line_integrals", pixel_type="float32",
        )  # fmt: skip
        store = open_store((tmp_path_factory.mktemp(name) / "store").as_uri())
        upload(FakeReader(scan, lines[None].astype("f4")), store, memory_bytes=8 * n_rows * n_cols * 4 * 7)
        made[name] = store, lines
    return made


def planned(store, name, parameters, **wanted):
    values = {"shape": GRID.shape, "voxel_pitch_mm": GRID.voxel_pitch_mm, "mu_range": (-1.0, 4.0)} | wanted
    return make_plan(open_scan_chunks(store, name), ReconstructionRequest(name, iterative=parameters, **values))


def volume_of(store, plan):
    """All slabs of a plan, by its tasks."""
    folder = run_folder(plan)
    place = RunPlace(store.url, folder, 1)
    publish_bytes(store, f"{folder}/plan.json", plan.to_bytes(), kind="replace")
    fix_run(store, folder, RunRecord("20260101", "120000", {}, {}, "1.0"))
    assert "error" not in measured(place, 0, prepare_bin)
    return np.concatenate([slab_volume(place, task) for task in range(len(plan.tasks))])


@pytest.mark.parametrize("name", ORBITS)
def test_slabs_of_tasks_equal_the_whole_and_have_the_mu_of_the_phantom(stores, name):
    store, lines = stores[name]
    plan = planned(store, name, OS_SART, slab_slices=16)
    assert len(plan.slabs) == 3
    volume = volume_of(store, plan)
    radius = plan.radius_mm
    whole = reconstruct_iterative(lines, ORBITS[name], plan.grid, OS_SART, field_radius_mm=radius, threads=1).volume
    assert np.abs(volume - whole).max() < 1e-4 * whole.max()
    means = {region: values.mean() for region, values in regions(volume, plan.grid).items()}
    # Those of the thin pillars lie within two voxels of an edge, where a fit of few passes rings.
    assert abs(means["plain"] - 1) < 0.01
    assert abs(means["dense"] - 1) < 0.05
    assert abs(means["light"] - 1) < 0.05


@pytest.mark.parametrize("name", ["helix", "stepped"])
def test_all_slabs_take_one_weight_of_total_variation(stores, name):
    store, lines = stores[name]
    plan = planned(store, name, TV, slab_slices=16)
    whole = reconstruct_iterative(lines, ORBITS[name], plan.grid, TV, field_radius_mm=plan.radius_mm, threads=1)
    assert whole.tv_weight > 0
    assert np.abs(volume_of(store, plan) - whole.volume).max() < 1e-4 * whole.volume.max()


def test_the_plan_names_the_projectors(stores):
    said = {name: planned(store, name, OS_SART) for name, (store, _) in stores.items()}
    assert {name: plan.kernel for name, plan in said.items() if name != "tilted"} == dict.fromkeys(
        set(said) - {"tilted"}, "joseph_upright"
    )
    assert said["tilted"].kernel == "joseph_any_pose"
    assert "ray by ray, since panels are tilted" in " ".join(said["tilted"].path)
    per_update = {name: plan.cost.stage("reconstruct").core_seconds / plan.cost.updates for name, plan in said.items()}
    assert per_update["tilted"] > 1.5 * per_update["offset"]
