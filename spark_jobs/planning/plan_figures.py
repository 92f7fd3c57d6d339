# SPDX-License-Identifier: Apache-2.0
"""A plan in figures: what programs are told of it, whoever asks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spark_jobs.planning.plan_record import ReconstructionPlan


def expected_seconds(plan: ReconstructionPlan, cores: int) -> float:
    """Return the expected wall seconds on a number of cores, Spark's start not counted."""
    return plan.cost.core_seconds / min(cores, max(1, len(plan.tasks)))


def plan_figures(plan: ReconstructionPlan, cores: int) -> dict[str, Any]:
    """Return a plan's figures as JSON values, with the seconds expected on so many cores."""
    return {
        "scan_id": plan.request.scan_id,
        "run": plan.run_name,
        "bins": list(plan.bins),
        "shape_zyx": list(plan.grid.shape),
        "voxel_pitch_mm": list(plan.grid.voxel_pitch_mm),
        "center_mm": list(plan.grid.center_mm),
        "field_radius_mm": plan.radius_mm,
        "backend": plan.backend,
        "mode": "two_stage" if plan.two_stage else "fused",
        "kernel": plan.kernel,
        "path": list(plan.path),
        "slabs": [[slab.z_start, slab.z_stop] for slab in plan.slabs],
        "n_tasks": len(plan.tasks),
        "cost": dataclasses.asdict(plan.cost),
        "expected_seconds": expected_seconds(plan, cores),
        "cores": cores,
        "notes": list(plan.notes),
    }
