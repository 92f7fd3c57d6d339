# SPDX-License-Identifier: Apache-2.0
"""``conepacs plan``: what a reconstruction costs, before anything runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.archive import open_existing_store
from cli.bundles import takes
from cli.options import JsonOption, StoreOption
from cli.output import mebibytes, print_json, print_pairs
from cli.plan_lines import cost_rows, cut_line, gpu_rows, method_row
from cli.requests import ProbeOption, RequestOptions
from cli.settings import StoreSettings, load

if TYPE_CHECKING:
    from ingest.chunks import StoredScan
    from spark_jobs.planning.plan import ReconstructionPlan

ScansArgument = Annotated[
    list[str] | None, typer.Argument(help="Ids of stored scans.", metavar="SCAN_ID", show_default=False)
]
_CLUSTER = "A cluster that need not be here"
DescribedOption = Annotated[
    list[str] | None,
    typer.Option("--scan", help="A scan that is not stored: a .toml file, or stone, artery, thorax-360, thorax-720, "
                 "body; repeatable.", metavar="NAME", rich_help_panel=_CLUSTER),
]  # fmt: skip
ClusterOption = Annotated[
    Path | None,
    typer.Option("--cluster", help="Description of a cluster: say what the plan comes to there, and propose better "
                 "ones.  conf/clusters has examples.", metavar="FILE", rich_help_panel=_CLUSTER),
]  # fmt: skip
SeedOption = Annotated[
    int,
    typer.Option("--seed", help="Of what is random in the simulation.", metavar="N", min=0, rich_help_panel=_CLUSTER),
]


@takes(options=RequestOptions)
def plan(
    context: typer.Context,
    options: RequestOptions,
    scan_ids: ScansArgument = None,
    described: DescribedOption = None,
    cluster: ClusterOption = None,
    store: StoreOption = None,
    probe: ProbeOption = False,
    cores: Annotated[
        int | None,
        typer.Option("--cores", help="Cores to expect the time for.", metavar="N", show_default="all here", min=1),
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Print what a reconstruction would do and cost: nothing is computed.

    Takes the same options as reconstruct.  Memory is that of the largest task; the amplification says how often
    detector rows are read because slabs overlap on the panel (cone angle).

    With --cluster it says what comes of the plan on a cluster that need not be here: tasks, bytes, time, what limits
    each stage, price, and which slabs, precision or region to take instead.  With --scan the scan need not be stored.

        conepacs plan stone
        conepacs plan stone --voxel 0.05 --task-memory 4GiB
        conepacs plan stone --bin 0 --shape 1,512,512 --mode fused
        conepacs plan --scan thorax-720 --cluster conf/clusters/cloud-32.toml
    """
    from spark_jobs.planning.plan import make_plan
    from spark_jobs.planning.plan_figures import plan_figures

    for scan_id in scan_ids or []:
        options.request(scan_id)  # a wrong option is told before any store is looked for
    scans = [*_stored_scans(scan_ids or [], store), *_described_scans(described or [])]
    if not scans:
        raise typer.BadParameter("give the id of a stored scan, or --scan and a described one")
    requests = [options.request(scan.scan.scan_id) for scan in scans]
    if cluster is not None:
        from cli.plan_cluster import plan_for_cluster

        source = context.get_parameter_source("task_memory")
        chosen = source is not None and not source.name.startswith("DEFAULT")
        plan_for_cluster(scans, requests, cluster, own_memory=chosen, seed=seed, as_json=as_json)
        return
    if probe:
        from spark_jobs.running.tune_scan import tune_scan

        if not scan_ids:
            raise typer.BadParameter("--probe reads a stored scan: give its id")
        tune_scan(scans[0].store, requests[0], name=options.tuning)
    plans = [make_plan(scan, request) for scan, request in zip(scans, requests, strict=True)]
    n_cores = cores or os.cpu_count() or 1
    if as_json:
        print_json([plan_figures(made, n_cores) for made in plans])
        return
    for made in plans:
        print_plan(made, n_cores)


def _stored_scans(scan_ids: list[str], store: str | None) -> list[StoredScan]:
    """Open scans of the store; it is not looked for where none is asked for."""
    from ingest.chunks import open_scan_chunks

    if not scan_ids:
        return []
    opened = open_existing_store(load(StoreSettings, store=store).store)
    return [open_scan_chunks(opened, scan_id) for scan_id in scan_ids]


def _described_scans(names: list[str]) -> list[StoredScan]:
    from spark_jobs.simulation.scans import described_scan, scan_size

    return [described_scan(scan_size(name)) for name in names]


def _sides(made: ReconstructionPlan) -> str:
    """Side of a cubic voxel, or its sides in x, y and z."""
    z, y, x = made.grid.voxel_pitch_mm
    return f"{y:.5g}" if x == y == z else f"{x:.5g} x {y:.5g} x {z:.5g}"


def print_plan(made: ReconstructionPlan, cores: int) -> None:
    """Print a plan for people."""
    from spark_jobs.planning.plan_figures import expected_seconds

    nz, ny, nx = made.grid.shape
    cost = made.cost
    rows = [
        ("volume", f"{nx} x {ny} x {nz} voxels of {_sides(made)} mm, field radius "
                   f"{made.radius_mm:.4g} mm, {len(made.bins)} bin(s)"),
        method_row(made),
        ("back end", f"{made.backend}, kernel {made.kernel}"),
        *(("path", sentence) for sentence in made.path),
        ("mode", "two stages: filtered rows are stored once" if made.two_stage else "fused: slabs filter as they read"),
        ("slabs", cut_line(made)),
        ("memory per task", f"{mebibytes(cost.task_bytes)} (allowed {mebibytes(made.request.task_memory_bytes)})"),
        *gpu_rows(made),
        ("read", f"{mebibytes(cost.stored_read_bytes)} stored = {mebibytes(cost.read_bytes)} of pixels, in "
                 f"{cost.ranged_reads} ranged reads"),
        ("written between", mebibytes(cost.band_bytes)),
        ("amplification", f"{cost.amplification:.2f}"),
        ("voxel updates", f"{cost.updates / 1e9:.3g} G"),
        *cost_rows(made),
        ("expected time", f"{expected_seconds(made, cores):.0f} s on {cores} core(s), after Spark's start"),
        *(("note", note) for note in made.notes),
    ]  # fmt: skip
    print_pairs(f"plan for {made.request.scan_id} (run {made.run_name})", rows)
