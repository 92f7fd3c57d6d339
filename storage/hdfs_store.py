# SPDX-License-Identifier: Apache-2.0
"""Store on HDFS by its own protocol (the `hdfs-native` package: no JVM); the quick way for ranged reads.

The user is HADOOP_USER_NAME, else the user of the process.  With HADOOP_CONF_DIR set its files rule (name services,
Kerberos); without it an unreachable NameNode is given up after some seconds.
"""

from __future__ import annotations

import io
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager, suppress
from ctypes.util import find_library
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import urlsplit

import hdfs_native

from storage.errors import MissingFileError, StorageError, StoreUnavailableError, StoreUrlError
from storage.filesystem import FileInfo
from storage.hadoop_conf import configured_folder, read_hadoop_conf, wants_kerberos
from storage.hadoop_errors import hadoop_error
from storage.paths import clean_path, join, parent_of, root_of
from storage.ranged_reader import RangedReader, require_range

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

#: hdfs-native writes quickest in pieces of this size [B] (measured).
WRITE_PIECE_BYTES = 512 << 10
#: Files whose blocks are remembered, and for how long [s]; a pack is written once, but a manifest may be replaced.
MAX_READERS = 256
READER_AGE_S = 60.0
_GSSAPI = "gssapi_krb5"
# Its default of 15 tries takes three minutes to say that nobody listens; three take about six seconds.
_QUICK_REFUSAL = {"dfs.client.failover.max.attempts": "3"}


class HdfsStore:
    """Files below one folder of an HDFS."""

    def __init__(self, url: str, client: hdfs_native.Client, root: str) -> None:
        self.url = url
        self._client = client
        self._root = root
        self._readers = _ReaderCache()

    def open_read(self, path: str) -> BinaryIO:
        """Open a file for reading; large reads are one request each."""
        reader = self._reader(path)
        name, size = self._name(path), len(reader)

        def fetch(offset: int, length: int) -> bytes:
            nonlocal reader
            try:
                return _read_range(reader, name, offset, length)
            except StoreUnavailableError:
                with suppress(StorageError):  # for the next try: where its blocks lie by now
                    reader = self._reader(path)
                raise

        return cast("BinaryIO", RangedReader(fetch, size, name))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes from `offset`; where the file's blocks lie is remembered for a minute."""
        kept, name = self._readers.find(path), self._name(path)
        if kept is not None:
            try:
                return _read_range(kept, name, offset, length)
            except StorageError:  # it may be another file by now, or its blocks lie elsewhere
                self._readers.forget(path)
        reader = self._reader(path)
        content = _read_range(reader, name, offset, length)
        self._readers.keep(path, reader)
        return content

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
        self._readers.forget(path)
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
            try:
                self._client.rename(old, new, overwrite)
            finally:
                self._readers.forget(source)
                self._readers.forget(target)

    def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or folder; a missing one is not an error."""
        with _translated(self._name(path)):
            try:
                self._client.delete(self._full(clean_path(path)), recursive)
            finally:
                self._readers.forget(path)

    def _reader(self, path: str) -> hdfs_native.FileReader:
        with _translated(self._name(path)):
            return self._client.read(self._full(clean_path(path)))

    def _full(self, path: str) -> str:
        clean_path(path, root_allowed=True)
        return f"{self._root}/{path}" if path else self._root or "/"

    def _name(self, path: str) -> str:
        return f"{self.url}/{path}" if path else self.url


class _ReaderCache:
    """Readers of files read last: each knows where its file's blocks lie, so that the NameNode need not be asked."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, hdfs_native.FileReader]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, path: str) -> hdfs_native.FileReader | None:
        """The reader of a file, if it was opened within the last minute."""
        with self._lock:
            opened_s, reader = self._kept.get(path, (-READER_AGE_S, None))
            if reader is None or time.monotonic() - opened_s > READER_AGE_S:
                return None
            self._kept.move_to_end(path)
            return reader

    def keep(self, path: str, reader: hdfs_native.FileReader) -> None:
        """Keep a reader; the one that was not used for longest goes."""
        with self._lock:
            self._kept[path] = time.monotonic(), reader
            self._kept.move_to_end(path)
            if len(self._kept) > MAX_READERS:
                self._kept.popitem(last=False)

    def forget(self, path: str) -> None:
        """Drop the readers of a file, and of those in it if it is a folder."""
        with self._lock:
            for name in [name for name in self._kept if name == path or name.startswith(f"{path}/")]:
                del self._kept[name]


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


def _read_range(reader: hdfs_native.FileReader, name: str, offset: int, length: int) -> bytes:
    """Read exactly `length` bytes."""
    require_range(name, offset, length, len(reader))
    with _translated(name):
        return reader.read_range(offset, length)


def open_hdfs_store(url: str) -> HdfsStore:
    """Open ``hdfs://host:port/folder`` (or ``hdfs://nameservice/folder`` with HADOOP_CONF_DIR set).

    Raises
    ------
    StoreUrlError
        If the URL names no host, or Kerberos is asked for and its library is missing.
    """
    parts = urlsplit(url)
    if not parts.netloc or parts.query or parts.fragment:
        raise StoreUrlError(f"{url}: expected hdfs://host:port/path")
    root = root_of(parts.path)
    folder = configured_folder()
    if wants_kerberos(read_hadoop_conf(folder)) and find_library(_GSSAPI) is None:
        raise StoreUrlError(
            f"{url}: {folder} asks for Kerberos, which needs the library lib{_GSSAPI}, not found "
            "(Debian and Ubuntu: the package libgssapi-krb5-2)"
        )
    config = None if folder else _QUICK_REFUSAL
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
