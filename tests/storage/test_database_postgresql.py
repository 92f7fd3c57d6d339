# SPDX-License-Identifier: Apache-2.0
"""Transactions and migrations on a real PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import sqlalchemy
from sqlalchemy import text

from storage import database
from storage.database import (
    Migration,
    apply_migrations,
    create_database_engine,
    read_transaction,
    write_transaction,
)
from storage.errors import DatabaseError
from tests.support.peers import REPOSITORY
from tests.support.postgres import new_database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

pytestmark = pytest.mark.postgresql

NUMBERS = Migration("test", 1, "numbers", ("CREATE TABLE number (value BIGINT NOT NULL UNIQUE)",))


@pytest.fixture
def url(postgresql_url: str) -> Iterator[str]:
    with new_database(postgresql_url) as made:
        yield made


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    made = create_database_engine(url)
    apply_migrations(made, [NUMBERS])
    yield made
    made.dispose()


def add(engine: Engine, value: int) -> None:
    with write_transaction(engine) as connection:
        connection.execute(text("INSERT INTO number VALUES (:value)"), {"value": value})


def values(engine: Engine) -> list[int]:
    with read_transaction(engine) as connection:
        return list(connection.execute(text("SELECT value FROM number ORDER BY value")).scalars())


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_any_usual_scheme_is_psycopg(url: str, scheme: str) -> None:
    engine = create_database_engine(url.replace("postgresql", scheme, 1))
    assert engine.url.drivername == "postgresql+psycopg"
    assert values_of(engine, "SELECT 1") == [1]
    engine.dispose()


def values_of(engine: Engine, statement: str) -> list[object]:
    with read_transaction(engine) as connection:
        return list(connection.execute(text(statement)).scalars())


def test_a_write_is_all_or_nothing(engine: Engine) -> None:
    def add_then_fail() -> None:
        with write_transaction(engine) as connection:
            connection.execute(text("INSERT INTO number VALUES (1)"))
            raise KeyError("on the way")

    with pytest.raises(KeyError):
        add_then_fail()
    add(engine, 2)
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        add(engine, 2)
    assert values(engine) == [2]


def test_a_reader_sees_one_state_and_cannot_write(engine: Engine) -> None:
    with read_transaction(engine) as connection:
        before = connection.execute(text("SELECT count(*) FROM number")).scalar()
        add(engine, 1)
        assert connection.execute(text("SELECT count(*) FROM number")).scalar() == before
    assert values(engine) == [1]
    with pytest.raises(DatabaseError, match="read-only"), read_transaction(engine) as connection:
        connection.execute(text("INSERT INTO number VALUES (3)"))
    add(engine, 3)  # the same connection, from the pool


def test_writers_of_the_same_name_wait_for_each_other(engine: Engine) -> None:
    """They read, then write what they read: no update may get lost."""

    def count_up(_index: int) -> None:
        with write_transaction(engine, only_writer_of="numbers") as connection:
            count = connection.execute(text("SELECT count(*) FROM number")).scalar()
            connection.execute(text("INSERT INTO number VALUES (:value)"), {"value": count})

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(count_up, range(30)))
    assert values(engine) == list(range(30))


def test_a_writer_does_not_wait_for_ever(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.3)
    with write_transaction(engine, only_writer_of="numbers"):
        with write_transaction(engine, only_writer_of="letters"):
            pass
        with pytest.raises(DatabaseError, match="lock timeout"), write_transaction(engine, only_writer_of="numbers"):
            pass


def test_a_writer_that_says_nothing_is_given_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lost its power closes no connection; its lock must not stay."""
    monkeypatch.setattr(database, "IDLE_WRITER_TIMEOUT_S", 0.5)
    silent, over = threading.Event(), threading.Event()
    failures = []

    def hold() -> None:
        try:
            with write_transaction(engine, only_writer_of="numbers") as connection:
                connection.execute(text("INSERT INTO number VALUES (7)"))
                silent.set()
                over.wait(60)
        except DatabaseError as error:
            failures.append(str(error))

    holder = threading.Thread(target=hold)
    holder.start()
    silent.wait(60)
    with write_transaction(engine, only_writer_of="numbers") as connection:
        connection.execute(text("INSERT INTO number VALUES (8)"))
    over.set()
    holder.join(60)
    assert values(engine) == [8]
    assert len(failures) == 1


def test_connections_that_the_server_closed_are_made_anew(engine: Engine) -> None:
    add(engine, 1)
    with write_transaction(engine) as connection:
        others = "pid <> pg_backend_pid() AND application_name = current_setting('application_name')"
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
    assert values(engine) == [1]


def test_all_connections_in_use_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_database_engine(url)
    monkeypatch.setattr(engine.pool, "_timeout", 0.2)
    monkeypatch.setattr(engine.pool, "_max_overflow", 0)
    taken = [engine.connect() for _ in range(5)]
    with pytest.raises(DatabaseError, match="all connections of this program are in use"):
        values_of(engine, "SELECT 1")
    for connection in taken:
        connection.close()
    engine.dispose()


def test_a_server_that_is_not_there_is_told_without_the_password() -> None:
    engine = create_database_engine("postgresql://me:secret@127.0.0.1:1/x")
    started = time.monotonic()
    with pytest.raises(DatabaseError, match=r"database postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x: ") as caught:
        values_of(engine, "SELECT 1")
    assert "secret" not in str(caught.value)
    assert time.monotonic() - started < 30
    engine.dispose()


STARTER = """
import sys
from storage.database import Migration, apply_migrations, create_database_engine
engine = create_database_engine(sys.argv[1])
sys.stdin.readline()
print(len(apply_migrations(engine, [Migration("test", n, f"step {n}", (f"CREATE TABLE t{n} (id INTEGER)",))
                                    for n in range(1, 11)])))
engine.dispose()
"""


def test_processes_that_start_at_once_migrate_once(url: str) -> None:
    command = [sys.executable, "-c", STARTER, url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    starters = [subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) for _ in range(3)]
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write("go\n")
        starter.stdin.flush()
    answers = [starter.communicate(timeout=60) for starter in starters]
    assert [error for _, error in answers] == [""] * 3
    assert sorted(int(applied) for applied, _ in answers) == [0, 0, 10]
