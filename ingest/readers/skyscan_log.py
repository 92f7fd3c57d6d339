# SPDX-License-Identifier: Apache-2.0
"""The ``.log`` file of a SkyScan (Bruker) scanner: what it says, and the cone-beam poses that follow from it.

An ini file in mm, micrometres and degrees; its fields are not published.  They are taken so:

- A picture's first row is its top and its columns run right to left as seen from the source.
- ``Rotation Direction`` is how the *table* turns seen from above: ``CC`` counter-clockwise, so that beta falls.
  Together with the order of the columns this is what TIGRE and the ASTRA toolbox's parser reconstruct sharply, up to
  a mirror image; which of the two mirror images is right, the word ``CC`` decides.
- ``Object to Source`` and ``Image Pixel Size`` (the pixel as seen at the axis) fix the cone, pixels are square: the
  cone angles that NRecon writes into its own log follow from just these.  ``Camera to Source`` only says where the
  panel stands; camera pixel, binning and X/Y ratio are not needed.
- ``Optical Axis (line)`` is the row of the central ray, counted from the bottom of the picture, from 0.
- ``Postalignment`` [pixels], if NRecon has found one, moves the panel to higher columns of the picture.
"""

from __future__ import annotations

import configparser
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from ingest.errors import ScanDescriptionError
from ingest.fields import number_in
from ingest.scan import Exposure, ParallelBeam
from reconstruction.errors import GeometryError
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: From this distance on NRecon takes the beam as parallel [mm].
PARALLEL_FROM_MM = 10_000.0
#: By how much the camera's own pixel may differ from the one that the log gives at the object before it is noted.
_PIXEL_TOLERANCE = 0.02
_DATES = ("%d %b %Y %Hh:%Mm:%Ss", "%b %d, %Y %H:%M:%S", "%b %d %Y %H:%M:%S", "%d %b %Y %H:%M:%S")

#: What to do where a log does not say enough.
_DESCRIBE = "add it, or describe the scan in a scan.toml and read the pictures with the tiff reader"


@dataclass(frozen=True, slots=True)
class SkyscanLog:
    """The fields of a SkyScan log that matter here; units as in the file unless the name says otherwise."""

    path: Path
    scanner: str
    prefix: str
    index_length: int
    n_files: int
    n_rows: int
    n_cols: int
    object_to_source_mm: float
    camera_to_source_mm: float | None
    image_pixel_mm: float
    camera_pixel_mm: float | None
    axis_line: float | None
    start_angle_deg: float
    step_deg: float
    clockwise: bool
    direction_given: bool
    full_turn: bool | None
    flat_corrected: bool
    white_level: float
    white_level_given: bool
    post_alignment_px: float
    image_rotation_deg: float
    crop_rows: int
    n_connected: int
    acquired: str
    exposure: Exposure


def read_skyscan_log(path: Path) -> SkyscanLog:
    """Read a SkyScan log.

    Raises
    ------
    ScanDescriptionError
        If it is not the log of a scan, or a field that is needed is missing, not a number, or of a kind not read.
    """
    fields = _Fields(path, _parse(path))
    if fields.text("Number Of Files") == "" and fields.text("Sections Count", "reconstruction"):
        raise ScanDescriptionError(f"{path} is the log of a reconstruction, not of a scan: name the projections' .log")
    trajectory = fields.text("Scanning Trajectory")
    if trajectory and trajectory.upper() != "ROUND":
        raise ScanDescriptionError(
            f"{path}: Scanning Trajectory is {trajectory}, only ROUND is read; "
            "describe the poses in a scan.toml and read the pictures with the tiff reader"
        )
    bits = fields.number("Depth (bits)", 16.0)
    given_level = fields.optional("Reference Intensity")
    camera_um, binning = fields.optional("Camera Pixel Size (um)", "system"), _binning(fields)
    resized = fields.number("Resized in image", 1.0)
    sod, camera_mm = fields.number("Object to Source (mm)"), fields.optional("Camera to Source (mm)")
    camera_pixel = None if camera_um is None else camera_um * binning * resized / 1000
    direction = fields.text("Rotation Direction").upper()
    if direction not in ("", "CC", "CCW", "CW"):
        raise ScanDescriptionError(f"{path}: Rotation Direction must be CC or CW, got '{direction}'")
    turn = fields.text("Use 360 Rotation").upper()
    return SkyscanLog(
        path=path,
        scanner=fields.text("Scanner", "system"),
        prefix=fields.text("Filename Prefix"),
        index_length=fields.count("Filename Index Length", 4),
        n_files=fields.count("Number Of Files"),
        n_rows=fields.count("Number Of Rows"),
        n_cols=fields.count("Number Of Columns"),
        object_to_source_mm=sod,
        camera_to_source_mm=camera_mm,
        image_pixel_mm=_image_pixel_mm(fields, sod, camera_mm, camera_pixel),
        camera_pixel_mm=camera_pixel,
        axis_line=fields.optional("Optical Axis (line)"),
        start_angle_deg=fields.number("Scanning Start Angle", 0.0),
        step_deg=fields.number("Rotation Step (deg)"),
        clockwise=direction == "CW",
        direction_given=direction != "",
        full_turn=None if turn not in ("YES", "NO") else turn == "YES",
        flat_corrected=fields.text("Flat Field Correction").upper() != "OFF",
        white_level=given_level if given_level is not None else 2.0**bits - 1,
        white_level_given=given_level is not None,
        post_alignment_px=fields.number("Postalignment", 0.0, "reconstruction"),
        image_rotation_deg=fields.number("Image Rotation", 0.0),
        crop_rows=int(fields.number("Image crop origin Y", 0.0)),
        n_connected=int(fields.number("Number of connected scans", 1.0)),
        acquired=_acquired(fields.text("Study Date and Time")),
        exposure=_exposure(fields),
    )


