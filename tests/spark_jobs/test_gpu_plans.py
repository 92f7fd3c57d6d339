# SPDX-License-Identifier: Apache-2.0
"""Plans that know a GPU's memory: slabs and bricks fit it, what does not is refused, and nothing else changes."""

from __future__ import annotations

import json
import sys

import pytest

from reconstruction.backends import load_backend
from reconstruction.backends.device_memory import views_that_fit
from reconstruction.errors import MemoryBudgetError
from spark_jobs.errors import PlanError
from spark_jobs.planning.gpu_memory import CONTEXT_BYTES, slab_on_gpu, usable_bytes
from spark_jobs.planning.plan import geometry_of, make_plan, plan_from_bytes
from spark_jobs.planning.request import MEBIBYTE, ReconstructionRequest
from spark_jobs.running.kinds import ReconstructParameters, reconstruct_resources, request_of, values_of
from spark_jobs.simulation.cluster import read_cluster
from spark_jobs.simulation.proposals import cluster_gpu_memory
from tests.support import cupy_stand_in
from tests.support.command_line import conepacs
from tests.support.cuda_host import compiler
from tests.support.peers import REPOSITORY, require_peer
from tests.support.planned_scans import stone, stored_of, thorax

GIB = 1 << 30
ROOMY = {"task_memory_bytes": 64 * GIB, "mu_range": (-0.1, 0.5)}


def plan_of(stored, **wanted):
    return make_plan(stored, ReconstructionRequest(stored.scan.scan_id, **(ROOMY | wanted)))


def cost_of(stored, plan, index):
    """What a slab, or a brick, of a plan takes of a GPU."""
    if plan.bricks is None:
        return slab_on_gpu(plan.setup(geometry_of(stored), index), plan.backend)
    return slab_on_gpu(plan.brick_setup(geometry_of(stored), index), plan.backend)


def test_slabs_are_as_thin_as_the_gpu_asks_for():
    stored = stone(0.055)
    free, large, small = (plan_of(stored, gpu_memory_bytes=memory) for memory in (None, 80 * GIB, 3 * GIB))
    assert free.cost.gpu_bytes == 0
    assert large.slabs == free.slabs
    assert large.run_name == free.run_name
    assert len(small.slabs) > len(large.slabs)
    for plan, memory in ((large, 80 * GIB), (small, 3 * GIB)):
        costs = [cost_of(stored, plan, index) for index in range(len(plan.slabs))]
        # Room for a batch that keeps a card busy, not for one view alone.
        assert max(cost.bytes_with(32) for cost in costs) <= usable_bytes(memory)
        assert CONTEXT_BYTES + max(cost.bytes_with(1) for cost in costs) < plan.cost.gpu_bytes <= memory
        assert plan.cost.gpu_bytes == plan.cost.stage("reconstruct").gpu_bytes
        assert plan_from_bytes(plan.to_bytes(), "plan.json") == plan


def test_rows_that_are_filtered_apart_are_planned_too():
    plan = plan_of(stone(), gpu_memory_bytes=8 * GIB, mode="two_stage")
    assert 0 < plan.cost.stage("filter").gpu_bytes <= 8 * GIB
    assert plan.cost.stage("prepare").gpu_bytes == 0


def test_bricks_fit_the_gpu():
    stored = thorax()
    plan = plan_of(stored, gpu_memory_bytes=4 * GIB, cut="bricks")
    assert plan.bricks is not None
    some = range(0, len(plan.slabs) * len(plan.bricks.areas), 7)
    assert max(cost_of(stored, plan, index).bytes_with(1) for index in some) <= usable_bytes(4 * GIB)
    assert plan.cost.stage("bricks").gpu_bytes <= 4 * GIB
    assert plan.cost.stage("assemble").gpu_bytes == 0


