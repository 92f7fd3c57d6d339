# SPDX-License-Identifier: Apache-2.0
"""Filtered rows of one group of views, put together from the band files that hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spark_jobs.run_files.bands import read_band
from spark_jobs.tasks.filter_task import band_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.bricks import Window
    from spark_jobs.planning.view_groups import ViewGroup
    from spark_jobs.tasks.workers import OpenRun


def read_window(
    run: OpenRun, bin_index: int, place: int, window: Window, n_cols: int
) -> tuple[NDArray[np.float32], int]:
    """Read a window of the filtered rows of one group of views.

    Parameters
    ----------
    place : of the group in the plan
    n_cols : filtered columns of a whole row

    Returns
    -------
    (view, row, filtered col) float32, and the bytes read
    """
    plan = run.plan
    filtered = np.empty((plan.groups[place].n_views, window.n_rows, window.n_cols), dtype=np.float32)
    read_bytes = 0
    cols = (window.col_start, window.col_stop)
    for row in range(*plan.rows, plan.filter_rows):
        band = band_file(run, bin_index, place, row, n_cols)
        low, high = max(band.row_start, window.row_start), min(band.row_stop, window.row_stop)
        if low >= high:
            continue
        part = filtered[:, low - window.row_start : high - window.row_start]
        read_band(run.store, band, low, high, cols=cols, out=part)
        read_bytes += (high - low) * band.bytes_of_columns(*cols)
    return filtered, read_bytes


def views_of_group(filtered: NDArray[np.float32], group: ViewGroup, views: NDArray[np.int64]) -> NDArray[np.float32]:
    """Take some views out of the filtered rows of their group; without a copy where they follow one another."""
    local = views - group.start
    if local.size and local[-1] - local[0] + 1 == local.size:
        return filtered[local[0] : local[-1] + 1]
    return filtered[local]
