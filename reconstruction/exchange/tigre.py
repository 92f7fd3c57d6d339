# SPDX-License-Identifier: Apache-2.0
"""TIGRE's geometry: distances, offsets and rotations for each view, with the volume they belong to.

In TIGRE the source stands at (DSO, 0, 0) and the panel at (DSO - DSD, offDetector u, v); its pixels are turned about
its middle by Rz(roll) Ry(pitch) Rx(yaw), rotDetector holding yaw, pitch, roll; then all of it is turned by the angles
alpha, theta, psi (Rz Ry Rz), moved by COR along (-sin alpha, cos alpha, 0), and by -offOrigin against the volume.
Hence alpha is our beta.  Python counts axes as (z, y, x) and (v, u), MATLAB as (x, y, z) and (u, v); rotDetector is
the same in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from reconstruction.errors import GeometryError
from reconstruction.exchange.panels import (
    EXACT,
    Imported,
    PanelAxes,
    default_grid,
    euler_zyx,
    make_poses,
    rotation_x,
    rotation_y,
    rotations_z,
    turn,
)
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]

Order = Literal["python", "matlab"]

_NEEDED: Final = ("DSD", "DSO", "nDetector", "dDetector", "angles")
_KNOWN: Final = (
    *_NEEDED, "sDetector", "nVoxel", "dVoxel", "sVoxel", "offOrigin", "offDetector", "rotDetector", "COR", "mode",
    "accuracy", "n_proj", "filter", "unit", "order",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TigreGeometry:
    """TIGRE's numbers, in the order of its Python side: (z, y, x) for the volume, (v, u) for the panel; mm, rad.

    Attributes
    ----------
    angles : (view, 3) float64
        alpha, theta, psi.
    dsd, dso, cor : (view,) float64
    off_detector : (view, 2) float64
    rot_detector : (view, 3) float64
        yaw, pitch, roll: about x, y and z.
    off_origin : (view, 3) float64
    n_detector, d_detector : panel.
    n_voxel, d_voxel : volume, or None.
    """

    angles: Float64Array
    dsd: Float64Array
    dso: Float64Array
    cor: Float64Array
    off_detector: Float64Array
    rot_detector: Float64Array
    off_origin: Float64Array
    n_detector: tuple[int, int]
    d_detector: tuple[float, float]
    n_voxel: tuple[int, int, int] | None = None
    d_voxel: tuple[float, float, float] | None = None

    @property
    def n_views(self) -> int:
        """Number of views."""
        return int(self.angles.shape[0])


def to_tigre(geometry: ConeBeamGeometry, grid: VolumeGrid | None = None) -> TigreGeometry:
    """Return TIGRE's numbers; the source's height goes into offOrigin, which TIGRE takes per view.

    Raises
    ------
    GeometryError
        If TIGRE cannot hold the panel: skewed, mirrored, or of changing pitch; or a source stands on the axis.
    """
    axes = PanelAxes.of(geometry, "TIGRE")
    grid = grid or default_grid(geometry)
    source, center = geometry.poses[:, 0:3], geometry.poses[:, 3:6]
    dso = np.hypot(source[:, 0], source[:, 1])
    if dso.min() < EXACT * dso.max():
        raise GeometryError(f"TIGRE counts from the rotation axis, but the source of view {int(dso.argmin())} is on it")
    alpha = geometry.source_angles_rad
    back = rotations_z(-alpha)
    middle = turn(back, center - source * [0, 0, 1])
    panel = back @ np.stack([axes.normal, axes.u, axes.v], axis=2)
    roll, pitch, yaw = euler_zyx(panel)
    zero = np.zeros_like(alpha)
    x, y, z = grid.center_mm
    return TigreGeometry(
        angles=np.stack([alpha, zero, zero], axis=1),
        dsd=dso - middle[:, 0],
        dso=dso,
        cor=zero,
        off_detector=np.stack([middle[:, 2], middle[:, 1]], axis=1),
        rot_detector=np.stack([yaw, pitch, roll], axis=1),
        off_origin=np.stack([z - source[:, 2], zero + y, zero + x], axis=1),
        n_detector=(geometry.n_rows, geometry.n_cols),
        d_detector=(axes.pitch_v_mm, axes.pitch_u_mm),
        n_voxel=grid.shape,
        d_voxel=grid.voxel_pitch_mm,
    )


def from_tigre(numbers: TigreGeometry) -> Imported:
    """Return our poses and the volume.

    An offOrigin that is the same in all views moves the volume; one that changes (a helix) moves source and panel.
    """
    alpha, theta, psi = numbers.angles.T
    spin = rotations_z(alpha) @ rotation_y(theta) @ rotations_z(psi)
    yaw, pitch, roll = numbers.rot_detector.T
    panel = spin @ rotations_z(roll) @ rotation_y(pitch) @ rotation_x(yaw)
    zero = np.zeros_like(alpha)
    source = turn(spin, np.stack([numbers.dso, zero, zero], axis=1))
    off_v, off_u = numbers.off_detector.T
    center = turn(spin, np.stack([numbers.dso - numbers.dsd, off_u, off_v], axis=1))
    shift = numbers.cor[:, None] * np.stack([-np.sin(alpha), np.cos(alpha), zero], axis=1)
    origin = numbers.off_origin[:, ::-1]
    constant = np.abs(origin - origin[0]).max(axis=0) <= EXACT * numbers.dso.max()
    shift = shift - np.where(constant, 0.0, origin)
    pitch_v, pitch_u = numbers.d_detector
    poses = make_poses(source + shift, center + shift, panel[:, :, 1] * pitch_u, panel[:, :, 2] * pitch_v)
    n_rows, n_cols = numbers.n_detector
    return Imported(ConeBeamGeometry(poses, n_rows, n_cols), _grid(numbers, np.where(constant, origin[0], 0.0)))


def to_dict(numbers: TigreGeometry, order: Order = "python") -> dict[str, Any]:
    """Return the fields of TIGRE's geometry, with the angles, as lists and numbers.

    Parameters
    ----------
    numbers : TigreGeometry
    order : {"python", "matlab"}
        Which way round the axes are counted; MATLAB's arrays per view are (axis, view).
    """
    matlab = order == "matlab"

    def axes(values: tuple[float, ...] | tuple[int, ...]) -> list[float]:
        return list(values[::-1] if matlab else values)

    def per_view(values: Float64Array, *, flip: bool = True) -> list[Any]:
        kept = values[:1] if (values == values[0]).all() else values
        kept = kept[:, ::-1] if matlab and flip else kept
        if len(kept) == 1:
            return list(kept[0].tolist())
        return list((kept.T if matlab else kept).tolist())

    def scalar(values: Float64Array) -> float | list[float]:
        return float(values[0]) if (values == values[0]).all() else values.tolist()

    upright = not numbers.angles[:, 1:].any()
    angles = numbers.angles[:, 0] if upright else numbers.angles
    fields: dict[str, Any] = {
        "mode": "cone",
        "DSD": scalar(numbers.dsd),
        "DSO": scalar(numbers.dso),
        "nDetector": axes(numbers.n_detector),
        "dDetector": axes(numbers.d_detector),
        "sDetector": axes(tuple(n * d for n, d in zip(numbers.n_detector, numbers.d_detector, strict=True))),
        "offOrigin": per_view(numbers.off_origin),
        "offDetector": per_view(numbers.off_detector),
        "rotDetector": per_view(numbers.rot_detector, flip=False),
        "COR": scalar(numbers.cor),
        "accuracy": 0.5,
        "angles": (angles.T if matlab else angles).tolist(),
    }
    if numbers.n_voxel is not None and numbers.d_voxel is not None:
        fields["nVoxel"], fields["dVoxel"] = axes(numbers.n_voxel), axes(numbers.d_voxel)
        fields["sVoxel"] = axes(tuple(n * d for n, d in zip(numbers.n_voxel, numbers.d_voxel, strict=True)))
    return fields


def from_dict(values: Mapping[str, Any], where: str, order: Order = "python") -> TigreGeometry:
    """Read the fields of a TIGRE geometry, as its users save them.

    Parameters
    ----------
    values : attributes of ``tigre.geometry`` (or fields of MATLAB's ``geo``), and ``angles``.
    where : what to call the file in a message.
    order : {"python", "matlab"}
        Which way round the axes are counted.

    Raises
    ------
    GeometryError
        If a field is missing, unknown, of another shape, or the beam is parallel.
    """
    mode = str(values.get("mode") or "cone")
    if mode != "cone":
        raise GeometryError(f"{where}: the TIGRE geometry has the mode '{mode}', expected 'cone'")
    missing = [name for name in _NEEDED if values.get(name) is None]
    if missing:
        raise GeometryError(f"{where}: the TIGRE geometry lacks the field '{missing[0]}'")
    unknown = sorted(set(values) - set(_KNOWN))
    if unknown:
        raise GeometryError(
            f"{where}: the TIGRE geometry has the field '{unknown[0]}', which nothing here reads: take it out"
        )
    angles = _angles(values["angles"], where)
    read = _Fields(values, where, len(angles), matlab=order == "matlab")
    n_v, n_u = (int(n) for n in read.axes("nDetector", 2))
    d_v, d_u = read.axes("dDetector", 2)
    return TigreGeometry(
        angles=angles,
        dsd=read.scalar("DSD"),
        dso=read.scalar("DSO"),
        cor=read.scalar("COR"),
        off_detector=read.per_view("offDetector", 2),
        rot_detector=read.per_view("rotDetector", 3, flip=False),
        off_origin=read.per_view("offOrigin", 3),
        n_detector=(n_v, n_u),
        d_detector=(d_v, d_u),
        **read.volume(),
    )


class _Fields:
    """Reads fields of one number, of a few axes, or of those for each view."""

    def __init__(self, values: Mapping[str, Any], where: str, n_views: int, *, matlab: bool) -> None:
        self.values, self.where, self.n_views, self.matlab = values, where, n_views, matlab

    def scalar(self, name: str) -> Float64Array:
        """One number, or one a view."""
        array = self._array(name, [0.0]).ravel()
        if array.size not in (1, self.n_views):
            raise self._error(name, f"one number or {self.n_views}", array)
        return np.array(np.broadcast_to(array, self.n_views))

    def axes(self, name: str, n: int) -> list[float]:
        """One number for each axis."""
        array = self._array(name, None).ravel()
        if array.size != n:
            raise self._error(name, f"{n} numbers", array)
        return list((array[::-1] if self.matlab else array).tolist())

    def per_view(self, name: str, n: int, *, flip: bool = True) -> Float64Array:
        """`n` numbers, or as many for each view."""
        array = self._array(name, [0.0] * n)
        if array.size == n:
            array = array.reshape(1, n)
        elif self.matlab and array.shape == (n, self.n_views):
            array = array.T
        elif array.shape != (self.n_views, n):
            raise self._error(name, f"{n} numbers, or as many for each of {self.n_views} views", array)
        if self.matlab and flip:
            array = array[:, ::-1]
        return np.array(np.broadcast_to(array, (self.n_views, n)))

    def volume(self) -> dict[str, Any]:
        """The volume, if the geometry has one."""
        if self.values.get("nVoxel") is None or self.values.get("dVoxel") is None:
            return {}
        n_voxel = tuple(int(n) for n in self.axes("nVoxel", 3))
        d_voxel = tuple(self.axes("dVoxel", 3))
        return {"n_voxel": n_voxel, "d_voxel": d_voxel} if min(n_voxel) > 0 and min(d_voxel) > 0 else {}

    def _array(self, name: str, default: list[float] | None) -> Float64Array:
        value = self.values.get(name)
        try:
            array = np.asarray(default if value is None else value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise GeometryError(f"{self.where}: the field '{name}' should hold numbers: {error}") from error
        if not np.isfinite(array).all():
            raise GeometryError(f"{self.where}: the field '{name}' holds a number that is not finite")
        return array

    def _error(self, name: str, expected: str, array: Float64Array) -> GeometryError:
        return GeometryError(f"{self.where}: the field '{name}' needs {expected}, got an array of shape {array.shape}")


def _angles(value: Any, where: str) -> Float64Array:
    """Angles as (view, 3): alpha alone, or alpha, theta, psi; MATLAB has views along the second axis."""
    try:
        angles = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GeometryError(f"{where}: the angles should be numbers: {error}") from error
    if angles.ndim == 2 and angles.shape[0] in (1, 3) and angles.shape[1] != 3:
        angles = angles.T
    if angles.ndim < 2 or angles.shape[1] == 1:
        alpha = angles.reshape(-1)
        angles = np.stack([alpha, np.zeros_like(alpha), np.zeros_like(alpha)], axis=1)
    if angles.ndim != 2 or angles.shape[1] != 3 or not len(angles) or not np.isfinite(angles).all():
        raise GeometryError(f"{where}: angles need one number, or three, for each view, got the shape {angles.shape}")
    if np.abs(angles).max() > 100 * math.pi:
        raise GeometryError(f"{where}: an angle is {np.abs(angles).max():g} rad: TIGRE counts in rad, not in degrees")
    return angles


def _grid(numbers: TigreGeometry, center_mm: Float64Array) -> VolumeGrid | None:
    """The volume, its middle at (x, y, z)."""
    if numbers.n_voxel is None or numbers.d_voxel is None:
        return None
    x, y, z = (float(c) for c in center_mm)
    return VolumeGrid(numbers.n_voxel, numbers.d_voxel, (x, y, z))
