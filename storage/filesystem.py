# SPDX-License-Identifier: Apache-2.0
"""One small interface over local disk, memory and HDFS, chosen by URL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file or folder of a store: path relative to the store's root, size [B] (0 for a folder)."""

    path: str
    size: int
    is_folder: bool


class Store(Protocol):
    """A tree of files under one URL.  Paths are relative, with forward slashes, never with ``..``.

    `open_write` makes missing folders; when its handle is closed without an error the bytes are durable
    (fsync on local disk).  `rename` is atomic; without ``overwrite`` it raises FileExistsInStoreError if
    ``target`` exists.  A missing path raises MissingFileError; other failures StoreUnavailableError.
    """

    url: str

    def open_read(self, path: str) -> BinaryIO:
        """Open a file for reading; the handle can seek."""

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes from `offset`."""

    def read_bytes(self, path: str) -> bytes:
        """Read a whole file."""

    def open_write(self, path: str) -> BinaryIO:
        """Create a file (replacing one of that name) and return a handle for writing."""

    def info(self, path: str) -> FileInfo:
        """Size and kind of one path."""

    def exists(self, path: str) -> bool:
        """Whether the path is there."""

    def list_folder(self, path: str) -> list[FileInfo]:
        """Direct children in the order of their paths; empty if there is no such folder."""

    def rename(self, source: str, target: str, *, overwrite: bool) -> None:
        """Move a file within the store, atomically."""

    def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or folder; a missing one is not an error."""


def open_store(url: str) -> Store:
    """Open the store at a URL (``file:``, ``memory:``, ``hdfs:``, ``webhdfs:``, or a plain path)."""
    raise NotImplementedError(url)
