# SPDX-License-Identifier: Apache-2.0
"""LEAP's parameter files: ``cone`` (angles, centres, tau, tilt, helical pitch) and ``modular`` (vectors a view).

A file has lines ``key = value``; it always names a volume too.  A LEAP angle phi [deg] is our beta + 90 degrees.
With t its tilt, a cone has u = cos t (-sin beta, cos beta, 0) + sin t z and v = cos t z - sin t (-sin beta, cos beta,
0); tau moves source and panel by -tau along (-sin beta, cos beta, 0); row 0 is the lowest.  rowVectors run along v,
colVectors along u.  Projections are (view, row, col).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from reconstruction.errors import GeometryError
from reconstruction.exchange.panels import EXACT, Imported, PanelAxes, default_grid, make_poses
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]

Kind = Literal["auto", "cone", "modular"]

#: LEAP refuses a tilt beyond.
MAX_TILT_DEG: Final = 5.0
_LISTS: Final = ("phis", "sourcePositions", "moduleCenters", "rowVectors", "colVectors")
#: Keys of older files.
_LEGACY: Final = {
    "img_dimx": "numX", "img_dimy": "numY", "img_dimz": "numZ", "img_pwidth": "voxelWidth",
    "img_pheight": "voxelHeight", "img_offsetx": "offsetX",
    "img_offsety": "offsetY", "img_offsetz": "offsetZ", "proj_geometry": "geometry",
    "proj_nangles": "numAngles", "proj_nrows": "numRows", "proj_ncols": "numCols", "proj_pheight": "pixelHeight",
    "proj_pwidth": "pixelWidth", "proj_crow": "centerRow", "proj_ccol": "centerCol", "proj_arange": "angularRange",
    "proj_phis": "phis", "proj_sod": "sod", "proj_sdd": "sdd", "proj_tau": "tau", "proj_helicalpitch": "helicalPitch",
    "proj_tiltAngle": "tiltAngle", "proj_srcpos": "sourcePositions", "proj_modcenter": "moduleCenters",
    "proj_rowvec": "rowVectors", "proj_colvec": "colVectors",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LeapCone:
    """LEAP's ``cone`` with a flat panel: lengths in mm, angles in degrees, helical pitch in mm/rad."""

    phis_deg: Float64Array
    n_rows: int
    n_cols: int
    pixel_height: float
    pixel_width: float
    center_row: float
    center_col: float
    sod: float
    sdd: float
    tau: float = 0.0
    helical_pitch: float = 0.0
    tilt_deg: float = 0.0

    def to_geometry(self) -> ConeBeamGeometry:
        """Return our poses."""
        beta = np.deg2rad(self.phis_deg) - math.pi / 2
        cos, sin, zero, one = np.cos(beta), np.sin(beta), np.zeros_like(beta), np.ones_like(beta)
        tilt = math.radians(self.tilt_deg)
        side = np.stack([-sin, cos, zero], axis=1)
        up = np.stack([zero, zero, one], axis=1)
        u = math.cos(tilt) * side + math.sin(tilt) * up
        v = math.cos(tilt) * up - math.sin(tilt) * side
        height = (beta - (beta[0] + beta[-1]) / 2) * self.helical_pitch
        foot = height[:, None] * up - self.tau * side
        radial = np.stack([cos, sin, zero], axis=1)
        offset_u = ((self.n_cols - 1) / 2 - self.center_col) * self.pixel_width
        offset_v = ((self.n_rows - 1) / 2 - self.center_row) * self.pixel_height
        source = self.sod * radial + foot
        center = (self.sod - self.sdd) * radial + foot + offset_u * u + offset_v * v
        poses = make_poses(source, center, u * self.pixel_width, v * self.pixel_height)
        return ConeBeamGeometry(poses, self.n_rows, self.n_cols)


