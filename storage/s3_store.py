# SPDX-License-Identifier: Apache-2.0
"""Store on S3, Amazon's or any server that speaks its protocol (the `s3fs` package).

S3 has no folders and no rename.  What it has is better for publishing: an object appears whole when its last part is
completed, or never; so `storage.publish` writes under the final name at once, and ``write_once`` is the condition
``If-None-Match: *``, which the server checks itself.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast
from urllib.parse import parse_qs, urlsplit

import botocore.exceptions  # type: ignore[import-untyped]
import s3fs

from storage.errors import (
    FileExistsInStoreError,
    MissingFileError,
    StorageError,
    StoreAccessError,
    StoreFullError,
    StoreUnavailableError,
    StoreUrlError,
    TransferDamagedError,
)
from storage.filesystem import FileInfo
from storage.paths import clean_path, join, root_of
from storage.ranged_reader import RangedReader, require_range
from storage.retrying import RetryPolicy, keep_trying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Buffer

Result = TypeVar("Result")

#: Bytes of a part; it doubles every 1,000 parts, because there may be 10,000 of them.  5 MiB at least.
PART_BYTES = 16 << 20
CONNECT_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 120
_PARTS_BEFORE_DOUBLING = 1000
_DELETED_AT_ONCE = 1000
_FULL = frozenset({"InsufficientStorage", "XMinioStorageFull", "QuotaExceeded", "EntityTooLarge"})
_DAMAGED = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"})
_EXISTS = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})


class S3Store:
    """Objects of one bucket below one prefix."""

    def __init__(self, url: str, files: s3fs.S3FileSystem, bucket: str, root: str) -> None:
        self.url = url
        self.part_bytes = PART_BYTES
        self._shown_url = url.partition("?")[0].rstrip("/")
        self._files = files
        self._bucket = bucket
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
            require_range(self._name(path), offset, length, self._file_size(path))
            raise

    def read_bytes(self, path: str) -> bytes:
        """Read a whole file."""
        key = self._key(clean_path(path))
        with self._translated(self._name(path)):
            return bytes(self._files.cat_file(f"{self._bucket}/{key}"))

    def open_write(self, path: str) -> BinaryIO:
        """Create a file; it appears when the handle is closed."""
        upload = _Upload(self, path, overwrite=True)
        return cast("BinaryIO", io.BufferedWriter(upload, io.DEFAULT_BUFFER_SIZE))

    def write_whole(self, path: str, produce: Callable[[BinaryIO], Result], *, overwrite: bool) -> Result:
        """Write a file that appears whole or not at all; see `storage.filesystem.DirectStore`."""
        upload = _Upload(self, path, overwrite=overwrite)
        handle = io.BufferedWriter(upload, io.DEFAULT_BUFFER_SIZE)
        try:
            result = produce(cast("BinaryIO", handle))
            handle.flush()
        except BaseException:
            upload.abandon()
            raise
        upload.close()
        return result

    def info(self, path: str) -> FileInfo:
        """Size and kind of one path."""
        key = self._key(path)
        with self._translated(self._name(path)):
            if path:
                with suppress(FileNotFoundError):
                    found = self._call("head_object", Key=key)
                    return FileInfo(path, int(found["ContentLength"]), False)
            if not self._call("list_objects_v2", Prefix=f"{key}/" if key else "", MaxKeys=1).get("Contents"):
                raise MissingFileError(f"{self._name(path)}: no such file")
        return FileInfo(path, 0, True)

    def exists(self, path: str) -> bool:
        """Whether the path is there."""
        try:
            self.info(path)
        except MissingFileError:
            return False
        return True

    def list_folder(self, path: str) -> list[FileInfo]:
        """Direct children in the order of their paths."""
        found = []
        with self._translated(self._name(path)):
            for page in self._pages(path, Delimiter="/"):
                for entry in page.get("Contents", []):
                    name = entry["Key"].rpartition("/")[2]
                    if name:  # else the folder itself, as some programs note it
                        found.append(FileInfo(join(path, name), int(entry["Size"]), False))
                for entry in page.get("CommonPrefixes", []):
                    name = entry["Prefix"].rstrip("/").rpartition("/")[2]
                    found.append(FileInfo(join(path, name), 0, True))
        return sorted(found, key=lambda each: each.path)

    def rename(self, source: str, target: str, *, overwrite: bool) -> None:
        """Copy a file within the server, then delete the first; the new one appears whole."""
        old, new = self._key(clean_path(source)), self._key(clean_path(target))
        if not overwrite and self.exists(target):
            raise FileExistsInStoreError(f"{self._name(target)}: exists already")
        with self._translated(self._name(source)):
            self._files.cp_file(f"{self._bucket}/{old}", f"{self._bucket}/{new}")
            self._call("delete_object", Key=old)

    def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or folder; a missing one is not an error."""
        key = self._key(clean_path(path))
        with self._translated(self._name(path)):
            for page in self._pages(path, MaxKeys=_DELETED_AT_ONCE):
                keys = [{"Key": entry["Key"]} for entry in page.get("Contents", [])]
                if keys and not recursive:
                    raise StorageError(f"{self._name(path)}: the folder is not empty")
                if keys:
                    self._call("delete_objects", Delete={"Objects": keys, "Quiet": True})
            self._call("delete_object", Key=key)

    def _pages(self, path: str, **options: Any) -> Iterator[dict[str, Any]]:
        """Answers that list what is in a folder."""
        key = self._key(path)
        more: dict[str, Any] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=f"{key}/" if key else "", **options, **more)
            yield page
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _fetch(self, path: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        key, name = self._key(clean_path(path)), self._name(path)
        with self._translated(name):
            content = bytes(self._files.cat_file(f"{self._bucket}/{key}", start=offset, end=offset + length))
        if len(content) != length:
            raise StoreUnavailableError(f"{name}: {len(content)} of {length} bytes came from offset {offset}")
        return content

    def _file_size(self, path: str) -> int:
        found = self.info(clean_path(path))
        if found.is_folder:
            raise MissingFileError(f"{self._name(path)}: expected a file, got a folder")
        return found.size

    def _call(self, method: str, **arguments: Any) -> Any:
        return self._files.call_s3(method, Bucket=self._bucket, **arguments)

    def _key(self, path: str) -> str:
        clean_path(path, root_allowed=True)
        return "/".join(part for part in (self._root, path) if part)

    def _name(self, path: str) -> str:
        return f"{self._shown_url}/{path}" if path else self._shown_url

    @contextmanager
    def _translated(self, where: str) -> Iterator[None]:
        """Turn errors of `s3fs` and `botocore` into those of this package."""
        try:
            yield
        except StorageError:
            raise
        except (OSError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise _s3_error(where, error) from error


class _Upload(io.RawIOBase):
    """Writes one object: small ones by a single request, others in parts; it appears when it is closed."""

    def __init__(self, store: S3Store, path: str, *, overwrite: bool) -> None:
        self._store = store
        self._key = store._key(clean_path(path))
        self._name = store._name(path)
        self._condition = {} if overwrite else {"IfNoneMatch": "*"}
        self._rest = bytearray()
        self._parts: list[dict[str, Any]] = []
        self._upload_id: str | None = None
        self._failed = False

    def writable(self) -> bool:
        """Whether it can be written: yes."""
        return True

    def write(self, data: Buffer, /) -> int:
        """Take all of `data`; whole parts go out."""
        view = memoryview(data).cast("B")
        self._rest += view
        while len(self._rest) >= self._part_bytes:
            size = self._part_bytes
            part = bytes(self._rest[:size])
            del self._rest[:size]
            self._send_part(part)
        return len(view)

    def abandon(self) -> None:
        """Give the object up: nothing of it appears, and the server drops the parts."""
        if self.closed:
            return
        super().close()
        if self._upload_id is not None:
            with suppress(StorageError), self._store._translated(self._name):
                self._store._call("abort_multipart_upload", Key=self._key, UploadId=self._upload_id)

    def close(self) -> None:
        """Complete the object; of several writers with the same condition one wins."""
        if self.closed:
            return
        try:
            if self._failed:
                raise StoreUnavailableError(f"{self._name}: an earlier write to it failed")
            if self._upload_id is None:
                self._put_all()
            else:
                if self._rest:
                    self._send_part(bytes(self._rest))
                with self._store._translated(self._name):
                    self._store._call(
                        "complete_multipart_upload", Key=self._key, UploadId=self._upload_id,
                        MultipartUpload={"Parts": self._parts}, **self._condition,
                    )  # fmt: skip
        except BaseException:
            self.abandon()
            raise
        super().close()

    @property
    def _part_bytes(self) -> int:
        return int(self._store.part_bytes * 2 ** (len(self._parts) // _PARTS_BEFORE_DOUBLING))

    def _put_all(self) -> None:
        """The whole object by one request; the server compares its MD5."""
        content = bytes(self._rest)
        with self._store._translated(self._name):
            self._store._call(
                "put_object", Key=self._key, Body=content, ContentMD5=_content_md5(content), **self._condition
            )

    def _send_part(self, content: bytes) -> None:
        """Send one part, again and again if need be: those before it need not be sent again."""
        self._failed = True  # unless all below goes well
        with self._store._translated(self._name):
            if self._upload_id is None:
                self._upload_id = self._store._call("create_multipart_upload", Key=self._key)["UploadId"]
        number = len(self._parts) + 1
        etag = keep_trying(lambda: self._send_once(number, content), f"{self._name}, part {number}", RetryPolicy())
        self._parts.append({"PartNumber": number, "ETag": etag})
        self._failed = False

    def _send_once(self, number: int, content: bytes) -> str:
        """Send a part; return its entity tag."""
        with self._store._translated(self._name):
            answer = self._store._call(
                "upload_part", Key=self._key, UploadId=self._upload_id, PartNumber=number, Body=content,
                ContentMD5=_content_md5(content),
            )  # fmt: skip
        etag = str(answer["ETag"])
        found, sent = etag.strip('"'), hashlib.md5(content).hexdigest()
        # With a key of the server's key service the tag is no MD5; the server has compared ContentMD5 all the same.
        if not answer.get("ServerSideEncryption", "").startswith("aws:kms") and len(found) == len(sent):
            if found != sent:
                raise TransferDamagedError(
                    f"{self._name}, part {number}: its MD5 is {found}, that of what was sent {sent}"
                )
        return etag


def open_s3_store(url: str) -> S3Store:
    """Open ``s3://bucket/prefix``; ``?endpoint=http://host:port`` and ``&region=NAME`` may follow.

    Without `endpoint` AWS_ENDPOINT_URL rules, else it is Amazon's.  A server of one's own is addressed path-style.
    Keys come from where they do for all AWS programs: environment, ``~/.aws``, the machine's role.

    Raises
    ------
    StoreUrlError
        If the URL names no bucket, or has other options.
    """
    parts = urlsplit(url)
    options = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
    endpoint = (
        options.pop("endpoint", None) or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    region = options.pop("region", None)
    if not parts.netloc or parts.fragment or options:
        raise StoreUrlError(
            f"{url}: expected s3://bucket/prefix, with ?endpoint=http://host:port and &region=NAME at most"
        )
    config: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": ANSWER_TIMEOUT_S}
    if endpoint:
        config["s3"] = {"addressing_style": "path"}
    files = s3fs.S3FileSystem(
        endpoint_url=endpoint,
        client_kwargs={"region_name": region} if region else {},
        config_kwargs=config,
        use_listings_cache=False,
    )
    return S3Store(url if "?" in url else url.rstrip("/"), files, parts.netloc, root_of(parts.path).lstrip("/"))


def _content_md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode("ascii")


def _s3_error(where: str, error: Exception) -> StorageError:
    """Error for what the server or the client library reported."""
    cause = error if hasattr(error, "response") else error.__cause__
    response = getattr(cause, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", ""))
    reason = str(error).split("\n")[0] or type(error).__name__
    if code in _EXISTS or isinstance(error, FileExistsError):
        return FileExistsInStoreError(f"{where}: exists already")
    if code == "NoSuchBucket":
        return MissingFileError(f"{where}: no such bucket")
    if code in ("NoSuchKey", "404") or isinstance(error, FileNotFoundError):
        return MissingFileError(f"{where}: no such file")
    if code in _FULL:
        return StoreFullError(f"{where}: no space left ({code})")
    if isinstance(error, PermissionError | botocore.exceptions.NoCredentialsError):
        return StoreAccessError(f"{where}: access refused ({reason})")
    if code in _DAMAGED:
        return TransferDamagedError(f"{where}: what arrived is not what was sent ({code})")
    return StoreUnavailableError(f"{where}: {reason}")
