# SPDX-License-Identifier: Apache-2.0
"""Varian imagers: ``.xim`` with ``Scan.xml`` (TrueBeam, ProBeam), ``.hnd`` or ``.hnc`` with ``ProjectionInfo.xml``.

The source is the folder with the projections, the folder that holds ``Scan.xml`` and ``Acquisitions``, or that file.
What the fields mean is taken as RTK takes it:

- A stored frame's first row is the lowest v, its columns run to the right as seen from the source.
- XIM: ``KVSourceRtn`` is in Varian's scale, so beta = 180 degrees - angle; ``KVDetectorLat`` and ``KVDetectorLng`` [cm]
  move the panel along u and v; ``SAD`` and ``SID`` of ``Scan.xml`` [mm] are our sod and sdd.
- HND, HNC: beta is the header's projection angle; ``CalibratedSAD``, ``CalibratedSID``, ``CalibratedDetectorOffsetX``
  and ``Y`` of ``ProjectionInfo.xml`` [mm]; a half fan adds ``DetectorPosLat``.

Settings (``[settings]`` of scan.toml):

``norm_chamber``
    ``true``: divide each frame, flat frames too, by its reading of the norm chamber, relative to the first view's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.config import load_description
from ingest.describe import describe_scan
from ingest.errors import FrameFormatError, ScanDescriptionError
from ingest.fields import convert
from ingest.readers.frame_reader import FrameReader, choose_pixel_type, describe_field, open_field
from ingest.readers.hdf5_frames import require_announced_views
from ingest.readers.npy_files import NpyFile, open_mask
from ingest.readers.series import FrameSeries, list_files, match_files
from ingest.readers.varian_frames import ObiFile, XimFile
from ingest.readers.xml_values import XmlValues
from ingest.scan import Exposure
from reconstruction.errors import GeometryError
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ingest.config import ScanDescription
    from ingest.readers import SourceOptions

NAME = "varian"
SUFFIXES = (".xim", ".hnd", ".hnc")
_SCAN_XML, _OBI_XML = "scan.xml", "projectioninfo.xml"
_SETTINGS = ("norm_chamber",)
#: Two neighbours whose norm chambers differ by more than this are worth a note.
_CHAMBER_TOLERANCE = 1e-3


def looks_like(source: Path) -> bool:
    """Whether the source is or holds projections of a Varian imager, or is its Scan.xml; never raises."""
    try:
        if source.is_file():
            return source.suffix.lower() in SUFFIXES or source.name.lower() in (_SCAN_XML, _OBI_XML)
        if not source.is_dir():
            return False
        return any(p.suffix.lower() in SUFFIXES for p in source.iterdir()) or bool(_acquisitions(source))
    except OSError:
        return False


def open_source(source: Path, options: SourceOptions) -> FrameReader:
    """Open projections of a Varian imager: all headers are read, no pixels.

    Raises
    ------
    FrameFormatError
        If a file is cut short or malformed, or kinds or sizes are mixed.
    IncompleteScanError
        If there is no projection, or numbers are missing among them.
    ScanDescriptionError
        If an XML file or the description is malformed or contradicts the files.
    """
    description = load_description(source, options, rows="bottom-up", known_settings=_SETTINGS)
    if description.scan.repeat_views is not None:
        raise ScanDescriptionError(f"{source}: repeat_views is not for Varian projections: leave it out")
    where = f"{description.name}: setting norm_chamber"
    normed = convert(description.settings.get("norm_chamber", False), bool, where)
    heads = _read_heads(_list_projections(source, description), description.files.missing_views)
    chambers = np.array([head.chamber for head in heads])
    if normed and not (chambers > 0).all():
        worst = heads[int(np.argmin(chambers))]
        raise ScanDescriptionError(
            f"{worst.path}: its norm chamber reads {worst.chamber:g}, expected above 0: set norm_chamber = false"
        )
    open_file = partial(_open_file, reference=heads[0].chamber if normed else None)
    paths = [head.path for head in heads]
    views = FrameSeries(partial(list, paths), open_file, description.files.missing_views)
    require_announced_views(views.n_views, description, source)
    for head in heads:
        if head.shape != views.shape:
            raise FrameFormatError(
                f"{head.path} has {head.shape[0]} rows x {head.shape[1]} columns, "
                f"expected {views.shape[0]} x {views.shape[1]} as in {paths[0].name}"
            )
    try:
        geometry, notes = _geometry(paths[0], heads)
    except ScanDescriptionError:
        if not description.gives_geometry:
            raise
        geometry, notes = None, []
    if not normed:
        notes += _chamber_notes(chambers)
    files = description.files
    flats = open_field("flats", description, open_file, SUFFIXES, (views,))
    darks = open_field("darks", description, open_file, SUFFIXES, (views,))
    scan = describe_scan(
        description,
        source,
        source_format=NAME,
        pixel_type=choose_pixel_type((views,), (flats, darks), source),
        n_views=views.n_views,
        n_rows=views.shape[0],
        n_cols=views.shape[1],
        left_out=views.left_out,
        content=description.scan.content or "counts",
        geometry=geometry,
        flats=describe_field(flats),
        darks=describe_field(darks),
        manufacturer="Varian",
        exposure=heads[0].exposure,
        notes=tuple(notes),
    )
    bad = files.bad_pixels
    mask = None if bad is None else partial(open_mask, description.file(bad), views.shape, NpyFile)
    return FrameReader(scan, paths[0], (views,), description, flats, darks, mask)


@dataclass(frozen=True, slots=True)
class _Head:
    """What one file says besides its pixels; NaN where it does not say."""

    path: Path
    shape: tuple[int, int]
    beta_deg: float
    offset_u_mm: float
    offset_v_mm: float
    pitch_u_mm: float
    pitch_v_mm: float
    sod_mm: float
    sdd_mm: float
    chamber: float
    exposure: Exposure

    @property
    def is_xim(self) -> bool:
        """Whether it is a .xim file."""
        return self.path.suffix.lower() == ".xim"


@dataclass(slots=True)
class _NormedFile:
    """A frame multiplied by a factor."""

    frame_file: XimFile | ObiFile
    factor: float
    n_frames: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    def read(self, index: int) -> NDArray[Any]:
        """Return the frame (row, col) float32."""
        return np.asarray(self.frame_file.read(index) * self.factor, dtype=np.float32)

    def close(self) -> None:
        """Close the file."""
        self.frame_file.close()


def _open_file(path: Path, reference: float | None = None) -> XimFile | ObiFile | _NormedFile:
    """Open a projection, divided by its norm chamber relative to the reference if there is one."""
    frame_file = XimFile(path) if path.suffix.lower() == ".xim" else ObiFile(path)
    if reference is None:
        return frame_file
    chamber = _chamber(frame_file)
    if not chamber > 0:
        raise FrameFormatError(
            f"{path}: its norm chamber reads {chamber:g}, expected above 0: set norm_chamber = false"
        )
    return _NormedFile(frame_file, reference / chamber, 1, frame_file.shape, np.dtype(np.float32))


def _chamber(frame_file: XimFile | ObiFile) -> float:
    """Reading of the norm chamber, NaN where there is none."""
    if isinstance(frame_file, ObiFile):
        return float(frame_file.fields["norm_chamber"])
    value = frame_file.properties.get("KVNormChamber", float("nan"))
    return value if isinstance(value, float) else float("nan")


def _acquisitions(folder: Path) -> list[Path]:
    """Folders below ``Acquisitions`` that hold .xim files."""
    found = [child for child in folder.iterdir() if child.name.lower() == "acquisitions" and child.is_dir()]
    return sorted(
        child
        for top in found
        for child in top.iterdir()
        if child.is_dir() and any(path.suffix.lower() == ".xim" for path in child.iterdir())
    )


def _list_projections(source: Path, description: ScanDescription) -> list[Path]:
    """The files of projections: as described, in the folder, or in the one acquisition below it."""
    if description.files.projections is not None:
        return match_files(description, description.files.projections, SUFFIXES)
    folder = source if source.is_dir() else source.parent
    if not any(path.suffix.lower() in SUFFIXES for path in folder.iterdir()):
        acquisitions = _acquisitions(folder)
        if len(acquisitions) > 1:
            names = ", ".join(path.name for path in acquisitions)
            raise FrameFormatError(f"{folder} holds the acquisitions {names}: name the folder of one of them")
        folder = acquisitions[0] if acquisitions else folder
    paths = list_files(folder, SUFFIXES)
    projections = [path for path in paths if path.name.lower().startswith("proj")] or paths
    if len({path.suffix.lower() for path in projections}) > 1:
        raise FrameFormatError(f"{folder} holds projections of several kinds: name one in [files] projections")
    return projections


def _read_heads(paths: list[Path], missing: tuple[int, ...]) -> list[_Head]:
    """The headers of all files with pixels; those without may only come first and last."""
    heads = [_xim_head(path) if path.suffix.lower() == ".xim" else _obi_head(path) for path in paths]
    filled = [index for index, head in enumerate(heads) if head is not None]
    if not filled:
        raise FrameFormatError(f"{paths[0].parent}: none of its {len(paths)} files holds pixels")
    for index in range(filled[0], filled[-1]):
        if heads[index] is None and not missing:
            raise FrameFormatError(
                f"{paths[index]} holds no pixels though files before and after it do: "
                "give its number in [files] missing_views"
            )
    return [head for head in heads if head is not None]


def _xim_head(path: Path) -> _Head | None:
    """What a .xim file says, None if it holds no pixels."""
    frame_file = XimFile(path)
    if not frame_file.has_pixels:
        return None
    properties = frame_file.properties

    def number(name: str) -> float:
        value = properties.get(name)
        return value if isinstance(value, float) else float("nan")

    return _Head(
        path=path,
        shape=frame_file.shape,
        beta_deg=180.0 - number("KVSourceRtn"),
        offset_u_mm=10 * number("KVDetectorLat"),
        offset_v_mm=10 * number("KVDetectorLng"),
        pitch_u_mm=10 * number("PixelWidth"),
        pitch_v_mm=10 * number("PixelHeight"),
        sod_mm=float("nan"),
        sdd_mm=float("nan"),
        chamber=_chamber(frame_file),
        exposure=_exposure(number("KVKiloVolts"), number("KVMilliAmperes"), number("KVMilliSeconds")),
    )


def _obi_head(path: Path) -> _Head:
    """What a .hnd or .hnc file says."""
    fields = ObiFile(path).fields
    return _Head(
        path=path,
        shape=(int(fields["n_rows"]), int(fields["n_cols"])),
        beta_deg=fields["angle_deg"],
        offset_u_mm=0.0,
        offset_v_mm=0.0,
        pitch_u_mm=fields["pitch_u_mm"],
        pitch_v_mm=fields["pitch_v_mm"],
        sod_mm=fields["sod_mm"],
        sdd_mm=fields["sdd_mm"],
        chamber=fields["norm_chamber"],
        exposure=_exposure(fields["kvp"], fields["tube_current_ma"], float("nan")),
    )


def _exposure(kvp: float, current_ma: float, time_ms: float) -> Exposure:
    """What is above 0."""
    known = [value if np.isfinite(value) and value > 0 else None for value in (kvp, current_ma, time_ms)]
    return Exposure(kvp=known[0], tube_current_ma=known[1], exposure_time_ms=known[2])


def _find_xml(folder: Path, name: str, *, levels: int) -> Path | None:
    """An XML file of the scan: in the folder or so many levels above it."""
    for place in [folder, *folder.absolute().parents[:levels]]:
        for path in place.iterdir():
            if path.name.lower() == name and path.is_file():
                return path
    return None


def _geometry(first: Path, heads: list[_Head]) -> tuple[ConeBeamGeometry | None, list[str]]:
    """The poses, or None where the files do not say enough; and what to note."""
    is_xim = heads[0].is_xim
    path = _find_xml(first.parent, _SCAN_XML if is_xim else _OBI_XML, levels=2 if is_xim else 1)
    name = "Scan.xml" if is_xim else "ProjectionInfo.xml"
    if path is None:
        return None, [f"There is no {name}: give the [geometry] in a scan.toml."]
    table = np.array([[h.beta_deg, h.offset_u_mm, h.offset_v_mm, h.pitch_u_mm, h.pitch_v_mm] for h in heads])
    xml = XmlValues.read(path)
    if is_xim:
        sod, sdd = xml.number("SAD"), xml.number("SID")
        notes = ["The source's angles are in Varian's scale: beta is 180 degrees less KVSourceRtn."]
        table[:, 3] = np.where(np.isfinite(table[:, 3]), table[:, 3], xml.optional("ImagerResX") or np.nan)
        table[:, 4] = np.where(np.isfinite(table[:, 4]), table[:, 4], xml.optional("ImagerResY") or np.nan)
    else:
        sod, sdd = xml.number("CalibratedSAD"), xml.number("CalibratedSID")
        half_fan = xml.text("FanType").lower() == "halffan"
        table[:, 1] = xml.number("CalibratedDetectorOffsetX") + (xml.number("DetectorPosLat") if half_fan else 0.0)
        table[:, 2] = xml.number("CalibratedDetectorOffsetY")
        notes = ["The source turns counter-clockwise seen from +z by the projection angle."]
    missing = np.argwhere(~np.isfinite(table))
    if missing.size:
        what = ("angle", "lateral offset", "longitudinal offset", "pixel width", "pixel height")[missing[0][1]]
        raise ScanDescriptionError(
            f"{heads[int(missing[0][0])].path} does not say its {what}: give the [geometry] in a scan.toml"
        )
    return _poses(path, heads[0].shape, sod, sdd, table), notes


def _poses(xml: Path, shape: tuple[int, int], sod: float, sdd: float, table: NDArray[np.float64]) -> ConeBeamGeometry:
    """A circular orbit, each panel moved by its own offsets.  Columns: beta [deg], offsets and pitches [mm]."""
    try:
        orbit = ConeBeamGeometry.circular(
            sod_mm=sod,
            sdd_mm=sdd,
            angles_rad=np.deg2rad(table[:, 0]),
            n_rows=shape[0],
            n_cols=shape[1],
            pitch_u_mm=float(table[0, 3]),
            pitch_v_mm=float(table[0, 4]),
        )
    except GeometryError as error:
        raise ScanDescriptionError(f"{xml}: {error}; correct it, or give the [geometry] in a scan.toml") from error
    poses = np.array(orbit.poses)
    poses[:, 3:6] += table[:, 1:2] / table[0, 3] * poses[:, 6:9] + table[:, 2:3] / table[0, 4] * poses[:, 9:12]
    return ConeBeamGeometry(poses, orbit.n_rows, orbit.n_cols)


def _chamber_notes(chambers: NDArray[np.float64]) -> list[str]:
    """How far the norm chamber's readings differ, if they do."""
    known = chambers[np.isfinite(chambers) & (chambers > 0)]
    if known.size < 2 or known.max() - known.min() <= _CHAMBER_TOLERANCE * known.mean():
        return []
    spread = 100 * (known.max() - known.min()) / known.mean()
    return [f"The norm chamber varies by {spread:.2g} % between views; the setting norm_chamber = true divides by it."]
