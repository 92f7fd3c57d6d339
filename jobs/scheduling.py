# SPDX-License-Identifier: Apache-2.0
"""Decisions of the queue as functions of values: which job is next, and what becomes of one whose attempt ended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jobs.records import JobState, Resources

#: After this time a used core-second counts half [s].
USAGE_HALF_LIFE_S = 24 * 3600.0
#: How long a job that does not fit may be overtaken by younger ones [s].
RESERVE_AFTER_S = 600.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting job whose dependencies are done.

    Attributes
    ----------
    job_id : the smaller, the older
    passed_over_at : when another was first taken because this did not fit [s since 1970], or None
    """

    job_id: int
    user: str
    priority: int
    needs: Resources
    passed_over_at: float | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What a user has of the machines: cores of running jobs, and recently used core-seconds (`decayed`)."""

    running_cores: int = 0
    used_core_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """The job to run, if any, and the one that it overtakes because that does not fit at this moment."""

    job_id: int | None = None
    passed_over: int | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """What becomes of a job whose attempt ended without a result; `error` is for a job that has failed."""

    state: JobState
    error: str = ""


def choose(
    candidates: Iterable[Candidate],
    shares: Mapping[str, Share],
    *,
    free: Resources,
    capacity: Resources,
    now: float,
    reserve_after_s: float = RESERVE_AFTER_S,
) -> Choice:
    """Choose the next job for a runner: by priority, then fair share, then age, among those that fit.

    Fair share: the user with the least running cores goes first, among equals the one with the least recently used
    core-seconds.  A job that does not fit `free` is passed over; once this was so for `reserve_after_s` [s], no
    younger job of the same or a lower priority overtakes it on a runner whose whole `capacity` holds it: room
    gathers until it fits.  Only the first job in order starts that clock, so that one user's many large jobs reserve
    one after the other and not all at once.

    Parameters
    ----------
    candidates : iterable of Candidate
        In any order.
    shares : mapping user -> Share
        Users without an entry have used nothing.
    free, capacity : Resources
        What the runner can give now, and when nothing runs on it.
    now : float
        The time [s since 1970].
    """
    ordered = sorted(candidates, key=lambda one: _order(one, shares))
    overdue = [
        one
        for one in ordered
        if one.passed_over_at is not None
        and now - one.passed_over_at >= reserve_after_s
        and capacity.holds(one.needs)
    ]  # fmt: skip
    passed_over = None
    for one in ordered:
        if any(_overtakes(one, waiting) for waiting in overdue):
            continue
        if free.holds(one.needs):
            return Choice(one.job_id, passed_over)
        if passed_over is None and capacity.holds(one.needs):
            passed_over = one.job_id
    return Choice()


def after_death(*, runner: str, deaths: int, attempts_used: int, max_attempts: int, cancel_requested: bool) -> Ending:
    """Decide about a job whose lease ran out; `deaths` and `attempts_used` include this one."""
    if cancel_requested:
        return Ending("cancelled")
    if attempts_used < max_attempts:
        return Ending("waiting")
    times = f"died, it was '{runner}'" if deaths == 1 else f"died {deaths} times, the last was '{runner}'"
    return Ending("failed", f"its runner {times}; {_allowed(max_attempts)}")


def after_failure(
    error: str, *, again: bool, attempts_used: int, max_attempts: int, cancel_requested: bool
) -> Ending:  # fmt: skip
    """Decide about a job whose attempt failed; `again` if another attempt may do better."""
    if cancel_requested:
        return Ending("cancelled")
    if again and attempts_used < max_attempts:
        return Ending("waiting")
    return Ending("failed", error)


def decayed(core_s: float, elapsed_s: float) -> float:
    """Core-seconds as they count after `elapsed_s` [s]: half after `USAGE_HALF_LIFE_S`."""
    return core_s * math.exp2(-max(elapsed_s, 0.0) / USAGE_HALF_LIFE_S)


def _order(candidate: Candidate, shares: Mapping[str, Share]) -> tuple[int, int, float, int]:
    """Smallest first."""
    share = shares.get(candidate.user, Share())
    return -candidate.priority, share.running_cores, share.used_core_s, candidate.job_id


def _overtakes(candidate: Candidate, waiting: Candidate) -> bool:
    """Whether `candidate` would run before `waiting` without a right to."""
    return candidate.job_id > waiting.job_id and candidate.priority <= waiting.priority


def _allowed(max_attempts: int) -> str:
    return "one attempt was allowed" if max_attempts == 1 else f"{max_attempts} attempts were allowed"
