# SPDX-License-Identifier: Apache-2.0
"""Compare a reconstruction of the sample scan with what the sample was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.phantom import Phantom, sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_samples.make_sample import SampleTruth
    from reconstruction.geometry import VolumeGrid

#: Allowed deviation of a region's mean.  Bone hardens the beam, most in the low bin: no correction undoes that yet.
TOLERANCE = {"water": 0.03, "iodine solution": 0.03, "bone": 0.10}
#: Voxels that are peeled off a region, so that no edge is averaged in.
_MARGIN_VOXELS = 3


@dataclass(frozen=True, slots=True)
class RegionComparison:
    """One material in one energy bin: mean mu [1/mm] in its inserts, the truth, and whether they agree."""

    material: str
    bin_index: int
    n_voxels: int
    mean_per_mm: float
    truth_per_mm: float
    tolerance: float

    @property
    def deviation(self) -> float:
        """Relative deviation from the truth."""
        return self.mean_per_mm / self.truth_per_mm - 1

    @property
    def agrees(self) -> bool:
        """Whether it is within the tolerance."""
        return abs(self.deviation) <= self.tolerance


def compare_regions(
    truth: SampleTruth, grid: VolumeGrid, volume: NDArray[np.floating[Any]], bin_index: int
) -> list[RegionComparison]:
    """Compare the mean of each material's inserts with the truth.

    Places count: a mirrored or turned volume has other materials where the inserts should be.

    Parameters
    ----------
    truth : SampleTruth
    grid : VolumeGrid
        Of `volume`.
    volume : (z, y, x) float
        mu [1/mm] of one energy bin.
    bin_index : int
    """
    found = []
    for material, phantom in truth.phantom.parts:
        region = _inner_region(phantom, grid)
        if region.any():
            expected = float(truth.mu_in_specimen_per_mm[material.name][bin_index])
            mean = float(volume[region].mean())
            tolerance = TOLERANCE[material.name]
            found.append(RegionComparison(material.name, bin_index, int(region.sum()), mean, expected, tolerance))
    return found


def _inner_region(phantom: Phantom, grid: VolumeGrid) -> NDArray[np.bool_]:
    """Voxels (z, y, x) of a material, peeled by a few voxels."""
    region = sample(phantom, grid) > 0.99
    for _ in range(_MARGIN_VOXELS):
        peeled = region.copy()
        for axis in range(3):
            for step in (1, -1):
                peeled &= np.roll(region, step, axis=axis)
        region = peeled
    return region
