# SPDX-License-Identifier: Apache-2.0
"""What a plan costs: memory of a task, bytes, ranged reads, updates, time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.chunk_reader import MAX_RANGED_READ_BYTES
from reconstruction.slabs import amplification, slab_cost
from spark_jobs.bands import ROW_HEAD_BYTES
from spark_jobs.request import MEBIBYTE

if TYPE_CHECKING:
    from ingest.chunks import StoredScan
    from reconstruction.fdk import SlabSetup

#: Python, its libraries and the kernels in a worker before any pixel is read, when it has to compile them itself.
BASE_BYTES = 370 * MEBIBYTE
#: Slices taken out of the accumulator, encoded and packed at a time.
ENCODE_SLICES = 16
#: A pixel while cosine weights are made in float64 from the rays' vectors, or flat fields from their moments [B].
_WEIGHT_BYTES = 80
#: A pixel of the whole panel while bad pixels are looked for [B], besides the frames themselves.
_FIELD_BYTES = 96

#: Rates of one core of a 2023 server (AVX-512, local disk), as `benchmarks/plan_rates.py` measured them.  They shape
#: the *expected* time only, and with it the choice between one and two stages; `docs/planning.md` says more.
READ_BYTES_PER_S = 390e6
CORRECT_PIXELS_PER_S = 360e6
FILTER_PIXELS_PER_S = 100e6
STORE_BYTES_PER_S = 600e6
BAND_BYTES_PER_S = 800e6
ENCODE_VOXELS_PER_S = 38e6
UPDATES_PER_S = {
    ("numba-avx512", "four_fold"): 4.0e9,
    ("numba-avx512", "circular"): 2.2e9,
    ("numba-avx2", "four_fold"): 2.6e9,
    ("numba-avx2", "circular"): 1.7e9,
    ("numba-portable", "four_fold"): 1.0e9,
    ("numba-portable", "circular"): 0.88e9,
    ("numba-avx512", "any_pose"): 0.39e9,
    ("numba-avx2", "any_pose"): 0.32e9,
    ("numba-portable", "any_pose"): 0.25e9,
}
_REFERENCE_UPDATES_PER_S = 0.026e9
#: What Spark, opening the run and making weights cost each task: from reports of runs that compute next to nothing.
_TASK_OVERHEAD_S = 0.25


@dataclass(frozen=True, slots=True)
class PlanCost:
    """Totals of a plan, over all bins.

    Projections and filtered rows are counted; flats, masks, footers and the look at coarse slices come on top.

    Attributes
    ----------
    task_bytes : peak memory of the largest task, the worker's own share included
    n_tasks : slab tasks, and filter tasks where there are any
    read_bytes, stored_read_bytes : pixels of projections read in whole row groups, unpacked and as stored
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


def slab_task_bytes(
    stored: StoredScan, setup: SlabSetup, *, backend: str, blocks: int, batch_views: int, band_item_bytes: int | None
) -> int:
    """Peak memory of a slab task [B]: the slab, what is read ahead, and one batch on its way.

    Parameters
    ----------
    backend : its name
    blocks : view blocks read together
    batch_views : views filtered together
    band_item_bytes : size of a stored filtered value in two stages; None for fused runs
    """
    geometry, band, ramp = setup.geometry, setup.band, setup.ramp
    _, ny, nx = setup.grid.shape
    block_views = min(stored.layout.view_block, geometry.n_views)
    row_pixels = band.n_rows * geometry.n_cols
    volume = setup.slab.n_slices * ny * nx * 4
    transposed = batch_views * (band.n_rows + 2) * (ramp.n_out + 2) * 4
    encoding = (ENCODE_SLICES * 8 + 48) * ny * nx
    if band_item_bytes is not None:
        filtered = band.n_rows * ramp.n_out
        read = block_views * filtered * (4 * blocks + band_item_bytes) + batch_views * filtered * 4
    else:
        raw = 2 * blocks * block_views * row_pixels * stored.layout.dtype.itemsize
        corrected = batch_views * row_pixels * 4
        read = raw + corrected + _correction_bytes(stored, row_pixels) + _window_bytes(stored, band.n_rows)
    if backend == "numpy_reference":
        # Sums in float64, and one view's projection of every voxel.
        volume, transposed = 2 * volume, 200 * ny * nx + 40 * band.n_rows * ramp.n_fft
    return BASE_BYTES + volume + read + transposed + encoding


