# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a task: of the task itself, not of the re-used worker that runs it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def _resident(field: str) -> int | None:
    """One field of this process's status [B]; None where the system has none."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


class PeakMemory:
    """Measures the largest resident memory between enter and exit [B]; 0 where the system does not tell.

    Linux keeps the peak itself and lets it be reset; where that is not allowed, a thread looks every 20 ms.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._sampler: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        try:
            _CLEAR.write_text(_RESET_PEAK)
        except OSError:
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        return self

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, _resident("VmRSS:") or 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sampler is None:
            self.peak_bytes = _resident("VmHWM:") or 0
            return
        self._stop.set()
        self._sampler.join()
        self.peak_bytes = max(self.peak_bytes, _resident("VmRSS:") or 0)
