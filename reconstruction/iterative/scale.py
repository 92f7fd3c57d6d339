# SPDX-License-Identifier: Apache-2.0
"""How strong total variation has to be, from the line integrals of the middle of a scan.

The weight of one pass with n subsets is ``strength n (a mu + b sigma)``: n, since each of the n updates of a pass moves
the volume towards the data as far as one update of SIRT would; mu, the size of what is to be told apart; sigma, the
noise that FBP of these views would have, ``sigma_p pi / (t sqrt(12 N))`` with the pixel pitch t at the axis (Kak and
Slaney 1988, section 5.1.3).  a and b were fitted to phantoms (`docs/iterative.md`).  All slabs of a volume must
take the same weight, so it follows from the volume's middle, never from a slab.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.geometry import Slab, VolumeGrid
from reconstruction.iterative.parameters import IterativeParameters
from reconstruction.iterative.projectors import open_pair
from reconstruction.iterative.region import Region, make_region
from reconstruction.iterative.solver import solve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry

    Float32Array = NDArray[np.float32]

_OF_MU = 4.5e-4
_OF_NOISE = 4e-3
_MOST_VOXELS_OF_A_SIDE = 64
_PASSES = 3
_QUANTILE = 0.995
#: Median of the size of a normal deviate of unit spread.
_MEDIAN_OF_NORMAL = 0.6745
#: Rays that see less than this share of the highest line integral see air.
_AIR = 0.05


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


def scale_region(geometry: ConeBeamGeometry, grid: VolumeGrid, radius_mm: float | None = None) -> Region:
    """Return a coarse slice through the middle of a volume, whose rows `measure_scale` needs."""
    nz, ny, nx = grid.shape
    pz, py, px = grid.voxel_pitch_mm
    factor = max(1, math.ceil(max(ny, nx) / _MOST_VOXELS_OF_A_SIDE))
    cx, cy, _ = grid.center_mm
    z = grid.origin_mm[2] + (nz // 2) * pz
    shape = (1, math.ceil(ny / factor), math.ceil(nx / factor))
    coarse = VolumeGrid(shape, (pz * factor, py * factor, px * factor), (cx, cy, z))
    return make_region(geometry, coarse, Slab(0, 1), radius_mm=radius_mm, guard_slices=1)


def measure_scale(region: Region, lines: Float32Array, backend: str, *, threads: int | None = None) -> DataScale:
    """Measure mu and noise on the rows of `scale_region`.

    Parameters
    ----------
    region : Region
    lines : (view, col, row) float32
        Line integrals of the region's band.
    backend : str
    """
    pair = open_pair(backend, region.geometry, region.grid, region.band, threads=threads)
    solution = solve(pair, region, lines, IterativeParameters("os-sart", iterations=_PASSES))
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


def tv_weight(scale: DataScale, geometry: ConeBeamGeometry, parameters: IterativeParameters) -> float:
    """Weight of total variation in each pass [1/mm]; 0 for methods without it."""
    if parameters.method != "tv" or parameters.tv_strength == 0:
        return 0.0
    at_axis = geometry.pitch_mm[1] * geometry.sod_mm / geometry.sdd_mm
    sigma = scale.noise * math.pi / (at_axis * math.sqrt(12.0 * geometry.n_views))
    n_subsets = parameters.subset_count(geometry.n_views)
    return parameters.tv_strength * n_subsets * (_OF_MU * scale.mu + _OF_NOISE * sigma)
