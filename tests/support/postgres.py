# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL server for tests, reached by a Unix socket, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy

from tests.support.peers import require_peer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

DATABASE_USER = "conepacs"
# Nothing has to survive the machine here; that commits are durable is PostgreSQL's own promise.
SETTINGS = {
    "fsync": "off",
    "listen_addresses": "",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "max_wal_size": "64MB",
    "autovacuum": "off",
    "log_min_messages": "warning",
}


@contextmanager
def postgresql_server() -> Iterator[str]:
    """URL of a server that is stopped, and its folder removed, in the end.

    The server refuses to run as root: root starts it as the user postgres, or nobody.
    """
    programs = _program_folder()
    require_peer("PostgreSQL", programs is not None, "install postgresql (the server: initdb and postgres)")
    assert programs is not None
    # Not pytest's folder: that is closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="conepacs-pg-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        switch = _as_another_user(folder)
        data = folder / "data"
        with (folder / "initdb.log").open("wb") as log:
            # ICU's order of letters is not that of bytes: what relies on that shows here.
            locale = ("--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US")
            arguments = ("-D", str(data), "-U", DATABASE_USER, "-E", "UTF8", "-A", "trust", "-N", *locale)
            command = [*switch, str(programs / "initdb"), *arguments]
            subprocess.run(command, check=True, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        settings = [f"-c{name}={value}" for name, value in SETTINGS.items()]
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [*switch, str(programs / "postgres"), "-D", str(data), "-k", str(folder), *settings],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        url = f"postgresql://{DATABASE_USER}@/postgres?host={folder}"
        _wait_for(url, process, folder / "server.log")
        yield url
    finally:
        if process is not None:
            _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_database(server_url: str) -> Iterator[str]:
    """URL of an empty database, dropped in the end with what is still connected to it.

    It is a schema of its own, the only one that its connections see: a whole database takes ten times as long.
    """
    name = f"test_{uuid.uuid4().hex[:12]}"
    _run_sql(server_url, f"CREATE SCHEMA {name}")
    try:
        yield f"{server_url}&options=-csearch_path%3D{name}&application_name={name}"
    finally:
        others = "pid <> pg_backend_pid() AND application_name"
        _run_sql(server_url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others} = '{name}'")
        _run_sql(server_url, f"DROP SCHEMA {name} CASCADE")


def empty_tables(url: str) -> None:
    """Delete all rows of a test's database; numbers start at 1 again.  Quicker than a new one with its migrations."""
    _run_sql(
        url,
        "DO $$ BEGIN EXECUTE (SELECT coalesce('TRUNCATE ' || string_agg(quote_ident(tablename), ', ') || "
        "' RESTART IDENTITY', 'SELECT 1') FROM pg_tables "
        "WHERE schemaname = current_schema() AND tablename <> 'schema_migration'); END $$",
    )


def _program_folder() -> Path | None:
    """Where initdb and postgres are; Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: _number(path.parent.name))[::-1]
    return next((path for path in folders if (path / "initdb").exists() and (path / "postgres").exists()), None)


def _number(name: str) -> float:
    return float(name) if name.replace(".", "", 1).isdigit() else 0.0


def _as_another_user(folder: Path) -> list[str]:
    """The command in front that changes the user if this one is root; the folder is theirs then."""
    if os.geteuid() != 0:
        return []
    require_peer("setpriv", shutil.which("setpriv") is not None, "install util-linux, or run the tests as another user")
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = known.get("postgres") or known["nobody"]
    os.chown(folder, user.pw_uid, user.pw_gid)
    # A test run that is killed takes its server with it.
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=INT"]


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers."""

    def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        _run_sql(url, "SELECT 1")
        return True

    wait_until("PostgreSQL answers", answers, timeout_s=60.0, not_yet=(sqlalchemy.exc.OperationalError,))


def _run_sql(url: str, statement: str) -> None:
    """Run one statement outside a transaction."""
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Fast shutdown, at worst a kill."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
