# SPDX-License-Identifier: Apache-2.0
"""What a preview and a sweep are asked for: parameters of their kinds of jobs, as plain JSON values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from reconstruction.fdk import FdkParameters
from spark_jobs.errors import PlanError
from spark_jobs.planning.request import MEBIBYTE, ReconstructionRequest

#: What a sweep can change: the panel's place and turn, or the filter.
Swept = Literal["shift-px", "shift-v-px", "roll-deg", "cutoff", "filter"]
Score = Literal["entropy", "sharpness"]
MOST_VALUES = 64


@dataclass(frozen=True, slots=True)
class PreviewParameters:
    """A quick look at a stored scan.

    Attributes
    ----------
    scan_id : id of a stored scan
    bin : energy bin, from 0
    coarse : the whole volume in coarse voxels instead of one slice
    z_mm : height of the slice [mm]; None for the middle of what the panel sees
    voxels : across the field, of the slice or of the coarse volume
    views : at most so many of each turn, evenly spread; of turns that no slice sees none is read
    filter_window, cutoff, field_radius_mm : as in `reconstruction.fdk.FdkParameters`
    backend : its name
    memory_bytes : what line integrals may take at a time [B]
    """

    scan_id: str
    bin: int = 0
    coarse: bool = False
    z_mm: float | None = None
    voxels: int = 256
    views: int = 180
    filter_window: str = "hann"
    cutoff: float = 1.0
    field_radius_mm: float | None = None
    backend: str = "numba"
    memory_bytes: int = 1024 * MEBIBYTE

    def __post_init__(self) -> None:
        if not self.scan_id:
            raise PlanError("a look needs the id of a stored scan, got none")
        if not 8 <= self.voxels <= 4096:
            raise PlanError(f"a look has 8 to 4096 voxels across, got {self.voxels}")
        if self.views < 3:
            raise PlanError(f"a look needs at least 3 views, got {self.views}")
        if self.z_mm is not None and (self.coarse or not math.isfinite(self.z_mm)):
            raise PlanError(f"the height of a slice is a number of mm, and a coarse volume has none, got {self.z_mm}")
        if self.memory_bytes < MEBIBYTE:
            raise PlanError(f"a look needs at least 1 MiB for line integrals, got {self.memory_bytes} bytes")
        _ = self.fdk

    @property
    def fdk(self) -> FdkParameters:
        """How the rows are filtered."""
        return FdkParameters(self.filter_window, self.cutoff, self.field_radius_mm)

    @property
    def request(self) -> ReconstructionRequest:
        """The reconstruction that is looked at."""
        return ReconstructionRequest(self.scan_id, bins=(self.bin,), fdk=self.fdk)


@dataclass(frozen=True, slots=True)
class SweepParameters(PreviewParameters):
    """One slice again and again, with one parameter changed each time.

    Attributes
    ----------
    parameter : ``shift-px`` and ``shift-v-px`` move the panel along its rows and columns by pixels, ``roll-deg`` turns
        it in its plane, ``cutoff`` and ``filter`` are the filter's
    values : numbers, or names of filter windows
    score : ``entropy`` of the grey values (the lower, the better) or ``sharpness`` of edges (the higher, the better)
    """

    parameter: Swept = "shift-px"
    values: tuple[float | str, ...] = ()
    score: Score = "entropy"

    def __post_init__(self) -> None:
        PreviewParameters.__post_init__(self)
        if self.parameter not in get_args(Swept):
            raise PlanError(f"unknown parameter '{self.parameter}': expected one of {', '.join(get_args(Swept))}")
        if self.score not in get_args(Score):
            raise PlanError(f"unknown score '{self.score}': expected one of {', '.join(get_args(Score))}")
        if self.coarse:
            raise PlanError("a sweep is of one slice: give its height, not a coarse volume")
        if not 2 <= len(self.values) <= MOST_VALUES:
            raise PlanError(f"a sweep has 2 to {MOST_VALUES} values, got {len(self.values)}")
        names = self.parameter == "filter"
        for value in self.values:
            if isinstance(value, str) != names or (not isinstance(value, str) and not math.isfinite(value)):
                expected = "names of filter windows" if names else "numbers"
                raise PlanError(f"a sweep of {self.parameter} takes {expected}, got '{value}'")
        for value in self.values:
            self.fdk_of(value)

    def fdk_of(self, value: float | str) -> FdkParameters:
        """How the rows are filtered for one value."""
        window = str(value) if self.parameter == "filter" else self.filter_window
        cutoff = float(value) if self.parameter == "cutoff" else self.cutoff
        return FdkParameters(window, cutoff, self.field_radius_mm)
