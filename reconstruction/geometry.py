# SPDX-License-Identifier: Apache-2.0
"""Poses, orbits, volume grids and slabs in the project's one frame of reference.

Frame: right-handed, millimetres, rotation axis +z, sample at rest.  At view angle beta,
counter-clockwise seen from +z, the source stands at ``(sod cos beta, sod sin beta, z)``.
Detector u points along ``(-sin beta, cos beta, 0)``, to the right as seen from the source, and
v along +z.  Pixel ``(row j, column i)`` has its centre at
``detector_center + (i - (n_cols - 1)/2) u_step + (j - (n_rows - 1)/2) v_step``; row 0 is the
lowest v.  ``docs/geometry.md`` draws it and maps it to RTK, ASTRA, TIGRE and DICOM.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.errors import GeometryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]

Vector = tuple[float, float, float]

#: A pose counts as part of a circular orbit if it is off by less than this share of the panel's pitch.
ORBIT_TOLERANCE_PIXELS = 1e-4
#: Largest gap between neighbouring views, in units of the mean one, that still is an evenly spaced turn.
FULL_TURN_GAP_RATIO = 1.5


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the source and the panel stand for one view: 12 numbers [mm].

    Attributes
    ----------
    source_mm, detector_center_mm : (x, y, z)
        The focal spot, and the middle of the panel (between pixels if a side has an even count).
    u_step_mm, v_step_mm : (x, y, z)
        From one pixel centre to the next along a row, and along a column; their lengths are the pixel pitch.
    """

    source_mm: Vector
    detector_center_mm: Vector
    u_step_mm: Vector
    v_step_mm: Vector

    def as_array(self) -> Float64Array:
        """Return the pose as (12,) float64: source, detector centre, u step, v step."""
        return np.array([*self.source_mm, *self.detector_center_mm, *self.u_step_mm, *self.v_step_mm], dtype=np.float64)

    @classmethod
    def from_array(cls, values: Float64Array) -> Pose:
        """Make a pose from (12,) float64 in the order of `as_array`."""
        v = [float(x) for x in values]
        if len(v) != 12:
            raise GeometryError(f"a pose has 12 numbers, got {len(v)}")
        return cls((v[0], v[1], v[2]), (v[3], v[4], v[5]), (v[6], v[7], v[8]), (v[9], v[10], v[11]))


@dataclass(frozen=True, slots=True)
class CircularOrbit:
    """A circular orbit about +z with an untilted panel, as the fast kernels want it.

    Attributes
    ----------
    sod_mm, sdd_mm : float
        Source to rotation axis, source to detector.
    angles_rad : (view,) float64
        View angles beta as the poses give them, in (-pi, pi].
    pitch_u_mm, pitch_v_mm : float
        The detector's pixel pitch.
    center_col, center_row : float
        Foot of the central ray, pixel centres at integers.
    z_mm : float
        Height of the orbit's plane.
    """

    sod_mm: float
    sdd_mm: float
    angles_rad: Float64Array
    pitch_u_mm: float
    pitch_v_mm: float
    center_col: float
    center_row: float
    z_mm: float


