# SPDX-License-Identifier: Apache-2.0
"""What one core does in a second: the rates that a plan's expected time, and the choice between its ways, go by."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_REFERENCE_UPDATES_PER_S = 0.026e9
#: Voxel updates per second by back end and kernel, ``back end/kernel``.
_UPDATES_PER_S = {
    "numba-avx512/four_fold": 4.0e9,
    "numba-avx512/upright": 2.2e9,
    "numba-avx2/four_fold": 2.6e9,
    "numba-avx2/upright": 1.7e9,
    "numba-portable/four_fold": 1.0e9,
    "numba-portable/upright": 0.88e9,
    "numba-avx512/any_pose": 0.39e9,
    "numba-avx2/any_pose": 0.32e9,
    "numba-portable/any_pose": 0.25e9,
    # The projectors of iterative methods.
    "numba-avx512/joseph_upright": 0.77e9,
    "numba-avx2/joseph_upright": 0.5e9,
    "numba-portable/joseph_upright": 0.24e9,
    "numba-avx512/joseph_any_pose": 0.12e9,
    "numba-avx2/joseph_any_pose": 0.12e9,
    "numba-portable/joseph_any_pose": 0.12e9,
    "numpy_reference/joseph_upright": 1e6,
    "numpy_reference/joseph_any_pose": 1e6,
}


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of one core.

    The defaults are those of a 2023 server (AVX-512, local disk) as `benchmarks/plan_rates.py` measured them.

    Attributes
    ----------
    name : "built-in", or that of the tuning they were measured in
    read_bytes_per_s : projections from the store to (view, row, col), as unpacked pixels
    correct_pixels_per_s : fields, bad pixels, logarithm
    filter_pixels_per_s : weights and ramp, mean of pixels in and out
    resample_pixels_per_s : pixels of views that are resampled from tilted or merged frames, times the frames of a view
    store_bytes_per_s : filtered rows and bricks to the store
    band_bytes_per_s : filtered rows and bricks from the store
    encode_voxels_per_s : slices taken out, digested, encoded, packed
    task_overhead_s : Spark, opening the run and making weights, for each task
    updates_per_s : voxel updates by ``back end/kernel``
    height_factors : share of `updates_per_s` that slabs of so many slices reach, by height as text; none for 1
    batch_views : views that are best added together; 0 for as many as usual
    """

    name: str = "built-in"
    read_bytes_per_s: float = 390e6
    correct_pixels_per_s: float = 360e6
    filter_pixels_per_s: float = 100e6
    resample_pixels_per_s: float = 145e6
    store_bytes_per_s: float = 600e6
    band_bytes_per_s: float = 800e6
    encode_voxels_per_s: float = 38e6
    task_overhead_s: float = 0.25
    updates_per_s: Mapping[str, float] = field(default_factory=lambda: dict(_UPDATES_PER_S))

    height_factors: Mapping[str, float] = field(default_factory=dict)
    batch_views: int = 0

    def updates(self, backend: str, kernel: str) -> float:
        """Voxel updates per second of a back end's kernel; built-in where none was measured, else the reference's."""
        name = f"{backend}/{kernel}"
        return self.updates_per_s.get(name, _UPDATES_PER_S.get(name, _REFERENCE_UPDATES_PER_S))

    def height_factor(self, n_slices: int) -> float:
        """Share of that rate which a slab of so many slices reaches: that of the nearest lower height measured."""
        known = sorted((int(height), factor) for height, factor in self.height_factors.items())
        reached = [factor for height, factor in known if height <= n_slices] or [factor for _, factor in known[:1]]
        return reached[-1] if reached else 1.0

    def to_json(self) -> dict[str, Any]:
        """JSON values of all fields."""
        return asdict(self)


BUILT_IN = Rates()
