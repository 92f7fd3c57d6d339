# SPDX-License-Identifier: Apache-2.0
"""What a plan costs: the figures of each of its stages, and their totals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spark_jobs.errors import PlanError


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage of a plan, over all of its tasks, which are about equal.

    Bytes are counted at the store: whole row groups as stored, flats, darks, masks, footers, manifests, plans, filtered
    rows, bricks and packs.

    Attributes
    ----------
    name : ``prepare``, ``filter``, ``reconstruct``, ``bricks`` or ``assemble``
    n_tasks : Spark tasks
    read_bytes, written_bytes : of all tasks
    reads : ranged reads and whole files read, of all tasks
    pixel_bytes : projections among what is read, unpacked
    core_seconds : expected time of one core, of all tasks
    gpu_share : part of `core_seconds` that a GPU's kernels would take over (filter and back-projection)
    task_bytes : peak memory of its largest task, the worker's own share included
    updates : voxels x views
    gpu_bytes : what its largest task takes of a GPU; 0 where the plan knows none
    """

    name: str
    n_tasks: int
    read_bytes: int
    written_bytes: int
    reads: int
    pixel_bytes: int
    core_seconds: float
    gpu_share: float
    task_bytes: int
    updates: int = 0
    gpu_bytes: int = 0

    @property
    def task_seconds(self) -> float:
        """Expected seconds of one task on one core."""
        return self.core_seconds / max(1, self.n_tasks)


@dataclass(frozen=True, slots=True)
class WayCost:
    """One of the ways to cut the work that a plan was chosen from, the chosen one first.

    Attributes
    ----------
    name : ``fused slabs``, ``two-stage slabs`` or ``bricks``
    piece_zyx : voxels of the largest piece that one task makes
    n_tasks, task_bytes, reads, read_bytes, written_bytes, amplification, core_seconds : as for `PlanCost`, over all
        stages; without plans, manifests and headers of instances
    """

    name: str
    piece_zyx: tuple[int, int, int]
    n_tasks: int
    task_bytes: int
    reads: int
    read_bytes: int
    written_bytes: int
    amplification: float
    core_seconds: float


@dataclass(frozen=True, slots=True)
class PlanCost:
    """Totals of a plan, over all bins.

    Attributes
    ----------
    task_bytes : peak memory of the largest task, the worker's own share included
    n_tasks : slab tasks, and filter or brick tasks where there are any
    read_bytes, stored_read_bytes : projections that the slabs or filter tasks read in whole row groups, unpacked and
        as stored
    ranged_reads : reads of projections and filtered rows
    band_bytes : filtered rows written (and read by the slabs)
    updates : voxels x views
    amplification : rows read by the slabs over the rows that hold the volume's shadow; of bricks, filtered values
        read over those stored
    core_seconds : expected time of one core
    row_group_amplification : bytes of row groups read by all tasks, over those that hold the shadow
    slab_amplification : the same as if slabs read them, whether they do or filter tasks
    stages : what each stage costs, in the order in which they run
    ways, why : what the plan was chosen from, the chosen way first, and the reason in words
    rates : name of the rates that the expected time goes by
    gpu_bytes : what the largest task takes of a GPU; 0 where the plan knows none
    """

    task_bytes: int
    n_tasks: int
    read_bytes: int
    stored_read_bytes: int
    ranged_reads: int
    band_bytes: int
    updates: int
    amplification: float
    core_seconds: float
    row_group_amplification: float = 1.0
    slab_amplification: float = 1.0
    stages: tuple[StageCost, ...] = ()
    ways: tuple[WayCost, ...] = ()
    why: str = ""
    rates: str = "built-in"
    gpu_bytes: int = 0

    def stage(self, name: str) -> StageCost:
        """The stage of that name; PlanError if the plan has none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = ", ".join(stage.name for stage in self.stages)
        raise PlanError(f"the plan has no stage '{name}': its stages are {names}")


def cost_from_json(values: dict[str, Any]) -> PlanCost:
    """Make a cost from what `dataclasses.asdict` gave, after a trip through JSON."""
    stages = tuple(StageCost(**stage) for stage in values["stages"])
    ways = tuple(WayCost(**{**way, "piece_zyx": tuple(way["piece_zyx"])}) for way in values["ways"])
    return PlanCost(**{**values, "stages": stages, "ways": ways})