@dataclass(frozen=True)
class ConeBeamGeometry:
    """The poses of all views of a scan and the size of the panel.

    Attributes
    ----------
    poses : (view, 12) float64
        One row for each view, in the order of `Pose.as_array`; made read-only.
    n_rows, n_cols : int
        Size of the panel in pixels.
    column_gaps : ((start, stop), ...)
        Columns ``start <= column < stop`` that measure nothing, over all rows (the seams between chips); ascending.

    Raises
    ------
    GeometryError
        If a number is not finite, the panel is empty, a pose is degenerate, or a gap is not on the panel.
    """

    poses: Float64Array = field(repr=False)
    n_rows: int
    n_cols: int
    column_gaps: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        poses = np.array(self.poses, dtype=np.float64, order="C")
        if poses.ndim != 2 or poses.shape[1] != 12 or poses.shape[0] < 1:
            raise GeometryError(f"poses need the shape (view, 12), got {poses.shape}")
        if self.n_rows < 1 or self.n_cols < 1:
            raise GeometryError(f"a panel needs at least one pixel, got {self.n_rows} rows x {self.n_cols} columns")
        bad = np.flatnonzero(~np.isfinite(poses).all(axis=1))
        if bad.size:
            raise GeometryError(f"the pose of view {int(bad[0])} has a number that is not finite")
        normal = np.cross(poses[:, 6:9], poses[:, 9:12])
        depth = np.einsum("vi,vi->v", normal, poses[:, 0:3] - poses[:, 3:6])
        flat = np.flatnonzero(np.abs(depth) <= 1e-12)
        if flat.size:
            raise GeometryError(f"view {int(flat[0])} has its source in the plane of the panel, or no pixel pitch")
        poses.setflags(write=False)
        object.__setattr__(self, "poses", poses)
        gaps = tuple((int(start), int(stop)) for start, stop in self.column_gaps)
        borders = [0, *(border for gap in gaps for border in gap), self.n_cols]
        if any(a >= b for a, b in gaps) or any(a > b for a, b in itertools.pairwise(borders)):
            raise GeometryError(
                f"column gaps must be ascending and lie on the panel's {self.n_cols} columns, got {self.column_gaps}"
            )
        object.__setattr__(self, "column_gaps", gaps)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConeBeamGeometry):
            return NotImplemented
        same_panel = (self.n_rows, self.n_cols, self.column_gaps) == (other.n_rows, other.n_cols, other.column_gaps)
        return same_panel and np.array_equal(self.poses, other.poses)

    def __hash__(self) -> int:
        return hash((self.n_rows, self.n_cols, self.column_gaps, self.poses.tobytes()))

    @classmethod
    def circular(
        cls,
        *,
        sod_mm: float,
        sdd_mm: float,
        angles_rad: Sequence[float] | Float64Array,
        n_rows: int,
        n_cols: int,
        pitch_u_mm: float,
        pitch_v_mm: float,
        offset_u_mm: float = 0.0,
        offset_v_mm: float = 0.0,
        z_mm: float = 0.0,
    ) -> ConeBeamGeometry:
        """Make the geometry of a circular orbit about +z with an upright panel.

        Parameters
        ----------
        sod_mm, sdd_mm : float
            Source to rotation axis, source to detector.
        angles_rad : (view,) float
            View angles beta, counter-clockwise seen from +z.
        pitch_u_mm, pitch_v_mm : float
            Pixel pitch of the detector along a row, and along a column.
        offset_u_mm, offset_v_mm : float
            By how much the middle of the panel is moved from the foot of the central ray.
        z_mm : float
            Height of the orbit's plane.

        Raises
        ------
        GeometryError
            If a length is not positive, the panel does not lie behind the axis, or there is no angle.
        """
        lengths = {"sod_mm": sod_mm, "sdd_mm": sdd_mm, "pitch_u_mm": pitch_u_mm, "pitch_v_mm": pitch_v_mm}
        for name, value in lengths.items():
            if not (math.isfinite(value) and value > 0):
                raise GeometryError(f"{name} must be a positive length, got {value}")
        if sdd_mm <= sod_mm:
            raise GeometryError(f"the detector must lie behind the axis: sdd_mm {sdd_mm} is not above sod_mm {sod_mm}")
        beta = np.asarray(angles_rad, dtype=np.float64)
        if beta.ndim != 1 or beta.size == 0:
            raise GeometryError(f"angles_rad needs one number for each view, got the shape {beta.shape}")
        cos, sin = np.cos(beta), np.sin(beta)
        poses = np.zeros((beta.size, 12))
        poses[:, 0], poses[:, 1], poses[:, 2] = sod_mm * cos, sod_mm * sin, z_mm
        back = sod_mm - sdd_mm
        poses[:, 3] = back * cos - offset_u_mm * sin
        poses[:, 4] = back * sin + offset_u_mm * cos
        poses[:, 5] = z_mm + offset_v_mm
        poses[:, 6], poses[:, 7] = -pitch_u_mm * sin, pitch_u_mm * cos
        poses[:, 11] = pitch_v_mm
        return cls(poses, n_rows, n_cols)

    @property
    def n_views(self) -> int:
        """Number of views."""
        return int(self.poses.shape[0])

    def pose(self, view_index: int) -> Pose:
        """Return the pose of one view."""
        return Pose.from_array(self.poses[view_index])

    def select(self, view_indices: Sequence[int] | NDArray[np.int64] | slice) -> ConeBeamGeometry:
        """Return the geometry of some of the views, in the order given."""
        return ConeBeamGeometry(self.poses[view_indices], self.n_rows, self.n_cols, self.column_gaps)

    @cached_property
    def source_angles_rad(self) -> Float64Array:
        """(view,) float64: azimuth of the source about +z, in (-pi, pi]."""
        return np.arctan2(self.poses[:, 1], self.poses[:, 0])

    @cached_property
    def circular_orbit(self) -> CircularOrbit | None:
        """The orbit's numbers if every view lies on one circle with the panel upright, else None."""
        return _circular_orbit(self)

    @property
    def sod_mm(self) -> float:
        """Source to rotation axis [mm], mean over the views."""
        return float(np.hypot(self.poses[:, 0], self.poses[:, 1]).mean())

    @property
    def sdd_mm(self) -> float:
        """Source to detector plane, along its normal [mm], mean over the views."""
        normal = np.cross(self.poses[:, 6:9], self.poses[:, 9:12])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        return float(np.abs(np.einsum("vi,vi->v", normal, self.poses[:, 0:3] - self.poses[:, 3:6])).mean())

    @property
    def pitch_mm(self) -> tuple[float, float]:
        """Pixel pitch of the detector along v and u [mm]."""
        return float(np.linalg.norm(self.poses[0, 9:12])), float(np.linalg.norm(self.poses[0, 6:9]))

    @property
    def arc_rad(self) -> float:
        """Angle that the views cover, each view counting its mean step; 2 pi for a full turn."""
        if self.n_views == 1:
            return 0.0
        gaps = _gaps(self.source_angles_rad)
        widest = float(gaps.max())
        covered = 2 * math.pi - widest
        step = covered / (self.n_views - 1)
        return 2 * math.pi if widest <= FULL_TURN_GAP_RATIO * step else covered + step

    @property
    def is_full_turn(self) -> bool:
        """Whether the views go all the way round without a gap."""
        return self.arc_rad >= 2 * math.pi - 1e-9


