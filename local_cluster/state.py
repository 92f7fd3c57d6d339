# SPDX-License-Identifier: Apache-2.0
"""The state file of a cluster's folder: which daemons it has, their ports and processes."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from local_cluster.errors import StateFileError, UnknownDaemonError
from local_cluster.options import ClusterOptions
from local_cluster.processes import ProcessKey, is_running

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

Kind = Literal["namenode", "datanode", "master", "worker", "resourcemanager", "nodemanager"]
#: up: it should run.  drained: it was taken out of service on purpose and stays out.
Wanted = Literal["up", "drained"]

STATE_FILE = "state.json"
_LOCK_FILE = "lock"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class DaemonRecord:
    """One daemon: its name, where it listens (role -> port), and the process it had last."""

    name: str
    kind: Kind
    ports: dict[str, int]
    process: ProcessKey | None = None
    wanted: Wanted = "up"

    @property
    def index(self) -> int:
        """The number in its name."""
        return int(self.name.removeprefix(self.kind) or 0)

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return is_running(self.process)


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The options that a cluster was started with, and its daemons."""

    options: ClusterOptions
    daemons: tuple[DaemonRecord, ...] = ()
    #: The process that is just starting the cluster.
    starter: ProcessKey | None = None

    @property
    def being_started(self) -> bool:
        """Whether a process is just starting the cluster."""
        return is_running(self.starter)

    def drained(self, kind: Kind) -> tuple[DaemonRecord, ...]:
        """Daemons of one kind that were taken out of service."""
        return tuple(record for record in self.daemons if record.kind == kind and record.wanted == "drained")

    def of_kind(self, kind: Kind) -> tuple[DaemonRecord, ...]:
        """Daemons of one kind that should run."""
        return tuple(record for record in self.daemons if record.kind == kind and record.wanted == "up")

    def running(self) -> tuple[DaemonRecord, ...]:
        """Daemons whose process runs."""
        return tuple(record for record in self.daemons if record.running)

    def record(self, name: str) -> DaemonRecord:
        """Find a daemon by its name.

        Raises
        ------
        UnknownDaemonError
            If there is none.
        """
        for record in self.daemons:
            if record.name == name:
                return record
        known = ", ".join(record.name for record in self.daemons) or "none"
        raise UnknownDaemonError(f"the cluster in {self.options.folder} has no daemon '{name}': it has {known}")

    def with_record(self, changed: DaemonRecord) -> ClusterState:
        """Replace the record of that name, or add it."""
        if all(record.name != changed.name for record in self.daemons):
            return replace(self, daemons=(*self.daemons, changed))
        return replace(self, daemons=tuple(changed if each.name == changed.name else each for each in self.daemons))

    def without(self, names: Collection[str]) -> ClusterState:
        """Forget daemons."""
        return replace(self, daemons=tuple(record for record in self.daemons if record.name not in names))


def read_state(folder: Path) -> ClusterState | None:
    """Read the state of a folder; None if it never had a cluster.

    Raises
    ------
    StateFileError
        If the file is damaged, or of another version.
    """
    path = folder / STATE_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["schema"] != _SCHEMA:
            raise StateFileError(f"{path} is of version {values['schema']}, expected {_SCHEMA}: start a new folder")
        daemons = tuple(_record_of(each) for each in values["daemons"])
        options = ClusterOptions.from_json(values["options"] | {"folder": str(folder)})
        return ClusterState(options, daemons, _key_of(values["starter"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateFileError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateFileError(f"{path} is damaged ({error}): move it away, the data beside it stays") from error


def write_state(state: ClusterState) -> None:
    """Write the state of its folder: at any moment the old one or the new one is there, whole."""
    path = state.options.folder / STATE_FILE
    values = {
        "schema": _SCHEMA,
        "options": state.options.as_json(),
        "daemons": [_json_of(record) for record in state.daemons],
        "starter": asdict(state.starter) if state.starter else None,
    }
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from changing the state of `folder` meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _json_of(record: DaemonRecord) -> dict[str, Any]:
    process = asdict(record.process) if record.process else None
    return {
        "name": record.name, "kind": record.kind, "ports": record.ports, "process": process, "wanted": record.wanted,
    }  # fmt: skip


def _record_of(values: dict[str, Any]) -> DaemonRecord:
    if values["kind"] not in get_args(Kind) or values["wanted"] not in get_args(Wanted):
        raise ValueError(f"unknown daemon {values['kind']}, {values['wanted']}")
    ports = {str(role): int(port) for role, port in values["ports"].items()}
    return DaemonRecord(str(values["name"]), values["kind"], ports, _key_of(values["process"]), values["wanted"])


def _key_of(values: dict[str, Any] | None) -> ProcessKey | None:
    return ProcessKey(int(values["pid"]), str(values["started"])) if values else None
