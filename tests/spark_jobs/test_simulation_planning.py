# SPDX-License-Identifier: Apache-2.0
"""From plans to clusters: work taken apart and put together, what fits, what limits, proposals, curves, calibration."""

from __future__ import annotations

import dataclasses

import pytest

from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.simulation.assessment import Job, assess, demands_on, job_of_plan
from spark_jobs.simulation.calibration import Observation, fit_rates, makespan
from spark_jobs.simulation.cluster import GIBIBYTE, Cluster, Hdfs, NodeGroup, Rate, Rates
from spark_jobs.simulation.curves import point_of, rough_seconds, usual_requests, ways_of
from spark_jobs.simulation.errors import DoesNotFitError, SimulationError
from spark_jobs.simulation.events import simulate
from spark_jobs.simulation.proposals import cluster_task_memory, propose
from spark_jobs.simulation.scans import ScanSize, described_scan
from spark_jobs.simulation.workload import StageWork, slots_for, work_of_plan

KNEE = ScanSize("knee", 120, 128, 160, 2, 200.0, 300.0, 0.4)
CPU_NODE = NodeGroup(4, 8, 64, 4, 200, 1000, price_per_hour=0.5)
GPU_NODE = NodeGroup(2, 16, 128, 4, 1000, 2000, gpus=2, gpu_memory_gib=40, price_per_hour=5)
CLUSTER = Cluster("four", (CPU_NODE,))


def planned(size=KNEE, **wanted):
    stored = described_scan(size)
    request = ReconstructionRequest(size.name, **({"mu_range": (-0.1, 0.4)} | wanted))
    plan = make_plan(stored, request)
    return plan, stored


def job_of(size=KNEE, **wanted):
    plan, stored = planned(size, **wanted)
    return job_of_plan(plan, stored)


def cluster_of(node=CPU_NODE, **rates):
    made = {name: Rate(value, "assumed", "this test") for name, value in rates.items()}
    return Cluster("tested", (node,), rates=dataclasses.replace(Rates(), **made))


@pytest.mark.parametrize("mode", ["fused", "two_stage"])
def test_the_parts_of_a_stage_add_up_to_its_cost(mode):
    plan, stored = planned(mode=mode)
    for work, stage in zip(work_of_plan(plan, stored), plan.cost.stages, strict=True):
        parts = work.row_s + work.band_s + work.filter_s + work.updates / 4.0e9 + work.encode_s + 0.25 * work.n_tasks
        if plan.backend == "numba-avx512":
            assert parts == pytest.approx(stage.core_seconds, rel=0.02)
        assert (work.read_bytes, work.written_bytes) == (stage.read_bytes, stage.written_bytes)


def test_a_faster_kernel_shortens_what_the_kernel_takes_and_no_more():
    job = job_of(mode="fused", n_slabs=8)
    slow, fast = (assess(job, cluster_of(cpu_gups=gups), troubles=False).seconds for gups in (0.1, 1000.0))
    work = next(work for work in job.works if work.name == "reconstruct")
    one_by_one = assess(job, cluster_of(dataclasses.replace(CPU_NODE, count=1, cores=1), cpu_gups=0.1), troubles=False)
    rest = assess(job, cluster_of(dataclasses.replace(CPU_NODE, count=1, cores=1), cpu_gups=1000.0), troubles=False)
    assert slow > fast
    assert one_by_one.seconds - rest.seconds == pytest.approx(work.updates / 0.1e9, rel=0.01)


def test_gpus_take_over_filter_and_back_projection():
    job = job_of(mode="fused", n_slabs=4)
    slow = assess(job, cluster_of(GPU_NODE, gpu_gups=0.02), troubles=False)
    fast = assess(job, cluster_of(GPU_NODE, gpu_gups=100.0), troubles=False)
    assert slow.seconds > fast.seconds
    assert slow.tasks_per_node == (2,)
    assert slow.task_cores == 8
    assert slow.limit == "GPUs"


