# SPDX-License-Identifier: Apache-2.0
"""The main job: a stored scan to registered DICOM series.

Stages: *prepare* (one task a bin: bad pixels, stored range), *filter* (two-stage plans only), *reconstruct* (one task a
bin and slab, each publishing a pack), then one transaction that registers the packs.  Nothing is visible before it.
What a stage has finished is used again by the next submit, whatever ended this one.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ingest.chunks import open_scan_chunks
from pacs.image_header import series_description, study_uid_of
from pacs.index import Match, Query
from pacs.uids import series_uid
from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.series import read_run, series_spec, volume_digest
from spark_jobs.running.report import run_report, write_report
from spark_jobs.running.session import StartedOnce
from spark_jobs.running.stages import StageRunner
from spark_jobs.running.submit import open_submit, register, run_folder, run_stages
from spark_jobs.tasks.slab_task import reconstruct_slab
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

    from ingest.chunks import StoredScan
    from pacs.description import Product
    from pacs.index import Index
    from spark_jobs.planning.plan import ReconstructionPlan
    from spark_jobs.planning.request import ReconstructionRequest
    from spark_jobs.planning.series import RunRecord
    from spark_jobs.running.stages import StageResult
    from spark_jobs.tasks.job_stages import SlabWork
    from storage.filesystem import Store

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
    ui_url : Spark's web pages while its session lives; "" without them, or if Spark was not needed
    """

    scan_id: str
    run_name: str
    study_uid: str
    series: tuple[SeriesResult, ...]
    unchanged: bool
    outcomes: dict[str, int]
    report: dict[str, Any]
    report_path: str
    ui_url: str = ""


def software_version() -> str:
    """Return the installed version of this software."""
    try:
        return version("conepacs")
    except PackageNotFoundError:
        return "unknown"


def reconstruct_scan(
    store: Store,
    index: Index,
    request: ReconstructionRequest,
    *,
    session: Callable[[], SparkSession],
    task_threads: int = 1,
    publishers: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    again: bool = False,
    should_stop: Callable[[], bool] | None = None,
    on_start: Callable[[str], None] | None = None,
    slab_work: SlabWork = reconstruct_slab,
) -> RunResult:
    """Reconstruct one stored scan and register its series.

    What an earlier submit of the same run finished is used again, whatever ended it.

    Parameters
    ----------
    store, index : where pixels and rows go.
    request : what to do.
    session : starts Spark; called only when something has to be computed.
    task_threads : threads of one task.
    publishers : tasks of a node that publish at the same time, whichever job they are of; 0 for all.
    progress : called with the stage's name, tasks done, tasks in all.
    again : compute also what is registered already (the result must be identical); nothing finished is used.
    should_stop : whether to stop; asked between stages, and during them by another thread.
    on_start : called with the address of Spark's web pages, once Spark has started; "" without them.
    slab_work : the slab task; tests wrap it.

    Raises
    ------
    JobStoppedError
        If it was told to stop: how many slabs are finished.
    PlanError, TaskFailedError, SparkJobError, and errors of the layers below
        With one plain sentence; nothing was registered then.
    """
    started = time.perf_counter()
    stored = open_scan_chunks(store, request.scan_id)
    plan = make_plan(stored, request)
    folder = run_folder(plan)
    kept = read_run(store, folder, plan.bins)
    if kept is not None and not again:
        planned = _planned_series(stored, plan, kept)
        if _is_registered(index, planned):
            _log.info("run %s is registered already", plan.run_name)
            return _unchanged(stored, plan, kept, planned)
    _log.info("run %s begins with %d slab tasks", plan.run_name, len(plan.tasks))
    publish_bytes(store, f"{folder}/plan.json", plan.to_bytes(), kind="replace")
    spark = StartedOnce(session, on_start)
    with open_submit(store, stored, plan, task_threads=task_threads, publishers=publishers, again=again) as run:
        stages = StageRunner(spark, run.place, progress, should_stop, plan.cost.task_bytes)
        finished = run_stages(run, stages, slab_work, again=again, software=software_version())
        register_started = time.perf_counter()
        outcomes = {str(kind): count for kind, count in register(run, index, finished).items()}
        register_s = time.perf_counter() - register_started
    series = _series_results(_planned_series(stored, plan, finished.run), finished.slabs)
    report = run_report(
        stored, plan, finished.run, finished.stages, outcomes=outcomes, ui_url=spark.ui_url,
        series=[dataclasses.asdict(s) for s in series], software=software_version(),
        seconds={"session": spark.start_s, "register": register_s, "whole": time.perf_counter() - started},
    )  # fmt: skip
    for task in report["over_memory"]:
        _log.warning(
            "run %s: a worker took %.0f MiB in stage %s, task %d, where %.0f MiB were planned",
            plan.run_name, task["measured_mib"], task["stage"], task["task"], task["planned_mib"],
        )  # fmt: skip
    report_path = write_report(store, folder, report)
    return RunResult(
        scan_id=request.scan_id,
        run_name=plan.run_name,
        study_uid=study_uid_of(series_spec(stored.scan, plan, finished.run, plan.bins[0], "volume")),
        series=series,
        unchanged=outcomes.get("added", 0) == 0 and outcomes.get("version", 0) == 0,
        outcomes=outcomes,
        report=report,
        report_path=report_path,
        ui_url=spark.ui_url,
    )


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
