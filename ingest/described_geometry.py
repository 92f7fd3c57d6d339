# SPDX-License-Identifier: Apache-2.0
"""The geometry that a description gives: poses made from its ``[geometry]``, or laid over those of the files."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np

from ingest.angles import read_angles_deg, read_numbers
from ingest.camera_positions import described_positions
from ingest.config import GeometrySection, ScanDescription
from ingest.errors import ScanDescriptionError
from ingest.panel import place_panel
from ingest.scan import ParallelBeam
from reconstruction.errors import GeometryError
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from numpy.typing import NDArray


def build_geometry(
    description: ScanDescription, n_views: int, n_rows: int, n_cols: int
) -> ConeBeamGeometry | ParallelBeam | None:
    """Return the geometry that the description gives, or None where it gives none.

    Raises
    ------
    ScanDescriptionError
        If a number is missing or contradicts another one, or angles do not match the frames.
    """
    section = description.geometry
    if section is None or section.kind is None:
        return None
    where = f"{description.name}: [geometry]"
    _refuse_other_kinds(section, where)
    _refuse_offsets_of_positions(description)
    if section.kind == "poses":
        posed = _geometry_from_poses(description, section, n_views, n_rows, n_cols, where)
        return _with_gaps(description, section, posed, where)
    beta_rad = view_angles_rad(description, n_views)
    if section.kind == "parallel":
        pitch_u, pitch_v = _pitches(section)
        return ParallelBeam(tuple(beta_rad.tolist()), pitch_u, pitch_v)
    circular = _stepped_geometry(description, section, beta_rad, n_rows, n_cols, where)
    return _with_gaps(description, section, circular, where)


def override_geometry(
    description: ScanDescription,
    geometry: ConeBeamGeometry | ParallelBeam | None,
    source_format: str,
    honoured: tuple[str, ...] = (),
) -> tuple[ConeBeamGeometry | ParallelBeam | None, tuple[str, ...]]:
    """Lay a ``[geometry]`` without a kind over the geometry that the files give.

    Parameters
    ----------
    geometry : what the files give, or None.
    source_format : name of the reader.
    honoured : further keys that the reader itself has taken into account.

    Returns
    -------
    geometry
        With the panel where the description says.
    notes
        A sentence on what was overridden, or none.

    Raises
    ------
    ScanDescriptionError
        If a key is given that would be ignored.
    """
    section = description.geometry or GeometrySection()
    where = f"{description.name}: [geometry]"
    _refuse_offsets_of_positions(description)
    obeyed = {"rows", "cols", *honoured}
    wanted = [f.name for f in fields(section) if getattr(section, f.name) != f.default and f.name not in obeyed]
    if section.sense is not None and section.table_turns is not None:
        raise ScanDescriptionError(f"{where} needs sense (of the source) or table_turns, not both: keep one")
    if not wanted:
        return geometry, ()
    if not isinstance(geometry, ConeBeamGeometry):
        beam = "no geometry" if geometry is None else "a parallel beam"
        raise ScanDescriptionError(
            f"{where} has '{wanted[0]}' but no kind, and the {source_format} files give {beam} that it could correct: "
            "give it a kind and all that this kind needs"
        )
    for name in wanted:
        if name not in _OVERRIDES:
            raise ScanDescriptionError(
                f"{where} without a kind does not take the key '{name}': of the {source_format} files' geometry "
                f"it corrects {', '.join(_OVERRIDES)} only"
            )
    pitch_v, pitch_u = geometry.pitch_mm
    placed = place_panel(
        geometry,
        offset_u_mm=_offset_u(description, section, geometry.n_cols, pitch_u, where),
        offset_v_mm=_offset_v(description, section, geometry.n_rows, pitch_v, where),
        roll_rad=None if section.roll_deg is None else math.radians(section.roll_deg),
    )
    placed = _with_gaps(description, section, placed, where)
    return placed, (f"The description overrides what the {source_format} files say of {', '.join(wanted)}.",)


def view_angles_rad(description: ScanDescription, n_views: int) -> NDArray[np.float64]:
    """Return the view angles beta (view,) float64 [rad] of a circular or parallel ``[geometry]``.

    Raises
    ------
    ScanDescriptionError
        If the angles are not given, are given twice, or are not one for each view.
    """
    section = description.geometry or GeometrySection()
    where = f"{description.name}: [geometry]"
    ways = ("angles_deg", "angles_file", "angle_step_deg", "arc_deg")
    given = [name for name in ways if getattr(section, name) is not None]
    if len(given) != 1:
        said = "none" if not given else " and ".join(given)
        raise ScanDescriptionError(f"{where} needs exactly one of {', '.join(ways)}, got {said}")
    if section.angles_deg is not None:
        angles_deg = np.array(section.angles_deg, dtype=np.float64)
    elif section.angles_file is not None:
        angles_deg = read_angles_deg(description.file(section.angles_file))
    else:
        angles_deg = section.angle_start_deg + _even_angles_deg(description, section, n_views)
    if angles_deg.size != n_views:
        origin = where if section.angles_file is None else str(description.file(section.angles_file))
        raise ScanDescriptionError(f"{origin}: got {angles_deg.size} angles for {n_views} views, expected one a view")
    if section.sense is not None and section.table_turns is not None:
        raise ScanDescriptionError(f"{where} needs sense (of the source) or table_turns, not both: keep one")
    backwards = section.sense == "clockwise" or section.table_turns == "counter-clockwise"
    return np.deg2rad(-angles_deg if backwards else angles_deg)


def _even_angles_deg(description: ScanDescription, section: GeometrySection, n_views: int) -> NDArray[np.float64]:
    """Angles in even steps, counted from 0 at each camera position that the description names the views of."""
    positions = described_positions(description, n_views)
    positions = np.zeros(n_views, dtype=np.int64) if positions is None else positions
    angles_deg = np.empty(n_views, dtype=np.float64)
    for position in range(int(positions.max()) + 1):
        views = np.flatnonzero(positions == position)
        step = section.angle_step_deg if section.angle_step_deg is not None else (section.arc_deg or 0.0) / views.size
        angles_deg[views] = step * np.arange(views.size, dtype=np.float64)
    return angles_deg


_ANGLE_KEYS = {"angles_deg", "angles_file", "angle_start_deg", "angle_step_deg", "arc_deg", "sense", "table_turns"}
_PITCH_KEYS = {"pitch_mm", "pitch_u_mm", "pitch_v_mm"}
_PANEL_KEYS = {
    "sod_mm", "sdd_mm", "offset_u_mm", "offset_v_mm", "center_col", "center_row", "roll_deg", "z_mm", "column_gaps",
}  # fmt: skip
#: What a ``[geometry]`` without a kind may correct in the cone beam that the files give.
_OVERRIDES = ("center_col", "center_row", "offset_u_mm", "offset_v_mm", "roll_deg", "column_gaps")
_KEYS_OF_KIND = {
    "circular": _ANGLE_KEYS | _PITCH_KEYS | _PANEL_KEYS,
    "parallel": _ANGLE_KEYS | _PITCH_KEYS,
    "poses": {"poses_file", "column_gaps"},
}


def _refuse_other_kinds(section: GeometrySection, where: str) -> None:
    """A key that this kind of geometry would ignore is a mistake."""
    assert section.kind is not None
    allowed = _KEYS_OF_KIND[section.kind] | {"kind", "rows", "cols"}
    for f in fields(section):
        if f.name not in allowed and getattr(section, f.name) != f.default:
            raise ScanDescriptionError(
                f"{where} of kind '{section.kind}' does not take the key '{f.name}': leave it out"
            )


def _refuse_offsets_of_positions(description: ScanDescription) -> None:
    """Offsets of camera positions are for a circular orbit that the description gives, and for views that it names."""
    kind = None if description.geometry is None else description.geometry.kind
    for number, position in enumerate(description.camera_positions):
        given = [name for name in ("offset_u_mm", "center_col") if getattr(position, name) is not None]
        where = f"{description.name}: [[camera_positions]] {number}"
        if given and kind != "circular":
            raise ScanDescriptionError(
                f"{where} has '{given[0]}', which is for a [geometry] of kind 'circular': else the poses say it"
            )
        if given and position.views is None:
            raise ScanDescriptionError(f"{where} has '{given[0]}', but names no views that it is for: add views")


def _stepped_geometry(
    description: ScanDescription,
    section: GeometrySection,
    beta_rad: NDArray[np.float64],
    n_rows: int,
    n_cols: int,
    where: str,
) -> ConeBeamGeometry:
    """A circular orbit, the panel where each camera position says; ``[geometry]`` says it for those that do not."""
    positions = described_positions(description, beta_rad.size)
    if positions is None:
        return _circular_geometry(description, section, beta_rad, n_rows, n_cols, where)
    poses = np.empty((beta_rad.size, 12))
    for number, position in enumerate(description.camera_positions):
        views = np.flatnonzero(positions == number)
        if position.offset_u_mm is None and position.center_col is None:
            placed, said = section, where
        else:
            placed = replace(section, offset_u_mm=position.offset_u_mm, center_col=position.center_col)
            said = f"{description.name}: [[camera_positions]] {number}"
        poses[views] = _circular_geometry(description, placed, beta_rad[views], n_rows, n_cols, said).poses
    return ConeBeamGeometry(poses, n_rows, n_cols)


def _pitches(section: GeometrySection) -> tuple[float | None, float | None]:
    """Pixel pitch along u and v."""
    pitch_u = section.pitch_u_mm if section.pitch_u_mm is not None else section.pitch_mm
    pitch_v = section.pitch_v_mm if section.pitch_v_mm is not None else section.pitch_mm
    return pitch_u, pitch_v


def _circular_geometry(
    description: ScanDescription,
    section: GeometrySection,
    beta_rad: NDArray[np.float64],
    n_rows: int,
    n_cols: int,
    where: str,
) -> ConeBeamGeometry:
    """A circular orbit, its panel upright or rolled."""
    pitch_u, pitch_v = _pitches(section)
    needed = {"sod_mm": section.sod_mm, "sdd_mm": section.sdd_mm, "pitch_u_mm": pitch_u, "pitch_v_mm": pitch_v}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        hint = " (or pitch_mm for both)" if missing[0].startswith("pitch") else ""
        raise ScanDescriptionError(f"{where} of kind 'circular' needs {missing[0]}{hint}")
    lengths = {name: value for name, value in needed.items() if value is not None}
    offset_u = _offset_u(description, section, n_cols, lengths["pitch_u_mm"], where)
    offset_v = _offset_v(description, section, n_rows, lengths["pitch_v_mm"], where)
    try:
        upright = ConeBeamGeometry.circular(
            **lengths,
            angles_rad=beta_rad,
            n_rows=n_rows,
            n_cols=n_cols,
            offset_u_mm=offset_u or 0.0,
            offset_v_mm=offset_v or 0.0,
            z_mm=section.z_mm,
        )
    except GeometryError as error:
        raise ScanDescriptionError(f"{where}: {error}") from error
    return place_panel(upright, roll_rad=math.radians(section.roll_deg)) if section.roll_deg else upright


def _with_gaps(
    description: ScanDescription, section: GeometrySection, geometry: ConeBeamGeometry, where: str
) -> ConeBeamGeometry:
    """The geometry with the gaps between chips, which count columns as the frames are stored."""
    gaps, n_cols = section.column_gaps, geometry.n_cols
    if not gaps:
        return geometry
    if description.cols == "right-to-left":
        gaps = tuple((n_cols - stop, n_cols - start) for start, stop in reversed(gaps))
    try:
        return replace(geometry, column_gaps=gaps)
    except GeometryError as error:
        raise ScanDescriptionError(f"{where}: {error}") from error


def _offset_u(
    description: ScanDescription, section: GeometrySection, n_cols: int, pitch_mm: float, where: str
) -> float | None:
    """See `_offset`."""
    mirrored = description.cols == "right-to-left"
    return _offset(section, "offset_u_mm", "center_col", n_cols, pitch_mm, mirrored, where)


def _offset_v(
    description: ScanDescription, section: GeometrySection, n_rows: int, pitch_mm: float, where: str
) -> float | None:
    """See `_offset`."""
    mirrored = description.rows == "top-down"
    return _offset(section, "offset_v_mm", "center_row", n_rows, pitch_mm, mirrored, where)


def _offset(
    section: GeometrySection, offset_key: str, center_key: str, n: int, pitch_mm: float, mirrored: bool, where: str
) -> float | None:
    """Shift of the panel's middle from the foot of the central ray [mm], None if not given.

    Centres count in the files' own order.
    """
    offset, center = getattr(section, offset_key), getattr(section, center_key)
    if offset is not None and center is not None:
        raise ScanDescriptionError(f"{where} needs {offset_key} or {center_key}, not both: keep one")
    if center is not None:
        if mirrored:
            center = n - 1 - center
        return float(((n - 1) / 2 - center) * pitch_mm)
    return None if offset is None else float(offset)


def _geometry_from_poses(
    description: ScanDescription, section: GeometrySection, n_views: int, n_rows: int, n_cols: int, where: str
) -> ConeBeamGeometry:
    """Poses as they are, 12 numbers a view."""
    if section.poses_file is None:
        raise ScanDescriptionError(f"{where} of kind 'poses' needs poses_file, the name of a file of 12 numbers a view")
    path = description.file(section.poses_file)
    poses = read_numbers(path)
    if poses.ndim != 2 or poses.shape[1] != 12:
        raise ScanDescriptionError(
            f"{path}: poses need 12 numbers a view (source, middle of the panel, step along u, step along v), got an "
            f"array of shape {poses.shape}"
        )
    if poses.shape[0] != n_views:
        raise ScanDescriptionError(f"{path}: got {poses.shape[0]} poses for {n_views} views, expected one a view")
    try:
        return ConeBeamGeometry(poses, n_rows, n_cols)
    except GeometryError as error:
        raise ScanDescriptionError(f"{path}: {error}") from error
