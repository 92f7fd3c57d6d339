# SPDX-License-Identifier: Apache-2.0
"""Back-pressure on the store: at most so many tasks of a node publish at the same time, the others wait.

A slot is a file of the node's temporary folder that is locked while one publishes; the lock goes with its process, so
that a killed worker holds none.  All jobs of a user that write to one store share its slots.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_POLL_S = 0.05


@contextlib.contextmanager
def publish_slot(store_url: str, slots: int, *, folder: Path | None = None) -> Iterator[float]:
    """Wait for one of the slots of a store on this node and hold it.

    Parameters
    ----------
    store_url : the store that is written to
    slots : how many may publish at the same time; 0 for any number
    folder : where the slots lie; the node's temporary folder by default

    Yields
    ------
    float
        Seconds waited.
    """
    if slots < 1 or sys.platform == "win32":
        yield 0.0
        return
    import fcntl  # not on Windows

    place = folder or _slot_folder(store_url)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    started = time.monotonic()
    while True:
        for number in range(slots):
            with (place / f"slot-{number}").open("ab") as slot:
                try:
                    fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield time.monotonic() - started
                return
        time.sleep(_POLL_S)


def _slot_folder(store_url: str) -> Path:
    """One folder for each user and store."""
    name = hashlib.sha256(f"{os.getuid()} {store_url}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"conepacs-publish-{name}")
