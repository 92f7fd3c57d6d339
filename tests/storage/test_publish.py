# SPDX-License-Identifier: Apache-2.0
"""Publishing over a store that fails, and over real failures: a dead DataNode, a full disk."""

from __future__ import annotations

import io
import os
import subprocess
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, BinaryIO

import pytest

from storage.checksum import sha256_of_bytes, sha256_of_file
from storage.errors import (
    FileExistsInStoreError,
    PublishError,
    StoreAccessError,
    StoreFullError,
    StoreUnavailableError,
)
from storage.filesystem import open_store
from storage.memory_store import MemoryStore
from storage.publish import is_temporary, publish, publish_bytes
from storage.retrying import FIRST_CONTACT_S, RetryingStore
from tests.support.cluster import data_node_writing
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from local_cluster.local_cluster import LocalCluster


class FailingStore(MemoryStore):
    """Fails as planned: the named step raises the next of its errors until they are used up."""

    def __init__(self, **errors: list[Exception]) -> None:
        root = uuid.uuid4().hex
        super().__init__(f"memory://{root}", f"/{root}")
        self.errors = errors
        self.lost_answers = 0

    def fail(self, step: str) -> None:
        if self.errors.get(step):
            raise self.errors[step].pop(0)

    def open_write(self, path: str) -> BinaryIO:
        self.fail("open")
        return super().open_write(path)

    def rename(self, source: str, target: str, *, overwrite: bool) -> None:
        self.fail("rename")
        super().rename(source, target, overwrite=overwrite)
        if self.lost_answers:
            self.lost_answers -= 1
            raise StoreUnavailableError("the answer got lost")

    def delete(self, path: str, *, recursive: bool = False) -> None:
        self.fail("delete")
        super().delete(path, recursive=recursive)


