# SPDX-License-Identifier: Apache-2.0
"""``conepacs demo``: the main job on a made scan, from projections to a series fetched back."""

from __future__ import annotations

import html
import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.errors import RegionsDisagreeError
from cli.output import stage_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from data_samples.compare import RegionComparison
    from data_samples.make_sample import SampleTruth
    from pacs.sql_index import SqlIndex
    from spark_jobs.running.reconstruct_scan import RunResult, SeriesResult
    from storage.filesystem import Store

_MARKER = ".conepacs-demo"


@dataclass(slots=True)
class _Demo:
    """What the steps hand on."""

    folder: Path
    say: Callable[[str], None]
    truth: SampleTruth
    store: Store
    index: SqlIndex
    result: RunResult


def demo(
    folder: Annotated[
        Path, typer.Argument(help="Where everything goes; an earlier demo is replaced.", metavar="FOLDER")
    ] = Path("demo-output"),
    keep_serving: Annotated[
        bool, typer.Option("--serve", help="Keep the PACS and the page running at the end, until Ctrl-C.")
    ] = False,
    master: Annotated[str, typer.Option("--master", help="Spark master.", metavar="URL")] = "local[*]",
) -> None:
    """Make a sample scan and take it all the way: upload, reconstruct, find, fetch, compare, pictures.

    The sample is a simulated photon-counting cone-beam scan of an asymmetric specimen in two energy bins.  The demo
    ends with pictures, a report, and a word on how to look at the series.

        conepacs demo
        conepacs demo /tmp/first-look --serve
    """
    started = time.perf_counter()
    _clear(folder)
    made = _reconstruct(folder, master)
    comparisons, fetched = _fetch_and_compare(made)
    _draw(made, fetched)
    seconds = time.perf_counter() - started
    _report(made, comparisons, seconds)
    failed = [c for c in comparisons if not c.agrees]
    _last_words(made, seconds)
    if failed:
        raise RegionsDisagreeError(f"{len(failed)} of {len(comparisons)} regions do not agree with the truth")
    if keep_serving:
        _serve(folder)


def _clear(folder: Path) -> None:
    """Replace an earlier demo, and nothing else."""
    try:
        if folder.exists():
            if any(folder.iterdir()) and not (folder / _MARKER).exists():
                raise typer.BadParameter(f"{folder} is not empty and no earlier demo: name another folder")
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / _MARKER).touch()
    except OSError as error:
        raise typer.BadParameter(f"{folder} cannot be used: {error.strerror}") from error


def _reconstruct(folder: Path, master: str) -> _Demo:
    """Make, upload and reconstruct the sample."""
    from cli.archive import open_index
    from cli.reconstruct import session_starter
    from data_samples.make_sample import make_sample
    from ingest.readers import open_source
    from ingest.upload import upload
    from spark_jobs.planning.request import ReconstructionRequest
    from spark_jobs.running.reconstruct_scan import reconstruct_scan
    from spark_jobs.running.settings import SparkSettings
    from storage.filesystem import open_store

    step = _Steps()
    truth = make_sample(folder / "scan")
    step(f"made a scan of {truth.geometry.n_views} views in 2 energy bins: {folder / 'scan'}")
    store = open_store(folder / "store")
    reader = open_source(folder / "scan")
    try:
        upload(reader, store)
    finally:
        reader.close()
    step(f"uploaded it into the store: {folder / 'store'}")
    index = open_index(store)
    settings = SparkSettings(master=master)
    with stage_progress() as show:
        result = reconstruct_scan(
            store, index, ReconstructionRequest(truth.scan_id),
            session=session_starter(settings, show, folder / "spark.log"),
            progress=show,
        )  # fmt: skip
    step(f"reconstructed {len(result.series)} series (Spark's start {result.report['seconds']['session']:.1f} s)")
    return _Demo(folder, step, truth, store, index, result)


