# SPDX-License-Identifier: Apache-2.0
"""Chunk files on their way: built in temporary files on this machine, then published one by one.

A file is larger than the memory that an upload may use, and a store may want to be written to again after a
DataNode died; so its bytes wait on the local disk until the store has them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from ingest.chunk_manifest import ChunkFile, scan_folder
from ingest.chunk_writer import ChunkFileWriter
from ingest.errors import IngestError
from storage.checksum import sha256_of_stream
from storage.publish import publish

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from ingest.chunk_layout import ChunkLayout
    from storage.filesystem import Store

#: Bins that are compressed at once.
MAX_THREADS = 4
_COPY_BYTES = 1024 * 1024


class FileGroup:
    """The chunk files of some bins for the same view blocks, written side by side.

    Parameters
    ----------
    layout, scan_id, blocks : what is written.
    bins : indices of the bins whose files are wanted.
    folder : for the temporary files; None for the system's.  They vanish with the process.
    """

    def __init__(
        self, layout: ChunkLayout, scan_id: str, blocks: tuple[int, int], bins: Sequence[int], folder: Path | None
    ) -> None:
        self._layout = layout
        self._scan_id = scan_id
        self._blocks = blocks
        self._folder = folder
        self._stack = ExitStack()
        self._handles: dict[int, BinaryIO] = {}
        self._writers: dict[int, ChunkFileWriter] = {}
        # zstd takes most of the time and leaves the interpreter free meanwhile.
        n_threads = max(1, min(len(bins), MAX_THREADS, os.cpu_count() or 1))
        self._threads = self._stack.enter_context(ThreadPoolExecutor(n_threads, thread_name_prefix="conepacs-spool"))
        with self._disk_errors():
            for index in bins:
                handle = self._stack.enter_context(tempfile.TemporaryFile(prefix="conepacs-", dir=folder))
                self._handles[index] = handle
                self._writers[index] = ChunkFileWriter(
                    handle, scan_id=scan_id, layout=layout, bin_index=index, blocks=blocks
                )

    def __enter__(self) -> FileGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown()
        for writer in self._writers.values():
            writer.abandon()
        self._stack.close()

    def write_block(self, block_index: int, frames: NDArray[Any]) -> None:
        """Append one view block, frames (bin, view, row, col)."""
        with self._disk_errors():
            written = [
                self._threads.submit(writer.write_block, block_index, frames[index])
                for index, writer in self._writers.items()
            ]
            for one in written:
                one.result()

    def publish(self, store: Store, bin_index: int) -> tuple[ChunkFile, tuple[int, ...]]:
        """Finish the file of one bin and publish it; return its entry and the stored bytes of its row groups."""
        handle = self._handles[bin_index]
        with self._disk_errors():
            group_bytes = self._writers.pop(bin_index).close()
            handle.seek(0)
            sha256, n_bytes = sha256_of_stream(handle)
        name = self._layout.file_name(bin_index, self._blocks)

        def copy(target: BinaryIO) -> None:
            handle.seek(0)
            shutil.copyfileobj(handle, target, _COPY_BYTES)

        publish(store, f"{scan_folder(self._scan_id)}/{name}", copy, kind="replace")
        file = ChunkFile(name, self._layout.kind, bin_index, self._blocks, n_bytes, sha256)
        return file, tuple(group_bytes)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Name the spool folder when its disk fails or is full."""
        try:
            yield
        except OSError as error:
            where = self._folder or tempfile.gettempdir()
            raise IngestError(f"scan {self._scan_id}: temporary files in {where} failed: {error}") from error
