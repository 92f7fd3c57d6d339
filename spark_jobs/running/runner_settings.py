# SPDX-License-Identifier: Apache-2.0
"""Settings of a job runner."""

from __future__ import annotations

import os
from dataclasses import dataclass

from jobs.records import Resources
from spark_jobs.errors import RunnerError

_GIBIBYTE = 1 << 30


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """What a runner may use at once, and how it keeps its leases.

    Attributes
    ----------
    cores : what its jobs may ask for together; 0 for the cores of this machine.  On a cluster: of all executors.
    memory_gib : likewise [GiB]; 0 for the memory of this machine.
    gpus : likewise.
    jobs : how many jobs run at once; with more than one, Spark shares its cores between them fairly.
    lease_s : a runner that says nothing for so long is taken for dead, and its jobs go to others [s].
    poll_s : how often it looks for work while it could take some [s].
    grace_s : how long jobs may go on to their end once the runner is told to end; then they go back to the queue [s].
    """

    cores: int = 0
    memory_gib: float = 0.0
    gpus: int = 0
    jobs: int = 1
    lease_s: float = 60.0
    poll_s: float = 1.0
    grace_s: float = 20.0

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic, where settings are composed

    def __post_init__(self) -> None:
        for name in ("cores", "memory_gib", "gpus", "grace_s"):
            if getattr(self, name) < 0:
                raise RunnerError(f"{name} of a runner is 0 or more, got {getattr(self, name)}")
        if self.jobs < 1:
            raise RunnerError(f"a runner works at least one job at once, got jobs = {self.jobs}")
        if self.poll_s <= 0 or self.lease_s <= self.poll_s:
            raise RunnerError(
                f"a runner needs 0 < poll_s < lease_s, got poll_s = {self.poll_s:g} and lease_s = {self.lease_s:g}"
            )

    def resources(self) -> Resources:
        """What the runner has for its jobs, with this machine's figures where none are set."""
        cores = self.cores or os.cpu_count() or 1
        memory_bytes = int(self.memory_gib * _GIBIBYTE) or _memory_of_this_machine()
        return Resources(cores, memory_bytes, self.gpus)


def _memory_of_this_machine() -> int:
    """Bytes of main memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError) as error:
        raise RunnerError("the memory of this machine is not known here: set memory_gib of the runner") from error