def test_memory_decides_how_many_tasks_run_at_once_and_on_how_many_cores():
    assert slots_for(CLUSTER, GIBIBYTE).by_group == (8,)
    few = slots_for(CLUSTER, 20 * GIBIBYTE)
    assert (few.by_group, few.task_cores) == ((2,), 4)
    with pytest.raises(DoesNotFitError, match=r"one task needs 60.0 GiB, but a node of four has 51.2 GiB"):
        slots_for(CLUSTER, 60 * GIBIBYTE)
    with pytest.raises(DoesNotFitError, match=r"a GPU of gpus has 40.0 GiB"):
        slots_for(Cluster("gpus", (GPU_NODE,)), 41 * GIBIBYTE)


def test_data_that_the_disks_cannot_hold_are_refused():
    tiny = dataclasses.replace(CPU_NODE, disk_tb=1e-6)
    with pytest.raises(DoesNotFitError, match=r"but the disks of tested hold .* TB: take coarser voxels"):
        assess(job_of(), cluster_of(tiny))


def work_on(n_tasks=400, **changes):
    """A job of one stage of plain work."""
    values = {"read_bytes": 0.0, "written_bytes": 0.0, "task_bytes": GIBIBYTE, "reads_ahead": True}
    return Job((StageWork("reconstruct", n_tasks, **(values | changes)),), 100, 1e9)


@pytest.mark.parametrize(
    ("job", "limit"),
    [
        (work_on(updates=4e13), "cores"),
        (work_on(read_bytes=4e12), "disks"),
        (work_on(4, updates=4e13), "too few tasks"),
        (dataclasses.replace(work_on(4), instances=10**6), "driver"),
        (work_on(), "task overhead"),
    ],
)
def test_what_limits_is_named(job, limit):
    assert assess(job, CLUSTER, troubles=False).limit == limit


def test_the_network_and_the_switch_are_named():
    slow = Cluster("slow", (dataclasses.replace(CPU_NODE, count=8, network_mb_per_s=50),))
    assert assess(work_on(read_bytes=4e11), slow, troubles=False).limit == "network"


def test_an_assessment_adds_up():
    figures = assess(work_on(updates=4e13, read_bytes=1e10, written_bytes=1e10), CLUSTER, seed=3)
    assert sum(stage.seconds for stage in figures.stages) == pytest.approx(figures.seconds)
    assert figures.price == pytest.approx(4 * 0.5 * figures.seconds / 3600)
    assert figures.disk_bytes == pytest.approx(1e10 + 3e10)
    assert figures.lost_node_seconds > figures.troubled_seconds
    assert figures == assess(work_on(updates=4e13, read_bytes=1e10, written_bytes=1e10), CLUSTER, seed=3)
    alone = assess(work_on(updates=4e13), CLUSTER.with_nodes(1))
    assert alone.lost_node_seconds is None


def test_a_proposal_compares_ways_and_takes_the_fastest():
    stored = described_scan(KNEE)
    request = ReconstructionRequest("knee", mu_range=(-0.1, 0.4), task_memory_bytes=cluster_task_memory(CLUSTER))
    proposal = propose(stored, request, CLUSTER)
    fitting = [candidate for candidate in proposal.all if candidate.assessment]
    assert len(fitting) >= 4
    assert {"fused", "two_stage float16"} & {candidate.mode for candidate in fitting}
    least = min(candidate.assessment.seconds for candidate in fitting)
    assert proposal.best.assessment.seconds <= 1.04 * least
    for candidate in proposal.all:
        assert candidate.to_json()["change"] == candidate.change
        assert bool(candidate.refusal) != bool(candidate.assessment)


def test_where_nothing_fits_coarser_voxels_are_proposed():
    small = Cluster("small", (dataclasses.replace(CPU_NODE, disk_tb=1e-5, count=1),), hdfs=Hdfs(replication=1))
    stored = described_scan(dataclasses.replace(KNEE, rows=256, cols=256))
    request = ReconstructionRequest("knee", mu_range=(-0.1, 0.4), task_memory_bytes=cluster_task_memory(small))
    proposal = propose(stored, request, small)
    assert proposal.asked.refusal
    if proposal.best is not None:
        assert "voxels" in proposal.best.change or "region" in proposal.best.change


