# SPDX-License-Identifier: Apache-2.0
"""The SQL engine's settings and the migration runner."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import sqlalchemy
from sqlalchemy import text

from storage.database import (
    Migration,
    apply_migrations,
    create_database_engine,
    read_transaction,
    sqlite_url,
    write_transaction,
)
from storage.errors import DatabaseError
from tests.support.peers import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine


def add_column(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE patient ADD COLUMN born VARCHAR(8)"))


FIRST = Migration("pacs", 1, "patients", ("CREATE TABLE patient (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",))
SECOND = Migration("pacs", 2, "birth dates", add_column)
OTHER = Migration("jobs", 1, "queue", ("CREATE TABLE job (id INTEGER PRIMARY KEY, patient REFERENCES patient(id))",))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_database_engine(sqlite_url(tmp_path / "made for it" / "index.db"))
    yield made
    made.dispose()


def scalar(connection: Connection, statement: str) -> object:
    return connection.execute(text(statement)).scalar()


def test_sqlite_is_set_to_be_durable_and_strict(engine: Engine) -> None:
    with read_transaction(engine) as connection:
        assert scalar(connection, "PRAGMA journal_mode") == "wal"
        assert scalar(connection, "PRAGMA synchronous") == 2  # FULL
        assert scalar(connection, "PRAGMA foreign_keys") == 1
        assert scalar(connection, "PRAGMA busy_timeout") == 30_000


def test_migrations_are_applied_once_and_in_order(engine: Engine) -> None:
    assert apply_migrations(engine, [FIRST, OTHER]) == [FIRST, OTHER]
    assert apply_migrations(engine, [FIRST, OTHER]) == []
    assert apply_migrations(engine, [FIRST, SECOND, OTHER]) == [SECOND]
    with read_transaction(engine) as connection:
        rows = connection.execute(text("SELECT package, number, name FROM schema_migration ORDER BY package, number"))
        assert [tuple(row) for row in rows] == [
            ("jobs", 1, "queue"),
            ("pacs", 1, "patients"),
            ("pacs", 2, "birth dates"),
        ]
        assert scalar(connection, "SELECT count(born) FROM patient") == 0


def test_a_newer_or_different_schema_is_refused(engine: Engine) -> None:
    apply_migrations(engine, [FIRST, SECOND])
    with pytest.raises(DatabaseError, match="schema of 'pacs' is version 2, this program knows versions up to 1; use"):
        apply_migrations(engine, [FIRST])
    renamed = Migration("pacs", 1, "people", FIRST.change)
    with pytest.raises(DatabaseError, match="migration 1 of 'pacs' is 'patients', this program expects 'people'"):
        apply_migrations(engine, [renamed, SECOND])


def test_a_migration_that_fails_leaves_nothing(engine: Engine) -> None:
    broken = Migration("pacs", 2, "broken", ("CREATE TABLE half (id INTEGER)", "CREATE TABLE (nonsense"))
    with pytest.raises(DatabaseError, match="syntax error"):
        apply_migrations(engine, [FIRST, broken])
    assert sqlalchemy.inspect(engine).get_table_names() == []
    assert apply_migrations(engine, [FIRST, SECOND]) == [FIRST, SECOND]


def test_numbers_without_gaps_are_required(engine: Engine) -> None:
    with pytest.raises(ValueError, match="pacs 'birth dates': expected number 1, got 2"):
        apply_migrations(engine, [SECOND])
    with pytest.raises(ValueError, match="from 1 on, got 0"):
        Migration("pacs", 0, "zero", ())


def test_a_write_transaction_is_all_or_nothing(engine: Engine) -> None:
    apply_migrations(engine, [FIRST, OTHER])

    def add_then_fail() -> None:
        with write_transaction(engine) as connection:
            connection.execute(text("INSERT INTO patient (name) VALUES ('a')"))
            raise KeyError("on the way")

    with pytest.raises(KeyError):
        add_then_fail()
    with write_transaction(engine) as connection:
        connection.execute(text("INSERT INTO patient (name) VALUES ('b')"))
    with read_transaction(engine) as connection:
        assert scalar(connection, "SELECT group_concat(name) FROM patient") == "b"
    with pytest.raises(sqlalchemy.exc.IntegrityError), write_transaction(engine) as connection:
        connection.execute(text("INSERT INTO job (patient) VALUES (99)"))


def test_writers_wait_for_each_other_and_lose_nothing(engine: Engine) -> None:
    apply_migrations(engine, [FIRST])

    def add(index: int) -> None:
        with write_transaction(engine) as connection:  # reads, then writes what it read: no update may get lost
            count = scalar(connection, "SELECT count(*) FROM patient")
            connection.execute(text("INSERT INTO patient (name) VALUES (:name)"), {"name": f"number {count}"})

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(add, range(40)))
    with read_transaction(engine) as connection:
        assert scalar(connection, "SELECT count(*) FROM patient") == 40


STARTER = """
import sys
from storage.database import Migration, apply_migrations, create_database_engine
engine = create_database_engine(sys.argv[1])
sys.stdin.readline()
print(len(apply_migrations(engine, [Migration("pacs", n, f"step {n}", (f"CREATE TABLE t{n} (id INTEGER)",))
                                    for n in range(1, 21)])))
engine.dispose()
"""


def test_processes_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path / "index.db")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    starters = [subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) for _ in range(4)]
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write("go\n")
        starter.stdin.flush()
    answers = [starter.communicate(timeout=60) for starter in starters]
    assert [error for _, error in answers] == [""] * 4
    assert sorted(int(applied) for applied, _ in answers) == [0, 0, 0, 20]


def test_what_cannot_be_opened_is_told_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="not a URL of a database") as caught:
        create_database_engine("nonsense+++://me:secret@host/x y")
    assert "secret" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseError, match="folder of the database cannot be made"):
        create_database_engine(sqlite_url(tmp_path / "file" / "index.db"))
    (tmp_path / "text.db").write_text("this is not a database, it is a longer text " * 20)
    engine = create_database_engine(sqlite_url(tmp_path / "text.db"))
    with pytest.raises(DatabaseError, match=r"text\.db: file is not a database"):
        apply_migrations(engine, [FIRST])
    engine.dispose()