def skyscan_angles_rad(log: SkyscanLog, n_views: int, *, clockwise: bool) -> NDArray[np.float64]:
    """Return the view angles beta (view,) float64 [rad]; a table that turns clockwise lets them rise."""
    turned = np.deg2rad(log.start_angle_deg + log.step_deg * np.arange(n_views, dtype=np.float64))
    return turned if clockwise else -turned


def skyscan_geometry(log: SkyscanLog, beta_rad: NDArray[np.float64]) -> ConeBeamGeometry | ParallelBeam:
    """Return the poses for pictures turned so that row 0 is the lowest v and column 0 the lowest u.

    Raises
    ------
    ScanDescriptionError
        If the lengths make no cone beam.
    """
    sod = log.object_to_source_mm
    if sod >= PARALLEL_FROM_MM:
        return ParallelBeam(tuple(beta_rad.tolist()), log.image_pixel_mm, log.image_pixel_mm)
    sdd = _panel_distance_mm(log)
    pitch = log.image_pixel_mm * sdd / sod
    line = (log.n_rows - 1) / 2 if log.axis_line is None else log.axis_line
    try:
        return ConeBeamGeometry.circular(
            sod_mm=sod,
            sdd_mm=sdd,
            angles_rad=beta_rad,
            n_rows=log.n_rows,
            n_cols=log.n_cols,
            pitch_u_mm=pitch,
            pitch_v_mm=pitch,
            # The picture's columns run against u; lines are counted from the bottom, as v is.
            offset_u_mm=-log.post_alignment_px * pitch,
            offset_v_mm=((log.n_rows - 1) / 2 - line) * pitch,
        )
    except GeometryError as error:
        raise ScanDescriptionError(
            f"{log.path}: {error}; correct it, or describe the scan in a scan.toml and read the pictures with the "
            "tiff reader"
        ) from error


def skyscan_notes(log: SkyscanLog, *, clockwise: bool) -> tuple[str, ...]:
    """What was assumed of a log, in plain sentences."""
    turn = "clockwise" if clockwise else "counter-clockwise"
    notes = [
        f"The table turns {turn} seen from above"
        + (", as Rotation Direction says." if log.direction_given else "; the log does not say."),
        "The picture's columns are taken to run right to left as seen from the source.",
    ]
    if log.axis_line is not None:
        notes.append(f"Optical Axis (line) {log.axis_line:g} is taken as counted from the bottom of the picture.")
    if log.flat_corrected and not log.white_level_given:
        notes.append(f"The log gives no Reference Intensity: white is taken as {log.white_level:g}.")
    if log.post_alignment_px:
        notes.append(f"Postalignment moves the panel by {log.post_alignment_px:g} columns of the picture.")
    if log.image_rotation_deg:
        notes.append(
            f"Image Rotation {log.image_rotation_deg:g} degrees is not applied, since its sense is not documented: "
            "find the axis and give [geometry] roll_deg."
        )
    if log.crop_rows:
        notes.append(f"The pictures are cropped by {log.crop_rows} rows; the optical axis is taken within the crop.")
    if log.n_connected > 1:
        notes.append(f"This is one of {log.n_connected} connected scans.")
    notes.extend(_pixel_notes(log))
    turned = log.n_files * log.step_deg
    if log.full_turn and abs(turned - 360) > log.step_deg / 2:
        notes.append(f"{log.n_files} files of {log.step_deg:g} degrees make {turned:g} degrees, not one full turn.")
    return tuple(notes)


def _pixel_notes(log: SkyscanLog) -> list[str]:
    """How the camera's own numbers differ from those that the reconstruction goes by."""
    camera, distance = log.camera_pixel_mm, log.camera_to_source_mm
    if camera is None or distance is None or distance <= log.object_to_source_mm:
        return []
    at_object = camera * log.object_to_source_mm / distance
    if abs(at_object / log.image_pixel_mm - 1) <= _PIXEL_TOLERANCE:
        return []
    return [
        f"The camera's pixel would be {1000 * at_object:.4g} um at the object; "
        f"the Image Pixel Size of {1000 * log.image_pixel_mm:.4g} um is taken, as NRecon does."
    ]


