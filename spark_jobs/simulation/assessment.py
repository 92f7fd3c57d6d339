# SPDX-License-Identifier: Apache-2.0
"""What a plan comes to on a cluster: time, bytes, what limits each stage, price; and what goes wrong on a bad day."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_jobs.simulation.errors import DoesNotFitError
from spark_jobs.simulation.events import Conditions, simulate
from spark_jobs.simulation.machine import place_blocks
from spark_jobs.simulation.workload import (
    StageWork,
    demands_of,
    machine_of,
    n_instances,
    slots_for,
    work_of_plan,
)

if TYPE_CHECKING:
    from ingest.chunks import StoredScan
    from spark_jobs.planning.plan_record import ReconstructionPlan
    from spark_jobs.simulation.cluster import Cluster
    from spark_jobs.simulation.events import Outcome, StageDemand, StageOutcome
    from spark_jobs.simulation.machine import Machine, Placement

#: A resource that is in use for this share of a stage's time limits it.
_IN_USE = 0.75


@dataclass(frozen=True, slots=True)
class Job:
    """A plan as a cluster sees it: all that its simulation and its figures follow from.

    Attributes
    ----------
    works : of the plan's stages
    instances : DICOM instances that it registers
    stored_bytes : of the scan, before copies
    """

    works: tuple[StageWork, ...]
    instances: int
    stored_bytes: float

    @property
    def task_bytes(self) -> int:
        """Memory of the largest task."""
        return max(work.task_bytes for work in self.works)

    @property
    def written_bytes(self) -> float:
        """Bytes that the job writes, before copies."""
        return sum(work.written_bytes for work in self.works)


@dataclass(frozen=True, slots=True)
class StageFigures:
    """One stage on a cluster.

    Attributes
    ----------
    limit : what keeps it from being faster, in words
    use : share of the stage's time that each resource (of the busiest node) is in use
    """

    name: str
    n_tasks: int
    seconds: float
    read_bytes: float
    written_bytes: float
    limit: str
    use: dict[str, float]


@dataclass(frozen=True, slots=True)
class Assessment:
    """A plan on a cluster.

    Attributes
    ----------
    seconds : expected, from the first task to registered series
    troubled_seconds : with tasks of uneven length and slow nodes
    lost_node_seconds : with a node lost half-way, besides; None where there is only one
    tasks_per_node : at once, of each group of nodes
    task_cores, task_bytes : of one task
    price : of all nodes for the expected time
    """

    seconds: float
    troubled_seconds: float
    lost_node_seconds: float | None
    stages: tuple[StageFigures, ...]
    tasks_per_node: tuple[int, ...]
    task_cores: int
    task_bytes: int
    price: float
    network_bytes: float
    disk_bytes: float

    @property
    def limit(self) -> str:
        """What limits the stage that takes longest."""
        return max(self.stages, key=lambda stage: stage.seconds).limit

    def to_json(self) -> dict[str, Any]:
        """JSON values of all fields."""
        return asdict(self) | {"limit": self.limit}


def job_of_plan(plan: ReconstructionPlan, stored: StoredScan) -> Job:
    """Return what a cluster needs to know of a plan."""
    stored_bytes = stored.manifest.stored_bytes or sum(map(sum, stored.manifest.group_bytes))
    return Job(work_of_plan(plan, stored), n_instances(plan), stored_bytes)


def check_disks(job: Job, cluster: Cluster) -> None:
    """Refuse what the cluster's disks cannot hold: the scan, what is kept in between and the result, with all copies.

    Raises
    ------
    DoesNotFitError
        If it does not fit.
    """
    needed = (job.stored_bytes + job.written_bytes) * cluster.copies
    if needed > cluster.disk_bytes:
        raise DoesNotFitError(
            f"scan, filtered rows and result take {needed / 1e12:.3g} TB with {cluster.copies} copies, but the disks "
            f"of {cluster.name} hold {cluster.disk_bytes / 1e12:.3g} TB: take coarser voxels, a smaller region, fewer "
            f"bins or more nodes"
        )


def assess(job: Job, cluster: Cluster, *, seed: int = 0, troubles: bool = True) -> Assessment:
    """Simulate a job on a cluster: on a good day and, with `troubles`, on bad ones.

    Raises
    ------
    DoesNotFitError
        If a task does not fit a node, or the data not the disks.
    """
    demands, machine = demands_on(job, cluster)
    slots, placement = slots_for(cluster, job.task_bytes), scan_placement(job, cluster, seed)
    good = simulate(demands, machine, scan_placement=placement)
    troubled, lost = good.seconds, None
    if troubles:
        bad = bad_day(cluster, seed)
        troubled = simulate(demands, machine, bad, scan_placement=placement).seconds
        if cluster.n_nodes > 1:
            bad = losing_a_node(bad, job, cluster, good.seconds / 2)
            lost = simulate(demands, machine, bad, scan_placement=placement).seconds
    stages = _figures(job, cluster, demands, machine, good)
    return Assessment(
        seconds=good.seconds, troubled_seconds=troubled, lost_node_seconds=lost, stages=stages,
        tasks_per_node=slots.by_group, task_cores=slots.task_cores, task_bytes=job.task_bytes,
        price=cluster.price_per_hour * good.seconds / 3600, network_bytes=good.network_bytes,
        disk_bytes=good.disk_read_bytes + good.disk_write_bytes,
    )  # fmt: skip


def demands_on(job: Job, cluster: Cluster) -> tuple[tuple[StageDemand, ...], Machine]:
    """Return what a job's stages ask of a cluster, and the cluster as a machine; DoesNotFitError if it does not fit."""
    slots = slots_for(cluster, job.task_bytes)
    check_disks(job, cluster)
    demands = demands_of(
        job.works, cluster.rates, gpu=cluster.has_gpus, task_cores=slots.task_cores, instances=job.instances
    )
    return demands, machine_of(cluster, slots)


