# SPDX-License-Identifier: Apache-2.0
"""The upload of one file over WebHDFS, its bytes compared with what HDFS holds; errors of the HTTP clients."""

from __future__ import annotations

import http.client
import io
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import hdfs
import requests
import urllib3

from storage.errors import FileExistsInStoreError, MissingFileError, StorageError, StoreUnavailableError
from storage.hadoop_errors import hadoop_error
from storage.hdfs_checksum import SentChecksum
from storage.webhdfs_client import ANSWER_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Buffer


class UploadSink(io.RawIOBase):
    """Chunked upload of one file to a DataNode.

    Written on the plain HTTP client, because the one of `hdfs` queues without a bound what a quick producer writes.
    An upload that is not closed is not whole: the last chunk is missing.

    Parameters
    ----------
    location : address that the NameNode gave.
    name : the file, for messages.
    verify : called when the DataNode has taken the whole file, with what was sent; raises if HDFS holds something else.
    """

    def __init__(self, location: str, name: str, verify: Callable[[SentChecksum], None]) -> None:
        self._name = name
        self._verify = verify
        self._sent = SentChecksum()
        self._failed = False
        self._former_end = b""
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
        """Whether it can be written: yes."""
        return True

    def write(self, data: Buffer, /) -> int:
        """Send all of `data`."""
        view = memoryview(data).cast("B")
        self._require_sound()
        if len(view) > 0:  # an empty chunk would end the upload
            self._failed = True  # unless all below goes well
            with translated(self._name):
                # The end of a chunk goes out with the head of the next: each piece sent wakes the DataNode.
                self._connection.send(b"%s%x\r\n" % (self._former_end, len(view)))
                self._connection.send(view)
                self._former_end = b"\r\n"
            self._sent.update(view)
            self._failed = False
        return len(view)

    def close(self) -> None:
        """End the upload, wait until the DataNode has taken it, and have it verified."""
        if self.closed:
            return
        try:
            self._require_sound()
            with translated(self._name):
                self._connection.send(self._former_end + b"0\r\n\r\n")
                with self._connection.getresponse() as answer:
                    content = answer.read()
                if answer.status not in (http.HTTPStatus.CREATED, http.HTTPStatus.OK):
                    raise hadoop_error(self._name, _reason(content) or answer.reason)
            self._verify(self._sent)
        finally:
            self._connection.close()
            super().close()

    def _require_sound(self) -> None:
        """Refuse to go on after a failed write: what arrived is unknown."""
        if self._failed:
            raise StoreUnavailableError(f"{self._name}: an earlier write to it failed")


def _reason(content: bytes) -> str:
    """What the body of a refusal says, its Java exception named in a second line."""
    text = content.decode("utf-8", "replace")
    try:
        report = json.loads(text)["RemoteException"]
        return f"{report['message']}\n{report['exception']}"
    except (ValueError, KeyError, TypeError):
        return text


@contextmanager
def translated(where: str) -> Iterator[None]:
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
