# SPDX-License-Identifier: Apache-2.0
"""The companion description of a scan, ``scan.toml`` or ``scan.json``: what the detector files do not say.

`load_description` finds and reads it, `ingest.described_geometry` makes the poses from its ``[geometry]``;
`ingest.describe.describe_scan` joins it with what the files themselves say into the `Scan`.  Every
key is in ``docs/formats.md``.  Names of files in it are relative to the folder that it lies in.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ingest.errors import ScanDescriptionError
from ingest.fields import convert, describe, make_section, refuse_unknown_keys, require_table
from ingest.scan import Content, EnergyBin, Exposure, Order, Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.readers import SourceOptions

Section = TypeVar("Section")

DESCRIPTION_NAMES = ("scan.toml", "scan.json")

Rows = Literal["bottom-up", "top-down"]
Cols = Literal["left-to-right", "right-to-left"]
Turn = Literal["counter-clockwise", "clockwise"]
FieldKind = Literal["flats", "darks"]

#: Keys of ``[scan]`` that `SourceOptions.settings` may give or override.
SCAN_SETTINGS: dict[str, Any] = {"white_level": float, "n_views": int, "repeat_views": int, "bin_pixels": int}


@dataclass(frozen=True, slots=True)
class ScanSection:
    """``[scan]``: identity, kind of content, the scanner, and how the frames are taken in."""

    id: str | None = None
    format: str | None = None
    acquired: str = ""
    content: Content | None = None
    white_level: float | None = None
    n_views: int | None = None
    repeat_views: int | None = None
    bin_pixels: int | None = None
    manufacturer: str = ""
    model: str = ""
    station: str = ""


@dataclass(frozen=True, slots=True)
class FilesSection:
    """``[files]``: names, glob patterns or data-set names of the frames, as the reader takes them."""

    projections: str | None = None
    flats: str | None = None
    darks: str | None = None
    bad_pixels: str | None = None
    missing_views: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GeometrySection:
    """``[geometry]``: where source and panel stood, and which way round the frames are stored."""

    kind: Literal["circular", "poses", "parallel"] | None = None
    sod_mm: float | None = None
    sdd_mm: float | None = None
    pitch_mm: float | None = None
    pitch_u_mm: float | None = None
    pitch_v_mm: float | None = None
    offset_u_mm: float | None = None
    offset_v_mm: float | None = None
    center_col: float | None = None
    center_row: float | None = None
    roll_deg: float | None = None
    column_gaps: tuple[tuple[int, int], ...] = ()
    z_mm: float = 0.0
    angles_deg: tuple[float, ...] | None = None
    angles_file: str | None = None
    angle_start_deg: float = 0.0
    angle_step_deg: float | None = None
    arc_deg: float | None = None
    sense: Turn | None = None
    table_turns: Turn | None = None
    poses_file: str | None = None
    rows: Rows | None = None
    cols: Cols | None = None


@dataclass(frozen=True, slots=True)
class CameraPosition:
    """One of ``[[camera_positions]]``: which views the camera took there, where it stood, and its field frames."""

    views: str | tuple[int, ...] | None = None
    offset_u_mm: float | None = None
    center_col: float | None = None
    flats: str | None = None
    darks: str | None = None


@dataclass(frozen=True, slots=True)
class ScanDescription:
    """A parsed description; all sections empty where there is no file.

    Attributes
    ----------
    path : the file, or None.
    bins : the energy bins, or () where the files say.
    camera_positions : where a narrow camera stepped to, or ().
    rows, cols : how the frames are stored, the reader's default filled in.
    settings : ``[settings]``, then `SourceOptions.settings` over it; the reader knows the keys.
    """

    path: Path | None = None
    scan: ScanSection = field(default_factory=ScanSection)
    files: FilesSection = field(default_factory=FilesSection)
    geometry: GeometrySection | None = None
    bins: tuple[EnergyBin, ...] = ()
    camera_positions: tuple[CameraPosition, ...] = ()
    exposure: Exposure = field(default_factory=Exposure)
    subject: Subject = field(default_factory=Subject)
    order: Order = field(default_factory=Order)
    rows: Rows = "bottom-up"
    cols: Cols = "left-to-right"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return "scan description" if self.path is None else str(self.path)

    @property
    def gives_geometry(self) -> bool:
        """Whether its ``[geometry]`` has a kind, and so replaces what the files say of theirs."""
        return self.geometry is not None and self.geometry.kind is not None

    def file(self, name: str) -> Path:
        """Path of a file that the description names."""
        return Path(name) if self.path is None else self.path.parent / name

    def by_position(self, kind: FieldKind) -> bool:
        """Whether flat or dark frames are named for each camera position."""
        return any(getattr(position, kind) is not None for position in self.camera_positions)

    def field_patterns(self, kind: FieldKind) -> tuple[str, ...]:
        """Return the names of flat or dark frames: one for all views, one for each camera position, or none.

        Raises
        ------
        ScanDescriptionError
            If a camera position has none while others have, or some are named for all views too.
        """
        for_all: str | None = getattr(self.files, kind)
        if not self.by_position(kind):
            return () if for_all is None else (for_all,)
        where = f"{self.name}: [[camera_positions]]"
        if for_all is not None:
            raise ScanDescriptionError(f"{where} name {kind}, and [files] names '{for_all}' for all views: keep one")
        patterns: list[str] = []
        for number, position in enumerate(self.camera_positions):
            pattern: str | None = getattr(position, kind)
            if pattern is None:
                raise ScanDescriptionError(
                    f"{where} {number} names no {kind}, while others do: name {kind} for each position, or one set "
                    "for all in [files]"
                )
            patterns.append(pattern)
        return tuple(patterns)


def find_description(source: Path) -> Path | None:
    """Return the description in the folder, or beside the file or folder; None if there is none.

    Raises
    ------
    ScanDescriptionError
        If a place holds both a scan.toml and a scan.json.
    """
    for folder in ([source] if source.is_dir() else []) + [source.absolute().parent]:
        found = [folder / name for name in DESCRIPTION_NAMES if (folder / name).is_file()]
        if len(found) > 1:
            raise ScanDescriptionError(f"{folder} holds both {' and '.join(DESCRIPTION_NAMES)}: keep one of them")
        if found:
            return found[0]
    return None


def read_description(path: Path) -> ScanDescription:
    """Read a description.

    Raises
    ------
    ScanDescriptionError
        If the file is not TOML (or JSON), has an unknown key, or a value of the wrong kind.
    """
    try:
        content = path.read_bytes().decode("utf-8")
        tables = json.loads(content) if path.suffix.lower() == ".json" else tomllib.loads(content)
    except OSError as error:
        raise ScanDescriptionError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ScanDescriptionError(f"{path} is not a {path.suffix.lower()[1:].upper()} file: {error}") from error
    tables = require_table(tables, str(path))
    sections = ("scan", "files", "geometry", "camera_positions", "exposure", "subject", "order", "bins", "settings")
    refuse_unknown_keys(tables, sections, str(path))
    settings = require_table(tables.get("settings", {}), f"{path}: [settings]")
    misplaced = sorted(set(settings) & set(SCAN_SETTINGS))
    if misplaced:
        raise ScanDescriptionError(f"{path}: '{misplaced[0]}' belongs in [scan], not in [settings]")
    return ScanDescription(
        path=path,
        scan=make_section(ScanSection, tables.get("scan", {}), f"{path}: [scan]"),
        files=make_section(FilesSection, tables.get("files", {}), f"{path}: [files]"),
        geometry=_read_geometry(tables.get("geometry"), path),
        bins=_read_bins(tables.get("bins", []), path),
        camera_positions=_read_camera_positions(tables.get("camera_positions", []), path),
        exposure=_read_checked(Exposure, tables.get("exposure", {}), f"{path}: [exposure]"),
        subject=_read_checked(Subject, tables.get("subject", {}), f"{path}: [subject]"),
        order=_read_checked(Order, tables.get("order", {}), f"{path}: [order]"),
        settings=dict(settings),
    )


def load_description(
    source: Path,
    options: SourceOptions,
    *,
    rows: Rows = "bottom-up",
    cols: Cols = "left-to-right",
    known_settings: tuple[str, ...] = (),
) -> ScanDescription:
    """Return the description that goes with a source, the user's options laid over it.

    Parameters
    ----------
    source : the file or folder that the user named.
    options : may name the description, the scan id and settings; they win over the file.
    rows, cols : how this format stores its frames where the description does not say.
    known_settings : the reader's own settings; others are refused.

    Raises
    ------
    ScanDescriptionError
        If the description is malformed or a setting is unknown.
    """
    description = _describe(source, options)
    given = {key: value for key, value in options.settings.items() if key not in SCAN_SETTINGS}
    settings = {**description.settings, **given}
    written = f"{source}: the settings" if description.path is None else f"{description.path}: [settings]"
    refuse_unknown_keys(given, known_settings, "what is set for this reader")
    refuse_unknown_keys(settings, known_settings, written)
    section = description.geometry
    return replace(
        description,
        settings=settings,
        rows=(section and section.rows) or rows,
        cols=(section and section.cols) or cols,
    )


def describe_intake(source: Path, options: SourceOptions) -> ScanSection:
    """Return ``[scan]`` of the description that goes with a source, the user's options laid over it."""
    return _describe(source, options).scan


