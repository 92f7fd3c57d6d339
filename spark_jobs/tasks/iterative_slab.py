# SPDX-License-Identifier: Apache-2.0
"""One slab of one bin by an iterative method: rows of slab and halo are read, corrected and iterated on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.binning import binned_geometry
from reconstruction.iterative.projectors import open_pair
from reconstruction.iterative.scale import needs_middle, scale_region, schedule_of
from reconstruction.iterative.solver import solve
from spark_jobs.planning.iterative_plan import slab_region
from spark_jobs.planning.plan_record import geometry_of
from spark_jobs.tasks.corrected_rows import RowCorrector, read_mask
from spark_jobs.tasks.prepare_task import mask_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.iterative.region import Region
    from reconstruction.slabs import RowBand
    from spark_jobs.tasks.workers import OpenRun


def iterate_slab(run: OpenRun, bin_index: int, slab_index: int) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Iterate on one slab.

    Returns
    -------
    (z, y, x) float32, and figures: bytes read, values raised to the floor, updates, residuals
        mu [1/mm] of the slab; the request's value outside the field.
    """
    plan, parameters = run.plan, run.plan.request.iterative
    assert parameters is not None
    geometry = binned_geometry(geometry_of(run.stored), plan.detector_binning)
    region = slab_region(geometry, plan.grid, plan.slabs[slab_index], plan.radius_mm, parameters)
    threads = run.place.threads
    weight = 0.0
    read_bytes = 0
    if needs_middle(parameters):
        # Of the same rows in every slab: all take the same weight and passes.
        middle = scale_region(geometry, plan.grid, plan.radius_mm)
        lines, corrector = _read_lines(run, bin_index, middle)
        schedule = schedule_of(middle, lines, parameters, plan.backend, threads=threads)
        parameters, weight = schedule.parameters, schedule.tv_weight
        read_bytes += corrector.read_bytes
        del lines
    lines, corrector = _read_lines(run, bin_index, region)
    pair = open_pair(plan.backend, geometry, region.grid, region.band, threads=threads)
    solution = solve(pair, region, lines, parameters, tv_weight=weight)
    return region.crop(solution.volume, plan.request.fdk.outside_value), {
        "read_bytes": read_bytes + corrector.read_bytes,
        "floored": asdict(corrector.floored),
        "updates": 2 * parameters.passes * region.grid.n_voxels * geometry.n_views,
        "residuals": [float(f"{residual:.6g}") for residual in solution.residuals],
        "tv_weight": weight,
    }


def _read_lines(run: OpenRun, bin_index: int, region: Region) -> tuple[NDArray[np.float32], RowCorrector]:
    """Line integrals (view, col, row) of a region's band of all views, read a view block at a time."""
    band = region.band
    corrector = _corrector(run, bin_index, band)
    geometry = region.geometry
    lines = np.empty((geometry.n_views, geometry.n_cols, band.n_rows), dtype=np.float32)
    for block, (start, stop) in enumerate(run.stored.view_blocks):
        corrected, views = corrector.line_integrals([corrector.read_block(block)], 0, stop - start)
        lines[views] = corrected.transpose(0, 2, 1)
    return lines, corrector


def _corrector(run: OpenRun, bin_index: int, band: RowBand) -> RowCorrector:
    """What reads and corrects the rows of a band."""
    mask = read_mask(run.store, mask_path(run.place.folder, bin_index))
    return RowCorrector(
        run.stored, bin_index, mask, run.plan.request.correction, band.row_start, band.row_stop,
        binning=run.plan.detector_binning, folder=run.place.own_folder,
    )  # fmt: skip
