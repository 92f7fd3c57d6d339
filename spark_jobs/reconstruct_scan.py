# SPDX-License-Identifier: Apache-2.0
"""The main job: a stored scan to registered DICOM series.

Stages: *prepare* (one task a bin: bad pixels, stored range), *filter* (two-stage plans only), *reconstruct* (one task a
bin and slab, each publishing a pack), then one transaction that registers the packs.  Nothing is visible before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ingest.chunks import open_scan_chunks
from pacs.image_header import series_description, study_uid_of
from pacs.index import Match, Query
from pacs.register import register_packs
from pacs.uids import series_uid
from spark_jobs.filter_task import filter_rows, filter_tasks
from spark_jobs.packs import RUNS_FOLDER, submit_folder
from spark_jobs.plan import make_plan
from spark_jobs.prepare_task import prepare_bin
from spark_jobs.report import run_report, write_report
from spark_jobs.series import RunRecord, run_from_bytes, series_spec, volume_digest
from spark_jobs.slab_task import reconstruct_slab
from spark_jobs.stages import StageResult, run_stage
from spark_jobs.workers import RunPlace
from storage.errors import FileExistsInStoreError, StorageError
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import SparkSession

    from ingest.chunks import StoredScan
    from pacs.description import Product
    from pacs.index import Index
    from spark_jobs.plan import ReconstructionPlan
    from spark_jobs.request import ReconstructionRequest
    from storage.filesystem import Store

    SlabWork = Callable[[RunPlace, int], dict[str, Any]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """One registered series.

    Attributes
    ----------
    series_uid, description
    n_instances : slices
    volume_sha256 : of the float32 voxels ("" for a preview, and where nothing had to be computed)
    n_clipped : voxels outside of the stored range
    """

    series_uid: str
    description: str
    n_instances: int
    volume_sha256: str = ""
    n_clipped: int = 0


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a reconstruction came to.

    Attributes
    ----------
    scan_id, run_name, study_uid
    series : volume and preview series of each bin
    unchanged : all of it was registered before; nothing was computed
    outcomes : instances added, identical, or registered as another version
    report : the run report (also in the store at `report_path`)
    """

    scan_id: str
    run_name: str
    study_uid: str
    series: tuple[SeriesResult, ...]
    unchanged: bool
    outcomes: dict[str, int]
    report: dict[str, Any]
    report_path: str


def software_version() -> str:
    """Return the installed version of this software."""
    try:
        return version("conepacs")
    except PackageNotFoundError:
        return "unknown"


def run_folder(plan: ReconstructionPlan) -> str:
    """Folder of a run in the store."""
    return f"{RUNS_FOLDER}/{plan.run_name}"


def reconstruct_scan(
    store: Store,
    index: Index,
    request: ReconstructionRequest,
    *,
    session: Callable[[], SparkSession],
    task_threads: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
    again: bool = False,
    slab_work: SlabWork = reconstruct_slab,
) -> RunResult:
    """Reconstruct one stored scan and register its series.

    Parameters
    ----------
    store, index : where pixels and rows go.
    request : what to do.
    session : starts Spark; called only when something has to be computed.
    task_threads : threads of one task.
    progress : called with the stage's name, tasks done, tasks in all.
    again : compute also what is registered already (the result must be identical).
    slab_work : the slab task; tests wrap it.

    Raises
    ------
    PlanError, TaskFailedError, SparkJobError, and errors of the layers below
        With one plain sentence; nothing was registered then.
    """
    started = time.perf_counter()
    stored = open_scan_chunks(store, request.scan_id)
    plan = make_plan(stored, request)
    folder = run_folder(plan)
    kept = _kept_run(store, folder)
    if kept is not None and not again and set(plan.bins) <= set(kept.mu_ranges):
        planned = _planned_series(stored, plan, kept)
        if _is_registered(index, planned):
            _log.info("run %s is registered already", plan.run_name)
            return _unchanged(stored, plan, kept, planned)
    publish_bytes(store, f"{folder}/plan.json", plan.to_bytes(), kind="replace")
    before_session = time.perf_counter()
    spark = session()
    session_s = time.perf_counter() - before_session
    with _submit(store, folder, plan) as submit:
        place = RunPlace(store.url, folder, task_threads, submit)
        stages = [run_stage(spark, "prepare", len(plan.bins), place, prepare_bin, progress=progress)]
        run = _complete_run(store, folder, stages[0])
        if plan.two_stage:
            n_tasks = len(filter_tasks(plan, stored.n_view_blocks))
            stages.append(run_stage(spark, "filter", n_tasks, place, filter_rows, progress=progress))
        slabs = run_stage(spark, "reconstruct", len(plan.tasks), place, slab_work, progress=progress)
        stages.append(slabs)
    register_started = time.perf_counter()
    outcomes = register_packs(
        index, store, [r["pack"] for r in slabs.results], source=f"reconstruction {plan.run_name}"
    )
    register_s = time.perf_counter() - register_started
    series = _series_results(_planned_series(stored, plan, run), slabs)
    report = run_report(
        stored, plan, run, stages, outcomes={str(k): v for k, v in outcomes.items()},
        series=[dataclasses.asdict(s) for s in series], software=software_version(),
        seconds={"session": session_s, "register": register_s, "whole": time.perf_counter() - started},
    )  # fmt: skip
    report_path = write_report(store, folder, report)
    return RunResult(
        scan_id=request.scan_id,
        run_name=plan.run_name,
        study_uid=study_uid_of(series_spec(stored.scan, plan, run, plan.bins[0], "volume")),
        series=series,
        unchanged=outcomes.get("added", 0) == 0 and outcomes.get("version", 0) == 0,
        outcomes={str(k): v for k, v in outcomes.items()},
        report=report,
        report_path=report_path,
    )


