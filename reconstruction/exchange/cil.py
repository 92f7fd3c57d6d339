# SPDX-License-Identifier: Apache-2.0
"""CIL's ``AcquisitionGeometry``: ``Cone3D`` (one system that turns) and ``Cone3D_Flex`` (vectors for each view).

A ``Cone3D`` is a static system of source, panel and rotation axis.  Before it is used, CIL moves its origin to the
rotation axis, turns the axis to +z, then all of it about z until the way from the source to the panel's middle points
to +y; a view at the angle a sees it turned by -(initial angle + a) about z.  Made from values, and as values: the CIL
package is not needed. Pixel (0, 0) is where the panel's ``origin`` says; ours is ``bottom-left``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from reconstruction.errors import GeometryError
from reconstruction.exchange.panels import EXACT, Imported, PanelAxes, make_poses, rotations_z, turn
from reconstruction.geometry import ConeBeamGeometry, Vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    Float64Array = NDArray[np.float64]

Origin = Literal["bottom-left", "bottom-right", "top-left", "top-right"]
ORIGINS: Final = ("bottom-left", "bottom-right", "top-left", "top-right")


@dataclass(frozen=True, slots=True)
class CilPanel:
    """CIL's panel: columns and rows, their pitch, and where pixel (0, 0) is."""

    n_cols: int
    n_rows: int
    pixel_size_h: float
    pixel_size_v: float
    origin: Origin = "bottom-left"

    @property
    def signs(self) -> tuple[int, int]:
        """Ways in which columns and rows run along direction x and y."""
        return -1 if self.origin.endswith("right") else 1, -1 if self.origin.startswith("top") else 1


@dataclass(frozen=True, slots=True)
class CilCone3D:
    """The arguments of ``AcquisitionGeometry.create_Cone3D``, ``set_panel`` and ``set_angles``; angles in degrees."""

    panel: CilPanel
    source_position: Vector
    detector_position: Vector
    detector_direction_x: Vector
    detector_direction_y: Vector
    rotation_axis_position: Vector
    rotation_axis_direction: Vector
    angles_deg: Float64Array
    initial_angle_deg: float = 0.0

    def to_geometry(self) -> ConeBeamGeometry:
        """Return our poses: the frame is the one in which CIL reconstructs."""
        axis = np.array(self.rotation_axis_position)
        to_z = _rotation_to_z(np.array(self.rotation_axis_direction))
        source, center = (to_z @ (np.array(p) - axis) for p in (self.source_position, self.detector_position))
        x, y = _unit_directions(to_z @ np.array(self.detector_direction_x), to_z @ np.array(self.detector_direction_y))
        way = center - source
        to_y = rotations_z(np.array([math.atan2(way[0], way[1])]))[0]
        spin = rotations_z(-np.deg2rad(self.angles_deg + self.initial_angle_deg)) @ to_y
        sign_u, sign_v = self.panel.signs
        static = (source, center, sign_u * self.panel.pixel_size_h * x, sign_v * self.panel.pixel_size_v * y)
        poses = make_poses(*(turn(spin, np.broadcast_to(v, (len(spin), 3))) for v in static))
        return ConeBeamGeometry(poses, self.panel.n_rows, self.panel.n_cols)


@dataclass(frozen=True, slots=True)
class CilFlex:
    """The arguments of ``AcquisitionGeometry.create_Cone3D_Flex`` and ``set_panel``; (view, 3) arrays."""

    panel: CilPanel
    source_positions: Float64Array
    detector_positions: Float64Array
    directions_x: Float64Array
    directions_y: Float64Array
    volume_center: Vector = (0.0, 0.0, 0.0)

    def to_geometry(self) -> ConeBeamGeometry:
        """Return our poses, in CIL's own coordinates."""
        pairs = [_unit_directions(x, y) for x, y in zip(self.directions_x, self.directions_y, strict=True)]
        sign_u, sign_v = self.panel.signs
        u = sign_u * self.panel.pixel_size_h * np.array([x for x, _ in pairs])
        v = sign_v * self.panel.pixel_size_v * np.array([y for _, y in pairs])
        poses = make_poses(self.source_positions, self.detector_positions, u, v)
        return ConeBeamGeometry(poses, self.panel.n_rows, self.panel.n_cols)


