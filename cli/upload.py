# SPDX-License-Identifier: Apache-2.0
"""``conepacs upload``: a scan into the store."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import JsonOption, StoreOption, parse_bytes, parse_settings
from cli.output import mebibytes, print_json, print_pairs, stage_progress
from cli.settings import StoreSettings, load

if TYPE_CHECKING:
    from ingest.scan import Scan
    from ingest.upload import UploadProgress, UploadReport

SourceArgument = Annotated[Path, typer.Argument(help="File or folder that the scanner wrote.", metavar="SOURCE")]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format", help="Reader: nikon, skyscan, zeiss, varian, elekta, pixet, merlin, nxtomo, dataexchange, htc, "
        "dicom, exchange, tiff or array.", metavar="NAME", show_default="found by the files",
    ),
]  # fmt: skip
DescriptionOption = Annotated[
    Path | None,
    typer.Option(
        "--description", help="Description of the scan: geometry, bins, subject.", metavar="FILE",
        show_default="scan.toml in or beside the source",
    ),
]  # fmt: skip
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Setting of the reader, e.g. bin_pixels=2; repeatable.", metavar="KEY=VALUE"),
]
ScanIdOption = Annotated[
    str | None, typer.Option("--scan-id", help="Name in the store.", metavar="ID", show_default="by the source")
]


def upload(
    source: SourceArgument,
    store: StoreOption = None,
    scan_id: ScanIdOption = None,
    source_format: FormatOption = None,
    description: DescriptionOption = None,
    settings: SetOption = None,
    memory: Annotated[str, typer.Option("--memory", help="Memory for one block of views.", metavar="BYTES")] = "1GB",
    streams: Annotated[
        int, typer.Option("--streams", help="Files that are sent at once.", metavar="N", min=1, max=64)
    ] = 4,
    watch: Annotated[bool, typer.Option("--watch", help="Take frames as the scanner writes them.")] = False,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout-s", help="With --watch: give up when no view came for so long.", metavar="SECONDS", min=0.0
        ),
    ] = 900.0,
    restart: Annotated[bool, typer.Option("--restart", help="Forget an unfinished upload of this scan.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Upload a scan into the store.

    Shows progress in views, bytes and MB/s, goes on where an interrupted upload stopped, and changes nothing when the
    scan is there already.  What arrives is compared with what was sent.
    The geometry that a detector file cannot give comes from a scan.toml in or beside the source (see the manual,
    "Formats").

        conepacs upload stone/ --store /data/pacs
        conepacs upload scan.xtekct --set bin_pixels=2
        conepacs upload stone/ --store webhdfs://namenode:9870/pacs --streams 8
        conepacs upload /scanner/today/ --watch --timeout-s 600
    """
    from ingest.chunks import open_scan_chunks
    from ingest.readers import SourceOptions, open_source
    from ingest.upload import upload as upload_scan
    from ingest.upload import watch as watch_scan
    from storage.filesystem import open_store

    memory_bytes = parse_bytes(memory)
    target = open_store(load(StoreSettings, store=store).store)
    opener = functools.partial(
        open_source, source_format=source_format,
        options=SourceOptions(scan_id, parse_settings(settings or []), description),
    )  # fmt: skip
    with stage_progress(as_json) as show:

        def tell(progress: UploadProgress) -> None:
            show("views", progress.views_done, progress.n_views, progress.message or _sent(progress))

        if watch:
            report = watch_scan(
                source, target, open_reader=opener, timeout_s=timeout_s, memory_bytes=memory_bytes,
                streams=streams, restart=restart, progress=tell,
            )  # fmt: skip
        else:
            reader = opener(source)
            try:
                report = upload_scan(
                    reader, target, memory_bytes=memory_bytes, streams=streams, restart=restart, progress=tell
                )
            finally:
                reader.close()
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    _print_report(report, target.url)
    if not report.unchanged:
        _print_findings(open_scan_chunks(target, report.scan_id).scan)
    scan = f"{report.scan_id} --store {shlex.quote(store)}" if store else report.scan_id
    typer.echo(f"next: conepacs plan {scan}\nthen: conepacs reconstruct {scan}")


def _sent(progress: UploadProgress) -> str:
    """Bytes on their way, e.g. ``120.3 of 482.0 MB read, 88.1 MB sent, 61.2 MB/s``."""
    read, whole, sent, rate = (
        value / 1e6
        for value in (progress.pixel_bytes_done, progress.pixel_bytes, progress.sent_bytes, progress.bytes_per_s)
    )
    return f"{read:.1f} of {whole:.1f} MB read, {sent:.1f} MB sent, {rate:.1f} MB/s" if whole else ""


def _print_report(report: UploadReport, url: str) -> None:
    if report.unchanged:
        typer.echo(f"scan {report.scan_id} is in {url} already; nothing was changed")
        return
    rows = [
        ("scan", report.scan_id),
        ("store", url),
        ("views, bins", f"{report.n_views}, {report.n_bins}"),
        ("stored", f"{mebibytes(report.stored_bytes)} for {mebibytes(report.pixel_bytes)} of pixels"),
        ("files", f"{report.files_written} written, {report.files_kept} kept from before"),
        ("sent", f"{mebibytes(report.sent_bytes)}, {report.bytes_per_s / 1e6:.1f} MB/s"),
        ("seconds", f"{report.seconds:.1f}"),
        *(("note", note) for note in report.notes),
    ]
    print_pairs("uploaded", rows)


def _print_findings(scan: Scan) -> None:
    """Tell at once what the description gives away; conepacs inspect looks at the pixels too."""
    from ingest.inspect_faults import described_findings
    from ingest.inspect_geometry import geometry_facts

    facts = None if scan.geometry is None else geometry_facts(scan.geometry)
    for finding in described_findings(scan, facts, scan.n_views):
        typer.echo(f"{finding.severity}: {finding.text}")
