# SPDX-License-Identifier: Apache-2.0
"""``conepacs plan``: what a reconstruction costs, before anything runs."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Annotated

import typer

from cli.archive import open_existing_store
from cli.options import JsonOption, StoreOption
from cli.output import mebibytes, print_json, print_pairs
from cli.requests import (
    BackendOption,
    BandOption,
    BinsOption,
    CenterOption,
    CutoffOption,
    FieldOption,
    FilterOption,
    MemoryOption,
    ModeOption,
    RangeOption,
    RequestOptions,
    RunOption,
    ShapeOption,
    SlabsOption,
    VoxelOption,
)
from cli.settings import StoreSettings, load

if TYPE_CHECKING:
    from spark_jobs.plan import ReconstructionPlan

ScansArgument = Annotated[list[str], typer.Argument(help="Ids of stored scans.", metavar="SCAN_ID")]


def plan(
    scan_ids: ScansArgument,
    store: StoreOption = None,
    bins: BinsOption = None,
    voxel: VoxelOption = None,
    shape: ShapeOption = None,
    center: CenterOption = None,
    field_radius: FieldOption = None,
    window: FilterOption = "ram-lak",
    cutoff: CutoffOption = 1.0,
    backend: BackendOption = "numba",
    mode: ModeOption = "auto",
    band_type: BandOption = "float32",
    slabs: SlabsOption = None,
    mu_range: RangeOption = None,
    task_memory: MemoryOption = "2GiB",
    run_id: RunOption = "",
    cores: Annotated[
        int | None,
        typer.Option("--cores", help="Cores to expect the time for.", metavar="N", show_default="all here", min=1),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print what a reconstruction would do and cost: nothing is computed.

    Takes the same options as reconstruct.  Memory is that of the largest task; the amplification says how often
    detector rows are read because slabs overlap on the panel (cone angle).

        conepacs plan stone
        conepacs plan stone --voxel 0.05 --task-memory 4GiB
        conepacs plan stone --bin 0 --shape 1,512,512 --mode fused
    """
    from ingest.chunks import open_scan_chunks
    from spark_jobs.plan import make_plan

    options = RequestOptions(
        bins, voxel, shape, center, field_radius, window, cutoff, backend, mode, band_type, slabs, mu_range,
        task_memory, run_id,
    )  # fmt: skip
    requests = [options.request(scan_id) for scan_id in scan_ids]
    opened = open_existing_store(load(StoreSettings, store=store).store)
    plans = [make_plan(open_scan_chunks(opened, request.scan_id), request) for request in requests]
    n_cores = cores or os.cpu_count() or 1
    if as_json:
        print_json([plan_json(made, n_cores) for made in plans])
        return
    for made in plans:
        print_plan(made, n_cores)


def expected_seconds(made: ReconstructionPlan, cores: int) -> float:
    """Return the expected wall seconds on a number of cores, Spark's start not counted."""
    return made.cost.core_seconds / min(cores, max(1, len(made.tasks)))


def plan_json(made: ReconstructionPlan, cores: int) -> dict[str, object]:
    """Return a plan's figures as JSON values."""
    return {
        "scan_id": made.request.scan_id,
        "run": made.run_name,
        "bins": list(made.bins),
        "shape_zyx": list(made.grid.shape),
        "voxel_pitch_mm": list(made.grid.voxel_pitch_mm),
        "center_mm": list(made.grid.center_mm),
        "field_radius_mm": made.radius_mm,
        "backend": made.backend,
        "mode": "two_stage" if made.two_stage else "fused",
        "four_fold": made.four_fold,
        "slabs": [[slab.z_start, slab.z_stop] for slab in made.slabs],
        "cost": dataclasses.asdict(made.cost),
        "expected_seconds": expected_seconds(made, cores),
        "cores": cores,
        "notes": list(made.notes),
    }


def print_plan(made: ReconstructionPlan, cores: int) -> None:
    """Print a plan for people."""
    nz, ny, nx = made.grid.shape
    cost = made.cost
    heights = sorted({slab.n_slices for slab in made.slabs}, reverse=True)
    rows = [
        ("volume", f"{nx} x {ny} x {nz} voxels of {made.grid.voxel_pitch_mm[1]:.5g} mm, field radius "
                   f"{made.radius_mm:.4g} mm, {len(made.bins)} bin(s)"),
        ("filter", f"{made.request.fdk.filter_window}, cut-off {made.request.fdk.cutoff:g}"),
        ("back end", f"{made.backend}, {'four-fold' if made.four_fold else 'one view at a time'}"),
        ("mode", "two stages: filtered rows are stored once" if made.two_stage else "fused: slabs filter as they read"),
        ("slabs", f"{len(made.slabs)} of {' or '.join(map(str, heights))} slices; {cost.n_tasks} tasks"),
        ("memory per task", f"{mebibytes(cost.task_bytes)} (allowed {mebibytes(made.request.task_memory_bytes)})"),
        ("read", f"{mebibytes(cost.stored_read_bytes)} stored = {mebibytes(cost.read_bytes)} of pixels, in "
                 f"{cost.ranged_reads} ranged reads"),
        ("written between", mebibytes(cost.band_bytes)),
        ("amplification", f"{cost.amplification:.2f}"),
        ("voxel updates", f"{cost.updates / 1e9:.3g} G"),
        ("expected time", f"{expected_seconds(made, cores):.0f} s on {cores} core(s), after Spark's start"),
        *(("note", note) for note in made.notes),
    ]  # fmt: skip
    print_pairs(f"plan for {made.request.scan_id} (run {made.run_name})", rows)
