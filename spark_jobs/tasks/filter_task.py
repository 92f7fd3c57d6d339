# SPDX-License-Identifier: Apache-2.0
"""Task of the filter stage (two-stage plans): some rows of one view block, corrected, filtered and stored."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from reconstruction.backends import load_backend
from spark_jobs.planning.plan import working_geometry
from spark_jobs.run_files.bands import BandFile, band_path, write_band
from spark_jobs.tasks.corrected_rows import RowCorrector, read_mask
from spark_jobs.tasks.prepare_task import mask_path
from spark_jobs.tasks.workers import open_run

if TYPE_CHECKING:
    from spark_jobs.planning.plan import ReconstructionPlan
    from spark_jobs.tasks.workers import OpenRun, RunPlace


def filter_tasks(plan: ReconstructionPlan, n_blocks: int) -> list[tuple[int, int, int]]:
    """(bin, view block, first row) of each filter task."""
    starts = range(*plan.rows, plan.filter_rows)
    return [(b, block, row) for b in plan.bins for block in range(n_blocks) for row in starts]


def band_file(run: OpenRun, bin_index: int, block: int, row: int, n_cols: int) -> BandFile:
    """Return where one run of filtered rows lies."""
    start, stop = run.stored.view_blocks[block]
    return BandFile(
        path=band_path(run.place.bands_stem, bin_index, block, row),
        row_start=row,
        row_stop=min(row + run.plan.filter_rows, run.plan.rows[1]),
        n_views=stop - start,
        n_cols=n_cols,
        dtype=run.plan.request.band_type,
        tile_cols=0 if run.plan.bricks is None else run.plan.bricks.tile_cols,
    )


def filter_rows(place: RunPlace, task: int) -> dict[str, Any]:
    """Task of the filter stage: correct and filter a run of rows of one view block, and publish it."""
    run = open_run(place)
    plan = run.plan
    bin_index, block, row = filter_tasks(plan, run.stored.n_view_blocks)[task]
    setup = plan.setup(working_geometry(run.stored, plan), 0)
    band = band_file(run, bin_index, block, row, setup.ramp.n_out)
    mask = read_mask(run.store, mask_path(place.folder, bin_index))
    corrector = RowCorrector(
        run.stored, bin_index, mask, plan.request.correction, band.row_start, band.row_stop,
        binning=plan.detector_binning, folder=run.place.own_folder,
    )  # fmt: skip
    raw = corrector.read_block(block)
    lines, views = corrector.line_integrals([raw], 0, band.n_views)
    filtered = load_backend(plan.backend).filter_rows(
        setup, lines, views, row_start=band.row_start, threads=place.threads
    )
    with run.publishing():
        written = write_band(run.store, band, filtered)
    figures = {"written_bytes": written, "read_bytes": corrector.read_bytes, "floored": asdict(corrector.floored)}
    return figures | run.store_counts()
