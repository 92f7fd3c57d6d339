# SPDX-License-Identifier: Apache-2.0
"""``conepacs plan --cluster``: what a plan comes to on a cluster that need not be here, and what to do instead."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from cli.output import mebibytes, print_json, print_pairs, print_table
from cli.plan_lines import gpu_rows
from spark_jobs.simulation.assessment import assess, job_of_plan
from spark_jobs.simulation.cluster import read_cluster
from spark_jobs.simulation.errors import DoesNotFitError
from spark_jobs.simulation.proposals import cluster_gpu_memory, cluster_task_memory, propose

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.chunks import StoredScan
    from spark_jobs.planning.request import ReconstructionRequest
    from spark_jobs.simulation.assessment import Assessment
    from spark_jobs.simulation.cluster import Cluster
    from spark_jobs.simulation.proposals import Candidate, Proposal


def plan_for_cluster(
    scans: list[StoredScan],
    requests: list[ReconstructionRequest],
    cluster_file: Path,
    *,
    own_memory: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Assess each request on a cluster and print it.

    Parameters
    ----------
    own_memory : the requests name the memory of a task; else it is what the cluster has for each core or GPU.

    Raises
    ------
    DescriptionError
        If the cluster's file cannot be used.
    DoesNotFitError
        If neither what was asked for nor any alternative fits the cluster.
    """
    cluster = read_cluster(cluster_file)
    found = []
    for scan, request in zip(scans, requests, strict=True):
        wanted = request if own_memory else replace(request, task_memory_bytes=cluster_task_memory(cluster))
        if wanted.gpu_memory_bytes is None:
            wanted = replace(wanted, gpu_memory_bytes=cluster_gpu_memory(cluster))
        proposal = propose(scan, wanted, cluster)
        if proposal.best is None:
            raise DoesNotFitError(proposal.asked.refusal)
        shown = proposal.asked if proposal.asked.assessment else proposal.best
        assert shown.plan is not None
        figures = assess(job_of_plan(shown.plan, scan), cluster, seed=seed)
        if as_json:
            found.append(_as_json(proposal, shown, figures, cluster))
            continue
        _print(proposal, shown, figures, cluster)
    if as_json:
        print_json(found)


def _as_json(proposal: Proposal, shown: Candidate, figures: Assessment, cluster: Cluster) -> dict[str, Any]:
    """All figures as JSON values."""
    assert shown.plan is not None
    assert proposal.best is not None
    return {
        "scan_id": shown.request.scan_id,
        "cluster": cluster.name,
        "nodes": cluster.n_nodes,
        "shown": shown.change,
        "refusal": proposal.asked.refusal,
        "shape_zyx": list(shown.plan.grid.shape),
        "mode": shown.mode,
        "slabs": len(shown.plan.slabs),
        "amplification": shown.plan.cost.amplification,
        "gpu_bytes": shown.plan.cost.gpu_bytes,
        **figures.to_json(),
        "currency": cluster.currency,
        "best": proposal.best.change,
        "alternatives": [candidate.to_json() for candidate in proposal.all],
        "rates": {
            field.name: {"value": rate.value, "basis": rate.basis, "source": rate.source}
            for field in fields(cluster.rates)
            for rate in [getattr(cluster.rates, field.name)]
        },
        "notes": list(shown.plan.notes),
    }


