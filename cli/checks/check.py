# SPDX-License-Identifier: Apache-2.0
"""One thing that was looked at."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal

State = Literal["ok", "missing", "wrong"]
_ANSWER_S = 5.0
_MOST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: how it stands, what was found, and what to do."""

    name: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON answer over HTTP, and the server's clock [s since 1970], if it tells it (to the second)."""

    content: Any
    clock_s: float | None


def ask_json(url: str) -> Answer:
    """Ask for JSON.

    Raises
    ------
    OSError
        If nobody answers, or with something else.
    """
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as answer:
            date = answer.headers.get("Date")
            clock_s = parsedate_to_datetime(date).timestamp() if date else None
            return Answer(json.loads(answer.read(_MOST_BYTES)), clock_s)
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from error
    except ValueError as error:
        raise OSError(f"{url} answers something else than was expected") from error


def answers(host: str, port: int) -> str:
    """Empty if somebody takes connections there, else why not."""
    try:
        with socket.create_connection((host, port), timeout=_ANSWER_S):
            return ""
    except OSError as error:
        return str(error.strerror or error)


def host_and_port(address: str, default_port: int) -> tuple[str, int]:
    """Split ``host:port``; a port that is not told is `default_port`."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return address.strip("[]"), default_port
    return host.strip("[]"), int(port)
