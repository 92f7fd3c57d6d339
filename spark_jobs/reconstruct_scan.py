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
from spark_jobs.packs import RUNS_FOLDER, submit_folder
from spark_jobs.plan import make_plan
from spark_jobs.report import run_report, write_report
from spark_jobs.series import RunRecord, run_from_bytes, series_spec, volume_digest
from spark_jobs.stages import StageResult, run_stage
from spark_jobs.workers import RunPlace, filter_rows, filter_tasks, prepare_bin, reconstruct_slab
from storage.errors import FileExistsInStoreError, StorageError
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import SparkSession

    from ingest.chunks import StoredScan
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
    if kept is not None and not again:
        done = _registered(index, stored, plan, kept)
        if done is not None:
            _log.info("run %s is registered already", plan.run_name)
            return _unchanged(stored, plan, kept, done)
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
    series = _series_results(stored, plan, run, slabs)
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


def _expected(stored: StoredScan, plan: ReconstructionPlan, run: RunRecord) -> dict[str, tuple[str, int]]:
    """Series UID -> (description, number of instances) of all series of a run."""
    expected = {}
    for bin_index in plan.bins:
        for product in ("volume", "preview"):
            spec = series_spec(stored.scan, plan, run, bin_index, product)
            uid = series_uid(spec.key, product, bin_index)
            expected[uid] = (series_description(spec), spec.grid.shape[0])
    return expected


def _registered(index: Index, stored: StoredScan, plan: ReconstructionPlan, run: RunRecord) -> dict[str, int] | None:
    """Instances of each series if all of the run is in the index, else None."""
    if not set(plan.bins) <= set(run.mu_ranges):
        return None
    expected = _expected(stored, plan, run)
    found: dict[str, int] = {}
    for uid in expected:
        query = Query("SERIES", {"SeriesInstanceUID": Match(exact=(uid,))}, ("NumberOfSeriesRelatedInstances",))
        for row in index.find(query, limit=2):
            found[uid] = int(row["NumberOfSeriesRelatedInstances"])
    return found if found == {uid: n for uid, (_, n) in expected.items()} else None


def _unchanged(stored: StoredScan, plan: ReconstructionPlan, run: RunRecord, found: dict[str, int]) -> RunResult:
    names = {uid: words for uid, (words, _) in _expected(stored, plan, run).items()}
    return RunResult(
        scan_id=plan.request.scan_id,
        run_name=plan.run_name,
        study_uid=study_uid_of(series_spec(stored.scan, plan, run, plan.bins[0], "volume")),
        series=tuple(SeriesResult(uid, names[uid], n) for uid, n in found.items()),
        unchanged=True,
        outcomes={"identical": sum(found.values())},
        report={},
        report_path=f"{run_folder(plan)}/report.json",
    )


def _series_results(
    stored: StoredScan, plan: ReconstructionPlan, run: RunRecord, slabs: StageResult
) -> tuple[SeriesResult, ...]:
    digests: dict[int, list[str]] = defaultdict(list)
    clipped: dict[int, int] = defaultdict(int)
    for result in slabs.results:  # in the order of (bin, slab)
        digests[result["bin"]] += result["slice_sha256"]
        clipped[result["bin"]] += result["n_clipped"]
    series = []
    for bin_index in plan.bins:
        for product in ("volume", "preview"):
            spec = series_spec(stored.scan, plan, run, bin_index, product)
            uid = series_uid(spec.key, product, bin_index)
            words, n_instances = _expected(stored, plan, run)[uid]
            is_volume = product == "volume"
            series.append(
                SeriesResult(
                    uid, words, n_instances,
                    volume_digest(digests[bin_index]) if is_volume else "", clipped[bin_index] if is_volume else 0,
                )
            )  # fmt: skip
    return tuple(series)
