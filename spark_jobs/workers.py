# SPDX-License-Identifier: Apache-2.0
"""What runs in Spark's Python workers: a task number in, a small JSON result out; pixels go through the store.

Every function can run any number of times: what it publishes is the same bytes, and a slab's pack carries the attempt
in its name.  Errors that no retry would cure come back as results, so that the job ends at once with one sentence.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.chunks import open_scan_chunks
from ingest.errors import IngestError
from pacs.encode import SeriesEncoder
from pacs.errors import PacsError
from pacs.pack import PackWriter
from pacs.preview import block_average
from reconstruction.backends import load_backend
from reconstruction.correction import FloorReport
from reconstruction.errors import ReconstructionError
from spark_jobs.bands import BandFile, band_path, read_band, write_band
from spark_jobs.corrected_rows import RawBlock, RowCorrector, find_mask, mask_bytes, read_mask
from spark_jobs.cost import ENCODE_SLICES
from spark_jobs.errors import SparkJobError
from spark_jobs.memory import PeakMemory
from spark_jobs.plan import geometry_of, plan_from_bytes
from spark_jobs.probe import probe_mu_range
from spark_jobs.series import run_from_bytes, series_spec
from storage.filesystem import open_store
from storage.publish import publish, publish_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from numpy.typing import NDArray

    from ingest.chunks import StoredScan
    from reconstruction.backends import SlabAccumulator
    from spark_jobs.plan import ReconstructionPlan
    from storage.filesystem import Store

RESULT_SCHEMA = pa.schema([("task", pa.int64()), ("result", pa.string())])
_HOPELESS = (IngestError, PacsError, ReconstructionError, SparkJobError)


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a task finds its run: all that Spark carries."""

    store_url: str
    folder: str
    threads: int


@dataclass(slots=True)
class _Run:
    """A run as a task sees it."""

    store: Store
    plan: ReconstructionPlan
    stored: StoredScan
    place: RunPlace


def _open_run(place: RunPlace) -> _Run:
    store = open_store(place.store_url)
    plan = plan_from_bytes(store.read_bytes(f"{place.folder}/plan.json"), f"{place.folder}/plan.json")
    stored = open_scan_chunks(store, plan.request.scan_id)
    if stored.manifest_sha256 != plan.scan_sha256:
        raise SparkJobError(f"scan {plan.request.scan_id} is not the one that {place.folder} was planned for")
    return _Run(store, plan, stored, place)


def task_results(
    batches: Iterator[pa.RecordBatch], place: RunPlace, work: Callable[[RunPlace, int], dict[str, Any]]
) -> Iterator[pa.RecordBatch]:
    """Run `work` on each task number of the batches (column ``id``) and yield results as `RESULT_SCHEMA`.

    A result is JSON with ``wall_s``, ``cpu_s`` and ``peak_bytes`` added, or with ``error`` alone.
    """
    for batch in batches:
        for task in batch.column("id").to_pylist():
            result = measured(place, task, work)
            yield pa.RecordBatch.from_pydict({"task": [task], "result": [json.dumps(result)]}, schema=RESULT_SCHEMA)


