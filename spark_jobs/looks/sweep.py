# SPDX-License-Identifier: Apache-2.0
"""One slice again and again with one parameter changed: which value makes it best."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ingest.panel import turn_panel
from reconstruction.binning import binned_geometry
from reconstruction.fdk import prepare, reconstruct_prepared
from spark_jobs.looks.line_integrals import read_look_rows
from spark_jobs.looks.preview import look_grid
from spark_jobs.looks.scores import entropy, grey_range, sharpness
from spark_jobs.planning.plan import geometry_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ingest.chunks import StoredScan
    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
    from spark_jobs.looks.parameters import SweepParameters, Swept


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes
    ----------
    values, scores : one of each for each slice
    best : index of the best
    refined : where a parabola through the best and its neighbours has its top; None at an end, and for names
    slices : (value, y, x) float32
        mu [1/mm].
    grey_range : (low, high) that they are drawn with
    grid : of one slice
    n_views, seconds : used, and taken
    """

    values: tuple[float | str, ...]
    scores: tuple[float, ...]
    best: int
    refined: float | None
    slices: NDArray[np.float32]
    grey_range: tuple[float, float]
    grid: VolumeGrid
    n_views: int
    seconds: float


def sweep(stored: StoredScan, parameters: SweepParameters) -> Sweep:
    """Reconstruct one slice for each value and score it; the rows are read once.

    Raises
    ------
    PlanError, GeometryError, MemoryBudgetError
        As `spark_jobs.looks.preview.preview`.
    """
    started = time.perf_counter()
    grid = look_grid(stored, parameters)
    geometry = geometry_of(stored)
    moved = [changed_geometry(geometry, parameters.parameter, value) for value in parameters.values]
    rows = read_look_rows(stored, parameters, grid, [geometry, *moved])
    slices = []
    for value, changed in zip(parameters.values, moved, strict=True):
        part = binned_geometry(changed.select(rows.views), rows.binning)
        setup = prepare(part, grid, parameters.fdk_of(value))
        volume = reconstruct_prepared(rows.line_integrals, setup, parameters.backend, first_row=rows.first_row)
        slices.append(volume[0])
    low, high = grey_range(slices)
    score = entropy if parameters.score == "entropy" else sharpness
    scores = np.array([score(s, low, high) for s in slices])
    # Both are made so that the lowest is the best.
    signed = scores if parameters.score == "entropy" else -scores
    best = int(np.argmin(signed))
    return Sweep(
        values=parameters.values,
        scores=tuple(float(s) for s in scores),
        best=best,
        refined=_refined(parameters.values, signed, best),
        slices=np.stack(slices),
        grey_range=(low, high),
        grid=grid,
        n_views=rows.n_used,
        seconds=time.perf_counter() - started,
    )


def _refined(values: tuple[float | str, ...], signed: NDArray[np.float64], best: int) -> float | None:
    """Top of the parabola through the best value and its neighbours."""
    if isinstance(values[best], str) or not 0 < best < len(values) - 1:
        return None
    x = np.array([float(values[k]) for k in (best - 1, best, best + 1)])
    if len(set(x.tolist())) < 3:
        return None
    a, b, _ = np.polyfit(x, signed[best - 1 : best + 2], 2)
    if a <= 0:
        return None
    top = -b / (2 * a)
    return float(np.clip(top, x.min(), x.max()))


def changed_geometry(geometry: ConeBeamGeometry, parameter: Swept, value: float | str) -> ConeBeamGeometry:
    """Return the geometry with every panel moved by pixels along its rows or columns, or turned in its plane.

    ``roll-deg`` turns the panel about the foot of the central ray, counter-clockwise as seen from the source.
    """
    if isinstance(value, str) or parameter == "cutoff":
        return geometry
    if parameter == "roll-deg":
        return turn_panel(geometry, math.radians(value))
    along = geometry.poses[:, 6:9] if parameter == "shift-px" else geometry.poses[:, 9:12]
    poses = np.array(geometry.poses)
    poses[:, 3:6] += value * along
    return replace(geometry, poses=poses)
