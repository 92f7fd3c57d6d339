# SPDX-License-Identifier: Apache-2.0
"""Ranged reads of chunk files: footers are kept, pixels never.

Row groups are unpacked here and not by pyarrow's reader, which copies cells twice and whose `pre_buffer` keeps the
last bytes read for as long as a file is open, which no plan would count.  It is little: each column of a row group is
one page of PLAIN values behind a head whose length follows from the footer.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from isal import isal_zlib

from ingest.errors import ChunkCorruptError
from ingest.parquet_pages import GZIP_WINDOW_BITS, LENGTH_BYTES
from storage.errors import MissingFileError, StorageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from storage.filesystem import Store

#: Footers kept in memory, some 100 KB each; a job walks along one bin and a few view blocks at a time.
MAX_FOOTERS = 64
#: What is read first from the end of a file: mostly all of the footer.
_TAIL_BYTES = 131_072
_TRAILER_BYTES = 8
#: First bytes of what zstd and deflate packed.
_ZSTD_MAGIC = bytes.fromhex("28b52ffd")
_GZIP_MAGIC = bytes.fromhex("1f8b08")
#: What pyarrow raises on bytes that are no Parquet (names that are no UTF-8 too), and ISA-L on what is no deflate.
_UNREADABLE = (
    pa.ArrowException, OSError, ValueError, KeyError, cast("type[Exception]", isal_zlib.error)
)  # fmt: skip


class FetchedGroups(NamedTuple):
    """Bytes of some row groups, from `start` of their file on."""

    content: bytes
    start: int


class ChunkFiles:
    """The chunk files of one scan's folder.  Holds no handle, so it needs no closing; safe for threads."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder
        self._footers: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def footer(self, name: str, file_bytes: int) -> Any:
        """Return the Parquet metadata of a file of that size [B]."""
        with self._lock:
            if name in self._footers:
                self._footers.move_to_end(name)
                return self._footers[name]
        footer = self._read_footer(name, file_bytes)
        with self._lock:
            self._footers[name] = footer
            if len(self._footers) > MAX_FOOTERS:
                self._footers.popitem(last=False)
        return footer

    def fetch_groups(self, name: str, footer: Any, groups: range, columns: list[str]) -> FetchedGroups:
        """Fetch neighbouring columns of neighbouring row groups by one ranged read, packed as they are.

        Raises
        ------
        ChunkCorruptError
            If the file is missing or too short, or its footer makes no sense.
        """
        try:
            start, stop = _byte_range(footer, groups, columns)
        except _UNREADABLE as error:
            raise ChunkCorruptError(f"{self._path(name)} cannot be unpacked: {error}") from error
        return FetchedGroups(self._read_range(name, start, stop - start), start)

    def unpack_cells(
        self, name: str, group: Any, column: int, n_rows: int, cell_bytes: int, fetched: FetchedGroups
    ) -> NDArray[np.uint8]:
        """Unpack a binary column of one row group.

        Parameters
        ----------
        group : the row group's metadata.
        column : index of the column.
        n_rows, cell_bytes : size of the group, and of each of its cells [B].

        Returns
        -------
        (row, byte) uint8
            Read-only; without a copy where the column is not compressed.

        Raises
        ------
        ChunkCorruptError
            If its bytes are not the cells that the footer describes.
        """
        page_bytes = n_rows * (LENGTH_BYTES + cell_bytes)
        page = self._unpack_page(name, group.column(column), page_bytes, fetched, cell_bytes)
        rows = page.reshape(n_rows, LENGTH_BYTES + cell_bytes)
        if not (np.ascontiguousarray(rows[:, :LENGTH_BYTES]).view("<u4") == cell_bytes).all():
            raise ChunkCorruptError(f"{self._path(name)} cannot be unpacked: its cells do not have {cell_bytes} B each")
        return rows[:, LENGTH_BYTES:]

    def unpack_numbers(
        self, name: str, group: Any, column: int, n_rows: int, fetched: FetchedGroups
    ) -> NDArray[np.int64]:
        """Unpack an int64 column of one row group, one number for each row; ChunkCorruptError as for `unpack_cells`."""
        return self._unpack_page(name, group.column(column), 8 * n_rows, fetched).view("<i8")

    def _unpack_page(
        self, name: str, column: Any, page_bytes: int, fetched: FetchedGroups, cell_bytes: int | None = None
    ) -> NDArray[np.uint8]:
        """The values of a column chunk that is one page; one of cells may be packed.

        Its bytes tell whether it is: pyarrow ends the process when it is asked for a codec that a footer does not name
        rightly.
        """
        try:
            start = column.data_page_offset - fetched.start
            stop = start + column.total_compressed_size
            head_bytes = column.total_uncompressed_size - page_bytes
            if not 0 <= start < start + head_bytes < stop <= len(fetched.content) or head_bytes <= 0:
                raise ValueError(f"column {column.path_in_schema} is no page of {page_bytes} B")
            stored = memoryview(fetched.content)[start + head_bytes : stop]
            values = stored if cell_bytes is None else _unpacked(stored, page_bytes, cell_bytes)
            if len(values) != page_bytes:
                raise ValueError(f"column {column.path_in_schema} has {len(values)} B, expected {page_bytes} B")
            return np.frombuffer(values, dtype=np.uint8)
        except _UNREADABLE as error:
            raise ChunkCorruptError(f"{self._path(name)} cannot be unpacked: {error}") from error

    def _path(self, name: str) -> str:
        """Path of a file in the store."""
        return f"{self._folder}/{name}"

    def _read_footer(self, name: str, file_bytes: int) -> Any:
        """Parquet metadata from the end of a file."""
        tail_bytes = min(_TAIL_BYTES, file_bytes)
        tail = self._read_range(name, file_bytes - tail_bytes, tail_bytes)
        needed = int.from_bytes(tail[-_TRAILER_BYTES:-4], "little") + _TRAILER_BYTES
        if tail[-4:] != b"PAR1" or needed > file_bytes:
            raise ChunkCorruptError(f"{self._path(name)} does not end as a Parquet file of {file_bytes} B")
        if needed > tail_bytes:
            tail = self._read_range(name, file_bytes - needed, needed)
        try:
            return pq.read_metadata(_Window(tail, file_bytes - len(tail), file_bytes))
        except _UNREADABLE as error:
            raise ChunkCorruptError(f"{self._path(name)} has a broken Parquet footer: {error}") from error

    def _read_range(self, name: str, offset: int, length: int) -> bytes:
        """Bytes of a file; a file that is missing or too short is corrupt, not a fault of the store."""
        path = self._path(name)
        try:
            return self._store.read_range(path, offset, length)
        except MissingFileError as error:
            raise ChunkCorruptError(f"{path} is missing from {self._store.url}") from error
        except StorageError as error:
            size = self._store.info(path).size
            if size < offset + length:
                raise ChunkCorruptError(f"{path} has {size} B, expected at least {offset + length} B") from error
            raise


