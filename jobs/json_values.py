# SPDX-License-Identifier: Apache-2.0
"""Jobs and events as JSON values, the same for the command line and for HTTP; times are ISO 8601 in UTC."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, Any

from jobs.kinds import json_schema

if TYPE_CHECKING:
    from jobs.kinds import JobKind
    from jobs.records import Event, Job


def job_json(job: Job) -> dict[str, Any]:
    """Return all fields of a job."""
    return {name: _value(value) for name, value in dataclasses.asdict(job).items()}


def event_json(event: Event) -> dict[str, Any]:
    """Return all fields of an event."""
    return {name: _value(value) for name, value in dataclasses.asdict(event).items()}


def kind_json(kind: JobKind) -> dict[str, Any]:
    """Return name, title and the JSON schema of the parameters of a kind."""
    return {"name": kind.name, "title": kind.title, "parameters": json_schema(kind)}


def _value(value: Any) -> Any:
    """One field: a moment becomes text, anything else is JSON already."""
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return list(value) if isinstance(value, tuple) else value
