# SPDX-License-Identifier: Apache-2.0
"""How high slabs are, how many views go through the filter together, and whether rows are filtered once before."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pacs.preview import preview_factor
from reconstruction.errors import MemoryBudgetError
from reconstruction.fdk import SlabSetup, prepare
from reconstruction.slabs import SLAB_ALIGNMENT, cut_slabs, slabs_of_height
from spark_jobs.probe import probe_bands
from spark_jobs.rates import BUILT_IN
from spark_jobs.request import MEBIBYTE, ReconstructionRequest
from spark_jobs.stage_costs import WorkCut, plan_cost
from spark_jobs.task_memory import filter_task_bytes, prepare_task_bytes, slab_task_bytes

if TYPE_CHECKING:
    from ingest.chunks import StoredScan
    from reconstruction.geometry import Slab, VolumeGrid

#: Views that a task filters together, where memory allows.
BATCH_VIEWS = 128
#: Slabs are at least this high by default: thinner ones pay more set-up than they gain.
MIN_SLAB_SLICES = 64


def slab_alignment(grid: VolumeGrid) -> int:
    """Return what slab borders are multiples of: the SIMD step, and the blocks of the preview."""
    return max(SLAB_ALIGNMENT, preview_factor(grid.shape))


def band_item_bytes(request: ReconstructionRequest) -> int:
    """Size of a stored filtered value [B]."""
    return 4 if request.band_type == "float32" else 2


@dataclass(frozen=True, slots=True)
class Sizing:
    """What the memory of a task follows from, besides its slab."""

    stored: StoredScan
    request: ReconstructionRequest
    backend: str
    blocks: int

    def slab_bytes(self, setup: SlabSetup, batch_views: int) -> int:
        """Peak memory of a slab task, in whichever of the wanted modes needs more [B]."""
        item_bytes = band_item_bytes(self.request)
        kinds = {"fused": (None,), "two_stage": (item_bytes,), "auto": (None, item_bytes)}[self.request.mode]
        return max(self.slab_bytes_of(setup, batch_views, kind) for kind in kinds)

    def slab_bytes_of(self, setup: SlabSetup, batch_views: int, item_bytes: int | None) -> int:
        """Peak memory of a slab task that filters (None), or that reads values of so many bytes [B]."""
        return slab_task_bytes(
            self.stored, setup, backend=self.backend, blocks=self.blocks, batch_views=batch_views,
            band_item_bytes=item_bytes,
        )  # fmt: skip

    def setup(self, whole: SlabSetup, slab: Slab) -> SlabSetup:
        """One slab's share of the reconstruction."""
        return prepare(whole.geometry, whole.grid, self.request.fdk, slab, four_fold=whole.quarter is not None)

    def require(self, needed: int, what: str) -> None:
        """Refuse a task that needs more memory than it may use."""
        if needed > self.request.task_memory_bytes:
            raise MemoryBudgetError(
                f"{what} of scan {self.stored.scan.scan_id} needs {math.ceil(needed / MEBIBYTE)} MiB in one task, but "
                f"{self.request.task_memory_bytes / MEBIBYTE:.0f} MiB are allowed: take thinner slabs, a smaller "
                f"volume or more memory"
            )


def cut_volume(sizing: Sizing, whole: SlabSetup) -> tuple[SlabSetup, ...]:
    """Cut the volume as asked, or into the highest slabs that fit the memory and still keep several tasks busy."""
    request, n_slices = sizing.request, whole.grid.shape[0]
    if request.n_slabs is not None:
        slabs = cut_slabs(n_slices, request.n_slabs, slab_alignment(whole.grid))
    elif request.slab_slices is not None:
        slabs = slabs_of_height(n_slices, request.slab_slices, slab_alignment(whole.grid))
    else:
        slabs = _cut_by_memory(sizing, whole)
    setups = tuple(sizing.setup(whole, slab) for slab in slabs)
    for setup in setups:
        sizing.require(sizing.slab_bytes(setup, 4), f"slab {setup.slab.z_start}:{setup.slab.z_stop}")
    return setups


def _cut_by_memory(sizing: Sizing, whole: SlabSetup) -> tuple[Slab, ...]:
    """Equal slabs of about `MIN_SLAB_SLICES`, thinner where the memory asks for it."""
    n_slices = whole.grid.shape[0]
    batch_views = min(BATCH_VIEWS, whole.geometry.n_views)
    alignment = slab_alignment(whole.grid)
    height = max(alignment, min(n_slices, MIN_SLAB_SLICES))
    while height > alignment:
        parts = cut_slabs(n_slices, math.ceil(n_slices / height), alignment)
        some = (parts[0], parts[len(parts) // 2], parts[-1])
        worst = max(sizing.slab_bytes(sizing.setup(whole, slab), batch_views) for slab in some)
        if worst <= sizing.request.task_memory_bytes:
            return parts
        height -= alignment
    return slabs_of_height(n_slices, alignment, alignment)


def views_together(sizing: Sizing, setups: tuple[SlabSetup, ...]) -> int:
    """Views filtered together: as many as fit, a multiple of four for each block, at most `BATCH_VIEWS` in all."""
    most = min(BATCH_VIEWS, sizing.blocks * sizing.stored.layout.view_block)
    for views in range(most - most % 4 or 4, 3, -4):
        if max(sizing.slab_bytes(setup, views) for setup in setups) <= sizing.request.task_memory_bytes:
            return views
    return 4


def choose_stages(
    sizing: Sizing, setups: tuple[SlabSetup, ...], *, bins: tuple[int, ...], batch_views: int, radius_mm: float
) -> WorkCut:
    """Fused or two stages: as asked, or whichever is expected to take less time."""
    stored, request, whole = sizing.stored, sizing.request, setups[0]
    work = WorkCut(stored, bins, setups, sizing.backend, two_stage=request.mode == "two_stage",
                   band_item_bytes=band_item_bytes(request), filter_rows=1)  # fmt: skip
    low, high = work.rows
    work = dataclasses.replace(work, filter_rows=high - low)
    if request.mode == "auto":
        # Not by how many rows a filter task can hold: the choice shapes the result, the memory must not.
        staged = dataclasses.replace(work, two_stage=True)
        if plan_cost(staged, BUILT_IN).core_seconds < plan_cost(work, BUILT_IN).core_seconds:
            work = staged
    probed = 0 if request.mu_range is not None else max(
        band.n_rows for band in probe_bands(whole.geometry, whole.grid, radius_mm)
    )  # fmt: skip
    prepare_bytes = prepare_task_bytes(stored, probed)
    sizing.require(prepare_bytes, "the search for bad pixels")
    kind = work.band_item_bytes if work.two_stage else None
    slab_bytes = max(sizing.slab_bytes_of(setup, batch_views, kind) for setup in setups)
    rows, filter_bytes = high - low, 0
    if work.two_stage:
        while rows > 1 and filter_task_bytes(stored, whole, n_rows=rows) > request.task_memory_bytes:
            rows = math.ceil(rows / 2)
        filter_bytes = filter_task_bytes(stored, whole, n_rows=rows)
        sizing.require(filter_bytes, "the filtering of a detector row")
    return dataclasses.replace(
        work, filter_rows=rows, prepare_bytes=prepare_bytes, filter_bytes=filter_bytes, slab_bytes=slab_bytes
    )
