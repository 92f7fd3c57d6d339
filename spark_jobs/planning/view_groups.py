# SPDX-License-Identifier: Apache-2.0
"""Which views are filtered and stored together, and what a slab task reads of the scan for them.

A view block of the store holds frames.  Mostly a view is a frame, and a group of views is a view block.  Views that are
resampled from frames of several camera positions need several blocks at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.slabs import grouped_batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from reconstruction.fdk import SlabSetup
    from reconstruction.slabs import RowBand
    from reconstruction.virtual_views import VirtualViews

    IndexArray = NDArray[np.int64]
    Blocks = tuple[tuple[int, int], ...]

#: Blocks that the frames of a group's views may lie in, for each of the frames that make a view.
_BLOCKS_PER_SLOT = 2


@dataclass(frozen=True, slots=True)
class ViewGroup:
    """The views ``start <= view < stop``, and the view blocks of the scan that hold their frames."""

    start: int
    stop: int
    blocks: tuple[int, ...]

    @property
    def n_views(self) -> int:
        """Number of views."""
        return self.stop - self.start

    def used(self, setup: SlabSetup) -> IndexArray:
        """Those of its views that a slab uses, ascending."""
        low, high = np.searchsorted(setup.views, (self.start, self.stop))
        return setup.views[low:high]


@dataclass(frozen=True, slots=True)
class SlabStep:
    """What a slab task reads and adds before it goes on.

    Attributes
    ----------
    groups : places of the groups
    parts : for each of them the views that the slab uses
    blocks : view blocks to read
    rows : first and end row of the frames, in blocks of averaged pixels
    """

    groups: tuple[int, ...]
    parts: tuple[IndexArray, ...] = field(repr=False)
    blocks: tuple[int, ...]
    rows: tuple[int, int]

    @property
    def views(self) -> IndexArray:
        """All views, group by group."""
        return np.concatenate(self.parts)

    def batches(self, max_views: int) -> Iterator[IndexArray]:
        """Views to add together, at most so many, in the order in which they are added: so many of each group.

        Neighbours that a kernel adds at once stay together, so that no sum hangs on the number.
        """
        if len(self.parts) == 1:
            yield from grouped_batches(self.parts[0], max_views)
            return
        step = max(1, max_views // len(self.parts))
        for first in range(0, max(len(part) for part in self.parts), step):
            yield np.concatenate([part[first : first + step] for part in self.parts])

    def fresh_blocks(self, before: SlabStep | None) -> tuple[int, ...]:
        """Blocks that the step before has not left in memory."""
        if before is None or before.rows != self.rows:
            return self.blocks
        return tuple(block for block in self.blocks if block not in before.blocks)


@dataclass(frozen=True, slots=True)
class StepSizes:
    """What the largest steps of a slab hold.

    Attributes
    ----------
    blocks : view blocks in memory, those that are read ahead included
    rows : rows of the frames that a step reads
    all_rows : rows of the frames that all steps together read
    views : views of all groups of a step, whether they are used or not
    """

    blocks: int
    rows: int
    all_rows: int
    views: int


def step_sizes(steps: tuple[SlabStep, ...], groups: tuple[ViewGroup, ...]) -> StepSizes:
    """Return how much the steps of a slab hold at most."""
    ahead = [len(step.fresh_blocks(before)) for before, step in zip((None, *steps), steps, strict=False)]
    return StepSizes(
        blocks=max(len(step.blocks) + after for step, after in zip(steps, [*ahead[1:], 0], strict=True)),
        rows=max(step.rows[1] - step.rows[0] for step in steps),
        all_rows=max(step.rows[1] for step in steps) - min(step.rows[0] for step in steps),
        views=max(sum(groups[place].n_views for place in step.groups) for step in steps),
    )


def view_groups(setup: SlabSetup, view_blocks: Blocks) -> tuple[ViewGroup, ...]:
    """Cut the views of a whole volume into groups; groups without a view that it uses are left out.

    Parameters
    ----------
    setup : of the whole volume
    view_blocks : first frame of each view block of the scan, and the one after the last
    """
    if setup.virtual is None:
        groups = [ViewGroup(start, stop, (index,)) for index, (start, stop) in enumerate(view_blocks)]
    else:
        groups = _groups_of_frames(setup.virtual, view_blocks)
    return tuple(group for group in groups if group.used(setup).size)


def _groups_of_frames(virtual: VirtualViews, view_blocks: Blocks) -> list[ViewGroup]:
    """Runs of views as long as a view block, shorter where their frames would lie in too many of them."""
    blocks = blocks_of_views(virtual, view_blocks)
    longest, most = view_blocks[0][1] - view_blocks[0][0], _BLOCKS_PER_SLOT * virtual.n_slots
    groups: list[ViewGroup] = []
    start, held = 0, set(blocks[0])
    for view, needed in enumerate(blocks):
        if view - start == longest or len(held | set(needed)) > most:
            groups.append(ViewGroup(start, view, tuple(sorted(held))))
            start, held = view, set()
        held |= set(needed)
    return [*groups, ViewGroup(start, len(blocks), tuple(sorted(held)))]


def blocks_of_views(virtual: VirtualViews, view_blocks: Blocks) -> list[tuple[int, ...]]:
    """View blocks that hold the frames of each view."""
    starts = np.array([start for start, _ in view_blocks])
    places = np.searchsorted(starts, virtual.frame_indices, side="right") - 1
    return [tuple(dict.fromkeys(int(b) for b in row if b >= 0)) for row in places]


def slab_steps(
    setup: SlabSetup, groups: tuple[ViewGroup, ...], batches: tuple[tuple[int, ...], ...], view_blocks: Blocks
) -> tuple[SlabStep, ...]:
    """Return what a slab reads, batch by batch; batches of which it uses no view are left out.

    Parameters
    ----------
    setup : of the slab
    groups : of the volume's views
    batches : places of the groups that are read together
    view_blocks : of the scan
    """
    if setup.virtual is None and setup.view_rows is None:
        rows = setup.band.row_start, setup.band.row_stop
        return tuple(SlabStep(*step, rows) for step in _whole_steps(groups, batches))
    blocks_of = None if setup.virtual is None else blocks_of_views(setup.virtual, view_blocks)
    steps = []
    for batch in batches:
        parts = {place: used for place in batch if (used := groups[place].used(setup)).size}
        if not parts:
            continue
        views = np.concatenate(list(parts.values()))
        if blocks_of is None:
            blocks = tuple(groups[place].blocks[0] for place in parts)
        else:
            blocks = tuple(sorted({block for view in views for block in blocks_of[view]}))
        steps.append(SlabStep(tuple(parts), tuple(parts.values()), blocks, frame_rows(setup, views)))
    return tuple(steps)


@lru_cache(maxsize=8)
def _whole_steps(
    groups: tuple[ViewGroup, ...], batches: tuple[tuple[int, ...], ...]
) -> tuple[tuple[tuple[int, ...], tuple[IndexArray, ...], tuple[int, ...]], ...]:
    """Groups, views and blocks of each batch where every slab uses all views, and views are frames."""
    return tuple(
        (
            batch, tuple(np.arange(groups[place].start, groups[place].stop) for place in batch),
            tuple(groups[place].blocks[0] for place in batch),
        )
        for batch in batches
    )  # fmt: skip


def frames_of_views(setup: SlabSetup, views: IndexArray) -> IndexArray:
    """Return the frames that some views are made of, ascending."""
    if setup.virtual is None:
        return views
    slots = setup.virtual.frame_indices[views]
    return np.unique(slots[slots >= 0])


def frame_rows(setup: SlabSetup, views: IndexArray, band: RowBand | None = None) -> tuple[int, int]:
    """First and end row of the frames that rows of these views (by default those that the slab needs) come from."""
    rows = setup.band_of(views) if band is None else band
    if setup.virtual is None:
        return rows.row_start, rows.row_stop
    # On one circle all batches take the same rows, so that a block that two of them need is read once.
    same = band is None and setup.view_rows is None
    some = setup.views if same else views
    start, stop = setup.virtual.rows_of_frames(some, rows.row_start, rows.row_stop, setup.geometry.n_cols)
    # With a row to spare no pixel's neighbours end where the rows that are read do: values do not hang on the cut.
    return max(0, start - 1), min(setup.virtual.frame_rows, stop + 1)
