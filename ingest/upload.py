# SPDX-License-Identifier: Apache-2.0
"""Uploads a scan into the chunk store: view block by view block, file by file, the manifest last.

Whenever it is killed, the same call goes on where it stopped and ends at the same bytes; on a finished scan it
changes nothing.  A source that changed meanwhile is found by the digests of its views and refused.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ingest.chunk_layout import DEFAULT_MEMORY_BYTES, FILE_BYTES
from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers import open_source
from ingest.sender import DEFAULT_STREAMS
from ingest.upload_report import UploadProgress, UploadReport
from ingest.upload_run import UploadRun, run_upload
from storage.log_context import log_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingest.readers import ScanReader
    from storage.filesystem import Store

__all__ = ["UploadProgress", "UploadReport", "upload", "watch"]


def upload(
    reader: ScanReader,
    store: Store,
    *,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    file_bytes: int = FILE_BYTES,
    streams: int = DEFAULT_STREAMS,
    spool_folder: Path | None = None,
    restart: bool = False,
    progress: Callable[[UploadProgress], None] | None = None,
) -> UploadReport:
    """Upload a scan; go on with it if it was begun before.

    Parameters
    ----------
    reader : the opened source; all its views must be there.
    store : where to.
    memory_bytes : for one block of views of all bins [B].
    file_bytes : pixel bytes of a chunk file, at least [B].
    streams : files that are sent at once; a block of several bins gives several files.
    spool_folder : for temporary files as large as two chunk files of every bin; the system's by default.
    restart : forget an unfinished upload of this scan id first.
    progress : called now and then, from one thread at a time, but not always the same.

    Raises
    ------
    IncompleteScanError
        If views, flat or dark frames are missing.
    FrameFormatError
        If frames have another shape or type than the scan says, or counts that are NaN, infinite or negative.
    ScanConflictError
        If another scan has the id, or the source changed since its upload was begun.
    StorageError
        If the store is full or does not answer.  Nothing half-written is left.
    """
    available, n_views = reader.available_views(), reader.scan.n_views
    if available < n_views:
        raise IncompleteScanError(
            f"scan {reader.scan.scan_id}: {available} of {n_views} views are there{_why_no_more(reader, available)}; "
            "upload with watch to wait for them"
        )
    run = UploadRun(reader, store, memory_bytes, file_bytes, streams, spool_folder, progress)
    with log_context(scan_id=reader.scan.scan_id):
        return run_upload(run, restart=restart)


def watch(
    source: Path,
    store: Store,
    *,
    open_reader: Callable[[Path], ScanReader] = open_source,
    poll_s: float = 2.0,
    timeout_s: float = 900.0,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    file_bytes: int = FILE_BYTES,
    streams: int = DEFAULT_STREAMS,
    spool_folder: Path | None = None,
    restart: bool = False,
    progress: Callable[[UploadProgress], None] | None = None,
) -> UploadReport:
    """Upload a scan while the scanner writes it; return when all of it is in the store.

    Parameters
    ----------
    source : file or folder that the scanner writes; it may not be there yet.
    open_reader : opens the source; `functools.partial` of `ingest.readers.open_source` to give it options.
    poll_s : pause between two looks at the source [s].
    timeout_s : give up when no new view came for so long [s].  What is uploaded by then is kept.
    memory_bytes, file_bytes, streams, spool_folder, restart, progress : as for `upload`.

    Raises
    ------
    IncompleteScanError
        If the scanner stopped writing before all views were there.
    IngestError, StorageError
        As for `upload`.
    """
    reader = _open_when_there(source, open_reader, poll_s, timeout_s, progress)
    try:
        run = UploadRun(reader, store, memory_bytes, file_bytes, streams, spool_folder, progress)
        run.wait_for_view = lambda stop: _wait_for_view(run, stop, poll_s, timeout_s)
        with log_context(scan_id=reader.scan.scan_id):
            return run_upload(run, restart=restart)
    finally:
        reader.close()


def _open_when_there(
    source: Path,
    open_reader: Callable[[Path], ScanReader],
    poll_s: float,
    timeout_s: float,
    progress: Callable[[UploadProgress], None] | None,
) -> ScanReader:
    """Open a source as soon as the scanner has written enough of it to tell what it is."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return open_reader(source)
        except (FrameFormatError, IncompleteScanError, ScanDescriptionError) as error:
            if time.monotonic() >= deadline:
                raise IncompleteScanError(f"waited {timeout_s:g} s for a scan to begin: {error}") from error
            if progress is not None:
                progress(UploadProgress("", "waiting", 0, 0, 0, 0, str(error)))
        time.sleep(poll_s)


def _why_no_more(reader: ScanReader, view: int) -> str:
    """What the reader says of the first view that is not there, in brackets; it names the file."""
    try:
        reader.read_views(view, view + 1)
    except (FrameFormatError, IncompleteScanError) as error:
        return f" ({error})"
    return ""


def _wait_for_view(run: UploadRun, stop: int, poll_s: float, timeout_s: float) -> None:
    """Wait until the views before `stop` can be read."""
    seen, deadline = -1, 0.0
    while True:
        available = run.reader.available_views()
        if available >= stop:
            return
        if available > seen:
            seen, deadline = available, time.monotonic() + timeout_s
        elif time.monotonic() >= deadline:
            raise IncompleteScanError(
                f"scan {run.scan.scan_id}: the scanner has written {available} of {run.scan.n_views} views and no new "
                f"one for {timeout_s:g} s; run the same upload again to go on"
            )
        run.tell("waiting", f"{available} of {run.scan.n_views} views are there")
        time.sleep(poll_s)
