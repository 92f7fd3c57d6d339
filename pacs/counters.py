# SPDX-License-Identifier: Apache-2.0
"""What the DICOM server has done, as plain counts that a metrics page can read; no peer and no patient is named."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

Service = Literal["C-ECHO", "C-STORE", "C-FIND", "C-GET", "C-MOVE"]
Outcome = Literal["done", "failed"]


@dataclass(frozen=True, slots=True)
class DicomCounts:
    """Counts since the server was made.

    Attributes
    ----------
    associations, rejected : accepted; asked for and rejected
    open_associations : now
    operations : requests answered, by service and how they ended
    seconds : spent on them, by service [s]
    received_bytes, sent_bytes : data sets of C-STORE; instances of C-GET and C-MOVE [B]
    """

    associations: int
    rejected: int
    open_associations: int
    operations: Mapping[tuple[Service, Outcome], int]
    seconds: Mapping[Service, float]
    received_bytes: int
    sent_bytes: int


class DicomCounters:
    """Counts by many threads; `counts` gives a copy."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._associations = self._rejected = self._received = self._sent = 0
        self._open: set[Hashable] = set()
        self._operations: Counter[tuple[Service, Outcome]] = Counter()
        self._seconds: defaultdict[Service, float] = defaultdict(float)

    def accepted(self, association: Hashable) -> None:
        """An association was accepted."""
        with self._lock:
            self._associations += 1
            self._open.add(association)

    def ended(self, association: Hashable) -> None:
        """A connection is over; it may have had no association."""
        with self._lock:
            self._open.discard(association)

    def rejected(self) -> None:
        """An association was asked for and rejected."""
        with self._lock:
            self._rejected += 1

    @contextmanager
    def operation(self, service: Service) -> Iterator[Callable[[], None]]:
        """Count and time a request; yields what is called when it fails, should no error pass."""
        started, outcomes = time.perf_counter(), ["done"]
        try:
            yield lambda: outcomes.append("failed")
        except BaseException:
            outcomes.append("failed")
            raise
        finally:
            with self._lock:
                self._operations[service, "failed" if "failed" in outcomes else "done"] += 1
                self._seconds[service] += time.perf_counter() - started

    def received(self, n_bytes: int) -> None:
        """A data set was received and kept."""
        with self._lock:
            self._received += n_bytes

    def sent(self, n_bytes: int) -> None:
        """An instance was read to be sent."""
        with self._lock:
            self._sent += n_bytes

    def counts(self) -> DicomCounts:
        """All counts at this moment."""
        with self._lock:
            return DicomCounts(
                self._associations, self._rejected, len(self._open), dict(self._operations), dict(self._seconds),
                self._received, self._sent,
            )  # fmt: skip
