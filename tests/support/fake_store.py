# SPDX-License-Identifier: Apache-2.0
"""A store in a dict that counts reads and breaks on demand."""

from __future__ import annotations

import io
from typing import BinaryIO

from storage.errors import FileExistsInStoreError, MissingFileError, StoreFullError, StoreUnavailableError
from storage.filesystem import FileInfo


class Killed(BaseException):
    """The process is gone: no `except Exception` may catch it."""


class _Writer(io.BytesIO):
    def __init__(self, store: FakeStore, path: str) -> None:
        super().__init__()
        self.store, self.path = store, path

    def write(self, content) -> int:
        size = sum(map(len, self.store.files.values())) + self.tell() + len(content)
        if self.store.capacity is not None and size > self.store.capacity:
            raise StoreFullError(f"the store is full: {self.store.capacity} B")
        return super().write(content)

    def close(self) -> None:
        if not self.closed:
            self.store.files[self.path] = self.getvalue()
        super().close()


class FakeStore:
    """Files of a store by path.

    `kill_at_rename` counts renames: the one with that number does not happen, and the process "dies".
    """

    def __init__(self, url: str = "fake://store", *, capacity: int | None = None) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.capacity = capacity
        self.kill_at_rename: int | None = None
        self.renames: list[str] = []
        self.reads: list[tuple[str, int, int]] = []

    def _content(self, path: str) -> bytes:
        if path not in self.files:
            raise MissingFileError(f"{self.url}/{path} is not there")
        return self.files[path]

    def open_read(self, path: str) -> BinaryIO:
        return io.BytesIO(self._content(path))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        self.reads.append((path, offset, length))
        piece = self._content(path)[offset : offset + length]
        if len(piece) != length:
            raise StoreUnavailableError(f"{path}: got {len(piece)} B of {length} B")
        return piece

    def read_bytes(self, path: str) -> bytes:
        return self._content(path)

    def open_write(self, path: str) -> BinaryIO:
        return _Writer(self, path)

    def info(self, path: str) -> FileInfo:
        if path in self.files:
            return FileInfo(path, len(self.files[path]), False)
        if any(name.startswith(path + "/") for name in self.files):
            return FileInfo(path, 0, True)
        raise MissingFileError(f"{self.url}/{path} is not there")

    def exists(self, path: str) -> bool:
        return path in self.files or any(name.startswith(path + "/") for name in self.files)

    def list_folder(self, path: str) -> list[FileInfo]:
        prefix = path.rstrip("/") + "/" if path else ""
        names = {prefix + name[len(prefix) :].split("/")[0] for name in self.files if name.startswith(prefix)}
        return [self.info(name) for name in sorted(names)]

    def rename(self, source: str, target: str, *, overwrite: bool) -> None:
        if self.kill_at_rename == len(self.renames):
            raise Killed(target)
        self._content(source)
        if target in self.files and not overwrite:
            raise FileExistsInStoreError(target)
        self.renames.append(target)
        self.files[target] = self.files.pop(source)

    def delete(self, path: str, *, recursive: bool = False) -> None:
        for name in [name for name in self.files if name == path or (recursive and name.startswith(path + "/"))]:
            del self.files[name]
