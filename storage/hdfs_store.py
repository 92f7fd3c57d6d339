# SPDX-License-Identifier: Apache-2.0
"""Store on HDFS by its own protocol (the `hdfs-native` package: no JVM); the quick way for ranged reads.

The user is HADOOP_USER_NAME, else the user of the process.  With HADOOP_CONF_DIR set its files rule; without it an
unreachable NameNode is given up after some seconds.
"""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import urlsplit

import hdfs_native

from storage.errors import MissingFileError, StorageError, StoreUnavailableError, StoreUrlError
from storage.filesystem import FileInfo
from storage.hadoop_errors import hadoop_error
from storage.paths import clean_path, join, parent_of, root_of
from storage.ranged_reader import RangedReader, require_range

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

#: hdfs-native writes quickest in pieces of this size [B] (measured).
WRITE_PIECE_BYTES = 512 << 10
# Its default of 15 tries takes three minutes to say that nobody listens; three take about six seconds.
_QUICK_REFUSAL = {"dfs.client.failover.max.attempts": "3"}


class HdfsStore:
    """Files below one folder of an HDFS."""

    def __init__(self, url: str, client: hdfs_native.Client, root: str) -> None:
        self.url = url
        self._client = client
        self._root = root

    def open_read(self, path: str) -> BinaryIO:
        """Open a file for reading; large reads are one request each."""
        reader = self._reader(path)
        name = self._name(path)

        def fetch(offset: int, length: int) -> bytes:
            with _translated(name):
                return reader.read_range(offset, length)

        return cast("BinaryIO", RangedReader(fetch, len(reader), name))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes from `offset`."""
        reader = self._reader(path)
        require_range(self._name(path), offset, length, len(reader))
        with _translated(self._name(path)):
            return reader.read_range(offset, length)

    def read_bytes(self, path: str) -> bytes:
        """Read a whole file."""
        reader = self._reader(path)
        with _translated(self._name(path)):
            return reader.read_range(0, len(reader))

    def open_write(self, path: str) -> BinaryIO:
        """Create a file; it is whole when the handle is closed."""
        full, name = self._full(clean_path(path)), self._name(path)
        with _translated(name):
            options = hdfs_native.WriteOptions(overwrite=True, create_parent=True)
            sink = _HdfsSink(self._client.create(full, options), name)
        return cast("BinaryIO", io.BufferedWriter(sink, WRITE_PIECE_BYTES))

    def info(self, path: str) -> FileInfo:
        """Size and kind of one path."""
        with _translated(self._name(path)):
            found = self._client.get_file_info(self._full(path))
        return FileInfo(path, 0 if found.isdir else found.length, found.isdir)

    def exists(self, path: str) -> bool:
        """Whether the path is there."""
        try:
            self.info(path)
        except MissingFileError:
            return False
        return True

    def list_folder(self, path: str) -> list[FileInfo]:
        """Direct children in the order of their paths."""
        full = self._full(path)
        try:
            with _translated(self._name(path)):
                entries = list(self._client.list_status(full, False))
        except MissingFileError:
            return []
        found = [
            FileInfo(join(path, entry.path.rpartition("/")[2]), 0 if entry.isdir else entry.length, entry.isdir)
            for entry in entries
            if entry.path.rstrip("/") != full.rstrip("/")  # a file is listed as itself
        ]
        return sorted(found, key=lambda each: each.path)

    def rename(self, source: str, target: str, *, overwrite: bool) -> None:
        """Move a file; the NameNode does it in one step."""
        old, new = self._full(clean_path(source)), self._full(clean_path(target))
        with _translated(f"{self._name(source)} to {self._name(target)}"):
            if parent_of(old) != parent_of(new):
                self._client.mkdirs(parent_of(new) or "/", 0o755, True)
            self._client.rename(old, new, overwrite)

    def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or folder; a missing one is not an error."""
        with _translated(self._name(path)):
            self._client.delete(self._full(clean_path(path)), recursive)

    def _reader(self, path: str) -> hdfs_native.FileReader:
        with _translated(self._name(path)):
            return self._client.read(self._full(clean_path(path)))

    def _full(self, path: str) -> str:
        clean_path(path, root_allowed=True)
        return f"{self._root}/{path}" if path else self._root or "/"

    def _name(self, path: str) -> str:
        return f"{self.url}/{path}" if path else self.url


class _HdfsSink(io.RawIOBase):
    """Write end of one HDFS file."""

    def __init__(self, writer: hdfs_native.FileWriter, name: str) -> None:
        self._writer = writer
        self._name = name
        self._failed = False

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        view = memoryview(data).cast("B")
        self._require_sound()
        self._failed = True  # unless all below goes well
        with _translated(self._name):
            for start in range(0, len(view), WRITE_PIECE_BYTES):
                self._writer.write(bytes(view[start : start + WRITE_PIECE_BYTES]))
        self._failed = False
        return len(view)

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._require_sound()
            with _translated(self._name):
                self._writer.close()
        finally:
            super().close()

    def _require_sound(self) -> None:
        """Refuse to go on after a failed write: what arrived is unknown."""
        if self._failed:
            raise StoreUnavailableError(f"{self._name}: an earlier write to it failed")


def open_hdfs_store(url: str) -> HdfsStore:
    """Open ``hdfs://host:port/folder`` (or ``hdfs://nameservice/folder`` with HADOOP_CONF_DIR set).

    Raises
    ------
    StoreUrlError
        If the URL names no host.
    """
    parts = urlsplit(url)
    if not parts.netloc or parts.query or parts.fragment:
        raise StoreUrlError(f"{url}: expected hdfs://host:port/path")
    root = root_of(parts.path)
    config = None if os.environ.get("HADOOP_CONF_DIR") else _QUICK_REFUSAL
    try:
        client = hdfs_native.Client(f"hdfs://{parts.netloc}", config)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreUrlError(f"{url}: not a usable HDFS address ({error})") from error
    return HdfsStore(url.rstrip("/"), client, root)


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """Turn hdfs-native's errors (OSError and RuntimeError) into those of this package."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"{where}: no such file") from error
    except FileExistsError as error:
        raise hadoop_error(where, f"already exists: {error}") from error
    except (OSError, RuntimeError) as error:
        raise hadoop_error(where, str(error)) from error
    except BaseException as error:
        # A panic of the Rust code is a BaseException of a class that cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise StoreUnavailableError(f"{where}: hdfs-native gave up ({error})") from error