def _describe(source: Path, options: SourceOptions) -> ScanDescription:
    """The description with the scan id and the settings of ``[scan]`` that the user gave laid over it."""
    path = options.description or find_description(source)
    description = ScanDescription() if path is None else read_description(path)
    overrides: dict[str, Any] = {
        key: convert(options.settings[key], hint, f"setting {key}")
        for key, hint in SCAN_SETTINGS.items()
        if key in options.settings
    }
    if options.scan_id is not None:
        overrides["id"] = options.scan_id
    scan = replace(description.scan, **overrides)
    for name in ("n_views", "repeat_views", "bin_pixels"):
        value = getattr(scan, name)
        if value is not None and value < 1:
            raise ScanDescriptionError(f"{description.name}: {name} must be at least 1, got {value}")
    return replace(description, scan=scan)


def _read_geometry(table: object, path: Path) -> GeometrySection | None:
    """The ``[geometry]`` section, or None."""
    return None if table is None else make_section(GeometrySection, table, f"{path}: [geometry]")


def _read_camera_positions(tables: object, path: Path) -> tuple[CameraPosition, ...]:
    """The ``[[camera_positions]]``, numbered in the order they come."""
    if not isinstance(tables, list):
        raise ScanDescriptionError(
            f"{path}: camera_positions must be a list of tables [[camera_positions]], got {describe(tables)}"
        )
    where = f"{path}: [[camera_positions]]"
    return tuple(make_section(CameraPosition, table, f"{where} {number}") for number, table in enumerate(tables))


def _read_bins(tables: object, path: Path) -> tuple[EnergyBin, ...]:
    """The ``[[bins]]``, numbered in the order they come."""
    if not isinstance(tables, list):
        raise ScanDescriptionError(f"{path}: bins must be a list of tables [[bins]], got {describe(tables)}")
    bins = []
    for index, table in enumerate(tables):
        where = f"{path}: [[bins]] {index}"
        values = require_table(table, where)
        refuse_unknown_keys(values, ("low_kev", "high_kev", "kind"), where)
        high = values.get("high_kev")
        kind = "difference" if high is not None else "counter" if "low_kev" in values else "integrating"
        bins.append(_read_checked(EnergyBin, {"index": index, "kind": kind, **values}, where))
    return tuple(bins)


def _read_checked(cls: type[Section], table: object, where: str) -> Section:
    """A section whose dataclass checks itself, the file named in its complaint."""
    try:
        return make_section(cls, table, where)
    except ScanDescriptionError as error:
        if str(error).startswith(where):
            raise
        raise ScanDescriptionError(f"{where}: {error}") from error
