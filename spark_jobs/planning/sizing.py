# SPDX-License-Identifier: Apache-2.0
"""How high slabs are, how many views go through the filter together, and whether rows are filtered once before."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pacs.preview import preview_factor
from reconstruction.backends.device_memory import MOST_VIEWS
from reconstruction.errors import MemoryBudgetError
from reconstruction.fdk import slab_of
from reconstruction.slabs import SLAB_ALIGNMENT, RowBand, cut_slabs, slabs_of_height
from spark_jobs.planning.coarse_looks import coarse_looks
from spark_jobs.planning.gpu_memory import rows_on_gpu, slab_on_gpu, task_gpu_bytes, usable_bytes
from spark_jobs.planning.request import MEBIBYTE, ReconstructionRequest
from spark_jobs.planning.stage_costs import WorkCut, plan_cost, row_group_amplification
from spark_jobs.planning.store_reads import n_field_sets
from spark_jobs.planning.task_memory import encode_slices, filter_task_bytes, prepare_task_bytes, slab_task_bytes
from spark_jobs.planning.view_groups import frame_rows, slab_steps, step_sizes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ingest.chunks import StoredScan
    from reconstruction.backends.device_memory import DeviceCost
    from reconstruction.fdk import SlabSetup
    from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid
    from spark_jobs.planning.coarse_looks import CoarseLook
    from spark_jobs.planning.rates import Rates
    from spark_jobs.planning.view_groups import StepSizes, ViewGroup

#: Views that a task filters together, where memory allows.
BATCH_VIEWS = 128
#: Views of a batch with which slabs above `MIN_SLAB_SLICES` must fit the memory.
SMALL_BATCH_VIEWS = 32
#: Slabs are at least this high by default: thinner ones pay more set-up than they gain.
MIN_SLAB_SLICES = 64
#: A scan above this size does not stay in the store's caches: fused slabs that read its row groups more often than
#: `MOST_FUSED_AMPLIFICATION` give way to two stages that take hardly longer.
CACHED_BYTES = 1 << 30
MOST_FUSED_AMPLIFICATION = 1.5
TWO_STAGE_EXCESS = 1.15
#: Slabs are higher only where so many tasks stay, all bins of the scan together, that a small cluster is kept busy.
WANTED_TASKS = 16


def slab_alignment(grid: VolumeGrid) -> int:
    """Return what slab borders are multiples of: the SIMD step, and the blocks of the preview."""
    return max(SLAB_ALIGNMENT, preview_factor(grid.shape))


@dataclass(frozen=True, slots=True)
class Sizing:
    """What sizes follow from, besides the cut of the volume.

    Attributes
    ----------
    stored, request, bins : what is asked for
    backend : its name
    geometry : of the scan, as its rows are stored
    binning : pixels of a side that are averaged after the logarithm
    groups : views that are filtered and stored together
    batches : places of the groups that a slab task reads together
    rates : what the expected time goes by
    """

    stored: StoredScan
    request: ReconstructionRequest
    bins: tuple[int, ...]
    backend: str
    geometry: ConeBeamGeometry
    binning: int
    groups: tuple[ViewGroup, ...]
    batches: tuple[tuple[int, ...], ...]
    rates: Rates

    @property
    def item_bytes(self) -> int:
        """Size of a stored filtered value [B]."""
        return 4 if self.request.band_type == "float32" else 2

    @property
    def memory_bytes(self) -> int:
        """What a task may use at its peak."""
        return self.request.task_memory_bytes

    def slices(self, grid: VolumeGrid) -> int:
        """Slices that are encoded at a time."""
        return encode_slices(grid, preview_factor(grid.shape), self.memory_bytes)

    def sizes(self, setup: SlabSetup) -> StepSizes:
        """What the steps of a slab hold."""
        return step_sizes(slab_steps(setup, self.groups, self.batches, self.stored.view_blocks), self.groups)

    def slab_bytes(self, setup: SlabSetup, batch_views: int, sizes: StepSizes | None = None) -> int:
        """Peak memory of a slab task, in whichever of the wanted modes needs more [B]."""
        kinds = {"fused": (None,), "two_stage": (self.item_bytes,), "auto": (None, self.item_bytes)}[self.request.mode]
        sizes = sizes or self.sizes(setup)
        return max(self.slab_bytes_of(setup, batch_views, kind, sizes) for kind in kinds)

    def slab_bytes_of(
        self, setup: SlabSetup, batch_views: int, item_bytes: int | None, sizes: StepSizes | None = None
    ) -> int:
        """Peak memory of a slab task that filters (None), or that reads values of so many bytes [B]."""
        return slab_task_bytes(
            self.stored, setup, backend=self.backend, sizes=sizes or self.sizes(setup), batch_views=batch_views,
            band_item_bytes=item_bytes, slices=self.slices(setup.grid), binning=self.binning,
        )  # fmt: skip

    def setup(self, whole: SlabSetup, slab: Slab) -> SlabSetup:
        """One slab's share of the reconstruction."""
        return slab_of(whole, slab)

    def require(
        self, needed: int, what: str, cure: str = "take thinner slabs, a smaller volume or more memory"
    ) -> None:
        """Refuse a task that needs more memory than it may use."""
        if needed > self.memory_bytes:
            raise MemoryBudgetError(
                f"{what} of scan {self.stored.scan.scan_id} needs {math.ceil(needed / MEBIBYTE)} MiB in one task, but "
                f"{self.memory_bytes / MEBIBYTE:.0f} MiB are allowed: {cure}"
            )

    def fits_gpu(self, cost: DeviceCost, n_views: int) -> bool:
        """Whether a GPU holds a task with so many views in a batch; True where the plan knows none."""
        memory = self.request.gpu_memory_bytes
        return memory is None or cost.bytes_with(n_views) <= usable_bytes(memory)

    def gpu_bytes(self, costs: Iterable[DeviceCost], n_views: int) -> int:
        """What the largest of some tasks takes of a GPU [B]; 0 where the plan knows none."""
        memory = self.request.gpu_memory_bytes
        return 0 if memory is None else max(task_gpu_bytes(cost, n_views, memory) for cost in costs)

    def require_gpu(self, cost: DeviceCost, what: str) -> None:
        """Refuse a task of which a GPU does not hold even one view in a batch."""
        memory = self.request.gpu_memory_bytes
        if memory is not None and not self.fits_gpu(cost, 1):
            raise MemoryBudgetError(
                f"{what} of scan {self.stored.scan.scan_id} needs {math.ceil(cost.bytes_with(1) / MEBIBYTE)} MiB of a "
                f"GPU, but of the {memory / MEBIBYTE:.0f} MiB that a task has there it can fill "
                f"{usable_bytes(memory) / MEBIBYTE:.0f} MiB: take thinner slabs, bricks, a smaller volume or a GPU "
                "with more memory"
            )

    def work(self, setups: tuple[SlabSetup, ...], *, two_stage: bool) -> WorkCut:
        """The work of these slabs, with the rows of a view block filtered by one task."""
        work = WorkCut(
            self.stored, self.bins, setups, self.backend, two_stage, self.item_bytes, 1, self.groups, self.batches,
            binning=self.binning, slices=self.slices(setups[0].grid),
        )  # fmt: skip
        low, high = work.rows
        return dataclasses.replace(work, filter_rows=high - low)


