# SPDX-License-Identifier: Apache-2.0
"""One submit of a run: its stages, each of which does only what no earlier submit has finished."""

from __future__ import annotations

import contextlib
import datetime
import logging
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pacs.errors import PackError
from pacs.pack import read_pack_manifest
from pacs.register import register_packs
from spark_jobs.errors import JobStoppedError, SparkJobError, TaskFailedError
from spark_jobs.planning.plan import working_geometry
from spark_jobs.planning.series import RunRecord, fix_run, read_run
from spark_jobs.run_files.packs import DONE_FOLDER, RUNS_FOLDER, stopped_marks, submit_folder
from spark_jobs.run_files.white_file import white_path
from spark_jobs.tasks.brick_task import brick_file
from spark_jobs.tasks.checkpoints import (
    bands_folder,
    bands_stem,
    finished_results,
    forget_packs,
    leave_mark,
    slab_name,
)
from spark_jobs.tasks.corrected_rows import has_white
from spark_jobs.tasks.filter_task import band_file, filter_tasks
from spark_jobs.tasks.job_stages import job_stages
from spark_jobs.tasks.prepare_task import mask_path
from spark_jobs.tasks.workers import OpenRun, RunPlace
from storage.errors import StorageError
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.chunks import StoredScan
    from pacs.index import Index, Outcome
    from spark_jobs.planning.plan import ReconstructionPlan
    from spark_jobs.running.stages import StageResult, StageRunner
    from spark_jobs.tasks.job_stages import JobStage, SlabWork
    from storage.filesystem import Store

_log = logging.getLogger(__name__)


def run_folder(plan: ReconstructionPlan) -> str:
    """Folder of a run in the store."""
    return f"{RUNS_FOLDER}/{plan.run_name}"


@dataclass(frozen=True, slots=True)
class Finished:
    """What the stages of a submit came to.

    Attributes
    ----------
    run : dates, ranges and bad pixels, as the first submit fixed them
    stages : in their order; the slabs last
    """

    run: RunRecord
    stages: list[StageResult]

    @property
    def slabs(self) -> StageResult:
        """The last stage."""
        return self.stages[-1]


@contextlib.contextmanager
def open_submit(
    store: Store, stored: StoredScan, plan: ReconstructionPlan, *, task_threads: int, publishers: int, again: bool
) -> Iterator[OpenRun]:
    """Make a folder for the plan of this submit alone, gone afterwards.

    Whoever leaves with an error leaves a mark, so that what is finished is not swept for some time.  With `again`
    nothing that is finished is used, and nothing can be gone on with: records and filtered rows lie in this folder too.
    """
    folder = run_folder(plan)
    submit = submit_folder(folder)
    own = submit if again else folder
    place = RunPlace(
        store.url, folder, task_threads, submit, records=f"{own}/{DONE_FOLDER}", bands=bands_stem(own, plan),
        publishers=publishers,
    )  # fmt: skip
    publish_bytes(store, f"{submit}/plan.json", plan.to_bytes(), kind="replace")
    try:
        yield OpenRun(store, plan, stored, place)
    except BaseException as error:
        if not again:
            leave_mark(store, folder, str(error) if isinstance(error, SparkJobError) else type(error).__name__)
        raise
    finally:
        try:
            store.delete(submit, recursive=True)
        except StorageError as error:
            _log.warning("%s stays until the next sweep (%s)", submit, error)


def run_stages(run: OpenRun, stages: StageRunner, slab_work: SlabWork, *, again: bool, software: str) -> Finished:
    """Run what is not finished of the stages of a plan.

    Raises
    ------
    JobStoppedError
        With the number of slabs that are finished.
    TaskFailedError, SparkJobError
        As `StageRunner.run` does.
    """
    plan, place = run.plan, run.place
    names = {task: slab_name(*bin_slab) for task, bin_slab in enumerate(plan.tasks)}
    prepare, *others = job_stages(plan, slab_work)
    try:
        found = finished_results(run.store, place.records, plan.run_name, names.values())
        slabs = {task: found[name] for task, name in names.items() if name in found}
        missing = {plan.tasks[task] for task in names if task not in slabs}
        finished = {} if again else _finished_bins(run, missing)
        done = [stages.run(prepare.name, prepare.n_tasks, prepare.work, finished=finished)]
        record = _fixed(run, software)
        for stage in others:
            finished = slabs if stage is others[-1] else _FINISHED[stage.name](run, missing)
            done.append(_run_stage(run, stages, stage, finished))
        stages.stop_if_told("register", 0, 1)
    except JobStoppedError as error:
        count = len(finished_results(run.store, place.records, plan.run_name, names.values()))
        told = f"scan {plan.request.scan_id}: stopped after {count} of {len(names)} slabs"
        rest = "nothing of it is kept" if again else "the same request goes on there"
        raise JobStoppedError(f"{told}; {rest}") from error
    return Finished(record, done)


def _run_stage(run: OpenRun, stages: StageRunner, stage: JobStage, finished: dict[int, dict[str, Any]]) -> StageResult:
    """One of the stages after the first."""
    try:
        return stages.run(stage.name, stage.n_tasks, stage.work, finished=finished)
    except (JobStoppedError, TaskFailedError):
        raise
    except SparkJobError:
        # What no retry cures may be a damaged band, brick or white: the next submit makes them again.
        delete_intermediates(run)
        raise


