# SPDX-License-Identifier: Apache-2.0
"""The plan of a reconstruction: everything decided before a pixel of the job is read.

A plan fixes slabs, view batches, back end (with its instruction set), stored range and dates, so that every task, retry
and rerun of it makes the same bytes.  It is kept at ``runs/<run>/plan.json`` and read by the tasks.  ``plan_record`` is
its value, ``sizing`` and ``brick_sizing`` cut the volume, ``ways`` chooses, ``stage_costs`` adds up what it costs.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from pacs.preview import preview_factor
from reconstruction.backends import load_backend
from reconstruction.binning import binned_geometry
from reconstruction.coverage import check_orbit, default_grid, field_radius_mm, uncovered_slices
from reconstruction.fdk import SlabSetup, prepare
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.orbits import find_orbits
from reconstruction.rectify import virtual_views
from spark_jobs.errors import PlanError
from spark_jobs.planning.coarse_voxels import binning_notes, fitting_binning
from spark_jobs.planning.few_views import few_views_note
from spark_jobs.planning.gpu_memory import on_gpu
from spark_jobs.planning.iterative_plan import iterative_plan
from spark_jobs.planning.plan_record import ReconstructionPlan, geometry_of, plan_from_bytes, working_geometry
from spark_jobs.planning.sizing import Sizing, slab_alignment
from spark_jobs.planning.tuning import load_rates
from spark_jobs.planning.view_groups import view_groups
from spark_jobs.planning.ways import choose_way, exact_cost

if TYPE_CHECKING:
    from ingest.chunks import StoredScan
    from spark_jobs.planning.rates import Rates
    from spark_jobs.planning.request import ReconstructionRequest
    from spark_jobs.planning.view_groups import ViewGroup

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
    if request.iterative is not None:
        return iterative_plan(stored, request, rates, make_plan)
    bins = planned_bins(stored, request)
    rates = load_rates(stored.store, request.tuning) if rates is None else rates
    backend = load_backend(request.backend).name
    grid, binning = planned_grid(stored, request)
    geometry = binned_geometry(geometry_of(stored), binning)
    radius = field_radius_mm(grid, request.fdk.field_radius_mm)
    # The reference adds view by view, whatever the symmetry.
    four_fold = request.four_fold and backend != "numpy_reference"
    setup = prepare(geometry, grid, request.fdk, four_fold=four_fold)
    if setup.quarter is not None and not _quarters_fit_blocks(stored, setup):
        setup = prepare(geometry, grid, request.fdk, four_fold=False)
    groups = view_groups(setup, stored.view_blocks)
    sizing = Sizing(
        stored, request, bins, backend, geometry_of(stored), binning, groups, _batches(groups, setup), rates
    )
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
        kernel=work.kernel,
        path=work.setups[0].describes(),
        slabs=tuple(part.slab for part in work.setups),
        rows=work.rows,
        groups=groups,
        batches=sizing.batches if work.bricks is None else tuple((place,) for place in range(len(groups))),
        batch_views=choice.batch_views,
        filter_rows=work.filter_rows,
        preview_factor=preview_factor(grid.shape),
        cost=choice.cost,
        notes=(
            *_notes(stored, grid, setup, request),
            *binning_notes(geometry_of(stored), grid, binning),
        ),
        bricks=work.bricks,
        detector_binning=binning,
        encode_slices=work.slices,
    )
    return dataclasses.replace(draft, cost=exact_cost(stored, draft, choice, rates))


def planned_bins(stored: StoredScan, request: ReconstructionRequest) -> tuple[int, ...]:
    """Return the energy bins that a request comes to.

    Raises
    ------
    PlanError
        If the scan has no such bin, no geometry, or raw counts without flat fields.
    """
    scan = stored.scan
    geometry_of(stored)
    if scan.content == "counts" and scan.flats is None:
        raise PlanError(
            f"scan {scan.scan_id} holds raw counts and needs flat fields, but has none: name them as [files] flats of "
            'its scan.toml, or say there what its frames are (content = "normalized" or "line_integrals"), and upload '
            "it again"
        )
    unknown = [b for b in request.bins if not 0 <= b < len(scan.bins)]
    if unknown:
        raise PlanError(f"scan {scan.scan_id} has the bins 0 to {len(scan.bins) - 1}, asked for bin {unknown[0]}")
    return tuple(request.bins or (energy_bin.index for energy_bin in scan.bins))


def planned_grid(stored: StoredScan, request: ReconstructionRequest) -> tuple[VolumeGrid, int]:
    """Return the volume that a request comes to, and how many pixels of a side are averaged."""
    geometry = geometry_of(stored)
    pixel = geometry.pitch_mm[1] * geometry.sod_mm / geometry.sdd_mm
    binning = request.detector_binning
    if binning == "auto":
        binning = fitting_binning(min(request.pitch_zyx_mm or (pixel,)), pixel)
    geometry = binned_geometry(geometry, binning)
    made = virtual_views(geometry, rectify=request.fdk.tilted == "rectify")
    geometry = geometry if made is None else made[0]
    check_orbit(geometry)  # before the grid: of too few views the arc is what matters
    return _grid(geometry, request), binning


def _grid(geometry: ConeBeamGeometry, request: ReconstructionRequest) -> VolumeGrid:
    """The volume as asked for, or the largest that the panel sees whole."""
    pitch = request.pitch_zyx_mm
    if request.shape is None:
        grid = default_grid(geometry, None if pitch is None else min(pitch))
        if pitch is not None and len(set(pitch)) > 1:
            grid = _other_pitch(grid, pitch)
        return grid if request.center_mm is None else VolumeGrid(grid.shape, grid.voxel_pitch_mm, request.center_mm)
    side = geometry.pitch_mm[1] * geometry.sod_mm / geometry.sdd_mm
    z = geometry.poses[:, 2]
    center = request.center_mm or (0.0, 0.0, float(z.min() + z.max()) / 2)
    return VolumeGrid(request.shape, pitch or (side, side, side), center)


def _other_pitch(grid: VolumeGrid, pitch_zyx_mm: tuple[float, float, float]) -> VolumeGrid:
    """The same place in voxels of another pitch: as many as fit, in y and x an even number."""
    size = [n * pitch for n, pitch in zip(grid.shape, grid.voxel_pitch_mm, strict=True)]
    n_z = max(1, math.floor(size[0] / pitch_zyx_mm[0] + 1e-6))
    n_y, n_x = (max(2, 2 * math.floor(size[i] / pitch_zyx_mm[i] / 2 + 1e-6)) for i in (1, 2))
    return VolumeGrid((n_z, n_y, n_x), pitch_zyx_mm, grid.center_mm)


def views_per_turn(geometry: ConeBeamGeometry) -> float:
    """Views from different directions: all views, over the turns and the circles that they make."""
    orbits = find_orbits(geometry)
    arcs = [track.runs[-1][1] - track.runs[0][0] if track.runs else 0.0 for track in orbits.tracks]
    turns = [max(1.0, arc / (2 * math.pi)) for arc in arcs]
    return float(geometry.n_views / sum(turns))


def _quarters_fit_blocks(stored: StoredScan, setup: SlabSetup) -> bool:
    """Whether each quarter turn is whole view blocks, so that four of them can be read together."""
    return (setup.geometry.n_views // 4) % stored.layout.view_block == 0


def _batches(groups: tuple[ViewGroup, ...], setup: SlabSetup) -> tuple[tuple[int, ...], ...]:
    """Places of the groups to read together: four a quarter turn apart for the four-fold kernel."""
    quarter = setup.quarter
    if quarter is None:
        return tuple((place,) for place in range(len(groups)))
    at = {group.start: place for place, group in enumerate(groups)}
    n_views = setup.geometry.n_views
    return tuple(
        tuple(at[(group.start + j * quarter) % n_views] for j in range(4)) for group in groups[: len(groups) // 4]
    )


def _notes(stored: StoredScan, grid: VolumeGrid, setup: SlabSetup, request: ReconstructionRequest) -> tuple[str, ...]:
    """What an operator should know before the job runs."""
    notes, geometry, radius_mm = list(stored.scan.notes), setup.geometry, setup.radius_mm
    cut_off = uncovered_slices(geometry, grid, radius_mm)
    if cut_off:
        notes.append(
            f"{cut_off} of {grid.shape[0]} slices have voxels that some views do not see (cone angle): "
            f"mu is too low there"
        )
    few = few_views_note(round(views_per_turn(geometry)), radius_mm, grid.voxel_pitch_mm[1])
    if few:
        notes.append(few)
    if on_gpu(request.backend) and request.gpu_memory_bytes is None:
        notes.append(
            "the plan does not know the memory of the GPU: give it (--gpu-memory), and slabs are cut so that they fit"
        )
    if setup.kernel == "any_pose":
        notes.append("the kernel for any pose runs, which is slower than that for upright panels")
    elif geometry.circular_orbit is not None and request.four_fold and setup.quarter is None:
        notes.append("no four-fold symmetry (views, grid or stored blocks): the kernel for upright panels runs")
    return tuple(notes)
