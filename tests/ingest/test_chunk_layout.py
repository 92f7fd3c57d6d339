# SPDX-License-Identifier: Apache-2.0
"""View blocks, row groups and files cover a scan once, within the memory they were given, whatever its size."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.chunk_layout import (
    MAX_VIEW_BLOCK,
    MIN_ROW_GROUPS,
    ROW_GROUP_BYTES,
    choose_row_group,
    choose_view_block,
    projection_layout,
)
from ingest.errors import IngestError
from tests.support.fake_reader import random_reader


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 1000),
    st.integers(1, 8),
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 2 * 10**9),
)
def test_view_block_fits_the_memory_and_lines_up_a_quarter_turn_apart(
    n_views, n_bins, n_rows, n_cols, itemsize, memory_bytes
):
    block = choose_view_block(n_views, n_bins, n_rows, n_cols, itemsize, memory_bytes)
    view_bytes = n_bins * n_rows * n_cols * itemsize
    limit = max(1, min(MAX_VIEW_BLOCK, n_views, memory_bytes // view_bytes))
    assert 1 <= block <= limit
    assert block == 1 or block * view_bytes <= memory_bytes
    if n_views % 4 == 0:
        quarter = n_views // 4
        limit = min(limit, quarter)
        best = max(size for size in range(1, limit + 1) if quarter % size == 0)
        assert block == (best if best >= limit / 2 else limit)
    else:
        assert block == limit


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((360, 2, 256, 256, 2), 90),
        ((360, 8, 1448, 1448, 2), 18),  # 29 views fit
        ((720, 8, 20_000, 20_000, 2), 1),  # not even one fits
        ((358, 1, 384, 384, 2), 90),
        ((120, 1, 64, 64, 2), 30),  # all would fit, a quarter is taken
        ((128, 1, 64, 64, 2), 32),
        ((4, 1, 64, 64, 2), 1),
        ((40, 8, 1448, 1448, 2), 10),
        ((4 * 89, 1, 64, 64, 2), 89),
        ((4 * 97, 1, 64, 64, 2), 90),  # 97 is prime: no divisor worth it
    ],
)
def test_view_blocks_of_known_scans(sizes, expected):
    assert choose_view_block(*sizes) == expected


def test_view_block_refuses_sizes_that_are_not_positive():
    with pytest.raises(IngestError, match="at least 1, got 0 views"):
        choose_view_block(0, 1, 1, 1, 2)


@given(st.integers(1, 20_000), st.integers(1, 10**7))
def test_row_groups_are_small_in_bytes_and_in_share_of_the_rows(n_rows, row_bytes):
    rows = choose_row_group(n_rows, row_bytes)
    assert rows >= 1
    assert rows == 1 or (rows * row_bytes <= ROW_GROUP_BYTES and rows * MIN_ROW_GROUPS <= n_rows)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_layout_covers_every_view_and_row_once(data):
    scan = random_reader(
        n_views=data.draw(st.integers(1, 40)), n_rows=data.draw(st.integers(1, 100)), n_cols=2, n_bins=1, fields=False
    ).scan
    layout = projection_layout(
        scan, memory_bytes=data.draw(st.integers(1, 20_000)), file_bytes=data.draw(st.integers(1, 20_000))
    )
    for ranges, end in ((layout.view_blocks, scan.n_views), (layout.row_groups, scan.n_rows)):
        assert ranges[0][0] == 0
        assert ranges[-1][1] == end
        assert all(a[1] == b[0] for a, b in pairwise(ranges))
    files = layout.file_blocks
    assert files[0][0] == 0
    assert files[-1][1] == layout.n_view_blocks
    assert all(end - start >= layout.blocks_per_file for start, end in files)
    assert len({layout.file_name(0, blocks) for blocks in files}) == len(files)
