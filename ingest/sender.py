# SPDX-License-Identifier: Apache-2.0
"""Sends finished chunk files to the store in the background: several at once, while the next ones are built."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ingest.errors import IngestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from types import TracebackType

    from ingest.spool import FileGroup

#: Files on their way at once.
DEFAULT_STREAMS = 4


class SendStoppedError(IngestError):
    """A file is not sent to its end, because the upload has failed elsewhere."""


class FileSender:
    """Streams to the store.  One group of files is sent while the next is built; so much lies in temporary files.

    Parameters
    ----------
    streams : files sent at once, at least 1.
    """

    def __init__(self, streams: int) -> None:
        if streams < 1:
            raise IngestError(f"an upload needs at least 1 stream, got {streams}")
        self._threads = ThreadPoolExecutor(streams, thread_name_prefix="conepacs-upload")
        self._stopped = threading.Event()
        self._group: FileGroup | None = None
        self._sent: list[Future[None]] = []

    def __enter__(self) -> FileSender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stopped.set()
        self._threads.shutdown(cancel_futures=True)
        self._close_group()

    def send(self, group: FileGroup, files: Sequence[Callable[[], None]]) -> None:
        """Have the files of a group sent, once those of the group before are; the group is closed afterwards."""
        try:
            self.wait()
        except BaseException:
            group.close()
            raise
        self._group = group
        self._sent = [self._threads.submit(self._run, file) for file in files]

    def wait(self) -> None:
        """Wait until everything is sent, and raise what went wrong."""
        errors = [error for future in self._sent if (error := future.exception()) is not None]
        self._sent = []
        self._close_group()
        for error in errors:
            if not isinstance(error, SendStoppedError):
                raise error

    def require_sound(self) -> None:
        """Raise what went wrong so far, so that nothing more is read in vain."""
        if self._stopped.is_set():
            self.wait()

    def go_on(self) -> None:
        """Called between two pieces of a file.

        Raises
        ------
        SendStoppedError
            If the upload has failed elsewhere.
        """
        if self._stopped.is_set():
            raise SendStoppedError("the upload has failed elsewhere")

    def _run(self, file: Callable[[], None]) -> None:
        try:
            self.go_on()
            file()
        except BaseException:
            self._stopped.set()
            raise

    def _close_group(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None
