# SPDX-License-Identifier: Apache-2.0
"""Store on HDFS by its REST interface (the `hdfs` package): one open port of the NameNode and of each DataNode.

The user is HADOOP_USER_NAME, else the user of the process.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import google_crc32c

from storage.errors import MissingFileError, StorageError, StoreUnavailableError, TransferDamagedError
from storage.filesystem import FileInfo
from storage.hdfs_checksum import stored_checksum
from storage.paths import clean_path, join, parent_of
from storage.ranged_reader import RangedReader, require_range
from storage.webhdfs_client import configured_client
from storage.webhdfs_upload import UploadSink, translated

if TYPE_CHECKING:
    from storage.hdfs_checksum import SentChecksum

#: Small writes are gathered up to this; larger ones go out as they are, uncopied [B].
WRITE_PIECE_BYTES = 256 << 10
READ_PIECE_BYTES = 1 << 20


class WebHdfsStore:
    """Files below one folder of an HDFS, over HTTP."""

    def __init__(self, url: str, client: Any, root: str) -> None:
        self.url = url
        self._shown_url = url.partition("?")[0].rstrip("/")
        self._client = client
        self._root = root

    def open_read(self, path: str) -> BinaryIO:
        """Open a file for reading; large reads are one request each."""
        size = self._file_size(path)
        return cast("BinaryIO", RangedReader(lambda start, length: self._fetch(path, start, length), size, path))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes from `offset`."""
        if offset < 0 or length <= 0:
            require_range(self._name(path), offset, length, self._file_size(path))
        try:
            return self._fetch(path, offset, length)
        except StorageError:
            # The size is asked for only now: mostly the range is there, and one question is spared.
            require_range(self._name(path), offset, length, self._file_size(path))
            raise

    def read_bytes(self, path: str) -> bytes:
        """Read a whole file."""
        return self._fetch(path, 0, self._file_size(path))

    def open_write(self, path: str) -> BinaryIO:
        """Create a file and stream to it; when the handle is closed it is whole, and HDFS's checksum agrees."""
        name = self._name(path)
        with translated(name):
            # The NameNode answers with the address of a DataNode, which takes the bytes.
            answer = self._client._create(self._full(clean_path(path)), overwrite="true")
            sink = UploadSink(answer.headers["location"], name, lambda sent: self._verify(path, sent))
        return cast("BinaryIO", io.BufferedWriter(sink, WRITE_PIECE_BYTES))

    def info(self, path: str) -> FileInfo:
        """Size and kind of one path."""
        with translated(self._name(path)):
            return _file_info(path, self._client.status(self._full(path)))

    def exists(self, path: str) -> bool:
        """Whether the path is there."""
        try:
            self.info(path)
        except MissingFileError:
            return False
        return True

    def list_folder(self, path: str) -> list[FileInfo]:
        """Direct children in the order of their paths."""
        try:
            with translated(self._name(path)):
                answer = self._client._list_status(self._full(path)).json()
        except MissingFileError:
            return []
        entries = answer["FileStatuses"]["FileStatus"]
        # A file is listed as itself, with an empty name.
        found = [_file_info(join(path, entry["pathSuffix"]), entry) for entry in entries if entry["pathSuffix"]]
        return sorted(found, key=lambda each: each.path)

    def rename(self, source: str, target: str, *, overwrite: bool) -> None:
        """Move a file; with `renameoptions` the NameNode does it in one step and says why it refuses."""
        old, new = self._full(clean_path(source)), self._full(clean_path(target))
        with translated(f"{self._name(source)} to {self._name(target)}"):
            if parent_of(old) != parent_of(new):
                self._client.makedirs(parent_of(new) or "/")
            options = "OVERWRITE" if overwrite else "NONE"
            self._client._rename(old, destination=new, renameoptions=options)

    def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or folder; a missing one is not an error."""
        with translated(self._name(path)):
            self._client._delete(self._full(clean_path(path)), recursive="true" if recursive else "false")

    def _verify(self, path: str, sent: SentChecksum) -> None:
        """Compare a file that was just written with what was sent; between us and HDFS's own CRCs lies only TCP's."""
        name, full = self._name(path), self._full(path)
        with translated(name):
            status = self._client.status(full)
            if int(status["length"]) != sent.n_bytes:
                raise TransferDamagedError(f"{name}: {sent.n_bytes} bytes were sent, HDFS has {status['length']}")
            if sent.n_bytes == 0:
                return
            expected = None
            # HDFS encrypts before it takes the checksum, and takes it otherwise of files with erasure coding.
            if not status.get("encBit") and not status.get("ecBit"):
                answer = self._client.checksum(full)
                expected = sent.expected(answer["algorithm"], int(status["blockSize"]))
            if expected is not None:
                found = stored_checksum(answer["algorithm"], answer["bytes"])
            else:
                expected, found = f"{sent.crc32c:08x}", f"{self._crc32c_read_back(full):08x}"
        if found != expected:
            raise TransferDamagedError(
                f"{name}: what arrived is not what was sent (checksum {found}, expected {expected})"
            )

    def _crc32c_read_back(self, full: str) -> int:
        """CRC32C of a file as it is read back."""
        value = 0
        with self._client.read(full) as answer:
            while piece := answer.read(READ_PIECE_BYTES):
                value = google_crc32c.extend(value, piece)
        return value

    def _fetch(self, path: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        name = self._name(path)
        with translated(name), self._client.read(self._full(path), offset=offset, length=length) as answer:
            content = bytes(answer.read(length))
        if len(content) != length:
            raise StoreUnavailableError(f"{name}: {len(content)} of {length} bytes came from offset {offset}")
        return content

    def _file_size(self, path: str) -> int:
        found = self.info(clean_path(path))
        if found.is_folder:
            raise MissingFileError(f"{self._name(path)}: expected a file, got a folder")
        return found.size

    def _full(self, path: str) -> str:
        clean_path(path, root_allowed=True)
        return f"{self._root}/{path}" if path else self._root or "/"

    def _name(self, path: str) -> str:
        return f"{self._shown_url}/{path}" if path else self._shown_url


def open_webhdfs_store(url: str) -> WebHdfsStore:
    """Open ``webhdfs://host:port/folder`` (``swebhdfs:`` with TLS); the port is the NameNode's HTTP port.

    Raises
    ------
    StoreUrlError
        If the URL names no host and port, or a package is missing; see `storage.webhdfs_client.webhdfs_target`.
    """
    client, root = configured_client(url)
    return WebHdfsStore(url.rstrip("/"), client, root)


def _file_info(path: str, status: dict[str, Any]) -> FileInfo:
    is_folder = status["type"] == "DIRECTORY"
    return FileInfo(path, 0 if is_folder else int(status["length"]), is_folder)
