# SPDX-License-Identifier: Apache-2.0
"""A database's rows as files, in a form that any database takes: a SQLite dump restores into PostgreSQL.

The tables are those that are there, read from the database itself, so that none can be forgotten.
"""

from __future__ import annotations

import base64
import datetime
import sqlite3
import tempfile
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import MetaData, types

from storage.backup_files import StoredTable, folder_of, read_lines, write_lines
from storage.database import (
    SCHEMA_MIGRATION,
    apply_migrations,
    create_database_engine,
    read_transaction,
    sqlite_url,
    write_transaction,
)
from storage.errors import BackupError, DatabaseError, RestoreRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Column, Connection, Engine, Table

    from storage.backup_files import BackupRecord
    from storage.database import Migration
    from storage.filesystem import Store

    #: Files that a row names: (table, row) -> (tree, path) of each.
    NamedFiles = Callable[[str, Mapping[str, Any]], Iterable[tuple[str, str]]]

_BATCH_ROWS = 1000
#: The first that a column is of names its form in the dump.
_KINDS: tuple[tuple[type[types.TypeEngine[Any]], str], ...] = (
    (types.JSON, "json"),
    (types.Boolean, "boolean"),
    (types.Integer, "integer"),
    (types.Float, "number"),
    (types.Numeric, "number"),
    (types.DateTime, "datetime"),
    (types.LargeBinary, "bytes"),
    (types.String, "text"),
)


@contextmanager
def snapshot(engine: Engine, temporary_folder: Path | None = None) -> Iterator[Connection]:
    """Connection to one state of the database, which keeps no writer waiting however long it is read.

    SQLite is copied by its own backup interface first: a long read would let its write-ahead log grow.

    Raises
    ------
    DatabaseError
        If it cannot be read.
    """
    if engine.dialect.name != "sqlite":
        with read_transaction(engine) as connection:
            yield connection
        return
    with tempfile.TemporaryDirectory(prefix="conepacs-backup-", dir=temporary_folder) as folder:
        path = Path(folder, "copy.sqlite")
        _copy_sqlite(engine, path)
        copy = create_database_engine(sqlite_url(path))
        try:
            with read_transaction(copy) as connection:
                yield connection
        finally:
            copy.dispose()


def _copy_sqlite(engine: Engine, path: Path) -> None:
    """Copy a SQLite database as it is at this moment."""
    source = engine.raw_connection()
    try:
        target = sqlite3.connect(path)
        try:
            driver = source.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.backup(target)
        except sqlite3.Error as error:
            raise DatabaseError(f"database {engine.url.database}: it cannot be copied ({error})") from error
        finally:
            target.close()
    finally:
        source.close()


def read_migrations(connection: Connection) -> tuple[tuple[str, int, str], ...]:
    """(package, number, name) of the schema's steps; empty for a database that has none."""
    if not sqlalchemy.inspect(connection).has_table(SCHEMA_MIGRATION.name):
        return ()
    columns = SCHEMA_MIGRATION.c
    rows = connection.execute(
        sqlalchemy.select(columns.package, columns.number, columns.name).order_by(columns.package, columns.number)
    )
    return tuple((str(package), int(number), str(name)) for package, number, name in rows)


def dump_tables(
    connection: Connection, target: Store, backup_id: str, named_files: NamedFiles
) -> tuple[tuple[StoredTable, ...], set[tuple[str, str]]]:
    """Write the rows of every table; return what was written, and the files that rows name.

    Raises
    ------
    BackupError
        If a table has columns of a kind that the dump has no form for.
    """
    stored = []
    named: set[tuple[str, str]] = set()
    for table in _tables(connection):
        path = f"{folder_of(backup_id)}/database/{table.name}.jsonl.gz"
        sha256, count = write_lines(target, path, _Rows(connection, table, named_files, named))
        stored.append(StoredTable(table.name, path, count - 1, sha256))
    return tuple(stored), named


class _Rows:
    """Lines of one table: its columns, then its rows in the order of the primary key; can be gone through again."""

    def __init__(
        self, connection: Connection, table: Table, named_files: NamedFiles, named: set[tuple[str, str]]
    ) -> None:
        self._connection, self._table = connection, table
        self._named_files, self._named = named_files, named
        self._kinds = {column.name: _kind(table, column) for column in table.columns}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield {"table": self._table.name, "columns": self._kinds}
        order = list(self._table.primary_key) or list(self._table.columns)
        statement = sqlalchemy.select(self._table).order_by(*order)
        result = self._connection.execution_options(yield_per=_BATCH_ROWS).execute(statement)
        for found in result.mappings():
            row = {str(name): value for name, value in found.items()}
            self._named.update(self._named_files(self._table.name, row))
            yield {name: _plain(kind, row[name]) for name, kind in self._kinds.items()}


