# SPDX-License-Identifier: Apache-2.0
"""Other ways to cut the same work, compared on a cluster: slabs, modes, precision, memory; what to do if none fits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reconstruction.errors import MemoryBudgetError
from spark_jobs.planning.plan import make_plan
from spark_jobs.simulation.assessment import Assessment, assess, job_of_plan
from spark_jobs.simulation.cluster import GIBIBYTE
from spark_jobs.simulation.errors import DoesNotFitError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.chunks import StoredScan
    from spark_jobs.planning.plan_record import ReconstructionPlan
    from spark_jobs.planning.request import ReconstructionRequest
    from spark_jobs.simulation.cluster import Cluster

#: A proposal must be this much faster than what was asked for to be worth a change.
_WORTH = 0.97
_COARSER = (2, 4, 8, 16)
_SMALLER = (2, 4, 8, 16)
_HEIGHTS = (16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a reconstruction on a cluster, and what it comes to.

    Attributes
    ----------
    change : against what was asked for, in words
    request : what to ask for
    plan, assessment : None where it does not fit
    refusal : why it does not fit; "" where it does
    """

    change: str
    request: ReconstructionRequest
    plan: ReconstructionPlan | None = None
    assessment: Assessment | None = None
    refusal: str = ""

    @property
    def slab_slices(self) -> int:
        """Height of the slabs."""
        return max(slab.n_slices for slab in self.plan.slabs) if self.plan else 0

    @property
    def mode(self) -> str:
        """Fused, or two stages or bricks with the type of the filtered values."""
        if self.plan is None:
            return self.request.mode
        if self.plan.bricks is not None:
            return f"bricks {self.request.band_type}"
        return f"two_stage {self.request.band_type}" if self.plan.two_stage else "fused"

    def to_json(self) -> dict[str, Any]:
        """JSON values for a table."""
        figures = self.assessment
        return {
            "change": self.change,
            "mode": self.mode,
            "slab_slices": self.slab_slices,
            "voxel_pitch_mm": self.plan.grid.voxel_pitch_mm[1] if self.plan else self.request.voxel_pitch_mm,
            "shape_zyx": list(self.plan.grid.shape) if self.plan else self.request.shape,
            "task_memory_bytes": self.request.task_memory_bytes,
            "amplification": self.plan.cost.amplification if self.plan else None,
            "tasks_per_node": list(figures.tasks_per_node) if figures else None,
            "seconds": figures.seconds if figures else None,
            "price": figures.price if figures else None,
            "limit": figures.limit if figures else None,
            "refusal": self.refusal,
        }


@dataclass(frozen=True, slots=True)
class Proposal:
    """What was asked for, its alternatives, and the one to take (None where nothing fits)."""

    asked: Candidate
    others: tuple[Candidate, ...]
    best: Candidate | None

    @property
    def all(self) -> tuple[Candidate, ...]:
        """What was asked for, then the alternatives."""
        return (self.asked, *self.others)


