# SPDX-License-Identifier: Apache-2.0
"""What goes through a store is counted, and is what it would be without."""

import io
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.counted_store import CountedStore, StoreCounts, count_store
from storage.errors import FileExistsInStoreError, MissingFileError, StoreUnavailableError
from storage.filesystem import open_store
from storage.publish import publish, publish_bytes
from storage.ranged_reader import RangedReader
from storage.retrying import RetryingStore, RetryPolicy
from tests.support.fake_store import FakeStore


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    url = tmp_path.as_uri() if request.param == "file" else f"memory://counted-{tmp_path.name}"
    return CountedStore(open_store(url))


def test_bytes_and_requests_are_counted(store):
    publish_bytes(store, "a/b.bin", b"0123456789", kind="write_once")
    assert store.counts == StoreCounts(written_bytes=10, writes=1, lookups=1)
    assert store.read_bytes("a/b.bin") == b"0123456789"
    assert store.read_range("a/b.bin", 2, 3) == b"234"
    assert store.info("a/b.bin").size == 10
    assert [entry.path for entry in store.list_folder("a")] == ["a/b.bin"]
    assert store.counts == StoreCounts(13, 2, 10, 1, 3)
    with store.open_read("a/b.bin") as handle:
        handle.seek(-4, 2)
        assert handle.read(3) == b"678"
        assert handle.tell() == 9
    assert (store.counts.read_bytes, store.counts.reads) == (16, 3)
    with pytest.raises(MissingFileError):
        store.read_bytes("none")
    with pytest.raises(FileExistsInStoreError):
        publish_bytes(store, "a/b.bin", b"other", kind="write_once")
    store.delete("a", recursive=True)
    assert not store.exists("a/b.bin")


def test_a_handle_serves_who_seeks_and_who_writes_piece_by_piece(store):
    def produce(handle):
        with zipfile.ZipFile(handle, "w") as archive:
            archive.writestr("one", b"1" * 5000)
            archive.writestr("two", b"2" * 7000)

    publish(store, "x.zip", produce, kind="replace")
    size = store.info("x.zip").size
    assert store.counts.written_bytes >= size
    with zipfile.ZipFile(store.open_read("x.zip")) as archive:
        assert archive.read("two") == b"2" * 7000
    assert 7000 < store.counts.read_bytes < 4 * size


def test_a_write_that_fails_is_passed_on(store):
    def produce(handle):
        handle.write(b"half")
        raise StoreUnavailableError("gone")

    with pytest.raises(StoreUnavailableError):
        with store.open_write("broken") as handle:
            produce(handle)
    assert store.counts.written_bytes == 4


def test_threads_lose_no_count(store):
    publish_bytes(store, "x", b"0123456789", kind="replace")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda start: store.read_range("x", start % 5, 5), range(400)))
    assert (store.counts.reads, store.counts.read_bytes) == (400, 2000)


class Flaky(FakeStore):
    """The first read of each file fails; handles fetch ranges, as those of a store behind a network."""

    def __init__(self):
        super().__init__()
        self.failed = set()

    def open_read(self, path):
        return RangedReader(lambda start, length: self.read_range(path, start, length), len(self.files[path]), path)

    def read_range(self, path, offset, length):
        if path not in self.failed:
            self.failed.add(path)
            raise StoreUnavailableError("for a moment")
        return super().read_range(path, offset, length)


def test_what_is_tried_again_is_counted_below_that():
    flaky = Flaky()
    flaky.files = {"x": b"0123456789", "y": bytes(300_000)}
    store, counted = count_store(RetryingStore(flaky, RetryPolicy(5.0, first_pause_s=0.01), first_contact_s=5.0))
    assert isinstance(store, RetryingStore)
    assert store.read_range("x", 0, 4) == b"0123"
    assert (counted.counts.reads, counted.counts.read_bytes) == (1, 4)
    with store.open_read("y") as handle:
        handle.read(10)
        assert counted.counts.read_bytes == 4 + (64 << 10)  # what was fetched
    publish_bytes(store, "z", b"new", kind="write_once")
    assert counted.counts.written_bytes == 3


class Direct(FakeStore):
    """Makes whole files by itself."""

    def write_whole(self, path, produce, *, overwrite):
        handle = io.BytesIO()
        result = produce(handle)
        self.files[path] = handle.getvalue()
        return result


def test_a_store_that_needs_no_rename_still_needs_none():
    direct = Direct()
    store, counted = count_store(RetryingStore(direct))
    publish_bytes(store, "x", b"0123", kind="write_once")
    assert direct.files == {"x": b"0123"}
    assert direct.renames == []
    assert (counted.counts.writes, counted.counts.written_bytes) == (1, 4)
