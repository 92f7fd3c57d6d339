# SPDX-License-Identifier: Apache-2.0
"""What each stage of a way to cut the work costs, from the manifest and the geometry, without reading a pixel."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pacs.preview import preview_factor
from reconstruction.slabs import RowBand
from spark_jobs.planning import store_reads
from spark_jobs.planning.brick_traffic import MAX_WINDOWS, brick_traffic
from spark_jobs.planning.cost import PlanCost, StageCost
from spark_jobs.planning.pack_sizes import PackSizes
from spark_jobs.planning.store_reads import Traffic
from spark_jobs.planning.task_memory import ENCODE_SLICES, field_band_rows
from spark_jobs.planning.view_groups import frame_rows, frames_of_views, slab_steps
from spark_jobs.run_files.bands import ROW_HEAD_BYTES
from spark_jobs.run_files.brick_files import slices_of_a_read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ingest.chunks import StoredScan
    from reconstruction.fdk import SlabSetup
    from reconstruction.geometry import VolumeGrid
    from spark_jobs.planning.brick_cut import BrickCut
    from spark_jobs.planning.rates import Rates
    from spark_jobs.planning.view_groups import SlabStep, ViewGroup

#: What tasks read of the run's dates and a bin's range, and a slab task's record: [B], and of it for each slice.
_RUN_BYTES, _BIN_BYTES, _RECORD_BYTES, _RECORD_SLICE_BYTES = 190, 230, 700, 70
#: Share of the bytes a second that rows of float16 are stored at (measured: 330 of 600 MB/s): rounding costs more than
#: half the bytes save.
_HALF_STORE_SHARE = 0.55


@dataclass(frozen=True)
class WorkCut:
    """One way to cut the work of a run into tasks.

    Attributes
    ----------
    stored, bins : what is reconstructed
    setups : the slabs
    backend : its name
    two_stage : rows are filtered once, before the slab tasks
    band_item_bytes : size of a stored filtered value
    filter_rows : rows of a filter task
    bricks : how slabs are cut in y and x; None for whole slabs
    binning : pixels of a side that are averaged after the logarithm
    groups : views that are filtered and stored together
    batches : places of the groups that a slab task reads together
    probe : of each coarse slice of the first stage its rows, the view blocks that it reads, and how many camera
        positions its frames are corrected for
    task_bytes : peak memory of the largest task by stage
    gpu_bytes : what it takes of a GPU
    plan_bytes : sizes of the plan and of the scan's manifest, which each task reads
    packs : sizes of packs besides their pixels
    slices : slices that are put together and encoded at a time
    """

    stored: StoredScan
    bins: tuple[int, ...]
    setups: tuple[SlabSetup, ...]
    backend: str
    two_stage: bool
    band_item_bytes: int
    filter_rows: int
    groups: tuple[ViewGroup, ...]
    batches: tuple[tuple[int, ...], ...]
    bricks: BrickCut | None = None
    binning: int = 1
    probe: tuple[tuple[tuple[int, int], tuple[int, ...], int], ...] = ()
    task_bytes: dict[str, int] = field(default_factory=dict)
    gpu_bytes: dict[str, int] = field(default_factory=dict)
    plan_bytes: tuple[int, int] = (0, 0)
    packs: PackSizes = field(default_factory=PackSizes)
    slices: int = ENCODE_SLICES

    @cached_property
    def rows(self) -> tuple[int, int]:
        """First and end row that any slab needs; filter tasks begin with the row group that holds the first."""
        low, high = min(s.band.row_start for s in self.setups), max(s.band.row_stop for s in self.setups)
        return (low // self.row_step * self.row_step if self.two_stage else low), high

    @property
    def row_step(self) -> int:
        """Rows of a row group, where blocks of pixels that are averaged do not straddle its border; else 1."""
        row_group = self.stored.layout.row_group
        return row_group // self.binning if row_group % self.binning == 0 else 1

    @property
    def grid(self) -> VolumeGrid:
        """The volume."""
        return self.setups[0].grid

    @property
    def kernel(self) -> str:
        """Name of the back-projection kernel."""
        return self.setups[0].kernel

    @cached_property
    def steps(self) -> tuple[tuple[SlabStep, ...], ...]:
        """What each slab reads, step by step."""
        return tuple(slab_steps(s, self.groups, self.batches, self.stored.view_blocks) for s in self.setups)

    @property
    def n_slots(self) -> int:
        """Frames that a view is resampled from; 0 where views are frames."""
        virtual = self.setups[0].virtual
        return 0 if virtual is None else virtual.n_slots

    @property
    def n_views(self) -> int:
        """Views of all groups."""
        return sum(group.n_views for group in self.groups)

    @property
    def filter_runs(self) -> tuple[tuple[int, int], ...]:
        """First and end row of each filter task of a view block."""
        low, high = self.rows
        return tuple((a, min(a + self.filter_rows, high)) for a in range(low, high, self.filter_rows))

    def rows_of_runs(self, group: ViewGroup) -> list[tuple[int, int]]:
        """First and end row of the frames that each filter task of a group reads."""
        views = np.arange(group.start, group.stop)
        return [frame_rows(self.setups[0], views, RowBand(*rows)) for rows in self.filter_runs]

    @property
    def updates(self) -> int:
        """Voxels x views."""
        _, ny, nx = self.grid.shape
        return len(self.bins) * sum(setup.slab.n_slices * ny * nx * setup.views.size for setup in self.setups)

    def raw(self, row_start: int, row_stop: int) -> tuple[int, int]:
        """Detector rows as stored."""
        return row_start * self.binning, row_stop * self.binning

    def opening(self) -> Traffic:
        """What each task reads before anything else: the plan and the manifest."""
        return Traffic(2, sum(self.plan_bytes))


def plan_cost(work: WorkCut, rates: Rates, *, most_windows: int = MAX_WINDOWS) -> PlanCost:
    """Add up a way to cut the work from the manifest and the geometry, without reading a pixel.

    `most_windows` bounds the parts of filtered rows that are worked out for bricks, see `brick_traffic`.
    """
    stages = [_prepare(work, rates)]
    if work.two_stage:
        stages.append(_filter(work, rates))
    if work.bricks is not None:
        bricks = brick_traffic(
            work.groups, work.setups, work.bricks, work.filter_runs, work.band_item_bytes, most=most_windows
        )
        stages += [_bricks(work, rates, bricks), _assemble(work, rates)]
        amplification = bricks.read_bytes / _band_bytes_of_bin(work)
    else:
        stages.append(_slabs(work, rates))
        amplification = _rows_times_views(work) / _needed_rows(work)
    stages = [replace(stage, gpu_bytes=work.gpu_bytes.get(stage.name, 0)) for stage in stages]
    projections = _projections(work)
    band_files = stages[-1] if work.bricks is None else stages[-2]
    return PlanCost(
        task_bytes=max(stage.task_bytes for stage in stages),
        n_tasks=sum(stage.n_tasks for stage in stages[1:]),
        read_bytes=projections.pixel_bytes,
        stored_read_bytes=projections.read_bytes,
        ranged_reads=projections.reads + (_without_opening(work, band_files) if work.two_stage else 0),
        band_bytes=len(work.bins) * _band_bytes_of_bin(work) if work.two_stage else 0,
        updates=work.updates,
        amplification=amplification,
        core_seconds=sum(stage.core_seconds for stage in stages),
        row_group_amplification=row_group_amplification(work),
        stages=tuple(stages),
        gpu_bytes=max(stage.gpu_bytes for stage in stages),
    )


def row_group_amplification(work: WorkCut) -> float:
    """Bytes of row groups that all tasks read over those that hold the volume's shadow once."""
    rows = [step.rows for steps in work.steps for step in steps]
    whole = min(low for low, _ in rows), max(high for _, high in rows)
    needed = {block for group in work.groups for block in group.blocks}
    counts = [int(block in needed) for block in range(work.stored.n_view_blocks)]
    once = sum(
        store_reads.projection_blocks(work.stored, bin_index, counts, *work.raw(*whole)).read_bytes
        for bin_index in work.bins
    )
    return _projections(work).read_bytes / max(1, once)


