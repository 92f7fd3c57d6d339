# SPDX-License-Identifier: Apache-2.0
"""What a plan costs: memory of a task, bytes, ranged reads, updates, time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spark_jobs.request import MEBIBYTE

if TYPE_CHECKING:
    from ingest.chunks import StoredScan
    from reconstruction.fdk import SlabSetup

#: Python, its libraries and the compiled kernels in a worker before any pixel is read.
BASE_BYTES = 450 * MEBIBYTE
#: What one ranged read holds besides its result: stored bytes, and the unpacked table.
_READ_BYTES = 96 * MEBIBYTE
#: Slices taken out of the accumulator, encoded and packed at a time.
ENCODE_SLICES = 16

#: Rates of one core of a 2023 server, for the *expected* time only; `docs/planning.md` says how they were measured.
READ_BYTES_PER_S = 350e6
CORRECT_PIXELS_PER_S = 110e6
FILTER_PIXELS_PER_S = 75e6
STORE_BYTES_PER_S = 120e6
ENCODE_VOXELS_PER_S = 40e6
UPDATES_PER_S = {
    ("numba-avx512", "four_fold"): 2.6e9,
    ("numba-avx512", "circular"): 1.8e9,
    ("numba-avx2", "four_fold"): 1.9e9,
    ("numba-avx2", "circular"): 1.5e9,
    ("numba-portable", "four_fold"): 0.9e9,
    ("numba-portable", "circular"): 0.7e9,
}
_ANY_POSE_UPDATES_PER_S = 0.15e9
_REFERENCE_UPDATES_PER_S = 0.01e9
_TASK_OVERHEAD_S = 0.4


@dataclass(frozen=True, slots=True)
class PlanCost:
    """Totals of a plan, over all bins.

    Attributes
    ----------
    task_bytes : peak memory of the largest task, the worker's own share included
    n_tasks : slab tasks, and filter tasks where there are any
    read_bytes, stored_read_bytes : pixels read in whole row groups, unpacked and as stored
    ranged_reads : reads of the store
    band_bytes : filtered rows written (and read by the slabs)
    updates : voxels x views
    amplification : rows read by the slabs over the rows that hold the volume's shadow
    core_seconds : expected time of one core
    """

    task_bytes: int
    n_tasks: int
    read_bytes: int
    stored_read_bytes: int
    ranged_reads: int
    band_bytes: int
    updates: int
    amplification: float
    core_seconds: float


def slab_task_bytes(setup: SlabSetup, *, block_views: int, blocks: int, batch_views: int, item_bytes: int) -> int:
    """Peak memory of a slab task [B]: the slab, two batches of raw rows, one batch corrected and filtered.

    Parameters
    ----------
    setup : SlabSetup
    block_views, blocks : views of a stored block, and blocks read together
    batch_views : views filtered together
    item_bytes : size of a stored pixel
    """
    geometry, band, ramp = setup.geometry, setup.band, setup.ramp
    _, ny, nx = setup.grid.shape
    row_pixels = band.n_rows * geometry.n_cols
    volume = setup.slab.n_slices * ny * nx * 4
    raw = 2 * blocks * block_views * row_pixels * item_bytes
    corrected = batch_views * row_pixels * 4
    filtered = batch_views * (band.n_rows + 2) * (ramp.n_out + 2) * 4
    # Cosine weights are made in float64 with the rays' vectors; flat fields likewise.
    weights = 72 * row_pixels
    encoding = ENCODE_SLICES * ny * nx * 6 + 40 * ny * nx
    return BASE_BYTES + _READ_BYTES + volume + raw + corrected + filtered + weights + encoding


def filter_task_bytes(setup: SlabSetup, *, block_views: int, n_rows: int, item_bytes: int) -> int:
    """Peak memory of a task that filters `n_rows` rows of one view block [B]."""
    geometry, ramp = setup.geometry, setup.ramp
    per_view = n_rows * (geometry.n_cols * (item_bytes + 4) + ramp.n_out * 6)
    return BASE_BYTES + _READ_BYTES + block_views * per_view + 72 * n_rows * geometry.n_cols


def field_task_bytes(stored: StoredScan) -> int:
    """Peak memory of the task that looks for bad pixels over the whole panel of one bin [B]."""
    scan = stored.scan
    frames = sum(fields.count for fields in (scan.flats, scan.darks) if fields is not None)
    item_bytes = stored.layout.dtype.itemsize
    return BASE_BYTES + scan.n_rows * scan.n_cols * (2 * frames * item_bytes + 64)


def updates_per_second(backend: str, kernel: str) -> float:
    """Expected voxel updates per second of one core."""
    if backend == "numpy_reference":
        return _REFERENCE_UPDATES_PER_S
    return UPDATES_PER_S.get((backend, kernel), _ANY_POSE_UPDATES_PER_S)


def plan_cost(
    stored: StoredScan,
    setups: tuple[SlabSetup, ...],
    *,
    bins: tuple[int, ...],
    two_stage: bool,
    band_item_bytes: int,
    backend: str,
    task_bytes: int,
    filter_rows: int,
) -> PlanCost:
    """Add up a plan from the manifest and the geometry, without reading a pixel."""
    first = setups[0]
    geometry, ramp = first.geometry, first.ramp
    n_views = geometry.n_views
    updates = len(bins) * first.grid.n_voxels * n_views
    rows_of_slabs = sum(setup.band.n_rows for setup in setups)
    low, high = min(s.band.row_start for s in setups), max(s.band.row_stop for s in setups)
    bands = [(low, high)] if two_stage else [(s.band.row_start, s.band.row_stop) for s in setups]
    reads = [stored.ranged_reads_for(a, b, bin_index=bin_index) for a, b in bands for bin_index in bins]
    filtered_rows = sum(b - a for a, b in bands)
    pixels = len(bins) * n_views * filtered_rows * geometry.n_cols
    out_pixels = len(bins) * n_views * filtered_rows * ramp.n_out
    band_bytes = len(bins) * n_views * (high - low) * ramp.n_out * band_item_bytes if two_stage else 0
    band_read = len(bins) * n_views * rows_of_slabs * ramp.n_out * band_item_bytes if two_stage else 0
    kernel = "any_pose" if geometry.circular_orbit is None else ("four_fold" if first.quarter else "circular")
    n_tasks = len(bins) * len(setups)
    n_reads = sum(r.n_reads for r in reads)
    if two_stage:
        files = stored.n_view_blocks * math.ceil((high - low) / filter_rows)
        n_tasks += len(bins) * files
        n_reads += len(bins) * sum(
            stored.n_view_blocks * (1 + (s.band.row_stop - 1) // filter_rows - s.band.row_start // filter_rows)
            for s in setups
        )
    seconds = (
        sum(r.pixel_bytes for r in reads) / READ_BYTES_PER_S
        + pixels / CORRECT_PIXELS_PER_S
        + (pixels + out_pixels) / 2 / FILTER_PIXELS_PER_S
        + band_bytes / STORE_BYTES_PER_S
        + band_read / READ_BYTES_PER_S
        + updates / updates_per_second(backend, kernel)
        + len(bins) * first.grid.n_voxels / ENCODE_VOXELS_PER_S
        + n_tasks * _TASK_OVERHEAD_S
    )
    return PlanCost(
        task_bytes=task_bytes,
        n_tasks=n_tasks,
        read_bytes=sum(r.pixel_bytes for r in reads),
        stored_read_bytes=sum(r.stored_bytes for r in reads),
        ranged_reads=n_reads,
        band_bytes=band_bytes,
        updates=updates,
        amplification=rows_of_slabs / (high - low),
        core_seconds=seconds,
    )
