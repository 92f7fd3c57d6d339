# SPDX-License-Identifier: Apache-2.0
"""Line integrals of views: of the frames themselves, or resampled from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spark_jobs.planning.view_groups import frames_of_views

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from reconstruction.backends import Backend
    from reconstruction.fdk import SlabSetup
    from reconstruction.slabs import RowBand
    from spark_jobs.tasks.corrected_rows import RawBlock, RowCorrector


def view_lines(
    setup: SlabSetup,
    corrector: RowCorrector,
    blocks: Mapping[int, RawBlock],
    views: NDArray[np.int64],
    band: RowBand,
    *,
    backend: Backend,
    threads: int,
) -> NDArray[np.float32]:
    """Correct what some views are made of, and make rows of them.

    Parameters
    ----------
    setup : of the slab
    corrector : of the bin's frames
    blocks : the view blocks that hold the frames, by their index, all of the same rows
    views : indices of the views
    band : rows of the views, which come from the rows that were read
    backend : resamples
    threads : of this task

    Returns
    -------
    (view, row, col) float32
    """
    raw = blocks.values()
    row_start = next(iter(raw)).rows[0]
    if setup.virtual is None:
        lines = corrector.lines_of_frames(raw, views)
        return lines[:, band.row_start - row_start : band.row_stop - row_start]
    slots = setup.virtual.frame_indices[views]
    frames = frames_of_views(setup, views)
    lines = corrector.lines_of_frames(raw, frames)
    # What stands at an empty slot is not looked at.
    places = np.searchsorted(frames, np.maximum(slots, frames[0]))
    return backend.resample(
        setup, [[lines[place] for place in row] for row in places], views, frame_row_start=row_start,
        row_start=band.row_start, row_stop=band.row_stop, threads=threads,
    )  # fmt: skip
