# SPDX-License-Identifier: Apache-2.0
"""What every store promises, run on local disk, memory, a real HDFS by both of its protocols, and an S3 server."""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.checksum import HashingWriter, read_verified, sha256_of_bytes, sha256_of_file
from storage.errors import FileExistsInStoreError, MissingFileError, StorageError, StorePathError
from storage.filesystem import FileInfo, Store, local_path, open_store
from storage.publish import publish, publish_bytes, sweep_temporaries
from storage.retrying import RetryPolicy, keep_trying

if TYPE_CHECKING:
    from typing import BinaryIO

HDFS = pytest.mark.hdfs
STORES = ["file", "memory", pytest.param("hdfs", marks=HDFS), pytest.param("webhdfs", marks=HDFS), "s3"]


def store_url(kind: str, request: pytest.FixtureRequest) -> str:
    """URL of a fresh root of one kind."""
    name = f"contract {uuid.uuid4().hex}"
    if kind == "file":
        return (request.getfixturevalue("tmp_path") / name).as_uri()
    if kind == "memory":
        return f"memory://{name}"
    if kind == "s3":
        bucket, options = request.getfixturevalue("s3_server").make_bucket().split("?")
        return f"{bucket}/{name}?{options}"
    daemons = request.getfixturevalue("hdfs_daemons")
    return f"{daemons.hdfs_url if kind == 'hdfs' else daemons.webhdfs_url}/{name}"


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Store:
    return open_store(store_url(request.param, request))


def write(store: Store, path: str, content: bytes) -> None:
    """Write without `publish`; again if a DataNode that another test killed is still in the way."""

    def once() -> None:
        with store.open_write(path) as handle:
            handle.write(content)

    keep_trying(once, path, RetryPolicy(patience_s=30.0))


def names(store: Store, folder: str) -> list[str]:
    return [entry.path for entry in store.list_folder(folder)]


def test_bytes_come_back_through_a_second_opening_of_the_same_url(store: Store) -> None:
    write(store, "scans/one/manifest.json", b"counts")
    again = open_store(store.url)
    assert again.url == store.url
    assert again.read_bytes("scans/one/manifest.json") == b"counts"
    assert again.info("scans/one/manifest.json") == FileInfo("scans/one/manifest.json", 6, False)
    assert again.info("scans/one") == FileInfo("scans/one", 0, True)


def test_open_write_replaces_and_an_empty_file_is_a_file(store: Store) -> None:
    write(store, "a", b"long content")
    write(store, "a", b"")
    assert store.read_bytes("a") == b""
    assert store.read_range("a", 0, 0) == b""
    with store.open_read("a") as handle:
        assert handle.read() == b""
    assert store.info("a") == FileInfo("a", 0, False)


def test_folders_list_their_direct_children_in_order(store: Store) -> None:
    for path in ("b", "a/z", "a/deep/x", "c"):
        write(store, path, path.encode())
    assert store.list_folder("") == [FileInfo("a", 0, True), FileInfo("b", 1, False), FileInfo("c", 1, False)]
    assert store.list_folder("a") == [FileInfo("a/deep", 0, True), FileInfo("a/z", 3, False)]
    assert store.list_folder("nowhere") == []


def test_ranges_are_exact_or_refused(store: Store) -> None:
    content = bytes(range(256)) * 40
    write(store, "a", content)
    assert store.read_range("a", 0, 1) == content[:1]
    assert store.read_range("a", 300, 5000) == content[300:5300]
    assert store.read_range("a", len(content) - 7, 7) == content[-7:]
    for offset, length in ((len(content) - 3, 4), (len(content) + 1, 1), (-1, 2), (0, -1)):
        with pytest.raises(StorageError, match="10240 bytes"):
            store.read_range("a", offset, length)


def test_the_read_handle_seeks(store: Store) -> None:
    content = os.urandom(300_000)
    write(store, "a", content)
    with store.open_read("a") as handle:
        assert handle.readable()
        assert handle.seekable()
        assert handle.read(10) == content[:10]
        assert handle.tell() == 10
        assert handle.seek(-20, os.SEEK_END) == len(content) - 20
        assert handle.read() == content[-20:]
        assert handle.read(1) == b""
        assert handle.seek(100) == 100
        assert handle.seek(50, os.SEEK_CUR) == 150
        assert handle.read(200_000) == content[150:200_150]
        target = bytearray(11)
        assert handle.readinto(target) == 11  # type: ignore[attr-defined]
        assert target == content[200_150:200_161]
        handle.seek(len(content) + 5)
        assert handle.read(3) == b""
    assert handle.closed


