# SPDX-License-Identifier: Apache-2.0
"""What runs the kinds of `spark_jobs.running.kinds`: loaded by the runner alone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ingest.chunks import open_scan_chunks
from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.plan_figures import plan_figures
from spark_jobs.running.kinds import request_of
from spark_jobs.running.metrics import run_figures
from spark_jobs.running.reconstruct_scan import reconstruct_scan
from storage.log_context import log_context

if TYPE_CHECKING:
    from spark_jobs.running.job_context import JobContext
    from spark_jobs.running.kinds import PlanParameters, ReconstructParameters


def run_reconstruct(context: JobContext, parameters: ReconstructParameters) -> dict[str, Any]:
    """Reconstruct and register a stored scan; run again after a kill it ends with the same bytes and series.

    Returns
    -------
    dict
        Run, study, series (UID, description, slices, digest, clipped voxels), whether all of it was there before,
        where the report is in the store, and what it took.
    """
    request = request_of(parameters)
    with log_context(scan_id=request.scan_id):
        result = reconstruct_scan(
            context.store,
            context.index,
            request,
            session=context.session,
            task_threads=context.spark.task_threads,
            publishers=context.spark.publishers_per_node,
            progress=context.progress,
            again=parameters.again,
            should_stop=context.should_stop,
        )
    context.log("info", f"registered already, nothing computed: run {result.run_name}" if result.unchanged
                else f"registered {len(result.series)} series of run {result.run_name}")  # fmt: skip
    return {
        "scan_id": result.scan_id,
        "run": result.run_name,
        "study_uid": result.study_uid,
        "series": [dataclasses.asdict(series) for series in result.series],
        "unchanged": result.unchanged,
        "outcomes": result.outcomes,
        "report": result.report_path,
        "figures": run_figures(result.report),
    }


def run_plan(context: JobContext, parameters: PlanParameters) -> dict[str, Any]:
    """Plan the reconstruction of a stored scan: nothing is computed, Spark is not needed.

    Returns
    -------
    dict
        Volume, slabs, mode, and the cost that was reckoned.
    """
    request = request_of(parameters)
    with log_context(scan_id=request.scan_id):
        plan = make_plan(open_scan_chunks(context.store, request.scan_id), request)
    return plan_figures(plan, parameters.cores)
