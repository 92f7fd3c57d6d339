# SPDX-License-Identifier: Apache-2.0
"""Reads through the cache: the same bytes, fewer questions, never more than its capacity."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.errors import MissingFileError, StorageError
from storage.range_cache import RangeCache
from tests.support.fake_store import FakeStore

CONTENT = random.Random(3).randbytes(10_500)


def make_cache(**options) -> tuple[FakeStore, RangeCache]:
    store = FakeStore()
    store.files = {"pack": CONTENT, "other": CONTENT[::-1]}
    return store, RangeCache(store, **({"block_bytes": 1000, "capacity_bytes": 4000} | options))


def test_any_range_is_what_the_file_holds() -> None:
    draw = random.Random(5)
    store, cache = make_cache()
    for _ in range(300):
        path = draw.choice(["pack", "other"])
        start = draw.randrange(len(CONTENT))
        length = draw.randrange(min(5000, len(CONTENT) - start) + 1)
        assert cache.read_range(path, start, length) == store.files[path][start : start + length]
        assert len(cache._blocks) <= 4


def test_neighbours_and_repeats_ask_once() -> None:
    store, cache = make_cache()
    cache.read_range("pack", 100, 200)
    cache.read_range("pack", 700, 300)
    cache.read_range("pack", 900, 1500)
    cache.read_range("pack", 10_400, 100)
    assert store.reads == [("pack", 0, 1000), ("pack", 1000, 2000), ("pack", 10_000, 500)]
    cache.read_range("pack", 1500, 10)
    assert len(store.reads) == 3


def test_what_was_not_used_for_longest_goes_first() -> None:
    store, cache = make_cache(capacity_bytes=2000)
    for start in (0, 1000, 0, 2000, 0):
        cache.read_range("pack", start, 10)
    assert len(store.reads) == 3
    cache.read_range("pack", 1000, 10)
    assert len(store.reads) == 4


def test_what_is_not_there_is_refused() -> None:
    _, cache = make_cache()
    with pytest.raises(StorageError, match="the file has 10500 bytes"):
        cache.read_range("pack", 10_000, 501)
    with pytest.raises(MissingFileError):
        cache.read_range("gone", 0, 1)
    assert cache.read_range("pack", 5, 0) == b""


def test_threads_may_share_it() -> None:
    _, cache = make_cache()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda start: cache.read_range("pack", start, 700), range(0, 9800, 100)))
    assert found == [CONTENT[start : start + 700] for start in range(0, 9800, 100)]