def filter_task_bytes(stored: StoredScan, setup: SlabSetup, *, n_rows: int) -> int:
    """Peak memory of a task that filters `n_rows` rows of one view block [B]."""
    geometry, ramp = setup.geometry, setup.ramp
    block_views = min(stored.layout.view_block, geometry.n_views)
    per_view = n_rows * (geometry.n_cols * (stored.layout.dtype.itemsize + 4) + ramp.n_out * 4)
    record = 4 * block_views * ramp.n_out * 4
    correction = _correction_bytes(stored, n_rows * geometry.n_cols)
    return BASE_BYTES + block_views * per_view + record + correction + _window_bytes(stored, n_rows)


def prepare_task_bytes(stored: StoredScan, probe_rows: int) -> int:
    """Peak memory of the task that looks for bad pixels over the whole panel of one bin, and then at coarse slices [B].

    Parameters
    ----------
    probe_rows : rows that the widest of the coarse slices needs
    """
    scan, layout = stored.scan, stored.layout
    panel = scan.n_rows * scan.n_cols
    search = panel * (2 * _n_frames(stored) * layout.dtype.itemsize + _FIELD_BYTES)
    row_pixels = probe_rows * scan.n_cols
    look = layout.view_block * row_pixels * (layout.dtype.itemsize + 16)
    look += _correction_bytes(stored, row_pixels) + _window_bytes(stored, probe_rows)
    return BASE_BYTES + max(search, look)


def _n_frames(stored: StoredScan) -> int:
    """Flat and dark frames of a bin."""
    return sum(fields.count for fields in (stored.scan.flats, stored.scan.darks) if fields is not None)


def _correction_bytes(stored: StoredScan, row_pixels: int) -> int:
    """What is made before a band of rows can be corrected and weighted [B]: masks of the panel, fields, weights."""
    panel = stored.scan.n_rows * stored.scan.n_cols
    return 8 * panel + row_pixels * (2 * _n_frames(stored) * stored.layout.dtype.itemsize + _WEIGHT_BYTES)


def _window_bytes(stored: StoredScan, n_rows: int) -> int:
    """What one ranged read holds besides its result [B]: stored bytes, unpacked page, table."""
    layout = stored.layout
    rows = min(n_rows + 2 * layout.row_group, layout.n_rows)
    pixel_bytes = layout.view_block * rows * layout.n_cols * layout.dtype.itemsize
    group_bytes = layout.view_block * layout.row_group * layout.n_cols * layout.dtype.itemsize
    return 3 * min(pixel_bytes, max(MAX_RANGED_READ_BYTES, group_bytes))


def updates_per_second(backend: str, kernel: str) -> float:
    """Expected voxel updates per second of one core."""
    if backend == "numpy_reference":
        return _REFERENCE_UPDATES_PER_S
    return UPDATES_PER_S[backend, kernel]


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
    costs = [slab_cost(geometry, s.grid, s.slab, s.radius_mm) for s in setups]
    updates = len(bins) * sum(cost.updates for cost in costs)
    rows_of_slabs = sum(setup.band.n_rows for setup in setups)
    low, high = min(s.band.row_start for s in setups), max(s.band.row_stop for s in setups)
    bands = [(low, high)] if two_stage else [(s.band.row_start, s.band.row_stop) for s in setups]
    runs = [(a, min(a + filter_rows, high)) for a in range(low, high, filter_rows)] if two_stage else bands
    reads = [stored.ranged_reads_for(a, b, bin_index=bin_index) for a, b in runs for bin_index in bins]
    filtered_rows = sum(b - a for a, b in bands)
    pixels = len(bins) * n_views * filtered_rows * geometry.n_cols
    out_pixels = len(bins) * n_views * filtered_rows * ramp.n_out
    filtered_row = n_views * ramp.n_out * band_item_bytes + stored.n_view_blocks * ROW_HEAD_BYTES
    band_bytes = len(bins) * (high - low) * filtered_row if two_stage else 0
    band_read = len(bins) * rows_of_slabs * filtered_row if two_stage else 0
    circular = "circular" if first.quarter is None else "four_fold"
    kernel = "any_pose" if geometry.circular_orbit is None else circular
    n_tasks = len(bins) * len(setups)
    n_reads = sum(r.n_reads for r in reads)
    if two_stage:
        n_tasks += len(bins) * stored.n_view_blocks * len(runs)
        files = sum(1 for a, b in runs for s in setups if a < s.band.row_stop and b > s.band.row_start)
        n_reads += len(bins) * stored.n_view_blocks * files
    seconds = (
        sum(r.pixel_bytes for r in reads) / READ_BYTES_PER_S
        + pixels / CORRECT_PIXELS_PER_S
        + (pixels + out_pixels) / 2 / FILTER_PIXELS_PER_S
        + band_bytes / STORE_BYTES_PER_S
        + band_read / BAND_BYTES_PER_S
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
        amplification=amplification(costs),
        core_seconds=seconds,
    )
