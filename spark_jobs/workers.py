# SPDX-License-Identifier: Apache-2.0
"""What runs in Spark's Python workers: a task number in, a small JSON result out; pixels go through the store.

Every function can run any number of times: what it publishes is the same bytes, and a slab's pack carries the attempt
in its name.  Errors that no retry would cure come back as results, so that the job ends at once with one sentence.
"""

from __future__ import annotations

import json
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
from spark_jobs.packs import pack_path
from spark_jobs.plan import geometry_of, plan_from_bytes
from spark_jobs.probe import probe_mu_range
from spark_jobs.series import run_from_bytes, series_spec
from storage.checksum import sha256_of_bytes
from storage.filesystem import open_store
from storage.publish import publish, publish_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from numpy.typing import NDArray

    from ingest.chunks import StoredScan
    from reconstruction.backends import SlabAccumulator
    from reconstruction.fdk import SlabSetup
    from spark_jobs.plan import ReconstructionPlan
    from storage.filesystem import Store

RESULT_SCHEMA = pa.schema([("task", pa.int64()), ("result", pa.string())])
_HOPELESS = (IngestError, PacsError, ReconstructionError, SparkJobError)


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a task finds its run: all that Spark carries.

    Attributes
    ----------
    store_url : the store.
    folder : of the run, shared by all its submits: what lies there is the same bytes whoever writes it.
    threads : of one task.
    submit : folder of one submit, with its plan (another may ask for other bins, or have other memory) and its bands;
        "" for the run's own.
    """

    store_url: str
    folder: str
    threads: int
    submit: str = ""

    @property
    def submit_folder(self) -> str:
        """Where plan and bands of this submit lie."""
        return self.submit or self.folder


@dataclass(slots=True)
class _Run:
    """A run as a task sees it."""

    store: Store
    plan: ReconstructionPlan
    stored: StoredScan
    place: RunPlace


def _open_run(place: RunPlace) -> _Run:
    store = open_store(place.store_url)
    path = f"{place.submit_folder}/plan.json"
    plan = plan_from_bytes(store.read_bytes(path), path)
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


def filter_tasks(plan: ReconstructionPlan, n_blocks: int) -> list[tuple[int, int, int]]:
    """(bin, view block, first row) of each filter task."""
    starts = range(*plan.rows, plan.filter_rows)
    return [(b, block, row) for b in plan.bins for block in range(n_blocks) for row in starts]


def _band_file(run: _Run, bin_index: int, block: int, row: int, n_cols: int) -> BandFile:
    start, stop = run.stored.view_blocks[block]
    return BandFile(
        path=band_path(run.place.submit_folder, bin_index, block, row),
        row_start=row,
        row_stop=min(row + run.plan.filter_rows, run.plan.rows[1]),
        n_views=stop - start,
        n_cols=n_cols,
        dtype=run.plan.request.band_type,
    )


def filter_rows(place: RunPlace, task: int) -> dict[str, Any]:
    """Task of the filter stage: correct and filter a run of rows of one view block, and publish it."""
    run = _open_run(place)
    plan = run.plan
    bin_index, block, row = filter_tasks(plan, run.stored.n_view_blocks)[task]
    setup = plan.setup(geometry_of(run.stored), 0)
    band = _band_file(run, bin_index, block, row, setup.ramp.n_out)
    mask = read_mask(run.store, mask_path(place.folder, bin_index))
    corrector = RowCorrector(run.stored, bin_index, mask, plan.request.correction, band.row_start, band.row_stop)
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
    run = _open_run(place)
    setup, accumulator, _, _ = _fill_slab(run, *run.plan.tasks[task])
    return accumulator.read_slices(0, setup.slab.n_slices)


def _fill_slab(run: _Run, bin_index: int, slab_index: int) -> tuple[SlabSetup, SlabAccumulator, int, FloorReport]:
    """Add all views to one slab; also the bytes read, and the values raised to the floor."""
    setup = run.plan.setup(geometry_of(run.stored), slab_index)
    accumulator = load_backend(run.plan.backend).start(setup, threads=run.place.threads)
    fill = _add_bands if run.plan.two_stage else _add_rows
    return setup, accumulator, *fill(run, bin_index, setup, accumulator)


def _add_rows(run: _Run, bin_index: int, setup: SlabSetup, accumulator: SlabAccumulator) -> tuple[int, FloorReport]:
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


def _add_bands(run: _Run, bin_index: int, setup: SlabSetup, accumulator: SlabAccumulator) -> tuple[int, FloorReport]:
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


def _read_filtered(run: _Run, bin_index: int, block: int, setup: SlabSetup) -> tuple[NDArray[np.float32], int]:
    """The slab's filtered rows of one view block, (view, row, filtered col), and the bytes read."""
    plan, wanted = run.plan, setup.band
    start, stop = run.stored.view_blocks[block]
    filtered = np.empty((stop - start, wanted.n_rows, setup.ramp.n_out), dtype=np.float32)
    read_bytes = 0
    for row in range(*plan.rows, plan.filter_rows):
        band = _band_file(run, bin_index, block, row, setup.ramp.n_out)
        low, high = max(band.row_start, wanted.row_start), min(band.row_stop, wanted.row_stop)
        if low < high:
            read_band(run.store, band, low, high, out=filtered[:, low - wanted.row_start : high - wanted.row_start])
            read_bytes += (high - low) * band.row_bytes
    return filtered, read_bytes


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

    path = pack_path(plan.run_name, bin_index, slab_index)
    result = publish(run.store, path, produce, kind="write_once")
    return result | {"pack": path, "pack_bytes": run.store.info(path).size}


def _slice_digest(values: NDArray[np.float32]) -> str:
    return sha256_of_bytes(np.ascontiguousarray(values, dtype="<f4").data)