def test_a_file_larger_than_a_block_goes_out_in_many_pieces_and_comes_back_in_many(store: Store) -> None:
    pieces = [os.urandom(700_001) for _ in range(8)]  # 5.6 MB; HDFS blocks here have 4 MiB
    with store.open_write("large") as handle:
        for piece in pieces:
            handle.write(piece)
        handle.write(b"tail")
    expected = hashlib.sha256(b"".join(pieces) + b"tail").hexdigest()
    assert sha256_of_file(store, "large") == (expected, 8 * 700_001 + 4)
    assert store.read_range("large", 4_000_000, 400_000) == (b"".join(pieces))[4_000_000:4_400_000]


def test_several_threads_read_through_one_store(store: Store) -> None:
    content = os.urandom(400_000)
    write(store, "a", content)

    def part(index: int) -> bytes:
        with store.open_read("a") as handle:
            handle.seek(index * 50_000)
            return handle.read(25_000) + store.read_range("a", index * 50_000 + 25_000, 25_000)

    with ThreadPoolExecutor(8) as pool:
        assert b"".join(pool.map(part, range(8))) == content


@pytest.mark.parametrize("name", ["with space.dcm", "Größe µ 肺.bin", "50%20+50&a=b;c.x", ".hidden~"])
def test_names_survive(store: Store, name: str) -> None:
    path = f"folder of {name}/{name}"
    publish_bytes(store, path, b"x", kind="replace")
    assert names(store, f"folder of {name}") == [path]
    assert store.read_bytes(path) == b"x"
    store.rename(path, f"{name}2", overwrite=False)
    assert store.exists(f"{name}2")
    assert not store.exists(path)


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../up", "a/../b", "a//b", "a/", "./a", "a\\b", "C:x", "a:b", "a\nb", "#LATEST", "a*"]
)
def test_paths_outside_the_root_or_not_portable_are_refused(store: Store, path: str) -> None:
    for act in (store.read_bytes, store.open_read, store.open_write, store.delete):
        with pytest.raises(StorePathError):
            act(path)
    with pytest.raises(StorePathError):
        store.rename("a", path, overwrite=True)


def test_what_is_missing_is_told_by_name(store: Store) -> None:
    assert not store.exists("gone")
    for act in (store.read_bytes, store.open_read, store.info):
        with pytest.raises(MissingFileError, match="gone"):
            act("gone")
    with pytest.raises(MissingFileError):
        store.read_range("gone", 0, 1)
    with pytest.raises(MissingFileError):
        store.rename("gone", "new", overwrite=False)
    with pytest.raises(MissingFileError):
        store.rename("gone", "new", overwrite=True)
    write(store, "folder/file", b"x")
    with pytest.raises(MissingFileError):
        store.read_bytes("folder")


def test_rename_moves_and_overwrites_only_when_told(store: Store) -> None:
    write(store, "new", b"new")
    write(store, "there/old", b"old")
    with pytest.raises(FileExistsInStoreError, match="there/old"):
        store.rename("new", "there/old", overwrite=False)
    assert store.read_bytes("there/old") == b"old"
    assert store.read_bytes("new") == b"new"
    store.rename("new", "there/old", overwrite=True)
    assert store.read_bytes("there/old") == b"new"
    store.rename("there/old", "made/for/it", overwrite=False)
    assert store.read_bytes("made/for/it") == b"new"
    assert names(store, "there") == []


def test_delete(store: Store) -> None:
    write(store, "a/b/c", b"x")
    store.delete("a/b/nothing")
    with pytest.raises(StorageError, match="not empty"):
        store.delete("a")
    assert store.exists("a/b/c")
    store.delete("a/b/c")
    assert not store.exists("a/b/c")
    write(store, "a/b/c", b"x")
    store.delete("a", recursive=True)
    assert not store.exists("a")


def test_publish_replace_and_write_once(store: Store) -> None:
    publish_bytes(store, "x/manifest", b"first", kind="write_once")
    with pytest.raises(FileExistsInStoreError, match="manifest"):
        publish_bytes(store, "x/manifest", b"second", kind="write_once")
    assert store.read_bytes("x/manifest") == b"first"
    assert publish(store, "x/manifest", lambda handle: handle.write(b"third!"), kind="replace") == 6
    assert store.read_bytes("x/manifest") == b"third!"
    assert names(store, "x") == ["x/manifest"]


