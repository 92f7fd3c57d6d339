# SPDX-License-Identifier: Apache-2.0
"""Chunk files on their way: built in temporary files on this machine, and published one by one while they grow.

A file is larger than the memory that an upload may use, and a store may want to be written to again after a
DataNode died; so its bytes wait on the local disk until the store has them.
"""

from __future__ import annotations

import io
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from ingest.chunk_manifest import ChunkFile, scan_folder
from ingest.chunk_writer import ChunkFileWriter
from ingest.errors import IngestError
from ingest.pixel_digests import NEW_ALGORITHM, begin_digest
from storage.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor, Future
    from pathlib import Path

    from numpy.typing import NDArray
    from typing_extensions import Buffer

    from ingest.block_planes import BlockPlanes
    from ingest.chunk_layout import ChunkLayout
    from storage.filesystem import Store

# Bytes that a stream gathers before it sends them: large pieces wake DataNodes, and those who pack, less often.
_SEND_BYTES = 8 << 20
# And no fewer, however little memory there is or however slow the network.
_LEAST_SEND_BYTES = 256 << 10
# All streams together gather this share of an upload's memory at most.
_SEND_SHARE = 1 / 4
#: Where sending one takes longer than this [s], the next ones are half as large, so that progress is seen.
SLOW_S = 0.5
#: A store is not kept waiting longer for the next bytes of a file: it is begun again when it is whole [s].
STALL_S = 10.0