def _gaps(angles_rad: Float64Array) -> Float64Array:
    """Gaps between neighbouring angles on the circle, the closing one last."""
    order = np.sort(np.mod(angles_rad, 2 * math.pi))
    return np.diff(np.append(order, order[0] + 2 * math.pi))


def _circular_orbit(geometry: ConeBeamGeometry) -> CircularOrbit | None:
    """Fit one circle to the poses; None where a pose is off by more than the tolerance."""
    poses = geometry.poses
    beta = geometry.source_angles_rad
    cos, sin = np.cos(beta), np.sin(beta)
    sod = float(np.hypot(poses[:, 0], poses[:, 1]).mean())
    z = float(poses[:, 2].mean())
    step_u = -poses[:, 6] * sin + poses[:, 7] * cos
    pitch_u, pitch_v = float(step_u.mean()), float(poses[:, 11].mean())
    if sod <= 0 or pitch_u <= 0 or pitch_v <= 0:
        return None
    offset_u = float((-poses[:, 3] * sin + poses[:, 4] * cos).mean())
    offset_v = float((poses[:, 5] - z).mean())
    sdd = sod - float((poses[:, 3] * cos + poses[:, 4] * sin).mean())
    if sdd <= sod:
        return None
    ideal = ConeBeamGeometry.circular(
        sod_mm=sod, sdd_mm=sdd, angles_rad=beta, n_rows=geometry.n_rows, n_cols=geometry.n_cols, pitch_u_mm=pitch_u,
        pitch_v_mm=pitch_v, offset_u_mm=offset_u, offset_v_mm=offset_v, z_mm=z,
    )  # fmt: skip
    off = np.abs(poses - ideal.poses)
    # A wrong step adds up over the panel: compare what it does at the panel's edge.
    off[:, 6:9] *= geometry.n_cols
    off[:, 9:12] *= geometry.n_rows
    if off.max() > ORBIT_TOLERANCE_PIXELS * min(pitch_u, pitch_v):
        return None
    return CircularOrbit(
        sod_mm=sod,
        sdd_mm=sdd,
        angles_rad=beta,
        pitch_u_mm=pitch_u,
        pitch_v_mm=pitch_v,
        center_col=(geometry.n_cols - 1) / 2 - offset_u / pitch_u,
        center_row=(geometry.n_rows - 1) / 2 - offset_v / pitch_v,
        z_mm=z,
    )


