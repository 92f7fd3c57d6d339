# SPDX-License-Identifier: Apache-2.0
"""The plan of a reconstruction: everything decided before a pixel of the job is read.

A plan fixes slabs, view batches, back end (with its instruction set), stored range and dates, so that every task, retry
and rerun of it makes the same bytes.  It is kept at ``runs/<run>/plan.json`` and read by the tasks.  ``plan_record`` is
its value, ``sizing`` and ``brick_sizing`` cut the volume, ``ways`` chooses, ``stage_costs`` adds up what it costs.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pacs.preview import preview_factor
from reconstruction.backends import load_backend
from reconstruction.binning import binned_geometry
from reconstruction.coverage import (
    check_full_turn,
    check_reconstructable,
    default_grid,
    field_radius_mm,
    uncovered_slices,
)
from reconstruction.fdk import SlabSetup, prepare
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from spark_jobs.errors import PlanError
from spark_jobs.planning.coarse_voxels import binning_notes, fitting_binning
from spark_jobs.planning.few_views import few_views_note
from spark_jobs.planning.plan_record import ReconstructionPlan, geometry_of, plan_from_bytes, working_geometry
from spark_jobs.planning.sizing import Sizing, slab_alignment
from spark_jobs.planning.tuning import load_rates
from spark_jobs.planning.ways import choose_way, exact_cost

if TYPE_CHECKING:
    from ingest.chunks import StoredScan
    from spark_jobs.planning.rates import Rates
    from spark_jobs.planning.request import ReconstructionRequest

__all__ = ["ReconstructionPlan", "geometry_of", "make_plan", "plan_from_bytes", "slab_alignment", "working_geometry"]


def make_plan(stored: StoredScan, request: ReconstructionRequest, rates: Rates | None = None) -> ReconstructionPlan:
    """Decide everything about a run from the manifest and the request; no pixel is read.

    Parameters
    ----------
    stored, request
        What is reconstructed, and how.
    rates : Rates, optional
        What the expected time, and the choice between ways to cut the work, go by; those of the request's tuning.

    Raises
    ------
    PlanError, GeometryError, BackendUnavailableError, MemoryBudgetError
        If it cannot be done: the message says what was got, and what is possible.
    """
    bins = _bins(stored, request)
    rates = load_rates(stored.store, request.tuning) if rates is None else rates
    backend = load_backend(request.backend).name
    check_full_turn(geometry_of(stored))  # before the grid: of too few views the arc is what matters
    grid, binning = _grid_and_binning(geometry_of(stored), request)
    geometry = binned_geometry(geometry_of(stored), binning)
    radius = field_radius_mm(grid, request.fdk.field_radius_mm)
    check_reconstructable(geometry, grid, radius)
    # The reference adds view by view, whatever the symmetry.
    four_fold = request.four_fold and backend != "numpy_reference"
    setup = prepare(geometry, grid, request.fdk, four_fold=four_fold)
    batches, aligned = _batches(stored, setup)
    if not aligned:
        setup = prepare(geometry, grid, request.fdk, four_fold=False)
    sizing = Sizing(stored, request, bins, backend, geometry_of(stored), binning, len(batches[0]), rates)
    choice = choose_way(sizing, setup)
    work = choice.work
    draft = ReconstructionPlan(
        request=request,
        scan_sha256=stored.manifest_sha256,
        bins=bins,
        grid=grid,
        radius_mm=radius,
        backend=backend,
        two_stage=work.two_stage,
        four_fold=work.setups[0].quarter is not None,
        slabs=tuple(part.slab for part in work.setups),
        rows=work.rows,
        batches=batches if work.bricks is None else tuple((block,) for block in range(stored.n_view_blocks)),
        batch_views=choice.batch_views,
        filter_rows=work.filter_rows,
        preview_factor=preview_factor(grid.shape),
        cost=choice.cost,
        notes=(
            *_notes(stored, geometry, grid, radius, setup, request),
            *binning_notes(geometry_of(stored), grid, binning),
        ),
        bricks=work.bricks,
        detector_binning=binning,
        encode_slices=work.slices,
    )
    return dataclasses.replace(draft, cost=exact_cost(stored, draft, choice, rates))


def _bins(stored: StoredScan, request: ReconstructionRequest) -> tuple[int, ...]:
    """The energy bins to make."""
    scan = stored.scan
    geometry_of(stored)
    if scan.content == "counts" and scan.flats is None:
        raise PlanError(f"scan {scan.scan_id} holds raw counts and needs flat fields, but has none")
    unknown = [b for b in request.bins if not 0 <= b < len(scan.bins)]
    if unknown:
        raise PlanError(f"scan {scan.scan_id} has the bins 0 to {len(scan.bins) - 1}, asked for bin {unknown[0]}")
    return tuple(request.bins or (energy_bin.index for energy_bin in scan.bins))


def _grid_and_binning(geometry: ConeBeamGeometry, request: ReconstructionRequest) -> tuple[VolumeGrid, int]:
    """The volume, and how many pixels of a side are averaged."""
    pixel = geometry.pitch_mm[1] * geometry.sod_mm / geometry.sdd_mm
    binning = request.detector_binning
    if binning == "auto":
        binning = fitting_binning(request.voxel_pitch_mm or pixel, pixel)
    return _grid(binned_geometry(geometry, binning), request), binning


def _grid(geometry: ConeBeamGeometry, request: ReconstructionRequest) -> VolumeGrid:
    """The volume as asked for, or the largest that the panel sees whole."""
    if request.shape is None:
        grid = default_grid(geometry, request.voxel_pitch_mm)
        return grid if request.center_mm is None else VolumeGrid(grid.shape, grid.voxel_pitch_mm, request.center_mm)
    pitch = request.voxel_pitch_mm or geometry.pitch_mm[1] * geometry.sod_mm / geometry.sdd_mm
    center = request.center_mm or (0.0, 0.0, float(geometry.poses[:, 2].mean()))
    return VolumeGrid(request.shape, (pitch, pitch, pitch), center)


def _batches(stored: StoredScan, setup: SlabSetup) -> tuple[tuple[tuple[int, ...], ...], bool]:
    """View blocks to read together; whether they line up with the quarter turns (true without four-fold symmetry)."""
    n_blocks, size, n_views = stored.n_view_blocks, stored.layout.view_block, setup.geometry.n_views
    single = tuple((index,) for index in range(n_blocks))
    if setup.quarter is None:
        return single, True
    if (n_views // 4) % size:
        return single, False
    per_quarter = n_blocks // 4
    return tuple(
        tuple((block * size + j * setup.quarter) % n_views // size for j in range(4)) for block in range(per_quarter)
    ), True


def _notes(
    stored: StoredScan,
    geometry: ConeBeamGeometry,
    grid: VolumeGrid,
    radius_mm: float,
    setup: SlabSetup,
    request: ReconstructionRequest,
) -> tuple[str, ...]:
    """What an operator should know before the job runs."""
    notes = list(stored.scan.notes)
    cut_off = uncovered_slices(geometry, grid, radius_mm)
    if cut_off:
        notes.append(
            f"{cut_off} of {grid.shape[0]} slices have voxels that some views do not see (cone angle): "
            f"mu is too low there"
        )
    few = few_views_note(geometry.n_views, radius_mm, grid.voxel_pitch_mm[1])
    if few:
        notes.append(few)
    if geometry.circular_orbit is None:
        notes.append(
            "the poses are not one circle with an upright panel: the kernel for any pose runs, and it is slower"
        )
    elif request.four_fold and setup.quarter is None:
        notes.append("no four-fold symmetry (views, grid or stored blocks): the kernel for any circular orbit runs")
    return tuple(notes)