def measured(place: RunPlace, task: int, work: Callable[[RunPlace, int], dict[str, Any]]) -> dict[str, Any]:
    """Run one task and measure it."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        with PeakMemory() as memory:
            result = work(place, task)
    except _HOPELESS as error:
        return {"error": str(error)}
    result["wall_s"], result["cpu_s"] = time.perf_counter() - wall, time.process_time() - cpu
    result["peak_bytes"] = memory.peak_bytes
    return result


def mask_path(folder: str, bin_index: int) -> str:
    """Where the bad pixels of a bin lie."""
    return f"{folder}/bad-pixels-bin{bin_index:02d}.npz"


def prepare_bin(place: RunPlace, task: int) -> dict[str, Any]:
    """Task of the first stage, one for each bin: find bad pixels, and the range of mu to store."""
    run = _open_run(place)
    plan, bin_index = run.plan, run.plan.bins[task]
    mask, words = find_mask(run.stored, bin_index, plan.request.correction)
    publish_bytes(run.store, mask_path(place.folder, bin_index), mask_bytes(mask), kind="replace")
    mu_range = plan.request.mu_range
    if mu_range is None:
        mu_range = probe_mu_range(
            run.stored, geometry_of(run.stored), plan.grid, bin_index, mask, plan.request.correction, plan.radius_mm,
            plan.backend,
        )  # fmt: skip
    return {"bin": bin_index, "bad_pixels": words, "mu_range": list(mu_range)}


def filter_tasks(plan: ReconstructionPlan, row_start: int, row_stop: int, n_blocks: int) -> list[tuple[int, int, int]]:
    """(bin, view block, first row) of each filter task."""
    starts = range(row_start, row_stop, plan.filter_rows)
    return [(b, block, row) for b in plan.bins for block in range(n_blocks) for row in starts]


def _shadow_rows(run: _Run) -> tuple[int, int]:
    """The rows that any slab needs."""
    setups = [run.plan.setup(geometry_of(run.stored), index) for index in range(len(run.plan.slabs))]
    return min(s.band.row_start for s in setups), max(s.band.row_stop for s in setups)


def _band_file(run: _Run, bin_index: int, block: int, row: int, row_stop: int, n_cols: int) -> BandFile:
    start, stop = run.stored.view_blocks[block]
    return BandFile(
        path=band_path(run.place.folder, bin_index, block, row),
        row_start=row,
        row_stop=min(row + run.plan.filter_rows, row_stop),
        n_views=stop - start,
        n_cols=n_cols,
        dtype=run.plan.request.band_type,
    )


def filter_rows(place: RunPlace, task: int) -> dict[str, Any]:
    """Task of the filter stage: correct and filter a run of rows of one view block, and publish it."""
    run = _open_run(place)
    plan, low_high = run.plan, _shadow_rows(run)
    bin_index, block, row = filter_tasks(plan, *low_high, run.stored.n_view_blocks)[task]
    setup = plan.setup(geometry_of(run.stored), 0)
    band = _band_file(run, bin_index, block, row, low_high[1], setup.ramp.n_out)
    mask = read_mask(run.store, mask_path(place.folder, bin_index))
    corrector = RowCorrector(
        run.stored, bin_index, mask, plan.request.correction, band.row_start, band.row_stop
    )  # fmt: skip
    raw = corrector.read_block(block)
    lines, views = corrector.line_integrals([raw], 0, band.n_views)
    filtered = load_backend(plan.backend).filter_rows(
        setup, lines, views, row_start=band.row_start, threads=place.threads
    )
    written = write_band(run.store, band, filtered)
    return {"written_bytes": written, "read_bytes": corrector.read_bytes, "floored": asdict(corrector.floored)}


def reconstruct_slab(place: RunPlace, task: int) -> dict[str, Any]:
    """Task of the last stage: one slab of one bin, from stored rows to a pack of DICOM instances."""
    run = _open_run(place)
    bin_index, slab_index = run.plan.tasks[task]
    setup = run.plan.setup(geometry_of(run.stored), slab_index)
    accumulator = load_backend(run.plan.backend).start(setup, threads=place.threads)
    started = time.perf_counter()
    fill = _add_bands if run.plan.two_stage else _add_rows
    read_bytes, floored = fill(run, bin_index, slab_index, accumulator)
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


def _add_rows(run: _Run, bin_index: int, slab_index: int, accumulator: SlabAccumulator) -> tuple[int, FloorReport]:
    """Fused: read, correct, filter and back-project batch by batch; the next one is read meanwhile."""
    plan = run.plan
    band = plan.setup(geometry_of(run.stored), slab_index).band
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


def _add_bands(run: _Run, bin_index: int, slab_index: int, accumulator: SlabAccumulator) -> tuple[int, FloorReport]:
    """Two stages: read filtered rows and back-project them."""
    plan = run.plan
    setup = plan.setup(geometry_of(run.stored), slab_index)
    low, high = _shadow_rows(run)
    starts = range(low, high, plan.filter_rows)
    wanted = [row for row in starts if row < setup.band.row_stop and row + plan.filter_rows > setup.band.row_start]
    read_bytes = 0
    for batch in plan.batches:
        parts = []
        for block in batch:
            rows = []
            for row in wanted:
                band = _band_file(run, bin_index, block, row, high, setup.ramp.n_out)
                cut = max(band.row_start, setup.band.row_start), min(band.row_stop, setup.band.row_stop)
                rows.append(read_band(run.store, band, *cut))
                read_bytes += (cut[1] - cut[0]) * band.row_bytes
            parts.append(np.concatenate(rows, axis=1) if len(rows) > 1 else rows[0])
        step = max(1, plan.batch_views // len(batch))
        for first in range(0, len(parts[0]), step):
            views = [
                run.stored.view_blocks[block][0] + np.arange(first, min(first + step, len(part)))
                for block, part in zip(batch, parts, strict=True)
            ]
            filtered = np.concatenate([part[first : first + step] for part in parts])
            accumulator.add_filtered(filtered, np.concatenate(views))
    return read_bytes, FloorReport()


def _publish_slab(run: _Run, bin_index: int, slab_index: int, accumulator: SlabAccumulator) -> dict[str, Any]:
    """Encode the slab's slices and its part of the preview into one pack."""
    plan, slab = run.plan, run.plan.slabs[slab_index]
    record = run_from_bytes(run.store.read_bytes(f"{run.place.folder}/run.json"), f"{run.place.folder}/run.json")
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

    attempt = secrets.token_hex(6)
    path = f"packs/{plan.run_name}/bin{bin_index:02d}-slab{slab_index:04d}-{attempt}.zip"
    result = publish(run.store, path, produce, kind="write_once")
    return result | {"pack": path, "pack_bytes": run.store.info(path).size}


def _slice_digest(values: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()
