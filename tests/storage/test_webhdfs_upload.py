# SPDX-License-Identifier: Apache-2.0
"""What arrives over WebHDFS is compared with what was sent: checksums of a real HDFS, and a route that damages."""

from __future__ import annotations

import os
import random
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import google_crc32c
import pytest

from storage.errors import TransferDamagedError
from storage.hdfs_checksum import SentChecksum, stored_checksum
from storage.publish import publish_bytes
from storage.webhdfs_store import open_webhdfs_store
from tests.support.flipping_proxy import FlippingProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_cluster.local_cluster import LocalCluster
    from storage.webhdfs_store import WebHdfsStore

# As a real HDFS of 4 MiB blocks answered for `random.Random(1).randbytes(size)`.
KNOWN = {
    700: "MD5-of-0MD5-of-512CRC32C",
    (9 << 20) + 5: "MD5-of-8192MD5-of-512CRC32C",
}


def sent(content: bytes, step: int) -> SentChecksum:
    checksum = SentChecksum()
    for start in range(0, len(content), step):
        checksum.update(memoryview(content)[start : start + step])
    return checksum


@pytest.mark.parametrize("step", [1000, 512, 1 << 20])
def test_the_pieces_do_not_matter(step: int) -> None:
    content = random.Random(1).randbytes(100_000)
    whole, pieces = sent(content, len(content)), sent(content, step)
    for algorithm in ("MD5-of-64MD5-of-512CRC32C", "COMPOSITE-CRC32C"):
        assert pieces.expected(algorithm, 64 * 512) == whole.expected(algorithm, 64 * 512)


def test_a_known_crc_and_what_cannot_be_told() -> None:
    nine = sent(b"123456789", 4)
    assert nine.expected("COMPOSITE-CRC32C", 1 << 20) == "e3069283"  # the check value of CRC-32C
    for algorithm in ("MD5-of-0MD5-of-512CRC32", "MD5-of-0MD5-of-4096CRC32C", "new"):
        assert nine.expected(algorithm, 1 << 20) is None
    assert SentChecksum().expected("MD5-of-0MD5-of-512CRC32C", 1 << 20) is None


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 7 * 512 + 3, 100_003])
def test_the_crc_of_all_bytes_follows_from_those_of_their_pieces(size: int) -> None:
    content = random.Random(size).randbytes(size)
    assert sent(content, 700).crc32c == google_crc32c.value(content)


@pytest.mark.hdfs
def test_hdfs_computes_the_same_checksum(hdfs_daemons: LocalCluster) -> None:
    store = open_webhdfs_store(f"{hdfs_daemons.webhdfs_url}/checksum-{uuid.uuid4().hex}")
    for size, algorithm in KNOWN.items():
        content = random.Random(1).randbytes(size)
        publish_bytes(store, "a", content, kind="replace")
        full = store._full("a")
        answer = store._client.checksum(full)
        assert answer["algorithm"] == algorithm
        block_bytes = int(store._client.status(full)["blockSize"])
        assert stored_checksum(algorithm, answer["bytes"]) == sent(content, 70_000).expected(algorithm, block_bytes)


@pytest.fixture
def damaging(hdfs_daemons: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[WebHdfsStore, list[int]]]:
    """A store whose uploads go through a proxy, and the bytes that it will damage."""
    store = open_webhdfs_store(f"{hdfs_daemons.webhdfs_url}/damaged-{uuid.uuid4().hex}")
    flips: list[int] = []
    proxies: dict[str, FlippingProxy] = {}
    create = store._client._create

    def redirected(*arguments: Any, **options: Any) -> Any:
        answer = create(*arguments, **options)
        there = urlsplit(answer.headers["location"])
        if there.netloc not in proxies:
            proxies[there.netloc] = FlippingProxy(there.netloc, flips).__enter__()
        answer.headers["location"] = there._replace(netloc=proxies[there.netloc].address).geturl()
        return answer

    monkeypatch.setattr(store._client, "_create", redirected)
    yield store, flips
    for proxy in proxies.values():
        proxy.__exit__(None, None, None)


@pytest.mark.hdfs
@pytest.mark.parametrize("told", ["by HDFS's checksum", "by reading back"])
def test_a_byte_damaged_on_the_way_is_found_and_sent_again(
    damaging: tuple[WebHdfsStore, list[int]], monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    store, flips = damaging
    if told == "by reading back":
        monkeypatch.setattr(SentChecksum, "expected", lambda self, algorithm, block_bytes: None)
    content = os.urandom(5 << 20)
    flips.append(4 << 20)
    handle = store.open_write("raw")
    handle.write(content)
    with pytest.raises(TransferDamagedError, match=r"/raw: what arrived is not what was sent \(checksum [0-9a-f]+"):
        handle.close()
    assert store.info("raw").size == len(content)
    assert store.read_bytes("raw") != content
    flips[:] = [3 << 20, 1 << 20]
    publish_bytes(store, "scan/part", content, kind="write_once")
    assert flips == []
    assert store.read_bytes("scan/part") == content
    assert [entry.path for entry in store.list_folder("scan")] == ["scan/part"]
