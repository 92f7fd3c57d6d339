# SPDX-License-Identifier: Apache-2.0
"""``conepacs preview`` and ``conepacs sweep``: a quick look before the job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.archive import open_existing_store
from cli.bundles import takes
from cli.options import JsonOption, StoreOption
from cli.output import print_json, print_pairs
from cli.settings import StoreSettings, load

if TYPE_CHECKING:
    from ingest.chunks import StoredScan

ScanArgument = Annotated[str, typer.Argument(help="Id of a stored scan.", metavar="SCAN_ID", show_default=False)]
BinOption = Annotated[int, typer.Option("--bin", help="Energy bin, from 0.", metavar="BIN", min=0)]
HeightOption = Annotated[
    float | None,
    typer.Option("--z", help="Height of the slice in mm.", metavar="MM", show_default="middle of what is seen"),
]
VoxelsOption = Annotated[int, typer.Option("--voxels", help="Voxels across the field.", metavar="N")]
ViewsOption = Annotated[
    int, typer.Option("--views", help="Views of each turn to use at most, evenly spread.", metavar="N")
]
WindowOption = Annotated[str, typer.Option("--filter", help="Window of the ramp filter.", metavar="NAME")]
CutoffOption = Annotated[float, typer.Option("--cutoff", help="Highest frequency, of Nyquist.", metavar="SHARE")]
FieldOption = Annotated[
    float | None,
    typer.Option("--field-radius", help="Look at this radius about the axis only, in mm.", metavar="MM",
                 show_default="what the panel sees"),
]  # fmt: skip
BackendOption = Annotated[str, typer.Option("--backend", help="What computes.", metavar="NAME")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="PNG to write.", metavar="FILE", show_default="SCAN_ID-VERB.png")
]


@dataclass(frozen=True, slots=True)
class LookOptions:
    """What is looked at and where the picture goes: the options of both looks, as typed."""

    store: StoreOption = None
    bin_index: BinOption = 0
    z_mm: HeightOption = None
    voxels: VoxelsOption = 256
    views: ViewsOption = 180
    window: WindowOption = "hann"
    cutoff: CutoffOption = 1.0
    field_radius: FieldOption = None
    backend: BackendOption = "numba"
    out: OutOption = None
    as_json: JsonOption = False

    def look(self) -> dict[str, Any]:
        """Parameters of both kinds of looks but for the scan."""
        return {
            "bin": self.bin_index,
            "z_mm": self.z_mm,
            "voxels": self.voxels,
            "views": self.views,
            "filter_window": self.window,
            "cutoff": self.cutoff,
            "field_radius_mm": self.field_radius,
            "backend": self.backend,
        }

    def stored(self, scan_id: str) -> StoredScan:
        """Open the scan."""
        from ingest.chunks import open_scan_chunks

        return open_scan_chunks(open_existing_store(load(StoreSettings, store=self.store).store), scan_id)


@takes(options=LookOptions)
def preview(
    scan_id: ScanArgument,
    options: LookOptions,
    coarse: Annotated[
        bool, typer.Option("--coarse", help="The whole volume in coarse voxels instead of one slice.")
    ] = False,
) -> None:
    """Look at one slice, or at the whole volume in coarse voxels, from some of the views: in seconds, without Spark.

        conepacs preview stone
        conepacs preview stone --z 4.2 --voxels 512 --out slice.png
        conepacs preview stone --coarse --voxels 128

    As a job, with the picture in the store: conepacs jobs submit preview --set scan_id=stone
    """
    from spark_jobs.looks.parameters import PreviewParameters

    parameters = PreviewParameters(scan_id, coarse=coarse, **options.look())
    from spark_jobs.looks.kind_runs import preview_figures
    from spark_jobs.looks.preview import preview as look_at
    from spark_jobs.looks.sheet import preview_png

    look = look_at(options.stored(scan_id), parameters)
    path = _write(options.out or Path(f"{scan_id}-preview.png"), preview_png(look))
    _tell(f"Preview of {scan_id}", preview_figures(look) | {"picture": path}, as_json=options.as_json)


@takes(options=LookOptions)
def sweep(
    scan_id: ScanArgument,
    parameter: Annotated[
        str,
        typer.Option(
            "--parameter", help="What changes: shift-px, shift-v-px, roll-deg, cutoff or filter.", metavar="NAME"
        ),
    ] = "shift-px",
    start: Annotated[float | None, typer.Option("--from", help="First value.", metavar="X")] = None,
    stop: Annotated[float | None, typer.Option("--to", help="Last value.", metavar="X")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Values from first to last.", metavar="N", min=2)] = 9,
    values: Annotated[
        str | None, typer.Option("--values", help="The values themselves, with commas.", metavar="X,Y,...")
    ] = None,
    score: Annotated[
        str,
        typer.Option(
            "--score", help="By which it is judged: entropy (less is better) or sharpness (more is).", metavar="NAME"
        ),
    ] = "entropy",
    *,
    options: LookOptions,
) -> None:
    """Reconstruct one slice with many values of one parameter, score each, and draw all on a contact sheet.

    shift-px moves the panel along its rows (the centre of rotation), shift-v-px along its columns, roll-deg turns it.

        conepacs sweep stone --from -2 --to 2
        conepacs sweep stone --parameter roll-deg --from -0.5 --to 0.5
        conepacs sweep stone --parameter filter --values ram-lak,hann
    """
    from spark_jobs.looks.parameters import SweepParameters

    parameters = SweepParameters(
        scan_id, coarse=False, parameter=parameter,  # type: ignore[arg-type]
        values=_values(parameter, values, start, stop, steps), score=score, **options.look(),  # type: ignore[arg-type]
    )  # fmt: skip
    from spark_jobs.looks.kind_runs import sweep_figures
    from spark_jobs.looks.sheet import contact_sheet
    from spark_jobs.looks.sweep import sweep as sweep_over

    found = sweep_over(options.stored(scan_id), parameters)
    path = _write(options.out or Path(f"{scan_id}-sweep.png"), contact_sheet(found, parameters.parameter))
    _tell(f"Sweep of {scan_id}", sweep_figures(found, parameters) | {"picture": path}, as_json=options.as_json)


def _values(
    parameter: str, listed: str | None, start: float | None, stop: float | None, steps: int
) -> tuple[float | str, ...]:
    """The values of a sweep: listed, or evenly from the first to the last."""
    if listed is not None:
        words = [word.strip() for word in listed.split(",")]
        if parameter == "filter":
            return tuple(words)
        try:
            return tuple(float(word) for word in words)
        except ValueError:
            raise typer.BadParameter(f"--values takes numbers with commas between them, got '{listed}'") from None
    if start is None or stop is None:
        raise typer.BadParameter("give --from and --to, or --values")
    return tuple(round(start + (stop - start) * step / (steps - 1), 9) for step in range(steps))


def _write(path: Path, content: bytes) -> str:
    """Write the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def _tell(title: str, figures: dict[str, Any], *, as_json: bool) -> None:
    """Print what was found."""
    if as_json:
        print_json(figures)
        return
    notes = figures.pop("notes", [])
    if "scores" in figures:
        pairs = zip(figures.pop("values"), figures.pop("scores"), strict=True)
        figures["scores"] = ", ".join(f"{value}: {score:.4f}" for value, score in pairs)
    rows = [(name.replace("_", " "), _words(value)) for name, value in figures.items() if value is not None]
    print_pairs(title, rows)
    for note in notes:
        typer.echo(f"note: {note}")


def _words(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, list):
        return " x ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
