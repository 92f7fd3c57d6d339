# SPDX-License-Identifier: Apache-2.0
"""How strong total variation has to be, and how long to iterate, from the line integrals of the middle of a scan.

Total variation must flatten what the data term makes of errors, and no more.  So its weight is proportional to the
standard deviation that errors of the line integrals give one voxel in a pass (the level of noise in the gradient of
the data term: the universal threshold of Giacobino, Sardy, Diaz-Rodriguez and Hengartner 2017).  With N views that see
a voxel, each through the pixels that its sides h cover, a field of diameter D, pixels of pitch t at the axis, and
weights 1 / D, n subsets move a voxel by ``n sigma / (D sqrt(N)) 2/3 t / h``: the squares of Joseph's weights sum
to 2/3 along each side.  ``sigma^2`` is the variance of the noise, measured by second differences, and of what voxels
cannot represent: an edge of height mu that lies anywhere within a voxel is wrong by up to ``mu h``.

A method without total variation fits the noise in the end.  It stops when a pass takes so little away from the
residual that it is the noise that is being fitted.

All slabs of a volume must take the same numbers, so they follow from the volume's middle, never from a slab.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.coverage import projection_matrices
from reconstruction.geometry import Slab
from reconstruction.iterative.parameters import IterativeParameters
from reconstruction.iterative.projectors import open_pair
from reconstruction.iterative.region import Region, make_region
from reconstruction.iterative.solver import solve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid

    Float32Array = NDArray[np.float32]

#: Weight of total variation over the standard deviation that errors give a voxel; flat within half and twice of it.
_OF_ERRORS = 0.65
#: Pixels larger than a voxel weigh on it like pixels of this many voxels at most.
_WIDEST_PIXEL = 1.5
#: Passes after which mu is looked at: enough for its size, too few for noise.
MIDDLE_PASSES = 3
_QUANTILE = 0.995
#: Median of the size of a normal deviate of unit spread.
_MEDIAN_OF_NORMAL = 0.6745
#: Rays that see less than this share of the highest line integral see air.
_AIR = 0.05
#: An update of all views' worth that takes away less than this share of the residual fits noise.
_STALL = 1e-3


@dataclass(frozen=True, slots=True)
class DataScale:
    """What the weight of total variation follows from.

    Attributes
    ----------
    mu : float
        High value of mu in the middle of the volume [1/mm].
    noise : float
        Standard deviation of a line integral [1].
    """

    mu: float
    noise: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """What all slabs of a volume share.

    Attributes
    ----------
    parameters : IterativeParameters
        With the passes to do.
    tv_weight : float
        Weight of total variation in each pass [1/mm]; 0 for none.
    """

    parameters: IterativeParameters
    tv_weight: float


def needs_middle(parameters: IterativeParameters) -> bool:
    """Whether the middle of the volume has a say in how a slab is iterated on."""
    return parameters.iterations is None if parameters.method != "tv" else parameters.tv_strength > 0


def scale_region(geometry: ConeBeamGeometry, grid: VolumeGrid, radius_mm: float | None = None) -> Region:
    """Return the slice in the middle of a volume, whose rows `schedule_of` needs."""
    middle = grid.shape[0] // 2
    return make_region(geometry, grid, Slab(middle, middle + 1), radius_mm=radius_mm, guard_slices=1)


def schedule_of(
    region: Region, lines: Float32Array, parameters: IterativeParameters, backend: str, *, threads: int | None = None
) -> Schedule:
    """Decide weight and passes on the rows of `scale_region`.

    Parameters
    ----------
    region : Region
    lines : (view, col, row) float32
        Line integrals of the region's band.
    parameters : IterativeParameters
    backend : str
    """
    if parameters.method == "tv":
        scale = measure_scale(region, lines, backend, threads=threads)
        return Schedule(parameters, tv_weight(scale, region, parameters))
    if parameters.iterations is not None:
        return Schedule(parameters, 0.0)
    pair = open_pair(backend, region.geometry, region.grid, region.band, threads=threads)
    updates = parameters.subset_count(region.geometry.n_views) * parameters.step
    solution = solve(pair, region, lines, parameters, least_gain=_STALL * updates)
    return Schedule(dataclasses.replace(parameters, iterations=len(solution.residuals)), 0.0)


def measure_scale(region: Region, lines: Float32Array, backend: str, *, threads: int | None = None) -> DataScale:
    """Measure mu and noise on the rows of `scale_region`."""
    pair = open_pair(backend, region.geometry, region.grid, region.band, threads=threads)
    solution = solve(pair, region, lines, IterativeParameters("os-sart", iterations=MIDDLE_PASSES))
    values = region.crop(solution.volume)
    return DataScale(float(np.quantile(values, _QUANTILE)), noise_of(lines))


def noise_of(lines: Float32Array) -> float:
    """Standard deviation of the noise of line integrals, by second differences along columns where there is matter.

    Second differences take smooth shadows away, their median sharp edges (Rank, Lendl and Unbehauen 1999; Immerkaer
    1996 in two dimensions).
    """
    middle = lines[:, 1:-1]
    matter = middle > _AIR * float(lines.max())
    if not matter.any():
        return 0.0
    second = 2 * middle - lines[:, :-2] - lines[:, 2:]
    return float(np.median(np.abs(second[matter]))) / (_MEDIAN_OF_NORMAL * math.sqrt(6.0))


def tv_weight(scale: DataScale, region: Region, parameters: IterativeParameters) -> float:
    """Weight of total variation in each pass [1/mm]; 0 for methods without it."""
    if parameters.method != "tv" or parameters.tv_strength == 0:
        return 0.0
    geometry = region.geometry
    voxel_v, *in_plane = region.grid.voxel_pitch_mm
    voxel_u = min(in_plane)
    at_axis = geometry.sod_mm / geometry.sdd_mm
    pixel_v, pixel_u = (pitch * at_axis for pitch in geometry.pitch_mm)
    pixels = min(pixel_u / voxel_u, _WIDEST_PIXEL) * min(pixel_v / voxel_v, _WIDEST_PIXEL)
    errors = math.hypot(scale.noise, scale.mu * voxel_u)
    of_a_voxel = 2 / 3 * math.sqrt(pixels) * errors / (2 * region.radius_mm * math.sqrt(views_of_the_middle(region)))
    updates = parameters.subset_count(geometry.n_views) * parameters.step
    return parameters.tv_strength * _OF_ERRORS * updates * of_a_voxel


def views_of_the_middle(region: Region) -> int:
    """Views that see the centre of a region."""
    matrices = projection_matrices(region.geometry)
    col, row, depth = (matrices[:, :, :3] @ np.asarray(region.wanted.center_mm) + matrices[:, :, 3]).T
    col, row = col / depth, row / depth
    seen = (depth > 0) & (col >= -0.5) & (col <= region.geometry.n_cols - 0.5) & (row >= -0.5)
    return max(1, int((seen & (row <= region.geometry.n_rows - 0.5)).sum()))
