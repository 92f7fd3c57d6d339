# SPDX-License-Identifier: Apache-2.0
"""What each stage of a way to cut the work costs, from the manifest and the geometry, without reading a pixel."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from pacs.preview import preview_factor
from spark_jobs.planning import store_reads
from spark_jobs.planning.brick_traffic import MAX_WINDOWS, brick_traffic
from spark_jobs.planning.cost import PlanCost, StageCost
from spark_jobs.planning.pack_sizes import PackSizes
from spark_jobs.planning.store_reads import Traffic
from spark_jobs.planning.task_memory import ENCODE_SLICES, field_band_rows
from spark_jobs.run_files.bands import ROW_HEAD_BYTES
from spark_jobs.run_files.brick_files import slices_of_a_read

if TYPE_CHECKING:
    from ingest.chunks import StoredScan
    from reconstruction.fdk import SlabSetup
    from reconstruction.geometry import VolumeGrid
    from reconstruction.slabs import RowBand
    from spark_jobs.planning.brick_cut import BrickCut
    from spark_jobs.planning.rates import Rates

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
    probe : rows of each coarse slice of the first stage, and the view blocks that each reads
    task_bytes : peak memory of the largest task by stage
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
    bricks: BrickCut | None = None
    binning: int = 1
    probe: tuple[tuple[RowBand, int], ...] = ()
    task_bytes: dict[str, int] = field(default_factory=dict)
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
        first = self.setups[0]
        if first.geometry.circular_orbit is None:
            return "any_pose"
        return "circular" if first.quarter is None else "four_fold"

    @property
    def filter_runs(self) -> tuple[tuple[int, int], ...]:
        """First and end row of each filter task of a view block."""
        low, high = self.rows
        return tuple((a, min(a + self.filter_rows, high)) for a in range(low, high, self.filter_rows))

    @property
    def updates(self) -> int:
        """Voxels x views."""
        return len(self.bins) * self.grid.n_voxels * self.setups[0].geometry.n_views

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
            work.stored, work.setups, work.bricks, work.filter_runs, work.band_item_bytes, most=most_windows
        )
        stages += [_bricks(work, rates, bricks), _assemble(work, rates)]
        amplification = bricks.read_bytes / _band_bytes_of_bin(work)
    else:
        stages.append(_slabs(work, rates))
        low, high = min(s.band.row_start for s in work.setups), max(s.band.row_stop for s in work.setups)
        amplification = sum(s.band.n_rows for s in work.setups) / (high - low)
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
    )


def row_group_amplification(work: WorkCut) -> float:
    """Bytes of row groups that all tasks read over those that hold the volume's shadow once."""
    low, high = min(s.band.row_start for s in work.setups), max(s.band.row_stop for s in work.setups)
    once = _rows_of_bins(work, [(low, high)]).read_bytes
    return _projections(work).read_bytes / max(1, once)


def _without_opening(work: WorkCut, stage: StageCost) -> int:
    """Reads of filtered rows of a stage: the others are the plan, the manifest, dates and ranges."""
    other = 4 if work.bricks is None else 2
    return stage.reads - other * stage.n_tasks


def _projections(work: WorkCut) -> Traffic:
    """Row groups that slab or filter tasks read."""
    bands = work.filter_runs if work.two_stage else [(s.band.row_start, s.band.row_stop) for s in work.setups]
    return _rows_of_bins(work, bands)


def _rows_of_bins(work: WorkCut, bands: list[tuple[int, int]] | tuple[tuple[int, int], ...]) -> Traffic:
    total = Traffic()
    for bin_index in work.bins:
        for band in bands:
            total += store_reads.projection_rows(work.stored, bin_index, *work.raw(*band))
    return total


