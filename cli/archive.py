# SPDX-License-Identifier: Apache-2.0
"""Opens store, index, queue and journal from settings: the one place that knows their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import DatabaseError, StoreUrlError
from storage.filesystem import local_path, open_store

if TYPE_CHECKING:
    from jobs.queue import JobQueue
    from pacs.journal import Journal
    from pacs.sql_index import SqlIndex
    from storage.filesystem import Store

INDEX_NAME = "index.sqlite"
JOURNAL_NAME = "journal"


def open_existing_store(url: str) -> Store:
    """Open a store that was written to before; a mistyped folder is not made.

    Raises
    ------
    StoreUrlError
        If the URL is malformed, or names a local folder that is not there.
    """
    store = open_store(url)
    folder = local_path(store, "")
    if folder is not None and not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise StoreUrlError(
            f"the store {folder} {what}: give --store or CONEPACS_STORE (upload, pacs import and serve make a new one)"
        )
    return store


def open_index(store: Store, index: str = "") -> SqlIndex:
    """Open the index and bring its tables up to date.

    Raises
    ------
    StoreUrlError
        If none is given and the store is no local folder.
    DatabaseError
        If it cannot be opened, or was written by a newer version.
    """
    from pacs.sql_index import SqlIndex
    from pacs.tables import MIGRATIONS
    from storage.database import apply_migrations, create_database_engine

    engine = create_database_engine(database_url(store, index))
    apply_migrations(engine, MIGRATIONS)
    return SqlIndex(engine)


def open_queue(store: Store, index: str = "") -> JobQueue:
    """Open the queue of jobs, which lies in the index's database, and bring its tables up to date.

    Raises
    ------
    StoreUrlError, DatabaseError
        As `open_index`.
    """
    from cli.job_kinds import all_kinds
    from jobs.queue import open_queue as open_queue_at

    return open_queue_at(database_url(store, index), all_kinds())


def database_url(store: Store, index: str) -> str:
    """URL of the database that holds index and queue; the folder of a file is made."""
    from storage.database import sqlite_url

    if not index:
        path = local_path(store, INDEX_NAME)
        if path is None:
            raise StoreUrlError(
                f"{store.url} is no local folder, so the index needs a place of its own: give --index FILE or URL"
            )
        return sqlite_url(_with_folder(path))
    return index if "://" in index else sqlite_url(_with_folder(Path(index).absolute()))


def _with_folder(path: Path) -> Path:
    """Make the folder that a database file lies in."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(f"the index {path} cannot be made: {error.strerror}") from error
    return path


def open_journal(store: Store, folder: str = "") -> Journal:
    """Return the journal of received objects.

    Raises
    ------
    StoreUrlError
        If no folder is given and the store is no local folder.
    """
    from pacs.journal import Journal

    path = Path(folder) if folder else local_path(store, JOURNAL_NAME)
    if path is None:
        raise StoreUrlError(
            f"{store.url} is no local folder, so received objects need a place of their own: give --journal FOLDER"
        )
    return Journal(path)
