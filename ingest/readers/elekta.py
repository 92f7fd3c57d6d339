# SPDX-License-Identifier: Apache-2.0
"""Elekta Synergy XVI: ``.his`` files with ``_Frames.xml`` beside them (XVI 5).

What the fields mean is taken as RTK takes it:

- A stored frame's first row is the lowest v, its columns run to the right as seen from the source.
- Values are attenuations turned round: the intensity is 65536 - value (0 and 65535 count as no attenuation).  Frames
  come out as intensities with the white level 65536.
- ``GantryAngle`` [deg] is beta; ``UCentre`` and ``VCentre`` [mm] is where the central ray meets the panel, so the panel
  is moved by their negatives; the source is 1000 mm from the axis and 1536 mm from the panel, which is 409.6 mm wide.
"""

from __future__ import annotations

import re
import struct
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.config import load_description
from ingest.describe import describe_scan
from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers.frame_reader import FrameReader, choose_pixel_type
from ingest.readers.hdf5_frames import require_announced_views
from ingest.readers.npy_files import NpyFile, open_mask
from ingest.readers.series import FrameSeries, Stack, list_files, match_files
from ingest.readers.xml_values import XmlValues
from ingest.scan import Exposure
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ingest.config import ScanDescription
    from ingest.readers import SourceOptions

NAME = "elekta"
SUFFIXES = (".his",)
SOD_MM, SDD_MM, PANEL_MM = 1000.0, 1536.0, 409.6
WHITE_LEVEL = 65536.0
_MAGIC = b"\x00\x70\x44\x00"
_FILE_HEADER = 68
_UINT16 = 4
#: Anonymised files lack letters here and there; RTK has seen these.
_ANGLE_NAMES = ("GantryAngle", "Angle", "antryAngle", "Gantryngle")
_U_NAMES, _V_NAMES = ("UCentre", "Uentre"), ("VCentre", "Ventre")


class HisFile:
    """An opened ``.his`` file: 16-bit frames behind a header of 68 bytes and one of the image.

    Attributes
    ----------
    n_frames, shape, dtype : frames, (rows, columns), and the type of the intensities.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                header = stream.read(_FILE_HEADER)
            size = path.stat().st_size
        except OSError as error:
            raise FrameFormatError(f"{path} cannot be read: {error.strerror}") from error
        if header[:4] != _MAGIC:
            raise FrameFormatError(f"{path} is not a .his file: it begins with {header[:4].hex(' ') or 'nothing'}")
        if len(header) < _FILE_HEADER:
            raise FrameFormatError(f"{path} is truncated: its header has {len(header)} bytes, expected {_FILE_HEADER}")
        image_header, left, top, right, bottom, n_frames = struct.unpack_from("<6H", header, 10)
        pixel_type = struct.unpack_from("<H", header, 32)[0]
        if pixel_type != _UINT16:
            raise FrameFormatError(f"{path}: pixels of type {pixel_type} are not read, expected {_UINT16} (16 bit)")
        if right < left or bottom < top or n_frames < 1:
            raise FrameFormatError(
                f"{path}: its header says {n_frames} frames of columns {left} to {right} and rows {top} to {bottom}, "
                "expected at least one of each"
            )
        self.n_frames = int(n_frames)
        self.shape = (bottom - top + 1, right - left + 1)
        self.dtype: np.dtype[Any] = np.dtype(np.uint16)
        self._start = _FILE_HEADER + image_header
        self._frame_bytes = 2 * self.shape[0] * self.shape[1]
        end = self._start + self.n_frames * self._frame_bytes
        if end > size:
            raise FrameFormatError(
                f"{path} is truncated: its pixels lie at bytes {self._start} to {end}, but the file has {size}"
            )

    def read(self, index: int) -> NDArray[Any]:
        """Return one frame (row, col) as intensities."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._start + index * self._frame_bytes)
                content = stream.read(self._frame_bytes)
        except OSError as error:
            raise FrameFormatError(f"{self.path} cannot be read: {error.strerror}") from error
        if len(content) != self._frame_bytes:
            raise FrameFormatError(
                f"{self.path} is truncated: frame {index} has {len(content)} bytes of pixels, "
                f"expected {self._frame_bytes}"
            )
        values = np.frombuffer(content, dtype="<u2").reshape(self.shape)
        # Unsigned 16-bit numbers wrap round: 0 - value is 65536 - value.
        turned = np.subtract(np.uint16(0), values, dtype=np.uint16)
        turned[(values == 0) | (values == 65535)] = 65535
        return turned

    def close(self) -> None:
        """Nothing stays open between reads."""


def looks_like(source: Path) -> bool:
    """Whether the source is a .his file or a folder that holds some; never raises."""
    try:
        if source.is_dir():
            return any(path.suffix.lower() in SUFFIXES for path in source.iterdir())
        return source.is_file() and source.suffix.lower() in SUFFIXES
    except OSError:
        return False


