# SPDX-License-Identifier: Apache-2.0
"""The kinds of jobs that Spark works off: their parameters and what they need; who submits them needs no Spark.

What runs them is in `spark_jobs.running.kind_runs`, named by import path and loaded by the runner alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from jobs.kinds import JobKind, kinds_by_name
from jobs.records import Resources
from reconstruction.bad_pixels import CorrectionParameters
from reconstruction.fdk import FdkParameters
from reconstruction.iterative.parameters import iterative_parameters, method_values
from spark_jobs.errors import PlanError
from spark_jobs.planning.request import MEBIBYTE, BandType, Binning, Cut, Mode, ReconstructionRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Back ends whose every task holds a GPU while it computes.
GPU_BACKENDS = ("cupy", "astra")
_FDK_NAMES = (
    "filter_window", "cutoff", "field_radius_mm", "redundancy", "outside_value", "truncation_padding", "tilted",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlanParameters:
    """One scan and how to reconstruct it, as plain JSON values; None and empty values are decided by the plan.

    Attributes
    ----------
    scan_id : id of a stored scan
    bins : energy bins to make, from 0; empty for all
    voxel_pitch_mm : side of a voxel, or its (z, y, x) sides [mm]; None for the pixel pitch at the axis
    shape : (z, y, x) voxels; None for all that the panel sees whole
    center_mm : (x, y, z) middle of the volume [mm]
    filter_window, cutoff, field_radius_mm, redundancy, outside_value, truncation_padding, tilted : as in
        `reconstruction.fdk.FdkParameters`
    correction : of counts, as in `reconstruction.bad_pixels.CorrectionParameters`
    backend, mode, band_type, cut, brick_voxels, detector_binning, n_slabs, slab_slices, four_fold, mu_range, tuning,
    run_id : as in `spark_jobs.planning.request.ReconstructionRequest`
    method : ``fdk``, or an iterative one: ``sirt``, ``os-sart`` or ``tv``
    iterations, subsets, tv_strength : as in `reconstruction.iterative.parameters.IterativeParameters`
    task_memory_bytes : what one task may use at its peak [B]
    gpu_memory_bytes : what one task has of a GPU [B]; None where it is not known
    cores : tasks that run at once

    Raises
    ------
    PlanError, ParameterError
        If a value is not what a reconstruction takes.
    """

    scan_id: str
    bins: tuple[int, ...] = ()
    voxel_pitch_mm: float | tuple[float, float, float] | None = None
    shape: tuple[int, int, int] | None = None
    center_mm: tuple[float, float, float] | None = None
    filter_window: str = "ram-lak"
    cutoff: float = 1.0
    field_radius_mm: float | None = None
    redundancy: str = "auto"
    outside_value: float = 0.0
    truncation_padding: float = 0.0
    tilted: str = "rectify"
    correction: CorrectionParameters = field(default_factory=CorrectionParameters)
    backend: str = "numba"
    mode: Mode = "auto"
    band_type: BandType = "float32"
    cut: Cut = "auto"
    brick_voxels: tuple[int, int] | None = None
    detector_binning: Binning = 1
    n_slabs: int | None = None
    slab_slices: int | None = None
    four_fold: bool = True
    mu_range: tuple[float, float] | None = None
    task_memory_bytes: int = 2048 * MEBIBYTE
    tuning: str = "default"
    run_id: str = ""
    cores: int = 1
    method: str = "fdk"
    iterations: int | None = None
    subsets: int | None = None
    tv_strength: float | None = None
    gpu_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if not self.scan_id:
            raise PlanError("a job needs the id of a stored scan, got none")
        if self.cores < 1:
            raise PlanError(f"a job needs at least one core, got {self.cores}")
        if self.task_memory_bytes < 1:
            raise PlanError(f"a task needs some memory, got {self.task_memory_bytes} bytes")
        request_of(self)


@dataclass(frozen=True, slots=True)
class ReconstructParameters(PlanParameters):
    """The parameters of a plan, and whether to compute what is registered already.

    Attributes
    ----------
    again : compute also what is registered; the result must be identical
    """

    again: bool = False


def request_of(parameters: PlanParameters) -> ReconstructionRequest:
    """Make the reconstruction request of a job's parameters.

    Raises
    ------
    PlanError, ParameterError
        If a value is not what a reconstruction takes.
    """
    known = {each.name for each in fields(ReconstructionRequest)}
    values = {f.name: getattr(parameters, f.name) for f in fields(parameters) if f.name in known}
    fdk = FdkParameters(**{name: getattr(parameters, name) for name in _FDK_NAMES})
    iterative = iterative_parameters(
        parameters.method, parameters.iterations, parameters.subsets, parameters.tv_strength
    )
    return ReconstructionRequest(**values, fdk=fdk, iterative=iterative)


def values_of(request: ReconstructionRequest) -> dict[str, Any]:
    """Return the parameters of which `request_of` makes a request, as JSON values."""
    known = {each.name for each in fields(PlanParameters)}
    values = {name: value for name, value in request.to_json().items() if name in known}
    values |= {name: getattr(request.fdk, name) for name in _FDK_NAMES}
    return values | method_values(request.iterative)


def reconstruct_resources(parameters: ReconstructParameters) -> Resources:
    """What a reconstruction needs: its tasks at once, the memory of each, and a GPU each on a back end of GPUs."""
    on_gpu = parameters.backend.partition("-")[0] in GPU_BACKENDS
    memory = parameters.cores * parameters.task_memory_bytes
    return Resources(parameters.cores, memory, parameters.cores if on_gpu else 0)


def plan_resources(_parameters: PlanParameters) -> Resources:
    """What planning needs: a core of the driver for some seconds."""
    return Resources(cores=1)


#: The kinds of this package by name; programs compose the kinds of all packages from such mappings.
SPARK_KINDS: Mapping[str, JobKind] = kinds_by_name(
    (
        JobKind(
            "reconstruct",
            "Reconstruct a stored scan into registered DICOM series",
            ReconstructParameters,
            reconstruct_resources,
            "spark_jobs.running.kind_runs:run_reconstruct",
        ),
        JobKind(
            "plan",
            "Say what the reconstruction of a stored scan would do and cost",
            PlanParameters,
            plan_resources,
            "spark_jobs.running.kind_runs:run_plan",
        ),
    )
)