def to_cone(geometry: ConeBeamGeometry) -> LeapCone:
    """Return LEAP's ``cone`` of a geometry.

    Raises
    ------
    GeometryError
        If it is none: its sentence says why, and that ``modular`` can hold it.
    """
    axes = PanelAxes.of(geometry, "LEAP")
    beta = np.unwrap(geometry.source_angles_rad)
    radial = np.stack([np.cos(beta), np.sin(beta), np.zeros_like(beta)], axis=1)
    steps = np.diff(beta)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise GeometryError("LEAP's cone needs angles that only rise or only fall: its modular beam can hold this scan")
    source, center = geometry.poses[:, 0:3], geometry.poses[:, 3:6]
    n_rows, n_cols = geometry.n_rows, geometry.n_cols
    span = beta[-1] - beta[0]
    pitch = float((source[-1, 2] - source[0, 2]) / span) if span else 0.0
    tilt_deg = math.degrees(math.atan2(float(axes.u[0, 2]), float(axes.v[0, 2])))
    if abs(tilt_deg) > MAX_TILT_DEG:
        raise GeometryError(
            f"LEAP's cone tilts its panel by at most {MAX_TILT_DEG:g} degrees, but this one by {tilt_deg:.4g}: "
            "its modular beam can hold this scan"
        )
    way = center - source
    offset_u, offset_v = (float(np.einsum("vi,vi->v", way, axis).mean()) for axis in (axes.u, axes.v))
    cone = LeapCone(
        phis_deg=np.rad2deg(beta) + 90.0,
        n_rows=n_rows,
        n_cols=n_cols,
        pixel_height=axes.pitch_v_mm,
        pixel_width=axes.pitch_u_mm,
        center_row=(n_rows - 1) / 2 - offset_v / axes.pitch_v_mm,
        center_col=(n_cols - 1) / 2 - offset_u / axes.pitch_u_mm,
        sod=float(np.einsum("vi,vi->v", source, radial).mean()),
        sdd=float(-np.einsum("vi,vi->v", way, radial).mean()),
        helical_pitch=pitch if abs(pitch) > EXACT else 0.0,
        tilt_deg=tilt_deg if abs(tilt_deg) > EXACT else 0.0,
    )
    off = np.abs(cone.to_geometry().poses - geometry.poses).max(axis=0)
    if off.max() > EXACT * geometry.sdd_mm:
        raise GeometryError(
            "LEAP's cone needs one circle or helix about the axis and a panel that is tilted about the central ray at "
            f"most, but this scan is off by {off.max():.3g} mm: LEAP's modular beam can hold it"
        )
    return cone


def write_text(geometry: ConeBeamGeometry, grid: VolumeGrid | None = None, *, kind: Kind = "auto") -> str:
    """Return a LEAP parameter file.

    Parameters
    ----------
    geometry : ConeBeamGeometry
    grid : VolumeGrid, optional
        The volume, which LEAP's file must name; x and y need the same pitch.
    kind : {"auto", "cone", "modular"}
        ``auto`` takes a cone where it is exact.

    Raises
    ------
    GeometryError
        If LEAP cannot hold the panel or the volume, or `kind` is cone and the scan is none.
    """
    axes = PanelAxes.of(geometry, "LEAP")
    grid = grid or default_grid(geometry)
    _, pitch_y, pitch_x = grid.voxel_pitch_mm
    if pitch_x != pitch_y:
        raise GeometryError(f"LEAP needs voxels as wide along x as along y, got {pitch_x:g} and {pitch_y:g} mm")
    lines = ["# CT volume parameters", *_volume_lines(grid), "", "# CT geometry parameters"]
    if kind != "modular":
        try:
            return "\n".join([*lines, *_cone_lines(to_cone(geometry)), ""])
        except GeometryError:
            if kind == "cone":
                raise
    values: dict[str, float | str] = {
        "geometry": "modular",
        "numAngles": geometry.n_views,
        "numRows": geometry.n_rows,
        "numCols": geometry.n_cols,
        "pixelHeight": axes.pitch_v_mm,
        "pixelWidth": axes.pitch_u_mm,
        "centerRow": (geometry.n_rows - 1) / 2,
        "centerCol": (geometry.n_cols - 1) / 2,
        "sod": geometry.sod_mm,
        "sdd": geometry.sdd_mm,
        "tiltAngle": 0.0,
        "sourcePositions": _joined(geometry.poses[:, 0:3]),
        "moduleCenters": _joined(geometry.poses[:, 3:6]),
        "rowVectors": _joined(axes.v),
        "colVectors": _joined(axes.u),
    }
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in values.items()), ""])


def read_text(text: str, where: str) -> Imported:
    """Read a LEAP parameter file, of today's keys or of the older ones.

    Raises
    ------
    GeometryError
        If a key is missing, the geometry is not of a cone or modular beam, or the panel is curved.
    """
    values = _parse(text, where)
    kind = values.get("geometry")
    if kind is None:
        raise GeometryError(f"{where}: a LEAP parameter file needs the key 'geometry'")
    if kind not in ("cone", "modular"):
        raise GeometryError(f"{where}: the LEAP geometry is '{kind}', expected 'cone' or 'modular'")
    if values.get("detectorType", "flat") != "flat":
        raise GeometryError(f"{where}: the LEAP panel is '{values['detectorType']}', expected 'flat'")
    read = _Values(values, where)
    n_views, n_rows, n_cols = (read.count(key) for key in ("numAngles", "numRows", "numCols"))
    height, width = read.number("pixelHeight"), read.number("pixelWidth")
    if kind == "cone":
        geometry = LeapCone(
            phis_deg=read.angles_deg(n_views), n_rows=n_rows, n_cols=n_cols, pixel_height=height, pixel_width=width,
            center_row=read.number("centerRow"), center_col=read.number("centerCol"), sod=read.number("sod"),
            sdd=read.number("sdd"), tau=read.number("tau", 0.0), helical_pitch=read.number("helicalPitch", 0.0),
            tilt_deg=read.number("tiltAngle", 0.0),
        ).to_geometry()  # fmt: skip
    else:
        source, center, v, u = (read.vectors(key, n_views) for key in _LISTS[1:])
        v, u = (axis / np.linalg.norm(axis, axis=1, keepdims=True) for axis in (v, u))
        geometry = ConeBeamGeometry(make_poses(source, center, u * width, v * height), n_rows, n_cols)
    return Imported(geometry, read.grid())


