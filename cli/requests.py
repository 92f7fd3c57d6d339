# SPDX-License-Identifier: Apache-2.0
"""From the options of ``plan`` and ``reconstruct`` to a reconstruction request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from cli.options import parse_bytes, parse_pair, parse_triple

if TYPE_CHECKING:
    from spark_jobs.request import ReconstructionRequest

BinsOption = Annotated[list[int] | None, typer.Option("--bin", help="Energy bin to make; can be repeated (all).")]
VoxelOption = Annotated[float | None, typer.Option("--voxel", help="Side of a voxel [mm] (pixel pitch at the axis).")]
ShapeOption = Annotated[str | None, typer.Option("--shape", help="Voxels z,y,x (all that the panel sees whole).")]
CenterOption = Annotated[str | None, typer.Option("--center", help="Middle of the volume x,y,z [mm].")]
FieldOption = Annotated[float | None, typer.Option("--field-radius", help="Radius about the axis [mm].")]
FilterOption = Annotated[str, typer.Option("--filter", help="Window: ram-lak, shepp-logan, cosine, hamming or hann.")]
CutoffOption = Annotated[float, typer.Option("--cutoff", help="Share of the Nyquist frequency, up to 1.")]
BackendOption = Annotated[str, typer.Option("--backend", help="numba, numba-avx2, ..., numpy_reference.")]
ModeOption = Annotated[str, typer.Option("--mode", help="fused, two_stage, or auto: whichever costs less.")]
BandOption = Annotated[str, typer.Option("--band-type", help="Two stages: float32, or float16 for half the bytes.")]
SlabsOption = Annotated[int | None, typer.Option("--slabs", help="Cut into so many slabs (by memory).")]
RangeOption = Annotated[
    str | None, typer.Option("--mu-range", help="low,high [1/mm] stored without clipping (from coarse slices).")
]
MemoryOption = Annotated[str, typer.Option("--task-memory", help="What one task may use.")]
RunOption = Annotated[str, typer.Option("--run-id", help="Any text: a second result beside the first.")]


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The options as typed."""

    bins: list[int] | None
    voxel: float | None
    shape: str | None
    center: str | None
    field_radius: float | None
    window: str
    cutoff: float
    backend: str
    mode: str
    band_type: str
    slabs: int | None
    mu_range: str | None
    task_memory: str
    run_id: str

    def request(self, scan_id: str) -> ReconstructionRequest:
        """Make the request for one scan."""
        from reconstruction.fdk import FdkParameters
        from spark_jobs.request import ReconstructionRequest

        shape = parse_triple(self.shape, "--shape")
        return ReconstructionRequest(
            scan_id=scan_id,
            bins=tuple(self.bins or ()),
            voxel_pitch_mm=self.voxel,
            shape=None if shape is None else (int(shape[0]), int(shape[1]), int(shape[2])),
            center_mm=parse_triple(self.center, "--center"),
            fdk=FdkParameters(self.window, self.cutoff, self.field_radius),
            backend=self.backend,
            mode=cast("Literal['auto', 'fused', 'two_stage']", self.mode),
            band_type=cast("Literal['float32', 'float16']", self.band_type),
            n_slabs=self.slabs,
            mu_range=parse_pair(self.mu_range, "--mu-range"),
            task_memory_bytes=parse_bytes(self.task_memory),
            run_id=self.run_id,
        )
