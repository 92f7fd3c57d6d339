# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ingest.readers.binned import BinnedReader
from tests.support.fake_reader import random_reader


@pytest.mark.parametrize("repeated", [False, True])
def test_a_repeated_view_is_binned_once_for_a_range(repeated):
    reader = random_reader(fields=False, n_rows=6, n_cols=4)
    reader.frames[:] = reader.frames[:, :1]
    binned = BinnedReader.wrap(reader, 2, repeated=repeated)
    views = binned.read_views(2, 7)
    expected = reader.frames[:, 2:7].reshape(2, 5, 3, 2, 2, 2).sum(axis=(3, 5))
    np.testing.assert_array_equal(views, expected)
    assert reader.n_reads == (1 if repeated else 5)
    assert binned.read_views(3, 3).shape == (2, 0, 3, 2)


def test_a_block_with_a_column_of_a_gap_is_a_gap():
    reader = random_reader(fields=False, n_rows=6, n_cols=11)
    reader.scan = replace(reader.scan, geometry=replace(reader.scan.geometry, column_gaps=((3, 5),)))
    binned = BinnedReader.wrap(reader, 2)
    assert binned.scan.geometry.column_gaps == ((1, 3),)
    assert binned.scan.geometry.n_cols == 5
