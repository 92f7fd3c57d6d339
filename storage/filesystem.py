# SPDX-License-Identifier: Apache-2.0
"""One small interface over local disk, memory, HDFS and S3, chosen by URL."""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar, runtime_checkable

from storage.errors import StoreUrlError
from storage.retrying import FIRST_CONTACT_S, RetryingStore

if TYPE_CHECKING:
    from collections.abc import Callable


Result = TypeVar("Result")

#: Scheme of a URL -> (import path of the function that opens it, package that it needs).
ADAPTERS = MappingProxyType(
    {
        "file": ("storage.local_store:open_local_store", "conepacs"),
        "memory": ("storage.memory_store:open_memory_store", "fsspec"),
        "hdfs": ("storage.hdfs_store:open_hdfs_store", "hdfs-native"),
        "webhdfs": ("storage.webhdfs_store:open_webhdfs_store", "hdfs"),
        "swebhdfs": ("storage.webhdfs_store:open_webhdfs_store", "hdfs"),
        "s3": ("storage.s3_store:open_s3_store", "s3fs"),
    }
)
#: Those that a network lies before: their reads are tried again for a while.
_REMOTE = frozenset({"hdfs", "webhdfs", "swebhdfs", "s3"})


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file or folder of a store: path relative to the store's root, size [B] (0 for a folder)."""

    path: str
    size: int
    is_folder: bool


class Store(Protocol):
    """A tree of files under one URL.  Paths are relative, with forward slashes, never with ``..``.

    `open_write` makes missing folders; when its handle is closed without an error the bytes are durable (fsync on
    local disk) and those that were written: over a network a checksum says so.  `rename` is atomic and makes the
    target's folder; without ``overwrite`` it raises FileExistsInStoreError if ``target`` exists.  (On S3, which has no
    rename, it is a copy and a deletion, and of several renames at once to one new name the last one wins; there
    `storage.publish` goes by `DirectStore`.)  A missing path raises MissingFileError, a path that no store would take
    StorePathError; other failures StoreUnavailableError (StoreFullError, StoreAccessError).  `read_range` may answer
    from a file as it was up to a minute ago, if somebody else replaced it since.  Several threads may use one store; a
    handle belongs to one thread.  A store is not pickled: a worker opens its own by ``url``.
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


@runtime_checkable
class DirectStore(Store, Protocol):
    """A store that makes whole files under their final names by itself, and needs no rename to publish them."""

    def write_whole(self, path: str, produce: Callable[[BinaryIO], Result], *, overwrite: bool) -> Result:
        """Write what `produce` writes to its handle to a file that appears whole, or not at all if anything fails.

        Without `overwrite` it raises FileExistsInStoreError if the file exists; of several writers one wins.
        """


def open_store(url: str | os.PathLike[str], *, first_contact_s: float = FIRST_CONTACT_S) -> Store:
    """Open the store at a URL (``file:``, ``memory:``, ``hdfs:``, ``webhdfs:``, ``swebhdfs:``, ``s3:``) or a path.

    Nothing is contacted or created yet.  Reads of a remote store are tried again while it does not answer: for 90 s
    once it has answered, before that for `first_contact_s` [s] only.  A worker, whose driver knows that the store is
    there, gives `storage.retrying.PATIENCE_S`.

    Raises
    ------
    StoreUrlError
        If the URL is malformed, its scheme unknown, or the package that the scheme needs is not installed.
    """
    text = os.fspath(url)
    if not text:
        raise StoreUrlError("the URL of a store is empty; expected e.g. file:///data, hdfs://host:port/path or a path")
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", text)  # one letter is a Windows drive
    if match is None:
        text = Path(text).absolute().as_uri()
    scheme = match[1].lower() if match else "file"
    if scheme not in ADAPTERS:
        raise StoreUrlError(f"{text}: unknown scheme '{scheme}'; expected one of {', '.join(ADAPTERS)} or a plain path")
    import_path, package = ADAPTERS[scheme]
    module_name, function_name = import_path.split(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise StoreUrlError(f"{text}: a store of scheme '{scheme}' needs the package {package}, not found") from error
    opener: Callable[[str], Store] = getattr(module, function_name)
    store = opener(text)
    return RetryingStore(store, first_contact_s=first_contact_s) if scheme in _REMOTE else store


def local_path(store: Store, path: str) -> Path | None:
    """Path on this machine's disk, for callers that map or open a file directly; None if the store is remote."""
    from storage.local_store import LocalStore

    return store.local_path(path) if isinstance(store, LocalStore) else None
