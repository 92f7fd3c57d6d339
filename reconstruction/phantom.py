# SPDX-License-Identifier: Apache-2.0
"""Analytic phantoms: ellipsoids and finite cylinders whose densities add.

A shape is the unit ball or the unit cylinder, stretched by its half axes, turned, and moved; every point x
of the scan's frame has the local coordinates ``R^T (x - centre) / half axes``.  Line integrals are in
``reconstruction.projector``, materials in ``reconstruction.materials``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from reconstruction.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import Vector, VolumeGrid

    Float64Array = NDArray[np.float64]
    Float32Array = NDArray[np.float32]

#: A rotation matrix by rows: ``scan frame = rotation @ local``.
Rotation = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
Contrast = Literal["original", "high"]

IDENTITY: Rotation = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

# Kak and Slaney, Principles of Computerized Tomographic Imaging (1988), table 3.3, in the book's axes, where the
# head's axis is z: half axes A, B, C, centre x, y, z, turn about z [deg], grey level.  The last column holds the
# grey levels of the same ellipsoids in Yu, Ye, Wang, Katsevich-type algorithms for variable radius spiral
# cone-beam CT (Proc. SPIE 5535, 2004): "high contrast".
_SHEPP_LOGAN = (
    (0.69, 0.92, 0.90, 0.0, 0.0, 0.0, 0.0, 2.0, 1.0),
    (0.6624, 0.874, 0.88, 0.0, 0.0, 0.0, 0.0, -0.98, -0.8),
    (0.41, 0.16, 0.21, -0.22, 0.0, -0.25, 108.0, -0.02, -0.2),
    (0.31, 0.11, 0.22, 0.22, 0.0, -0.25, 72.0, -0.02, -0.2),
    (0.21, 0.25, 0.50, 0.0, 0.35, -0.25, 0.0, 0.02, 0.2),
    (0.046, 0.046, 0.046, 0.0, 0.1, -0.25, 0.0, 0.02, 0.2),
    (0.046, 0.023, 0.02, -0.08, -0.65, -0.25, 0.0, 0.01, 0.1),
    (0.046, 0.023, 0.02, 0.06, -0.65, -0.25, 90.0, 0.01, 0.1),
    (0.056, 0.04, 0.1, 0.06, -0.105, 0.625, 90.0, 0.02, 0.2),
    (0.056, 0.056, 0.1, 0.0, 0.1, 0.625, 0.0, -0.02, -0.2),
)


def rotation_about(axis: Vector, angle_rad: float) -> Rotation:
    """Return the right-handed turn by an angle about an axis through the origin (Rodrigues' formula).

    Raises
    ------
    ParameterError
        If the axis has no length.
    """
    length = math.sqrt(sum(a * a for a in axis))
    if not (math.isfinite(length) and length > 0):
        raise ParameterError(f"a rotation needs an axis of some length, got {axis}")
    x, y, z = (a / length for a in axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return _as_rotation(np.eye(3) + math.sin(angle_rad) * cross + (1.0 - math.cos(angle_rad)) * (cross @ cross))


def compose(*rotations: Rotation) -> Rotation:
    """Return one rotation that does the given ones from the last to the first, as matrices multiply."""
    matrix = np.eye(3)
    for rotation in rotations:
        matrix = matrix @ np.array(rotation)
    return _as_rotation(matrix)


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields that ellipsoids and cylinders share; make one of those.

    Attributes
    ----------
    center_mm : (x, y, z)
    half_axes_mm : (a, b, c)
        Half axes along the shape's own x, y, z.
    density : float
        What the shape adds inside: mu [1/mm], or a share of a material; may be negative.
    rotation : 3 x 3
        Turns the shape's own axes into the scan's frame.
    name : str
        For people and truth files.
    """

    center_mm: Vector
    half_axes_mm: Vector
    density: float = 1.0
    rotation: Rotation = IDENTITY
    name: str = ""

    def __post_init__(self) -> None:
        if np.shape(self.center_mm) != (3,) or not np.isfinite(self.center_mm).all():
            raise ParameterError(f"a shape's centre needs finite (x, y, z) [mm], got {self.center_mm}")
        axes = np.asarray(self.half_axes_mm, dtype=np.float64)
        if axes.shape != (3,) or not np.isfinite(axes).all() or axes.min() <= 0:
            raise ParameterError(f"a shape needs three positive half axes [mm], got {self.half_axes_mm}")
        if not math.isfinite(self.density):
            raise ParameterError(f"a shape's density must be finite, got {self.density}")
        matrix = np.asarray(self.rotation, dtype=np.float64)
        if matrix.shape != (3, 3) or not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-9):
            raise ParameterError(f"a shape's rotation must be an orthonormal 3 x 3 matrix, got {self.rotation}")

    def local_matrix(self) -> Float64Array:
        """Return (3, 3) float64 that takes scan coordinates less the centre to local ones (unit shape) [1/mm]."""
        return np.asarray(np.array(self.rotation).T / np.array(self.half_axes_mm)[:, None], dtype=np.float64)

    def bounding_half_size_mm(self) -> Float64Array:
        """Return (3,) float64: half the sides of an upright box about the centre that holds the shape [mm]."""
        return np.asarray(np.abs(np.array(self.rotation) * np.array(self.half_axes_mm)).sum(axis=1), dtype=np.float64)


