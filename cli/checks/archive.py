# SPDX-License-Identifier: Apache-2.0
"""The archive: store, index and queue, received objects, room on disks, ports of ``serve``."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cli.checks.check import Check, ask_json
from cli.output import mebibytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.serve_settings import ServeSettings
    from pacs.index import Index
    from storage.filesystem import Store

_LOW_DISK_BYTES = 5 << 30
_MOST_SKEW_S = 5.0


def check_archive(store_url: str, index: str, *, deep: bool = False) -> Iterator[Check]:
    """Look at store, disks, and index."""
    from storage.errors import StorageError
    from storage.filesystem import local_path, open_store
    from storage.publish import publish_bytes

    try:
        store = open_store(store_url)
        folder = local_path(store, "")
        if folder is not None and not folder.exists():
            yield Check(f"store {store_url}", "missing", "no such folder yet", "upload, pacs import or serve make it")
            yield from check_disks(None)
            return
        probe = f"doctor-{secrets.token_hex(4)}"
        publish_bytes(store, probe, b"conepacs", kind="write_once")
        same = store.read_bytes(probe) == b"conepacs"
        store.delete(probe)
    except StorageError as error:
        yield Check(f"store {store_url}", "wrong", str(error), "check the URL, the rights, and that the store is up")
        return
    user = os.environ.get("HADOOP_USER_NAME", "") if store_url.startswith(("hdfs", "webhdfs", "swebhdfs")) else ""
    as_user = f", as user {user}" if user else ""
    yield Check(
        f"store {store_url}",
        "ok" if same else "wrong",
        f"a file was written, read and deleted{as_user}",
        "" if same else "what was read is not what was written: check its disks",
    )
    yield from check_disks(folder)
    yield from _index(store, index, deep=deep)


def check_disks(store_folder: Path | None) -> Iterator[Check]:
    """Room for temporary files, and on the disk of a local store."""
    from storage.free_space import free_bytes_of_folder

    places = {"disk": store_folder, "temporary folder": Path(tempfile.gettempdir())}
    for name, folder in places.items():
        if folder is None:
            continue
        free = free_bytes_of_folder(folder)
        low = free < _LOW_DISK_BYTES
        remedy = "make room" if name == "disk" else "make room, or let TMPDIR name another folder"
        yield Check(name, "wrong" if low else "ok", f"{folder}: {mebibytes(free)} free", remedy if low else "")


def _index(store: Store, index: str, *, deep: bool) -> Iterator[Check]:
    """The database, looked at without making or changing it."""
    if importlib.util.find_spec("pydicom") is None:
        return
    from cli.archive import database_url
    from jobs.tables import MIGRATIONS as QUEUE_MIGRATIONS
    from pacs.errors import PacsError
    from pacs.sql_index import SqlIndex
    from pacs.tables import MIGRATIONS as INDEX_MIGRATIONS
    from storage.database import create_database_engine
    from storage.database_state import inspect_database
    from storage.errors import StorageError

    migrations = (*INDEX_MIGRATIONS, *QUEUE_MIGRATIONS)
    try:
        url = database_url(store, index)
        if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
            yield Check("index", "missing", "no such database yet", "serve, pacs import and reconstruct make it")
            return
        engine = create_database_engine(url)
        try:
            state = inspect_database(engine, thorough=deep)
            known = f"{state.kind} {state.version}"
            if newer := state.newer_than(migrations):
                yield Check(
                    "index",
                    "wrong",
                    f"{known}: its schema of {', '.join(newer)} is of a newer program",
                    "use a newer program; no older one can read it",
                )
                return
            if state.damage:
                yield Check(
                    "index",
                    "wrong",
                    f"{known}: the file is damaged: {state.damage}",
                    "restore a backup (conepacs backup restore), or run recovery on a copy",
                )
                return
            if lacking := state.lacking(migrations):
                yield Check("index", "ok", f"{known}; {', '.join(lacking)} is brought up to date when it is first used")
            else:
                yield Check("index", "ok", f"{known}, {_studies(SqlIndex(engine))}")
            if abs(state.clock_ahead_s) > _MOST_SKEW_S:
                yield Check(
                    "database's clock",
                    "wrong",
                    f"{state.clock_ahead_s:+.1f} s from this machine",
                    "let both follow the same NTP servers",
                )
            elif state.kind != "sqlite":
                yield Check("database's clock", "ok", f"within {_MOST_SKEW_S:.0f} s of this machine")
        finally:
            engine.dispose()
    except (StorageError, PacsError) as error:
        yield Check(
            "index", "wrong", str(error), "start the database, give --index, or move the file away if it is damaged"
        )


def _studies(index: Index) -> str:
    """How many studies there are, in words."""
    from pacs.index import Query

    n_studies = len(index.find(Query("STUDY"), limit=1000))
    return f"{n_studies if n_studies < 1000 else 'at least 1000'} studies"


def check_ports(settings: ServeSettings) -> Iterator[Check]:
    """Whether ``serve`` could listen, or does already."""
    for name, host, port in (
        ("DICOM port", settings.scp.host, settings.scp.port), ("HTTP port", settings.http.host, settings.http.port),
    ):  # fmt: skip
        if port == 0:
            continue
        why = _taken(host, port)
        if not why:
            yield Check(name, "ok", f"{host} port {port} is free")
        elif name == "HTTP port" and (version := _own_version(host, port)):
            yield Check(name, "ok", f"conepacs {version} answers on {host} port {port}")
        elif name == "DICOM port" and _own_version(settings.http.host, settings.http.port):
            yield Check(name, "ok", f"{host} port {port} is taken, as conepacs serves here")
        else:
            yield Check(
                name,
                "wrong",
                f"{host} port {port}: {why}",
                f"end what listens there, or set [{'scp' if name == 'DICOM port' else 'http'}] port",
            )


def _taken(host: str, port: int) -> str:
    """Empty if a server could listen there, else why not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return str(error.strerror or error)
    return ""


def _own_version(host: str, port: int) -> str:
    """Version of the ConePACS that serves there; empty if none does."""
    try:
        found = ask_json(f"http://{f'[{host}]' if ':' in host else host}:{port}/health").content
        return str(found["version"])
    except (OSError, KeyError, TypeError):
        return ""
