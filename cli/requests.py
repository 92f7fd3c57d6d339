# SPDX-License-Identifier: Apache-2.0
"""The options that ``plan``, ``reconstruct`` and their jobs share, and the request that they come to."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from cli.options import parse_bytes, parse_pair, parse_pitch, parse_settings, parse_shape, parse_triple

if TYPE_CHECKING:
    from reconstruction.bad_pixels import CorrectionParameters
    from spark_jobs.planning.request import ReconstructionRequest

_VOLUME = "The volume"
_KERNEL = "Filter and back-projection"
_ITERATIVE = "Iterative methods"
_RUN = "The run"

BinsOption = Annotated[
    list[int] | None,
    typer.Option("--bin", help="Energy bin to make, from 0; repeatable.", metavar="BIN", show_default="all",
                 rich_help_panel=_VOLUME),
]  # fmt: skip
VoxelOption = Annotated[
    str | None,
    typer.Option("--voxel", help="Side of a voxel in mm; three sides for voxels that are no cubes.",
                 metavar="MM|Z,Y,X", show_default="pixel pitch at the axis", rich_help_panel=_VOLUME),
]  # fmt: skip
ShapeOption = Annotated[
    str | None,
    typer.Option("--shape", help="Number of voxels.", metavar="Z,Y,X", show_default="all that the panel sees whole",
                 rich_help_panel=_VOLUME),
]  # fmt: skip
CenterOption = Annotated[
    str | None,
    typer.Option("--center", help="Middle of the volume in mm; the axis is x = y = 0.", metavar="X,Y,Z",
                 show_default="middle of what the panel sees", rich_help_panel=_VOLUME),
]  # fmt: skip
FieldOption = Annotated[
    float | None,
    typer.Option("--field-radius", help="Radius about the axis in mm; beyond it voxels are --outside.", metavar="MM",
                 show_default="what the panel sees in all views", rich_help_panel=_VOLUME),
]  # fmt: skip
FilterOption = Annotated[
    str,
    typer.Option("--filter", help="Window: ram-lak, shepp-logan, cosine, hamming or hann.", metavar="NAME",
                 rich_help_panel=_KERNEL),
]  # fmt: skip
CutoffOption = Annotated[
    float,
    typer.Option("--cutoff", help="Highest frequency as a share of Nyquist, above 0, up to 1.", metavar="SHARE",
                 rich_help_panel=_KERNEL),
]  # fmt: skip
OutsideOption = Annotated[
    float,
    typer.Option("--outside", help="Value of voxels beyond the field, in 1/mm.", metavar="MU", rich_help_panel=_VOLUME),
]
RedundancyOption = Annotated[
    str,
    typer.Option("--redundancy", help="How rays that are measured twice share: auto (any orbit), parker, wang, none.",
                 metavar="NAME", rich_help_panel=_KERNEL),
]  # fmt: skip
PaddingOption = Annotated[
    float,
    typer.Option("--truncation-padding", help="Continue rows smoothly by this share of the panel's width, for objects "
                 "wider than the panel.", metavar="SHARE", rich_help_panel=_KERNEL),
]  # fmt: skip
TiltedOption = Annotated[
    str,
    typer.Option("--tilted", help="Tilted panels: rectify, or general (slower, nothing is resampled).", metavar="NAME",
                 rich_help_panel=_KERNEL),
]  # fmt: skip
CorrectionOption = Annotated[
    list[str] | None,
    typer.Option("--correction", help="A value of the correction of counts, repeatable: bad_pixels=keep, "
                 "hot_above=0.2, max_bad_share=0.3, ...", metavar="KEY=VALUE", rich_help_panel=_KERNEL),
]  # fmt: skip
BackendOption = Annotated[
    str,
    typer.Option("--backend", help="What computes; conepacs doctor lists what can be used here.", metavar="NAME",
                 rich_help_panel=_KERNEL),
]  # fmt: skip
ModeOption = Annotated[
    str,
    typer.Option("--mode", help="fused, two_stage, or auto: whichever costs less.", metavar="NAME",
                 rich_help_panel=_RUN),
]  # fmt: skip
BandOption = Annotated[
    str,
    typer.Option("--band-type", help="How two_stage stores filtered rows: float32, or float16 for half the bytes.",
                 metavar="NAME", rich_help_panel=_RUN),
]  # fmt: skip
SlabsOption = Annotated[
    int | None,
    typer.Option("--slabs", help="Number of slabs that the volume is cut into.", metavar="N", show_default="by memory",
                 rich_help_panel=_RUN),
]  # fmt: skip
RangeOption = Annotated[
    str | None,
    typer.Option("--mu-range", help="Range of mu in 1/mm that DICOM stores without clipping.", metavar="LOW,HIGH",
                 show_default="from coarse slices", rich_help_panel=_RUN),
]  # fmt: skip
MemoryOption = Annotated[
    str,
    typer.Option("--task-memory", help="What one task may use.", metavar="BYTES", rich_help_panel=_RUN),
]
GpuMemoryOption = Annotated[
    str | None,
    typer.Option("--gpu-memory", help="What one task has of a GPU: slabs and bricks are cut so that they fit.",
                 metavar="BYTES", show_default="not known", rich_help_panel=_RUN),
]  # fmt: skip
RunOption = Annotated[
    str,
    typer.Option("--run-id", help="Any text: makes a second result beside the first.", metavar="TEXT",
                 rich_help_panel=_RUN),
]  # fmt: skip


CutOption = Annotated[
    str,
    typer.Option("--cut", help="slabs, bricks (slabs cut in y and x too), or auto: by what is read.", metavar="NAME",
                 rich_help_panel=_RUN),
]  # fmt: skip
BrickOption = Annotated[
    str | None,
    typer.Option("--brick", help="Voxels of a brick's slices.", metavar="Y,X", show_default="by cost and memory",
                 rich_help_panel=_RUN),
]  # fmt: skip
BinningOption = Annotated[
    str,
    typer.Option("--detector-binning", help="Average 2 or 4 pixels of a side after -log; auto: as voxels allow.",
                 metavar="N", rich_help_panel=_KERNEL),
]  # fmt: skip
MethodOption = Annotated[
    str,
    typer.Option("--method", help="fdk, or for few views or low dose: sirt, os-sart, or tv (total variation).",
                 metavar="NAME", rich_help_panel=_ITERATIVE),
]  # fmt: skip
IterationsOption = Annotated[
    int | None,
    typer.Option("--iterations", help="Passes over all views.", metavar="N", show_default="by the method",
                 rich_help_panel=_ITERATIVE),
]  # fmt: skip
SubsetsOption = Annotated[
    int | None,
    typer.Option("--subsets", help="Parts of the views that are used one after the other.", metavar="N",
                 show_default="of about 6 views", rich_help_panel=_ITERATIVE),
]  # fmt: skip
TvOption = Annotated[
    float | None,
    typer.Option("--tv-strength", help="Factor on the weight that follows from noise and range of the scan.",
                 metavar="FACTOR", show_default="1", rich_help_panel=_ITERATIVE),
]  # fmt: skip
TuningOption = Annotated[
    str,
    typer.Option("--tuning", help="Measured rates to plan with; built-in for none.", metavar="NAME",
                 rich_help_panel=_RUN),
]  # fmt: skip
ProbeOption = Annotated[
    bool,
    typer.Option("--probe", help="First measure rates for some seconds, and keep them by the name of --tuning.",
                 rich_help_panel=_RUN),
]  # fmt: skip


def correction_of(texts: list[str]) -> CorrectionParameters:
    """Read ``key=value`` texts of ``--correction``."""
    from reconstruction.bad_pixels import CorrectionParameters

    known = {field.name for field in fields(CorrectionParameters)}
    values = parse_settings(texts, "--correction")
    for name, value in values.items():
        if name not in known:
            raise typer.BadParameter(f"--correction knows {', '.join(sorted(known))}; got '{name}'")
        if name != "bad_pixels" and (isinstance(value, str) or value is True or value is False):
            raise typer.BadParameter(f"--correction {name} needs a number, got '{value}'")
    return CorrectionParameters(**values)


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What is reconstructed and how: the options as typed."""

    bins: BinsOption = None
    voxel: VoxelOption = None
    shape: ShapeOption = None
    center: CenterOption = None
    field_radius: FieldOption = None
    outside: OutsideOption = 0.0
    window: FilterOption = "ram-lak"
    cutoff: CutoffOption = 1.0
    redundancy: RedundancyOption = "auto"
    padding: PaddingOption = 0.0
    tilted: TiltedOption = "rectify"
    correction: CorrectionOption = None
    backend: BackendOption = "numba"
    mode: ModeOption = "auto"
    band_type: BandOption = "float32"
    slabs: SlabsOption = None
    cut: CutOption = "auto"
    brick: BrickOption = None
    detector_binning: BinningOption = "1"
    mu_range: RangeOption = None
    task_memory: MemoryOption = "2GiB"
    gpu_memory: GpuMemoryOption = None
    run_id: RunOption = ""
    tuning: TuningOption = "default"
    method: MethodOption = "fdk"
    iterations: IterationsOption = None
    subsets: SubsetsOption = None
    tv_strength: TvOption = None

    def request(self, scan_id: str) -> ReconstructionRequest:
        """Make the request for one scan."""
        from reconstruction.fdk import FdkParameters
        from reconstruction.iterative.parameters import iterative_parameters
        from spark_jobs.planning.request import ReconstructionRequest

        sides, binning = parse_pair(self.brick, "--brick"), self.detector_binning
        return ReconstructionRequest(
            scan_id=scan_id,
            bins=tuple(self.bins or ()),
            voxel_pitch_mm=parse_pitch(self.voxel, "--voxel"),
            shape=parse_shape(self.shape, "--shape"),
            center_mm=parse_triple(self.center, "--center"),
            fdk=FdkParameters(
                self.window,
                self.cutoff,
                self.field_radius,
                redundancy=self.redundancy,
                outside_value=self.outside,
                truncation_padding=self.padding,
                tilted=self.tilted,
            ),
            correction=correction_of(self.correction or []),
            backend=self.backend,
            mode=cast("Literal['auto', 'fused', 'two_stage']", self.mode),
            band_type=cast("Literal['float32', 'float16']", self.band_type),
            n_slabs=self.slabs,
            mu_range=parse_pair(self.mu_range, "--mu-range"),
            task_memory_bytes=parse_bytes(self.task_memory),
            gpu_memory_bytes=None if self.gpu_memory is None else parse_bytes(self.gpu_memory),
            run_id=self.run_id,
            cut=cast("Literal['auto', 'slabs', 'bricks']", self.cut),
            brick_voxels=None if sides is None else (round(sides[0]), round(sides[1])),
            detector_binning=cast("Literal['auto', 1, 2, 4]", int(binning) if binning.isdigit() else binning),
            tuning=self.tuning,
            iterative=iterative_parameters(self.method, self.iterations, self.subsets, self.tv_strength),
        )
