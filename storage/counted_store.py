# SPDX-License-Identifier: Apache-2.0
"""A store that counts what goes through it: bytes and requests, read and written."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from storage.filesystem import DirectStore
from storage.ranged_reader import RangedReader
from storage.retrying import RetryingStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from storage.filesystem import FileInfo, Store

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """What went through a store.

    Attributes
    ----------
    read_bytes, reads : bytes read, and requests for them
    written_bytes, writes : bytes written, tries that failed included, and files begun
    lookups : sizes, existences and listings asked for
    """

    read_bytes: int = 0
    reads: int = 0
    written_bytes: int = 0
    writes: int = 0
    lookups: int = 0

    def __add__(self, other: StoreCounts) -> StoreCounts:
        return StoreCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def count_store(store: Store) -> tuple[Store, CountedStore]:
    """Return a store like this one, and what counts what goes through it.

    A store whose reads are tried again is counted below that: each try counts, and writes are tried again as before.
    """
    bare = store.bare if isinstance(store, RetryingStore) else store
    counted = CountedDirectStore(bare) if isinstance(bare, DirectStore) else CountedStore(bare)
    if not isinstance(store, RetryingStore):
        return counted, counted
    store.bare = counted
    return store, counted


class CountedStore:
    """Counts what is asked of another store; several threads may do so at once."""

    def __init__(self, store: Store) -> None:
        self.url = store.url
        self._store = store
        self._lock = threading.Lock()
        self._counts = StoreCounts()

    @property
    def counts(self) -> StoreCounts:
        """What went through so far."""
        with self._lock:
            return self._counts

    def add(self, counts: StoreCounts) -> None:
        """Count some more."""
        with self._lock:
            self._counts += counts

    def open_read(self, path: str) -> BinaryIO:
        """Open a file for reading; what the handle reads is counted, and behind a network what it fetches."""
        found = self._store.open_read(path)
        if not isinstance(found, RangedReader):
            return cast("BinaryIO", _CountedReader(found, self))
        fetch = found.fetch

        def counted(start: int, length: int) -> bytes:
            content = fetch(start, length)
            self.add(StoreCounts(read_bytes=len(content), reads=1))
            return content

        found.fetch = counted
        return found

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes from `offset`."""
        content = self._store.read_range(path, offset, length)
        self.add(StoreCounts(read_bytes=len(content), reads=1))
        return content

    def read_bytes(self, path: str) -> bytes:
        """Read a whole file."""
        content = self._store.read_bytes(path)
        self.add(StoreCounts(read_bytes=len(content), reads=1))
        return content

    def open_write(self, path: str) -> BinaryIO:
        """Create a file; what is written to the handle is counted."""
        handle = _CountedWriter(self._store.open_write(path), self)
        self.add(StoreCounts(writes=1))
        return cast("BinaryIO", handle)

    def info(self, path: str) -> FileInfo:
        """Size and kind of one path."""
        self.add(StoreCounts(lookups=1))
        return self._store.info(path)

    def exists(self, path: str) -> bool:
        """Whether the path is there."""
        self.add(StoreCounts(lookups=1))
        return self._store.exists(path)

    def list_folder(self, path: str) -> list[FileInfo]:
        """Direct children in the order of their paths."""
        self.add(StoreCounts(lookups=1))
        return self._store.list_folder(path)

    def rename(self, source: str, target: str, *, overwrite: bool) -> None:
        """Move a file within the store."""
        self._store.rename(source, target, overwrite=overwrite)

    def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or folder."""
        self._store.delete(path, recursive=recursive)


class CountedDirectStore(CountedStore):
    """Counts a store that makes whole files under their final names by itself."""

    def __init__(self, store: DirectStore) -> None:
        super().__init__(store)
        self._direct = store

    def write_whole(self, path: str, produce: Callable[[BinaryIO], Result], *, overwrite: bool) -> Result:
        """Write what `produce` writes to its handle to a file that appears whole, or not at all."""

        def counted(handle: BinaryIO) -> Result:
            self.add(StoreCounts(writes=1))
            return produce(cast("BinaryIO", _CountedWriter(handle, self, owns=False)))

        return self._direct.write_whole(path, counted, overwrite=overwrite)


class _CountedReader(io.RawIOBase):
    """A read handle that counts."""

    def __init__(self, handle: BinaryIO, store: CountedStore) -> None:
        self._handle, self._store = handle, store

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._handle.seek(offset, whence)

    def tell(self) -> int:
        return self._handle.tell()

    def read(self, size: int | None = -1, /) -> bytes:
        content = self._handle.read(-1 if size is None else size)
        self._store.add(StoreCounts(read_bytes=len(content), reads=1))
        return content

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        content = self.read(len(view))
        view[: len(content)] = content
        return len(content)

    def close(self) -> None:
        try:
            self._handle.close()
        finally:
            super().close()


class _CountedWriter(io.RawIOBase):
    """A write handle that counts; one that does not own the handle below leaves it open."""

    def __init__(self, handle: BinaryIO, store: CountedStore, *, owns: bool = True) -> None:
        self._handle, self._store, self._owns = handle, store, owns

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._handle.tell()

    def write(self, content: Buffer, /) -> int:
        written = self._handle.write(content)
        self._store.add(StoreCounts(written_bytes=written))
        return written

    def flush(self) -> None:
        if not self._handle.closed:
            self._handle.flush()

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self._owns:
                self._handle.close()
        finally:
            super().close()
