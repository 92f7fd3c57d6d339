# SPDX-License-Identifier: Apache-2.0
"""SQL engine and migration runner; each package brings its own tables as an ordered list of migrations."""

from __future__ import annotations

import datetime
import hashlib
import logging
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import Column, DateTime, Integer, MetaData, String, Table

from storage.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection, Engine

BUSY_TIMEOUT_S = 30.0
#: PostgreSQL gives up a connection that says nothing in the middle of a write, so that a machine that lost its power
#: does not hold a lock for hours.
IDLE_WRITER_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 10
_WRITES = "conepacs_writes"
_MIGRATION_LOCK = "migrations"

_log = logging.getLogger(__name__)

SCHEMA_MIGRATION = Table(
    "schema_migration",
    MetaData(),
    Column("package", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", String(200), nullable=False),
    Column("applied_at", DateTime(timezone=True), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of a package's schema: SQL statements in order, or a function of the connection.

    Numbers of a package run 1, 2, 3, ...  A migration that was ever released is not changed any more.
    """

    package: str
    number: int
    name: str
    change: tuple[str, ...] | Callable[[Connection], None]

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"migration {self.package} '{self.name}': expected a number from 1 on, got {self.number}")


def sqlite_url(path: Path) -> str:
    """URL of a SQLite file."""
    return sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def create_database_engine(url: str) -> Engine:
    """Engine for a SQLAlchemy URL or the plain path of a SQLite file.

    SQLite runs with a write-ahead log, is forced to disk at each commit, waits 30 s for another writer and enforces
    foreign keys; its folder is made.  PostgreSQL: ``postgresql://user@host/name``, by psycopg; it is given up when it
    does not answer within 10 s.  Who opens it disposes it.

    Raises
    ------
    DatabaseError
        If the URL is malformed, its driver is not installed, or the folder cannot be made.
    """
    try:
        parsed = _with_driver(sqlalchemy.make_url(url if "://" in url else sqlite_url(Path(url).absolute())))
        is_sqlite = parsed.get_backend_name() == "sqlite"
        if is_sqlite and parsed.database not in (None, "", ":memory:"):
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        arguments: dict[str, float] = {"timeout": BUSY_TIMEOUT_S} if is_sqlite else {}
        if parsed.drivername == "postgresql+psycopg" and "connect_timeout" not in parsed.query:
            arguments = {"connect_timeout": CONNECT_TIMEOUT_S}
        engine = sqlalchemy.create_engine(
            parsed, connect_args=arguments, pool_pre_ping=not is_sqlite, hide_parameters=True
        )
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise DatabaseError(
            f"{url.rpartition('@')[2]}: not a URL of a database; expected e.g. sqlite:////data/index.db"
        ) from error
    except ImportError as error:
        raise DatabaseError(f"database {parsed.drivername}: its driver is not installed ({error})") from error
    except OSError as error:
        raise DatabaseError(f"{url}: the folder of the database cannot be made ({error.strerror})") from error
    if is_sqlite:
        sqlalchemy.event.listen(engine, "connect", _set_up_sqlite)
        sqlalchemy.event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def read_transaction(engine: Engine) -> Iterator[Connection]:
    """Connection that sees one state of the database, however many statements it runs.

    Raises
    ------
    DatabaseError
        If the database cannot be reached or read.
    """
    with _translated(engine), engine.connect() as plain:
        connection = plain
        if engine.dialect.name == "postgresql":
            # Its own default shows each statement what was committed meanwhile.
            connection = plain.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with connection.begin():
            yield connection


@contextmanager
def write_transaction(engine: Engine, *, only_writer_of: str = "") -> Iterator[Connection]:
    """Connection whose changes are committed at the end, or none of them if the block raises.

    On SQLite the right to write is taken at the start, so that the transaction never fails half-way because another
    writer came between; writers wait for each other.  On PostgreSQL writers wait for each other only if they name
    the same thing; then what one reads there stays so until it commits, and rows appear in the order of their ids.

    Parameters
    ----------
    only_writer_of : str
        Any name, e.g. a package's, that all writers of the same tables use.

    Raises
    ------
    DatabaseError
        If the database cannot be reached or written, or another writer holds it for more than 30 s.  IntegrityError
        passes: it tells the caller of a double key.
    """
    with _translated(engine), engine.connect() as plain:
        connection = plain.execution_options(**{_WRITES: True})
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin():
            if engine.dialect.name == "postgresql":
                _bound_waiting(connection)
                if only_writer_of:
                    _wait_for_lock(connection, only_writer_of)
            yield connection


def apply_migrations(engine: Engine, migrations: Sequence[Migration]) -> list[Migration]:
    """Bring the schema up to date: what is missing is applied in order, all in one transaction, each once for ever.

    Returns
    -------
    list of Migration
        Those applied by this call; empty if the schema was up to date.

    Raises
    ------
    DatabaseError
        If the database has migrations that this program does not know (it is of a newer version), or cannot be
        written.
    """
    known = _ordered(migrations)
    applied = []
    with write_transaction(engine, only_writer_of=_MIGRATION_LOCK) as connection:
        SCHEMA_MIGRATION.create(connection, checkfirst=True)
        recorded = _recorded(connection)
        for package, steps in known.items():
            done = recorded.get(package, {})
            _require_known(engine, package, steps, done)
            for step in steps:
                if step.number not in done:
                    _apply(connection, step)
                    applied.append(step)
    for step in applied:
        _log.info("database schema: applied %s %d (%s)", step.package, step.number, step.name)
    return applied


def _ordered(migrations: Sequence[Migration]) -> dict[str, list[Migration]]:
    """Migrations by package in the order given; numbers must run 1, 2, 3, ..."""
    known: dict[str, list[Migration]] = defaultdict(list)
    for step in migrations:
        known[step.package].append(step)
        expected = len(known[step.package])
        if step.number != expected:
            raise ValueError(f"migration {step.package} '{step.name}': expected number {expected}, got {step.number}")
    return known


def _recorded(connection: Connection) -> dict[str, dict[int, str]]:
    """Names of the migrations in the database, by package and number."""
    table = SCHEMA_MIGRATION.c
    recorded: dict[str, dict[int, str]] = defaultdict(dict)
    for package, number, name in connection.execute(sqlalchemy.select(table.package, table.number, table.name)):
        recorded[package][number] = name
    return recorded


def _require_known(engine: Engine, package: str, steps: list[Migration], done: dict[int, str]) -> None:
    """Refuse a schema that is newer than the program, or another one of that name."""
    newest = max(done, default=0)
    if newest > len(steps):
        raise DatabaseError(
            f"database {_shown(engine)}: its schema of '{package}' is version {newest}, this program knows versions up "
            f"to {len(steps)}; use a newer program"
        )
    for number, name in done.items():
        if steps[number - 1].name != name:
            raise DatabaseError(
                f"database {_shown(engine)}: its migration {number} of '{package}' is '{name}', this program expects "
                f"'{steps[number - 1].name}'"
            )


def _apply(connection: Connection, step: Migration) -> None:
    if isinstance(step.change, tuple):
        for statement in step.change:
            connection.exec_driver_sql(statement)
    else:
        step.change(connection)
    now = datetime.datetime.now(datetime.UTC)
    row = {"package": step.package, "number": step.number, "name": step.name, "applied_at": now}
    connection.execute(SCHEMA_MIGRATION.insert(), row)


def _shown(engine: Engine) -> str:
    """The engine's URL without a password."""
    return engine.url.render_as_string(hide_password=True)


def _set_up_sqlite(connection: Any, _record: object) -> None:
    """Settings of a new SQLite connection; transactions are begun by `_begin_sqlite`, not by the driver."""
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
    finally:
        cursor.close()


def _with_driver(url: sqlalchemy.URL) -> sqlalchemy.URL:
    """PostgreSQL by psycopg unless the URL names another driver; other libraries also write ``postgres``."""
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgresql", "postgres") else url


def _bound_waiting(connection: Connection) -> None:
    """Within this PostgreSQL transaction: wait for others and keep others waiting only so long."""
    settings = {
        "lock_timeout": f"{1000 * BUSY_TIMEOUT_S:.0f}ms",
        "idle_in_transaction_session_timeout": f"{1000 * IDLE_WRITER_TIMEOUT_S:.0f}ms",
    }
    calls = [sqlalchemy.func.set_config(name, value, True) for name, value in settings.items()]
    connection.execute(sqlalchemy.select(*calls))


def _wait_for_lock(connection: Connection, name: str) -> None:
    """Take a PostgreSQL lock of that name, until the transaction ends."""
    digest = hashlib.sha256(f"conepacs {name}".encode()).digest()
    key = int.from_bytes(digest[:8], "big", signed=True)
    connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(key)))


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    """Turn the driver's failures into DatabaseError."""
    try:
        yield
    except sqlalchemy.exc.IntegrityError:
        raise
    except sqlalchemy.exc.TimeoutError as error:
        raise DatabaseError(f"database {_shown(engine)}: all connections of this program are in use") from error
    except sqlalchemy.exc.DBAPIError as error:
        reason = str(error.orig).strip().split("\n")[0]
        raise DatabaseError(f"database {_shown(engine)}: {reason}") from error
