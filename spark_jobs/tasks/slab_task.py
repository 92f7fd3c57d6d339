# SPDX-License-Identifier: Apache-2.0
"""Task of the last stage: one slab of one bin, from stored rows to a pack of DICOM instances."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from pacs.encode import SeriesEncoder
from pacs.pack import PackWriter
from pacs.preview import block_average
from reconstruction.backends import load_backend
from reconstruction.correction import FloorReport
from spark_jobs.errors import SparkJobError
from spark_jobs.planning.plan import working_geometry
from spark_jobs.planning.series import read_run, series_spec
from spark_jobs.planning.view_groups import slab_steps
from spark_jobs.run_files.packs import pack_path
from spark_jobs.tasks.brick_task import BrickSlices
from spark_jobs.tasks.checkpoints import finish_once, slab_name
from spark_jobs.tasks.corrected_rows import RawBlock, RowCorrector, read_mask
from spark_jobs.tasks.filtered_rows import read_window, views_of_group
from spark_jobs.tasks.iterative_slab import iterate_slab
from spark_jobs.tasks.prepare_task import mask_path
from spark_jobs.tasks.view_lines import view_lines
from spark_jobs.tasks.workers import open_run
from storage.checksum import sha256_of_bytes
from storage.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from numpy.typing import NDArray

    from reconstruction.backends import SlabAccumulator
    from reconstruction.fdk import SlabSetup
    from spark_jobs.planning.view_groups import SlabStep
    from spark_jobs.tasks.workers import OpenRun, RunPlace


def reconstruct_slab(place: RunPlace, task: int) -> dict[str, Any]:
    """Task of the last stage: one slab of one bin, from stored rows to a pack of DICOM instances."""
    run = open_run(place)
    bin_index, slab_index = run.plan.tasks[task]
    name = slab_name(bin_index, slab_index)
    return finish_once(
        run.store, place.records, name, lambda: _reconstruct(run, bin_index, slab_index) | run.store_counts()
    )


def _reconstruct(run: OpenRun, bin_index: int, slab_index: int) -> dict[str, Any]:
    """One attempt at a slab."""
    if run.plan.bricks is not None:
        return _assemble(run, bin_index, slab_index)
    if run.plan.request.iterative is not None:
        return _iterate(run, bin_index, slab_index)
    started = time.perf_counter()
    setup, accumulator, read_bytes, floored = _fill_slab(run, bin_index, slab_index)
    filled = time.perf_counter()
    result = _publish_slab(run, bin_index, slab_index, accumulator.read_slices)
    return result | {
        "bin": bin_index,
        "slab": slab_index,
        "read_bytes": read_bytes,
        "floored": asdict(floored),
        "updates": setup.slab.n_slices * setup.grid.shape[1] * setup.grid.shape[2] * setup.views.size,
        "reconstruct_s": filled - started,
        "encode_s": time.perf_counter() - filled,
    }


def _iterate(run: OpenRun, bin_index: int, slab_index: int) -> dict[str, Any]:
    """One attempt at a slab by an iterative method."""
    started = time.perf_counter()
    volume, figures = iterate_slab(run, bin_index, slab_index)
    iterated = time.perf_counter()
    result = _publish_slab(run, bin_index, slab_index, lambda start, stop: volume[start:stop])
    seconds = {"reconstruct_s": iterated - started, "encode_s": time.perf_counter() - iterated}
    return result | figures | {"bin": bin_index, "slab": slab_index} | seconds


def _assemble(run: OpenRun, bin_index: int, slab_index: int) -> dict[str, Any]:
    """One attempt at a slab whose bricks are finished: they hold its updates."""
    started = time.perf_counter()
    bricks = BrickSlices(run, bin_index, slab_index)
    result = _publish_slab(run, bin_index, slab_index, bricks.read_slices)
    return result | {
        "bin": bin_index,
        "slab": slab_index,
        "read_bytes": bricks.read_bytes,
        "updates": 0,
        "reconstruct_s": 0.0,
        "encode_s": time.perf_counter() - started,
    }


def slab_volume(place: RunPlace, task: int) -> NDArray[np.float32]:
    """Return the voxels of one slab task as (z, y, x) float32 mu [1/mm], without encoding them: for checks."""
    run = open_run(place)
    bin_index, slab_index = run.plan.tasks[task]
    if run.plan.bricks is not None:
        bricks = BrickSlices(run, bin_index, slab_index)
        return bricks.read_slices(0, run.plan.slabs[slab_index].n_slices)
    if run.plan.request.iterative is not None:
        return iterate_slab(run, bin_index, slab_index)[0]
    setup, accumulator, _, _ = _fill_slab(run, bin_index, slab_index)
    return accumulator.read_slices(0, setup.slab.n_slices)


def _fill_slab(run: OpenRun, bin_index: int, slab_index: int) -> tuple[SlabSetup, SlabAccumulator, int, FloorReport]:
    """Add all views to one slab; also the bytes read, and the values raised to the floor."""
    setup = run.plan.setup(working_geometry(run.stored, run.plan), slab_index)
    accumulator = load_backend(run.plan.backend).start(setup, threads=run.place.threads)
    fill = _add_bands if run.plan.two_stage else _add_rows
    return setup, accumulator, *fill(run, bin_index, setup, accumulator)


def _add_rows(run: OpenRun, bin_index: int, setup: SlabSetup, accumulator: SlabAccumulator) -> tuple[int, FloorReport]:
    """Fused: read, correct, filter and back-project batch by batch; the next one is read meanwhile."""
    plan, backend = run.plan, load_backend(run.plan.backend)
    steps = slab_steps(setup, plan.groups, plan.batches, run.stored.view_blocks)
    mask = read_mask(run.store, mask_path(run.place.folder, bin_index))
    corrector = RowCorrector(
        run.stored, bin_index, mask, plan.request.correction, min(s.rows[0] for s in steps),
        max(s.rows[1] for s in steps), binning=plan.detector_binning, folder=run.place.own_folder,
    )  # fmt: skip
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(_read_blocks, corrector, steps[0], {})
        for index, step in enumerate(steps):
            blocks = ahead.result()
            if index + 1 < len(steps):
                ahead = reader.submit(_read_blocks, corrector, steps[index + 1], blocks)
            for views in step.batches(plan.batch_views):
                band = setup.band_of(views)
                lines = view_lines(setup, corrector, blocks, views, band, backend=backend, threads=run.place.threads)
                accumulator.add(lines, views)
    return corrector.read_bytes, corrector.floored


def _read_blocks(corrector: RowCorrector, step: SlabStep, held: dict[int, RawBlock]) -> dict[int, RawBlock]:
    """View blocks of a step, as far as the step before has not read the same rows of them."""
    return {
        block: held[block] if block in held and held[block].rows == step.rows
        else corrector.read_block(block, step.rows)
        for block in step.blocks
    }  # fmt: skip


def _add_bands(run: OpenRun, bin_index: int, setup: SlabSetup, accumulator: SlabAccumulator) -> tuple[int, FloorReport]:
    """Two stages: read filtered rows and back-project them."""
    plan = run.plan
    read_bytes = 0
    for step in slab_steps(setup, plan.groups, plan.batches, run.stored.view_blocks):
        window = setup.window_of(step.views)
        held = {}
        for place in step.groups:
            held[place], n_bytes = read_window(run, bin_index, place, window, setup.ramp.n_out)
            read_bytes += n_bytes
        for views in step.batches(plan.batch_views):
            rows = [
                views_of_group(held[place], plan.groups[place], views[np.isin(views, part)])
                for place, part in zip(step.groups, step.parts, strict=True)
            ]
            accumulator.add_filtered(rows[0] if len(rows) == 1 else np.concatenate(rows), views, window)
        # Not while the next batch is read: the plan counts one.
        del held, rows
    return read_bytes, FloorReport()


def _publish_slab(
    run: OpenRun, bin_index: int, slab_index: int, read_slices: Callable[[int, int], NDArray[np.float32]]
) -> dict[str, Any]:
    """Encode the slab's slices and its part of the preview into one pack."""
    plan, slab = run.plan, run.plan.slabs[slab_index]
    record = read_run(run.store, run.place.folder, (bin_index,))
    if record is None:
        raise SparkJobError(f"{run.place.folder} has no dates, or no range of bin {bin_index}: submit the job again")
    volume = SeriesEncoder(series_spec(run.stored.scan, plan, record, bin_index, "volume"))
    preview = SeriesEncoder(series_spec(run.stored.scan, plan, record, bin_index, "preview"))
    factor = plan.preview_factor
    step = plan.encode_slices

    def produce(handle: BinaryIO) -> dict[str, Any]:
        digests: list[str] = []
        n_clipped = n_instances = 0
        # A pack's content must not tell one attempt from another: no time in it.
        writer = PackWriter(handle, source=f"reconstruction {plan.run_name}")
        for start in range(0, slab.n_slices, step):
            slices = read_slices(start, min(start + step, slab.n_slices))
            for offset, values in enumerate(slices):
                digests.append(_slice_digest(values))
                encoded = volume.encode_slice(slab.z_start + start + offset, values)
                writer.add(encoded.part10_bytes, encoded.header)
                n_clipped += encoded.n_clipped
            small = block_average(slices, factor)
            for offset, values in enumerate(small):
                encoded = preview.encode_slice((slab.z_start + start) // factor + offset, values)
                writer.add(encoded.part10_bytes, encoded.header)
            n_instances += len(slices) + len(small)
            # Not while the next slices are made: the plan counts them once.
            del slices, small, values
        writer.finish()
        return {"slice_sha256": digests, "n_clipped": n_clipped, "n_instances": n_instances}

    path = pack_path(plan.run_name, bin_index, slab_index)
    with run.publishing():
        result = publish(run.store, path, produce, kind="write_once")
    return result | {"pack": path, "pack_bytes": run.store.info(path).size}


def _slice_digest(values: NDArray[np.float32]) -> str:
    return sha256_of_bytes(np.ascontiguousarray(values, dtype="<f4").data)
