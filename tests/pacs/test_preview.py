# SPDX-License-Identifier: Apache-2.0
"""The preview shows the same object at the same place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.errors import EncodingError
from pacs.preview import block_average, preview_factor, preview_grid
from reconstruction.geometry import VolumeGrid


@given(st.tuples(*[st.integers(1, 70_000)] * 3))
def test_no_axis_of_a_preview_is_longer_than_512(shape):
    factor = preview_factor(shape)
    assert max(-(-n // factor) for n in shape) <= 512
    assert factor.bit_count() == 1
    assert factor == 2 or max(-(-n // (factor // 2)) for n in shape) > 512


@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(1, 4))
def test_averages_are_those_of_the_voxels_at_that_place(shape, factor):
    """A linear ramp of positions, averaged, is the position of each whole block."""
    grid = VolumeGrid(shape, (0.3, 0.2, 0.1), (1.0, -2.0, 3.0))
    coarse = preview_grid(grid, factor)
    for axis, direction in ((0, 2), (1, 1), (2, 0)):
        along = grid.origin_mm[direction] + np.arange(shape[axis]) * grid.voxel_pitch_mm[axis]
        volume = np.broadcast_to(along.reshape([-1 if a == axis else 1 for a in range(3)]), shape).astype(np.float32)
        averaged = block_average(volume, factor)
        assert averaged.shape == coarse.shape
        n_whole = shape[axis] // factor
        expected = coarse.origin_mm[direction] + np.arange(n_whole) * coarse.voxel_pitch_mm[axis]
        np.testing.assert_allclose(np.moveaxis(averaged, axis, 0)[:n_whole, 0, 0], expected, atol=1e-5)


def test_blocks_at_the_end_average_the_voxels_they_have():
    volume = np.arange(5, dtype=np.float32).reshape(1, 1, 5)
    assert block_average(volume, 2).tolist() == [[[0.5, 2.5, 4.0]]]
    assert block_average(volume.reshape(5, 1, 1), 3).ravel().tolist() == [1.0, 3.5]


def test_slabs_that_begin_at_blocks_give_the_volume():
    volume = np.random.default_rng(0).random((11, 7, 5)).astype(np.float32)
    whole = block_average(volume, 3)
    parts = [block_average(volume[start:stop], 3) for start, stop in ((0, 6), (6, 9), (9, 11))]
    assert np.array_equal(np.concatenate(parts), whole)


def test_a_factor_of_one_copies():
    volume = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    averaged = block_average(volume, 1)
    assert np.array_equal(averaged, volume)
    assert not np.shares_memory(averaged, volume)
    grid = VolumeGrid((2, 3, 4), (1, 1, 1), (1, 2, 3))
    assert preview_grid(grid, 1).origin_mm == pytest.approx(grid.origin_mm)


def test_what_is_no_volume_is_refused():
    with pytest.raises(EncodingError, match=r"\(2, 2\) and 1"):
        block_average(np.zeros((2, 2), np.float32), 1)
    with pytest.raises(EncodingError, match="factor of at least 1, got 0"):
        preview_grid(VolumeGrid((1, 1, 1), (1, 1, 1)), 0)
