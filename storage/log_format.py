# SPDX-License-Identifier: Apache-2.0
"""How a line of the log looks: text for people, or one JSON object a line; both with the ids of `log_context`.

Of an exception a log keeps the types and the places in the code, not the messages: those of foreign libraries quote
the values that they stumbled over, and a value may be a patient's name.
"""

from __future__ import annotations

import datetime
import json
import logging
import traceback
from pathlib import PurePath
from typing import TYPE_CHECKING

from storage.log_context import current_log_ids

if TYPE_CHECKING:
    from types import TracebackType

    _ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

#: Frames of a traceback that are kept: the innermost ones.
_FRAMES = 12


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, ids, and where an exception came from."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, str | int | list[str]] = {
            "time": utc_time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **current_log_ids(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = places_of(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    """One line for people: time (UTC), level, logger, message, and the ids in brackets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; one record is one line, whatever its message holds."""
        ids = " ".join(f"{name}={value}" for name, value in current_log_ids().items())
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{utc_time(record.created)} {record.levelname.lower()} {record.name}: {message}"
        line += f" [{ids}]" if ids else ""
        if record.exc_info and record.exc_info[1] is not None:
            line += "".join(f"\n    {place}" for place in places_of(record.exc_info[1]))
        return line


def utc_time(seconds: float) -> str:
    """ISO 8601 of a moment [s since 1970] in UTC, to the millisecond."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def places_of(error: BaseException) -> list[str]:
    """Type of an error and of its causes, each with the places in the code, innermost last; no messages."""
    found: list[str] = []
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        found.append(f"{type(each).__module__}.{type(each).__qualname__}")
        for frame in traceback.extract_tb(each.__traceback__)[-_FRAMES:]:
            path = PurePath(frame.filename)
            found.append(f"at {'/'.join(path.parts[-2:])}:{frame.lineno} {frame.name}")
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return found
