# SPDX-License-Identifier: Apache-2.0
"""What an operator asks for: one scan, and everything that can be chosen about its reconstruction."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from reconstruction.bad_pixels import CorrectionParameters
from reconstruction.fdk import FdkParameters
from reconstruction.iterative.parameters import IterativeParameters
from spark_jobs.errors import PlanError

Mode = Literal["auto", "fused", "two_stage"]
BandType = Literal["float32", "float16"]
Cut = Literal["auto", "slabs", "bricks"]
Binning = Literal["auto", 1, 2, 4]
MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class ReconstructionRequest:
    """One reconstruction as asked for; None and empty values are decided by the plan.

    Attributes
    ----------
    scan_id : str
    bins : energy bins to reconstruct; empty for all.
    voxel_pitch_mm : side of cubic voxels, or (z, y, x) sides; None takes the pixel pitch at the axis.
    shape, center_mm : (z, y, x) voxels and (x, y, z) middle of the volume; None covers what the panel sees whole.
    fdk, correction : parameters of the kernels.
    backend : a name in `reconstruction.backends.BACKENDS`.
    cut : whole slabs, slabs cut into bricks too, or as the cost says.
    brick_voxels : (y, x) voxels of a brick; None chooses them by cost.
    detector_binning : pixels of a side that are averaged after the logarithm; ``auto`` takes 2 or 4 where a voxel is as
        many pixels large.
    tuning : name of the measured rates to plan with (`spark_jobs.planning.tuning`): ``default`` where there are,
        ``built-in`` for none.
    mode : filter within the slab tasks (``fused``), once before them (``two_stage``), or as the cost says.
    band_type : how ``two_stage`` stores filtered rows.
    n_slabs, slab_slices : cut the volume into so many slabs, or slabs so high; None cuts by memory.
    four_fold : use the kernel for four views a quarter turn apart where it is exact.
    mu_range : mu that has to be stored without clipping [1/mm]; None estimates it from coarse slices.
    task_memory_bytes : what one task may use at its peak.
    gpu_memory_bytes : what one task has of a GPU; slabs and bricks are cut so that they fit.  None: not known.
    run_id : any text makes a second result of the same parameters.
    iterative : an iterative method and its settings; None for FDK.
    """

    scan_id: str
    bins: tuple[int, ...] = ()
    voxel_pitch_mm: float | tuple[float, float, float] | None = None
    shape: tuple[int, int, int] | None = None
    center_mm: tuple[float, float, float] | None = None
    fdk: FdkParameters = field(default_factory=FdkParameters)
    correction: CorrectionParameters = field(default_factory=CorrectionParameters)
    backend: str = "numba"
    mode: Mode = "auto"
    band_type: BandType = "float32"
    n_slabs: int | None = None
    slab_slices: int | None = None
    four_fold: bool = True
    mu_range: tuple[float, float] | None = None
    task_memory_bytes: int = 2048 * MEBIBYTE
    run_id: str = ""
    cut: Cut = "auto"
    brick_voxels: tuple[int, int] | None = None
    detector_binning: Binning = 1
    tuning: str = "default"
    iterative: IterativeParameters | None = None
    gpu_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise PlanError(f"unknown mode '{self.mode}': expected one of {', '.join(get_args(Mode))}")
        if self.band_type not in get_args(BandType):
            raise PlanError(f"unknown band type '{self.band_type}': expected one of {', '.join(get_args(BandType))}")
        if self.cut not in get_args(Cut):
            raise PlanError(f"unknown cut '{self.cut}': expected one of {', '.join(get_args(Cut))}")
        if self.detector_binning not in get_args(Binning):
            raise PlanError(f"detector_binning must be auto, 1, 2 or 4, got {self.detector_binning}")
        if self.cut == "bricks" and self.mode == "fused":
            raise PlanError("bricks read rows that were filtered before: take the mode two_stage or auto")
        if self.brick_voxels is not None and (self.cut != "bricks" or min(self.brick_voxels) < 1):
            raise PlanError(f"a brick's size needs the cut 'bricks' and sides of at least 1, got {self.brick_voxels}")
        if self.n_slabs is not None and self.slab_slices is not None:
            raise PlanError("give the number of slabs or their height, not both")
        if self.mu_range is not None and not self.mu_range[0] < self.mu_range[1]:
            raise PlanError(f"the mu range needs low < high, got {self.mu_range[0]} to {self.mu_range[1]}")
        if self.mu_range is not None and not all(math.isfinite(mu) for mu in self.mu_range):
            raise PlanError(f"the mu range needs finite numbers, got {self.mu_range[0]} to {self.mu_range[1]}")
        if self.mu_range is not None and not self.mu_range[0] <= self.fdk.outside_value <= self.mu_range[1]:
            raise PlanError(
                f"the value outside the field, {self.fdk.outside_value:g} /mm, is not in the stored range of mu, "
                f"{self.mu_range[0]:g} to {self.mu_range[1]:g}: give a range that holds it"
            )
        if len(set(self.bins)) != len(self.bins):
            raise PlanError(f"each bin can be asked for once, got {', '.join(map(str, self.bins))}")
        if self.gpu_memory_bytes is not None and self.gpu_memory_bytes < 1:
            raise PlanError(f"a GPU needs some memory, got {self.gpu_memory_bytes} bytes")
        if len(self.run_id) > 64:
            raise PlanError(f"a run id has at most 64 characters, got {len(self.run_id)}")

    @property
    def pitch_zyx_mm(self) -> tuple[float, float, float] | None:
        """Sides of a voxel; None for the pixel pitch at the axis."""
        pitch = self.voxel_pitch_mm
        return (pitch, pitch, pitch) if isinstance(pitch, int | float) else pitch

    def to_json(self) -> dict[str, Any]:
        """JSON values of all fields."""
        return asdict(self)


def request_from_json(values: dict[str, Any]) -> ReconstructionRequest:
    """Make a request from what `ReconstructionRequest.to_json` gave, after a trip through JSON."""
    known = dict(values)
    known["fdk"] = FdkParameters(**known["fdk"])
    known["correction"] = CorrectionParameters(**known["correction"])
    if known["iterative"] is not None:
        known["iterative"] = IterativeParameters(**known["iterative"])
    for name in ("bins", "shape", "center_mm", "mu_range", "brick_voxels"):
        if known[name] is not None:
            known[name] = tuple(known[name])
    if isinstance(known["voxel_pitch_mm"], list):
        known["voxel_pitch_mm"] = tuple(known["voxel_pitch_mm"])
    return ReconstructionRequest(**known)