def _panel_distance_mm(log: SkyscanLog) -> float:
    """Where the panel stands: it matters for nothing but the pitch that is printed."""
    if log.camera_to_source_mm is not None:
        return log.camera_to_source_mm
    if log.camera_pixel_mm is not None and log.camera_pixel_mm > log.image_pixel_mm:
        return log.object_to_source_mm * log.camera_pixel_mm / log.image_pixel_mm
    raise ScanDescriptionError(f"{log.path} lacks Camera to Source (mm): {_DESCRIBE}")


def _image_pixel_mm(fields: _Fields, sod_mm: float, camera_mm: float | None, camera_pixel_mm: float | None) -> float:
    """The pixel as seen at the rotation axis."""
    image_um = fields.optional("Image Pixel Size (um)")
    if image_um is None:
        image_um = fields.optional("Pixel Size (um)")
    if image_um is None and camera_mm and camera_pixel_mm:
        image_um = 1000 * camera_pixel_mm * sod_mm / camera_mm
    if image_um is None:
        raise ScanDescriptionError(f"{fields.path} lacks Image Pixel Size (um): {_DESCRIBE}")
    if image_um <= 0:
        raise ScanDescriptionError(f"{fields.path}: Image Pixel Size (um) must be above 0, got {image_um:g}")
    return image_um / 1000


def _binning(fields: _Fields) -> float:
    """Camera pixels along a row that make one: ``2x2``, or 1 where the log does not say."""
    match = re.match(r"(\d+)\s*x\s*(\d+)", fields.text("Camera binning"), re.IGNORECASE)
    return float(match.group(1)) if match and int(match.group(1)) > 0 else 1.0


def _acquired(text: str) -> str:
    """Date and time in ISO 8601, or "" where it is of an unknown kind."""
    for form in _DATES:
        try:
            return datetime.strptime(" ".join(text.split()), form).isoformat()
        except ValueError:
            continue
    return ""


def _exposure(fields: _Fields) -> Exposure:
    """Tube, time and filter, for example ``Al 0.5mm``, ``Al 1.0mm`` or ``No Filter``."""
    current_ua = fields.optional("Source Current (uA)")
    match = re.match(r"([A-Za-z+&]+)\s*([\d.]+)\s*mm", fields.text("Filter"))
    return Exposure(
        kvp=fields.optional("Source Voltage (kV)") or None,
        tube_current_ma=current_ua / 1000 if current_ua else None,
        exposure_time_ms=fields.optional("Exposure (ms)") or None,
        filter_material=match.group(1) if match else None,
        filter_thickness_mm=float(match.group(2)) if match else None,
    )


def _parse(path: Path) -> dict[str, dict[str, str]]:
    """Sections of the file by lower-case names, keys likewise; the first of two equal keys wins."""
    parser = configparser.ConfigParser(
        interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#", ";"), allow_no_value=True
    )
    try:
        parser.read_string(path.read_bytes().decode("utf-8-sig", errors="replace"), str(path))
    except OSError as error:
        raise ScanDescriptionError(f"{path} cannot be read: {error.strerror}") from error
    except configparser.Error as error:
        raise ScanDescriptionError(f"{path} is not a SkyScan log: {' '.join(str(error).split())}") from error
    sections = {
        name.lower(): {" ".join(key.split()): value or "" for key, value in parser.items(name)}
        for name in parser.sections()
    }
    if "acquisition" not in sections or "system" not in sections:
        raise ScanDescriptionError(f"{path} is not a SkyScan log: it lacks the section [System] or [Acquisition]")
    return sections


@dataclass(frozen=True, slots=True)
class _Fields:
    """Typed access to the fields, complaining by file and name."""

    path: Path
    sections: dict[str, dict[str, str]]

    def text(self, key: str, section: str = "acquisition") -> str:
        """A text, or ""."""
        return self.sections.get(section, {}).get(key.lower(), "").strip()

    def optional(self, key: str, section: str = "acquisition") -> float | None:
        """A finite number, or None where it is not given."""
        text = self.text(key, section)
        return number_in(text, f"{self.path}: {key}") if text else None

    def number(self, key: str, default: float | None = None, section: str = "acquisition") -> float:
        """A number that must be given unless it has a default."""
        value = self.optional(key, section)
        if value is None:
            value = default
        if value is None:
            raise ScanDescriptionError(f"{self.path} lacks {key}: {_DESCRIBE}")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number above 0."""
        value = self.number(key, None if default is None else float(default))
        if value != int(value) or value < 1:
            raise ScanDescriptionError(f"{self.path}: {key} must be a whole number above 0, got {value:g}")
        return int(value)