def _rows_times_views(work: WorkCut) -> int:
    """Rows that slabs need of each view, added up."""
    if all(setup.view_rows is None for setup in work.setups):
        return work.n_views * sum(setup.band.n_rows for setup in work.setups)
    return sum(
        len(part) * setup.band_of(part).n_rows
        for setup, steps in zip(work.setups, work.steps, strict=True)
        for step in steps
        for part in step.parts
    )


def _needed_rows(work: WorkCut) -> int:
    """Rows that any slab needs of each group's views, times these."""
    if all(setup.view_rows is None for setup in work.setups):
        bands = [setup.band for setup in work.setups]
        return work.n_views * (max(band.row_stop for band in bands) - min(band.row_start for band in bands))
    low: dict[int, int] = {}
    high: dict[int, int] = {}
    for setup in work.setups:
        for place, group in enumerate(work.groups):
            views = group.used(setup)
            if views.size:
                band = setup.band_of(views)
                low[place] = min(low.get(place, band.row_start), band.row_start)
                high[place] = max(high.get(place, band.row_stop), band.row_stop)
    return sum((high[place] - low[place]) * work.groups[place].n_views for place in low)


def _without_opening(work: WorkCut, stage: StageCost) -> int:
    """Reads of filtered rows of a stage: the others are the plan, the manifest, dates and ranges."""
    other = 4 if work.bricks is None else 2
    return stage.reads - other * stage.n_tasks


