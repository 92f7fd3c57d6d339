# SPDX-License-Identifier: Apache-2.0
"""The FORBILD head and thorax phantoms: exact line integrals, and their truth on a grid.

Shapes are convex (ellipsoids, elliptic cylinders, boxes, truncated cones, each cut by planes) and are painted: where
two overlap, the later one counts.  A ray therefore meets each shape in one interval, and its line integral follows
from the ends of the intervals alone.  The tables are those of the FORBILD project of the University of Erlangen [1]_,
in centimetres and densities relative to water.

.. [1] Institute of Medical Physics, Erlangen, FORBILD phantoms; in a form made for computers by the RTK consortium.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from reconstruction.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid

    Float64Array = NDArray[np.float64]
    Float32Array = NDArray[np.float32]

ForbildName = Literal["head", "thorax"]
#: A shape is cut by at most so many planes.
MAX_CLIPS = 2
_KINDS = {"ellipsoid": 0, "cylinder": 1, "box": 2, "cone": 3}


@dataclass(frozen=True)
class PaintedPhantom:
    """Convex shapes of which the later one counts where two overlap, as arrays.

    Attributes
    ----------
    kinds : (shape,) int64
        0 ellipsoid, 1 elliptic cylinder, 2 box, 3 truncated cone along its own z.
    centers_mm : (shape, 3) float64
    to_local : (shape, 3, 3) float64 [1/mm]
        Takes a point less the centre to coordinates in which the shape is the unit ball, cylinder or cube; of a cone,
        x and y are in units of its mean radius.
    tapers : (shape,) float64
        Of a cone: its radius at local z is ``1 + taper z`` mean radii; 0 for the others.
    clips : (shape, MAX_CLIPS, 4) float64
        Planes: what has ``n . point <= d`` [mm] counts; (0, 0, 0, 1) for none.
    half_boxes_mm : (shape, 3) float64
        Half sides of upright boxes about the centres that hold the shapes.
    densities : (shape,) float64 [1/mm]
    """

    kinds: NDArray[np.int64]
    centers_mm: Float64Array
    to_local: Float64Array
    tapers: Float64Array
    clips: Float64Array
    half_boxes_mm: Float64Array
    densities: Float64Array

    @property
    def n_shapes(self) -> int:
        """Number of shapes."""
        return int(self.kinds.size)

    def line_integrals(
        self, geometry: ConeBeamGeometry, view_indices: Sequence[int] | None = None, *, supersample: int = 1
    ) -> Float32Array:
        """Integrate along the rays from the source to each pixel, exactly.

        Parameters
        ----------
        geometry : ConeBeamGeometry
        view_indices : sequence of int, optional
            All views if left out.
        supersample : int
            Rays along each side of a pixel whose line integrals are averaged.

        Returns
        -------
        (view, row, col) float32
            Line integrals [1].
        """
        from reconstruction.backends.painted_kernels import add_line_integrals

        if supersample < 1:
            raise ParameterError(f"supersample must be at least 1, got {supersample}")
        views = range(geometry.n_views) if view_indices is None else view_indices
        out = np.zeros((len(views), geometry.n_rows, geometry.n_cols))
        offsets = (np.arange(supersample) + 0.5) / supersample - 0.5
        for place, view in enumerate(views):
            pose = geometry.poses[view]
            source, steps = pose[0:3], np.stack([pose[6:9], pose[9:12]])
            for row_offset in offsets:
                for col_offset in offsets:
                    middle = np.array([col_offset - (geometry.n_cols - 1) / 2, row_offset - (geometry.n_rows - 1) / 2])
                    corner = pose[3:6] + middle @ steps
                    shadows = self._shadows(source, corner, steps, geometry.n_rows, geometry.n_cols)
                    add_line_integrals(
                        self.kinds, self.centers_mm, self.to_local, self.tapers, self.clips, self.densities, shadows,
                        source, corner, steps, out[place],
                    )  # fmt: skip
        return np.asarray(out / supersample**2, dtype=np.float32)

    def sample(self, grid: VolumeGrid, *, supersample: int = 1) -> Float32Array:
        """Sample the phantom on a grid.

        Parameters
        ----------
        grid : VolumeGrid
        supersample : int
            Points along each side of a voxel that say which share of it a shape covers: that share of what lies below
            is replaced.  1 takes the density at its centre.

        Returns
        -------
        (z, y, x) float32
            Densities [1/mm].
        """
        from reconstruction.backends.painted_kernels import sample_points

        if supersample < 1:
            raise ParameterError(f"supersample must be at least 1, got {supersample}")
        out = np.zeros(grid.shape, dtype=np.float32)
        pz, py, px = grid.voxel_pitch_mm
        sample_points(
            self.kinds, self.centers_mm, self.to_local, self.tapers, self.clips, self.half_boxes_mm, self.densities,
            np.array(grid.origin_mm), np.array([px, py, pz]), supersample, out,
        )  # fmt: skip
        return out

    def _shadows(
        self, source: Float64Array, corner: Float64Array, steps: Float64Array, n_rows: int, n_cols: int
    ) -> NDArray[np.int64]:
        """First and end row and column that each shape's box may project to: (shape, 4)."""
        signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
        corners = self.centers_mm[:, None] + signs * self.half_boxes_mm[:, None] - source
        solved = corners @ np.linalg.inv(np.column_stack([corner - source, *steps])).T
        behind = (solved[..., 0] <= 1e-9).any(axis=1)
        depth = np.where(solved[..., 0] > 1e-9, solved[..., 0], 1.0)
        found = np.empty((self.n_shapes, 4), dtype=np.int64)
        for place, (which, size) in enumerate(((2, n_rows), (1, n_cols))):
            pixels = np.clip(solved[..., which] / depth, -2, size + 1)
            found[:, 2 * place] = np.where(behind, 0, np.clip(np.floor(pixels.min(axis=1)) - 1, 0, size))
            found[:, 2 * place + 1] = np.where(behind, size, np.clip(np.ceil(pixels.max(axis=1)) + 2, 0, size))
        return found


