# SPDX-License-Identifier: Apache-2.0
"""The plan of an iterative reconstruction: that of FDK on the same volume, with other slabs, memory and work.

What is read of the store, the grid, the stored range and the preview follow from the plan of FDK in fused slabs.  An
iteration holds all views of its rows, and iterates on more slices than it makes; so slabs are as high as memory allows
with some tasks left, and their halo is counted.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconstruction.binning import binned_geometry
from reconstruction.errors import MemoryBudgetError
from reconstruction.iterative.projectors import PAIRS, kernel_of, padded_shape
from reconstruction.iterative.region import make_region
from reconstruction.iterative.scale import MIDDLE_PASSES, needs_middle, scale_region
from reconstruction.iterative.solver import TV_STEPS
from reconstruction.slabs import cut_slabs
from spark_jobs.errors import PlanError
from spark_jobs.planning.plan_record import geometry_of
from spark_jobs.planning.request import MEBIBYTE
from spark_jobs.planning.sizing import WANTED_TASKS, slab_alignment
from spark_jobs.planning.task_memory import encoding_bytes, prepare_task_bytes
from spark_jobs.planning.tuning import load_rates

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.chunks import StoredScan
    from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid
    from reconstruction.iterative.parameters import IterativeParameters
    from reconstruction.iterative.region import Region
    from spark_jobs.planning.cost import PlanCost
    from spark_jobs.planning.plan_record import ReconstructionPlan
    from spark_jobs.planning.rates import Rates
    from spark_jobs.planning.request import ReconstructionRequest

    MakePlan = Callable[[StoredScan, ReconstructionRequest, Rates | None], ReconstructionPlan]

#: Voxels iterated on over voxels made: up to this, so many slabs that a small cluster is kept busy; more only where
#: memory asks for them.
MOST_HALO_WORK = 2.0
#: Voxel steps of the denoiser that one core does in a second (`benchmarks/iterative.py` prints them).
DENOISE_VOXELS_PER_S = 0.15e9
#: How a kernel is told of; its updates a second are among `Rates.updates_per_s`.
_KERNELS = {
    "joseph_upright": "Joseph's projector and its exact transpose run, in SIMD for upright panels.",
    "joseph_any_pose": "Joseph's projector and its exact transpose run ray by ray, since panels are tilted.",
}


@dataclass(frozen=True, slots=True)
class IterativeCut:
    """Slabs of an iterative plan, what each iterates on, and the peak memory of the largest task [B].

    `middle` is what each task looks at first, to find weight and passes; None if both are given.
    """

    slabs: tuple[Slab, ...]
    regions: tuple[Region, ...]
    task_bytes: int
    middle: Region | None

    @property
    def halo_work(self) -> float:
        """Voxels iterated on over voxels made."""
        return sum(r.grid.n_voxels for r in self.regions) / sum(r.wanted.n_voxels for r in self.regions)


def iterative_plan(
    stored: StoredScan, request: ReconstructionRequest, rates: Rates | None, make_plan: MakePlan
) -> ReconstructionPlan:
    """Plan an iterative reconstruction; `make_plan` plans FDK.

    Raises
    ------
    PlanError, GeometryError, BackendUnavailableError, MemoryBudgetError
        If it cannot be done: the message says what was got, and what is possible.
    """
    parameters = request.iterative
    assert parameters is not None
    _check(request)
    fdk = dataclasses.replace(request, iterative=None, mode="fused", cut="slabs")
    draft = make_plan(stored, fdk, rates)
    geometry = binned_geometry(geometry_of(stored), draft.detector_binning)
    rates = load_rates(stored.store, request.tuning) if rates is None else rates
    cut = _cut(stored, geometry, draft, request)
    if cut.slabs != draft.slabs:
        draft = make_plan(stored, dataclasses.replace(fdk, n_slabs=len(cut.slabs), slab_slices=None), rates)
    return dataclasses.replace(
        draft,
        request=request,
        kernel=kernel_of(geometry),
        path=("Every measured ray counts the same.", _KERNELS[kernel_of(geometry)]),
        rows=(min(r.band.row_start for r in cut.regions), max(r.band.row_stop for r in cut.regions)),
        cost=_cost(draft, cut, parameters, rates),
        notes=_notes(stored, draft, cut, parameters, geometry.n_views),
    )


def slab_region(
    geometry: ConeBeamGeometry, grid: VolumeGrid, slab: Slab, radius_mm: float, parameters: IterativeParameters
) -> Region:
    """What one slab of a plan is iterated on."""
    return make_region(geometry, grid, slab, radius_mm=radius_mm, guard_slices=parameters.guard_slices)


def iterative_task_bytes(
    stored: StoredScan, region: Region, parameters: IterativeParameters, *, middle_rows: int, slices: int, binning: int
) -> int:
    """Peak memory of a task that iterates [B].

    Parameters
    ----------
    region : what it iterates on
    middle_rows : rows of the middle of the volume, from which weight and passes follow
    slices : slices that are encoded at a time
    binning : pixels of a side that are averaged after the logarithm
    """
    geometry = region.geometry
    # Volume, steps, update, and the copy that is given back; the dual has three components.
    volumes = (7 if parameters.method == "tv" else 4) * 4 * math.prod(padded_shape(region.grid.shape))
    volumes += 4 * region.wanted.n_voxels
    lines = 4 * geometry.n_views * max(region.band.n_rows, middle_rows) * geometry.n_cols
    # Of a subset: its lines, weights and their difference, each copied or squared on the way.
    subset = 4 * lines / parameters.subset_count(geometry.n_views)
    rows = max(region.band.n_rows, middle_rows) * binning
    reading = prepare_task_bytes(stored, rows)
    return reading + volumes + 2 * lines + math.ceil(subset) + encoding_bytes(region.wanted, slices)


def _check(request: ReconstructionRequest) -> None:
    """Refuse what only FDK does."""
    assert request.iterative is not None
    method = request.iterative.method
    if request.cut == "bricks" or request.mode == "two_stage":
        raise PlanError(
            f"the method {method} iterates on whole slabs and reads line integrals, but "
            f"{'bricks' if request.cut == 'bricks' else 'the mode two_stage'} was asked for: leave cut and mode at auto"
        )
    if request.backend not in PAIRS:
        raise PlanError(
            f"the method {method} has no projectors on the back end '{request.backend}': take one of {', '.join(PAIRS)}"
        )


def _cut(
    stored: StoredScan, geometry: ConeBeamGeometry, draft: ReconstructionPlan, request: ReconstructionRequest
) -> IterativeCut:
    """Slabs as asked for, or as many as the halo allows, or as memory asks for."""
    if request.n_slabs is not None or request.slab_slices is not None:
        cut = _measured(stored, geometry, draft, draft.slabs, request)
        _require(stored, cut, request)
        return cut
    n_slices, alignment = draft.grid.shape[0], slab_alignment(draft.grid)
    low, high = 1, math.ceil(n_slices / alignment)

    def cut_in(count: int) -> tuple[Slab, ...]:
        return cut_slabs(n_slices, count, alignment)

    def fits(count: int) -> bool:
        slabs = cut_in(count)
        some = tuple(dict.fromkeys((slabs[0], slabs[len(slabs) // 2], slabs[-1])))
        return _measured(stored, geometry, draft, some, request).task_bytes <= request.task_memory_bytes

    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    cut = _measured(stored, geometry, draft, cut_in(low), request)
    _require(stored, cut, request)
    for count in range(low + 1, min(math.ceil(n_slices / alignment), math.ceil(WANTED_TASKS / len(draft.bins))) + 1):
        more = _measured(stored, geometry, draft, cut_in(count), request)
        if more.halo_work > MOST_HALO_WORK:
            break
        cut = more
    return cut


def _measured(
    stored: StoredScan,
    geometry: ConeBeamGeometry,
    draft: ReconstructionPlan,
    slabs: tuple[Slab, ...],
    request: ReconstructionRequest,
) -> IterativeCut:
    """Slabs with what each iterates on."""
    parameters = request.iterative
    assert parameters is not None
    regions = tuple(slab_region(geometry, draft.grid, slab, draft.radius_mm, parameters) for slab in slabs)
    middle = scale_region(geometry, draft.grid, draft.radius_mm) if needs_middle(parameters) else None
    rows = 0 if middle is None else middle.band.n_rows
    needed = max(
        iterative_task_bytes(
            stored, region, parameters, middle_rows=rows, slices=draft.encode_slices, binning=draft.detector_binning
        )
        for region in regions
    )
    return IterativeCut(slabs, regions, needed, middle)


def _require(stored: StoredScan, cut: IterativeCut, request: ReconstructionRequest) -> None:
    """Refuse slabs that do not fit the memory."""
    assert request.iterative is not None
    if cut.task_bytes > request.task_memory_bytes:
        raise MemoryBudgetError(
            f"the method {request.iterative.method} needs {math.ceil(cut.task_bytes / MEBIBYTE)} MiB in one task of "
            f"scan {stored.scan.scan_id}, since it holds all views of its rows and the halo of its slab, but "
            f"{request.task_memory_bytes / MEBIBYTE:.0f} MiB are allowed: allow more memory, take coarser voxels, "
            f"detector binning or a smaller volume"
        )


def _cost(draft: ReconstructionPlan, cut: IterativeCut, parameters: IterativeParameters, rates: Rates) -> PlanCost:
    """The cost of FDK's plan with the reads of the halo and the work of the iterations."""
    geometry = cut.regions[0].geometry
    n_bins, voxels = len(draft.bins), sum(region.grid.n_voxels for region in cut.regions)
    updates = 2 * n_bins * parameters.passes * voxels * geometry.n_views
    # Sums of rays and of voxels cost one pass more.
    work = updates * (1 + 1 / parameters.passes)
    if cut.middle is not None:
        passes = parameters.passes if parameters.method != "tv" else MIDDLE_PASSES
        work += 2 * n_bins * len(cut.slabs) * (passes + 1) * cut.middle.grid.n_voxels * geometry.n_views
    seconds = work / rates.updates(draft.backend, kernel_of(geometry))
    if parameters.method == "tv":
        seconds += n_bins * parameters.passes * TV_STEPS * voxels / DENOISE_VOXELS_PER_S
    fdk = draft.cost.stage("reconstruct")
    rows = sum(region.band.n_rows for region in cut.regions)
    rows += 0 if cut.middle is None else len(cut.slabs) * cut.middle.band.n_rows
    more = rows / max(1.0, draft.cost.amplification * (draft.rows[1] - draft.rows[0]))
    stage = dataclasses.replace(
        fdk,
        read_bytes=math.ceil(fdk.read_bytes * more),
        pixel_bytes=math.ceil(fdk.pixel_bytes * more),
        core_seconds=fdk.core_seconds * max(1.0, more) + seconds,
        gpu_share=0.0,
        task_bytes=cut.task_bytes,
        updates=updates,
    )
    stages = tuple(stage if each.name == "reconstruct" else each for each in draft.cost.stages)
    return dataclasses.replace(
        draft.cost,
        stages=stages,
        task_bytes=max(each.task_bytes for each in stages),
        updates=updates,
        core_seconds=sum(each.core_seconds for each in stages),
        read_bytes=math.ceil(draft.cost.read_bytes * more),
        stored_read_bytes=math.ceil(draft.cost.stored_read_bytes * more),
        amplification=draft.cost.amplification * more,
        row_group_amplification=draft.cost.row_group_amplification * max(1.0, more),
        ways=(),
        why=f"the method {parameters.method} iterates on whole slabs: {cut.halo_work:.2f} voxels for each one made",
    )


def _notes(
    stored: StoredScan, draft: ReconstructionPlan, cut: IterativeCut, parameters: IterativeParameters, n_views: int
) -> tuple[str, ...]:
    """What an operator should know before the job runs."""
    subsets = parameters.subset_count(n_views)
    halo = max(region.grid.shape[0] - region.wanted.shape[0] for region in cut.regions)
    up_to = "up to " if parameters.method != "tv" and cut.middle is not None else ""
    radius = cut.regions[0].radius_mm
    notes = [
        f"{parameters.method}: {up_to}{parameters.passes} passes over {n_views} views in {subsets} subset(s); "
        f"each slab is iterated on with up to {halo} slices of halo and a field of {radius:.4g} mm radius"
    ]
    if draft.detector_binning != 1:
        notes.append(f"{draft.detector_binning} x {draft.detector_binning} pixels are averaged after the logarithm")
    return (*stored.scan.notes, *notes)
