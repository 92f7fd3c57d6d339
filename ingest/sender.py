# SPDX-License-Identifier: Apache-2.0
"""Sends chunk files to the store in the background: several at once, while they and the next ones are built."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, NoReturn

from ingest.errors import IngestError
from ingest.spool import SendStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from types import TracebackType

    from ingest.spool import FileGroup

#: Files on their way at once.
DEFAULT_STREAMS = 4


class FileSender:
    """Streams to the store.  Two groups of files at most lie in temporary files: one that is sent, one that is built.

    Parameters
    ----------
    streams : files sent at once, at least 1.
    """

    def __init__(self, streams: int) -> None:
        if streams < 1:
            raise IngestError(f"an upload needs at least 1 stream, got {streams}")
        self._threads = ThreadPoolExecutor(streams, thread_name_prefix="conepacs-upload")
        self._stopped = threading.Event()
        self._sending: deque[tuple[FileGroup, list[Future[None]]]] = deque()

    def __enter__(self) -> FileSender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stop()
        self._threads.shutdown(cancel_futures=True)
        self._close()

    def send(self, group: FileGroup, files: Sequence[Callable[[], None]]) -> None:
        """Have the files of a group sent; the group belongs to the sender from now on, and is closed by it."""
        self._sending.append((group, [self._threads.submit(self._run, file) for file in files]))

    def make_room(self) -> None:
        """Wait until another group may be built, and raise what went wrong."""
        self._wait(1)

    def wait(self) -> None:
        """Wait until everything is sent, and raise what went wrong."""
        self._wait(0)

    def require_sound(self) -> None:
        """Raise what went wrong so far, so that nothing more is read in vain."""
        if self._stopped.is_set():
            self._fail()

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

    def _wait(self, n_groups: int) -> None:
        """Wait until so many groups are left."""
        while len(self._sending) > n_groups:
            group, files = self._sending[0]
            wait(files)
            self.require_sound()
            group.close()
            self._sending.popleft()

    def _fail(self) -> NoReturn:
        """Raise what went wrong, once all streams have ended."""
        self._stop()
        errors = [error for _, files in self._sending for file in files if (error := file.exception()) is not None]
        self._close()
        raise next((error for error in errors if not isinstance(error, SendStoppedError)), errors[0])

    def _stop(self) -> None:
        self._stopped.set()
        for group, _ in self._sending:
            group.give_up()

    def _close(self) -> None:
        while self._sending:
            self._sending.popleft()[0].close()
