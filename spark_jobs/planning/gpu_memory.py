# SPDX-License-Identifier: Apache-2.0
"""What tasks take of a GPU's memory, where a plan is told how much of it there is.

The back end ``cupy`` sizes itself by the same functions (`reconstruction.backends.device_sizes`); a plan for another
back end counts as one for it, since that is what runs on a described cluster with GPUs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reconstruction.backends.device_filter import CHUNK_VALUES
from reconstruction.backends.device_memory import MOST_VIEWS, USABLE, fitting_views
from reconstruction.backends.device_sizes import SlabSizes, cufft_bytes, filter_cost

if TYPE_CHECKING:
    from reconstruction.backends.device_memory import DeviceCost
    from reconstruction.bricks import Area
    from reconstruction.fdk import SlabSetup

#: Driver, kernels and libraries of one process on a card, before its first buffer (assumed: no card was at hand).
CONTEXT_BYTES = 768 << 20
#: CUDA and its libraries in the memory of the host (assumed as well).
HOST_BYTES = 512 << 20


def on_gpu(backend: str) -> bool:
    """Whether a back end holds slabs on a GPU, by its own buffers."""
    return backend.startswith("cupy")


def usable_bytes(gpu_memory_bytes: int) -> int:
    """What a task may fill of so much memory of a GPU [B]."""
    return max(0, int((gpu_memory_bytes - CONTEXT_BYTES) * USABLE))


def slab_sizes(setup: SlabSetup, backend: str, area: Area | None = None) -> SlabSizes:
    """Sizes of the buffers of a slab or brick; whether views are read through textures turns out on the card."""
    return SlabSizes(setup if area is None else replace(setup, area=area), "float16" in backend, layered=True)


def slab_on_gpu(setup: SlabSetup, backend: str, area: Area | None = None) -> DeviceCost:
    """What a slab, or a brick of it, takes."""
    return slab_sizes(setup, backend, area).cost(cufft_bytes, CHUNK_VALUES)


def rows_on_gpu(setup: SlabSetup, n_rows: int) -> DeviceCost:
    """What a filter task takes."""
    return filter_cost(setup, n_rows, cufft_bytes, CHUNK_VALUES)


def task_gpu_bytes(cost: DeviceCost, n_views: int, gpu_memory_bytes: int) -> int:
    """What a task takes of a GPU [B]: with as many views in a batch as fit, one at least, and no more than it has."""
    views = min(n_views, fitting_views(cost, gpu_memory_bytes - CONTEXT_BYTES))
    return CONTEXT_BYTES + cost.bytes_with(max(1, views))


def host_bytes(setup: SlabSetup, backend: str, area: Area | None = None) -> int:
    """What a slab's task takes of the host for its GPU [B]: page-locked memory, CUDA and its libraries."""
    return HOST_BYTES + slab_sizes(setup, backend, area).pinned_bytes(min(MOST_VIEWS, setup.views.size))
