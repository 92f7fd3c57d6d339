# SPDX-License-Identifier: Apache-2.0
"""The choice between the ways to cut the work: whole slabs, fused or in two stages, or bricks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconstruction.errors import MemoryBudgetError
from spark_jobs.planning.brick_sizing import BRICK_BATCH_VIEWS, bricks_work
from spark_jobs.planning.cost import WayCost
from spark_jobs.planning.pack_sizes import pack_sizes
from spark_jobs.planning.sizing import choose_stages, cut_volume, views_together
from spark_jobs.planning.stage_costs import plan_cost, row_group_amplification

if TYPE_CHECKING:
    from ingest.chunks import StoredScan
    from reconstruction.fdk import SlabSetup
    from spark_jobs.planning.cost import PlanCost
    from spark_jobs.planning.plan_record import ReconstructionPlan
    from spark_jobs.planning.rates import Rates
    from spark_jobs.planning.sizing import Sizing
    from spark_jobs.planning.stage_costs import WorkCut

#: Whole slabs up to this amplification, whole row groups counted; beyond it bricks, where they read less.
MOST_SLAB_AMPLIFICATION = 4.0
#: Below this there is no need to work bricks out.
_CLEAR_AMPLIFICATION = 2.0


@dataclass(frozen=True, slots=True)
class Choice:
    """The way that was chosen, its cost, and the views that a task adds together."""

    work: WorkCut
    cost: PlanCost
    batch_views: int


def choose_way(sizing: Sizing, whole: SlabSetup) -> Choice:
    """Choose between whole slabs and bricks, as asked or by amplification and bytes.

    Raises
    ------
    MemoryBudgetError
        If no way fits the memory: the sentence is that of the way that came nearest to what was asked for.
    """
    request = sizing.request
    if request.cut == "bricks":
        return _bricks(sizing, whole, (), "bricks were asked for")
    given = request.n_slabs is not None or request.slab_slices is not None
    if request.cut == "slabs" or given or request.mode == "fused":
        return _slabs(sizing, whole, (), "slabs were asked for")
    try:
        slabs = _slabs(sizing, whole, (), "")
    except MemoryBudgetError as error:
        try:
            return _bricks(sizing, whole, (), "no slab fits the memory of a task")
        except MemoryBudgetError:
            raise error from None
    needed = slab_amplification(slabs.work)
    if needed <= _CLEAR_AMPLIFICATION:
        return _told(slabs, (), f"slabs read each row group {needed:.2f} times; bricks pay beyond 4")
    try:
        bricks = _bricks(sizing, whole, (), "")
    except MemoryBudgetError:
        return _told(slabs, (), f"slabs read each row group {needed:.2f} times; no brick fits the memory of a task")
    if needed <= MOST_SLAB_AMPLIFICATION:
        why = f"slabs would read each row group {needed:.2f} times, which is at most {MOST_SLAB_AMPLIFICATION:g}"
        return _told(slabs, (bricks,), why)
    moved = {name: _moved_bytes(way.cost) for name, way in (("slabs", slabs), ("bricks", bricks))}
    gigabytes = f"{moved['bricks'] / 1e9:.3g} GB against {moved['slabs'] / 1e9:.3g} GB"
    if moved["bricks"] < moved["slabs"]:
        why = f"slabs that fit the memory would read each row group {needed:.2f} times, and bricks move {gigabytes}"
        return _told(bricks, (slabs,), why)
    return _told(slabs, (bricks,), f"slabs read each row group {needed:.2f} times, but bricks move {gigabytes}")


def slab_amplification(work: WorkCut) -> float:
    """How often slabs need the row groups that hold the volume's shadow, whether they or filter tasks read them."""
    return row_group_amplification(dataclasses.replace(work, two_stage=False))


def exact_cost(stored: StoredScan, draft: ReconstructionPlan, choice: Choice, rates: Rates) -> PlanCost:
    """The cost of the chosen way once the plan is there: with its own size, the manifest's, and that of the packs."""
    sizes = len(draft.to_bytes()), len(stored.manifest.to_bytes())
    work = dataclasses.replace(choice.work, plan_bytes=sizes, packs=pack_sizes(stored.scan, draft))
    cost = plan_cost(work, rates)
    return dataclasses.replace(
        cost, ways=choice.cost.ways, why=choice.cost.why, rates=rates.name, slab_amplification=slab_amplification(work)
    )


def _slabs(sizing: Sizing, whole: SlabSetup, others: tuple[Choice, ...], why: str) -> Choice:
    setups = cut_volume(sizing, whole)
    batch_views = views_together(sizing, setups)
    work = choose_stages(sizing, setups, batch_views)
    return _told(Choice(work, plan_cost(work, sizing.rates), batch_views), others, why)


def _bricks(sizing: Sizing, whole: SlabSetup, others: tuple[Choice, ...], why: str) -> Choice:
    work = bricks_work(sizing, whole)
    return _told(Choice(work, plan_cost(work, sizing.rates), BRICK_BATCH_VIEWS), others, why)


def _told(choice: Choice, others: tuple[Choice, ...], why: str) -> Choice:
    """The choice with what it was chosen from, and why."""
    ways = tuple(_way_cost(each) for each in (choice, *others))
    return dataclasses.replace(choice, cost=dataclasses.replace(choice.cost, ways=ways, why=why))


def _way_cost(choice: Choice) -> WayCost:
    work, cost = choice.work, choice.cost
    name = "bricks" if work.bricks is not None else "two-stage slabs" if work.two_stage else "fused slabs"
    heights = max(setup.slab.n_slices for setup in work.setups)
    _, ny, nx = work.grid.shape
    sides = (ny, nx) if work.bricks is None else max(area.shape for area in work.bricks.areas)
    return WayCost(
        name=name,
        piece_zyx=(heights, *sides),
        n_tasks=cost.n_tasks,
        task_bytes=cost.task_bytes,
        reads=sum(stage.reads for stage in cost.stages),
        read_bytes=sum(stage.read_bytes for stage in cost.stages),
        written_bytes=sum(stage.written_bytes for stage in cost.stages),
        amplification=cost.amplification,
        core_seconds=cost.core_seconds,
    )


def _moved_bytes(cost: PlanCost) -> int:
    """Bytes read and written at the store."""
    return sum(stage.read_bytes + stage.written_bytes for stage in cost.stages)
