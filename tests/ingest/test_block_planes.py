# SPDX-License-Identifier: Apache-2.0
"""A block's pages hold its pixels, whatever their type and the order in which views come."""

from __future__ import annotations

import numpy as np
import pytest

from ingest import block_planes
from ingest.block_planes import BlockPlanes
from ingest.chunk_layout import projection_layout
from ingest.parquet_pages import LENGTH_BYTES
from tests.support.fake_reader import small_scan


@pytest.mark.parametrize("whole_pixels", [False, True])
@pytest.mark.parametrize("pixel_type", ["uint8", "uint16", "uint32", "float32"])
def test_pages_are_the_bytes_of_the_rows(monkeypatch, pixel_type, whole_pixels):
    monkeypatch.setattr(block_planes, "_TILE_BYTES", 100)  # some tiles in a frame
    scan = small_scan(n_views=5, n_bins=1, n_rows=9, n_cols=7, pixel_type=pixel_type)
    layout, width = projection_layout(scan, memory_bytes=10**6), np.dtype(pixel_type).itemsize
    planes = BlockPlanes(layout, 1 if whole_pixels else width)
    rng = np.random.default_rng(1)
    for n_views in (layout.view_block, layout.view_block - 1, 1):  # the memory is used again
        frames = rng.integers(0, 200, (n_views, 9, 7)).astype(pixel_type)
        if pixel_type == "float32":
            frames = frames / np.float32(7)
        planes.begin(n_views)
        for view in rng.permutation(n_views):
            planes.put_view(view, frames[view].astype(np.dtype(pixel_type).newbyteorder(">")))
        cells = frames.transpose(1, 0, 2).astype(layout.dtype).reshape(9, -1).view(np.uint8)
        for index, page in enumerate(planes.pages):
            expected = cells if whole_pixels else cells[:, index::width]
            np.testing.assert_array_equal(page[:, LENGTH_BYTES:], expected)
            lengths = np.ascontiguousarray(page[:, :LENGTH_BYTES]).view("<u4")
            assert set(lengths.ravel().tolist()) == {expected.shape[1]}
            assert page.flags.c_contiguous
