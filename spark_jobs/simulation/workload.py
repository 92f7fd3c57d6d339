# SPDX-License-Identifier: Apache-2.0
"""From a plan and a cluster to what the simulation runs: demands of the stages' tasks, and a machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spark_jobs.planning.rates import BUILT_IN
from spark_jobs.simulation.cluster import GIBIBYTE, MEGABYTE
from spark_jobs.simulation.errors import DoesNotFitError
from spark_jobs.simulation.events import Phase, StageDemand
from spark_jobs.simulation.machine import Machine

if TYPE_CHECKING:
    from ingest.chunks import StoredScan
    from spark_jobs.planning.plan_record import ReconstructionPlan
    from spark_jobs.planning.rates import Rates as CoreRates
    from spark_jobs.simulation.cluster import Cluster, NodeGroup, Rates

_FOUR_FOLD = BUILT_IN.updates("numba-avx512", "four_fold")
#: Bytes of a pixel when the built-in row rate is stated in pixels.
_PIXEL_BYTES = 2
_BAND_VALUES_PER_S = BUILT_IN.band_bytes_per_s / 4
#: Stages whose tasks read ahead while they compute.
_READS_AHEAD = ("prepare", "reconstruct")


@dataclass(frozen=True, slots=True)
class StageWork:
    """The work of a stage, all tasks together; seconds are of one core at the built-in rates.

    Attributes
    ----------
    name, n_tasks : of the stage
    read_bytes, written_bytes : at the store, before copies
    pixels : projection pixels that are unpacked
    row_s : unpacking and correcting rows, and storing filtered ones
    band_s : reading filtered rows back, or bricks
    filter_s : weights and ramp
    updates : voxels x views, in updates of the four-fold kernel
    encode_s : slices into DICOM
    reads_ahead : reading goes on while the task computes
    scan_input : what is read is the scan, not what a stage before has written
    task_bytes : memory of the largest task
    """

    name: str
    n_tasks: int
    read_bytes: float
    written_bytes: float
    pixels: float = 0.0
    row_s: float = 0.0
    band_s: float = 0.0
    filter_s: float = 0.0
    updates: float = 0.0
    encode_s: float = 0.0
    reads_ahead: bool = False
    scan_input: bool = True
    task_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Slots:
    """How tasks fit a cluster: tasks at once in a node of each group, and cores of a task."""

    by_group: tuple[int, ...]
    task_cores: int


def built_in_row_mpixels_per_s(rates: CoreRates = BUILT_IN) -> float:
    """Pixels that a core reads, corrects and filters at these rates [10^6/s]."""
    seconds = _PIXEL_BYTES / rates.read_bytes_per_s + 1 / rates.correct_pixels_per_s + 1 / rates.filter_pixels_per_s
    return 1e-6 / seconds


def work_of_plan(plan: ReconstructionPlan, stored: StoredScan, rates: CoreRates = BUILT_IN) -> tuple[StageWork, ...]:
    """Take a plan's stages apart into what a cluster's rates apply to.

    Parameters
    ----------
    rates : those that the plan's cost was counted with
    """
    rate = rates.updates(plan.backend, plan.kernel)
    # Updates by a slower kernel count as more of the fastest one's, in the ratio of the processor with AVX-512.
    slowness = _FOUR_FOLD / BUILT_IN.updates("numba-avx512", plan.kernel)
    works = []
    for stage in plan.cost.stages:
        last = stage is plan.cost.stages[-1]
        add_s = stage.updates / rate
        encode_s = len(plan.bins) * plan.grid.n_voxels / rates.encode_voxels_per_s if last else 0.0
        filter_s = max(0.0, stage.core_seconds * stage.gpu_share - add_s)
        rest = stage.core_seconds - add_s - encode_s - filter_s - stage.n_tasks * rates.task_overhead_s
        works.append(
            StageWork(
                name=stage.name, n_tasks=stage.n_tasks, read_bytes=stage.read_bytes, written_bytes=stage.written_bytes,
                pixels=stage.pixel_bytes / stored.layout.dtype.itemsize,
                row_s=max(0.0, rest) if stage.pixel_bytes else 0.0,
                band_s=0.0 if stage.pixel_bytes else max(0.0, rest), filter_s=filter_s,
                updates=stage.updates * slowness, encode_s=encode_s,
                reads_ahead=stage.name in _READS_AHEAD and stage.pixel_bytes > 0, scan_input=stage.pixel_bytes > 0,
                task_bytes=stage.task_bytes,
            )
        )  # fmt: skip
    return tuple(works)


def n_instances(plan: ReconstructionPlan) -> int:
    """DICOM instances of a run: slices of all volumes and previews."""
    n_slices = plan.grid.shape[0]
    return len(plan.bins) * (n_slices + math.ceil(n_slices / plan.preview_factor))


def slots_for(cluster: Cluster, task_bytes: int) -> Slots:
    """Return how many tasks of this memory run at once in each node, and on how many cores each.

    Raises
    ------
    DoesNotFitError
        If no node can hold even one.
    """
    by_group = tuple(
        min(cluster.task_slots(group), tasks_in_memory(cluster, group, task_bytes)) for group in cluster.nodes
    )
    if not any(by_group):
        most = max(_task_memory(cluster, group) for group in cluster.nodes)
        what = "a GPU" if cluster.has_gpus else "a node"
        raise DoesNotFitError(
            f"one task needs {task_bytes / GIBIBYTE:.1f} GiB, but {what} of {cluster.name} has "
            f"{most / GIBIBYTE:.1f} GiB for it: take less task memory, thinner slabs or coarser voxels"
        )
    cores = min(group.cores // slots for group, slots in zip(cluster.nodes, by_group, strict=True) if slots)
    return Slots(by_group, cores)


def tasks_in_memory(cluster: Cluster, group: NodeGroup, task_bytes: int) -> int:
    """Tasks of this memory that a node holds at once."""
    if group.gpus and task_bytes > group.gpu_memory_gib * GIBIBYTE:
        return 0
    return int(group.memory_gib * GIBIBYTE * cluster.spark.memory_share // max(1, task_bytes))


def _task_memory(cluster: Cluster, group: NodeGroup) -> float:
    """Most memory that one task can have in a node [B]."""
    of_node = group.memory_gib * GIBIBYTE * cluster.spark.memory_share
    return min(of_node, group.gpu_memory_gib * GIBIBYTE) if group.gpus else of_node


def machine_of(cluster: Cluster, slots: Slots) -> Machine:
    """Lay the cluster's nodes out for the simulation; nodes without room for a task still serve their disks."""
    counts = [group.count for group in cluster.nodes]

    def each(values: list[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.repeat(np.array(values, dtype=np.float64), counts)

    network = each([group.network_mb_per_s * MEGABYTE for group in cluster.nodes])
    rates = cluster.rates
    return Machine(
        slots=np.repeat(np.array(slots.by_group, dtype=np.int64), counts),
        disk=each([group.disks * group.disk_mb_per_s * MEGABYTE for group in cluster.nodes]),
        network=network,
        speed=each([group.speed for group in cluster.nodes]),
        switch=float(network.sum()) / cluster.network.oversubscription,
        copies=cluster.copies,
        # A task reads and writes with as many streams as it has cores.
        stream_read=rates.stream_read_mb_per_s.value * MEGABYTE * slots.task_cores,
        stream_write=rates.stream_write_mb_per_s.value * MEGABYTE * slots.task_cores,
        launches_per_s=rates.launches_per_s.value,
        recopy=cluster.hdfs.recopy_mb_per_s * MEGABYTE,
        dead_after_s=cluster.hdfs.dead_after_s,
        executor_lost_after_s=cluster.spark.executor_lost_after_s,
    )


def demands_of(
    works: tuple[StageWork, ...], rates: Rates, *, gpu: bool, task_cores: int, instances: int
) -> tuple[StageDemand, ...]:
    """Return what the stages ask of a machine, and the driver's registering at the end."""
    stages = [_demand(work, rates, gpu=gpu, task_cores=task_cores) for work in works]
    register = StageDemand("register", 0, driver_s=instances / rates.registrations_per_s.value)
    return (*stages, register)


def _demand(work: StageWork, rates: Rates, *, gpu: bool, task_cores: int) -> StageDemand:
    """One stage's tasks at a cluster's rates."""
    row_scale = built_in_row_mpixels_per_s() / rates.row_mpixels_per_s.value
    each = 1 / max(1, work.n_tasks)
    rows_s, filter_s = (seconds * row_scale * each / task_cores for seconds in (work.row_s, work.filter_s))
    rows_s += work.band_s * _BAND_VALUES_PER_S / (rates.band_mvalues_per_s.value * 1e6) * each / task_cores
    encode_scale = BUILT_IN.encode_voxels_per_s / (rates.encode_mvoxels_per_s.value * 1e6)
    encode_s = work.encode_s * encode_scale * each / task_cores
    if gpu:
        on_gpu = work.updates / (rates.gpu_gups.value * 1e9) * each
        if work.filter_s:
            on_gpu += work.pixels / (rates.gpu_row_mpixels_per_s.value * 1e6) * each
        # Cores unpack the next rows while the GPU works on the last.
        compute_s = max(on_gpu, rows_s) if work.reads_ahead else on_gpu + rows_s
    else:
        compute_s = rows_s + filter_s + work.updates / (rates.cpu_gups.value * 1e9) * each / task_cores
    read, written = work.read_bytes * each, work.written_bytes * each
    if work.reads_ahead:
        before: tuple[Phase, ...] = (Phase(compute_s, read_bytes=read),)
    else:
        before = (Phase(read_bytes=read), Phase(compute_s))
    return StageDemand(
        work.name, work.n_tasks, (*before, Phase(encode_s, write_bytes=written)),
        overhead_s=rates.task_overhead_s.value, driver_s=rates.stage_overhead_s.value, scan_input=work.scan_input,
    )  # fmt: skip
