# SPDX-License-Identifier: Apache-2.0
"""Wait for a state of the daemons, and ask them over HTTP."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, TypeVar

from local_cluster.errors import DaemonFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

State = TypeVar("State")
INTERVAL_S = 0.4


def wait_until(
    what: str, probe: Callable[[], State], ready: Callable[[State], bool] = bool, *, timeout_s: float
) -> State:
    """Return what `probe` gives as soon as it is `ready`; an OSError or a half-written answer counts as not yet.

    Raises
    ------
    DaemonFailedError
        After `timeout_s` [s], with the state seen last.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            state = probe()
        except (OSError, json.JSONDecodeError) as error:
            last = str(error) or type(error).__name__
        else:
            if ready(state):
                return state
            last = str(state)
        if time.monotonic() >= deadline:
            raise DaemonFailedError(f"{what}: not so within {timeout_s:g} s; seen last: {last}")
        time.sleep(INTERVAL_S)


def get_json(address: str, path: str, *, timeout_s: float = 5.0) -> Any:
    """Ask a daemon's web server (`address` is host:port); no proxy of the environment comes between.

    Raises
    ------
    OSError
        If it does not answer in time.
    json.JSONDecodeError
        If it answers something else.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}{path}", timeout=timeout_s) as response:
        return json.load(response)


def ask_bean(address: str, name: str, attributes: Sequence[str]) -> list[Any]:
    """Return attributes of one bean of a Hadoop daemon's metrics; a daemon that starts does not have all of them yet.

    Raises
    ------
    OSError
        If the daemon does not answer, or has no such bean or attribute yet.
    """
    beans = get_json(address, f"/jmx?qry={urllib.parse.quote(name, safe=':=,')}")["beans"]
    lacking = [each for each in attributes if not beans or each not in beans[0]]
    if lacking:
        raise ConnectionError(f"{address} does not tell {lacking[0]} of {name} yet")
    return [beans[0][each] for each in attributes]
