# SPDX-License-Identifier: Apache-2.0
"""``conepacs geometry``: the poses of a scan, and their way to and from RTK, ASTRA, TIGRE, LEAP and CIL."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.archive import open_existing_store
from cli.options import JsonOption, StoreOption, parse_pair, parse_settings
from cli.output import print_json, print_pairs, stage_progress
from cli.settings import StoreSettings, load
from cli.teach import help_of
from cli.upload import DescriptionOption, FormatOption, SetOption

if TYPE_CHECKING:
    from ingest.exchange_export import ViewSource
    from ingest.readers import ScanReader
    from reconstruction.exchange.panels import Imported, Panel
    from reconstruction.geometry import VolumeGrid

app = typer.Typer(help="Show, convert and export the geometry of scans.", no_args_is_help=True)

TargetArgument = Annotated[
    str,
    typer.Argument(help="A geometry file, a file or folder with a scan, or the id of a stored scan.", metavar="SCAN"),
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from", help="Whose file it is: rtk, astra, tigre, leap, cil or poses.", metavar="NAME",
        show_default="by its content",
    ),
]  # fmt: skip
PanelOption = Annotated[
    str | None,
    typer.Option("--panel", help="Rows,columns of the panel, for files that have none.", metavar="ROWS,COLUMNS"),
]
PitchOption = Annotated[
    str | None,
    typer.Option("--pitch", help="Pixel pitch along u,v in mm, for RTK's geometry alone.", metavar="MM,MM"),
]
UnitOption = Annotated[float, typer.Option("--unit-mm", help="Length of ASTRA's unit in mm.", metavar="MM", min=0.0)]


def show(
    target: TargetArgument,
    source: FromOption = None,
    panel: PanelOption = None,
    pitch: PitchOption = None,
    unit_mm: UnitOption = 1.0,
    store: StoreOption = None,
    source_format: FormatOption = None,
    description: DescriptionOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what the poses of a scan or of a geometry file mean.

    A file of RTK, ASTRA, TIGRE, LEAP or CIL is recognised by its content.

        conepacs geometry show stone
        conepacs geometry show geometry.xml --panel 512,512 --pitch 0.4,0.4
        conepacs geometry show vectors.npy --from astra --panel 512,512
    """
    from ingest.inspect_geometry import geometry_facts

    given = _Given(store, source_format, description, settings or [])
    imported = _geometry_of(target, source, _panel(panel, pitch), unit_mm, given)
    geometry, grid = imported.geometry, imported.grid
    facts = dataclasses.asdict(geometry_facts(geometry))
    if as_json:
        first, last = geometry.poses[0].tolist(), geometry.poses[-1].tolist()
        shape = {"n_views": geometry.n_views, "n_rows": geometry.n_rows, "n_cols": geometry.n_cols}
        volume = None if grid is None else dataclasses.asdict(grid)
        print_json(
            {**shape, **facts, "volume": volume, "first_pose": first, "last_pose": last, "notes": imported.notes}
        )
        return
    rows = [("views", str(geometry.n_views)), ("panel", f"{geometry.n_rows} rows x {geometry.n_cols} columns")]
    rows += [(key.replace("_", " "), _text(value)) for key, value in facts.items()]
    if grid is not None:
        pitches, middle = _text(grid.voxel_pitch_mm), _text(grid.center_mm)
        rows.append(("volume", f"{_text(grid.shape)} voxels of {pitches} mm about {middle}"))
    names = ("source", "panel's middle", "u step", "v step")
    pose = geometry.poses[0].reshape(4, 3)
    rows += [(f"view 0, {name}", _text(tuple(part))) for name, part in zip(names, pose.tolist(), strict=True)]
    print_pairs(f"geometry of {target}", [*rows, *(("note", note) for note in imported.notes)])


def convert(
    target: TargetArgument,
    output: Annotated[Path, typer.Argument(help="File to write; its suffix says in which form.", metavar="FILE")],
    to: Annotated[str, typer.Option("--to", help="rtk, astra, tigre, leap, cil or poses.", metavar="NAME")],
    source: FromOption = None,
    panel: PanelOption = None,
    pitch: PitchOption = None,
    unit_mm: UnitOption = 1.0,
    store: StoreOption = None,
    source_format: FormatOption = None,
    description: DescriptionOption = None,
    settings: SetOption = None,
) -> None:
    """Write the geometry of a scan, or of another program's file, as a file of RTK, ASTRA, TIGRE, LEAP or CIL.

    Suffixes: rtk .xml; astra .json, .npy or .txt; tigre .json or .npz; leap .cfg or .txt; cil .json; poses .npy or
    .txt.  What a program cannot hold is refused.

        conepacs geometry convert stone geometry.xml --to rtk
        conepacs geometry convert rtk.xml v.npy --to astra --panel 64,96 --pitch 1,1
    """
    from reconstruction.exchange.files import geometry_bytes

    given = _Given(store, source_format, description, settings or [])
    imported = _geometry_of(target, source, _panel(panel, pitch), unit_mm, given)
    content = geometry_bytes(imported.geometry, to, output.suffix, imported.grid)
    try:
        output.write_bytes(content)
    except OSError as error:
        raise typer.BadParameter(f"{output} cannot be written: {error.strerror}") from error
    typer.echo(f"{output} has {imported.geometry.n_views} views for {to}")
    for note in imported.notes:
        typer.echo(f"note: {note}")


