# SPDX-License-Identifier: Apache-2.0
"""How many views a device holds at a time: decided before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from reconstruction.errors import MemoryBudgetError

#: Views in one launch, at most: more would only take memory.
MOST_VIEWS = 128
#: Share of the free memory that is used; the rest is for the driver and for fragmentation.
_USABLE = 0.9


@dataclass(frozen=True, slots=True)
class DeviceCost:
    """What a slab takes on a device [bytes].

    Attributes
    ----------
    slice_bytes : one slice of the slab, which is held whole
    n_slices : of the slab
    fixed_bytes : filter, tables, output buffers
    view_bytes : each view of a batch: two slots of rows, the columns that are read, textures
    """

    slice_bytes: int
    n_slices: int
    fixed_bytes: int
    view_bytes: int


def views_that_fit(cost: DeviceCost, free_bytes: int, device: str) -> int:
    """Views of a batch, at most `MOST_VIEWS`.

    Raises
    ------
    MemoryBudgetError
        If not even one view fits beside the slab: with the slices that would.
    """
    usable = int(free_bytes * _USABLE) - cost.fixed_bytes
    fits = (usable - cost.slice_bytes * cost.n_slices) // cost.view_bytes
    if fits >= 1:
        return min(MOST_VIEWS, fits)
    needed = cost.slice_bytes * cost.n_slices + cost.fixed_bytes + cost.view_bytes
    slices = (usable - cost.view_bytes) // cost.slice_bytes
    advice = f"cut slabs of at most {slices} slices" if slices >= 1 else "cut bricks, or take larger voxels"
    raise MemoryBudgetError(
        f"a slab of {cost.n_slices} slices needs {needed / 1e9:.3g} GB on {device}, of whose {free_bytes / 1e9:.3g} GB "
        f"free {_USABLE:.0%} are used: {advice}"
    )