def forbild(name: ForbildName, *, scale: float = 1.0, water_per_mm: float = 0.02) -> PaintedPhantom:
    """Make a FORBILD phantom.

    Parameters
    ----------
    name : {"head", "thorax"}
        The head reaches 96 x 120 x 125 mm from its middle, the thorax with its arms 250 x 100 x 250 mm.
    scale : float
        Factor on all lengths, for scanners of another size.
    water_per_mm : float
        mu of water [1/mm]; the tables' densities are relative to it.

    Raises
    ------
    ParameterError
        If the name is unknown or a number is not positive.
    """
    if name not in get_args(ForbildName):
        raise ParameterError(f"unknown FORBILD phantom '{name}': expected one of {', '.join(get_args(ForbildName))}")
    if not (scale > 0 and water_per_mm > 0):
        raise ParameterError(f"scale and water_per_mm must be positive, got {scale} and {water_per_mm}")
    table = resources.files("reconstruction").joinpath(f"forbild_tables/{name}.json").read_text()
    return painted_phantom(json.loads(table)["shapes"], length_mm=10.0 * scale, density_per_mm=water_per_mm)


def painted_phantom(
    shapes: Sequence[dict[str, Any]], *, length_mm: float = 1.0, density_per_mm: float = 1.0
) -> PaintedPhantom:
    """Make a phantom of shapes given as in the tables; units of length and density by the factors.

    A shape has ``kind``, ``center``, ``half`` (half axes; of a cone: radius at its low end, at its high end, half
    length), ``rho``, and perhaps ``axes`` (its own x, y, z as rows) and ``clips`` ((nx, ny, nz, d): n . point <= d).
    """
    count = len(shapes)
    kinds = np.array([_KINDS[shape["kind"]] for shape in shapes], dtype=np.int64)
    centers = np.array([shape["center"] for shape in shapes], dtype=np.float64).reshape(count, 3) * length_mm
    matrices, boxes = np.empty((count, 3, 3)), np.empty((count, 3))
    tapers, clips = np.zeros(count), np.tile([0.0, 0.0, 0.0, 1.0], (count, MAX_CLIPS, 1))
    for index, shape in enumerate(shapes):
        half = np.array(shape["half"], dtype=np.float64) * length_mm
        widest = half.copy()
        if shape["kind"] == "cone":
            mean = (half[0] + half[1]) / 2
            tapers[index] = (half[1] - half[0]) / (2 * mean)
            widest[:2] = max(half[0], half[1])
            half[:2] = mean
        axes = _orthonormal(shape.get("axes"))
        matrices[index] = axes / half[:, None]
        boxes[index] = np.abs(axes.T * widest).sum(axis=1)
        for place, plane in enumerate(shape.get("clips", ())):
            clips[index, place] = [*plane[:3], plane[3] * length_mm]
    densities = np.array([shape["rho"] for shape in shapes], dtype=np.float64) * density_per_mm
    return PaintedPhantom(kinds, centers, matrices, tapers, clips, boxes, densities)


def _orthonormal(axes: list[list[float]] | None) -> Float64Array:
    """The axes as rows; tables give them with a few digits, so that they are made orthogonal again."""
    if axes is None:
        return np.eye(3)
    left, _, right = np.linalg.svd(np.array(axes, dtype=np.float64))
    return np.asarray(left @ right)