def _finished_bins(run: OpenRun, missing: set[tuple[int, int]]) -> dict[int, dict[str, Any]]:
    """Bins whose range and bad pixels are known, and whose white is there if a slab (bin, slab) still needs it."""
    plan, folder = run.plan, run.place.folder
    finished = {}
    for task, bin_index in enumerate(plan.bins):
        record = read_run(run.store, folder, (bin_index,))
        wanted = any(bin_index == of_bin for of_bin, _ in missing)
        if record is None or not run.store.exists(mask_path(folder, bin_index)):
            continue
        if not wanted or has_white(run.stored, run.place.own_folder, bin_index):
            finished[task] = {
                "bin": bin_index, "bad_pixels": record.bad_pixels[bin_index],
                "mu_range": list(record.mu_ranges[bin_index]), "peak_bytes": 0,
            }  # fmt: skip
    return finished


def _fixed(run: OpenRun, software: str) -> RunRecord:
    """The run record; dates and ranges of an earlier submit stay, and of submits at once one decides."""
    now = datetime.datetime.now().astimezone()
    fix_run(run.store, run.place.folder, RunRecord(now.strftime("%Y%m%d"), now.strftime("%H%M%S"), {}, {}, software))
    record = read_run(run.store, run.place.folder, run.plan.bins)
    if record is None:
        raise SparkJobError(f"{run.place.folder}: what the run fixed is gone; submit the job again")
    return record


def _finished_bands(run: OpenRun, missing: set[tuple[int, int]]) -> dict[int, dict[str, Any]]:
    """Filter tasks whose rows are there with their size, or which none of these slabs (bin, slab) needs."""
    bins = {bin_index for bin_index, _ in missing}
    n_cols = run.plan.setup(working_geometry(run.stored, run.plan), 0).ramp.n_out
    sizes = _sizes_of(run, bins)
    finished: dict[int, dict[str, Any]] = {}
    for task, (bin_index, place, row) in enumerate(filter_tasks(run.plan)):
        band = band_file(run, bin_index, place, row, n_cols)
        if bin_index not in bins or sizes.get(band.path) == band.n_rows * band.row_bytes:
            finished[task] = {"peak_bytes": 0}
    return finished


def _finished_bricks(run: OpenRun, missing: set[tuple[int, int]]) -> dict[int, dict[str, Any]]:
    """Brick tasks whose brick is there with its size, or which none of these slabs (bin, slab) needs."""
    plan = run.plan
    assert plan.bricks is not None
    sizes = _sizes_of(run, {bin_index for bin_index, _ in missing})
    finished: dict[int, dict[str, Any]] = {}
    for task, (bin_index, brick_index) in enumerate(plan.brick_tasks):
        brick = brick_file(run, bin_index, brick_index)
        slab = bin_index, plan.bricks.brick(brick_index).slab_index
        if slab not in missing or sizes.get(brick.path) == brick.file_bytes:
            finished[task] = {"peak_bytes": 0}
    return finished


#: What is finished of the stages between the first and the last, by their names.
_FINISHED = MappingProxyType({"filter": _finished_bands, "bricks": _finished_bricks})


def _sizes_of(run: OpenRun, bins: set[int]) -> dict[str, int]:
    """Sizes of the filtered rows and bricks of these bins, by path."""
    return {
        entry.path: entry.size
        for bin_index in bins
        for entry in run.store.list_folder(bands_folder(run.place.bands_stem, bin_index))
    }


def delete_intermediates(run: OpenRun) -> None:
    """Delete white, filtered rows and bricks of the plan's bins: what only the tasks of a run need."""
    for bin_index in run.plan.bins:
        run.store.delete(bands_folder(run.place.bands_stem, bin_index), recursive=True)
        for position in run.stored.scan.field_positions:
            run.store.delete(white_path(run.place.own_folder, bin_index, position))


def register(run: OpenRun, index: Index, finished: Finished) -> dict[Outcome, int]:
    """Register the packs in one transaction, and delete what only served to go on after a stop.

    Raises
    ------
    PackError
        If a pack is damaged; its slab is forgotten, so that the next submit computes it again.
    IndexUnavailableError
        If the index does not answer; all that is finished stays.
    """
    plan, place = run.plan, run.place
    packs = [result["pack"] for result in finished.slabs.results]
    try:
        outcomes = register_packs(index, run.store, packs, source=f"reconstruction {plan.run_name}")
    except PackError:
        forget_packs(run.store, place.records, _damaged(run.store, packs))
        raise
    try:
        # Another submit of these bins that still reads them finds each slab recorded instead.
        delete_intermediates(run)
        for mark in stopped_marks(run.store, place.folder):
            run.store.delete(mark)
    except StorageError as error:
        _log.warning("%s keeps white, filtered rows or marks until the next sweep (%s)", place.folder, error)
    return outcomes


def _damaged(store: Store, packs: list[str]) -> list[str]:
    """Packs whose manifest cannot be read."""
    damaged = []
    for path in packs:
        try:
            read_pack_manifest(store, path)
        except PackError:
            damaged.append(path)
    return damaged
