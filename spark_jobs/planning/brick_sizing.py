# SPDX-License-Identifier: Apache-2.0
"""How large bricks are: as asked, or the ones that cost least of those that fit the memory."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from reconstruction.backends.device_memory import MOST_VIEWS
from reconstruction.errors import MemoryBudgetError
from reconstruction.slabs import cut_slabs, slabs_of_height
from spark_jobs.planning.brick_cut import cut_area
from spark_jobs.planning.brick_traffic import brick_setup, largest_window, sampled_bricks
from spark_jobs.planning.gpu_memory import slab_on_gpu
from spark_jobs.planning.sizing import MIN_SLAB_SLICES, Sizing, sized_stages, slab_alignment
from spark_jobs.planning.stage_costs import WorkCut, plan_cost
from spark_jobs.planning.task_memory import BASE_BYTES, assemble_task_bytes, brick_task_bytes, encoding_bytes

if TYPE_CHECKING:
    from reconstruction.backends.device_memory import DeviceCost
    from reconstruction.fdk import SlabSetup
    from reconstruction.geometry import Slab
    from spark_jobs.planning.brick_cut import BrickCut

#: Views of a block that go into the back-projection together.
BRICK_BATCH_VIEWS = 32
#: Parts of a side that are tried.
_PARTS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
#: Windows looked at for each candidate; the chosen one is counted with more of them.
_QUICK_WINDOWS = 400


def bricks_work(sizing: Sizing, whole: SlabSetup) -> WorkCut:
    """Cut slabs into bricks.

    Raises
    ------
    MemoryBudgetError
        If no brick fits the memory.
    """
    plain = dataclasses.replace(whole, quarter=None, kernel="upright" if whole.quarter is not None else whole.kernel)
    least = encoding_bytes(whole.grid, sizing.slices(whole.grid)) + BASE_BYTES
    sizing.require(least, "the encoding of slices", "take coarser voxels, a smaller volume or more memory")
    candidates = [work for work in _candidates(sizing, plain) if work is not None]
    if not candidates:
        raise MemoryBudgetError(
            f"no brick of the volume of scan {sizing.stored.scan.scan_id} fits the {sizing.memory_bytes / 2**20:.0f} "
            f"MiB that a task may use{_gpu_words(sizing)}: take coarser voxels, a smaller volume or more memory"
        )
    work = min(candidates, key=lambda each: plan_cost(each, sizing.rates, most_windows=_QUICK_WINDOWS).core_seconds)
    assert work.bricks is not None
    assembling = _assembling_bytes(sizing, whole, work.bricks)
    sizes = {"bricks": _largest_task(sizing, work.setups, work.bricks), "assemble": assembling}
    on_gpu = sizing.gpu_bytes(_on_gpu(sizing, work.setups, work.bricks), MOST_VIEWS)
    return sized_stages(sizing, dataclasses.replace(work, gpu_bytes={"bricks": on_gpu}), sizes)


def _candidates(sizing: Sizing, whole: SlabSetup) -> list[WorkCut | None]:
    """Bricks of several sizes, each as high as fits the memory; None where none fits."""
    _, ny, nx = whole.grid.shape
    wanted = sizing.request.brick_voxels
    if wanted is not None:
        parts = [(math.ceil(ny / min(ny, wanted[0])), math.ceil(nx / min(nx, wanted[1])))]
    else:
        parts = [(n, n) for n in _PARTS if min(ny, nx) >= 16 * n] or [(2, 2)]
    return [_highest(sizing, whole, *each) for each in parts]


def _highest(sizing: Sizing, whole: SlabSetup, n_y: int, n_x: int) -> WorkCut | None:
    """Bricks of so many parts of a slice, as high as fits."""
    cut = cut_area(whole.grid, whole.radius_mm, n_y, n_x, whole.ramp.n_out)
    request, alignment, n_slices = sizing.request, slab_alignment(whole.grid), whole.grid.shape[0]
    if request.n_slabs is not None:
        return _fitting(sizing, whole, cut, cut_slabs(n_slices, request.n_slabs, alignment))
    if request.slab_slices is not None:
        return _fitting(sizing, whole, cut, slabs_of_height(n_slices, request.slab_slices, alignment))
    side = max(max(area.shape) for area in cut.areas)
    # Not higher than wide, by much: tall bricks read the rows of a steep cone in vain.
    height = max(alignment, min(n_slices, max(MIN_SLAB_SLICES, 2 * side)) // alignment * alignment)
    while height >= alignment:
        work = _fitting(sizing, whole, cut, cut_slabs(n_slices, math.ceil(n_slices / height), alignment))
        if work is not None:
            return work
        height = height // 2 // alignment * alignment
    return None


def _fitting(sizing: Sizing, whole: SlabSetup, cut: BrickCut, slabs: tuple[Slab, ...]) -> WorkCut | None:
    """The work of these bricks, if they fit the memory."""
    setups = tuple(sizing.setup(whole, slab) for slab in slabs)
    if _assembling_bytes(sizing, whole, cut) > sizing.memory_bytes:
        return None
    if not all(sizing.fits_gpu(cost, 1) for cost in _on_gpu(sizing, setups, cut)):
        return None
    if _largest_task(sizing, setups, cut, most=_QUICK_WINDOWS) > sizing.memory_bytes:
        return None
    return dataclasses.replace(sizing.work(setups, two_stage=True), bricks=cut)


def _on_gpu(sizing: Sizing, setups: tuple[SlabSetup, ...], cut: BrickCut) -> list[DeviceCost]:
    """What the largest brick of each slab takes of a GPU; nothing to look at where the plan knows none."""
    if sizing.request.gpu_memory_bytes is None:
        return []
    largest = max(cut.areas, key=lambda area: area.shape[0] * area.shape[1])
    return [slab_on_gpu(dataclasses.replace(setup, quarter=None), sizing.backend, largest) for setup in setups]


def _gpu_words(sizing: Sizing) -> str:
    """The memory of a GPU that bricks have to fit too, where one is stated."""
    memory = sizing.request.gpu_memory_bytes
    return "" if memory is None else f" and the {memory / 2**20:.0f} MiB that it has of a GPU"


def _assembling_bytes(sizing: Sizing, whole: SlabSetup, cut: BrickCut) -> int:
    """Peak memory of a task that puts slices together [B]."""
    slices = sizing.slices(whole.grid)
    return max(assemble_task_bytes(whole.grid, slices, *area.shape) for area in cut.areas)


def _largest_task(sizing: Sizing, setups: tuple[SlabSetup, ...], cut: BrickCut, *, most: int | None = None) -> int:
    """Peak memory of the largest brick task [B]."""
    windows = {} if most is None else {"most": most}
    window = largest_window(sizing.groups, setups, cut, **windows)
    some = sampled_bricks(setups, cut, len(sizing.groups), 400)
    return max(
        brick_task_bytes(
            sizing.groups, brick_setup(setups, cut, index), window, backend=sizing.backend,
            batch_views=BRICK_BATCH_VIEWS, band_item_bytes=sizing.item_bytes,
        )
        for index in some
    )  # fmt: skip