def cluster_task_memory(cluster: Cluster, share: int = 1) -> int:
    """Return the memory of a task when all cores or GPUs of the smallest node work, or every so-many-th of them [B]."""
    each = []
    for group in cluster.nodes:
        slots = max(1, cluster.task_slots(group) // share)
        memory = group.memory_gib * GIBIBYTE * cluster.spark.memory_share / slots
        each.append(min(memory, group.gpu_memory_gib * GIBIBYTE) if group.gpus else memory)
    return int(min(each))


def cluster_gpu_memory(cluster: Cluster) -> int | None:
    """Return the memory of the smallest GPU of a cluster, which one task has [B]; None where there are none."""
    if not cluster.has_gpus:
        return None
    return int(min(group.gpu_memory_gib for group in cluster.nodes) * GIBIBYTE)


def propose(stored: StoredScan, request: ReconstructionRequest, cluster: Cluster) -> Proposal:
    """Plan as asked, compare it with its alternatives, and name the one to take.

    The alternatives keep volume and voxels; only where nothing fits are coarser voxels and smaller regions tried.
    """
    asked = _tried("as asked", stored, request, cluster)
    others = [
        _tried(change, stored, other, cluster) for change, other in _alternatives(stored, request, asked, cluster)
    ]
    fitting = [candidate for candidate in (asked, *others) if candidate.assessment]
    if not fitting:
        for steps in (_coarser(stored, request), _smaller(stored, request)):
            for change, other in steps:
                others.append(_tried(change, stored, other, cluster))
                if others[-1].assessment:
                    fitting.append(others[-1])
                    break
        # More of what was asked for is better than less.
        return Proposal(asked, tuple(others), fitting[0] if fitting else None)
    best = min(fitting, key=_seconds)
    if asked.assessment and _seconds(best) > _WORTH * _seconds(asked):
        best = asked
    return Proposal(asked, tuple(others), best)


def _seconds(candidate: Candidate) -> float:
    return candidate.assessment.seconds if candidate.assessment else math.inf


def _tried(change: str, stored: StoredScan, request: ReconstructionRequest, cluster: Cluster) -> Candidate:
    """Plan and assess one candidate; where it does not fit, say why."""
    try:
        plan = make_plan(stored, request)
        return Candidate(change, request, plan, assess(job_of_plan(plan, stored), cluster, troubles=False))
    except (MemoryBudgetError, DoesNotFitError) as error:
        return Candidate(change, request, refusal=str(error))


def _alternatives(
    stored: StoredScan, request: ReconstructionRequest, asked: Candidate, cluster: Cluster
) -> Iterator[tuple[str, ReconstructionRequest]]:
    """Other ways to make the same volume."""
    in_bricks = asked.plan is not None and asked.plan.bricks is not None
    ways = [("rows stored as float32", "two_stage", "float32"), ("rows stored as float16", "two_stage", "float16")]
    if asked.plan is not None and not in_bricks:
        ways.insert(0, ("fused", "fused", request.band_type))
    for change, mode, band_type in ways:
        if not asked.mode.endswith(mode if mode == "fused" else band_type):
            yield change, replace(request, mode=mode, band_type=band_type)  # type: ignore[arg-type]
    if asked.plan is not None and not in_bricks:
        for height in _HEIGHTS:
            if height < asked.plan.grid.shape[0] and not 0.75 < height / asked.slab_slices < 1.5:
                yield f"slabs of {height}", replace(request, n_slabs=None, slab_slices=height)
    most = cluster_task_memory(cluster)
    for share in (2, 4, 8):
        memory = cluster_task_memory(cluster, share)
        if memory > max(most, request.task_memory_bytes) and (share == 2 or asked.plan is None):
            yield f"{_ORDINAL[share]} of the tasks, more memory", replace(request, task_memory_bytes=memory)


_ORDINAL = {2: "half", 4: "a quarter", 8: "an eighth"}


def _coarser(stored: StoredScan, request: ReconstructionRequest) -> Iterator[tuple[str, ReconstructionRequest]]:
    """The same field in larger voxels."""
    z, y, x = request.pitch_zyx_mm or (_axis_pitch_mm(stored),) * 3
    for factor in _COARSER:
        shape = None
        if request.shape is not None:
            nz, ny, nx = (max(1, round(side / factor)) for side in request.shape)
            shape = nz, ny, nx
        yield (
            f"voxels {factor} times as large",
            replace(request, voxel_pitch_mm=(z * factor, y * factor, x * factor), shape=shape),
        )


def _smaller(stored: StoredScan, request: ReconstructionRequest) -> Iterator[tuple[str, ReconstructionRequest]]:
    """A region in the middle, in the same voxels."""
    from spark_jobs.planning.plan import planned_grid

    grid, _ = planned_grid(stored, request)
    for factor in _SMALLER:
        nz, ny, nx = (max(2, side // factor // 2 * 2) for side in grid.shape)
        radius = nx / 2 * grid.voxel_pitch_mm[2]
        fdk = replace(request.fdk, field_radius_mm=radius)
        yield f"a region of 1/{factor} of each side", replace(request, shape=(nz, ny, nx), fdk=fdk)


def _axis_pitch_mm(stored: StoredScan) -> float:
    """Pixel pitch at the axis."""
    from spark_jobs.planning.plan_record import geometry_of

    geometry = geometry_of(stored)
    return geometry.pitch_mm[1] * geometry.sod_mm / geometry.sdd_mm