def test_what_no_gpu_of_that_size_holds_is_refused():
    with pytest.raises(
        MemoryBudgetError,
        match=r"slab 0:512 of scan scan-1 needs \d{4} MiB of a GPU, but of the 4096 MiB that a task has there it can "
        r"fill 2995 MiB: take thinner slabs, bricks, a smaller volume or a GPU with more memory",
    ):
        plan_of(stone(0.055), gpu_memory_bytes=4 * GIB, slab_slices=512, mode="fused")
    with pytest.raises(MemoryBudgetError, match=r"no brick .* fits the 65536 MiB .* and the 800 MiB that it has of a"):
        plan_of(thorax(), gpu_memory_bytes=800 * MEBIBYTE, cut="bricks")
    with pytest.raises(PlanError, match="a GPU needs some memory, got 0 bytes"):
        ReconstructionRequest("scan-1", gpu_memory_bytes=0)


def test_a_plan_for_the_gpu_back_end_counts_what_the_back_end_takes(monkeypatch):
    require_peer("a C++ compiler", compiler() is not None, "install g++")
    monkeypatch.setitem(sys.modules, "cupy", cupy_stand_in.stand_in())
    stored = stored_of(memory_bytes=10**6)
    plan = plan_of(stored, backend="cupy-float16", n_slabs=2, gpu_memory_bytes=2 * GIB, mode="fused")
    accumulator = load_backend(plan.backend).start(plan.setup(geometry_of(stored), 0))
    assert plan.backend == "cupy-float16"
    device = load_backend(plan.backend).device
    taken = accumulator.sizes.cost(device.row_transform_bytes, accumulator.chunk_values)
    assert taken == cost_of(stored, plan, 0)
    assert views_that_fit(taken, 2 * GIB - CONTEXT_BYTES, "the card") >= accumulator.batch_views
    assert not [note for note in plan.notes if "memory of the GPU" in note]
    unknown = plan_of(stored, backend="cupy", n_slabs=2, mode="fused")
    assert [note for note in unknown.notes if "does not know the memory of the GPU: give it (--gpu-memory)" in note]


def test_voxels_of_a_gpu_are_not_counted_on_the_host(monkeypatch):
    require_peer("a C++ compiler", compiler() is not None, "install g++")
    monkeypatch.setitem(sys.modules, "cupy", cupy_stand_in.stand_in())
    stored = stone(0.055)
    wanted = {"slab_slices": 704, "mode": "two_stage", "bins": (0,)}
    on_host = plan_of(stored, **wanted)
    on_gpu = plan_of(stored, backend="cupy", gpu_memory_bytes=80 * GIB, **wanted)
    voxels = 4 * on_gpu.grid.n_voxels // 2
    assert on_gpu.cost.stage("reconstruct").task_bytes < on_host.cost.stage("reconstruct").task_bytes - voxels // 2
    assert on_gpu.cost.gpu_bytes > voxels


def test_jobs_and_clusters_name_the_memory_of_a_gpu():
    parameters = ReconstructParameters("stone", backend="cupy-float16", gpu_memory_bytes=8 * GIB, cores=2)
    assert request_of(parameters).gpu_memory_bytes == 8 * GIB
    assert values_of(request_of(parameters))["gpu_memory_bytes"] == 8 * GIB
    assert reconstruct_resources(parameters).gpus == 2
    clusters = {path.stem: read_cluster(path) for path in (REPOSITORY / "conf" / "clusters").glob("*.toml")}
    assert cluster_gpu_memory(clusters["gpu-8"]) == 80 * GIB
    assert cluster_gpu_memory(clusters["hospital-4"]) is None


def test_the_plan_prints_it(capsys):
    shown = conepacs(capsys, "plan", "--scan", "stone", "--bin", 0, "--gpu-memory", "6GiB", "--mode", "fused")
    assert shown.code == 0, shown
    line = next(line for line in shown.out.splitlines() if "GPU memory per task" in line)
    assert "(it has 6.0 GiB)" in line
    told = conepacs(capsys, "plan", "--scan", "stone", "--bin", 0, "--gpu-memory", "6GiB", "--mode", "fused", "--json")
    assert json.loads(told.out)[0]["cost"]["gpu_bytes"] <= 6 * GIB
