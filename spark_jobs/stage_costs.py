# SPDX-License-Identifier: Apache-2.0
"""What each stage of a way to cut the work costs, from the manifest and the geometry, without reading a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconstruction.slabs import amplification, slab_cost
from spark_jobs.bands import ROW_HEAD_BYTES
from spark_jobs.cost import PlanCost, StageCost

if TYPE_CHECKING:
    from ingest.chunks import StoredScan
    from reconstruction.fdk import SlabSetup
    from spark_jobs.rates import Rates


@dataclass(frozen=True, slots=True)
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
    prepare_bytes, filter_bytes, slab_bytes : peak memory of the largest task of a kind
    """

    stored: StoredScan
    bins: tuple[int, ...]
    setups: tuple[SlabSetup, ...]
    backend: str
    two_stage: bool
    band_item_bytes: int
    filter_rows: int
    prepare_bytes: int = 0
    filter_bytes: int = 0
    slab_bytes: int = 0

    @property
    def rows(self) -> tuple[int, int]:
        """First and end detector row that any slab needs."""
        return min(s.band.row_start for s in self.setups), max(s.band.row_stop for s in self.setups)

    @property
    def kernel(self) -> str:
        """Name of the back-projection kernel."""
        first = self.setups[0]
        if first.geometry.circular_orbit is None:
            return "any_pose"
        return "circular" if first.quarter is None else "four_fold"


def plan_cost(work: WorkCut, rates: Rates) -> PlanCost:
    """Add up a way to cut the work from the manifest and the geometry, without reading a pixel."""
    stored, first = work.stored, work.setups[0]
    n_views, n_cols, n_out = first.geometry.n_views, first.geometry.n_cols, first.ramp.n_out
    n_bins = len(work.bins)
    costs = [slab_cost(first.geometry, s.grid, s.slab, s.radius_mm) for s in work.setups]
    low, high = work.rows
    bands = [(s.band.row_start, s.band.row_stop) for s in work.setups]
    if work.two_stage:
        bands = [(a, min(a + work.filter_rows, high)) for a in range(low, high, work.filter_rows)]
    reads = [stored.ranged_reads_for(a, b, bin_index=bin_index) for a, b in bands for bin_index in work.bins]
    once = sum(stored.ranged_reads_for(low, high, bin_index=bin_index).stored_bytes for bin_index in work.bins)
    filtered_rows = sum(b - a for a, b in bands)
    filtered_row = n_views * n_out * work.band_item_bytes + stored.n_view_blocks * ROW_HEAD_BYTES
    band_bytes = n_bins * (high - low) * filtered_row if work.two_stage else 0
    band_read = n_bins * sum(s.band.n_rows for s in work.setups) * filtered_row if work.two_stage else 0
    pixels = n_bins * n_views * filtered_rows * n_cols
    filter_s = (pixels + n_bins * n_views * filtered_rows * n_out) / 2 / rates.filter_pixels_per_s
    correct_s = sum(r.pixel_bytes for r in reads) / rates.read_bytes_per_s + pixels / rates.correct_pixels_per_s
    updates = n_bins * sum(cost.updates for cost in costs)
    add_s = updates / rates.updates(work.backend, work.kernel)
    encode_s = n_bins * first.grid.n_voxels / rates.encode_voxels_per_s
    stored_bytes, pixel_bytes = sum(r.stored_bytes for r in reads), sum(r.pixel_bytes for r in reads)
    n_reads, band_reads = sum(r.n_reads for r in reads), 0
    prepare = StageCost("prepare", n_bins, 0, 0, 0, 0, n_bins * rates.task_overhead_s, 0.0, work.prepare_bytes)
    stages = [prepare]
    n_slabs = n_bins * len(work.setups)
    overhead_s = n_slabs * rates.task_overhead_s
    pack_bytes = 2 * n_bins * first.grid.n_voxels
    if work.two_stage:
        n_tasks = n_bins * stored.n_view_blocks * len(bands)
        files = sum(1 for a, b in bands for s in work.setups if a < s.band.row_stop and b > s.band.row_start)
        band_reads = n_bins * stored.n_view_blocks * files
        filter_all_s = correct_s + filter_s + band_bytes / rates.store_bytes_per_s + n_tasks * rates.task_overhead_s
        stages.append(
            StageCost("filter", n_tasks, stored_bytes, band_bytes, n_reads, pixel_bytes, filter_all_s,
                      filter_s / filter_all_s, work.filter_bytes)
        )  # fmt: skip
        slab_s = add_s + encode_s + overhead_s + band_read / rates.band_bytes_per_s
        stages.append(
            StageCost("reconstruct", n_slabs, band_read, pack_bytes, band_reads, 0, slab_s, add_s / slab_s,
                      work.slab_bytes, updates)
        )  # fmt: skip
    else:
        slab_s = correct_s + filter_s + add_s + encode_s + overhead_s
        stages.append(
            StageCost("reconstruct", n_slabs, stored_bytes, pack_bytes, n_reads, pixel_bytes, slab_s,
                      (filter_s + add_s) / slab_s, work.slab_bytes, updates)
        )  # fmt: skip
    return PlanCost(
        task_bytes=max(stage.task_bytes for stage in stages),
        n_tasks=sum(stage.n_tasks for stage in stages[1:]),
        read_bytes=pixel_bytes,
        stored_read_bytes=stored_bytes,
        ranged_reads=n_reads + band_reads,
        band_bytes=band_bytes,
        updates=updates,
        amplification=amplification(costs),
        core_seconds=sum(stage.core_seconds for stage in stages),
        row_group_amplification=stored_bytes / max(1, once),
        stages=tuple(stages),
    )
