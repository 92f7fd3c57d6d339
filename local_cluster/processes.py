# SPDX-License-Identifier: Apache-2.0
"""Processes told apart by their start time, so that a pid that another process has by now is never signalled.

Linux only: it reads /proc and signals through pidfds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local_cluster.errors import MissingPartError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

#: Environment variable that marks every process of a cluster, also those that the daemons start.
MARK = "CONEPACS_DAEMON_OF"
_PROC = Path("/proc")
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ProcessKey:
    """A process: its pid, and when it started (boot and clock ticks since then)."""

    pid: int
    started: str


def require_linux() -> None:
    """Refuse a system without /proc and pidfds.

    Raises
    ------
    MissingPartError
        If this is no Linux.
    """
    if not (_PROC / "self" / "stat").exists() or not hasattr(os, "pidfd_open"):
        raise MissingPartError("a local cluster needs Linux (5.3 or newer): this system has no /proc or no pidfds")


def key_of(pid: int) -> ProcessKey | None:
    """Return the key of a process that runs; None if there is none, or it has ended and waits to be collected."""
    fields = _stat_fields(pid)
    # A JVM whose first thread has ended already holds its ports until the last one has.
    if fields is None or (fields[0] in ("Z", "X") and int(fields[17]) <= 1):
        return None
    return ProcessKey(pid, f"{_boot_id()}/{fields[19]}")


def is_running(key: ProcessKey | None) -> bool:
    """Whether this very process, not another one with its pid, runs."""
    return key is not None and key_of(key.pid) == key


def send_signal(key: ProcessKey, number: signal.Signals) -> bool:
    """Signal this very process; False if it is gone."""
    try:
        descriptor = os.pidfd_open(key.pid)
    except ProcessLookupError:
        return False
    try:
        # The descriptor is of whatever has the pid now, and stays with it: what is compared is what is signalled.
        if not is_running(key):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def stop_processes(keys: Sequence[ProcessKey], *, grace_s: float = 10.0) -> list[ProcessKey]:
    """End processes by SIGTERM, after `grace_s` [s] by SIGKILL; return those that needed the latter."""
    left = [key for key in keys if send_signal(key, signal.SIGTERM)]
    left = _wait_gone(left, grace_s)
    stubborn = [key for key in left if send_signal(key, signal.SIGKILL)]
    _wait_gone(stubborn, grace_s)
    return stubborn


def kill_process(key: ProcessKey, *, timeout_s: float = 20.0) -> None:
    """Kill one process without a warning and wait until it is gone."""
    if send_signal(key, signal.SIGKILL):
        _wait_gone([key], timeout_s)


def marked_processes(mark: str) -> list[ProcessKey]:
    """Processes of this user that carry `mark` in their environment, however they were left behind."""
    wanted = f"{MARK}={mark}".encode()
    keys = []
    for pid in _pids():
        try:
            environment = (_PROC / str(pid) / "environ").read_bytes()
        except OSError:
            continue  # gone, or another user's
        if wanted in environment.split(b"\0"):
            key = key_of(pid)
            if key is not None:
                keys.append(key)
    return keys


def spawn(
    command: Sequence[str], *, log: Path, folder: Path, environment: Mapping[str, str], mark: str
) -> tuple[subprocess.Popen[bytes], ProcessKey]:
    """Start a process that outlives this one, in a session of its own; what it prints is appended to `log`.

    Raises
    ------
    MissingPartError
        If the program does not run.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(
                list(command),
                cwd=folder,
                env={**environment, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            raise MissingPartError(f"{command[0]} does not run: {error.strerror}") from error
    fields = _stat_fields(child.pid)  # a child that has ended is there until it is waited for
    ticks = fields[19] if fields is not None else "0"
    return child, ProcessKey(child.pid, f"{_boot_id()}/{ticks}")


def collect_children(children: Iterable[subprocess.Popen[bytes]]) -> None:
    """Collect children of this process that have ended; one that goes on is no concern of this process any more."""
    for child in children:
        with contextlib.suppress(ChildProcessError):
            child.poll()


def _wait_gone(keys: Sequence[ProcessKey], timeout_s: float) -> list[ProcessKey]:
    """Wait until the processes are gone; return those that are not."""
    deadline = time.monotonic() + timeout_s
    left = [key for key in keys if is_running(key)]
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        left = [key for key in left if is_running(key)]
    return left


def _pids() -> Iterator[int]:
    for entry in os.scandir(_PROC):
        if entry.name.isdigit():
            yield int(entry.name)


def _stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on (field 3 of proc(5)); the name before may hold anything."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _boot_id() -> str:
    """Ticks count from the start of the system: which start, this tells."""
    return (_PROC / "sys" / "kernel" / "random" / "boot_id").read_text(encoding="ascii").strip()
