# SPDX-License-Identifier: Apache-2.0
"""Store in this process's memory, for tests and try-outs: the same URL gives the same files all over the process."""

from __future__ import annotations

import io
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import urlsplit

import fsspec

from storage.errors import FileExistsInStoreError, MissingFileError, StorageError
from storage.filesystem import FileInfo
from storage.paths import clean_path, join, parent_of, root_of
from storage.ranged_reader import require_range

if TYPE_CHECKING:
    from collections.abc import Iterator

# fsspec keeps one tree for the process and does not lock it.
_LOCK = threading.RLock()


class MemoryStore:
    """Files in fsspec's memory file system below one root."""

    def __init__(self, url: str, root: str) -> None:
        self.url = url
        self._root = root
        self._files: Any = fsspec.filesystem("memory")

    def open_read(self, path: str) -> BinaryIO:
        """Open a file for reading, as it is now."""
        return io.BytesIO(self.read_bytes(path))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes from `offset`."""
        content = self.read_bytes(path)
        require_range(path, offset, length, len(content))
        return content[offset : offset + length]

    def read_bytes(self, path: str) -> bytes:
        """Read a whole file."""
        with self._translated(clean_path(path)):
            # Not open(): it would hand out one shared object with one shared position.
            if not self._files.isfile(self._full(path)):
                raise FileNotFoundError(path)
            return bytes(self._files.store[self._full(path)].getvalue())

    def open_write(self, path: str) -> BinaryIO:
        """Create a file; it appears when the handle is closed."""
        clean_path(path)
        return cast("BinaryIO", _MemoryWriter(self, path))

    def info(self, path: str) -> FileInfo:
        """Size and kind of one path."""
        clean_path(path, root_allowed=True)
        with self._translated(path):
            found = self._files.info(self._full(path))
        is_folder = found["type"] == "directory"
        return FileInfo(path, 0 if is_folder else int(found["size"]), is_folder)

    def exists(self, path: str) -> bool:
        """Whether the path is there."""
        clean_path(path, root_allowed=True)
        with self._translated(path):
            return bool(self._files.exists(self._full(path)))

    def list_folder(self, path: str) -> list[FileInfo]:
        """Direct children in the order of their paths."""
        clean_path(path, root_allowed=True)
        with self._translated(path):
            full = self._full(path)
            if not self._files.isdir(full):
                return []
            entries = self._files.ls(full, detail=True)
        found = [
            FileInfo(join(path, entry["name"].rpartition("/")[2]), int(entry["size"]), entry["type"] == "directory")
            for entry in entries
        ]
        return sorted(found, key=lambda each: each.path)

    def rename(self, source: str, target: str, *, overwrite: bool) -> None:
        """Move a file."""
        clean_path(source), clean_path(target)
        with self._translated(source):
            if not overwrite and self._files.exists(self._full(target)):
                raise FileExistsInStoreError(f"{self.url}/{target}: exists already")
            content = self.read_bytes(source)
            self.put(target, content)
            if source != target:
                self._files.rm_file(self._full(source))

    def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or folder; a missing one is not an error."""
        with self._translated(clean_path(path)):
            full = self._full(path)
            if not self._files.exists(full):
                return
            if self._files.isdir(full) and not recursive and self._files.ls(full):
                raise StorageError(f"{self.url}/{path}: the folder is not empty")
            self._files.rm(full, recursive=True)

    def put(self, path: str, content: bytes) -> None:
        """Store a whole file."""
        with self._translated(path):
            folder = parent_of(self._full(path))
            if folder:
                self._files.makedirs(folder, exist_ok=True)
            self._files.pipe_file(self._full(path), content)

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        """Hold the lock, and turn fsspec's errors into those of this package."""
        with _LOCK:
            try:
                yield
            except FileNotFoundError as error:
                raise MissingFileError(f"{self.url}/{path}: no such file") from error
            except FileExistsError as error:
                raise FileExistsInStoreError(f"{self.url}/{path}: exists already") from error
            except (IsADirectoryError, NotADirectoryError) as error:
                raise MissingFileError(f"{self.url}/{path}: expected a file in a folder") from error


class _MemoryWriter(io.BytesIO):
    """Collects the bytes of one file and stores them when it is closed."""

    def __init__(self, store: MemoryStore, path: str) -> None:
        super().__init__()
        self._store = store
        self._path = path

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._store.put(self._path, content)


def open_memory_store(url: str) -> MemoryStore:
    """Open the tree that a ``memory:`` URL names, e.g. ``memory://tests/one``."""
    parts = urlsplit(url)
    return MemoryStore(url.rstrip("/"), root_of(f"{parts.netloc}/{parts.path.lstrip('/')}"))