@pytest.mark.parametrize("kind", ["replace", "write_once"])
def test_a_producer_that_fails_leaves_nothing(store: Store, kind: str) -> None:
    calls = []

    def produce(handle: BinaryIO) -> None:
        calls.append(1)
        handle.write(b"half of it")
        raise KeyError("the detector file ends here")

    with pytest.raises(KeyError):
        publish(store, "x/new", produce, kind=kind)  # type: ignore[arg-type]
    assert calls == [1]
    assert names(store, "x") == []


def test_of_several_writers_of_one_name_exactly_one_wins(store: Store) -> None:
    writers = 4
    together = threading.Barrier(writers)

    def attempt(index: int) -> int | None:
        def produce(handle: BinaryIO) -> None:
            handle.write(b"%d" % index)
            together.wait(30)

        try:
            publish(open_store(store.url), "x/pack", produce, kind="write_once")
        except FileExistsInStoreError:
            return None
        return index

    with ThreadPoolExecutor(writers) as pool:
        won = [index for index in pool.map(attempt, range(writers)) if index is not None]
    assert len(won) == 1
    assert store.read_bytes("x/pack") == b"%d" % won[0]
    assert names(store, "x") == ["x/pack"]


def test_old_temporaries_are_swept_and_nothing_else(store: Store) -> None:
    old, young = f".a.{1_000_000:x}-0123456789abcdef.tmp", f".a.{1 << 40:x}-0123456789abcdef.tmp"
    for name in ("a", ".a.tmp", old, young):
        write(store, f"x/{name}", b"x")
    assert sweep_temporaries(store, "x", older_than_s=3600) == [f"x/{old}"]
    assert sorted(names(store, "x")) == sorted(["x/a", "x/.a.tmp", f"x/{young}"])


def test_digests_are_taken_while_writing_and_checked_while_reading(store: Store) -> None:
    def produce(handle: BinaryIO) -> tuple[str, int]:
        writer = HashingWriter(handle)
        writer.write(b"one")
        writer.write(memoryview(b"two"))
        return writer.sha256, writer.n_bytes

    digest, n_bytes = publish(store, "a", produce, kind="replace")
    assert (digest, n_bytes) == (sha256_of_bytes(b"onetwo"), 6)
    assert read_verified(store, "a", digest) == b"onetwo"


def test_parquet_is_written_and_read_through_the_handles(store: Store) -> None:
    cells = [os.urandom(40_000) for _ in range(12)]
    table = pa.table({"row": pa.array(range(12), pa.int32()), "counts": pa.array(cells, pa.binary())})

    def produce(handle: BinaryIO) -> None:
        with pq.ParquetWriter(handle, table.schema, use_dictionary=False) as writer:
            for start in range(0, 12, 3):
                writer.write_table(table.slice(start, 3))

    publish(store, "scans/s/part.parquet", produce, kind="replace")
    with store.open_read("scans/s/part.parquet") as handle:
        file = pq.ParquetFile(handle)
        assert file.num_row_groups == 4
        assert file.read_row_group(2).equals(table.slice(6, 3))
        assert file.read(columns=["row"])["row"].to_pylist() == list(range(12))
    with store.open_read("scans/s/part.parquet") as handle:
        assert pq.ParquetFile(handle, pre_buffer=True).read().equals(table)


def test_a_zip_is_written_and_read_through_the_handles(store: Store) -> None:
    def produce(handle: BinaryIO) -> None:
        with zipfile.ZipFile(handle, "w") as pack:
            pack.writestr("one.dcm", b"1" * 1000)
            pack.writestr("two.dcm", b"2" * 1000)

    publish(store, "pack.zip", produce, kind="write_once")
    with store.open_read("pack.zip") as handle, zipfile.ZipFile(handle) as pack:
        assert pack.read("two.dcm") == b"2" * 1000


def test_only_local_files_have_a_local_path(store: Store) -> None:
    write(store, "a b/c", b"here")
    found = local_path(store, "a b/c")
    if store.url.startswith("file:"):
        assert found is not None
        assert found.read_bytes() == b"here"
    else:
        assert found is None
