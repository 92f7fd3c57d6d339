# SPDX-License-Identifier: Apache-2.0
"""Reads of a store that is away for a while."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import pytest

from storage.errors import MissingFileError, StoreAccessError, StoreFullError, StoreUnavailableError
from storage.filesystem import FileInfo, open_store
from storage.memory_store import MemoryStore
from storage.publish import publish_bytes
from storage.ranged_reader import RangedReader
from storage.retrying import FIRST_CONTACT_S, RetryingStore, RetryPolicy, keep_trying


class Clock:
    """Time that only pauses move."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def now(self) -> float:
        return 1000.0 + sum(self.pauses)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    # The module's own name for it, not time itself: threads of other tests sleep too.
    monkeypatch.setattr("storage.retrying.time", SimpleNamespace(sleep=made.pauses.append, monotonic=made.now))
    return made


class AwayStore(MemoryStore):
    """Answers nothing until a point of the clock."""

    def __init__(self, clock: Clock) -> None:
        root = uuid.uuid4().hex
        super().__init__(f"memory://{root}", f"/{root}")
        self.clock, self.back_s, self.calls = clock, 0.0, 0

    def away(self, seconds: float) -> None:
        self.back_s = self.clock.now() + seconds

    def check(self) -> None:
        self.calls += 1
        if self.clock.now() < self.back_s:
            raise StoreUnavailableError("connection refused")

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        self.check()
        return super().read_range(path, offset, length)

    def read_bytes(self, path: str) -> bytes:
        self.check()
        return super().read_bytes(path)

    def open_read(self, path):
        self.check()
        fetch = super().read_range

        def checked(offset: int, length: int) -> bytes:
            self.check()
            return fetch(path, offset, length)

        return RangedReader(checked, self.info(path).size, path)

    def info(self, path: str) -> FileInfo:
        self.check()
        return super().info(path)

    def exists(self, path: str) -> bool:
        self.check()
        return super().exists(path)

    def list_folder(self, path: str) -> list[FileInfo]:
        self.check()
        return super().list_folder(path)


READS = {
    "range": lambda store: store.read_range("a", 0, 5),
    "bytes": lambda store: store.read_bytes("a"),
    "info": lambda store: store.info("a").size,
    "exists": lambda store: store.exists("a"),
    "list": lambda store: store.list_folder(""),
    "handle": lambda store: store.open_read("a").read(),
}


@pytest.mark.parametrize("read", READS)
def test_reads_outlast_a_restart_of_the_name_node(clock: Clock, read: str) -> None:
    bare = AwayStore(clock)
    store = RetryingStore(bare)
    publish_bytes(store, "a", b"bytes", kind="replace")
    expected = READS[read](store)
    bare.away(25.0)
    assert READS[read](store) == expected
    assert 25.0 <= sum(clock.pauses) < 33.0
    assert max(clock.pauses) <= 4.0


def test_a_handle_that_is_open_outlasts_it_too(clock: Clock) -> None:
    bare = AwayStore(clock)
    publish_bytes(bare, "a", bytes(200_000), kind="replace")
    with RetryingStore(bare).open_read("a") as handle:
        assert len(handle.read(1000)) == 1000
        bare.away(25.0)
        assert len(handle.read()) == 199_000


def test_a_store_that_never_answered_is_given_up_soon_unless_told_otherwise(clock: Clock) -> None:
    bare = AwayStore(clock)
    bare.away(1e9)
    with pytest.raises(StoreUnavailableError, match="connection refused"):
        RetryingStore(bare).exists("a")
    assert sum(clock.pauses) <= FIRST_CONTACT_S
    clock.pauses.clear()
    bare.away(60.0)
    assert not RetryingStore(bare, first_contact_s=90.0).exists("a")


def test_a_refusal_counts_as_an_answer(clock: Clock) -> None:
    bare = AwayStore(clock)
    store = RetryingStore(bare)
    with pytest.raises(MissingFileError):
        store.read_bytes("nothing")
    bare.away(30.0)
    assert store.list_folder("") == []


def test_patience_ends(clock: Clock) -> None:
    bare = AwayStore(clock)
    store = RetryingStore(bare, RetryPolicy(patience_s=20.0))
    assert not store.exists("a")
    bare.away(1e9)
    with pytest.raises(StoreUnavailableError):
        store.info("a")
    assert 10.0 < sum(clock.pauses) <= 20.0


@pytest.mark.parametrize("error", [StoreFullError("full"), StoreAccessError("denied"), MissingFileError("gone")])
def test_what_waiting_cannot_cure_is_told_at_once(clock: Clock, error: Exception) -> None:
    def act() -> None:
        raise error

    with pytest.raises(type(error)):
        keep_trying(act, "a", RetryPolicy())
    assert clock.pauses == []


def test_pauses_differ_from_worker_to_worker(clock: Clock) -> None:
    def pauses() -> list[float]:
        clock.pauses.clear()
        with pytest.raises(StoreUnavailableError):
            keep_trying(refuse, "a", RetryPolicy(patience_s=30.0))
        return list(clock.pauses)

    def refuse() -> None:
        raise StoreUnavailableError("connection refused")

    first, second = pauses(), pauses()
    assert first != second
    assert all(0.25 <= pause <= 4.0 for pause in first + second)


def test_a_policy_without_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="patience"):
        RetryPolicy(patience_s=-1.0)


def test_only_remote_stores_are_wrapped(tmp_path) -> None:
    assert isinstance(open_store("hdfs://127.0.0.1:1/x"), RetryingStore)
    assert isinstance(open_store("webhdfs://127.0.0.1:1/x"), RetryingStore)
    assert not isinstance(open_store(tmp_path), RetryingStore)
