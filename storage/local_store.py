# SPDX-License-Identifier: Apache-2.0
"""Store on local disk; POSIX and Windows."""

from __future__ import annotations

import errno
import io
import os
import shutil
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import urlsplit

from storage.errors import (
    FileExistsInStoreError,
    MissingFileError,
    StorageError,
    StoreAccessError,
    StoreFullError,
    StoreUnavailableError,
    StoreUrlError,
)
from storage.filesystem import FileInfo
from storage.paths import clean_path, join
from storage.ranged_reader import require_range

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
_WRITE_BUFFER_BYTES = 1 << 20


class LocalStore:
    """Files below one folder.  Safe for several processes: `rename` decides who wins."""

    def __init__(self, url: str, root: Path) -> None:
        self.url = url
        self._root = root

    def local_path(self, path: str) -> Path:
        """Path of a file on this machine."""
        return self._root / clean_path(path, root_allowed=True)

    def open_read(self, path: str) -> BinaryIO:
        """Open a file for reading."""
        file = self.local_path(clean_path(path))
        with _translated(file):
            return cast("BinaryIO", file.open("rb"))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes from `offset`."""
        file = self.local_path(clean_path(path))
        with _translated(file), file.open("rb", buffering=0) as handle:
            require_range(str(file), offset, length, os.fstat(handle.fileno()).st_size)
            handle.seek(offset)
            return _read_exactly(handle, length)

    def read_bytes(self, path: str) -> bytes:
        """Read a whole file."""
        file = self.local_path(clean_path(path))
        with _translated(file):
            return file.read_bytes()

    def open_write(self, path: str) -> BinaryIO:
        """Create a file; closing the handle forces its bytes to disk."""
        file = self.local_path(clean_path(path))
        with _translated(file):
            _make_folders(file.parent)
            return cast("BinaryIO", io.BufferedWriter(_DurableFile(file), _WRITE_BUFFER_BYTES))

    def info(self, path: str) -> FileInfo:
        """Size and kind of one path."""
        file = self.local_path(path)
        with _translated(file):
            is_folder, size = file.is_dir(), file.stat().st_size
        return FileInfo(path, 0 if is_folder else size, is_folder)

    def exists(self, path: str) -> bool:
        """Whether the path is there."""
        file = self.local_path(path)
        with _translated(file):
            return file.exists()

    def list_folder(self, path: str) -> list[FileInfo]:
        """Direct children in the order of their paths."""
        folder = self.local_path(path)
        found = []
        try:
            with _translated(folder), os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        size = 0 if entry.is_dir() else entry.stat().st_size
                    except FileNotFoundError:  # deleted since, or a link to nowhere
                        continue
                    found.append(FileInfo(join(path, entry.name), size, entry.is_dir()))
        except MissingFileError:
            return []
        return sorted(found, key=lambda each: each.path)

    def rename(self, source: str, target: str, *, overwrite: bool) -> None:
        """Move a file atomically; without `overwrite` exactly one of several movers wins."""
        old, new = self.local_path(clean_path(source)), self.local_path(clean_path(target))
        with _translated(old, new):
            if not old.exists():
                raise FileNotFoundError(errno.ENOENT, "no such file", str(old))
            _make_folders(new.parent)
            if overwrite:
                os.replace(old, new)
            elif os.name == "nt":
                os.rename(old, new)  # refuses to overwrite there
            else:
                os.link(old, new)  # rename() would overwrite; a link never does
                os.unlink(old)
            _force_folder(new.parent)

    def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or folder; a missing one is not an error."""
        file = self.local_path(clean_path(path))
        try:
            with _translated(file):
                if not file.is_dir() or file.is_symlink():
                    file.unlink()
                elif recursive:
                    shutil.rmtree(file)
                else:
                    file.rmdir()
        except MissingFileError:
            return


def open_local_store(url: str) -> LocalStore:
    """Open the folder that a ``file:`` URL names; it is made when the first file is written.

    Raises
    ------
    StoreUrlError
        If the URL names another host or no absolute path.
    """
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query or parts.fragment:
        raise StoreUrlError(f"{url}: expected file:///path on this machine")
    root = Path(urllib.request.url2pathname(parts.path))
    return LocalStore(url if parts.path == "/" else url.rstrip("/"), root)


class _DurableFile(io.FileIO):
    """File whose close() returns only when the bytes are on disk."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "wb")
        self._path = path

    def write(self, data: Buffer, /) -> int:
        with _translated(self._path):
            return super().write(data) or 0

    def close(self) -> None:
        if self.closed:
            return
        try:
            with _translated(self._path):
                os.fsync(self.fileno())
        finally:
            super().close()


def _make_folders(folder: Path) -> None:
    """Make a folder and its parents, their names forced to disk."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    _force_folder(folder.parent)


def _force_folder(folder: Path) -> None:
    """Force a folder's entries to disk; Windows does so by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_exactly(handle: io.FileIO, length: int) -> bytes:
    """Read `length` bytes; one read() gives at most 2 GiB."""
    data = handle.read(length) or b""
    while len(data) < length:
        more = handle.read(length - len(data))
        if not more:
            raise StorageError(f"{handle.name!r}: the file became shorter while it was read")
        data += more
    return data


@contextmanager
def _translated(path: Path, target: Path | None = None) -> Iterator[None]:
    """Turn errors of the operating system into those of this package."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file") from error
    except FileExistsError as error:
        in_the_way = next((folder for folder in path.parents if folder.is_file()), None)
        if in_the_way is not None:
            raise StoreAccessError(f"{in_the_way} is a file, not a folder") from error
        raise FileExistsInStoreError(f"{target or path}: exists already") from error
    except PermissionError as error:
        raise StoreAccessError(f"{path}: access refused ({error.strerror})") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise MissingFileError(f"{path}: expected a file in a folder ({error.strerror})") from error
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFullError(f"{path}: no space left on the device") from error
        if error.errno == errno.ENOTEMPTY:
            raise StorageError(f"{path}: the folder is not empty") from error
        raise StoreUnavailableError(f"{path}: {error.strerror or error}") from error
