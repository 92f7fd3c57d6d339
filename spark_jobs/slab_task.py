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
from spark_jobs.bands import read_band
from spark_jobs.checkpoints import finish_once, slab_name
from spark_jobs.corrected_rows import RawBlock, RowCorrector, read_mask
from spark_jobs.errors import SparkJobError
from spark_jobs.filter_task import band_file
from spark_jobs.packs import pack_path
from spark_jobs.plan import geometry_of
from spark_jobs.prepare_task import mask_path
from spark_jobs.series import read_run, series_spec
from spark_jobs.task_memory import ENCODE_SLICES
from spark_jobs.workers import open_run
from storage.checksum import sha256_of_bytes
from storage.publish import publish

if TYPE_CHECKING:
    from typing import BinaryIO

    from numpy.typing import NDArray

    from reconstruction.backends import SlabAccumulator
    from reconstruction.fdk import SlabSetup
    from spark_jobs.workers import OpenRun, RunPlace


def reconstruct_slab(place: RunPlace, task: int) -> dict[str, Any]:
    """Task of the last stage: one slab of one bin, from stored rows to a pack of DICOM instances."""
    run = open_run(place)
    bin_index, slab_index = run.plan.tasks[task]
    name = slab_name(bin_index, slab_index)
    return finish_once(run.store, place.records, name, lambda: _reconstruct(run, bin_index, slab_index))


def _reconstruct(run: OpenRun, bin_index: int, slab_index: int) -> dict[str, Any]:
    """One attempt at a slab."""
    started = time.perf_counter()
    setup, accumulator, read_bytes, floored = _fill_slab(run, bin_index, slab_index)
    filled = time.perf_counter()
    result = _publish_slab(run, bin_index, slab_index, accumulator)
    return result | {
        "bin": bin_index,
        "slab": slab_index,
        "read_bytes": read_bytes,
        "floored": asdict(floored),
        "updates": setup.slab.n_slices * setup.grid.shape[1] * setup.grid.shape[2] * setup.geometry.n_views,
        "reconstruct_s": filled - started,
        "encode_s": time.perf_counter() - filled,
    }


def slab_volume(place: RunPlace, task: int) -> NDArray[np.float32]:
    """Return the voxels of one slab task as (z, y, x) float32 mu [1/mm], without encoding them: for checks."""
    run = open_run(place)
    setup, accumulator, _, _ = _fill_slab(run, *run.plan.tasks[task])
    return accumulator.read_slices(0, setup.slab.n_slices)


def _fill_slab(run: OpenRun, bin_index: int, slab_index: int) -> tuple[SlabSetup, SlabAccumulator, int, FloorReport]:
    """Add all views to one slab; also the bytes read, and the values raised to the floor."""
    setup = run.plan.setup(geometry_of(run.stored), slab_index)
    accumulator = load_backend(run.plan.backend).start(setup, threads=run.place.threads)
    fill = _add_bands if run.plan.two_stage else _add_rows
    return setup, accumulator, *fill(run, bin_index, setup, accumulator)


def _add_rows(run: OpenRun, bin_index: int, setup: SlabSetup, accumulator: SlabAccumulator) -> tuple[int, FloorReport]:
    """Fused: read, correct, filter and back-project batch by batch; the next one is read meanwhile."""
    plan, band = run.plan, setup.band
    mask = read_mask(run.store, mask_path(run.place.folder, bin_index))
    corrector = RowCorrector(run.stored, bin_index, mask, plan.request.correction, band.row_start, band.row_stop)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(_read_blocks, corrector, plan.batches[0])
        for index in range(len(plan.batches)):
            blocks = ahead.result()
            if index + 1 < len(plan.batches):
                ahead = reader.submit(_read_blocks, corrector, plan.batches[index + 1])
            step = max(1, plan.batch_views // len(blocks))
            for first in range(0, len(blocks[0].counts), step):
                accumulator.add(*corrector.line_integrals(blocks, first, first + step))
    return corrector.read_bytes, corrector.floored


def _read_blocks(corrector: RowCorrector, blocks: tuple[int, ...]) -> list[RawBlock]:
    return [corrector.read_block(block) for block in blocks]


def _add_bands(run: OpenRun, bin_index: int, setup: SlabSetup, accumulator: SlabAccumulator) -> tuple[int, FloorReport]:
    """Two stages: read filtered rows and back-project them."""
    plan = run.plan
    read_bytes = 0
    for batch in plan.batches:
        parts = []
        for block in batch:
            part, n_bytes = _read_filtered(run, bin_index, block, setup)
            parts.append(part)
            read_bytes += n_bytes
        step = max(1, plan.batch_views // len(batch))
        for first in range(0, len(parts[0]), step):
            views = [
                run.stored.view_blocks[block][0] + np.arange(first, min(first + step, len(part)))
                for block, part in zip(batch, parts, strict=True)
            ]
            rows = [part[first : first + step] for part in parts]
            accumulator.add_filtered(rows[0] if len(rows) == 1 else np.concatenate(rows), np.concatenate(views))
        # Not while the next batch is read: the plan counts one.
        del parts, rows
    return read_bytes, FloorReport()


def _read_filtered(run: OpenRun, bin_index: int, block: int, setup: SlabSetup) -> tuple[NDArray[np.float32], int]:
    """The slab's filtered rows of one view block, (view, row, filtered col), and the bytes read."""
    plan, wanted = run.plan, setup.band
    start, stop = run.stored.view_blocks[block]
    filtered = np.empty((stop - start, wanted.n_rows, setup.ramp.n_out), dtype=np.float32)
    read_bytes = 0
    for row in range(*plan.rows, plan.filter_rows):
        band = band_file(run, bin_index, block, row, setup.ramp.n_out)
        low, high = max(band.row_start, wanted.row_start), min(band.row_stop, wanted.row_stop)
        if low < high:
            read_band(run.store, band, low, high, out=filtered[:, low - wanted.row_start : high - wanted.row_start])
            read_bytes += (high - low) * band.row_bytes
    return filtered, read_bytes


def _publish_slab(run: OpenRun, bin_index: int, slab_index: int, accumulator: SlabAccumulator) -> dict[str, Any]:
    """Encode the slab's slices and its part of the preview into one pack."""
    plan, slab = run.plan, run.plan.slabs[slab_index]
    record = read_run(run.store, run.place.folder, (bin_index,))
    if record is None:
        raise SparkJobError(f"{run.place.folder} has no dates, or no range of bin {bin_index}: submit the job again")
    volume = SeriesEncoder(series_spec(run.stored.scan, plan, record, bin_index, "volume"))
    preview = SeriesEncoder(series_spec(run.stored.scan, plan, record, bin_index, "preview"))
    factor = plan.preview_factor
    step = max(ENCODE_SLICES, factor)

    def produce(handle: BinaryIO) -> dict[str, Any]:
        digests: list[str] = []
        n_clipped = n_instances = 0
        # A pack's content must not tell one attempt from another: no time in it.
        writer = PackWriter(handle, source=f"reconstruction {plan.run_name}")
        for start in range(0, slab.n_slices, step):
            slices = accumulator.read_slices(start, min(start + step, slab.n_slices))
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
        writer.finish()
        return {"slice_sha256": digests, "n_clipped": n_clipped, "n_instances": n_instances}

    path = pack_path(plan.run_name, bin_index, slab_index)
    result = publish(run.store, path, produce, kind="write_once")
    return result | {"pack": path, "pack_bytes": run.store.info(path).size}


def _slice_digest(values: NDArray[np.float32]) -> str:
    return sha256_of_bytes(np.ascontiguousarray(values, dtype="<f4").data)
