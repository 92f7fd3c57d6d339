# SPDX-License-Identifier: Apache-2.0
"""The coarse slices that the first stage looks at, to find which range of mu has to be stored."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.fdk import prepare
from reconstruction.geometry import VolumeGrid
from spark_jobs.planning.view_groups import frame_rows, frames_of_views, slab_steps, view_groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ingest.chunks import StoredScan
    from reconstruction.fdk import FdkParameters, SlabSetup
    from reconstruction.geometry import ConeBeamGeometry
    from spark_jobs.planning.view_groups import SlabStep

#: Heights of the slices, as shares of the volume's.
_HEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9)
_MAX_SIDE = 96
_MAX_VIEWS = 180


@dataclass(frozen=True, slots=True)
class CoarseLook:
    """One coarse slice.

    Attributes
    ----------
    setup : its set-up
    frames : (view,) the frame of each view of the set-up, where views are frames
    steps : what is read and added, step by step
    rows : first and end detector row that it reads
    """

    setup: SlabSetup
    frames: NDArray[np.int64] = field(repr=False)
    steps: tuple[SlabStep, ...]
    rows: tuple[int, int]

    @property
    def blocks(self) -> tuple[int, ...]:
        """View blocks, as often as they are read."""
        return tuple(block for step in self.steps for block in step.blocks)

    @property
    def corrected(self) -> NDArray[np.int64]:
        """The frames of the scan that it corrects."""
        views = np.concatenate([step.views for step in self.steps])
        frames = frames_of_views(self.setup, views)
        return self.frames[frames] if self.setup.virtual is None else frames


def coarse_looks(
    stored: StoredScan, geometry: ConeBeamGeometry, grid: VolumeGrid, fdk: FdkParameters, radius_mm: float
) -> tuple[CoarseLook, ...]:
    """Return the slices to look at, from evenly spread views of a full circle, else from all views."""
    frames = _spread_frames(geometry)
    starts = np.array([start for start, _ in stored.view_blocks] + [stored.scan.n_views])
    borders = np.searchsorted(frames, starts).tolist()
    blocks = tuple(itertools.pairwise(borders))
    part = geometry if frames.size == geometry.n_views else geometry.select(frames)
    smooth = replace(fdk, filter_window="hann", cutoff=1.0, field_radius_mm=radius_mm, outside_value=0.0)
    looks = []
    for share in _HEIGHTS:
        setup = prepare(part, _slice_grid(grid, share), smooth, four_fold=False)
        groups = view_groups(setup, blocks)
        steps = slab_steps(setup, groups, tuple((place,) for place in range(len(groups))), blocks)
        looks.append(CoarseLook(setup, frames, steps, frame_rows(setup, setup.views)))
    return tuple(looks)


def _spread_frames(geometry: ConeBeamGeometry) -> NDArray[np.int64]:
    """At most `_MAX_VIEWS` of the views of a full circle; all of any other orbit, whose turns hang together."""
    n_views = geometry.n_views
    step = max(1, n_views // _MAX_VIEWS)
    full = geometry.circular_orbit is not None and geometry.arc_rad > 2 * math.pi * (1 - 1e-6)
    return np.arange(0, n_views, step) if full and n_views % step == 0 else np.arange(n_views)


def _slice_grid(grid: VolumeGrid, share: float) -> VolumeGrid:
    """One slice at a share of the volume's height, with coarse voxels over the same area."""
    nz, ny, nx = grid.shape
    factor = max(1, math.ceil(max(ny, nx) / _MAX_SIDE))
    _, py, px = (pitch * factor for pitch in grid.voxel_pitch_mm)
    z = grid.origin_mm[2] + min(nz - 1, int(share * nz)) * grid.voxel_pitch_mm[0]
    shape = (1, max(1, ny // factor), max(1, nx // factor))
    return VolumeGrid(shape, (grid.voxel_pitch_mm[0], py, px), (grid.center_mm[0], grid.center_mm[1], z))
