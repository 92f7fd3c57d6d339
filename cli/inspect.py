# SPDX-License-Identifier: Apache-2.0
"""``conepacs inspect``: what a source or a stored scan holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.archive import open_existing_store
from cli.options import JsonOption, StoreOption, parse_settings
from cli.output import print_json, print_pairs
from cli.settings import StoreSettings, load
from cli.upload import DescriptionOption, FormatOption, SetOption
from ingest.errors import FrameFormatError
from storage.errors import StoreUrlError

if TYPE_CHECKING:
    from ingest.inspect import Inspection
    from storage.filesystem import Store


def inspect(
    target: Annotated[
        str | None,
        typer.Argument(help="A file or folder, or else the id of a stored scan.", metavar="SOURCE|SCAN_ID"),
    ] = None,
    store: StoreOption = None,
    source_format: FormatOption = None,
    description: DescriptionOption = None,
    settings: SetOption = None,
    draw: Annotated[
        Path | None,
        typer.Option("--draw", help="Write geometry.png and projection.png into this folder.", metavar="FOLDER"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print geometry, views, bins, statistics and faults of a source or a stored scan.

    Without a target it lists the scans in the store.

        conepacs inspect
        conepacs inspect stone/
        conepacs inspect stone --store /data/pacs --draw pictures/
    """
    if target is not None and Path(target).exists():
        inspection = _inspect_source(Path(target), source_format, description, settings or [], draw)
    elif target is not None and Path(target).name != target:
        raise FrameFormatError(f"{target} does not exist")
    else:
        opened = _open_store(load(StoreSettings, store=store).store, target)
        if target is None:
            _list_scans(opened, as_json)
            return
        inspection = _inspect_stored(opened, target, draw)
    if as_json:
        print_json(inspection.to_json())
        return
    from ingest.inspect import inspection_table

    print_pairs(f"{inspection.where} {inspection.scan.scan_id}", inspection_table(inspection))
    for finding in inspection.findings:
        typer.echo(f"{finding.severity}: {finding.text}")
    if draw is not None:
        typer.echo(f"pictures are in {draw}")


def _open_store(url: str, target: str | None) -> Store:
    """The store that a scan may lie in; without one a target can only have been a file."""
    try:
        return open_existing_store(url)
    except StoreUrlError as error:
        if target is None:
            raise
        raise FrameFormatError(f"there is no file or folder {target} here, and {error}") from error


def _list_scans(store: Store, as_json: bool) -> None:
    from ingest.chunks import list_scans

    scans = list_scans(store)
    if as_json:
        print_json(scans)
    elif scans:
        typer.echo("\n".join(scans))
    else:
        typer.echo(f"no scan in {store.url}")


def _inspect_source(
    source: Path, source_format: str | None, description: Path | None, settings: list[str], draw: Path | None
) -> Inspection:
    from ingest.inspect import inspect_source
    from ingest.readers import SourceOptions, open_source

    reader = open_source(
        source, source_format=source_format, options=SourceOptions(None, parse_settings(settings), description)
    )
    try:
        inspection = inspect_source(reader)
        if draw is not None:
            from ingest.draw import draw_geometry, draw_projection

            draw.mkdir(parents=True, exist_ok=True)
            (draw / "geometry.png").write_bytes(draw_geometry(reader.scan))
            (draw / "projection.png").write_bytes(draw_projection(reader.read_views(0, 1)[0, 0]))
        return inspection
    finally:
        reader.close()


def _inspect_stored(store: Store, scan_id: str, draw: Path | None) -> Inspection:
    from ingest.chunks import open_scan_chunks
    from ingest.inspect import inspect_stored

    stored = open_scan_chunks(store, scan_id)
    inspection = inspect_stored(stored)
    if draw is not None:
        from ingest.draw import draw_geometry, draw_projection

        draw.mkdir(parents=True, exist_ok=True)
        (draw / "geometry.png").write_bytes(draw_geometry(stored.scan))
        (draw / "projection.png").write_bytes(draw_projection(stored.read_view(0, 0)))
    return inspection