def export(
    target: Annotated[
        str, typer.Argument(help="A file or folder with a scan, or the id of a stored scan.", metavar="SCAN")
    ],
    folder: Annotated[Path, typer.Argument(help="New or empty folder.", metavar="FOLDER")],
    to: Annotated[str, typer.Option("--to", help="rtk, astra, tigre, tigre-matlab, leap or cil.", metavar="NAME")],
    as_stored: Annotated[
        bool, typer.Option("--as-stored", help="Frames as they are, flat fields beside them, not line integrals.")
    ] = False,
    store: StoreOption = None,
    source_format: FormatOption = None,
    description: DescriptionOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write projections and geometry in the layout of another program, to reconstruct them there.

    A scan.toml lies beside them, so that `conepacs upload FOLDER` takes the set in again.  Several energy bins become
    files with the bin's number in their name.

        conepacs geometry export stone stone-rtk --to rtk
        conepacs geometry export scans/stone.xtekct stone-astra --to astra
        conepacs geometry export stone stone-counts --to leap --as-stored
    """
    from ingest.exchange_export import OpenedSource, StoredSource, export_scan

    given = _Given(store, source_format, description, settings or [])

    def write(views: ViewSource) -> Any:
        with stage_progress(as_json) as tell:
            return export_scan(
                views, to, folder, as_stored=as_stored, progress=lambda done, total: tell("views", done, total)
            )

    if Path(target).exists():
        reader = given.open(Path(target))
        try:
            report = write(OpenedSource(reader))
        finally:
            reader.close()
    else:
        from ingest.chunks import open_scan_chunks

        report = write(StoredSource(open_scan_chunks(given.open_store(target), target)))
    if as_json:
        print_json({"folder": str(folder), **dataclasses.asdict(report)})
        return
    print_pairs(f"exported {target} to {folder}", [("for", to), ("files", ", ".join(report.files))])
    for note in report.notes:
        typer.echo(f"note: {note}")


@dataclasses.dataclass(frozen=True, slots=True)
class _Given:
    """How to find the scan."""

    store: str | None
    source_format: str | None
    description: Path | None
    settings: list[str]

    def open(self, path: Path, source_format: str | None = None) -> ScanReader:
        """Open a file or folder."""
        from ingest.readers import SourceOptions, open_source

        options = SourceOptions(None, parse_settings(self.settings), self.description)
        return open_source(path, source_format=self.source_format or source_format, options=options)

    def open_store(self, target: str) -> Any:
        """The store; without one the target can only have been a file."""
        from ingest.errors import FrameFormatError
        from storage.errors import StoreUrlError

        try:
            return open_existing_store(load(StoreSettings, store=self.store).store)
        except StoreUrlError as error:
            raise FrameFormatError(f"there is no file or folder {target} here, and {error}") from error


def _geometry_of(target: str, source: str | None, panel: Panel | None, unit_mm: float, given: _Given) -> Imported:
    """The geometry of a file, of a source, or of a stored scan."""
    from ingest.chunks import open_scan_chunks
    from ingest.errors import FrameFormatError
    from reconstruction.exchange.files import program_of, read_geometry
    from reconstruction.exchange.panels import Imported

    path, program = Path(target), None
    if path.is_file():
        program = source or program_of(path)
        open_size = program in ("rtk", "poses") or (program == "astra" and path.suffix.lower() != ".json")
        if program is not None and (panel is not None or not open_size):
            return read_geometry(path, program=program, panel=panel, unit_mm=unit_mm)
    if not path.exists():
        if path.name != target:
            raise FrameFormatError(f"{target} does not exist")
        scan = open_scan_chunks(given.open_store(target), target).scan
    else:
        if source is not None:
            given = dataclasses.replace(given, settings=[*given.settings, f"program={source}", f"geometry={path.name}"])
        try:
            reader = given.open(path, "exchange" if source is not None else None)
        except FrameFormatError as error:
            hint = _hint(path, program)
            if not hint:
                raise
            raise FrameFormatError(f"{error}; {hint}") from error
        try:
            scan = reader.scan
        finally:
            reader.close()
    if scan.geometry is None:
        hint = _hint(path, program)
        raise FrameFormatError(f"{target} has no cone-beam geometry" + (f"; {hint}" if hint else ""))
    grid: VolumeGrid | None = None
    return Imported(scan.geometry, grid, scan.notes)


def _hint(path: Path, program: str | None) -> str:
    """What to give besides where a file may be a geometry that leaves something open."""
    if program is not None:
        needed = "--panel and --pitch" if program == "rtk" else "--panel"
        return f"as a geometry of {program} alone it needs {needed}"
    if path.is_file() and path.suffix.lower() in (".npy", ".txt"):
        return "a table of poses or vectors needs --from poses or --from astra, and --panel"
    return ""


def _panel(panel: str | None, pitch: str | None) -> Panel | None:
    """Size and pitch of the panel, as given."""
    from reconstruction.exchange.panels import Panel

    if panel is None:
        if pitch is not None:
            raise typer.BadParameter("--pitch needs --panel too")
        return None
    size = parse_pair(panel, "--panel") or (0.0, 0.0)
    if any(n < 1 or n != int(n) for n in size):
        raise typer.BadParameter(f"--panel needs two whole numbers above 0, rows and columns, got '{panel}'")
    along = parse_pair(pitch, "--pitch")
    if along is not None and min(along) <= 0:
        raise typer.BadParameter(f"--pitch needs two positive lengths, got '{pitch}'")
    return Panel(int(size[0]), int(size[1]), *(along or (None, None)))


def _text(value: Any) -> str:
    """A number or several, for people."""
    if isinstance(value, tuple):
        return ", ".join(_text(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else str(value)


for _verb in (show, convert, export):
    app.command(help=help_of(_verb))(_verb)
