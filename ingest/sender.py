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
        self._first: Future[None] | None = None
        self._stopped = threading.Event()
        self._sending: deque[tuple[FileGroup, list[Future[None]]]] = deque()
        self._streams = streams
        self._changed = threading.Condition()
        self._unsent = 0
        self._unpublished = 0

    def __enter__(self) -> FileSender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stop()
        self._threads.shutdown(cancel_futures=True)
        self._close()

    def send_first(self, note: Callable[[], None]) -> None:
        """Have a small file written before any other; nobody waits for it but those who send."""
        self._first = self._threads.submit(note)

    def send(self, group: FileGroup, files: Sequence[Callable[[], None]]) -> None:
        """Have the files of a group sent; the group belongs to the sender from now on, and is closed by it.

        Each of `files` sends one, calls `sent` when all of it has gone out, `published` when the store has it under its
        name, and may then note that elsewhere.
        """
        with self._changed:
            self._unsent += len(files)
            self._unpublished += len(files)
        self._sending.append((group, [self._threads.submit(self._run, file) for file in files]))

    def make_room(self) -> None:
        """Wait until another group may be built, and raise what went wrong."""
        self._wait(1)

    def sent(self) -> None:
        """Say that one more file has gone out."""
        with self._changed:
            self._unsent -= 1
            self._changed.notify_all()

    def published(self) -> None:
        """Say that the store has one more file."""
        with self._changed:
            self._unpublished -= 1
            self._changed.notify_all()

    def has_all(self, timeout_s: float) -> bool:
        """Whether the store has all files, or soon: waits as long [s] where no other file waits for this stream."""
        with self._changed:
            if self._unpublished >= self._streams:
                return False
            self._changed.wait_for(lambda: self._unpublished == 0 or self._stopped.is_set(), timeout_s)
            return self._unpublished == 0

    def wait_sent(self) -> None:
        """Wait until all files have gone out, and raise what went wrong."""
        with self._changed:
            self._changed.wait_for(lambda: self._unsent == 0 or self._stopped.is_set())
        self.require_sound()

    def wait_published(self) -> None:
        """Wait until the store has all files, noted or not, and raise what went wrong."""
        with self._changed:
            self._changed.wait_for(lambda: self._unpublished == 0 or self._stopped.is_set())
        self.require_sound()

    def wait(self) -> None:
        """Wait until everything is sent and noted, and raise what went wrong."""
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
            if self._first is not None:
                self._first.result()
            self.go_on()
            file()
        except BaseException:
            with self._changed:
                self._stopped.set()
                self._changed.notify_all()
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
