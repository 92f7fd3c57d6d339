# SPDX-License-Identifier: Apache-2.0
"""Task of the filter stage (two-stage plans): some rows of one group of views, corrected, filtered and stored."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.backends import load_backend
from reconstruction.slabs import RowBand
from spark_jobs.planning.plan import working_geometry
from spark_jobs.planning.task_memory import filter_batch
from spark_jobs.planning.view_groups import frame_rows
from spark_jobs.run_files.bands import BandFile, band_path, write_band
from spark_jobs.tasks.corrected_rows import RowCorrector, read_mask
from spark_jobs.tasks.prepare_task import mask_path
from spark_jobs.tasks.view_lines import view_lines
from spark_jobs.tasks.workers import open_run

if TYPE_CHECKING:
    from spark_jobs.planning.plan import ReconstructionPlan
    from spark_jobs.tasks.workers import OpenRun, RunPlace


def filter_tasks(plan: ReconstructionPlan) -> list[tuple[int, int, int]]:
    """(bin, place of the group of views, first row) of each filter task."""
    starts = range(*plan.rows, plan.filter_rows)
    return [(b, place, row) for b in plan.bins for place in range(len(plan.groups)) for row in starts]


def band_file(run: OpenRun, bin_index: int, place: int, row: int, n_cols: int) -> BandFile:
    """Return where one run of filtered rows of a group of views lies."""
    return BandFile(
        path=band_path(run.place.bands_stem, bin_index, place, row),
        row_start=row,
        row_stop=min(row + run.plan.filter_rows, run.plan.rows[1]),
        n_views=run.plan.groups[place].n_views,
        n_cols=n_cols,
        dtype=run.plan.request.band_type,
        tile_cols=0 if run.plan.bricks is None else run.plan.bricks.tile_cols,
    )


def filter_rows(place: RunPlace, task: int) -> dict[str, Any]:
    """Task of the filter stage: correct and filter a run of rows of one group of views, and publish it."""
    run = open_run(place)
    plan = run.plan
    bin_index, place_of_group, row = filter_tasks(plan)[task]
    group = plan.groups[place_of_group]
    setup = plan.setup(working_geometry(run.stored, plan), 0)
    band = band_file(run, bin_index, place_of_group, row, setup.ramp.n_out)
    rows = RowBand(band.row_start, band.row_stop)
    views = np.arange(group.start, group.stop)
    mask = read_mask(run.store, mask_path(place.folder, bin_index))
    corrector = RowCorrector(
        run.stored, bin_index, mask, plan.request.correction, *frame_rows(setup, views, rows),
        binning=plan.detector_binning, folder=run.place.own_folder,
    )  # fmt: skip
    blocks = {block: corrector.read_block(block) for block in group.blocks}
    backend = load_backend(plan.backend)
    step = filter_batch(setup, group.n_views)
    filtered = np.empty((0, rows.n_rows, setup.ramp.n_out), dtype=np.float32)
    for first in range(0, group.n_views, step):
        some = views[first : first + step]
        lines = view_lines(setup, corrector, blocks, some, rows, backend=backend, threads=place.threads)
        part = backend.filter_rows(setup, lines, some, row_start=band.row_start, threads=place.threads)
        if step == group.n_views:
            filtered = part
            break
        if not first:
            filtered = np.empty((group.n_views, *part.shape[1:]), dtype=np.float32)
        filtered[first : first + step] = part
    with run.publishing():
        written = write_band(run.store, band, filtered)
    figures = {"written_bytes": written, "read_bytes": corrector.read_bytes, "floored": asdict(corrector.floored)}
    return figures | run.store_counts()
