# SPDX-License-Identifier: Apache-2.0
"""Memory of what was read last from files that are written once: a viewer that scrolls does not ask HDFS each time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from storage.ranged_reader import require_range

if TYPE_CHECKING:
    from storage.filesystem import Store

#: What is fetched at once [B]: some frames that lie beside each other.
BLOCK_BYTES = 4 << 20
CAPACITY_BYTES = 256 << 20
_MAX_SIZES = 4096


class RangeCache:
    """Ranged reads of a store through blocks kept in memory; safe for threads.

    Only for files that never change under their name, as packs.

    Parameters
    ----------
    store : what is read from.
    capacity_bytes : most that is kept [B]; the blocks that were not used for longest go.
    block_bytes : what is fetched at once [B].
    """

    def __init__(self, store: Store, *, capacity_bytes: int = CAPACITY_BYTES, block_bytes: int = BLOCK_BYTES) -> None:
        self._store = store
        self._block_bytes = block_bytes
        self._max_blocks = max(1, capacity_bytes // block_bytes)
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes from `offset`.

        Raises
        ------
        MissingFileError, StorageError
            If the file is not there, or does not have the range.
        """
        size = self._size(path)
        require_range(path, offset, length, size)
        if length == 0:
            return b""
        first, last = offset // self._block_bytes, (offset + length - 1) // self._block_bytes
        blocks = self._kept(path, first, last)
        missing = [number for number in range(first, last + 1) if number not in blocks]
        if missing:
            blocks |= self._fetch(path, missing[0], missing[-1], size)
        start = offset - first * self._block_bytes
        if first == last:
            return blocks[first][start : start + length]
        # Views, so that what is not wanted of the blocks is not copied.
        pieces = [memoryview(blocks[number]) for number in range(first, last + 1)]
        pieces[0] = pieces[0][start:]
        pieces[-1] = pieces[-1][: offset + length - last * self._block_bytes]
        return b"".join(pieces)

    def _size(self, path: str) -> int:
        """Size of a file, asked for once."""
        with self._lock:
            if path in self._sizes:
                self._sizes.move_to_end(path)
                return self._sizes[path]
        size = self._store.info(path).size
        with self._lock:
            self._sizes[path] = size
            if len(self._sizes) > _MAX_SIZES:
                self._sizes.popitem(last=False)
        return size

    def _kept(self, path: str, first: int, last: int) -> dict[int, bytes]:
        """The blocks of a range that are at hand."""
        found = {}
        with self._lock:
            for number in range(first, last + 1):
                if (path, number) in self._blocks:
                    self._blocks.move_to_end((path, number))
                    found[number] = self._blocks[path, number]
        return found

    def _fetch(self, path: str, first: int, last: int, size: int) -> dict[int, bytes]:
        """Fetch blocks that lie beside each other by one ranged read, and keep them."""
        start, stop = first * self._block_bytes, min((last + 1) * self._block_bytes, size)
        content = self._store.read_range(path, start, stop - start)
        found = {
            number: content[(number - first) * self._block_bytes : (number - first + 1) * self._block_bytes]
            for number in range(first, last + 1)
        }
        with self._lock:
            for number, block in found.items():
                self._blocks[path, number] = block
                self._blocks.move_to_end((path, number))
            while len(self._blocks) > self._max_blocks:
                self._blocks.popitem(last=False)
        return found
