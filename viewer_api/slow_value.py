# SPDX-License-Identifier: Apache-2.0
"""A value that takes a while to find out: asked for on a thread of its own, kept for a while, never waited for long."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")
_log = logging.getLogger(__name__)


class SlowValue(Generic[Value]):
    """What a function returned not long ago; None if it failed or does not come back.

    Parameters
    ----------
    name : for the log.
    read : finds the value out; what it raises is logged by its type.
    keep_s : how long a value is good for [s].
    patience_s : how long `get` waits for a new one [s].
    """

    def __init__(self, name: str, read: Callable[[], Value], *, keep_s: float, patience_s: float) -> None:
        self._name, self._read, self._keep_s, self._patience_s = name, read, keep_s, patience_s
        self._lock = threading.Lock()
        self._value: Value | None = None
        self._asked_at = float("-inf")
        self._answered = threading.Event()
        self._answered.set()

    def get(self) -> Value | None:
        """Return the value; at most one thread is asking for it at a time."""
        with self._lock:
            if self._answered.is_set() and time.monotonic() - self._asked_at > self._keep_s:
                self._answered.clear()
                self._asked_at = time.monotonic()
                threading.Thread(target=self._ask, name=f"metrics-{self._name}", daemon=True).start()
        if not self._answered.wait(self._patience_s):
            return None
        return self._value

    def _ask(self) -> None:
        """Find the value out."""
        try:
            self._value = self._read()
        except Exception as error:  # noqa: BLE001 - the rim: a metric that cannot be told is left out
            self._value = None
            _log.warning("metrics: %s is not known: %s", self._name, type(error).__name__)
        finally:
            self._answered.set()
