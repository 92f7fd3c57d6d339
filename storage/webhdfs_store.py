# SPDX-License-Identifier: Apache-2.0
"""Store on HDFS by its REST interface (the `hdfs` package): one open port of the NameNode and of each DataNode.

The user is HADOOP_USER_NAME, else the user of the process.
"""

from __future__ import annotations

import http.client
import io
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import urlsplit

import hdfs
import requests
import urllib3

from storage.errors import FileExistsInStoreError, MissingFileError, StorageError, StoreUnavailableError, StoreUrlError
from storage.filesystem import FileInfo
from storage.hadoop_errors import hadoop_error
from storage.paths import clean_path, join, parent_of, root_of
from storage.ranged_reader import RangedReader, require_range

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

WRITE_PIECE_BYTES = 1 << 20
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 120.0


class WebHdfsStore:
    """Files below one folder of an HDFS, over HTTP."""

    def __init__(self, url: str, client: Any, root: str) -> None:
        self.url = url
        self._client = client
        self._root = root

    def open_read(self, path: str) -> BinaryIO:
        """Open a file for reading; large reads are one request each."""
        size = self._file_size(path)
        return cast("BinaryIO", RangedReader(lambda start, length: self._fetch(path, start, length), size, path))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes from `offset`."""
        require_range(self._name(path), offset, length, self._file_size(path))
        return self._fetch(path, offset, length)

    def read_bytes(self, path: str) -> bytes:
        """Read a whole file."""
        return self._fetch(path, 0, self._file_size(path))

    def open_write(self, path: str) -> BinaryIO:
        """Create a file and stream to it; it is whole when the handle is closed."""
        name = self._name(path)
        with _translated(name):
            # The NameNode answers with the address of a DataNode, which takes the bytes.
            answer = self._client._create(self._full(clean_path(path)), overwrite="true")
            sink = _UploadSink(answer.headers["location"], name)
        return cast("BinaryIO", io.BufferedWriter(sink, WRITE_PIECE_BYTES))

    def info(self, path: str) -> FileInfo:
        """Size and kind of one path."""
        with _translated(self._name(path)):
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
            with _translated(self._name(path)):
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
        with _translated(f"{self._name(source)} to {self._name(target)}"):
            if parent_of(old) != parent_of(new):
                self._client.makedirs(parent_of(new) or "/")
            options = "OVERWRITE" if overwrite else "NONE"
            self._client._rename(old, destination=new, renameoptions=options)

    def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or folder; a missing one is not an error."""
        with _translated(self._name(path)):
            self._client._delete(self._full(clean_path(path)), recursive="true" if recursive else "false")

    def _fetch(self, path: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        name = self._name(path)
        with _translated(name), self._client.read(self._full(path), offset=offset, length=length) as answer:
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
        return f"{self.url}/{path}" if path else self.url


class _UploadSink(io.RawIOBase):
    """Chunked upload of one file to a DataNode.

    Written on the plain HTTP client, because the one of `hdfs` queues without a bound what a quick producer writes.
    An upload that is not closed is not whole: the last chunk is missing.
    """

    def __init__(self, location: str, name: str) -> None:
        self._name = name
        self._failed = False
        parts = urlsplit(location)
        connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = connect(parts.netloc, timeout=ANSWER_TIMEOUT_S)
        try:
            self._connection.putrequest("PUT", f"{parts.path}?{parts.query}")
            self._connection.putheader("Content-Type", "application/octet-stream")
            self._connection.putheader("Transfer-Encoding", "chunked")
            self._connection.endheaders()
        except BaseException:
            self._connection.close()
            super().close()
            raise

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        view = memoryview(data).cast("B")
        self._require_sound()
        if len(view) > 0:  # an empty chunk would end the upload
            self._failed = True  # unless all below goes well
            with _translated(self._name):
                self._connection.send(b"%x\r\n" % len(view))
                self._connection.send(view)
                self._connection.send(b"\r\n")
            self._failed = False
        return len(view)

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._require_sound()
            with _translated(self._name):
                self._connection.send(b"0\r\n\r\n")
                with self._connection.getresponse() as answer:
                    content = answer.read()
                if answer.status not in (http.HTTPStatus.CREATED, http.HTTPStatus.OK):
                    raise hadoop_error(self._name, _reason(content) or answer.reason)
        finally:
            self._connection.close()
            super().close()

    def _require_sound(self) -> None:
        """Refuse to go on after a failed write: what arrived is unknown."""
        if self._failed:
            raise StoreUnavailableError(f"{self._name}: an earlier write to it failed")


def open_webhdfs_store(url: str) -> WebHdfsStore:
    """Open ``webhdfs://host:port/folder`` (``swebhdfs:`` with TLS); the port is the NameNode's HTTP port.

    Raises
    ------
    StoreUrlError
        If the URL names no host and port.
    """
    parts = urlsplit(url)
    try:
        complete = bool(parts.hostname) and parts.port is not None
    except ValueError:
        complete = False
    if not complete or parts.query or parts.fragment:
        raise StoreUrlError(f"{url}: expected {parts.scheme}://host:port/path")
    protocol = "https" if parts.scheme.lower() == "swebhdfs" else "http"
    client = hdfs.InsecureClient(
        f"{protocol}://{parts.netloc}",
        user=os.environ.get("HADOOP_USER_NAME") or None,
        timeout=(CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S),
    )
    return WebHdfsStore(url.rstrip("/"), client, root_of(parts.path))


def _file_info(path: str, status: dict[str, Any]) -> FileInfo:
    is_folder = status["type"] == "DIRECTORY"
    return FileInfo(path, 0 if is_folder else int(status["length"]), is_folder)


def _reason(content: bytes) -> str:
    """What the body of a refusal says, its Java exception named in a second line."""
    text = content.decode("utf-8", "replace")
    try:
        report = json.loads(text)["RemoteException"]
        return f"{report['message']}\n{report['exception']}"
    except (ValueError, KeyError, TypeError):
        return text


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """Turn errors of `hdfs` and of the HTTP clients into those of this package."""
    try:
        yield
    except StorageError:
        raise
    except hdfs.HdfsError as error:
        message = error.message if isinstance(error.message, str) else repr(error.message)
        if error.exception == "FileNotFoundException":
            raise MissingFileError(f"{where}: no such file") from error
        if error.exception == "FileAlreadyExistsException":
            raise FileExistsInStoreError(f"{where}: exists already") from error
        raise hadoop_error(where, f"{message}\n{error.exception}") from error
    except requests.exceptions.ConnectionError as error:
        raise StoreUnavailableError(f"{where}: the server does not answer") from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
        raise StoreUnavailableError(f"{where}: {type(error).__name__} while talking to the server") from error
    except OSError as error:
        raise StoreUnavailableError(f"{where}: the connection broke ({error.strerror or error})") from error
