# SPDX-License-Identifier: Apache-2.0
"""What a database is like, without changing anything in it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy

from storage.backup_database import read_migrations
from storage.database import read_transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Engine

    from storage.database import Migration


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """A database as it was found.

    Attributes
    ----------
    kind, version : of the server or library
    applied : (package, number, name) of its migrations
    clock_ahead_s : how far its clock is before this machine's [s]; 0 for a file
    damage : what its own check says, of a file and if asked for; empty if it is whole
    """

    kind: str
    version: str
    applied: tuple[tuple[str, int, str], ...]
    clock_ahead_s: float
    damage: str

    def newer_than(self, migrations: Sequence[Migration]) -> list[str]:
        """Packages whose schema is of a newer or another program."""
        known = {(step.package, step.number): step.name for step in migrations}
        packages = {step.package for step in migrations}
        return sorted(
            {package for package, number, name in self.applied
             if package in packages and known.get((package, number)) != name}
        )  # fmt: skip

    def lacking(self, migrations: Sequence[Migration]) -> list[str]:
        """Packages whose schema is older than the program."""
        applied = {(package, number) for package, number, _ in self.applied}
        return sorted({step.package for step in migrations if (step.package, step.number) not in applied})


def inspect_database(engine: Engine, *, thorough: bool = False) -> DatabaseState:
    """Look at a database.

    Parameters
    ----------
    engine : of the database; its file must be there
    thorough : let SQLite check its file

    Raises
    ------
    DatabaseError
        If it does not answer, or is no database.
    """
    with read_transaction(engine) as connection:
        applied = read_migrations(connection)
        version = ".".join(map(str, connection.dialect.server_version_info or ()))
        ahead, damage = 0.0, ""
        if engine.dialect.name == "postgresql":
            before = time.time()
            clock = connection.execute(sqlalchemy.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
            ahead = float(clock) - (before + time.time()) / 2
        elif thorough:
            said = connection.execute(sqlalchemy.text("PRAGMA quick_check(1)")).scalar_one()
            damage = "" if said == "ok" else str(said)
    return DatabaseState(engine.dialect.name, version, applied, ahead, damage)