def _band_bytes_of_bin(work: WorkCut) -> int:
    """Filtered rows of one bin as stored."""
    setup, (low, high) = work.setups[0], work.rows
    n_tiles = 1 if work.bricks is None else -(-setup.ramp.n_out // work.bricks.tile_cols)
    heads = work.stored.n_view_blocks * n_tiles * ROW_HEAD_BYTES
    return (high - low) * (setup.geometry.n_views * setup.ramp.n_out * work.band_item_bytes + heads)


def _filter_seconds(work: WorkCut, n_rows: int, rates: Rates) -> tuple[float, float]:
    """Seconds to correct so many rows of all views and bins, and to filter them."""
    setup = work.setups[0]
    views = len(work.bins) * setup.geometry.n_views * n_rows
    raw = views * work.binning**2 * setup.geometry.n_cols
    ramp = views * (setup.geometry.n_cols + setup.ramp.n_out) / 2
    return raw / rates.correct_pixels_per_s, ramp / rates.filter_pixels_per_s


def _prepare(work: WorkCut, rates: Rates) -> StageCost:
    stored, scan = work.stored, work.stored.scan
    n_bands = -(-scan.n_rows // field_band_rows(stored))
    total, seconds = Traffic(), 0.0
    for bin_index in work.bins:
        # Once for the search, and once for white and dark.
        fields = store_reads.field_rows(stored, bin_index, 0, scan.n_rows, bands=n_bands).times(2)
        total += work.opening() + fields + store_reads.frame_rows(stored, "bad_pixels", 0, 0, scan.n_rows)
        for band, n_blocks in work.probe:
            rows = store_reads.projection_rows(stored, bin_index, band.row_start, band.row_stop)
            total += store_reads.some_blocks(stored, rows, n_blocks)
            total += store_reads.white_rows(stored, band.row_start, band.row_stop)
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


def _corrected(work: WorkCut, rows: tuple[int, int]) -> Traffic:
    """What a task reads besides projections to correct some rows: mask, white and dark."""
    mask = Traffic(1, store_reads.mask_bytes_of(work.stored))
    return mask + store_reads.white_rows(work.stored, *work.raw(*rows))


def _filter(work: WorkCut, rates: Rates) -> StageCost:
    stored, total = work.stored, _projections(work)
    n_blocks = stored.n_view_blocks
    n_tasks = len(work.bins) * n_blocks * len(work.filter_runs)
    for bin_index in work.bins:
        footer = store_reads.projection_footer(stored, bin_index)
        for rows in work.filter_runs:
            total += (work.opening() + _corrected(work, rows) + footer).times(n_blocks)
    written = len(work.bins) * _band_bytes_of_bin(work)
    correct_s, filter_s = _filter_seconds(work, work.rows[1] - work.rows[0], rates)
    seconds = (
        total.pixel_bytes / rates.read_bytes_per_s + correct_s + filter_s + _band_store_seconds(work, written, rates)
        + n_tasks * rates.task_overhead_s
    )  # fmt: skip
    return StageCost("filter", n_tasks, total.read_bytes, written, total.reads, total.pixel_bytes, seconds,
                     filter_s / seconds, work.task_bytes.get("filter", 0))  # fmt: skip


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
        for bin_index in work.bins:
            total += store_reads.projection_footers(stored, bin_index).times(len(setups))
            for setup in setups:
                total += _corrected(work, (setup.band.row_start, setup.band.row_stop))
        correct_s, filter_s = _filter_seconds(work, sum(s.band.n_rows for s in setups), rates)
        seconds += total.pixel_bytes / rates.read_bytes_per_s + correct_s + filter_s
        gpu_s += filter_s
    return StageCost("reconstruct", n_tasks, total.read_bytes, _packs_written(work), total.reads, total.pixel_bytes,
                     seconds, gpu_s / seconds, work.task_bytes.get("reconstruct", 0), work.updates)  # fmt: skip


def _add_seconds(work: WorkCut, rates: Rates) -> float:
    """Seconds of the back-projection."""
    slices = sum(setup.slab.n_slices / rates.height_factor(setup.slab.n_slices) for setup in work.setups)
    return work.updates * slices / work.grid.shape[0] / rates.updates(work.backend, work.kernel)


def _band_store_seconds(work: WorkCut, n_bytes: int, rates: Rates) -> float:
    """Seconds of one core to store so many bytes of filtered rows."""
    share = _HALF_STORE_SHARE if work.band_item_bytes == 2 else 1.0
    return n_bytes / (share * rates.store_bytes_per_s)


def _band_read_seconds(work: WorkCut, n_bytes: int, rates: Rates) -> float:
    """Seconds of one core to read so many bytes of filtered rows: a value of float16 takes as long as of float32."""
    return n_bytes * 4 / work.band_item_bytes / rates.band_bytes_per_s


def _band_reads(work: WorkCut) -> Traffic:
    """Filtered rows that the slabs of one bin read."""
    setup = work.setups[0]
    row_bytes = setup.geometry.n_views * setup.ramp.n_out * work.band_item_bytes
    row_bytes += work.stored.n_view_blocks * ROW_HEAD_BYTES
    files = sum(1 for a, b in work.filter_runs for s in work.setups if a < s.band.row_stop and b > s.band.row_start)
    return Traffic(work.stored.n_view_blocks * files, sum(s.band.n_rows for s in work.setups) * row_bytes)


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
