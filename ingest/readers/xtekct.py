# SPDX-License-Identifier: Apache-2.0
"""Nikon's ``.xtekct`` file: what it says, and the cone-beam poses that follow from it.

The file gives lengths in mm and angles in degrees.  What its fields mean is not published; here they
are taken as the Core Imaging Library takes them, which agrees with TIGRE up to a turn of the whole
scene about the optical axis:

- A picture's first row is its top and its columns run right to left as seen from the source.
- ``InitialAngle + k AngularStep`` is how far the *source* has turned counter-clockwise seen from +z
  (the table turns clockwise), so it is the view angle beta.
- ``CentreOfRotationTop`` and ``Bottom``: where the axis' shadow crosses the top and the bottom of the
  panel, in mm on the detector from its middle, positive to higher columns of the picture.  Their mean
  shifts the panel, their difference rolls it about the optical axis.
- Newer files say the same at the object: ``ObjectOffsetX`` [mm], negative where the centre of rotation
  has moved the axis to the right of the source's view; ``ObjectRoll`` [deg], positive where the axis'
  top leans to the right as seen from the source; ``ObjectTilt`` [deg], positive where its top leans
  away from the source.
- ``DetectorOffsetX`` and ``Y`` [mm] move the panel to higher columns and rows of the picture (as
  TIGRE has it; no file with numbers other than 0 was at hand).
"""

from __future__ import annotations

import configparser
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ingest.angles import read_angles_deg
from ingest.errors import ScanDescriptionError
from ingest.fields import number_in
from ingest.scan import Exposure
from reconstruction.errors import GeometryError
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: By how much the steps in an .ang file may differ from AngularStep, as a share of it.
_STEP_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class XtekHeader:
    """The fields of an .xtekct file that matter here; mm and degrees as in the file."""

    path: Path
    name: str
    input_separator: str
    input_folder: str
    source_to_object_mm: float
    source_to_detector_mm: float
    n_cols: int
    n_rows: int
    pitch_x_mm: float
    pitch_y_mm: float
    detector_offset_x_mm: float
    detector_offset_y_mm: float
    axis_top_mm: float
    axis_bottom_mm: float
    object_offset_x_mm: float | None
    object_roll_deg: float | None
    object_tilt_deg: float
    initial_angle_deg: float
    angular_step_deg: float
    n_projections: int
    white_level: float
    exposure: Exposure


def read_xtekct(path: Path) -> XtekHeader:
    """Read an .xtekct file.

    Raises
    ------
    ScanDescriptionError
        If it is not such a file, or a field that is needed is missing or not a number.
    """
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        # Names of samples come in the code page of the scanner's computer.
        parser.read_string(path.read_bytes().decode("utf-8-sig", errors="replace"), str(path))
    except OSError as error:
        raise ScanDescriptionError(f"{path} cannot be read: {error.strerror}") from error
    except configparser.Error as error:
        raise ScanDescriptionError(f"{path} is not an .xtekct file: {' '.join(str(error).split())}") from error
    if not parser.has_section("XTekCT"):
        raise ScanDescriptionError(f"{path} is not an .xtekct file: it has no section [XTekCT]")
    fields = _Fields(path, parser)
    return XtekHeader(
        path=path,
        name=fields.text("Name"),
        input_separator=fields.text("InputSeparator"),
        input_folder=fields.text("InputFolderName"),
        source_to_object_mm=fields.number("SrcToObject"),
        source_to_detector_mm=fields.number("SrcToDetector"),
        n_cols=fields.count("DetectorPixelsX"),
        n_rows=fields.count("DetectorPixelsY"),
        pitch_x_mm=fields.number("DetectorPixelSizeX"),
        pitch_y_mm=fields.number("DetectorPixelSizeY"),
        detector_offset_x_mm=fields.number("DetectorOffsetX", 0.0),
        detector_offset_y_mm=fields.number("DetectorOffsetY", 0.0),
        axis_top_mm=fields.number("CentreOfRotationTop", 0.0),
        axis_bottom_mm=fields.number("CentreOfRotationBottom", 0.0),
        object_offset_x_mm=fields.optional("ObjectOffsetX"),
        object_roll_deg=fields.optional("ObjectRoll"),
        object_tilt_deg=fields.number("ObjectTilt", 0.0),
        initial_angle_deg=fields.number("InitialAngle", 0.0),
        angular_step_deg=fields.number("AngularStep"),
        n_projections=fields.count("Projections"),
        white_level=fields.number("WhiteLevel"),
        exposure=_read_exposure(fields),
    )


def xtek_angles_rad(
    header: XtekHeader, n_views: int, *, full_turn: bool = False, ang_path: Path | None = None
) -> NDArray[np.float64]:
    """Return the view angles beta (view,) float64 [rad].

    Parameters
    ----------
    full_turn : spread the views over 360 degrees instead of taking AngularStep (one view repeated).
    ang_path : measured angles.  Older and newer files count them in opposite senses, so only their steps are
        taken: the sense and the first angle come from the .xtekct.

    Raises
    ------
    ScanDescriptionError
        If the measured angles are not one a view, or do not go with AngularStep.
    """
    step = math.copysign(360.0 / n_views, header.angular_step_deg) if full_turn else header.angular_step_deg
    if ang_path is None or full_turn:
        return np.deg2rad(header.initial_angle_deg + step * np.arange(n_views, dtype=np.float64))
    measured = read_angles_deg(ang_path)
    if measured.size != n_views:
        raise ScanDescriptionError(f"{ang_path}: got {measured.size} angles for {n_views} views, expected one a view")
    turned = np.rad2deg(np.unwrap(np.deg2rad(measured)))
    turned -= turned[0]
    if n_views > 1:
        mean_step = float(turned[-1]) / (n_views - 1)
        if abs(abs(mean_step) - abs(step)) > _STEP_TOLERANCE * abs(step):
            raise ScanDescriptionError(
                f"{ang_path}: its angles go on by {mean_step:g} degrees, but AngularStep in {header.path} is {step:g}: "
                "correct one of them"
            )
        turned *= math.copysign(1.0, mean_step * step)
    return np.deg2rad(header.initial_angle_deg + turned)