def cut_volume(sizing: Sizing, whole: SlabSetup) -> tuple[SlabSetup, ...]:
    """Cut the volume as asked, or into slabs that cost least of those that fit the memory and keep some tasks busy.

    Raises
    ------
    MemoryBudgetError
        If a slab does not fit the memory.
    """
    request, n_slices = sizing.request, whole.grid.shape[0]
    if request.n_slabs is not None:
        slabs = cut_slabs(n_slices, request.n_slabs, slab_alignment(whole.grid))
    elif request.slab_slices is not None:
        slabs = slabs_of_height(n_slices, request.slab_slices, slab_alignment(whole.grid))
    else:
        slabs = _cut_by_memory(sizing, whole)
    setups = tuple(sizing.setup(whole, slab) for slab in slabs)
    for setup in setups:
        what = f"slab {setup.slab.z_start}:{setup.slab.z_stop}"
        sizing.require(sizing.slab_bytes(setup, 4), what)
        sizing.require_gpu(slab_on_gpu(setup, sizing.backend), what)
    return setups


def _cut_by_memory(sizing: Sizing, whole: SlabSetup) -> tuple[Slab, ...]:
    """Equal slabs of about `MIN_SLAB_SLICES`, thinner where the memory asks for it, higher where that costs less."""
    n_slices = whole.grid.shape[0]
    batch_views = min(BATCH_VIEWS, whole.geometry.n_views)
    alignment = slab_alignment(whole.grid)
    height = max(alignment, min(n_slices, MIN_SLAB_SLICES))
    while height > alignment:
        parts = cut_slabs(n_slices, math.ceil(n_slices / height), alignment)
        if _fit(sizing, whole, parts, batch_views):
            return _higher_slabs(sizing, whole, parts) if height >= MIN_SLAB_SLICES else parts
        height -= alignment
    return slabs_of_height(n_slices, alignment, alignment)


