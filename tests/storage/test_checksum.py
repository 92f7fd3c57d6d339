# SPDX-License-Identifier: Apache-2.0
"""Digests against hashlib's and zlib's own answers."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest

from storage.checksum import (
    HashingWriter,
    crc32_of_bytes,
    read_verified,
    require_sha256,
    sha256_of_bytes,
    sha256_of_stream,
)
from storage.errors import ChecksumError
from storage.filesystem import open_store
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from pathlib import Path

#: FIPS 180-2, appendix B.1.
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_known_digests() -> None:
    assert sha256_of_bytes(b"abc") == ABC
    assert sha256_of_bytes(memoryview(b"abc")) == ABC
    long = bytes(range(256)) * 10_000
    stream = io.BytesIO(long)
    stream.seek(256)
    assert sha256_of_stream(stream) == (hashlib.sha256(long[256:]).hexdigest(), len(long) - 256)
    assert crc32_of_bytes(b"123456789") == 0xCBF43926  # the check value of CRC-32
    assert crc32_of_bytes(b"6789", crc32_of_bytes(b"12345")) == zlib.crc32(b"123456789")


def test_the_writer_passes_on_counts_and_digests() -> None:
    target = io.BytesIO()
    with HashingWriter(target) as writer:
        assert writer.write(b"a") == 1
        assert writer.tell() == 1
        writer.write(memoryview(bytearray(b"bc")))
        assert (writer.sha256, writer.n_bytes) == (ABC, 3)
    assert target.getvalue() == b"abc"
    assert not target.closed


def test_a_zip_can_be_written_through_it() -> None:
    target = io.BytesIO()
    writer = HashingWriter(target)
    with zipfile.ZipFile(writer, "w") as pack:
        pack.writestr("a", b"abc")
    assert writer.sha256 == sha256_of_bytes(target.getvalue())
    assert zipfile.ZipFile(target).read("a") == b"abc"


def test_changed_bytes_are_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    publish_bytes(store, "a", b"abc", kind="replace")
    assert read_verified(store, "a", ABC.upper()) == b"abc"
    (tmp_path / "a").write_bytes(b"abd")
    with pytest.raises(ChecksumError, match=rf"/a: its sha256 is [0-9a-f]{{64}}, recorded was {ABC}"):
        read_verified(store, "a", ABC)
    with pytest.raises(ChecksumError, match="row 7"):
        require_sha256(b"x", ABC, "row 7")