def _projections(work: WorkCut) -> Traffic:
    """Row groups that slab or filter tasks read."""
    if work.two_stage:
        reads = [(rows, group.blocks) for group in work.groups for rows in work.rows_of_runs(group)]
    else:
        reads = [
            (step.rows, step.fresh_blocks(before))
            for steps in work.steps
            for before, step in zip((None, *steps), steps, strict=False)
        ]
    # How often each block is read, by rows: a helix has thousands of reads, of not so many bands of rows.
    counts: dict[tuple[int, int], list[int]] = {}
    for rows, blocks in reads:
        of_rows = counts.setdefault(rows, [0] * work.stored.n_view_blocks)
        for block in blocks:
            of_rows[block] += 1
    total = Traffic()
    for rows, of_rows in counts.items():
        for bin_index in work.bins:
            total += store_reads.projection_blocks(work.stored, bin_index, of_rows, *work.raw(*rows))
    return total


def _band_bytes_of_bin(work: WorkCut) -> int:
    """Filtered rows of one bin as stored."""
    setup, (low, high) = work.setups[0], work.rows
    n_tiles = 1 if work.bricks is None else -(-setup.ramp.n_out // work.bricks.tile_cols)
    heads = len(work.groups) * n_tiles * ROW_HEAD_BYTES
    return (high - low) * (work.n_views * setup.ramp.n_out * work.band_item_bytes + heads)


def _filter_seconds(work: WorkCut, n_rows: int, rates: Rates) -> tuple[float, float]:
    """Seconds to correct what so many rows of a view of each bin are made of, and to filter them."""
    setup = work.setups[0]
    rows = len(work.bins) * n_rows
    pixels = rows * setup.geometry.n_cols
    # Frames of merged positions have about as many columns together as the view; of others, as the frame.
    raw = rows * max(1, work.n_slots) * work.stored.scan.n_cols * work.binning
    ramp = rows * (setup.geometry.n_cols + setup.ramp.n_out) / 2
    # Each of the frames that make a view is looked up for each of its pixels.
    resample_s = pixels * work.n_slots / rates.resample_pixels_per_s
    return raw / rates.correct_pixels_per_s + resample_s, ramp / rates.filter_pixels_per_s


def _prepare(work: WorkCut, rates: Rates) -> StageCost:
    stored, scan = work.stored, work.stored.scan
    n_bands = -(-scan.n_rows // field_band_rows(stored))
    total, seconds = Traffic(), 0.0
    for bin_index in work.bins:
        # Once for the search, and once for white and dark.
        fields = store_reads.field_rows(stored, bin_index, 0, scan.n_rows, bands=n_bands).times(2)
        total += work.opening() + fields + store_reads.frame_rows(stored, "bad_pixels", 0, 0, scan.n_rows)
        for rows, blocks, n_sets in work.probe:
            counts = [blocks.count(block) for block in range(stored.n_view_blocks)]
            total += store_reads.projection_blocks(stored, bin_index, counts, *rows)
            total += store_reads.white_rows(stored, *rows, n_sets=n_sets)
        footers = store_reads.field_footers(stored, bin_index)  # kept from the first time
        total = Traffic(total.reads - footers.reads, total.read_bytes - footers.read_bytes, total.pixel_bytes)
        if work.probe:
            total += store_reads.projection_footers(stored, bin_index)
        seconds += rates.task_overhead_s
    seconds += total.pixel_bytes / rates.read_bytes_per_s + total.read_bytes / rates.read_bytes_per_s
    white = store_reads.white_rows(stored, 0, scan.n_rows).read_bytes
    written = len(work.bins) * (white + store_reads.mask_bytes_of(stored) + _BIN_BYTES)
    return StageCost("prepare", len(work.bins), total.read_bytes, written, total.reads, total.pixel_bytes, seconds, 0.0,
                     work.task_bytes.get("prepare", 0))  # fmt: skip


def _n_field_sets(work: WorkCut, views: NDArray[np.int64]) -> int:
    """Camera positions whose white and dark a task reads for some views."""
    if work.stored.scan.field_positions == (None,):
        return 1
    return store_reads.n_field_sets(work.stored, frames_of_views(work.setups[0], views))


def _corrected(work: WorkCut, rows: tuple[int, int], n_sets: int) -> Traffic:
    """What a task reads besides projections to correct some rows: mask, and so many sets of white and dark."""
    mask = Traffic(1, store_reads.mask_bytes_of(work.stored))
    return mask + store_reads.white_rows(work.stored, *work.raw(*rows), n_sets=n_sets)


def _filter(work: WorkCut, rates: Rates) -> StageCost:
    stored, total = work.stored, _projections(work)
    n_tasks = len(work.bins) * len(work.groups) * len(work.filter_runs)
    for bin_index in work.bins:
        n_files = sum(store_reads.files_of_blocks(stored, group.blocks) for group in work.groups)
        total += store_reads.some_footers(stored, bin_index, n_files * len(work.filter_runs))
        total += _corrected_by_filter_tasks(work)
    written = len(work.bins) * _band_bytes_of_bin(work)
    correct_s, filter_s = _filter_seconds(work, work.n_views * (work.rows[1] - work.rows[0]), rates)
    seconds = (
        total.pixel_bytes / rates.read_bytes_per_s + correct_s + filter_s + _band_store_seconds(work, written, rates)
        + n_tasks * rates.task_overhead_s
    )  # fmt: skip
    return StageCost("filter", n_tasks, total.read_bytes, written, total.reads, total.pixel_bytes, seconds,
                     filter_s / seconds, work.task_bytes.get("filter", 0))  # fmt: skip


def _corrected_by_filter_tasks(work: WorkCut) -> Traffic:
    """What the filter tasks of a bin read besides projections."""
    alike = Counter(
        (rows, n_sets)
        for group in work.groups
        for n_sets in (_n_field_sets(work, np.arange(group.start, group.stop)),)
        for rows in work.rows_of_runs(group)
    )  # fmt: skip
    total = Traffic()
    for (rows, n_sets), count in alike.items():
        total += (work.opening() + _corrected(work, rows, n_sets)).times(count)
    return total


def _packs_written(work: WorkCut) -> int:
    """Packs and records of all slab tasks."""
    factor = preview_factor(work.grid.shape)
    per_bin = sum(
        work.packs.bytes_of(work.grid, s.slab.n_slices, factor) + _RECORD_BYTES + _RECORD_SLICE_BYTES * s.slab.n_slices
        for s in work.setups
    )
    return len(work.bins) * per_bin


def _slabs(work: WorkCut, rates: Rates) -> StageCost:
    stored, setups, n_bins = work.stored, work.setups, len(work.bins)
    n_tasks = n_bins * len(setups)
    total = (work.opening() + Traffic(2, _RUN_BYTES + _BIN_BYTES)).times(n_tasks)
    add_s = _add_seconds(work, rates)
    seconds = add_s + n_bins * work.grid.n_voxels / rates.encode_voxels_per_s + n_tasks * rates.task_overhead_s
    gpu_s = add_s
    if work.two_stage:
        bands = _band_reads(work)
        total += bands.times(n_bins)
        seconds += n_bins * _band_read_seconds(work, bands.read_bytes, rates)
    else:
        total += _projections(work)
        n_files = sum(
            store_reads.files_of_blocks(stored, (block for step in steps for block in step.blocks))
            for steps in work.steps
        )
        for bin_index in work.bins:
            total += store_reads.some_footers(stored, bin_index, n_files)
            for steps in work.steps:
                rows = min(step.rows[0] for step in steps), max(step.rows[1] for step in steps)
                n_sets = _n_field_sets(work, np.concatenate([step.views for step in steps]))
                total += _corrected(work, rows, n_sets)
        correct_s, filter_s = _filter_seconds(work, _rows_times_views(work), rates)
        seconds += total.pixel_bytes / rates.read_bytes_per_s + correct_s + filter_s
        gpu_s += filter_s
    return StageCost("reconstruct", n_tasks, total.read_bytes, _packs_written(work), total.reads, total.pixel_bytes,
                     seconds, gpu_s / seconds, work.task_bytes.get("reconstruct", 0), work.updates)  # fmt: skip


def _add_seconds(work: WorkCut, rates: Rates) -> float:
    """Seconds of the back-projection."""
    _, ny, nx = work.grid.shape
    at_full_rate = sum(
        s.slab.n_slices * ny * nx * s.views.size / rates.height_factor(s.slab.n_slices) for s in work.setups
    )
    return len(work.bins) * at_full_rate / rates.updates(work.backend, work.kernel)


def _band_store_seconds(work: WorkCut, n_bytes: int, rates: Rates) -> float:
    """Seconds of one core to store so many bytes of filtered rows."""
    share = _HALF_STORE_SHARE if work.band_item_bytes == 2 else 1.0
    return n_bytes / (share * rates.store_bytes_per_s)


def _band_read_seconds(work: WorkCut, n_bytes: int, rates: Rates) -> float:
    """Seconds of one core to read so many bytes of filtered rows: a value of float16 takes as long as of float32."""
    return n_bytes * 4 / work.band_item_bytes / rates.band_bytes_per_s


def _band_reads(work: WorkCut) -> Traffic:
    """Filtered rows that the slabs of one bin read."""
    view_bytes = work.setups[0].ramp.n_out * work.band_item_bytes
    reads = n_bytes = 0
    for setup, steps in zip(work.setups, work.steps, strict=True):
        for step in steps:
            band = setup.band_of(step.views)
            reads += len(step.groups) * sum(1 for a, b in work.filter_runs if a < band.row_stop and b > band.row_start)
            n_views = sum(work.groups[place].n_views for place in step.groups)
            n_bytes += band.n_rows * (n_views * view_bytes + len(step.groups) * ROW_HEAD_BYTES)
    return Traffic(reads, n_bytes)


def _bricks(work: WorkCut, rates: Rates, bands: Traffic) -> StageCost:
    assert work.bricks is not None
    n_bins = len(work.bins)
    n_tasks = n_bins * len(work.setups) * len(work.bricks.areas)
    total = work.opening().times(n_tasks) + bands.times(n_bins)
    written = n_bins * _brick_bytes_of_bin(work)
    share = sum(a.shape[0] * a.shape[1] for a in work.bricks.areas) / (work.grid.shape[1] * work.grid.shape[2])
    # Rates count the whole grid, of which only the field is computed: it is in the bricks.
    add_s = _add_seconds(work, rates)
    seconds = (
        n_bins * _band_read_seconds(work, bands.read_bytes, rates) + add_s + written / rates.store_bytes_per_s
        + n_tasks * rates.task_overhead_s
    )  # fmt: skip
    return StageCost("bricks", n_tasks, total.read_bytes, written, total.reads, 0, seconds, add_s / seconds,
                     work.task_bytes.get("bricks", 0), round(share * work.updates))  # fmt: skip


def _brick_bytes_of_bin(work: WorkCut) -> int:
    """Voxels of one bin's bricks as stored."""
    assert work.bricks is not None
    per_slice = sum(4 * a.shape[0] * a.shape[1] + 4 for a in work.bricks.areas)
    return work.grid.shape[0] * per_slice


def _brick_reads_of_bin(work: WorkCut) -> int:
    """Ranged reads that put the slabs of one bin together."""
    assert work.bricks is not None
    steps: Counter[int] = Counter()
    for setup in work.setups:
        n_slices = setup.slab.n_slices
        steps.update(min(work.slices, n_slices - start) for start in range(0, n_slices, work.slices))
    at_once = [slices_of_a_read(*area.shape) for area in work.bricks.areas]
    return sum(count * sum(-(-height // each) for each in at_once) for height, count in steps.items())


def _assemble(work: WorkCut, rates: Rates) -> StageCost:
    assert work.bricks is not None
    n_bins, n_tasks = len(work.bins), len(work.bins) * len(work.setups)
    bricks = Traffic(_brick_reads_of_bin(work), _brick_bytes_of_bin(work)).times(n_bins)
    total = (work.opening() + Traffic(2, _RUN_BYTES + _BIN_BYTES)).times(n_tasks) + bricks
    seconds = (
        bricks.read_bytes / rates.band_bytes_per_s + n_bins * work.grid.n_voxels / rates.encode_voxels_per_s
        + n_tasks * rates.task_overhead_s
    )  # fmt: skip
    return StageCost("assemble", n_tasks, total.read_bytes, _packs_written(work), total.reads, 0, seconds, 0.0,
                     work.task_bytes.get("assemble", 0))  # fmt: skip
