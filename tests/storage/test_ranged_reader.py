# SPDX-License-Identifier: Apache-2.0
"""The handle over ranged reads: same bytes as a file, few requests."""

from __future__ import annotations

import io
import random

import pytest

from storage.ranged_reader import FIRST_READ_BYTES, MOST_READ_BYTES, RangedReader

CONTENT = random.Random(1).randbytes(3_000_000)


class Requests:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, offset: int, length: int) -> bytes:
        assert 0 <= offset
        assert 0 < length
        assert offset + length <= len(CONTENT)
        self.seen.append((offset, length))
        return CONTENT[offset : offset + length]


def test_any_walk_gives_what_a_file_gives() -> None:
    draw = random.Random(7)
    reader, file = RangedReader(Requests(), len(CONTENT), "a"), io.BytesIO(CONTENT)
    for _ in range(400):
        position = draw.choice([reader.tell(), draw.randrange(len(CONTENT) + 100)])
        size = draw.choice([0, 1, 7, 5000, 70_000, 500_000, -1])
        assert reader.seek(position) == file.seek(position)
        assert reader.read(size) == file.read(size)
        assert reader.tell() == file.tell()


def test_a_large_read_is_one_request_of_just_its_bytes() -> None:
    requests = Requests()
    reader = RangedReader(requests, len(CONTENT), "a")
    reader.seek(1_000_003)
    assert reader.read(700_000) == CONTENT[1_000_003:1_700_003]
    assert requests.seen == [(1_000_003, 700_000)]


def test_reading_on_in_small_pieces_asks_for_ever_more() -> None:
    requests = Requests()
    reader = RangedReader(requests, len(CONTENT), "a")
    assert b"".join(iter(lambda: reader.read(1000), b"")) == CONTENT
    assert len(requests.seen) <= 7
    assert requests.seen[0] == (0, FIRST_READ_BYTES)
    assert max(length for _, length in requests.seen) <= MOST_READ_BYTES


def test_jumping_about_reads_little_ahead() -> None:
    requests = Requests()
    reader = RangedReader(requests, len(CONTENT), "a")
    for position in (2_000_000, 0, 1_000_000):
        reader.seek(position)
        assert reader.read(4) == CONTENT[position : position + 4]
    assert [length for _, length in requests.seen] == [FIRST_READ_BYTES] * 3


def test_a_buffered_reader_may_wrap_it_and_a_closed_one_refuses() -> None:
    reader = RangedReader(Requests(), len(CONTENT), "a")
    with pytest.raises(ValueError, match="before the start"):
        reader.seek(-1)
    with pytest.raises(ValueError, match="whence"):
        reader.seek(0, 9)
    assert reader.read1(10) == CONTENT[:10]
    assert reader.size() == len(CONTENT)
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read(1)