class _Steps:
    """Prints each step with its seconds."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def __call__(self, sentence: str) -> None:
        now = time.perf_counter()
        typer.echo(f"[{now - self._last:5.1f} s] {sentence}")
        self._last = now


def _fetch_and_compare(made: _Demo) -> tuple[list[RegionComparison], dict[int, Any]]:
    """Start the PACS, find and fetch the volume series by DIMSE and DICOMweb, and compare with the truth."""
    from cli.fetch import fetch_by_dicomweb, fetch_by_dimse, running_servers, volume_of
    from data_samples.compare import compare_regions

    comparisons, volumes = [], {}
    with running_servers(made.store, made.index, made.folder / "store" / "journal") as (peer, url):
        made.say(f"started the PACS: DICOM {peer}, DICOMweb {url}")
        for bin_index, series in enumerate(_volume_series(made.result)):
            by_dimse = fetch_by_dimse(peer, made.result.study_uid, series.series_uid)
            by_web = fetch_by_dicomweb(url, made.result.study_uid, series.series_uid)
            if {u: d.pixel_array.tobytes() for u, d in by_dimse.items()} != {
                u: d.pixel_array.tobytes() for u, d in by_web.items()
            }:
                raise RegionsDisagreeError("the series fetched by DIMSE and by DICOMweb differ")
            grid, volume = volume_of(list(by_dimse.values()))
            comparisons += compare_regions(made.truth, grid, volume, bin_index)
            volumes[bin_index] = (grid, volume, series.description)
            made.say(f"found and fetched {len(by_dimse)} slices by C-FIND, C-GET, QIDO-RS and WADO-RS: "
                     f"{series.description}")  # fmt: skip
    for c in comparisons:
        made.say(f"bin {c.bin_index}, {c.material}: mu {c.mean_per_mm:.5f}/mm, truth {c.truth_per_mm:.5f} "
                 f"({c.deviation:+.1%}) {'ok' if c.agrees else 'WRONG'}")  # fmt: skip
    return comparisons, volumes


def _volume_series(result: RunResult) -> list[SeriesResult]:
    """The series of whole volumes, by bin."""
    return [series for series in result.series if series.volume_sha256]


def _draw(made: _Demo, volumes: dict[int, Any]) -> None:
    from cli.pictures import draw_planes

    grid = volumes[0][0]
    titles = [(words.partition(",")[0].removeprefix("Bin "), volume) for _, volume, words in volumes.values()]
    # Through the bone ball and the iodine ball.
    picture = draw_planes([(f"bin {title}", volume) for title, volume in titles], grid, (0.0, 0.0, -0.8))
    (made.folder / "planes.png").write_bytes(picture)
    made.say(f"drew three planes of each bin: {made.folder / 'planes.png'}")


def _report(made: _Demo, comparisons: list[RegionComparison], seconds: float) -> None:
    """One page and one JSON file with what was seen."""
    rows = "".join(
        f"<tr><td>{c.bin_index}</td><td>{html.escape(c.material)}</td><td>{c.mean_per_mm:.5f}</td>"
        f"<td>{c.truth_per_mm:.5f}</td><td>{c.deviation:+.2%}</td><td>{'ok' if c.agrees else 'WRONG'}</td></tr>"
        for c in comparisons
    )
    series = "".join(
        f"<li>{html.escape(s.description)}: {s.n_instances} slices, <code>{s.series_uid}</code></li>"
        for s in made.result.series
    )
    run_page = made.result.report_path.replace(".json", ".html")
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>ConePACS demo</title>"
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}"
        "td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}img{max-width:100%}</style>"
        f"<h1>ConePACS demo</h1><p>Study <code>{made.result.study_uid}</code>, {seconds:.0f} s in all.</p>"
        f"<ul>{series}</ul><img src='planes.png' alt='three planes of each energy bin'>"
        "<table><tr><th>bin</th><th>material</th><th>mu [1/mm]</th><th>truth</th><th>deviation</th><th></th></tr>"
        f"{rows}</table><p><a href='store/{run_page}'>Report of the run</a></p>"
        "</html>"
    )
    (made.folder / "report.html").write_text(page, encoding="utf-8")
    values = {"seconds": seconds, "study_uid": made.result.study_uid, "regions": [asdict(c) for c in comparisons],
              "series": [asdict(s) for s in made.result.series]}  # fmt: skip
    (made.folder / "report.json").write_text(json.dumps(values, indent=1), encoding="utf-8")


def _last_words(made: _Demo, seconds: float) -> None:
    typer.echo(
        f"\ndone in {seconds:.0f} s.  Everything is in {made.folder}/:\n"
        f"  planes.png    three planes of both energy bins\n"
        f"  report.html   regions against the truth, and the report of the run\n"
        f"  store/        chunks, packs of DICOM instances, index\n"
        f"look at the series in a browser:  conepacs serve --store {made.folder / 'store'}\n"
        f"then open http://127.0.0.1:8042/\n"
        f"or in any DICOM viewer: CONEPACS at 127.0.0.1 port 11112"
    )


def _serve(folder: Path) -> None:
    from cli.serve import serve

    serve(store=str(folder / "store"))
