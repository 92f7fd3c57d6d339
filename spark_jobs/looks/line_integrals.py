# SPDX-License-Identifier: Apache-2.0
"""Line integrals of some views and rows of a stored scan, averaged over pixels as a look can do with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.bad_pixels import CorrectionParameters
from reconstruction.binning import binned_geometry
from reconstruction.errors import MemoryBudgetError
from reconstruction.fdk import prepare
from spark_jobs.looks.spread_views import spread_views
from spark_jobs.planning.request import MEBIBYTE
from spark_jobs.planning.view_groups import frame_rows, frames_of_views
from spark_jobs.tasks.corrected_rows import RowCorrector, find_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ingest.chunks import StoredScan
    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
    from spark_jobs.looks.parameters import PreviewParameters

_MOST_BINNING = 64


@dataclass(frozen=True)
class LookRows:
    """What a look is made of.

    Attributes
    ----------
    line_integrals : (view, row, col) float32
        Of views that no slice uses nothing is read: zeros, which take no memory.
    geometry : of these views and their averaged pixels, whole panels: an orbit is judged by all of their rows
    first_row : row of these panels that the line integrals begin with
    views : (view,) int64, numbers of the views in the scan
    n_used : views that some slice uses
    binning : pixels of a side that are averaged
    read_bytes : of counts that were read
    """

    line_integrals: NDArray[np.float32]
    geometry: ConeBeamGeometry
    first_row: int
    views: NDArray[np.int64]
    n_used: int
    binning: int
    read_bytes: int


def read_look_rows(
    stored: StoredScan, parameters: PreviewParameters, grid: VolumeGrid, geometries: list[ConeBeamGeometry]
) -> LookRows:
    """Read what the grid's shadow needs of some of the views of each turn, whichever of the geometries counts.

    Parameters
    ----------
    geometries : of all frames; more than one where a sweep moves the panel.  The first is that of the result.

    Raises
    ------
    GeometryError
        If the views cannot be reconstructed on the grid.
    MemoryBudgetError
        If the rows do not fit the memory however many pixels are averaged.
    """
    views = spread_views(geometries[0], parameters.views)
    parts = [geometry.select(views) for geometry in geometries]
    binning = _fitting_binning(parts[0], grid)
    while True:
        setups = [prepare(binned_geometry(part, binning), grid, parameters.fdk, four_fold=False) for part in parts]
        bands = [frame_rows(setup, setup.views) for setup in setups]
        rows = min(start for start, _ in bands), max(stop for _, stop in bands)
        used = np.unique(np.concatenate([frames_of_views(setup, setup.views) for setup in setups]))
        binned = binned_geometry(parts[0], binning)
        needed = used.size * (rows[1] - rows[0]) * binned.n_cols * 4
        if needed <= parameters.memory_bytes:
            break
        if binning >= _MOST_BINNING:
            raise MemoryBudgetError(
                f"a look at scan {stored.scan.scan_id} needs {math.ceil(needed / MEBIBYTE)} MiB of line integrals, but "
                f"{parameters.memory_bytes / MEBIBYTE:.0f} MiB are allowed: take fewer views or a slice instead of a "
                "volume"
            )
        binning *= 2
    lines, read_bytes = _read(stored, parameters.bin, views, used, rows, binned, binning)
    return LookRows(lines, binned, rows[0], views, used.size, binning, read_bytes)


def _fitting_binning(geometry: ConeBeamGeometry, grid: VolumeGrid) -> int:
    """The largest power of two of pixels that one voxel is still as wide as."""
    pixel = geometry.pitch_mm[1] * geometry.sod_mm / geometry.sdd_mm
    binning = 1
    while 2 * binning * pixel <= grid.voxel_pitch_mm[1] and binning < _MOST_BINNING:
        binning *= 2
    return binning


def _read(
    stored: StoredScan,
    bin_index: int,
    views: NDArray[np.int64],
    used: NDArray[np.int64],
    rows: tuple[int, int],
    binned: ConeBeamGeometry,
    binning: int,
) -> tuple[NDArray[np.float32], int]:
    """Read and correct block by block, and keep the views at the places `used`; also the bytes read."""
    correction = CorrectionParameters()
    mask, _ = find_mask(stored, bin_index, correction)
    corrector = RowCorrector(stored, bin_index, mask, correction, *rows, binning=binning)
    kept = np.zeros((len(views), rows[1] - rows[0], binned.n_cols), dtype=np.float32)
    for block, (start, stop) in enumerate(stored.view_blocks):
        places = used[(views[used] >= start) & (views[used] < stop)]
        if places.size:
            kept[places] = corrector.lines_of_frames([corrector.read_block(block)], views[places])
    return kept, corrector.read_bytes
