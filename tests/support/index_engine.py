# SPDX-License-Identifier: Apache-2.0
"""An SqlIndex on a fresh SQLite file."""

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
    engine = create_database_engine(str(path))
    apply_migrations(engine, MIGRATIONS)
    try:
        yield SqlIndex(engine)
    finally:
        engine.dispose()