def to_cil(geometry: ConeBeamGeometry, *, flex: bool | None = None) -> CilCone3D | CilFlex:
    """Return CIL's values.

    Parameters
    ----------
    geometry : ConeBeamGeometry
    flex : bool, optional
        Whether to make a ``Cone3D_Flex``; left out, one is made only where a ``Cone3D`` cannot hold the scan.

    Raises
    ------
    GeometryError
        If CIL cannot hold the panel; or `flex` is False and the views are not one system that turns.
    """
    axes = PanelAxes.of(geometry, "CIL", mirrored=True)
    panel = CilPanel(geometry.n_cols, geometry.n_rows, axes.pitch_u_mm, axes.pitch_v_mm)
    if flex is not True:
        cone = _one_system(geometry, axes, panel)
        if cone is not None:
            return cone
        if flex is False:
            raise GeometryError(
                "CIL's Cone3D holds one system of source and panel that turns about an axis, but between these views "
                "it changes: Cone3D_Flex can hold them"
            )
    return CilFlex(panel, geometry.poses[:, 0:3], geometry.poses[:, 3:6], axes.u, axes.v)


def write_json(values: CilCone3D | CilFlex) -> str:
    """Return the values as JSON, its keys the arguments that CIL takes (docs/exchange.md has the lines that do it)."""
    panel = values.panel
    common = {
        "num_pixels": [panel.n_cols, panel.n_rows],
        "pixel_size": [panel.pixel_size_h, panel.pixel_size_v],
        "origin": panel.origin,
        "units": "mm",
    }
    if isinstance(values, CilFlex):
        made: dict[str, Any] = {
            "geometry": "Cone3D_Flex",
            "source_position_set": values.source_positions.tolist(),
            "detector_position_set": values.detector_positions.tolist(),
            "detector_direction_x_set": values.directions_x.tolist(),
            "detector_direction_y_set": values.directions_y.tolist(),
            "volume_centre_position": list(values.volume_center),
        }
    else:
        made = {
            "geometry": "Cone3D",
            "source_position": list(values.source_position),
            "detector_position": list(values.detector_position),
            "detector_direction_x": list(values.detector_direction_x),
            "detector_direction_y": list(values.detector_direction_y),
            "rotation_axis_position": list(values.rotation_axis_position),
            "rotation_axis_direction": list(values.rotation_axis_direction),
            "angles": values.angles_deg.tolist(),
            "initial_angle": values.initial_angle_deg,
            "angle_unit": "degree",
        }
    return json.dumps({**made, **common}) + "\n"


def from_dict(values: Mapping[str, Any], where: str) -> Imported:
    """Read the values of a ``Cone3D`` or ``Cone3D_Flex``, under the names of CIL's arguments.

    Raises
    ------
    GeometryError
        If the kind is another one, a key is missing, or a value is malformed.
    """
    kind = values.get("geometry")
    if kind not in ("Cone3D", "Cone3D_Flex"):
        raise GeometryError(f"{where}: the CIL geometry is '{kind}', expected 'Cone3D' or 'Cone3D_Flex'")
    try:
        columns, rows = (int(n) for n in values["num_pixels"])
        size_h, size_v = (float(x) for x in values["pixel_size"])
        panel = CilPanel(columns, rows, size_h, size_v, _origin(values.get("origin", "bottom-left"), where))
        notes: tuple[str, ...] = ()
        if kind == "Cone3D_Flex":
            made: CilCone3D | CilFlex = CilFlex(
                panel,
                _vectors(values["source_position_set"]),
                _vectors(values["detector_position_set"]),
                _vectors(values["detector_direction_x_set"]),
                _vectors(values["detector_direction_y_set"]),
            )
            center = _vector(values.get("volume_centre_position", (0.0, 0.0, 0.0)))
            if any(center):
                notes = (f"CIL's volume is centred on {center} mm: give the volume this centre.",)
        else:
            scale = 180 / math.pi if values.get("angle_unit", "degree") == "radian" else 1.0
            made = CilCone3D(
                panel,
                _vector(values["source_position"]),
                _vector(values["detector_position"]),
                _vector(values.get("detector_direction_x", (1, 0, 0))),
                _vector(values.get("detector_direction_y", (0, 0, 1))),
                _vector(values.get("rotation_axis_position", (0, 0, 0))),
                _vector(values.get("rotation_axis_direction", (0, 0, 1))),
                np.atleast_1d(np.asarray(values["angles"], dtype=np.float64)).ravel() * scale,
                float(values.get("initial_angle", 0.0)) * scale,
            )
        return Imported(made.to_geometry(), None, notes)
    except KeyError as error:
        raise GeometryError(f"{where}: a CIL geometry of kind {kind} lacks the key {error}") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, GeometryError):
            raise
        raise GeometryError(f"{where}: a CIL geometry of kind {kind} has a malformed value: {error}") from error