class Ellipsoid(Shape):
    """An ellipsoid; see `Shape` for its fields."""

    __slots__ = ()


class Cylinder(Shape):
    """A finite, possibly elliptic cylinder along its own z; the third half axis is half its height."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Phantom:
    """Shapes whose densities add where they overlap."""

    shapes: tuple[Shape, ...]

    def __post_init__(self) -> None:
        if any(not isinstance(s, (Ellipsoid, Cylinder)) for s in self.shapes):
            raise ParameterError("a phantom is made of Ellipsoid and Cylinder shapes")

    def scaled(self, factor: float) -> Phantom:
        """Return the same shapes with their densities multiplied."""
        return Phantom(tuple(replace(s, density=s.density * factor) for s in self.shapes))

    def density_at(self, point_mm: Vector) -> float:
        """Return the density at one point."""
        total = 0.0
        for s in self.shapes:
            x, y, z = s.local_matrix() @ (np.asarray(point_mm) - np.asarray(s.center_mm))
            total += s.density if bool(_contains(s, x, y, z)) else 0.0
        return total


def sample(phantom: Phantom, grid: VolumeGrid, *, supersample: int = 1) -> Float32Array:
    """Sample a phantom on a grid of voxels.

    Parameters
    ----------
    phantom : Phantom
    grid : VolumeGrid
    supersample : int
        Points along each side of a voxel whose mean it gets; 1 takes the density at its centre.

    Returns
    -------
    (z, y, x) float32
        In the unit of the densities.

    Raises
    ------
    ParameterError
        If `supersample` is below 1.
    """
    if supersample < 1:
        raise ParameterError(f"supersample must be at least 1, got {supersample}")
    volume = np.zeros(grid.shape, dtype=np.float64 if grid.n_voxels < 2**20 else np.float32)
    offsets = (np.arange(supersample) + 0.5) / supersample - 0.5
    for shape in phantom.shapes:
        _add_shape(volume, shape, grid, offsets)
    return volume.astype(np.float32)


def _add_shape(volume: NDArray[np.floating], shape: Shape, grid: VolumeGrid, offsets: Float64Array) -> None:
    """Add the share of each voxel that lies in the shape, times its density; slice by slice, in its box only."""
    origin = np.asarray(grid.origin_mm)
    pitch = np.asarray(grid.voxel_pitch_mm[::-1])
    size = np.asarray(grid.shape[::-1])
    half = shape.bounding_half_size_mm()
    center = np.asarray(shape.center_mm)
    first = np.clip(np.floor((center - half - origin) / pitch - 0.5), 0, size).astype(int)
    last = np.clip(np.ceil((center + half - origin) / pitch + 0.5) + 1, 0, size).astype(int)
    if (first >= last).any():
        return
    matrix = shape.local_matrix()
    # Subpoints become a finer axis: (voxels * offsets) positions, averaged per voxel at the end.
    x, y, z = (
        ((np.arange(first[k], last[k])[:, None] + offsets) * pitch[k] + origin[k] - center[k]).ravel() for k in range(3)
    )
    plane = [matrix[k, 0] * x + matrix[k, 1] * y[:, None] for k in range(3)]
    n = offsets.size
    for index in range(first[2], last[2]):
        inside = np.zeros((last[1] - first[1], last[0] - first[0]))
        for height in z[(index - first[2]) * n : (index - first[2] + 1) * n]:
            hit = _contains(shape, *(plane[k] + matrix[k, 2] * height for k in range(3)))
            inside += hit if n == 1 else hit.reshape(inside.shape[0], n, inside.shape[1], n).sum(axis=(1, 3))
        volume[index, first[1] : last[1], first[0] : last[0]] += inside * (shape.density / n**3)


def shepp_logan_3d(radius_mm: float, *, contrast: Contrast = "original", scale: float = 1.0) -> Phantom:
    """Make the 3-D Shepp-Logan head of Kak and Slaney.

    The book's (x, y, z) are our (y, x, z), so that it is RTK's ``SheppLoganPhantomFilter`` of the same
    ``PhantomScale`` under the mapping of ``docs/geometry.md``.

    Parameters
    ----------
    radius_mm : float
        Length of the table's unit; the head then reaches 0.92 of it.
    contrast : {"original", "high"}
        Grey levels: the book's 2.0, -0.98, 0.01 ..., or 1.0, -0.8, 0.1 ... of Yu, Ye and Wang.
    scale : float
        Factor on all grey levels, e.g. 0.02 for a head of about water [1/mm].

    Raises
    ------
    ParameterError
        If the radius is not positive or the contrast is unknown.
    """
    _require_positive("radius_mm", radius_mm)
    if contrast not in ("original", "high"):
        raise ParameterError(f"contrast must be 'original' or 'high', got '{contrast}'")
    level = 7 if contrast == "original" else 8
    return Phantom(
        tuple(
            Ellipsoid(
                center_mm=(row[4] * radius_mm, row[3] * radius_mm, row[5] * radius_mm),
                half_axes_mm=(row[1] * radius_mm, row[0] * radius_mm, row[2] * radius_mm),
                density=row[level] * scale,
                rotation=rotation_about((0.0, 0.0, 1.0), -math.radians(row[6])),
                name=f"shepp-logan {number}",
            )
            for number, row in enumerate(_SHEPP_LOGAN, start=1)
        )
    )


def marker_phantom(radius_mm: float, *, mu_per_mm: float = 0.02) -> Phantom:
    """Make a phantom that no mirror image and no swap of axes leaves as it is.

    A cylinder of `mu_per_mm` with balls at +x (+100 %, large), at +y/2 (+200 %), at +z (+300 %, small), and one in the
    (+x, +y, +z) octant (emptied: -100 %).  All of it lies within `radius_mm` of the origin.
    """
    _require_positive("radius_mm", radius_mm)
    r, mu = radius_mm, mu_per_mm

    def ball(name: str, center: Vector, radius: float, density: float) -> Ellipsoid:
        x, y, z = center
        return Ellipsoid((x * r, y * r, z * r), (radius * r,) * 3, density * mu, name=name)

    return Phantom(
        (
            Cylinder((0.0, 0.0, 0.0), (0.8 * r, 0.8 * r, 0.55 * r), mu, name="body"),
            ball("+x", (0.56, 0.0, 0.0), 0.17, 1.0),
            ball("+y/2", (0.0, 0.35, 0.0), 0.13, 2.0),
            ball("+z", (0.0, 0.0, 0.4), 0.10, 3.0),
            ball("+x+y+z", (0.36, 0.36, 0.3), 0.14, -1.0),
        )
    )


def uniform_cylinder(radius_mm: float, height_mm: float, mu_per_mm: float) -> Phantom:
    """Make one upright cylinder about the rotation axis."""
    _require_positive("radius_mm", radius_mm)
    _require_positive("height_mm", height_mm)
    body = Cylinder((0.0, 0.0, 0.0), (radius_mm, radius_mm, height_mm / 2), mu_per_mm, name="cylinder")
    return Phantom((body,))


def _contains(shape: Shape, x: Float64Array, y: Float64Array, z: Float64Array) -> NDArray[np.bool_]:
    """Tell which points, in the shape's local coordinates, lie inside; the surface counts as inside."""
    if isinstance(shape, Cylinder):
        return np.asarray((x * x + y * y <= 1.0) & (np.abs(z) <= 1.0))
    return np.asarray(x * x + y * y + z * z <= 1.0)


def _require_positive(name: str, value: float) -> None:
    """Refuse a length that is not positive and finite."""
    if not (math.isfinite(value) and value > 0):
        raise ParameterError(f"{name} must be a positive length, got {value}")


def _as_rotation(matrix: Float64Array) -> Rotation:
    """Turn a matrix into nested tuples of float."""
    a, b, c = ((float(row[0]), float(row[1]), float(row[2])) for row in matrix)
    return a, b, c