@contextlib.contextmanager
def _submit(store: Store, folder: str, plan: ReconstructionPlan) -> Iterator[str]:
    """A folder for the plan and the filtered rows of this submit alone; gone afterwards, come what may."""
    submit = submit_folder(folder)
    publish_bytes(store, f"{submit}/plan.json", plan.to_bytes(), kind="replace")
    try:
        yield submit
    finally:
        try:
            store.delete(submit, recursive=True)
        except StorageError as error:
            _log.warning("%s stays until the next sweep (%s)", submit, error)


def _kept_run(store: Store, folder: str) -> RunRecord | None:
    path = f"{folder}/run.json"
    return run_from_bytes(store.read_bytes(path), path) if store.exists(path) else None


def _complete_run(store: Store, folder: str, prepared: StageResult) -> RunRecord:
    """The run record with what the first stage found; dates and ranges of an earlier submit stay.

    Two submits may run at once: exactly one makes the record, and the other goes by it.
    """
    path = f"{folder}/run.json"
    ranges = {r["bin"]: (r["mu_range"][0], r["mu_range"][1]) for r in prepared.results}
    words = {r["bin"]: r["bad_pixels"] for r in prepared.results}
    now = datetime.datetime.now().astimezone()
    run = RunRecord(now.strftime("%Y%m%d"), now.strftime("%H%M%S"), ranges, words, software_version())
    try:
        publish_bytes(store, path, run.to_bytes(), kind="write_once")
    except FileExistsInStoreError:
        kept = run_from_bytes(store.read_bytes(path), path)
        run = dataclasses.replace(kept, mu_ranges=ranges | kept.mu_ranges, bad_pixels=words | kept.bad_pixels)
        if run != kept:
            publish_bytes(store, path, run.to_bytes(), kind="replace")
    return run


@dataclass(frozen=True, slots=True)
class _PlannedSeries:
    """One series that a run makes: its bin and product, and what the index says of it once it is registered."""

    bin_index: int
    product: Product
    uid: str
    description: str
    n_instances: int


def _planned_series(stored: StoredScan, plan: ReconstructionPlan, run: RunRecord) -> list[_PlannedSeries]:
    """All series of a run, volume before preview, by bin."""
    planned = []
    for bin_index in plan.bins:
        products: tuple[Product, ...] = ("volume", "preview")
        for product in products:
            spec = series_spec(stored.scan, plan, run, bin_index, product)
            uid = series_uid(spec.key, product, bin_index)
            planned.append(_PlannedSeries(bin_index, product, uid, series_description(spec), spec.grid.shape[0]))
    return planned


def _is_registered(index: Index, planned: list[_PlannedSeries]) -> bool:
    """Whether every series is in the index with all of its instances."""
    for series in planned:
        query = Query("SERIES", {"SeriesInstanceUID": Match(exact=(series.uid,))}, ("NumberOfSeriesRelatedInstances",))
        counts = [int(row["NumberOfSeriesRelatedInstances"]) for row in index.find(query, limit=2)]
        if counts != [series.n_instances]:
            return False
    return True


def _unchanged(
    stored: StoredScan, plan: ReconstructionPlan, run: RunRecord, planned: list[_PlannedSeries]
) -> RunResult:
    return RunResult(
        scan_id=plan.request.scan_id,
        run_name=plan.run_name,
        study_uid=study_uid_of(series_spec(stored.scan, plan, run, plan.bins[0], "volume")),
        series=tuple(SeriesResult(series.uid, series.description, series.n_instances) for series in planned),
        unchanged=True,
        outcomes={"identical": sum(series.n_instances for series in planned)},
        report={},
        report_path=f"{run_folder(plan)}/report.json",
    )


def _series_results(planned: list[_PlannedSeries], slabs: StageResult) -> tuple[SeriesResult, ...]:
    digests: dict[int, list[str]] = defaultdict(list)
    clipped: dict[int, int] = defaultdict(int)
    for result in slabs.results:  # in the order of (bin, slab)
        digests[result["bin"]] += result["slice_sha256"]
        clipped[result["bin"]] += result["n_clipped"]
    results = []
    for series in planned:
        is_volume = series.product == "volume"
        digest = volume_digest(digests[series.bin_index]) if is_volume else ""
        n_clipped = clipped[series.bin_index] if is_volume else 0
        results.append(SeriesResult(series.uid, series.description, series.n_instances, digest, n_clipped))
    return tuple(results)