def _one_system(geometry: ConeBeamGeometry, axes: PanelAxes, panel: CilPanel) -> CilCone3D | None:
    """The static system that all views are turned copies of, or None."""
    beta = geometry.source_angles_rad
    way = geometry.poses[0, 3:6] - geometry.poses[0, 0:3]
    # The first view, turned until the way from the source to the panel's middle points to +y, as CIL does it.
    first = math.atan2(way[0], way[1])
    back = rotations_z(first - (beta - beta[0]))
    parts = geometry.poses[:, 0:3], geometry.poses[:, 3:6], axes.u, axes.v
    system = [turn(back, part) for part in parts]
    off = max(float(np.abs(part - part[0]).max()) * size for part, size in zip(
        system, (1.0, 1.0, panel.n_cols * panel.pixel_size_h, panel.n_rows * panel.pixel_size_v), strict=True
    ))  # fmt: skip
    if off > EXACT * geometry.sdd_mm:
        return None
    source, center, x, y = (_vector(part[0]) for part in system)
    angles_deg = np.mod(np.rad2deg(first - (beta - beta[0])), 360.0)
    return CilCone3D(panel, source, center, x, y, (0.0, 0.0, 0.0), (0.0, 0.0, 1.0), angles_deg)


def _rotation_to_z(direction: Float64Array) -> Float64Array:
    """The shortest rotation of a direction to +z; half a turn about x where it is -z."""
    length = float(np.linalg.norm(direction))
    if not length > 0:
        raise GeometryError("the direction of CIL's rotation axis has no length: give (0, 0, 1) for z")
    x, y, z = direction / length
    if math.isclose(z, -1.0, abs_tol=1e-12):
        return np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0.0, 0.0, -x], [0.0, 0.0, -y], [x, y, 0.0]])
    return np.asarray(np.eye(3) + cross + cross @ cross / (1 + z))


def _unit_directions(x: ArrayLike, y: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """Two directions of length 1, at right angles as CIL wants them."""
    a, b = (np.asarray(v, dtype=np.float64) / np.linalg.norm(v) for v in (x, y))
    if abs(float(a @ b)) > 1e-6:
        raise GeometryError(f"CIL's panel needs directions at right angles, got a cosine of {float(a @ b):.3g}")
    return a, b


def _origin(value: object, where: str) -> Origin:
    for known in ORIGINS:
        if value == known:
            return known
    raise GeometryError(f"{where}: CIL's panel origin should be one of {', '.join(ORIGINS)}, got '{value}'")


def _vector(values: Any) -> Vector:
    """Three numbers."""
    x, y, z = (float(v) for v in values)
    return x, y, z


def _vectors(values: Any) -> Float64Array:
    """Three numbers for each view."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 3:
        raise GeometryError(f"CIL's sets need three numbers a view, got an array of shape {array.shape}")
    return array
