# SPDX-License-Identifier: Apache-2.0
"""A probe of a few seconds: what one task does in a second with the scan, store and back end of a plan."""

from __future__ import annotations

import dataclasses
import secrets
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.backends import load_backend
from reconstruction.fdk import prepare
from reconstruction.geometry import Slab, VolumeGrid
from reconstruction.slabs import RowBand
from spark_jobs.planning.rates import BUILT_IN, Rates
from spark_jobs.planning.tuning import DEFAULT_NAME, TUNING_FOLDER
from spark_jobs.planning.view_groups import frame_rows, view_groups
from spark_jobs.run_files.bands import BandFile, read_band, write_band
from spark_jobs.tasks.corrected_rows import RowCorrector
from spark_jobs.tasks.view_lines import view_lines
from spark_jobs.tasks.workers import open_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconstruction.fdk import SlabSetup
    from spark_jobs.tasks.workers import OpenRun, RunPlace

#: Heights of slabs, and views added together, that are tried.
HEIGHTS = (16, 32, 64, 128)
BATCHES = (32, 128)
#: Side of the volume that is back-projected, and rows that are read and filtered.
_SIDE, _ROWS = 192, 64
_LEAST_S = 0.2


def probe_task(place: RunPlace, task: int) -> dict[str, Any]:
    """Task of a probe (only task 0): measure the rates where the tasks of a plan would run."""
    del task
    return {"rates": measured_rates(open_run(place), place.threads).to_json()}


def measured_rates(run: OpenRun, threads: int = 1) -> Rates:
    """Measure, in a few seconds, what one task does in a second with this plan's scan, store and back end.

    Rates of `threads` threads are given for one of them.  What a probe does not measure (encoding, the cost of a task)
    stays built-in.  What it writes is deleted.
    """
    rows = _row_rates(run, threads)
    updates, heights, batch_views = _kernel_rates(run, threads)
    return dataclasses.replace(
        BUILT_IN, name=DEFAULT_NAME, **rows, updates_per_s=dict(BUILT_IN.updates_per_s) | updates,
        height_factors=heights, batch_views=batch_views,
    )  # fmt: skip


def _seconds(work: Callable[[], object]) -> float:
    """Seconds of one call, over as many as take `_LEAST_S`, after one to warm up."""
    work()
    count, started = 0, time.perf_counter()
    while True:
        work()
        count += 1
        spent = time.perf_counter() - started
        if spent >= _LEAST_S:
            return spent / count


def _row_rates(run: OpenRun, threads: int) -> dict[str, float]:
    """Rates of what is done to detector rows."""
    plan, stored = run.plan, run.stored
    scan = stored.scan
    assert scan.geometry is not None
    setup = prepare(scan.geometry, plan.grid, plan.request.fdk, four_fold=False)
    group = view_groups(setup, stored.view_blocks)[0]
    views = np.arange(group.start, group.stop)
    start = max(0, setup.geometry.n_rows // 2 - _ROWS // 2)
    band = RowBand(start, min(setup.geometry.n_rows, start + _ROWS))
    corrector = RowCorrector(
        stored, plan.bins[0], np.zeros((scan.n_rows, scan.n_cols), np.bool_), plan.request.correction,
        *frame_rows(setup, views, band),
    )  # fmt: skip
    block = group.blocks[0]
    raw = {each: corrector.read_block(each) for each in group.blocks}
    frames = np.arange(*stored.view_blocks[block])
    backend = load_backend(plan.backend)
    lines = view_lines(setup, corrector, raw, views, band, backend=backend, threads=threads)
    filtered = backend.filter_rows(setup, lines, views, row_start=band.row_start, threads=threads)
    correct_s = _seconds(lambda: corrector.lines_of_frames([raw[block]], frames))
    rates = {"correct_pixels_per_s": raw[block].counts.size / correct_s}
    if setup.virtual is not None:
        both_s = _seconds(lambda: view_lines(setup, corrector, raw, views, band, backend=backend, threads=threads))
        all_frames = sum(each.counts.shape[0] for each in raw.values())
        resample_s = max(1e-3 * both_s, both_s - correct_s * all_frames / frames.size)
        rates["resample_pixels_per_s"] = lines.size * setup.virtual.n_slots / resample_s / threads
    path = f"{TUNING_FOLDER}/probe-{secrets.token_hex(6)}.band"
    file = BandFile(path, band.row_start, band.row_stop, len(filtered), filtered.shape[2], "float32")
    n_bytes = file.n_rows * file.row_bytes
    # The pixels of the whole row groups that are read.
    whole = stored.ranged_reads_for(corrector.read_start, corrector.read_stop, bin_index=plan.bins[0]).pixel_bytes
    block_bytes = whole * frames.size / scan.n_views
    try:
        return rates | {
            "read_bytes_per_s": block_bytes / _seconds(lambda: corrector.read_block(block)),
            "filter_pixels_per_s": (lines.size + filtered.size) / 2 / threads
            / _seconds(lambda: backend.filter_rows(setup, lines, views, row_start=band.row_start, threads=threads)),
            "store_bytes_per_s": n_bytes / _seconds(lambda: write_band(run.store, file, filtered)),
            "band_bytes_per_s": n_bytes / _seconds(lambda: read_band(run.store, file, band.row_start, band.row_stop)),
        }  # fmt: skip
    finally:
        run.store.delete(path)


def _kernel_rates(run: OpenRun, threads: int) -> tuple[dict[str, float], dict[str, float], int]:
    """Updates per second by kernel, the share of it that a slab height reaches, and the faster batch of views."""
    plan = run.plan
    speeds: dict[tuple[int, int], float] = {}
    kernel = ""
    for height in HEIGHTS:
        setup = _probe_setup(run, height)
        kernel = setup.kernel
        for batch in BATCHES:
            speeds[height, batch] = _updates_per_s(run, setup, batch, threads)
    best = max(BATCHES, key=lambda batch: speeds[HEIGHTS[-1], batch])
    top = speeds[HEIGHTS[-1], best]
    factors = {str(height): speeds[height, best] / top for height in HEIGHTS}
    return {f"{plan.backend}/{kernel}": top}, factors, best


def _probe_setup(run: OpenRun, height: int) -> SlabSetup:
    """A slab of the plan's voxels about the middle of the axis, small enough for a probe."""
    plan = run.plan
    geometry = run.stored.scan.geometry
    assert geometry is not None
    pitch = plan.grid.voxel_pitch_mm
    side = min(_SIDE, min(plan.grid.shape[1:]) // 2 * 2) or 2
    grid = VolumeGrid((height, side, side), pitch, (0.0, 0.0, plan.grid.center_mm[2]))
    return prepare(
        geometry,
        grid,
        dataclasses.replace(plan.request.fdk, field_radius_mm=None),
        Slab(0, height),
        four_fold=plan.four_fold,
    )


def _updates_per_s(run: OpenRun, setup: SlabSetup, batch: int, threads: int) -> float:
    """Voxel updates per second and thread of adding a batch of views."""
    views = setup.batches(min(batch, setup.views.size))[0]
    rows = np.ones((len(views), setup.band_of(views).n_rows, setup.ramp.n_out), dtype=np.float32)
    accumulator = load_backend(run.plan.backend).start(setup, threads=threads)
    return setup.grid.n_voxels * len(views) / threads / _seconds(lambda: accumulator.add_filtered(rows, views))
