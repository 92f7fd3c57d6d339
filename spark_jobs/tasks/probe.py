# SPDX-License-Identifier: Apache-2.0
"""A look at a few coarse slices before the job: which range of mu has to be stored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.backends import load_backend
from reconstruction.fdk import FdkParameters, prepare
from reconstruction.geometry import Slab, VolumeGrid
from reconstruction.slabs import row_band
from spark_jobs.tasks.corrected_rows import RowCorrector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ingest.chunks import StoredScan
    from reconstruction.bad_pixels import CorrectionParameters
    from reconstruction.geometry import ConeBeamGeometry
    from reconstruction.slabs import RowBand

#: Heights of the slices, as shares of the volume's.
_HEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9)
_MAX_SIDE = 96
_MAX_VIEWS = 180
#: The stored range in units of the largest value seen: noise and small dense parts need room.
_LOW, _HIGH = -1.0, 4.0


def probe_mu_range(
    stored: StoredScan,
    geometry: ConeBeamGeometry,
    grid: VolumeGrid,
    bin_index: int,
    mask: NDArray[np.bool_],
    correction: CorrectionParameters,
    radius_mm: float,
    backend: str,
    folder: str | None = None,
) -> tuple[float, float]:
    """Return (low, high) of mu [1/mm] to store one bin with, from five coarse slices; the same on every run."""
    views = _spread_views(stored)
    part = geometry.select(views)
    values = [
        _coarse_slice(
            stored, part, views, _slice_grid(grid, share), bin_index, mask, correction, radius_mm, backend, folder
        )
        for share in _HEIGHTS
    ]
    top = float(np.quantile(np.concatenate([np.abs(v).ravel() for v in values]), 0.9999))
    # Two significant digits: the range then does not hang on the last bit of a coarse voxel.
    top = max(top, 1e-6)
    step = 10.0 ** (math.floor(math.log10(top)) - 1)
    top = math.ceil(top / step) * step
    return _LOW * top, _HIGH * top


def probe_rows(
    stored: StoredScan, geometry: ConeBeamGeometry, grid: VolumeGrid, radius_mm: float
) -> tuple[tuple[RowBand, int], ...]:
    """Return the detector rows that each of the coarse slices needs, and of how many view blocks."""
    parts = [_slice_grid(grid, share) for share in _HEIGHTS]
    views = set(_spread_views(stored).tolist())
    n_blocks = sum(1 for start, stop in stored.view_blocks if views & set(range(start, stop)))
    return tuple((row_band(geometry, part, Slab(0, 1), radius_mm), n_blocks) for part in parts)


def _spread_views(stored: StoredScan) -> NDArray[np.int64]:
    """Evenly spread views, at most `_MAX_VIEWS`."""
    n_views = stored.scan.n_views
    step = max(1, n_views // _MAX_VIEWS)
    return np.arange(0, n_views // step * step, step) if n_views % step == 0 else np.arange(n_views)


def _slice_grid(grid: VolumeGrid, share: float) -> VolumeGrid:
    """One slice at a share of the volume's height, with coarse voxels over the same area."""
    nz, ny, nx = grid.shape
    factor = max(1, math.ceil(max(ny, nx) / _MAX_SIDE))
    _, py, px = (pitch * factor for pitch in grid.voxel_pitch_mm)
    z = grid.origin_mm[2] + min(nz - 1, int(share * nz)) * grid.voxel_pitch_mm[0]
    shape = (1, max(1, ny // factor), max(1, nx // factor))
    return VolumeGrid(shape, (grid.voxel_pitch_mm[0], py, px), (grid.center_mm[0], grid.center_mm[1], z))


def _coarse_slice(
    stored: StoredScan,
    geometry: ConeBeamGeometry,
    views: NDArray[np.int64],
    grid: VolumeGrid,
    bin_index: int,
    mask: NDArray[np.bool_],
    correction: CorrectionParameters,
    radius_mm: float,
    backend: str,
    folder: str | None,
) -> NDArray[np.float32]:
    """Reconstruct one coarse slice from some of the views."""
    setup = prepare(geometry, grid, FdkParameters("hann", 1.0, radius_mm), four_fold=False)
    accumulator = load_backend(backend).start(setup, threads=1)
    rows = setup.band.row_start, setup.band.row_stop
    corrector = RowCorrector(stored, bin_index, mask, correction, *rows, folder=folder)
    place = {int(view): index for index, view in enumerate(views)}
    for block_index, (start, stop) in enumerate(stored.view_blocks):
        wanted = [view for view in range(start, stop) if view in place]
        if wanted:
            lines, _ = corrector.line_integrals([corrector.read_block(block_index)], 0, stop - start)
            taken = np.ascontiguousarray(lines[[view - start for view in wanted]])
            accumulator.add(taken, np.array([place[view] for view in wanted]))
    return accumulator.read_slices(0, 1)