def restore_tables(
    engine: Engine, migrations: Sequence[Migration], source: Store, record: BackupRecord, *, force: bool
) -> int:
    """Make the schema of the backup, put the rows in, and bring the schema up to date; return how many rows.

    Raises
    ------
    RestoreRefusedError
        If the database has rows, without `force`; with it they are deleted.
    BackupError
        If the backup is of a newer version than the program.
    ChecksumError
        If a file is not what was written; no row is there then.
    """
    older = _known(migrations, record)
    if not force:
        require_empty_database(engine)
    _drop_tables(engine)
    apply_migrations(engine, older)
    count = 0
    with write_transaction(engine) as connection:
        tables = {table.name: table for table in _tables(connection)}
        files = {table.name: table for table in record.tables}
        if unknown := files.keys() - tables.keys():
            raise BackupError(f"backup {record.backup_id}: its table {min(unknown)} is in no schema of this program")
        for name, table in tables.items():
            if name in files:
                count += _insert(connection, table, read_lines(source, files[name].path, files[name].sha256))
        if engine.dialect.name == "postgresql":
            for table in tables.values():
                _set_sequences(connection, table)
    apply_migrations(engine, migrations)
    return count


def require_empty_database(engine: Engine) -> None:
    """Refuse a database that has rows.

    Raises
    ------
    RestoreRefusedError
        If a table other than that of the migrations has one.
    """
    with read_transaction(engine) as connection:
        for table in _tables(connection):
            if connection.execute(sqlalchemy.select(sqlalchemy.literal(1)).select_from(table).limit(1)).first():
                shown = engine.url.render_as_string(hide_password=True)
                raise RestoreRefusedError(
                    f"the database {shown} is not empty (table {table.name}): give a new one, or --force to replace it"
                )


def _known(migrations: Sequence[Migration], record: BackupRecord) -> list[Migration]:
    """The program's migrations that the backup's schema has."""
    known = {(step.package, step.number): step for step in migrations}
    for package, number, name in record.migrations:
        step = known.get((package, number))
        if step is None or step.name != name:
            raise BackupError(
                f"backup {record.backup_id}: its schema has '{package}' {number} ({name}), which this program does not "
                "know; use a newer program"
            )
    taken = {(package, number) for package, number, _ in record.migrations}
    return [step for step in migrations if (step.package, step.number) in taken]


def _tables(connection: Connection) -> list[Table]:
    """Every table but that of the migrations, those that others refer to first."""
    metadata = MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name != SCHEMA_MIGRATION.name]


def _drop_tables(engine: Engine) -> None:
    """Drop the tables of a database that is ours; one without our table of migrations is left as it is."""
    with write_transaction(engine) as connection:
        if sqlalchemy.inspect(connection).has_table(SCHEMA_MIGRATION.name):
            metadata = MetaData()
            metadata.reflect(connection)
            metadata.drop_all(connection)


def _insert(connection: Connection, table: Table, lines: Iterator[dict[str, Any]]) -> int:
    """Put rows in; the first line names the columns."""
    kinds: dict[str, str] = next(lines)["columns"]
    for column in table.columns:
        if isinstance(column.type, types.JSON):
            column.type.none_as_null = True
    zones = {name: bool(getattr(table.columns[name].type, "timezone", False)) for name in kinds}
    statement, count = table.insert(), 0
    while batch := list(islice(lines, _BATCH_ROWS)):
        rows = [{name: _value(kinds[name], line[name], zones[name]) for name in kinds} for line in batch]
        connection.execute(statement, rows)
        count += len(rows)
    return count


def _set_sequences(connection: Connection, table: Table) -> None:
    """Let PostgreSQL count on after the highest number that was put in."""
    for column in table.primary_key:
        name = connection.execute(
            sqlalchemy.select(sqlalchemy.func.pg_get_serial_sequence(f'"{table.name}"', column.name))
        ).scalar_one()
        if name is not None:
            highest = connection.execute(sqlalchemy.select(sqlalchemy.func.max(column))).scalar_one()
            if highest is not None:
                connection.execute(sqlalchemy.select(sqlalchemy.func.setval(name, highest)))


def _kind(table: Table, column: Column[Any]) -> str:
    """How values of a column stand in the dump."""
    for kind, name in _KINDS:
        if isinstance(column.type, kind):
            return name
    raise BackupError(f"table {table.name}: its column {column.name} is of type {column.type}, which has no form here")


def _plain(kind: str, value: Any) -> Any:
    """A value as JSON has it."""
    if value is None:
        return None
    if kind == "datetime":
        zoned = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
        return zoned.astimezone(datetime.UTC).isoformat()
    if kind == "bytes":
        return base64.b64encode(value).decode()
    return float(value) if kind == "number" else value


def _value(kind: str, plain: Any, zoned: bool) -> Any:
    """A value as the database takes it."""
    if plain is None:
        return None
    if kind == "datetime":
        moment = datetime.datetime.fromisoformat(plain)
        return moment if zoned else moment.replace(tzinfo=None)
    return base64.b64decode(plain) if kind == "bytes" else plain
