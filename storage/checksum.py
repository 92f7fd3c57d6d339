# SPDX-License-Identifier: Apache-2.0
"""Digests of bytes, streams and files."""

from __future__ import annotations

import hashlib
import io
import zlib
from typing import TYPE_CHECKING, BinaryIO

from storage.errors import ChecksumError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from storage.filesystem import Store

PIECE_BYTES = 1 << 20


def sha256_of_bytes(data: Buffer) -> str:
    """SHA-256 of a buffer as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_stream(handle: BinaryIO) -> tuple[str, int]:
    """SHA-256 and length [B] of what is left in a handle, read in pieces."""
    digest, length = hashlib.sha256(), 0
    while piece := handle.read(PIECE_BYTES):
        digest.update(piece)
        length += len(piece)
    return digest.hexdigest(), length


def sha256_of_file(store: Store, path: str) -> tuple[str, int]:
    """SHA-256 and length [B] of a file of a store."""
    with store.open_read(path) as handle:
        return sha256_of_stream(handle)


def crc32_of_bytes(data: Buffer, start: int = 0) -> int:
    """CRC-32 of a buffer (as in ZIP), going on from `start`."""
    return zlib.crc32(data, start)


class HashingWriter(io.RawIOBase):
    """Write handle that digests and counts what passes through to another one.

    Closing it does not close the other handle, which belongs to the caller (e.g. to `publish`).
    """

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._digest = hashlib.sha256()
        self.n_bytes = 0

    @property
    def sha256(self) -> str:
        """SHA-256 of all that was written so far, as 64 hexadecimal digits."""
        return self._digest.hexdigest()

    def writable(self) -> bool:
        """Whether it can be written: yes."""
        return True

    def tell(self) -> int:
        """Bytes written so far."""
        return self.n_bytes

    def write(self, data: Buffer, /) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B")
        self._handle.write(view)
        self._digest.update(view)
        self.n_bytes += len(view)
        return len(view)

    def flush(self) -> None:
        """Flush the other handle."""
        super().flush()
        if not self._handle.closed:
            self._handle.flush()


def read_verified(store: Store, path: str, sha256: str) -> bytes:
    """Read a whole file and compare it with the digest recorded for it.

    Raises
    ------
    ChecksumError
        If its bytes have another digest.
    """
    return require_sha256(store.read_bytes(path), sha256, f"{store.url}/{path}")


def require_sha256(data: bytes, sha256: str, name: str) -> bytes:
    """Return `data` if it has the digest `sha256`; `name` says in the message what it is.

    Raises
    ------
    ChecksumError
        If it has another digest.
    """
    found = sha256_of_bytes(data)
    if found != sha256.lower():
        raise ChecksumError(f"{name}: its sha256 is {found}, recorded was {sha256}")
    return data
