# SPDX-License-Identifier: Apache-2.0
"""Chunk files on their way: built in temporary files on this machine, then published one by one.

A file is larger than the memory that an upload may use, and a store may want to be written to again after a
DataNode died; so its bytes wait on the local disk until the store has them.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from ingest.chunk_manifest import ChunkFile, scan_folder
from ingest.chunk_writer import ChunkFileWriter
from ingest.errors import IngestError
from storage.checksum import HashingWriter
from storage.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ingest.chunk_layout import ChunkLayout
    from storage.filesystem import Store

#: Bins that are compressed at once.
MAX_THREADS = 4
_COPY_BYTES = 1024 * 1024


class FileGroup:
    """The chunk files of some bins for the same view blocks, written side by side; who opens one closes it.

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
        try:
            with self._disk_errors():
                for index in bins:
                    handle = self._stack.enter_context(tempfile.TemporaryFile(prefix="conepacs-", dir=folder))
                    self._handles[index] = handle
                    self._writers[index] = ChunkFileWriter(
                        handle, scan_id=scan_id, layout=layout, bin_index=index, blocks=blocks
                    )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the temporary files, and what is not written yet."""
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

    def publish(self, store: Store, bin_index: int, sent: Callable[[int], None]) -> tuple[ChunkFile, tuple[int, ...]]:
        """Finish the file of one bin and publish it; return its entry and the stored bytes of its row groups.

        Several threads may publish a file each.  `sent` is called with the number of bytes [B] that went out; what it
        raises ends the file.
        """
        handle = self._handles[bin_index]
        with self._disk_errors():
            group_bytes = self._writers.pop(bin_index).close()
        name = self._layout.file_name(bin_index, self._blocks)

        def copy(target: BinaryIO) -> tuple[str, int]:
            with self._disk_errors():
                handle.seek(0)
            out = HashingWriter(target)
            while True:
                with self._disk_errors():
                    piece = handle.read(_COPY_BYTES)
                if not piece:
                    return out.sha256, out.n_bytes
                out.write(piece)
                sent(len(piece))

        sha256, n_bytes = publish(store, f"{scan_folder(self._scan_id)}/{name}", copy, kind="replace")
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
