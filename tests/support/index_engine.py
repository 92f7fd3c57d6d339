# SPDX-License-Identifier: Apache-2.0
"""An SqlIndex on a fresh database."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pacs.sql_index import SqlIndex
from pacs.tables import MIGRATIONS
from storage.database import apply_migrations, create_database_engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def sqlite_index(path: Path) -> Iterator[SqlIndex]:
    """An index in a file of its own, closed afterwards."""
    with sql_index(str(path)) as index:
        yield index


@contextmanager
def sql_index(url: str) -> Iterator[SqlIndex]:
    """An index in a database, closed afterwards."""
    engine = create_database_engine(url)
    apply_migrations(engine, MIGRATIONS)
    try:
        yield SqlIndex(engine)
    finally:
        engine.dispose()