@dataclass(frozen=True, slots=True)
class VolumeGrid:
    """The voxels of a volume: indices (z, y, x), positions (x, y, z) [mm].

    Attributes
    ----------
    shape : (nz, ny, nx)
    voxel_pitch_mm : (pz, py, px)
        Distance of neighbouring voxel centres along z, y, x.
    center_mm : (x, y, z)
        The middle of the volume.
    """

    shape: tuple[int, int, int]
    voxel_pitch_mm: tuple[float, float, float]
    center_mm: Vector = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if np.shape(self.shape) != (3,) or min(self.shape) < 1:
            raise GeometryError(f"a volume grid needs three sizes of at least 1 (z, y, x), got {self.shape}")
        pitch = np.asarray(self.voxel_pitch_mm, dtype=np.float64)
        if pitch.shape != (3,) or not np.isfinite(pitch).all() or pitch.min() <= 0:
            raise GeometryError(f"a volume grid needs three positive pitches (z, y, x) [mm], got {self.voxel_pitch_mm}")
        center = np.asarray(self.center_mm, dtype=np.float64)
        if center.shape != (3,) or not np.isfinite(center).all():
            raise GeometryError(f"a volume grid's centre needs finite (x, y, z) [mm], got {self.center_mm}")

    @classmethod
    def cubic(cls, n: int, voxel_pitch_mm: float) -> VolumeGrid:
        """Return n^3 cubic voxels centred on the rotation axis."""
        return cls((n, n, n), (voxel_pitch_mm, voxel_pitch_mm, voxel_pitch_mm))

    @property
    def origin_mm(self) -> Vector:
        """Centre (x, y, z) of voxel (0, 0, 0)."""
        (nz, ny, nx), (pz, py, px), (cx, cy, cz) = self.shape, self.voxel_pitch_mm, self.center_mm
        return cx - (nx - 1) / 2 * px, cy - (ny - 1) / 2 * py, cz - (nz - 1) / 2 * pz

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    def slab_grid(self, slab: Slab) -> VolumeGrid:
        """Return the grid of one slab: the same voxels, z cut."""
        nz, ny, nx = self.shape
        if not 0 <= slab.z_start < slab.z_stop <= nz:
            raise GeometryError(f"slab {slab.z_start}:{slab.z_stop} does not lie in the {nz} slices of the volume")
        pz = self.voxel_pitch_mm[0]
        cx, cy, cz = self.center_mm
        middle = cz + ((slab.z_start + slab.z_stop - 1) / 2 - (nz - 1) / 2) * pz
        return VolumeGrid((slab.n_slices, ny, nx), self.voxel_pitch_mm, (cx, cy, middle))

    def field_radius_mm(self) -> float:
        """Radius about the rotation axis of the cylinder that holds all voxel centres [mm]."""
        _, ny, nx = self.shape
        _, py, px = self.voxel_pitch_mm
        cx, cy, _ = self.center_mm
        return math.hypot(abs(cx) + (nx - 1) / 2 * px, abs(cy) + (ny - 1) / 2 * py)


@dataclass(frozen=True, slots=True)
class Slab:
    """The slices ``z_start <= z < z_stop`` that one task makes."""

    z_start: int
    z_stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.z_start < self.z_stop:
            raise GeometryError(f"a slab needs 0 <= z_start < z_stop, got {self.z_start} and {self.z_stop}")

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return self.z_stop - self.z_start