class _Window(io.RawIOBase):
    """A file of which only the bytes from `start` are at hand."""

    def __init__(self, content: bytes, start: int, size: int) -> None:
        self._content = content
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        if self._position < self._start:
            raise OSError(f"byte {self._position} lies before the range that was read, {self._start}")
        first = self._position - self._start
        end = len(self._content) if size is None or size < 0 else first + size
        piece = self._content[first:end]
        self._position += len(piece)
        return piece


def _unpacked(stored: memoryview, page_bytes: int, cell_bytes: int) -> memoryview | bytes | pa.Buffer:
    """A page of cells, as its first bytes say how it is stored."""
    if stored[: len(_ZSTD_MAGIC)] == _ZSTD_MAGIC:  # no cell is as long as that would say
        return pa.Codec("zstd").decompress(stored, decompressed_size=page_bytes)
    plain = len(stored) == page_bytes and stored[:LENGTH_BYTES] == cell_bytes.to_bytes(LENGTH_BYTES, "little")
    if stored[: len(_GZIP_MAGIC)] == _GZIP_MAGIC and not plain:
        return isal_zlib.decompress(stored, GZIP_WINDOW_BITS, page_bytes)
    return stored


def _byte_range(footer: Any, groups: range, columns: list[str]) -> tuple[int, int]:
    """First and end byte of these columns of these row groups."""
    starts, stops = [], []
    for group in (groups[0], groups[-1]):
        row_group = footer.row_group(group)
        for index in range(row_group.num_columns):
            column = row_group.column(index)
            if column.path_in_schema in columns:
                starts.append(column.data_page_offset)
                stops.append(column.data_page_offset + column.total_compressed_size)
    if not starts or min(starts) < 0:
        raise ChunkCorruptError(f"row group {groups[0]} lacks the columns {', '.join(columns)}")
    return min(starts), max(stops)