def open_source(source: Path, options: SourceOptions) -> FrameReader:
    """Open projections of an Elekta XVI.

    Raises
    ------
    FrameFormatError
        If a file is cut short or malformed.
    IncompleteScanError
        If numbers are missing among the files, or their number is not that of the frames in the XML file.
    ScanDescriptionError
        If the XML file or the description is malformed or contradicts the files.
    """
    description = load_description(source, options, rows="bottom-up")
    if description.scan.repeat_views is not None:
        raise ScanDescriptionError(f"{source}: repeat_views is not for Elekta projections: leave it out")
    for key in ("flats", "darks"):
        if getattr(description.files, key) is not None:
            raise ScanDescriptionError(f"{description.name}: .his frames are corrected already, [files] {key} must go")
    views, folder, left_out = _open_views(source, description)
    require_announced_views(views.n_views, description, source)
    try:
        geometry, exposure, notes = _frames_of(folder, views, left_out)
    except ScanDescriptionError:
        if not description.gives_geometry:
            raise
        geometry, exposure, notes = None, Exposure(), []
    content = description.scan.content or "normalized"
    scan = describe_scan(
        description,
        source,
        source_format=NAME,
        pixel_type=choose_pixel_type((views,), (), source),
        n_views=views.n_views,
        n_rows=views.shape[0],
        n_cols=views.shape[1],
        left_out=left_out,
        content=content,
        white_level=WHITE_LEVEL if content == "normalized" else None,
        geometry=geometry,
        manufacturer="Elekta",
        model="Synergy XVI",
        exposure=exposure,
        notes=("Intensities are 65536 less the values of the files.", *notes),
    )
    bad = description.files.bad_pixels
    mask = None if bad is None else partial(open_mask, description.file(bad), views.shape, NpyFile)
    return FrameReader(scan, folder, (views,), description, bad_pixels=mask)


def _open_views(source: Path, description: ScanDescription) -> tuple[FrameSeries | Stack, Path, tuple[int, ...]]:
    """The frames, the folder that they lie in, and the positions of those that do not exist."""
    pattern = description.files.projections
    if pattern is not None:
        listing = partial(match_files, description, pattern, SUFFIXES)
    else:
        listing = partial(list_files, source, SUFFIXES) if source.is_dir() else partial(list, [source])
    paths = listing()
    if len(paths) == 1:
        return Stack(HisFile(paths[0])), paths[0].parent, ()
    left_out = _left_out(paths, description.files.missing_views)
    # Names may end with the acquisition's UID: the number of the frame stands in front.
    return FrameSeries(lambda: paths, HisFile, description.files.missing_views), paths[0].parent, left_out


def _left_out(paths: list[Path], missing: tuple[int, ...]) -> tuple[int, ...]:
    """Positions of frames that do not exist, as described; IncompleteScanError if others are missing."""
    found = [re.match(r"\d+", path.name) for path in paths]
    if not all(found):
        return ()
    numbers = [int(match.group()) for match in found if match]
    first = min([*numbers, *missing])
    absent = sorted(set(range(first, max(numbers))) - set(numbers) - set(missing))
    if absent:
        named = ", ".join(f"{number:0{len(found[0].group()) if found[0] else 1}d}" for number in absent[:8])
        raise IncompleteScanError(
            f"{paths[0].parent}: {len(absent)} of {max(numbers) - first + 1} frames are missing: {named}; "
            "if they do not exist, name them in [files] missing_views"
        )
    return tuple(number - first for number in sorted(set(missing)))


def _frames_of(
    folder: Path, views: FrameSeries | Stack, left_out: tuple[int, ...]
) -> tuple[ConeBeamGeometry | None, Exposure, list[str]]:
    """Poses and exposure from the XML file beside the frames."""
    found = sorted(p for p in folder.iterdir() if p.name.lower().endswith("frames.xml") and p.is_file())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ScanDescriptionError(f"{folder} holds {names}: leave only that of this scan there")
    if not found:
        return None, Exposure(), ["There is no _Frames.xml: give the [geometry] in a scan.toml."]
    xml = XmlValues.read(found[0])
    frames = list(xml.each("Frame"))
    n_views = views.n_views + len(left_out)
    if len(frames) != n_views:
        raise IncompleteScanError(
            f"{found[0]} describes {len(frames)} frames, but there are {n_views} .his views; "
            "name those that do not exist in [files] missing_views"
        )
    table = np.array([[f.number(*_ANGLE_NAMES), f.number(*_U_NAMES), f.number(*_V_NAMES)] for f in frames])
    table = np.delete(table, list(left_out), axis=0)
    notes = [
        f"Source to axis {SOD_MM:g} mm, source to panel {SDD_MM:g} mm and a panel of {PANEL_MM:g} mm are assumed: "
        "the files do not say."
    ]
    inactive = sum(f.text("Inactive").lower() == "true" for f in frames)
    if inactive:
        notes.append(f"{inactive} frames are marked Inactive; they are read like the others.")
    exposure = Exposure(
        kvp=xml.optional("kV") or None,
        tube_current_ma=xml.optional("mA") or None,
        exposure_time_ms=xml.optional("ms") or None,
    )
    return _poses(views.shape, table), exposure, notes


def _poses(shape: tuple[int, int], table: NDArray[np.float64]) -> ConeBeamGeometry:
    """A circular orbit, each panel moved by its own centre.  Columns: beta [deg], centre along u and v [mm]."""
    pitch_u, pitch_v = PANEL_MM / shape[1], PANEL_MM / shape[0]
    orbit = ConeBeamGeometry.circular(
        sod_mm=SOD_MM,
        sdd_mm=SDD_MM,
        angles_rad=np.deg2rad(table[:, 0]),
        n_rows=shape[0],
        n_cols=shape[1],
        pitch_u_mm=pitch_u,
        pitch_v_mm=pitch_v,
    )
    poses = np.array(orbit.poses)
    poses[:, 3:6] -= table[:, 1:2] / pitch_u * poses[:, 6:9] + table[:, 2:3] / pitch_v * poses[:, 9:12]
    return ConeBeamGeometry(poses, orbit.n_rows, orbit.n_cols)