def bytes_at_once(memory_bytes: int, streams: int) -> int:
    """Bytes that each of some streams gathers before it sends them, where an upload may use `memory_bytes` [B]."""
    return min(_SEND_BYTES, max(_LEAST_SEND_BYTES, int(memory_bytes * _SEND_SHARE) // streams))


class SendStoppedError(IngestError):
    """A file is not sent to its end, because the upload has failed elsewhere."""


class FileGroup:
    """The chunk files of some bins for the same view blocks, written side by side; who opens one closes it.

    One thread has blocks written, others publish the files meanwhile, one each.

    Parameters
    ----------
    layout, scan_id, blocks : what is written.
    bins : indices of the bins whose files are wanted.
    folder : for the temporary files; None for the system's.  They vanish with the process.
    schema_version : of the chunk files.
    send_bytes : that a stream gathers in memory before it sends them [B], as `bytes_at_once` says.
    """

    def __init__(
        self,
        layout: ChunkLayout,
        scan_id: str,
        blocks: tuple[int, int],
        bins: Sequence[int],
        folder: Path | None,
        schema_version: int,
        send_bytes: int,
    ) -> None:
        self._layout = layout
        self._scan_id = scan_id
        self._blocks = blocks
        self._folder = folder
        self._send_bytes = send_bytes
        self._stack = ExitStack()
        self._spools: dict[int, _SpoolFile] = {}
        self._writers: dict[int, ChunkFileWriter] = {}
        self._group_bytes: dict[int, list[int]] = {}
        try:
            with self._disk_errors():
                for index in bins:
                    handle = tempfile.TemporaryFile(prefix="conepacs-", dir=folder, buffering=0)
                    spool = self._spools[index] = _SpoolFile(self._stack.enter_context(handle))
                    self._writers[index] = ChunkFileWriter(
                        cast("BinaryIO", spool), scan_id=scan_id, layout=layout, bin_index=index, blocks=blocks,
                        schema_version=schema_version,
                    )  # fmt: skip
        except BaseException:
            self.close()
            raise

    def file_name(self, bin_index: int) -> str:
        """Name of the file of a bin."""
        return self._layout.file_name(bin_index, self._blocks)

    def give_up(self) -> None:
        """End the waiting of those who publish a file that will not be whole."""
        for spool in self._spools.values():
            spool.end(whole=False)

    def close(self) -> None:
        """Drop the temporary files, and what is not written yet; nobody may be publishing one any more."""
        self.give_up()
        self._stack.close()

    def drop(self, bin_index: int) -> None:
        """Drop the temporary file of a bin, which the store has."""
        self._spools[bin_index].drop()

    def submit_block(self, threads: Executor, block_index: int, frames: NDArray[Any]) -> list[Future[None]]:
        """Have one view block appended, frames (bin, view, row, col); all of it must be done before the next.

        With its last block the file of a bin is whole.
        """
        return [threads.submit(self._write, index, block_index, frames[index]) for index in self._writers]

    def submit_planes(
        self, threads: Executor, block_index: int, planes: Mapping[int, BlockPlanes]
    ) -> list[Future[None]]:
        """Have one view block appended, by bin, as `submit_block`; `planes` must not change until it is done."""
        return [threads.submit(self._write_planes, index, block_index, planes[index]) for index in self._writers]

    def publish(
        self,
        store: Store,
        bin_index: int,
        sent: Callable[[int], None],
        sent_all: Callable[[ChunkFile, tuple[int, ...]], None],
    ) -> None:
        """Publish the file of one bin.

        The file is sent while it grows.  `sent` is called with the number of bytes [B] that went out; what it raises
        ends the file.  `sent_all` is called when all bytes did, with the file's entry and the stored bytes of its row
        groups; the store then still has to take and verify them, and may ask for them once more.

        Raises
        ------
        SendStoppedError
            If the group is given up.
        """
        spool, name = self._spools[bin_index], self.file_name(bin_index)
        path = f"{scan_folder(self._scan_id)}/{name}"

        def copy(target: BinaryIO) -> None:
            digest, n_sent, memory = begin_digest(NEW_ALGORITHM), 0, memoryview(bytearray(self._send_bytes))
            while n_bytes := self._read(spool, n_sent, memory, STALL_S):
                started_s = time.monotonic()
                target.write(memory[:n_bytes])
                digest.update(memory[:n_bytes])
                n_sent += n_bytes
                sent(n_bytes)
                if time.monotonic() - started_s > SLOW_S and len(memory) > _LEAST_SEND_BYTES:
                    memory = memory[: len(memory) // 2]
            file = ChunkFile(name, self._layout.kind, bin_index, self._blocks, n_sent, digest.hexdigest())
            sent_all(file, tuple(self._group_bytes[bin_index]))

        self._read(spool, 0, memoryview(bytearray(1)), None)
        try:
            publish(store, path, copy, kind="replace")
        except _StalledError:
            spool.wait()
            publish(store, path, copy, kind="replace")

    def _write(self, index: int, block_index: int, frames: NDArray[Any]) -> None:
        with self._disk_errors():
            self._writers[index].write_block(block_index, frames)
        self._end_after(index, block_index)

    def _write_planes(self, index: int, block_index: int, planes: BlockPlanes) -> None:
        with self._disk_errors():
            self._writers[index].write_planes(block_index, planes)
        self._end_after(index, block_index)

    def _end_after(self, index: int, block_index: int) -> None:
        """End the file of a bin if that was its last block; the store then ends it while others are packed."""
        if block_index + 1 == self._blocks[1]:
            with self._disk_errors():
                self._group_bytes[index] = self._writers[index].close()
            self._spools[index].end(whole=True)

    def _read(self, spool: _SpoolFile, offset: int, memory: memoryview, stall_s: float | None) -> int:
        with self._disk_errors():
            return spool.read_into(offset, memory, stall_s)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Name the spool folder when its disk fails or is full."""
        try:
            yield
        except OSError as error:
            where = self._folder or tempfile.gettempdir()
            raise IngestError(f"scan {self._scan_id}: temporary files in {where} failed: {error}") from error


class _StalledError(Exception):
    """The next bytes of a file did not come in time."""


class _SpoolFile(io.RawIOBase):
    """A temporary file that one thread appends to while another reads it."""

    def __init__(self, handle: io.FileIO) -> None:
        self._handle = handle
        self._size = 0
        self._wanted = 0
        self._changed = threading.Condition()
        self._whole: bool | None = None

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Buffer, /) -> int:
        view = memoryview(data).cast("B")
        with self._changed:
            self._handle.seek(self._size)
            written = 0
            while written < len(view):
                written += self._handle.write(view[written:])
            self._size += written
            if self._size >= self._wanted:  # else nobody can go on, and waking up takes time
                self._changed.notify_all()
        return written

    def end(self, *, whole: bool) -> None:
        """Nothing more is written: the file is whole, or is given up.  The first word stands."""
        with self._changed:
            if self._whole is None:
                self._whole = whole
            self._changed.notify_all()

    def drop(self) -> None:
        """Close the file, which nobody reads any more; it vanishes."""
        with self._changed:
            self._handle.close()

    def wait(self) -> None:
        """Wait until the file is whole."""
        with self._changed:
            self._changed.wait_for(lambda: self._whole is not None)

    def read_into(self, offset: int, memory: memoryview, stall_s: float | None) -> int:
        """Fill `memory`, with less at the end of the whole file or after `stall_s` [s]; return the bytes.

        Raises
        ------
        _StalledError
            If none came in that time.
        SendStoppedError
            If the file is given up.
        """
        deadline = None if stall_s is None else time.monotonic() + stall_s
        with self._changed:
            while self._whole is None and self._size < offset + len(memory):
                self._wanted = offset + len(memory)
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    if self._size <= offset:
                        raise _StalledError
                    memory = memory[: self._size - offset]
                    break
                self._changed.wait(left)
            if self._whole is False:
                raise SendStoppedError("the upload has failed elsewhere")
            self._handle.seek(offset)
            return self._handle.readinto(memory)
