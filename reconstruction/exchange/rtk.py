# SPDX-License-Identifier: Apache-2.0
"""RTK's ``ThreeDCircularProjectionGeometry`` and its XML file.

RTK has nine numbers a view: where the source and the panel stand in a frame that is turned with the panel, and the
three angles of that frame (IEC 61217; world to panel = Rz(-in-plane) Rx(-out-of-plane) Ry(-gantry), degrees in the
file).  Its axes are (xr, yr, zr) = (y, z, x) of ours, and its gantry angle is our view angle beta.  Pixel pitch and
the place of pixel (0, 0) are not in the XML: they are spacing and origin of the projections' image.  Written here
after ``documentation/docs/Geometry.md`` of the project.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

import numpy as np

from reconstruction.errors import GeometryError
from reconstruction.exchange.panels import (
    Imported,
    Panel,
    PanelAxes,
    euler_zxy,
    make_poses,
    rotation_x,
    rotation_y,
    rotations_z,
    turn,
)
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]

ROOT = "RTKThreeDCircularGeometry"
#: Version 3 added the radius of a cylindrical panel; RTK reads both.
VERSIONS: Final = (2, 3)
#: RTK refuses a file whose matrices differ by more from what the nine numbers give.
MATRIX_TOLERANCE: Final = 1e-3
#: Our axes in the order of RTK's: xr is y, yr is z, zr is x.
_FROM_OURS: Final = [1, 2, 0]
_TO_OURS: Final = [2, 0, 1]

#: Field -> element of the XML; the order is RTK's.
_ELEMENTS: Final = {
    "source_to_isocenter_mm": "SourceToIsocenterDistance",
    "source_to_detector_mm": "SourceToDetectorDistance",
    "source_offset_x_mm": "SourceOffsetX",
    "source_offset_y_mm": "SourceOffsetY",
    "projection_offset_x_mm": "ProjectionOffsetX",
    "projection_offset_y_mm": "ProjectionOffsetY",
    "in_plane_deg": "InPlaneAngle",
    "out_of_plane_deg": "OutOfPlaneAngle",
}
_COLLIMATION: Final = ("CollimationUInf", "CollimationUSup", "CollimationVInf", "CollimationVSup")


@dataclass(frozen=True, slots=True)
class RtkGeometry:
    """The nine numbers of each view, (view,) float64 each; names as in RTK's XML."""

    gantry_deg: Float64Array
    source_to_isocenter_mm: Float64Array
    source_to_detector_mm: Float64Array
    source_offset_x_mm: Float64Array
    source_offset_y_mm: Float64Array
    projection_offset_x_mm: Float64Array
    projection_offset_y_mm: Float64Array
    in_plane_deg: Float64Array
    out_of_plane_deg: Float64Array

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if values.shape != self.gantry_deg.shape or not np.isfinite(values).all():
                raise GeometryError(f"RTK's {field.name} needs one finite number for each of {self.n_views} views")

    @property
    def n_views(self) -> int:
        """Number of views."""
        return int(self.gantry_deg.size)

    @property
    def rotations(self) -> Float64Array:
        """(view, 3, 3) float64: RTK's world to the frame of the panel."""
        inward, outward, gantry = (np.deg2rad(a) for a in (self.in_plane_deg, self.out_of_plane_deg, self.gantry_deg))
        return rotations_z(-inward) @ rotation_x(-outward) @ rotation_y(-gantry)

    @property
    def matrices(self) -> Float64Array:
        """(view, 3, 4) float64: RTK's world to the panel's coordinates, as the XML keeps them beside the numbers."""
        move = np.zeros((self.n_views, 3, 3))
        move[:] = np.eye(3)
        move[:, 0, 2] = self.source_offset_x_mm - self.projection_offset_x_mm
        move[:, 1, 2] = self.source_offset_y_mm - self.projection_offset_y_mm
        magnify = np.zeros((self.n_views, 3, 4))
        magnify[:, 0, 0] = magnify[:, 1, 1] = -self.source_to_detector_mm
        magnify[:, 2, 2] = 1.0
        magnify[:, 2, 3] = -self.source_to_isocenter_mm
        shift = np.zeros((self.n_views, 4, 4))
        shift[:] = np.eye(4)
        shift[:, 0, 3], shift[:, 1, 3] = -self.source_offset_x_mm, -self.source_offset_y_mm
        rotate = np.zeros((self.n_views, 4, 4))
        rotate[:, :3, :3] = self.rotations
        rotate[:, 3, 3] = 1.0
        matrices: Float64Array = move @ magnify @ shift @ rotate
        return matrices


