# SPDX-License-Identifier: Apache-2.0
"""``conepacs serve``: the DICOM server, DICOMweb and the viewer's page in one process."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import CannotListenError
from cli.options import IndexOption, JournalOption, StoreOption
from cli.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.serve_settings import ServeSettings
    from pacs.scp import PacsServer
    from viewer_api.server import HttpServer

#: Seconds between two looks for an interrupt.
_WAKE_S = 1.0


def serve(
    store: StoreOption = None,
    index: IndexOption = None,
    journal: JournalOption = None,
    ae_title: Annotated[
        str | None, typer.Option("--ae-title", help="Own AE title.", metavar="AE", show_default="CONEPACS")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on.", metavar="HOST", show_default="127.0.0.1")
    ] = None,
    dicom_port: Annotated[
        int | None,
        typer.Option("--dicom-port", help="Port for DICOM; 0 takes a free one.", metavar="PORT", show_default="11112"),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(
            "--http-port",
            help="Port for DICOMweb and the page; 0 takes a free one.",
            metavar="PORT",
            show_default="8042",
        ),
    ] = None,
    destinations: Annotated[
        list[str] | None,
        typer.Option("--destination", help="Node that C-MOVE may send to; repeatable.", metavar="AE@HOST:PORT"),
    ] = None,
) -> None:
    """Answer viewers: C-ECHO, C-STORE, C-FIND, C-MOVE, C-GET, QIDO-RS, WADO-RS, and a page to scroll series.

    Listens on loopback unless told otherwise; there are no user accounts yet, so keep it there or behind a proxy.
    Ctrl-C ends it.

        conepacs serve --store /data/pacs
        conepacs serve --destination VIEWER@localhost:11113
        conepacs serve --ae-title LAB --dicom-port 104 --http-port 8080
    """
    from cli.serve_settings import ServeSettings

    settings = _with_options(
        load(ServeSettings, store=store, index=index),
        journal,
        ae_title,
        host,
        dicom_port,
        http_port,
        destinations or [],
    )
    server, web = make_servers(settings)
    # What a service manager sends ends it as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), _listening(server, web):
        scp, http = settings.scp, settings.http
        typer.echo(f"DICOM: {scp.ae_title}@{scp.host}:{server.port}")
        typer.echo(f"page: {_address(http.host, web.port)}/  DICOMweb: {_address(http.host, web.port)}/dicom-web")
        typer.echo("stop with Ctrl-C")
        forever = threading.Event()
        while not forever.wait(_WAKE_S):  # on Windows an endless wait does not see Ctrl-C
            pass
    typer.echo("stopped")


@contextlib.contextmanager
def _listening(server: PacsServer, web: HttpServer) -> Iterator[None]:
    """Run both servers; a taken address is no fault of the input."""
    from pacs.errors import PacsError

    with contextlib.ExitStack() as running:
        try:
            running.enter_context(web)
            running.enter_context(server)
        except OSError as error:
            raise CannotListenError(str(error)) from error
        except PacsError as error:
            if isinstance(error.__cause__, OSError):
                raise CannotListenError(f"DICOM {error}") from error
            raise
        yield


def _address(host: str, port: int) -> str:
    """What a browser takes."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _with_options(
    settings: ServeSettings,
    journal: str | None,
    ae_title: str | None,
    host: str | None,
    dicom_port: int | None,
    http_port: int | None,
    destinations: list[str],
) -> ServeSettings:
    """Put what was given on the command line over the settings; their sections check it."""
    from cli.pacs import parse_peer
    from pacs.scp import MoveDestination

    peers = [parse_peer(text) for text in destinations]
    try:
        scp = dataclasses.replace(
            settings.scp,
            ae_title=settings.scp.ae_title if ae_title is None else ae_title,
            host=host or settings.scp.host,
            port=settings.scp.port if dicom_port is None else dicom_port,
            move_destinations=dict(settings.scp.move_destinations)
            | {peer.ae_title: MoveDestination(peer.host, peer.port) for peer in peers},
        )
        http = dataclasses.replace(
            settings.http, host=host or settings.http.host, port=settings.http.port if http_port is None else http_port
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    kept = settings.journal if journal is None else dataclasses.replace(settings.journal, folder=journal)
    return settings.model_copy(update={"scp": scp, "http": http, "journal": kept})


def make_servers(settings: ServeSettings) -> tuple[PacsServer, HttpServer]:
    """Make the DICOM server and the HTTP server over one archive; neither answers yet."""
    from cli.archive import open_index, open_journal, open_queue
    from pacs.retrieve import InstanceReader
    from pacs.scp import PacsServer
    from storage.filesystem import local_path, open_store
    from storage.range_cache import RangeCache
    from viewer_api.app import create_app
    from viewer_api.server import HttpServer

    store = open_store(settings.store)
    index, journal = open_index(store, settings.index), open_journal(store, settings.journal.folder)
    # A local disk has the system's own cache.
    cache = RangeCache(store) if local_path(store, "packs") is None else None
    reader = InstanceReader(store, journal, cache)
    server = PacsServer(settings.scp, index=index, reader=reader, journal=journal)
    app = create_app(
        index=index,
        reader=reader,
        settings=settings.http,
        queue=open_queue(store, settings.index),
        dicom=server.counters.counts,
    )
    try:
        return server, HttpServer(app, settings.http)
    except OSError as error:
        where = f"{settings.http.host} port {settings.http.port}"
        raise CannotListenError(f"HTTP cannot listen on {where}: {error.strerror}") from error
