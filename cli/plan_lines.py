# SPDX-License-Identifier: Apache-2.0
"""How a plan's stages, and the ways that it was chosen from, are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.output import mebibytes

if TYPE_CHECKING:
    from spark_jobs.planning.cost import StageCost, WayCost
    from spark_jobs.planning.plan import ReconstructionPlan


def cut_line(made: ReconstructionPlan) -> str:
    """How the volume is cut."""
    heights = sorted({slab.n_slices for slab in made.slabs}, reverse=True)
    slabs = f"{len(made.slabs)} of {' or '.join(map(str, heights))} slices; {made.cost.n_tasks} tasks"
    if made.bricks is None:
        return slabs
    n_y, n_x = max(area.shape for area in made.bricks.areas)
    return f"{slabs}; each slab of {len(made.bricks.areas)} bricks of up to {n_x} x {n_y} voxels a slice"


def method_row(made: ReconstructionPlan) -> tuple[str, str]:
    """The filter of FDK, or the iterative method."""
    iterative = made.request.iterative
    if iterative is None:
        return "filter", f"{made.request.fdk.filter_window}, cut-off {made.request.fdk.cutoff:g}"
    strength = f", total variation x {iterative.tv_strength:g}" if iterative.method == "tv" else ""
    return "method", f"{iterative.method}, {iterative.passes} passes{strength}"


def gpu_rows(made: ReconstructionPlan) -> list[tuple[str, str]]:
    """What the largest task takes of a GPU, where the plan knows how much memory it has."""
    memory = made.request.gpu_memory_bytes
    if memory is None or not made.cost.gpu_bytes:
        return []
    return [("GPU memory per task", f"{mebibytes(made.cost.gpu_bytes)} (it has {mebibytes(memory)})")]


def cost_rows(made: ReconstructionPlan) -> list[tuple[str, str]]:
    """What each stage reads and writes at the store, and why the work is cut as it is."""
    cost = made.cost
    rows = [(f"stage {stage.name}", _stage_line(stage)) for stage in cost.stages]
    rows += [("chosen" if way is cost.ways[0] else "instead of", _way_line(way)) for way in cost.ways]
    rows.append(("because", cost.why))
    rows.append(("row groups", f"each read {cost.row_group_amplification:.2f} times"))
    rows.append(("rates", cost.rates))
    return rows


def _stage_line(stage: StageCost) -> str:
    return (
        f"{stage.n_tasks} tasks of {mebibytes(stage.task_bytes)}; reads {mebibytes(stage.read_bytes)} in "
        f"{stage.reads}, writes {mebibytes(stage.written_bytes)}; {stage.core_seconds:.0f} core s"
    )


def _way_line(way: WayCost) -> str:
    return (
        f"{way.name} of {' x '.join(map(str, reversed(way.piece_zyx)))} voxels: {way.n_tasks} tasks of "
        f"{mebibytes(way.task_bytes)}, reads {mebibytes(way.read_bytes)} in {way.reads}, writes "
        f"{mebibytes(way.written_bytes)}, amplification {way.amplification:.2f}, {way.core_seconds:.0f} core s"
    )