def _fit(sizing: Sizing, whole: SlabSetup, parts: tuple[Slab, ...], batch_views: int) -> bool:
    """Whether slabs fit the memory, by three of them."""
    some = [sizing.setup(whole, slab) for slab in (parts[0], parts[len(parts) // 2], parts[-1])]
    views = min(SMALL_BATCH_VIEWS, batch_views)
    if not all(sizing.fits_gpu(slab_on_gpu(setup, sizing.backend), views) for setup in some):
        return False
    return max(sizing.slab_bytes(setup, batch_views) for setup in some) <= sizing.memory_bytes


def _higher_slabs(sizing: Sizing, whole: SlabSetup, parts: tuple[Slab, ...]) -> tuple[Slab, ...]:
    """Fewer slabs than given, where they fit, cost less, and leave enough tasks."""
    n_slices, alignment = whole.grid.shape[0], slab_alignment(whole.grid)
    fewest = math.ceil(WANTED_TASKS / len(sizing.stored.scan.bins))
    best, best_s = parts, math.inf
    count = len(parts)
    while count >= fewest:
        parts = cut_slabs(n_slices, count, alignment)
        if len(parts) < len(best) and not _fit(sizing, whole, parts, min(SMALL_BATCH_VIEWS, whole.geometry.n_views)):
            break
        setups = tuple(sizing.setup(whole, slab) for slab in parts)
        seconds = min(plan_cost(work, sizing.rates).core_seconds for work in _ways(sizing, setups))
        if seconds < best_s:
            best, best_s = parts, seconds
        count = min(count - 1, math.floor(count / 1.2))
    return best


def _ways(sizing: Sizing, setups: tuple[SlabSetup, ...]) -> list[WorkCut]:
    """Fused and two stages, as far as they are wanted."""
    wanted = {"fused": (False,), "two_stage": (True,), "auto": (False, True)}[sizing.request.mode]
    return [sizing.work(setups, two_stage=two_stage) for two_stage in wanted]


def views_together(sizing: Sizing, setups: tuple[SlabSetup, ...]) -> int:
    """Views filtered together: as many as fit, a multiple of four for each block, at most `BATCH_VIEWS` in all."""
    longest = max(sum(sizing.groups[place].n_views for place in batch) for batch in sizing.batches)
    most = min(sizing.rates.batch_views or BATCH_VIEWS, longest)
    sized = [(setup, sizing.sizes(setup)) for setup in setups]
    for views in range(most - most % 4 or 4, 3, -4):
        if max(sizing.slab_bytes(setup, views, sizes) for setup, sizes in sized) <= sizing.memory_bytes:
            return views
    return 4


def choose_stages(sizing: Sizing, setups: tuple[SlabSetup, ...], batch_views: int) -> WorkCut:
    """Fused or two stages: as asked, or whichever takes less time and does not read a large scan again and again."""
    # Not by how many rows a filter task can hold: the choice shapes the result, the memory must not.
    seconds = {way.two_stage: plan_cost(way, sizing.rates).core_seconds for way in _ways(sizing, setups)}
    two_stage = min(seconds, key=lambda each: seconds[each])
    if len(seconds) == 2 and not two_stage and sizing.stored.layout.pixel_bytes > CACHED_BYTES:
        again = row_group_amplification(sizing.work(setups, two_stage=False)) > MOST_FUSED_AMPLIFICATION
        two_stage = again and seconds[True] <= TWO_STAGE_EXCESS * seconds[False]
    work = sizing.work(setups, two_stage=two_stage)
    kind = sizing.item_bytes if work.two_stage else None
    slab_bytes = max(sizing.slab_bytes_of(setup, batch_views, kind) for setup in setups)
    on_gpu = sizing.gpu_bytes((slab_on_gpu(setup, sizing.backend) for setup in setups), MOST_VIEWS)
    work = dataclasses.replace(work, gpu_bytes={"reconstruct": on_gpu})
    return sized_stages(sizing, work, {"reconstruct": slab_bytes})


def sized_stages(sizing: Sizing, work: WorkCut, task_bytes: dict[str, int]) -> WorkCut:
    """The work with its first stages sized too: what the look at coarse slices reads, and the rows of a filter task.

    Raises
    ------
    MemoryBudgetError
        If the search for bad pixels, or a single detector row, does not fit the memory.
    """
    whole = work.setups[0]
    looks: tuple[CoarseLook, ...] = ()
    if sizing.request.mu_range is None:
        looks = coarse_looks(sizing.stored, sizing.geometry, whole.grid, sizing.request.fdk, whole.radius_mm)
    probe = tuple((look.rows, look.blocks, n_field_sets(sizing.stored, look.corrected)) for look in looks)
    most_rows = max((look.rows[1] - look.rows[0] for look in looks), default=0)
    most_blocks = max((len(step.blocks) for look in looks for step in look.steps), default=1)
    sizes = {"prepare": prepare_task_bytes(sizing.stored, most_rows, most_blocks)}
    sizing.require(
        sizes["prepare"], "the search for bad pixels",
        "give tasks more memory; give the range of mu if the look at coarse slices is what needs it",
    )  # fmt: skip
    rows = work.filter_rows
    if work.two_stage:
        rows = _rows_of_a_filter_task(sizing, work)
        sizes["filter"] = _filter_bytes(sizing, work, rows)
        sizing.require(
            sizes["filter"], "the filtering of a detector row", "upload with less memory, or allow more here"
        )
        cost = rows_on_gpu(whole, rows)
        sizing.require_gpu(cost, f"the filtering of {rows} detector rows")
        on_gpu = sizing.gpu_bytes((cost,), max(group.n_views for group in work.groups))
        work = dataclasses.replace(work, gpu_bytes=work.gpu_bytes | {"filter": on_gpu})
    return dataclasses.replace(work, filter_rows=rows, probe=probe, task_bytes=sizes | task_bytes)


def _filter_bytes(sizing: Sizing, work: WorkCut, n_rows: int) -> int:
    """Peak memory of a task that filters so many rows of a group [B]."""
    setup, low = work.setups[0], work.rows[0]
    middle = min(max(low, (sum(work.rows) - n_rows) // 2), max(low, work.rows[1] - n_rows))
    rows = middle, middle + n_rows
    taken = (frame_rows(setup, np.arange(g.start, g.stop), RowBand(*rows)) for g in work.groups)
    return filter_task_bytes(
        sizing.stored, setup, work.groups, rows=rows, frame_rows=max(stop - start for start, stop in taken),
        binning=sizing.binning,
    )  # fmt: skip


def _rows_of_a_filter_task(sizing: Sizing, work: WorkCut) -> int:
    """All rows, or halves of them until they fit, in whole row groups where they are more than one."""
    rows, step = work.filter_rows, work.row_step
    while rows > 1:
        if _filter_bytes(sizing, work, rows) <= sizing.memory_bytes:
            break
        rows = math.ceil(rows / 2)
        rows = math.ceil(rows / step) * step if rows > step else rows
        if rows == work.filter_rows:
            break
    return rows
