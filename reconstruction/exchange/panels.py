# SPDX-License-Identifier: Apache-2.0
"""What the geometries of other programs have in common: a panel, its axes, and a volume to reconstruct."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.errors import GeometryError
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]

#: Share by which lengths may differ, and cosine by which right angles may be off, and still count as exact.
EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Panel:
    """What a geometry file leaves to the projections: how many pixels, how far apart, and where the first one lies.

    Attributes
    ----------
    n_rows, n_cols : int
    pitch_u_mm, pitch_v_mm : float or None
        Distance of neighbouring pixel centres along a row and along a column; None if the geometry file has it.
    first_u_mm, first_v_mm : float or None
        Where the centre of pixel (0, 0) lies in the file's own coordinates of the panel; None: the panel is centred.
    """

    n_rows: int
    n_cols: int
    pitch_u_mm: float | None = None
    pitch_v_mm: float | None = None
    first_u_mm: float | None = None
    first_v_mm: float | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """A geometry from another program's file.

    Attributes
    ----------
    geometry : the poses, in our frame.
    grid : the volume that the file names, or None.
    notes : plain sentences on what was assumed.
    """

    geometry: ConeBeamGeometry
    grid: VolumeGrid | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PanelAxes:
    """The axes of a panel that is a rectangle of the same pixels in all views.

    Attributes
    ----------
    u, v, normal : (view, 3) float64
        Unit vectors along a row, along a column, and their cross product, which points to the source's side.
    pitch_u_mm, pitch_v_mm : float
    """

    u: Float64Array
    v: Float64Array
    normal: Float64Array
    pitch_u_mm: float
    pitch_v_mm: float

    @classmethod
    def of(cls, geometry: ConeBeamGeometry, program: str, *, mirrored: bool = False) -> PanelAxes:
        """Return the axes of a geometry, for a program that knows no other panels.

        Parameters
        ----------
        geometry : ConeBeamGeometry
        program : what to call the format in a message.
        mirrored : whether the program can hold a panel that is seen from behind.

        Raises
        ------
        GeometryError
            If a panel is skewed or mirrored, or its pitch changes between the views.
        """
        steps = geometry.poses[:, 6:9], geometry.poses[:, 9:12]
        lengths = [np.linalg.norm(step, axis=1) for step in steps]
        for name, length in zip("uv", lengths, strict=True):
            changed = np.flatnonzero(np.abs(length - length[0]) > EXACT * length[0])
            if changed.size:
                view = int(changed[0])
                raise GeometryError(
                    f"{program} holds one pixel pitch for all views, but along {name} it is {length[0]:.6g} mm in "
                    f"view 0 and {length[view]:.6g} mm in view {view}: ASTRA vectors can hold that"
                )
        u, v = (step / length[:, None] for step, length in zip(steps, lengths, strict=True))
        cosine = np.abs(np.einsum("vi,vi->v", u, v))
        if cosine.max() > EXACT:
            view = int(cosine.argmax())
            raise GeometryError(
                f"{program} holds panels whose rows and columns are at right angles, but in view {view} they are at "
                f"{math.degrees(math.acos(min(1.0, float(cosine[view])))):.6g} degrees: ASTRA vectors can hold that"
            )
        normal = np.cross(u, v)
        depth = np.einsum("vi,vi->v", normal, geometry.poses[:, :3] - geometry.poses[:, 3:6])
        behind = np.flatnonzero(depth <= 0)
        if behind.size and not mirrored:
            raise GeometryError(
                f"{program} holds panels whose columns run to the right as seen from the source, but that of view "
                f"{int(behind[0])} is mirrored: flip the frames, or take ASTRA vectors"
            )
        return cls(u, v, normal, float(lengths[0].mean()), float(lengths[1].mean()))


def make_poses(source: Float64Array, center: Float64Array, u_step: Float64Array, v_step: Float64Array) -> Float64Array:
    """Join four (view, 3) arrays to (view, 12) poses."""
    return np.concatenate([source, center, u_step, v_step], axis=1)


def default_grid(geometry: ConeBeamGeometry) -> VolumeGrid:
    """Return a volume about the rotation axis: voxels of the panel's pitch at the axis, as many as it has pixels."""
    pitch_v, pitch_u = geometry.pitch_mm
    scale = geometry.sod_mm / geometry.sdd_mm
    voxel = min(pitch_u, pitch_v) * scale
    return VolumeGrid((geometry.n_rows, geometry.n_cols, geometry.n_cols), (voxel, voxel, voxel))


def rotations_z(angles_rad: Float64Array) -> Float64Array:
    """Return (view, 3, 3) rotations about +z, counter-clockwise as seen from +z."""
    cos, sin = np.cos(angles_rad), np.sin(angles_rad)
    matrices = np.zeros((np.size(angles_rad), 3, 3))
    matrices[:, 0, 0], matrices[:, 0, 1] = cos, -sin
    matrices[:, 1, 0], matrices[:, 1, 1] = sin, cos
    matrices[:, 2, 2] = 1.0
    return matrices


def turn(matrices: Float64Array, vectors: Float64Array) -> Float64Array:
    """Apply (view, 3, 3) matrices to (view, 3) vectors, one each."""
    return np.asarray(np.einsum("vij,vj->vi", matrices, vectors), dtype=np.float64)


def euler_zxy(matrices: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return angles (z, x, y) [rad] of rotations Rz Rx Ry (view, 3, 3); z is 0 where x is a quarter turn."""
    m = matrices
    cosine = np.hypot(m[:, 0, 1], m[:, 1, 1])
    x = np.arctan2(m[:, 2, 1], cosine)
    locked = cosine < 1e-12
    z = np.where(locked, 0.0, np.arctan2(-m[:, 0, 1], m[:, 1, 1]))
    y = np.where(locked, np.arctan2(m[:, 0, 2], m[:, 0, 0]), np.arctan2(-m[:, 2, 0], m[:, 2, 2]))
    return z, x, y


def euler_zyx(matrices: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return angles (z, y, x) [rad] of rotations Rz Ry Rx (view, 3, 3); z is 0 where y is a quarter turn."""
    m = matrices
    cosine = np.hypot(m[:, 0, 0], m[:, 1, 0])
    y = np.arctan2(-m[:, 2, 0], cosine)
    locked = cosine < 1e-12
    z = np.where(locked, 0.0, np.arctan2(m[:, 1, 0], m[:, 0, 0]))
    x = np.where(locked, np.arctan2(-m[:, 1, 2], m[:, 1, 1]), np.arctan2(m[:, 2, 1], m[:, 2, 2]))
    return z, y, x


def rotation_x(angles_rad: Float64Array) -> Float64Array:
    """Return (view, 3, 3) rotations about +x."""
    return np.roll(rotations_z(angles_rad), (1, 1), axis=(1, 2))


def rotation_y(angles_rad: Float64Array) -> Float64Array:
    """Return (view, 3, 3) rotations about +y."""
    return np.roll(rotations_z(angles_rad), (2, 2), axis=(1, 2))
