# SPDX-License-Identifier: Apache-2.0
"""Time and price over the number of nodes: for each number the best of several plans, on good and on bad days."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reconstruction.errors import MemoryBudgetError
from spark_jobs.planning.plan import make_plan
from spark_jobs.simulation.assessment import (
    Job,
    bad_day,
    demands_on,
    job_of_plan,
    losing_a_node,
    scan_placement,
    what_limits,
)
from spark_jobs.simulation.errors import DoesNotFitError
from spark_jobs.simulation.events import simulate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ingest.chunks import StoredScan
    from spark_jobs.planning.request import ReconstructionRequest
    from spark_jobs.simulation.cluster import Cluster
    from spark_jobs.simulation.events import StageDemand
    from spark_jobs.simulation.machine import Machine

#: 1, 2, 4, ... and a thousand.
NODE_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to cut a reconstruction: its name in words, and the job it makes."""

    name: str
    job: Job


@dataclass(frozen=True, slots=True)
class Point:
    """One number of nodes.

    Attributes
    ----------
    way : name of the plan that is fastest there
    seconds : when nothing goes wrong
    troubled : least and most over the seeds, with uneven tasks and slow nodes
    lost_node : the same with a node lost half-way; None for one node
    limit : of the longest stage
    price : for `seconds`
    """

    nodes: int
    way: str
    seconds: float
    troubled: tuple[float, float]
    lost_node: tuple[float, float] | None
    limit: str
    price: float


def ways_of(
    stored: StoredScan, requests: Iterable[tuple[str, ReconstructionRequest]]
) -> tuple[tuple[Way, ...], tuple[str, ...]]:
    """Plan all requests; the ways that fit the memory, and sentences on those that do not."""
    ways, refusals = [], []
    for name, request in requests:
        try:
            ways.append(Way(name, job_of_plan(make_plan(stored, request), stored)))
        except MemoryBudgetError as error:
            refusals.append(f"{name}: {error}")
    return tuple(ways), tuple(refusals)


def usual_requests(
    request: ReconstructionRequest, heights: Sequence[int | None]
) -> list[tuple[str, ReconstructionRequest]]:
    """Fused, and two stages with both precisions, each with slabs of several heights (None: by memory)."""
    made = []
    for height in heights:
        slabs = f", slabs of {height}" if height else ""
        for name, mode, band_type in (("fused", "fused", "float32"), ("two stages, float32", "two_stage", "float32"),
                                      ("two stages, float16", "two_stage", "float16")):  # fmt: skip
            other = replace(request, mode=mode, band_type=band_type, slab_slices=height)  # type: ignore[arg-type]
            made.append((name + slabs, other))
    return made


def point_of(ways: Sequence[Way], cluster: Cluster, seeds: Sequence[int] = (0, 1)) -> Point | None:
    """Simulate the most promising way on a cluster; None where none fits it."""
    fitting = []
    for way in ways:
        try:
            demands, machine = demands_on(way.job, cluster)
        except DoesNotFitError:
            continue
        fitting.append((rough_seconds(demands, machine), way, demands, machine))
    if not fitting:
        return None
    _, way, demands, machine = min(fitting, key=lambda entry: entry[0])
    placement = scan_placement(way.job, cluster, 0)
    good = simulate(demands, machine, scan_placement=placement)
    troubled, lost = [], []
    for seed in seeds:
        day = bad_day(cluster, seed)
        troubled.append(simulate(demands, machine, day, scan_placement=placement).seconds)
        if cluster.n_nodes > 1:
            day = losing_a_node(day, way.job, cluster, good.seconds / 2)
            lost.append(simulate(demands, machine, day, scan_placement=placement).seconds)
    longest = max(range(len(demands)), key=lambda index: good.stages[index].seconds)
    return Point(
        nodes=cluster.n_nodes, way=way.name, seconds=good.seconds,
        troubled=(min(troubled, default=good.seconds), max(troubled, default=good.seconds)),
        lost_node=(min(lost), max(lost)) if lost else None,
        limit=what_limits(demands[longest], good.stages[longest], machine, gpu=cluster.has_gpus),
        price=cluster.price_per_hour * good.seconds / 3600,
    )  # fmt: skip


def rough_seconds(demands: Sequence[StageDemand], machine: Machine) -> float:
    """Estimate by closed form: of each stage the slowest of waves of tasks, disks and network."""
    disk, network, nodes = float(machine.disk.sum()), float(machine.network.sum()), machine.n_nodes
    remote = 1 - min(1.0, machine.copies / nodes)
    total = 0.0
    for demand in demands:
        read = demand.n_tasks * sum(phase.read_bytes for phase in demand.phases)
        written = demand.n_tasks * sum(phase.write_bytes for phase in demand.phases)
        task_s = demand.overhead_s + sum(
            max(phase.cpu_s, phase.read_bytes / machine.stream_read, phase.write_bytes / machine.stream_write)
            for phase in demand.phases
        )
        across = read * remote + written * (machine.copies - 1)
        total += demand.driver_s + max(
            -(-demand.n_tasks // machine.n_slots) * task_s, demand.n_tasks * task_s / machine.n_slots,
            (read + written * machine.copies) / disk, across / min(network, machine.switch),
            demand.n_tasks / machine.launches_per_s,
        )  # fmt: skip
    return total
