# SPDX-License-Identifier: Apache-2.0
"""What bricks read of the filtered rows: counted for all of them, or for an even sample where they are many."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.bricks import Window
from reconstruction.projection import projection_matrices
from spark_jobs.planning.brick_cut import brick_windows_of
from spark_jobs.planning.store_reads import Traffic
from spark_jobs.run_files.bands import ROW_HEAD_BYTES, tile_borders

if TYPE_CHECKING:
    from reconstruction.fdk import SlabSetup
    from spark_jobs.planning.brick_cut import BrickCut
    from spark_jobs.planning.view_groups import ViewGroup

#: Windows (bricks x groups of views) that are worked out; of more, an even sample of bricks stands for all.
MAX_WINDOWS = 10_000


def sampled_bricks(setups: tuple[SlabSetup, ...], cut: BrickCut, n_blocks: int, most: int = MAX_WINDOWS) -> list[int]:
    """Return the bricks to look at: all, or evenly spread ones."""
    n_bricks = len(setups) * len(cut.areas)
    count = max(8, most // n_blocks)
    if n_bricks <= count:
        return list(range(n_bricks))
    return sorted({round(place) for place in np.linspace(0, n_bricks - 1, count)})


def brick_setup(setups: tuple[SlabSetup, ...], cut: BrickCut, index: int) -> SlabSetup:
    """One brick's share of the reconstruction."""
    brick = cut.brick(index)
    return replace(setups[brick.slab_index], quarter=None, area=brick.area)


def brick_traffic(
    groups: tuple[ViewGroup, ...],
    setups: tuple[SlabSetup, ...],
    cut: BrickCut,
    filter_runs: tuple[tuple[int, int], ...],
    item_bytes: int,
    *,
    most: int = MAX_WINDOWS,
) -> Traffic:
    """Return what the bricks of one bin read of the filtered rows."""
    n_views = np.array([group.n_views for group in groups])
    tiles = np.array(tile_borders(setups[0].ramp.n_out, cut.tile_cols))
    runs = np.array(filter_runs)
    sample = sampled_bricks(setups, cut, len(groups), most)
    matrices = projection_matrices(setups[0].geometry)
    reads = n_bytes = 0
    for index in sample:
        found = brick_windows_of(brick_setup(setups, cut, index), groups, matrices)
        views = n_views[[place for place, _, _ in found]]
        rows = np.array([(w.row_start, w.row_stop, w.col_start, w.col_stop) for _, _, w in found])
        touched = (tiles[None, :, 0] < rows[:, 3:4]) & (tiles[None, :, 1] > rows[:, 2:3])
        n_tiles = touched.sum(axis=1)
        columns = (touched * (tiles[:, 1] - tiles[:, 0])).sum(axis=1)
        n_runs = ((runs[None, :, 0] < rows[:, 1:2]) & (runs[None, :, 1] > rows[:, 0:1])).sum(axis=1)
        reads += int((n_tiles * n_runs).sum())
        n_bytes += int(((rows[:, 1] - rows[:, 0]) * (n_tiles * ROW_HEAD_BYTES + views * columns * item_bytes)).sum())
    scale = len(setups) * len(cut.areas) / len(sample)
    return Traffic(round(scale * reads), round(scale * n_bytes))


def largest_window(
    groups: tuple[ViewGroup, ...], setups: tuple[SlabSetup, ...], cut: BrickCut, *, most: int = MAX_WINDOWS
) -> Window:
    """Return a window as large as any that a brick reads of one group of views."""
    matrices = projection_matrices(setups[0].geometry)
    n_rows = n_cols = 1
    for index in sampled_bricks(setups, cut, len(groups), most):
        for _, _, window in brick_windows_of(brick_setup(setups, cut, index), groups, matrices):
            n_rows, n_cols = max(n_rows, window.n_rows), max(n_cols, window.n_cols)
    return Window(0, n_rows, 0, n_cols)
