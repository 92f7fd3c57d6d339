# SPDX-License-Identifier: Apache-2.0
"""Wait for a state of another process, and say what was seen last when it does not come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

State = TypeVar("State")


def wait_until(
    what: str,
    probe: Callable[[], State],
    ready: Callable[[State], bool] = bool,
    *,
    timeout_s: float = 30.0,
    interval_s: float = 0.1,
    not_yet: tuple[type[Exception], ...] = (OSError,),
) -> State:
    """Return what `probe` gives as soon as it is `ready`.

    Exceptions in `not_yet` count as a state that is not ready; any other leaves at once.  After `timeout_s` [s]
    TimeoutError tells the last state (or exception).
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            state = probe()
        except not_yet as error:
            last = repr(error)
        else:
            if ready(state):
                return state
            last = repr(state)
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: not so within {timeout_s:g} s; last state: {last}")
        time.sleep(interval_s)
