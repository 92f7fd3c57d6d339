# SPDX-License-Identifier: Apache-2.0
"""What is allowed into the queue: labels, numbers, texts and JSON of bounded size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jobs.errors import JobParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobs.records import NewJob, Resources

LOG_LEVELS = ("debug", "info", "warning", "error")
MAX_LABEL_CHARACTERS = 100
MAX_TEXT_CHARACTERS = 4000
MAX_PRIORITY = 1000
MAX_ATTEMPTS = 100
MAX_DEPENDENCIES = 1000
#: What an integer of a database holds.
MAX_ID = (1 << 63) - 1


def checked_label(what: str, label: str, *, empty: bool = False) -> str:
    """Return the name of a user or runner.

    Raises
    ------
    JobParameterError
        If it is too long or not printable.
    """
    if (not label and not empty) or len(label) > MAX_LABEL_CHARACTERS or not label.isprintable():
        raise JobParameterError(
            f"{what} {label[:MAX_LABEL_CHARACTERS]!r}: expected {0 if empty else 1} to {MAX_LABEL_CHARACTERS} "
            "printable characters"
        )
    return label


def checked_number(what: str, value: int, low: int, high: int) -> int:
    """Return a number of a job.

    Raises
    ------
    JobParameterError
        If it is out of range.
    """
    if not low <= value <= high:
        raise JobParameterError(f"{what} {value}: expected {low} to {high}")
    return value


def require_possible(job: NewJob, needs: Resources) -> None:
    """Refuse a job that could never run.

    Raises
    ------
    JobParameterError
        If a number is out of range, or it depends on too many.
    """
    checked_label("user", job.user, empty=True)
    checked_number("priority", job.priority, -MAX_PRIORITY, MAX_PRIORITY)
    checked_number("max_attempts", job.max_attempts, 1, MAX_ATTEMPTS)
    checked_number("cores", needs.cores, 1, 1 << 30)
    checked_number("memory_bytes", needs.memory_bytes, 0, MAX_ID)
    checked_number("gpus", needs.gpus, 0, 1 << 30)
    checked_number("number of jobs that it depends on:", len(job.depends_on), 0, MAX_DEPENDENCIES)


def within(number: int, most: int = MAX_ID) -> int:
    """Return a number that was asked for, brought within 0 and `most`."""
    return min(max(number, 0), most)


def one_text(text: str) -> str:
    """Return a text that every database takes, cut to 4000 characters."""
    storable = text.replace("\0", "�").encode("utf-8", "replace").decode("utf-8")
    return storable if len(storable) <= MAX_TEXT_CHARACTERS else storable[: MAX_TEXT_CHARACTERS - 3] + "..."


def json_object(what: str, values: Mapping[str, Any], most_bytes: int) -> str:
    """Return values as JSON text.

    Raises
    ------
    JobParameterError
        If they are not JSON values, or take more than `most_bytes`.
    """
    try:
        text = json.dumps(dict(values), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise JobParameterError(f"{what}: not JSON values ({error})") from error
    if len(text) > most_bytes:
        raise JobParameterError(
            f"{what}: {len(text)} bytes as JSON, at most {most_bytes} are allowed; put what is large into the store "
            "and name it"
        )
    return text
