# SPDX-License-Identifier: Apache-2.0
"""The stages of a plan in the order in which they run: what a driver runs, and what tests and probes run in its place.

Names are those of `spark_jobs.planning.cost.StageCost`, so that what a stage did can be held against what the plan says
of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spark_jobs.tasks.brick_task import back_project_brick
from spark_jobs.tasks.filter_task import filter_rows, filter_tasks
from spark_jobs.tasks.prepare_task import prepare_bin
from spark_jobs.tasks.slab_task import reconstruct_slab

if TYPE_CHECKING:
    from collections.abc import Callable

    from spark_jobs.planning.plan import ReconstructionPlan
    from spark_jobs.tasks.workers import RunPlace

    SlabWork = Callable[[RunPlace, int], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class JobStage:
    """One stage: its name, the number of its tasks, and what does one of them."""

    name: str
    n_tasks: int
    work: SlabWork


def job_stages(plan: ReconstructionPlan, slab_work: SlabWork = reconstruct_slab) -> tuple[JobStage, ...]:
    """Return the stages of a plan; the last one publishes the packs, by `slab_work`, which tests wrap."""
    stages = [JobStage("prepare", len(plan.bins), prepare_bin)]
    if plan.two_stage:
        stages.append(JobStage("filter", len(filter_tasks(plan)), filter_rows))
    if plan.bricks is not None:
        stages.append(JobStage("bricks", len(plan.brick_tasks), back_project_brick))
    last = "reconstruct" if plan.bricks is None else "assemble"
    return (*stages, JobStage(last, len(plan.tasks), slab_work))