@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_point_is_never_faster_than_the_closed_form(count):
    cluster = CLUSTER.with_nodes(count)
    ways, refused = ways_of(
        described_scan(KNEE), usual_requests(ReconstructionRequest("knee", mu_range=(-0.1, 0.4)), (None, 16))
    )
    assert len(ways) == 6
    assert not refused
    point = point_of(ways, cluster)
    assert point.nodes == count
    demands, machine = demands_on(next(way.job for way in ways if way.name == point.way), cluster)
    assert simulate(demands, machine).seconds >= 0.99 * rough_seconds(demands, machine)
    assert point.troubled[0] <= point.troubled[1]
    assert (point.lost_node is None) == (count == 1)


def report_of(job, rates, slots, slowness=1.0):
    """The report of a run that went exactly as these rates say."""
    cluster = Cluster("two", (NodeGroup(1, slots, 64, 1, 1e6, 1e6, disk_tb=1000),), hdfs=Hdfs(1), rates=rates)
    demands, machine = demands_on(job, cluster)
    outcome = simulate(demands, machine)
    seconds = {f"stage {stage.name}": stage.seconds * slowness for stage in outcome.stages}
    slab = next(demand for demand in demands if demand.name == "reconstruct")
    encode_s = slab.phases[-1].cpu_s
    add_s = sum(phase.cpu_s for phase in slab.phases[:-1])
    wall_s = add_s + encode_s + slab.overhead_s
    task = {"wall_s": wall_s * slowness, "cpu_s": wall_s, "reconstruct_s": add_s * slowness,
            "encode_s": encode_s * slowness}  # fmt: skip
    filtering = next((d for d in demands if d.name == "filter"), None)
    cpu = {"filter": filtering.n_tasks * sum(p.cpu_s for p in filtering.phases)} if filtering else {}
    seconds["register"] = outcome.stages[-1].seconds * slowness
    return Observation(job, {"seconds": seconds, "tasks": [task] * slab.n_tasks, "cpu_seconds": cpu}, slots)


@pytest.mark.parametrize("slowness", [1.0, 3.0])
def test_rates_are_found_again_in_the_reports_that_they_made(slowness):
    true = dataclasses.replace(
        cluster_of(
            cpu_gups=0.02, row_mpixels_per_s=0.4, encode_mvoxels_per_s=0.5, task_overhead_s=0.1, stage_overhead_s=0.2,
            registrations_per_s=50.0, band_mvalues_per_s=30.0, stream_read_mb_per_s=1e6, stream_write_mb_per_s=1e6,
        ).rates
    )  # fmt: skip
    jobs = [
        job_of(mode="fused", n_slabs=8, shape=(96, 64, 64), voxel_pitch_mm=0.4),
        job_of(mode="fused", n_slabs=4, shape=(64, 16, 16), voxel_pitch_mm=0.4),
        job_of(mode="two_stage", n_slabs=4, shape=(64, 32, 32), voxel_pitch_mm=0.4),
    ]
    runs = [report_of(job, true, 2, slowness) for job in jobs]
    found = fit_rates(runs, "this test")
    for name in ("cpu_gups", "encode_mvoxels_per_s", "registrations_per_s", "task_overhead_s"):
        assert getattr(found, name).value == pytest.approx(getattr(true, name).value, rel=0.05), name
    assert found.row_mpixels_per_s.value == pytest.approx(0.4, rel=0.1)
    assert found.cpu_gups.basis == "measured"
    assert runs[0].slowness == pytest.approx(slowness)


def test_runs_that_are_all_alike_give_no_rates():
    job = job_of(mode="fused", n_slabs=4)
    run = report_of(job, Rates(), 2)
    plain = dataclasses.replace(
        run, job=dataclasses.replace(job, works=tuple(dataclasses.replace(w, updates=0.0) for w in job.works))
    )
    with pytest.raises(SimulationError, match="other numbers of voxels"):
        fit_rates([plain, plain], "this test")


def test_tasks_are_taken_in_their_order_by_the_next_free_slot():
    assert makespan([1, 1, 1, 3], 2) == 4
    assert makespan([], 2) == 0


def test_a_point_without_seeds_is_a_good_day_alone():
    ways, _ = ways_of(
        described_scan(KNEE), usual_requests(ReconstructionRequest("knee", mu_range=(-0.1, 0.4)), (None,))
    )
    point = point_of(ways, CLUSTER, seeds=())
    assert point.troubled == (point.seconds, point.seconds)
    assert point.lost_node is None