def to_rtk(geometry: ConeBeamGeometry) -> RtkGeometry:
    """Return RTK's numbers for projections whose image is centred: its pixel (0, 0) lies at `centered_origin`.

    Raises
    ------
    GeometryError
        If RTK cannot hold the panel: skewed, mirrored, or of changing pitch.
    """
    axes = PanelAxes.of(geometry, "RTK geometry")
    u, v, normal = (a[:, _FROM_OURS] for a in (axes.u, axes.v, axes.normal))
    source, center = geometry.poses[:, 0:3][:, _FROM_OURS], geometry.poses[:, 3:6][:, _FROM_OURS]
    z, x, y = euler_zxy(np.stack([u, v, normal], axis=1))

    def along(axis: Float64Array, point: Float64Array) -> Float64Array:
        values: Float64Array = np.einsum("vi,vi->v", axis, point)
        return values

    return RtkGeometry(
        gantry_deg=np.mod(np.rad2deg(-y), 360.0),
        source_to_isocenter_mm=along(normal, source),
        source_to_detector_mm=along(normal, source - center),
        source_offset_x_mm=along(u, source),
        source_offset_y_mm=along(v, source),
        projection_offset_x_mm=along(u, center),
        projection_offset_y_mm=along(v, center),
        in_plane_deg=np.rad2deg(-z),
        out_of_plane_deg=np.rad2deg(-x),
    )


def centered_origin(geometry: ConeBeamGeometry) -> tuple[float, float]:
    """Return where pixel (0, 0) of a centred panel lies [mm]: the origin (u, v) of the image beside `to_rtk`."""
    pitch_v, pitch_u = geometry.pitch_mm
    return -(geometry.n_cols - 1) / 2 * pitch_u, -(geometry.n_rows - 1) / 2 * pitch_v


def from_rtk(numbers: RtkGeometry, panel: Panel) -> ConeBeamGeometry:
    """Return our poses.

    Parameters
    ----------
    numbers : RtkGeometry
    panel : Panel
        Size, spacing and origin of the projections' image.

    Raises
    ------
    GeometryError
        If a beam is parallel, or the panel has no pitch.
    """
    if panel.pitch_u_mm is None or panel.pitch_v_mm is None:
        raise GeometryError("RTK geometry keeps the pixel pitch in the projections: give pitch_u_mm and pitch_v_mm")
    parallel = np.flatnonzero(numbers.source_to_detector_mm == 0)
    if parallel.size:
        raise GeometryError(
            f"RTK geometry: view {int(parallel[0])} has SourceToDetectorDistance 0, a parallel beam, expected a cone"
        )
    half_u, half_v = (panel.n_cols - 1) / 2 * panel.pitch_u_mm, (panel.n_rows - 1) / 2 * panel.pitch_v_mm
    middle_u = 0.0 if panel.first_u_mm is None else panel.first_u_mm + half_u
    middle_v = 0.0 if panel.first_v_mm is None else panel.first_v_mm + half_v
    to_world = np.transpose(numbers.rotations, (0, 2, 1))
    sid, sdd = numbers.source_to_isocenter_mm, numbers.source_to_detector_mm
    source = np.stack([numbers.source_offset_x_mm, numbers.source_offset_y_mm, sid], axis=1)
    center = np.stack(
        [numbers.projection_offset_x_mm + middle_u, numbers.projection_offset_y_mm + middle_v, sid - sdd], axis=1
    )
    u, v = to_world[:, :, 0] * panel.pitch_u_mm, to_world[:, :, 1] * panel.pitch_v_mm
    parts = [a[:, _TO_OURS] for a in (turn(to_world, source), turn(to_world, center), u, v)]
    return ConeBeamGeometry(make_poses(*parts), panel.n_rows, panel.n_cols)


def write_xml(numbers: RtkGeometry) -> str:
    """Return the text of an RTK geometry XML of version 3; numbers have all their digits."""
    lines = ['<?xml version="1.0"?>', "<!DOCTYPE RTKGEOMETRY>", f'<{ROOT} version="3">']
    each: list[tuple[str, Float64Array]] = [("GantryAngle", numbers.gantry_deg)]
    for name, element in _ELEMENTS.items():
        values = getattr(numbers, name)
        if not (values == values[0]).all():
            each.append((element, values))
        elif values[0] != 0:
            lines.append(f"    <{element}>{float(values[0])!r}</{element}>")
    for view, matrix in enumerate(numbers.matrices):
        lines.append("  <Projection>")
        lines += [f"    <{element}>{float(values[view])!r}</{element}>" for element, values in each]
        lines.append("    <Matrix>")
        lines += ["      " + " ".join(repr(float(value)) for value in row) for row in matrix]
        lines += ["    </Matrix>", "  </Projection>"]
    lines += [f"</{ROOT}>", ""]
    return "\n".join(lines)


