# SPDX-License-Identifier: Apache-2.0
"""How many views a device holds at a time: decided before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from reconstruction.errors import MemoryBudgetError

#: Views in one launch, at most: more would only take memory.
MOST_VIEWS = 128
#: Share of the free memory that is used; the rest is for the driver and for fragmentation.
USABLE = 0.9


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

    def bytes_with(self, n_views: int) -> int:
        """All that it takes with so many views in a batch."""
        return self.slice_bytes * self.n_slices + self.fixed_bytes + n_views * self.view_bytes


def fitting_views(cost: DeviceCost, free_bytes: int) -> int:
    """Views of a batch that fit, at most `MOST_VIEWS`; 0 if none does."""
    return max(0, min(MOST_VIEWS, (int(free_bytes * USABLE) - cost.bytes_with(0)) // cost.view_bytes))


def views_that_fit(cost: DeviceCost, free_bytes: int, device: str) -> int:
    """Views of a batch, at most `MOST_VIEWS`.

    Raises
    ------
    MemoryBudgetError
        If not even one view fits beside the slab: with the slices that would.
    """
    fits = fitting_views(cost, free_bytes)
    if fits >= 1:
        return fits
    usable = int(free_bytes * USABLE) - cost.fixed_bytes
    needed = cost.bytes_with(1)
    if not cost.n_slices:
        raise MemoryBudgetError(
            f"the rows of one view need {needed / 1e9:.3g} GB on {device}, of whose {free_bytes / 1e9:.3g} GB free "
            f"{USABLE:.0%} are used: cut thinner slabs"
        )
    slices = (usable - cost.view_bytes) // cost.slice_bytes
    advice = f"cut slabs of at most {slices} slices" if slices >= 1 else "cut bricks, or take larger voxels"
    raise MemoryBudgetError(
        f"a slab of {cost.n_slices} slices needs {needed / 1e9:.3g} GB on {device}, of whose {free_bytes / 1e9:.3g} GB "
        f"free {USABLE:.0%} are used: {advice}"
    )