def _print(proposal: Proposal, shown: Candidate, figures: Assessment, cluster: Cluster) -> None:
    """Print for people: the figures, the stages, the alternatives."""
    plan = shown.plan
    assert plan is not None
    nz, ny, nx = plan.grid.shape
    rows = []
    if proposal.asked.refusal:
        rows.append(("does not fit", f"{proposal.asked.refusal}; shown is: {shown.change}"))
    troubled = f"; {duration(figures.troubled_seconds)} with uneven tasks and slow nodes"
    lost = f", {duration(figures.lost_node_seconds)} with a node lost as well" if figures.lost_node_seconds else ""
    heights = sorted({slab.n_slices for slab in plan.slabs}, reverse=True)
    rows += [
        ("volume", f"{nx} x {ny} x {nz} voxels of {plan.grid.voxel_pitch_mm[1]:.5g} mm, {len(plan.bins)} bin(s)"),
        ("mode", shown.mode),
        ("slabs", f"{len(plan.slabs)} of {' or '.join(map(str, heights))} slices; amplification "
                  f"{plan.cost.amplification:.2f}"),
        ("memory per task", f"{mebibytes(figures.task_bytes)}; {' or '.join(map(str, figures.tasks_per_node))} tasks "
                            f"per node, {figures.task_cores} core(s) each"),
        *gpu_rows(plan),
        ("voxel updates", f"{plan.cost.updates / 1e9:.3g} G"),
        ("through disks", mebibytes(figures.disk_bytes)),
        ("between nodes", mebibytes(figures.network_bytes)),
        ("expected time", f"{duration(figures.seconds)}{troubled}{lost}"),
        ("limited by", figures.limit),
        ("price", f"{figures.price:.2f} {cluster.currency}" if cluster.price_per_hour else "no price is given"),
        *(("note", note) for note in plan.notes),
        *(("assumed", text) for text in _assumed(cluster)),
    ]  # fmt: skip
    print_pairs(f"plan for {shown.request.scan_id} on {cluster.name} ({cluster.n_nodes} nodes)", rows)
    print_table(
        "stages", ["stage", "tasks", "read", "written", "time", "limited by"],
        [
            [stage.name, str(stage.n_tasks or ""), mebibytes(stage.read_bytes), mebibytes(stage.written_bytes),
             duration(stage.seconds), stage.limit]
            for stage in figures.stages
        ],
    )  # fmt: skip
    print_table(
        "alternatives", ["", "way", "mode", "slabs", "voxel", "amplification", "tasks/node", "time", "price", "limit"],
        [_row(candidate, is_best=candidate is proposal.best) for candidate in proposal.all],
    )  # fmt: skip
    for candidate in proposal.others:
        if candidate.refusal:
            print(f"{candidate.change}: {candidate.refusal}")
    print(_advice(proposal))


def _row(candidate: Candidate, *, is_best: bool) -> list[str]:
    """One line of the table of alternatives."""
    figures, plan = candidate.assessment, candidate.plan
    if figures is None or plan is None:
        return ["", candidate.change, candidate.mode, "", "", "", "", "does not fit", "", ""]
    return [
        "*" if is_best else "", candidate.change, candidate.mode, str(candidate.slab_slices),
        f"{plan.grid.voxel_pitch_mm[1]:.4g}", f"{plan.cost.amplification:.2f}",
        " ".join(map(str, figures.tasks_per_node)), duration(figures.seconds), f"{figures.price:.2f}", figures.limit,
    ]  # fmt: skip


def _advice(proposal: Proposal) -> str:
    """The proposal as options of the command line."""
    best = proposal.best
    assert best is not None
    assert best.plan is not None
    if best is proposal.asked:
        return "proposal: as asked"
    request, asked = best.request, proposal.asked.request
    options = [f"--mode {'two_stage' if best.plan.two_stage else 'fused'}"]
    if best.plan.two_stage:
        options.append(f"--band-type {request.band_type}")
    if best.plan.bricks is None:  # their size is the plan's own
        options.append(f"--slabs {len(best.plan.slabs)}")
    if request.voxel_pitch_mm != asked.voxel_pitch_mm and request.voxel_pitch_mm is not None:
        options.append(f"--voxel {request.voxel_pitch_mm:.6g}")
    if request.shape != asked.shape and request.shape is not None:
        options.append(f"--shape {','.join(map(str, request.shape))}")
        options.append(f"--field-radius {best.plan.radius_mm:.6g}")
    options.append(f"--task-memory {request.task_memory_bytes >> 20}MiB")
    return f"proposal: {best.change}: {' '.join(options)}"


def _assumed(cluster: Cluster) -> list[str]:
    """The rates that nobody has measured, as far as they matter here."""
    texts = []
    for field in fields(cluster.rates):
        rate = getattr(cluster.rates, field.name)
        if rate.basis == "assumed" and (cluster.has_gpus or not field.name.startswith("gpu")):
            texts.append(f"{field.name} = {rate.value:g} ({rate.source})")
    return texts


def duration(seconds: float) -> str:
    """Write a time for people."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