class _Values:
    """Reads numbers and lists of a parsed parameter file."""

    def __init__(self, values: dict[str, str], where: str) -> None:
        self.values, self.where = values, where

    def number(self, key: str, default: float | None = None) -> float:
        """One number."""
        if key not in self.values:
            if default is None:
                raise GeometryError(f"{self.where}: a LEAP parameter file needs the key '{key}'")
            return default
        return self._floats(key, 1)[0]

    def count(self, key: str) -> int:
        """A whole number above 0."""
        value = self.number(key)
        if value < 1 or value != int(value):
            raise GeometryError(f"{self.where}: {key} should be a whole number above 0, got {value:g}")
        return int(value)

    def angles_deg(self, n_views: int) -> Float64Array:
        """The angles as listed, or evenly over ``angularRange``."""
        if self.values.get("phis"):
            return np.array(self._floats("phis", n_views))
        return np.arange(n_views, dtype=np.float64) * (self.number("angularRange") / n_views)

    def vectors(self, key: str, n_views: int) -> Float64Array:
        """Three numbers for each view."""
        if key not in self.values:
            raise GeometryError(f"{self.where}: a modular LEAP geometry needs the key '{key}'")
        return np.array(self._floats(key, 3 * n_views)).reshape(n_views, 3)

    def grid(self) -> VolumeGrid | None:
        """The volume, or None if it is not described."""
        names = ("numX", "numY", "numZ", "voxelWidth", "voxelHeight")
        if any(name not in self.values for name in names) or not all(self.number(name) > 0 for name in names):
            return None
        nx, ny, nz = (self.count(name) for name in names[:3])
        width, height = (self.number(name) for name in names[3:])
        x, y, z = (self.number(f"offset{axis}", 0.0) for axis in "XYZ")
        return VolumeGrid((nz, ny, nx), (height, width, width), (x, y, z))

    def _floats(self, key: str, n: int) -> list[float]:
        try:
            numbers = [float(word) for word in self.values[key].split(",")]
        except ValueError as error:
            raise GeometryError(f"{self.where}: {key} should hold numbers: {error}") from error
        if len(numbers) != n or not all(map(math.isfinite, numbers)):
            raise GeometryError(f"{self.where}: {key} should hold {n} finite numbers, got {len(numbers)}")
        return numbers


def _parse(text: str, where: str) -> dict[str, str]:
    """Keys and values; older keys under today's names."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise GeometryError(f"{where}: line {number} of a LEAP parameter file should be 'key = value'")
        name = key.strip()
        values[_LEGACY.get(name, name)] = value.strip()
    return values


def _volume_lines(grid: VolumeGrid) -> list[str]:
    (nz, ny, nx), (height, width, _), (x, y, z) = grid.shape, grid.voxel_pitch_mm, grid.center_mm
    values = {
        "numX": nx, "numY": ny, "numZ": nz, "voxelWidth": width, "voxelHeight": height, "offsetX": x, "offsetY": y,
        "offsetZ": z,
    }  # fmt: skip
    return [f"{key} = {value!r}" for key, value in values.items()]


def _cone_lines(cone: LeapCone) -> list[str]:
    values: dict[str, float | str] = {
        "geometry": "cone", "numAngles": cone.phis_deg.size, "numRows": cone.n_rows, "numCols": cone.n_cols,
        "pixelHeight": cone.pixel_height, "pixelWidth": cone.pixel_width, "centerRow": cone.center_row,
        "centerCol": cone.center_col, "phis": _joined(cone.phis_deg), "sod": cone.sod, "sdd": cone.sdd, "tau": cone.tau,
        "tiltAngle": cone.tilt_deg, "helicalPitch": cone.helical_pitch,
    }  # fmt: skip
    return [f"{key} = {value}" for key, value in values.items()]


def _joined(values: Float64Array) -> str:
    """All numbers with all their digits."""
    return ", ".join(repr(float(value)) for value in values.ravel())