def xtek_geometry(header: XtekHeader, angles_rad: NDArray[np.float64]) -> ConeBeamGeometry:
    """Return the poses, for pictures that were turned so that row 0 is the lowest v and column 0 the lowest u.

    Without roll and tilt this is a circular orbit with a shifted panel.

    Raises
    ------
    ScanDescriptionError
        If the lengths make no cone beam.
    """
    sod, sdd = header.source_to_object_mm, header.source_to_detector_mm
    if header.object_offset_x_mm is None:
        axis_shift = (header.axis_top_mm + header.axis_bottom_mm) / 2
    else:
        axis_shift = header.object_offset_x_mm * sdd / sod
    # The picture's columns run against u, its rows against v.
    offset_u, offset_v = axis_shift - header.detector_offset_x_mm, -header.detector_offset_y_mm
    try:
        upright = ConeBeamGeometry.circular(
            sod_mm=sod,
            sdd_mm=sdd,
            angles_rad=angles_rad,
            n_rows=header.n_rows,
            n_cols=header.n_cols,
            pitch_u_mm=header.pitch_x_mm,
            pitch_v_mm=header.pitch_y_mm,
            offset_u_mm=offset_u,
            offset_v_mm=offset_v,
        )
    except GeometryError as error:
        raise ScanDescriptionError(
            f"{header.path}: {error}; correct it, or describe the scan in a scan.toml and read the pictures with the "
            "tiff reader"
        ) from error
    roll, tilt = _roll_rad(header), math.radians(header.object_tilt_deg)
    if roll == 0 and tilt == 0:
        return upright
    return _lean(upright, angles_rad, roll, tilt)


def _roll_rad(header: XtekHeader) -> float:
    """How far the axis' top leans to the right as seen from the source."""
    if header.object_roll_deg is not None:
        return math.radians(header.object_roll_deg)
    height = header.n_rows * header.pitch_y_mm
    return -math.atan2(header.axis_top_mm - header.axis_bottom_mm, height)


def _lean(upright: ConeBeamGeometry, angles_rad: NDArray[np.float64], roll: float, tilt: float) -> ConeBeamGeometry:
    """Turn source and panel so that a leaning axis comes to stand on z."""
    cos_r, sin_r, cos_t, sin_t = math.cos(roll), math.sin(roll), math.cos(tilt), math.sin(tilt)
    # At beta 0 the axis is lean @ z = (-sin t cos r, sin r, cos t cos r): x points to the source, y is u.
    lean_roll = np.array([[1, 0, 0], [0, cos_r, sin_r], [0, -sin_r, cos_r]])
    lean_tilt = np.array([[cos_t, 0, -sin_t], [0, 1, 0], [sin_t, 0, cos_t]])
    straighten = (lean_tilt @ lean_roll).T
    cos, sin, zero, one = np.cos(angles_rad), np.sin(angles_rad), np.zeros_like(angles_rad), np.ones_like(angles_rad)
    turn = np.array([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]]).transpose(2, 0, 1)
    whole = turn @ straighten @ turn.transpose(0, 2, 1)
    vectors = upright.poses.reshape(-1, 4, 3)
    poses = np.einsum("vij,vpj->vpi", whole, vectors).reshape(-1, 12)
    return ConeBeamGeometry(poses, upright.n_rows, upright.n_cols)


def _read_exposure(fields: _Fields) -> Exposure:
    """Tube and filter from the sections [Xrays] and [CTPro]."""
    current_ua = fields.optional("XrayuA", "Xrays")
    material = fields.text("Filter_Material", "CTPro")
    thickness = fields.optional("Filter_ThicknessMM", "CTPro")
    has_filter = material.lower() not in ("", "none")
    return Exposure(
        kvp=fields.optional("XraykV", "Xrays") or None,
        tube_current_ma=current_ua / 1000 if current_ua else None,
        filter_material=material if has_filter else None,
        filter_thickness_mm=thickness if has_filter else None,
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """Typed access to the file's fields, complaining by file and name."""

    path: Path
    parser: configparser.ConfigParser

    def text(self, key: str, section: str = "XTekCT") -> str:
        """A text, or ""."""
        return self.parser.get(section, key, fallback="").strip()

    def optional(self, key: str, section: str = "XTekCT") -> float | None:
        """A number, or None where it is not given."""
        text = self.text(key, section)
        return number_in(text, f"{self.path}: {key}") if text else None

    def number(self, key: str, default: float | None = None) -> float:
        """A number that must be given unless it has a default."""
        value = self.optional(key)
        if value is None:
            value = default
        if value is None:
            raise ScanDescriptionError(
                f"{self.path} lacks {key}: add it, or describe the scan in a scan.toml and read the pictures with the "
                "tiff reader"
            )
        return value

    def count(self, key: str) -> int:
        """A whole number above 0."""
        value = self.number(key)
        if value != int(value) or value < 1:
            raise ScanDescriptionError(f"{self.path}: {key} must be a whole number above 0, got {value:g}")
        return int(value)
