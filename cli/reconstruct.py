# SPDX-License-Identifier: Apache-2.0
"""``conepacs reconstruct``: stored scans to registered DICOM series."""

from __future__ import annotations

import dataclasses
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.bundles import takes
from cli.options import IndexOption, JsonOption, MasterOption, SparkLogOption, StoreOption
from cli.output import print_json, print_table, stage_progress
from cli.requests import ProbeOption, RequestOptions
from cli.settings import load
from storage.log_context import log_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli.output import ShowProgress
    from spark_jobs.running.reconstruct_scan import RunResult
    from spark_jobs.running.settings import SparkSettings


ScansArgument = Annotated[list[str], typer.Argument(help="Ids of stored scans.", metavar="SCAN_ID")]


@takes(options=RequestOptions)
def reconstruct(
    scan_ids: ScansArgument,
    options: RequestOptions,
    store: StoreOption = None,
    index: IndexOption = None,
    probe: ProbeOption = False,
    master: MasterOption = None,
    again: Annotated[bool, typer.Option("--again", help="Compute also what is registered already.")] = False,
    spark_log: SparkLogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reconstruct one stored scan or a batch of them into DICOM series that viewers find.

    Running it again changes nothing and says so; killed half-way it leaves nothing visible, and the next run makes
    the same bytes.  Each run leaves a report (JSON and a page) in the store.  conepacs plan with the same options
    tells what it will cost.

        conepacs reconstruct stone
        conepacs reconstruct stone --filter hann --cutoff 0.9
        conepacs reconstruct stone --bin 0 --voxel 0.05 --run-id finer
        conepacs reconstruct stone-1 stone-2 stone-3 --master spark://head:7077
    """
    from cli.archive import open_existing_store, open_index
    from cli.job_settings import JobSettings
    from ingest.chunks import open_scan_chunks
    from spark_jobs.running.reconstruct_scan import reconstruct_scan

    requests = [options.request(scan_id) for scan_id in scan_ids]
    settings = load(JobSettings, store=store, index=index)
    spark_settings = settings.spark if master is None else dataclasses.replace(settings.spark, master=master)
    opened = open_existing_store(settings.store)
    for scan_id in scan_ids:  # a batch with an unknown scan is refused before the first one is computed
        open_scan_chunks(opened, scan_id)
    opened_index = open_index(opened, settings.index)
    log_file = spark_log or Path(tempfile.gettempdir(), f"conepacs-spark-{secrets.token_hex(8)}.log")
    if probe:
        from spark_jobs.running.tune_scan import tune_scan

        with log_context(scan_id=requests[0].scan_id), stage_progress(as_json) as show:
            starter = session_starter(spark_settings, show, log_file)
            tune_scan(
                opened, requests[0], name=options.tuning, session=starter, task_threads=spark_settings.task_threads
            )
    results = []
    for request in requests:
        with log_context(scan_id=request.scan_id), stage_progress(as_json) as show:
            result = reconstruct_scan(
                opened, opened_index, request,
                session=session_starter(spark_settings, show, log_file),
                task_threads=spark_settings.task_threads, publishers=spark_settings.publishers_per_node, progress=show,
                again=again,
            )  # fmt: skip
        results.append(result)
        if not as_json:
            print_result(result)
    if as_json:
        print_json([dataclasses.asdict(result) for result in results])


def session_starter(settings: SparkSettings, show: ShowProgress, log_file: Path) -> Callable[[], Any]:
    """Return what starts Spark once it is needed, and shows that it does: it takes seconds."""

    def start() -> Any:
        from spark_jobs.running.session import create_session

        show("start Spark", 0, 1)
        session = create_session(settings, app_name="conepacs", log_file=log_file)
        show("start Spark", 1, 1)
        return session

    return start


def print_result(result: RunResult) -> None:
    """Print what came of one scan."""
    if result.unchanged and not result.report:
        typer.echo(f"scan {result.scan_id}: this run is registered already; nothing was computed or changed")
    print_table(
        f"scan {result.scan_id}, study {result.study_uid}",
        ["series", "slices", "clipped voxels", "series UID"],
        [[s.description, str(s.n_instances), str(s.n_clipped), s.series_uid] for s in result.series],
    )
    if result.report:
        seconds = result.report["seconds"]
        typer.echo(
            f"Spark's start {seconds['session']:.1f} s, all {seconds['whole']:.1f} s; "
            f"{result.report['gups']['stage']:.2f} GUPS; report: {result.report_path} in the store"
        )
        for note in result.report["notes"]:
            typer.echo(f"note: {note}")
