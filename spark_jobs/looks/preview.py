# SPDX-License-Identifier: Apache-2.0
"""One slice, or the whole volume in coarse voxels, from some of the views: in seconds, without Spark."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconstruction.coverage import field_radius_mm
from reconstruction.fdk import prepare, reconstruct_prepared
from reconstruction.geometry import VolumeGrid
from spark_jobs.errors import PlanError
from spark_jobs.looks.line_integrals import read_look_rows
from spark_jobs.planning.few_views import few_views_note
from spark_jobs.planning.plan import geometry_of, planned_bins, planned_grid, views_per_turn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ingest.chunks import StoredScan
    from reconstruction.geometry import ConeBeamGeometry
    from spark_jobs.looks.parameters import PreviewParameters


@dataclass(frozen=True)
class Preview:
    """What a look shows.

    Attributes
    ----------
    volume : (z, y, x) float32
        mu [1/mm]; one slice, or a coarse volume.
    grid : its voxels
    n_views : views that were used
    binning : pixels of a side that were averaged
    read_bytes : of counts that were read
    seconds : it took
    notes : plain sentences on what limits it
    """

    volume: NDArray[np.float32]
    grid: VolumeGrid
    n_views: int
    binning: int
    read_bytes: int
    seconds: float
    notes: tuple[str, ...]


def preview(stored: StoredScan, parameters: PreviewParameters) -> Preview:
    """Look at a stored scan.

    Raises
    ------
    PlanError
        If the scan has no such bin or lacks flat fields, or the slice lies outside of what the panel sees.
    GeometryError, MemoryBudgetError
        If the scan cannot be reconstructed, or the rows do not fit the memory.
    """
    started = time.perf_counter()
    grid = look_grid(stored, parameters)
    rows = read_look_rows(stored, parameters, grid, [geometry_of(stored)])
    setup = prepare(rows.geometry, grid, parameters.fdk)
    volume = reconstruct_prepared(rows.line_integrals, setup, parameters.backend, first_row=rows.first_row)
    notes = _few_views(rows.geometry, grid, field_radius_mm(grid, parameters.field_radius_mm))
    if rows.geometry.n_views < stored.scan.n_views:
        # Of the turns that the slice has a use for; nobody misses the others.
        every = round(rows.n_used * stored.scan.n_views / rows.geometry.n_views)
        notes += (f"{rows.n_used} of {every} views were used: the job has less streaks",)
    return Preview(volume, grid, rows.n_used, rows.binning, rows.read_bytes, time.perf_counter() - started, notes)


def _few_views(geometry: ConeBeamGeometry, grid: VolumeGrid, radius_mm: float) -> tuple[str, ...]:
    """The note on too few views; voxels smaller than a pixel at the axis show no more than the pixels do."""
    n_views = round(views_per_turn(geometry))
    pixel = geometry.pitch_mm[1] * geometry.sod_mm / geometry.sdd_mm
    if not few_views_note(n_views, radius_mm, max(pixel, grid.voxel_pitch_mm[1])):
        return ()
    return (few_views_note(n_views, radius_mm, grid.voxel_pitch_mm[1]),)


def look_grid(stored: StoredScan, parameters: PreviewParameters) -> VolumeGrid:
    """Return the slice, or the coarse volume, as wide as what the panel sees, or as the field that is asked for.

    Raises
    ------
    PlanError, GeometryError
        If the bin or the slice is not there, or the scan cannot be reconstructed.
    """
    planned_bins(stored, parameters.request)
    whole, _ = planned_grid(stored, parameters.request)
    nz, _, nx = whole.shape
    pitch_z, _, pitch_x = whole.voxel_pitch_mm
    width = nx * pitch_x if parameters.field_radius_mm is None else 2 * parameters.field_radius_mm
    side = parameters.voxels // 2 * 2
    pitch = width / side
    low = whole.center_mm[2] - nz * pitch_z / 2
    high = low + nz * pitch_z
    if parameters.coarse:
        slices = max(1, math.floor((high - low) / pitch + 1e-6))
        return VolumeGrid((slices, side, side), (pitch, pitch, pitch), whole.center_mm)
    z = whole.center_mm[2] if parameters.z_mm is None else parameters.z_mm
    if not low <= z <= high:
        raise PlanError(
            f"the slice at {z:.4g} mm lies outside of what is seen of scan {parameters.scan_id}: {low:.4g} to "
            f"{high:.4g} mm: give a height between these"
        )
    return VolumeGrid((1, side, side), (min(pitch, pitch_z), pitch, pitch), (0.0, 0.0, z))
