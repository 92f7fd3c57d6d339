# SPDX-License-Identifier: Apache-2.0
"""A read handle over ranged reads, for stores behind a network."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

#: Least and most that is read ahead [B].
FIRST_READ_BYTES = 64 << 10
MOST_READ_BYTES = 4 << 20


class RangedReader(io.BufferedIOBase):
    """Seekable handle that fetches ranges of a file of known size.

    A large read is one request of just its bytes, so a Parquet row group or an image in a pack costs one round
    trip.  Small reads are served from a buffer; while they run on in sequence the read-ahead doubles.

    Parameters
    ----------
    fetch
        ``fetch(offset, length)`` returns exactly `length` bytes; it is never asked beyond `size`.  It is an attribute,
        so that `storage.retrying` can have it tried again.
    size
        Size of the file [B].
    name
        The path, for messages.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, name: str) -> None:
        self.fetch = fetch
        self._size = size
        self.name = name
        self._position = 0
        self._buffer = b""
        self._buffer_start = 0
        self._ahead = FIRST_READ_BYTES

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether it can seek: yes."""
        return True

    def size(self) -> int:
        """Size of the file [B]."""
        return self._size

    def tell(self) -> int:
        """Position of the next read [B]."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position; one behind the end is allowed and reads nothing."""
        self._require_open()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        if whence not in base:
            raise ValueError(f"whence must be 0, 1 or 2, got {whence}")
        position = base[whence] + offset
        if position < 0:
            raise ValueError(f"{self.name}: cannot seek before the start (to {position})")
        self._position = position
        return position

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes, fewer only at the end of the file."""
        self._require_open()
        left = max(0, self._size - self._position)
        length = left if size is None or size < 0 else min(size, left)
        if length == 0:
            return b""
        start = self._position - self._buffer_start
        if not 0 <= start <= len(self._buffer) - length:
            if length >= MOST_READ_BYTES or length >= self._next_ahead():
                data = self.fetch(self._position, length)
                self._position += length
                return data
            self._fill(length)
            start = 0
        self._position += length
        return self._buffer[start : start + length]

    def read1(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes in one request."""
        return self.read(size if size is not None and size >= 0 else FIRST_READ_BYTES)

    def readinto(self, buffer: Buffer, /) -> int:
        """Read into `buffer` and return the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readinto1(self, buffer: Buffer, /) -> int:
        """Read into `buffer` and return the number of bytes."""
        return self.readinto(buffer)

    def close(self) -> None:
        """Drop the buffer; no connection is held."""
        self._buffer = b""
        super().close()

    def _next_ahead(self) -> int:
        """Read-ahead of the next fetch: more while reads follow each other, else the least."""
        end = self._buffer_start + len(self._buffer)
        in_sequence = bool(self._buffer) and self._buffer_start <= self._position <= end
        return min(MOST_READ_BYTES, 2 * self._ahead) if in_sequence else FIRST_READ_BYTES

    def _fill(self, length: int) -> None:
        self._ahead = self._next_ahead()
        wanted = min(max(length, self._ahead), self._size - self._position)
        self._buffer = self.fetch(self._position, wanted)
        self._buffer_start = self._position

    def _require_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self.name}: the handle is closed")


def require_range(path: str, offset: int, length: int, size: int) -> None:
    """Refuse a range that the file does not have.

    Raises
    ------
    StorageError
        If `offset` or `length` is negative or the range ends behind the file's end.
    """
    if offset < 0 or length < 0 or offset + length > size:
        raise StorageError(f"{path}: bytes {offset} to {offset + length} were asked for, the file has {size} bytes")