def bad_day(cluster: Cluster, seed: int) -> Conditions:
    """Return the cluster's ordinary troubles, but no lost node."""
    troubles = cluster.troubles
    return Conditions(
        seed=seed, task_sigma=troubles.task_sigma, slow_node_share=troubles.slow_node_share,
        slow_node_speed=troubles.slow_node_speed, speculation=cluster.spark.speculation,
    )  # fmt: skip


def losing_a_node(conditions: Conditions, job: Job, cluster: Cluster, at_s: float) -> Conditions:
    """Return the conditions with a node lost at a time."""
    return replace(conditions, lost_node_at_s=at_s, stored_bytes=job.stored_bytes * cluster.copies)


def scan_placement(job: Job, cluster: Cluster, seed: int) -> Placement:
    """Place the scan's blocks."""
    n_blocks = math.ceil(job.stored_bytes / (cluster.hdfs.block_mib << 20))
    return place_blocks(cluster.n_nodes, n_blocks, cluster.copies, np.random.default_rng(seed))


def _figures(
    job: Job, cluster: Cluster, demands: tuple[StageDemand, ...], machine: Machine, outcome: Outcome
) -> tuple[StageFigures, ...]:
    """Stages with their bytes and what limits them."""
    works = {work.name: work for work in job.works}
    figures = []
    for demand, stage in zip(demands, outcome.stages, strict=True):
        work = works.get(demand.name)
        figures.append(
            StageFigures(
                name=stage.name, n_tasks=demand.n_tasks, seconds=stage.seconds,
                read_bytes=work.read_bytes if work else 0.0, written_bytes=work.written_bytes if work else 0.0,
                limit=what_limits(demand, stage, machine, gpu=cluster.has_gpus),
                use={name: round(share, 4) for name, share in stage.use.items()},
            )
        )  # fmt: skip
    return tuple(figures)


def what_limits(demand: StageDemand, stage: StageOutcome, machine: Machine, *, gpu: bool) -> str:
    """Say what keeps a stage from being faster."""
    if not demand.n_tasks or demand.driver_s > 0.5 * stage.seconds:
        return "driver"
    shared = {name: stage.use.get(name, 0.0) for name in ("disks", "network", "switch")}
    busiest = max(shared, key=lambda name: shared[name])
    if shared[busiest] > _IN_USE:
        return busiest
    if demand.n_tasks / machine.launches_per_s > 0.5 * stage.seconds:
        return "driver"
    if demand.n_tasks < 0.75 * machine.n_slots:
        return "too few tasks"
    compute_s = sum(phase.cpu_s for phase in demand.phases)
    read_s = sum(phase.read_bytes for phase in demand.phases) / machine.stream_read
    write_s = sum(phase.write_bytes for phase in demand.phases) / machine.stream_write
    parts = {
        "GPUs" if gpu else "cores": compute_s,
        "a task's stream": read_s + write_s,
        "task overhead": demand.overhead_s,
    }
    largest = max(parts, key=lambda name: parts[name])
    if shared[busiest] > 0.5 and largest == "a task's stream":
        return busiest
    return largest