def read_xml(text: str, where: str) -> tuple[RtkGeometry, tuple[str, ...]]:
    """Read the text of an RTK geometry XML.

    Parameters
    ----------
    text : of version 2 or 3.
    where : what to call the file in a message.

    Returns
    -------
    numbers : RtkGeometry
    notes : tuple of str
        What was left out (collimation).

    Raises
    ------
    GeometryError
        If it is no such file, of another version, of a cylindrical panel, or its matrices contradict its numbers.
    """
    root = _parse(text, where)
    state = {element: 0.0 for element in ("GantryAngle", *_ELEMENTS.values())}
    rows: list[dict[str, float]] = []
    matrices: list[Float64Array | None] = []
    collimated = False
    # A value outside of a projection stands for all that follow; so does one inside, as RTK's own reader has it.
    for child in root:
        inner = list(child) if child.tag == "Projection" else [child]
        matrix = None
        for node in inner:
            name = "GantryAngle" if node.tag == "Angle" else node.tag
            if name == "Matrix":
                matrix = np.array(_numbers(node, where), dtype=np.float64)
            elif name == "RadiusCylindricalDetector":
                if _number(node, where) != 0:
                    raise GeometryError(
                        f"{where} has a cylindrical panel of radius {node.text} mm, expected a flat one"
                    )
            elif name in _COLLIMATION:
                collimated = True
            elif name in state:
                state[name] = _number(node, where)
            else:
                raise GeometryError(
                    f"{where} has the element '{node.tag}', which RTK geometry of version 3 does not know: take it out"
                )
        if child.tag == "Projection":
            rows.append(dict(state))
            matrices.append(matrix)
    if not rows:
        raise GeometryError(f"{where} holds no <Projection>")
    numbers = RtkGeometry(
        gantry_deg=np.array([row["GantryAngle"] for row in rows]),
        **{name: np.array([row[element] for row in rows]) for name, element in _ELEMENTS.items()},
    )
    _check_matrices(numbers, matrices, where)
    return numbers, ("Collimation in the RTK geometry is passed over.",) if collimated else ()


def import_xml(text: str, where: str, panel: Panel) -> Imported:
    """Read an RTK geometry XML as poses; see `read_xml` and `from_rtk`."""
    numbers, notes = read_xml(text, where)
    return Imported(from_rtk(numbers, panel), None, notes)


def _parse(text: str, where: str) -> ElementTree.Element:
    """The root element, of a version that is known."""
    if "<!ENTITY" in text:
        raise GeometryError(f"{where} declares entities, which a geometry does not need and no reader here expands")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise GeometryError(f"{where} is not a well-formed XML file: {error}") from error
    if root.tag != ROOT:
        raise GeometryError(f"{where} is an XML file of '{root.tag}', expected {ROOT}")
    version = root.get("version", "1")
    if version not in {str(known) for known in VERSIONS}:
        raise GeometryError(
            f"{where} is RTK geometry of version {version}, expected 2 or 3: write it anew with the RTK of today"
        )
    return root


def _number(node: ElementTree.Element, where: str) -> float:
    """The one number of an element."""
    values = _numbers(node, where)
    if len(values) != 1:
        raise GeometryError(f"{where}: <{node.tag}> needs one number, got '{(node.text or '').strip()}'")
    return values[0]


def _numbers(node: ElementTree.Element, where: str) -> list[float]:
    """The numbers of an element."""
    try:
        values = [float(word) for word in (node.text or "").split()]
    except ValueError as error:
        raise GeometryError(f"{where}: <{node.tag}> should hold numbers: {error}") from error
    if not all(math.isfinite(value) for value in values):
        raise GeometryError(f"{where}: <{node.tag}> holds a number that is not finite")
    return values


def _check_matrices(numbers: RtkGeometry, found: list[Float64Array | None], where: str) -> None:
    """Refuse a file whose matrices are not those of its numbers."""
    for view, (matrix, expected) in enumerate(zip(found, numbers.matrices, strict=True)):
        if matrix is None:
            continue
        if matrix.size != 12:
            raise GeometryError(f"{where}: the matrix of view {view} has {matrix.size} numbers, expected 12")
        if np.abs(matrix.reshape(3, 4) - expected).max() > MATRIX_TOLERANCE:
            raise GeometryError(
                f"{where}: the matrix of view {view} is not the one that its nine numbers give: take it out"
            )
