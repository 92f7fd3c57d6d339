# SPDX-License-Identifier: Apache-2.0
"""What the queue keeps of a job, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import datetime

#: waiting (also for others) -> running -> done | failed | cancelled; failed and cancelled may be retried.
JobState = Literal["waiting", "running", "done", "failed", "cancelled"]
FINAL_STATES: tuple[JobState, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Resources:
    """What a job needs at once, or a runner has.

    Attributes
    ----------
    cores, gpus
    memory_bytes : of all its tasks that run at once [B]
    """

    cores: int = 1
    memory_bytes: int = 0
    gpus: int = 0

    def holds(self, other: Resources) -> bool:
        """Whether `other` fits into this."""
        return other.cores <= self.cores and other.memory_bytes <= self.memory_bytes and other.gpus <= self.gpus

    def plus(self, other: Resources) -> Resources:
        """Return both together."""
        return Resources(self.cores + other.cores, self.memory_bytes + other.memory_bytes, self.gpus + other.gpus)

    def minus(self, other: Resources) -> Resources:
        """Return what is left when `other` is taken away."""
        return Resources(self.cores - other.cores, self.memory_bytes - other.memory_bytes, self.gpus - other.gpus)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running job is: its stage, and tasks done of all in that stage."""

    stage: str = ""
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as it is submitted; `jobs.kinds` has checked its parameters.

    Attributes
    ----------
    kind : name of a registered kind
    parameters : JSON values
    user : a label of whom it runs for, no patient data; the queue is fair between users
    priority : higher first, 0 by default
    depends_on : jobs that must be done before it; if one fails or is cancelled, so is this
    max_attempts : how often it may be started; a runner that dies counts as one attempt
    resources : of one run; None takes what the kind says
    """

    kind: str
    parameters: dict[str, Any]
    user: str = ""
    priority: int = 0
    depends_on: tuple[int, ...] = ()
    max_attempts: int = 3
    resources: Resources | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the queue keeps it; times are UTC.

    Attributes
    ----------
    job_id : counts up from 1
    attempt : how often it was ever started; with `runner` it says whose writes count
    attempts_used : how many of `max_attempts` are used, since it was submitted or retried
    runner : who has or had it
    lease_until : when its runner is taken for dead, while it runs
    cancel_requested : its runner is to stop it
    result : JSON values, once it is done
    error : one sentence, once it has failed, or was cancelled because of another
    ui_url : where Spark shows it while it runs
    """

    job_id: int
    kind: str
    parameters: dict[str, Any]
    user: str
    priority: int
    depends_on: tuple[int, ...]
    max_attempts: int
    resources: Resources
    state: JobState
    submitted_at: datetime.datetime
    attempt: int = 0
    attempts_used: int = 0
    started_at: datetime.datetime | None = None
    finished_at: datetime.datetime | None = None
    runner: str = ""
    lease_until: datetime.datetime | None = None
    cancel_requested: bool = False
    progress: Progress = field(default_factory=Progress)
    result: dict[str, Any] | None = None
    error: str = ""
    ui_url: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a job: state changes, progress, lines of its log.

    Attributes
    ----------
    event_id : counts up over all jobs; who waits asks for those after the last one seen
    kind : ``state``, ``progress`` or ``log``
    content : JSON values; ``state`` has the new state under that name, ``log`` has level and message
    """

    event_id: int
    job_id: int
    at: datetime.datetime
    kind: Literal["state", "progress", "log"]
    content: dict[str, Any]