def gone() -> StoreUnavailableError:
    return StoreUnavailableError("connection refused")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses that were made, on a clock that only they move; without the random part."""
    slept: list[float] = []
    # The module's own name for it, not time itself: threads of other tests sleep too.
    clock = SimpleNamespace(sleep=slept.append, monotonic=lambda: 1000.0 + sum(slept))
    monkeypatch.setattr("storage.retrying.time", clock)
    monkeypatch.setattr("storage.retrying.random.uniform", lambda low, high: high)
    return slept


def listing(store: MemoryStore) -> list[str]:
    return [entry.path for entry in store.list_folder("")]


def test_each_step_is_tried_again_with_growing_pauses(pauses: list[float]) -> None:
    store = FailingStore(open=[gone() for _ in range(5)])
    calls = []

    def produce(handle: BinaryIO) -> int:
        calls.append(1)
        handle.write(b"whole")
        return len(calls)

    assert publish(store, "a", produce, kind="write_once") == 1
    assert pauses == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert store.read_bytes("a") == b"whole"
    assert listing(store) == ["a"]


def test_a_rename_is_tried_again_without_writing_again(pauses: list[float]) -> None:
    store = FailingStore(rename=[gone(), gone(), gone()])
    calls = []

    def produce(handle: BinaryIO) -> None:
        calls.append(1)
        handle.write(b"whole")

    publish(store, "a", produce, kind="write_once")
    assert calls == [1]
    assert pauses == [0.5, 1.0, 2.0]
    assert listing(store) == ["a"]


@pytest.mark.parametrize("step", ["open", "rename"])
def test_a_store_that_stays_away_is_given_up(pauses: list[float], step: str) -> None:
    store = FailingStore(**{step: [gone() for _ in range(100)]})
    reason = "could not be written in 8 tries within" if step == "open" else "is written, but could not be renamed"
    with pytest.raises(PublishError, match=f"a: {reason} .* s; last: connection refused") as caught:
        publish(store, "a", lambda handle: handle.write(b"x"), kind="replace", patience_s=20.0)
    assert isinstance(caught.value.__cause__, StoreUnavailableError)
    assert len(pauses) == 7
    assert 16.0 < sum(pauses) <= 20.0
    assert listing(store) == []


def test_a_store_that_never_answered_is_given_up_soon(pauses: list[float]) -> None:
    store = RetryingStore(FailingStore(open=[gone() for _ in range(100)]))
    with pytest.raises(PublishError, match="connection refused"):
        publish(store, "a", lambda handle: handle.write(b"x"), kind="replace")
    assert sum(pauses) <= FIRST_CONTACT_S
    pauses.clear()
    assert not store.exists("a")
    with pytest.raises(PublishError, match="connection refused"):
        publish(store, "a", lambda handle: handle.write(b"x"), kind="replace")
    assert sum(pauses) > 60.0


def test_a_long_write_is_begun_anew_even_if_one_try_takes_longer_than_the_patience(pauses: list[float]) -> None:
    store = FailingStore()
    calls = []

    def produce(handle: BinaryIO) -> None:
        calls.append(1)
        pauses.append(3600.0)
        if len(calls) < 3:
            raise gone()
        handle.write(b"whole")

    publish(store, "a", produce, kind="replace")
    assert len(calls) == 3
    assert listing(store) == ["a"]


def test_temporary_files_of_failed_tries_go_once_the_store_is_back(pauses: list[float]) -> None:
    store = FailingStore(delete=[gone()])
    calls = []

    def produce(handle: BinaryIO) -> None:
        calls.append(1)
        handle.write(b"half")
        if len(calls) == 1:
            raise gone()

    publish(store, "a", produce, kind="replace")
    assert listing(store) == ["a"]


@pytest.mark.parametrize("error", [StoreFullError("no space left"), StoreAccessError("access refused")])
def test_what_trying_again_cannot_cure_fails_at_once(pauses: list[float], error: StoreUnavailableError) -> None:
    store = FailingStore(rename=[error])
    with pytest.raises(type(error)):
        publish_bytes(store, "a", b"x", kind="replace")
    assert pauses == []
    assert listing(store) == []


@pytest.mark.parametrize("kind", ["replace", "write_once"])
def test_a_rename_whose_answer_got_lost_counts_as_done(pauses: list[float], kind: str) -> None:
    store = FailingStore()
    store.lost_answers = 1
    publish_bytes(store, "a", b"x", kind=kind)  # type: ignore[arg-type]
    assert pauses == []
    assert listing(store) == ["a"]


def test_a_name_taken_while_writing_is_refused_and_the_first_stays() -> None:
    store = FailingStore()

    def produce(handle: BinaryIO) -> None:
        publish_bytes(store, "a", b"first", kind="write_once")
        handle.write(b"second")

    with pytest.raises(FileExistsInStoreError):
        publish(store, "a", produce, kind="write_once")
    assert store.read_bytes("a") == b"first"
    assert listing(store) == ["a"]


def test_the_producers_error_is_told_even_if_the_clean_up_fails() -> None:
    store = FailingStore(delete=[gone(), gone()])

    def produce(handle: BinaryIO) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(store, "a", produce, kind="replace")
    (left,) = listing(store)
    assert is_temporary(left)
    assert not is_temporary("folder/a")


def test_a_name_shows_only_after_what_must_be_there_earlier() -> None:
    store = open_store("memory://earlier-name")
    seen: list[list[bool]] = []

    def look() -> None:
        seen.append([is_temporary(entry.path) for entry in store.list_folder("")])

    publish_bytes(store, "last.json", b"{}", kind="replace", before_rename=look)
    assert seen == [[True]]
    assert store.read_bytes("last.json") == b"{}"

    def refuse() -> None:
        raise ValueError("a file is missing")

    with pytest.raises(ValueError, match="a file is missing"):
        publish_bytes(store, "other.json", b"{}", kind="replace", before_rename=refuse)
    assert [entry.path for entry in store.list_folder("")] == ["last.json"]


def test_the_callers_handle_may_be_wrapped_and_closed() -> None:
    store = FailingStore()

    def produce(handle: BinaryIO) -> None:
        with io.TextIOWrapper(handle, encoding="utf-8") as text:
            text.write("µ")

    publish(store, "a", produce, kind="replace")
    assert store.read_bytes("a") == "µ".encode()


@pytest.mark.hdfs
@pytest.mark.parametrize("route", ["hdfs", "webhdfs"])
def test_a_data_node_dies_while_a_file_is_published(hdfs_daemons: LocalCluster, route: str) -> None:
    url = hdfs_daemons.hdfs_url if route == "hdfs" else hdfs_daemons.webhdfs_url
    store = open_store(f"{url}/publish-{uuid.uuid4().hex}")
    content = os.urandom(10 << 20)  # three blocks of 4 MiB
    killed: list[str] = []
    calls = []

    def produce(handle: BinaryIO) -> None:
        calls.append(1)
        for start in range(0, len(content), 1 << 20):
            handle.write(content[start : start + (1 << 20)])
            if not killed and start == 6 << 20:
                victim = wait_until("a block is being written", lambda: data_node_writing(hdfs_daemons))
                assert victim is not None
                killed.append(victim)
                hdfs_daemons.kill(victim)

    try:
        publish(store, "scan/part", produce, kind="write_once")
        # Where its last block lay elsewhere, or a DataNode took the upload over, the first try may go through.
        assert killed
        assert 1 <= len(calls) <= 6
        assert [entry.path for entry in store.list_folder("scan")] == ["scan/part"]
        assert sha256_of_file(store, "scan/part") == (sha256_of_bytes(content), len(content))
    finally:
        hdfs_daemons.revive()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a tmpfs needs root; the full disk is also played by test_a_full_disk_played")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("piece_bytes", [100_000, 3_000_000])
def test_a_full_disk_gives_one_sentence_and_leaves_nothing(
    small_disk: Path, pauses: list[float], piece_bytes: int
) -> None:
    store = open_store(small_disk.as_uri())
    publish_bytes(store, "before", b"b" * 10_000, kind="replace")

    def produce(handle: BinaryIO) -> None:
        for _ in range(3_000_000 // piece_bytes):
            handle.write(bytes(piece_bytes))

    with pytest.raises(StoreFullError, match=r"large.*: no space left on the device$"):
        publish(store, "x/large", produce, kind="write_once")
    assert pauses == []
    assert store.list_folder("x") == []
    assert store.read_bytes("before") == b"b" * 10_000
    publish_bytes(store, "x/large", b"fits", kind="write_once")


def test_a_full_disk_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("storage.local_store.os.fsync", no_space)
    with pytest.raises(StoreFullError, match=r"large.*: no space left on the device$"):
        publish_bytes(store, "large", b"x" * 100, kind="write_once")
    assert store.list_folder("") == []
