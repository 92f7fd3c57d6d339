# SPDX-License-Identifier: Apache-2.0
"""Zeiss (Xradia) scans: a ``.txrm`` file, or ``.xrm`` files with one image each.

What the file's fields mean is not published.  They are taken as the Core Imaging Library, dxchange and txrm2tiff
take them:

- A stored image's first row is its lowest; its columns run left to right as seen from the source.
- ``Angles`` [deg] is how far the sample has turned counter-clockwise seen from +z, so beta = -angle.
- ``XrayGeometry`` 1 is a cone: ``StoRADistance`` and ``DtoRADistance`` [mm] are the ways from source and detector to
  the axis, ``PixelSize`` [um] the pixel as seen at the axis.  Everything else (zone plates) is a parallel beam.
- ``X-Shifts`` and ``Y-Shifts`` [pixels] is how far an image must be moved to higher columns and rows.  The reader
  leaves the pixels as they are and moves the panel of each pose instead, which is exact.
- ``ReferenceData/Image`` is the flat field, scaled by the exposure times where those differ (as txrm2tiff does).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.config import load_description
from ingest.describe import describe_scan
from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers.frame_reader import FieldFiles, FrameReader, choose_pixel_type, describe_field, open_field
from ingest.readers.hdf5_frames import require_announced_views
from ingest.readers.npy_files import NpyFile, open_mask
from ingest.readers.ole_images import OleImages, is_ole
from ingest.readers.series import FrameSeries, Stack, list_files, match_files, require_one_series
from ingest.scan import Exposure, ParallelBeam
from reconstruction.errors import GeometryError
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ingest.config import ScanDescription
    from ingest.readers import SourceOptions

NAME = "zeiss"
SUFFIXES = (".txrm", ".xrm")
_CONE = 1
#: By how much exposures of views and reference may differ before the reference is scaled.
_EXPOSURE_TOLERANCE = 1e-3
_DATES = ("%m/%d/%Y %H:%M:%S.%f", "%m/%d/%Y %H:%M:%S", "%m/%d/%y %H:%M:%S.%f", "%m/%d/%y %H:%M:%S")


def looks_like(source: Path) -> bool:
    """Whether the source is a .txrm or .xrm file, or a folder that holds some; never raises."""
    try:
        if source.is_dir():
            return any(path.suffix.lower() in SUFFIXES and is_ole(path) for path in source.iterdir() if path.is_file())
        return source.is_file() and source.suffix.lower() in SUFFIXES and is_ole(source)
    except OSError:
        return False


def open_source(source: Path, options: SourceOptions) -> FrameReader:
    """Open a Zeiss scan.

    Raises
    ------
    FrameFormatError
        If a file is truncated, a mosaic or a reconstruction, or its images are not of one size and type.
    IncompleteScanError
        If fewer images were taken than planned, or numbers are missing among .xrm files.
    ScanDescriptionError
        If the description is malformed or contradicts the files, or a white level is needed.
    """
    description = load_description(source, options, rows="bottom-up")
    if description.scan.repeat_views is not None:
        raise ScanDescriptionError(f"{source}: repeat_views is not for Zeiss scans: leave it out")
    views, paths = _open_views(source, description)
    try:
        facts = _read_facts(paths, views.shape)
        try:
            geometry, notes = _geometry(facts, views, description)
        except ScanDescriptionError:
            if not description.gives_geometry:
                raise
            geometry, notes = None, []
        corrected = facts.reference_corrected
        content = description.scan.content or ("normalized" if corrected else "counts")
        if content == "normalized" and description.scan.white_level is None:
            raise ScanDescriptionError(
                f"{paths[0]}: its images are corrected by the reference already; "
                "give [scan] white_level, the value of an unattenuated pixel"
            )
        files = description.files
        named = description.field_patterns("flats")
        flats = _flats(paths[0], views, description) if not corrected or named else None
        darks = open_field("darks", description, OleImages, SUFFIXES, (views,))
        n_rows, n_cols = views.shape
        scan = describe_scan(
            description,
            source,
            source_format=NAME,
            pixel_type=choose_pixel_type((views,), (flats, darks), source),
            n_views=views.n_views,
            n_rows=n_rows,
            n_cols=n_cols,
            left_out=views.left_out,
            content=content,
            geometry=geometry,
            flats=describe_field(flats),
            darks=describe_field(darks),
            acquired=facts.acquired,
            manufacturer="Zeiss",
            exposure=facts.exposure,
            notes=(*notes, *facts.notes),
            honoured=("sense", "table_turns"),
        )
        bad = files.bad_pixels
        mask = None if bad is None else partial(open_mask, description.file(bad), (n_rows, n_cols), NpyFile)
    except BaseException:
        views.close()
        raise
    return FrameReader(scan, paths[0], (views,), description, flats, darks, mask)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the files say besides their images; one value a view."""

    path: Path
    angles_deg: NDArray[np.float64]
    shifts_px: NDArray[np.float64]
    cone: bool
    source_mm: NDArray[np.float64]
    detector_mm: NDArray[np.float64]
    pixel_mm: float
    reference_corrected: bool
    acquired: str
    exposure: Exposure
    notes: tuple[str, ...]


def _open_views(source: Path, description: ScanDescription) -> tuple[Stack | FrameSeries, list[Path]]:
    """The images, and the files that they lie in."""
    pattern = description.files.projections
    if pattern is not None:
        paths = match_files(description, pattern, SUFFIXES)
    elif source.is_dir():
        paths = list_files(source, SUFFIXES)
        if len(paths) > 1 and any(path.suffix.lower() == ".txrm" for path in paths):
            names = ", ".join(path.name for path in paths[:4])
            raise FrameFormatError(f"{source} holds several scans ({names}): name one of the files")
        require_one_series(paths)
    else:
        paths = [source]
    if len(paths) > 1:
        listed = list(paths)
        require_announced_views(len(listed), description, source)
        return FrameSeries(lambda: listed, OleImages, description.files.missing_views), paths
    images = OleImages(paths[0])
    try:
        _require_views(images, description)
    except BaseException:
        images.close()
        raise
    return Stack(images), paths


def _require_views(images: OleImages, description: ScanDescription) -> None:
    """Refuse a reconstruction, a mosaic, and a scan that was broken off."""
    if images.path.suffix.lower() == ".txm":
        raise FrameFormatError(f"{images.path} is a reconstructed volume, not projections: name the .txrm of the scan")
    if images.value("ImageInfo/MosiacMode", "<i4"):  # spelt so in the files
        raise FrameFormatError(f"{images.path} is a mosaic: stitch it in the scanner's software first")
    if images.n_frames < 1:
        raise IncompleteScanError(f"{images.path}: none of the {images.n_planned} images was taken")
    said = description.scan.n_views
    if said is not None and said <= images.n_frames:
        images.n_frames = said
    elif images.n_frames < images.n_planned:
        raise IncompleteScanError(
            f"{images.path}: {images.n_frames} of {images.n_planned} images were taken; "
            f"[scan] n_views = {images.n_frames} takes those"
        )
    elif said is not None:
        raise IncompleteScanError(f"{images.path} holds {images.n_frames} views, expected {said} as n_views says")


@dataclass(slots=True)
class _Columns:
    """Values of one kind, a file after the other."""

    rows: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, values: NDArray[Any] | None, count: int, *, absent: float) -> None:
        """Take the first `count` values of a file: one for all, `absent` where there are none."""
        if values is None or values.size == 0:
            values = np.array([absent])
        if values.size < count:
            values = np.full(count, values[0])
        self.rows.append(values[:count].astype(np.float64))

    def joined(self) -> NDArray[np.float64]:
        """All of them."""
        return np.concatenate(self.rows)


def _read_facts(paths: list[Path], shape: tuple[int, int]) -> _Facts:
    """Angles, distances, shifts and the rest of all files."""
    names = {
        "angles": "ImageInfo/Angles",
        "source": "ImageInfo/StoRADistance",
        "detector": "ImageInfo/DtoRADistance",
        "x": "Alignment/X-Shifts",
        "y": "Alignment/Y-Shifts",
    }
    columns = {key: _Columns() for key in names}
    for path in paths:
        images = OleImages(path)
        try:
            if images.shape != shape:
                raise FrameFormatError(
                    f"{path} has images of {images.shape[0]} rows x {images.shape[1]} columns, "
                    f"expected {shape[0]} x {shape[1]} as in {paths[0].name}"
                )
            for key, name in names.items():
                values = images.values(name, "<f4")
                if key == "angles" and (values is None or values.size < images.n_frames):
                    got = 0 if values is None else values.size
                    raise FrameFormatError(
                        f"{path}: ImageInfo/Angles has {got} angles for {images.n_frames} images, expected one each"
                    )
                columns[key].add(values, images.n_frames, absent=0.0 if key in ("x", "y") else np.nan)
        finally:
            images.close()
    first = OleImages(paths[0])
    try:
        return _Facts(
            path=paths[0],
            angles_deg=columns["angles"].joined(),
            shifts_px=np.stack([columns["x"].joined(), columns["y"].joined()], axis=1),
            cone=first.value("ImageInfo/XrayGeometry", "<i4") == _CONE,
            source_mm=np.abs(columns["source"].joined()),
            detector_mm=np.abs(columns["detector"].joined()),
            pixel_mm=float(first.value("ImageInfo/PixelSize", "<f4") or 0.0) / 1000,
            reference_corrected=bool(first.value("ImageInfo/OriginalDataRefCorrected", "<i4")),
            acquired=_acquired(first.text("ImageInfo/Date")),
            exposure=_exposure(first),
            notes=_file_notes(first),
        )
    finally:
        first.close()


def _geometry(
    facts: _Facts, views: Stack | FrameSeries, description: ScanDescription
) -> tuple[ConeBeamGeometry | ParallelBeam | None, list[str]]:
    """Poses with the shifts undone, or the parallel beam; and what to note."""
    n_views = views.n_views
    section = description.geometry
    clockwise = section is not None and (section.table_turns == "clockwise" or section.sense == "counter-clockwise")
    angles = np.deg2rad(facts.angles_deg[:n_views])
    beta = angles if clockwise else -angles
    turn = "clockwise" if clockwise else "counter-clockwise"
    notes = [f"The sample turns {turn} seen from above by the file's angles; the first stored row is the lowest."]
    shifts = facts.shifts_px[:n_views]
    largest = float(np.abs(shifts).max(initial=0.0))
    if not facts.cone:
        if largest:
            notes.append(f"The images' shifts (up to {largest:.3g} pixels) are not applied to a parallel beam.")
        pitch = facts.pixel_mm or None
        return ParallelBeam(tuple(beta.tolist()), pitch, pitch), notes
    if facts.pixel_mm <= 0:
        raise ScanDescriptionError(f"{facts.path} lacks ImageInfo/PixelSize: give the [geometry] in a scan.toml")
    distances = np.stack([facts.source_mm, facts.detector_mm])[:, :n_views]
    if not (np.isfinite(distances).all() and (distances > 0).all()):
        raise ScanDescriptionError(
            f"{facts.path} lacks StoRADistance or DtoRADistance: give the [geometry] in a scan.toml"
        )
    if np.ptp(distances, axis=1).max() > 1e-3 * distances.max():
        raise ScanDescriptionError(
            f"{facts.path}: the distances change from image to image; give the poses in a "
            "scan.toml, [geometry] of kind 'poses'"
        )
    if not np.isfinite(shifts).all():
        view = int(np.argmin(np.isfinite(shifts).all(axis=1)))
        raise ScanDescriptionError(
            f"{facts.path}: the shifts of view {view} are {shifts[view, 0]:g} and {shifts[view, 1]:g} pixels, "
            "expected finite ones: give the [geometry] in a scan.toml"
        )
    if largest:
        notes.append(f"The panel of each view is moved by the file's shifts (up to {largest:.3g} pixels).")
    return _cone(facts, beta, shifts, views.shape), notes


def _cone(
    facts: _Facts, beta_rad: NDArray[np.float64], shifts_px: NDArray[np.float64], shape: tuple[int, int]
) -> ConeBeamGeometry:
    """A circular orbit, each panel moved by its shifts."""
    sod = float(facts.source_mm[0])
    sdd = sod + float(facts.detector_mm[0])
    pitch = facts.pixel_mm * sdd / sod
    try:
        orbit = ConeBeamGeometry.circular(
            sod_mm=sod,
            sdd_mm=sdd,
            angles_rad=beta_rad,
            n_rows=shape[0],
            n_cols=shape[1],
            pitch_u_mm=pitch,
            pitch_v_mm=pitch,
        )
    except GeometryError as error:
        raise ScanDescriptionError(f"{facts.path}: {error}; give the [geometry] in a scan.toml") from error
    poses = np.array(orbit.poses)
    poses[:, 3:6] += shifts_px[:, :1] * poses[:, 6:9] + shifts_px[:, 1:] * poses[:, 9:12]
    return ConeBeamGeometry(poses, orbit.n_rows, orbit.n_cols)


@dataclass(slots=True)
class _References:
    """The reference images of a file, as a file of frames."""

    images: OleImages
    names: list[str]
    factor: float
    n_frames: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @classmethod
    def open(cls, path: Path) -> _References:
        """Open the file and list its reference images."""
        images = OleImages(path)
        try:
            names, factor = images.references(), _reference_factor(images)
            dtype = images.reference_dtype() if factor == 1 else np.dtype(np.float32)
            return cls(images, names, factor, len(names), images.shape, dtype)
        except BaseException:
            images.close()
            raise

    def read(self, index: int) -> NDArray[Any]:
        """Return one reference image (row, col), exposed as the views are."""
        image = self.images.read_reference(self.names[index])
        return image if self.factor == 1 else np.asarray(image * self.factor, dtype=np.float32)

    def close(self) -> None:
        """Close the file."""
        self.images.close()


def _flats(path: Path, views: Stack | FrameSeries, description: ScanDescription) -> FieldFiles | None:
    """Flat frames: those that the description names, else the file's own reference images."""
    if description.field_patterns("flats"):
        return open_field("flats", description, OleImages, SUFFIXES, (views,))
    references = _References.open(path)
    references.close()
    if not references.n_frames:
        return None
    return FieldFiles((((partial(_References.open, path),),),), (references.n_frames,), references.dtype, "flat frame")


def _file_notes(images: OleImages) -> tuple[str, ...]:
    """What the file says that is not used, or that a user should know."""
    notes = []
    factor = _reference_factor(images)
    if factor != 1:
        notes.append(f"The reference is scaled by {factor:.5g}, the exposure of the views over its own.")
    if not images.references():
        notes.append("The file holds no reference image: name flat frames in [files] flats.")
    center = images.value("ReconSettings/CenterShift", "<f4")
    if center:
        notes.append(f"CenterShift {center:g} of the reconstruction is not applied: find the axis instead.")
    return tuple(notes)


def _reference_factor(images: OleImages) -> float:
    """Exposure time of the views over that of the reference; 1 where they agree or one is not known."""
    exposure = _first_exposure_s(images)
    reference = images.value("ReferenceData/ExpTime", "<f4") or images.value("MultiReferenceData/ExpTime", "<f4")
    if not exposure or not reference or not np.isfinite(reference) or reference < 0:
        return 1.0
    factor = exposure / float(reference)
    return factor if abs(factor - 1) > _EXPOSURE_TOLERANCE else 1.0


def _first_exposure_s(images: OleImages) -> float | None:
    """Exposure time of the first view [s], or None."""
    for name in ("ImageInfo/ExpTimes", "AcquisitionSettings/ExpTime"):
        seconds = images.value(name, "<f4")
        if seconds is not None and np.isfinite(seconds) and seconds > 0:
            return float(seconds)
    return None


def _exposure(images: OleImages) -> Exposure:
    """Tube voltage [kV], current [uA], exposure time and source filter."""

    def positive(*names: str) -> float | None:
        values = (images.value(name, "<f4") for name in names)
        return next((float(v) for v in values if v is not None and np.isfinite(v) and v > 0), None)

    seconds, current_ua = _first_exposure_s(images), positive("ImageInfo/Current", "AcquisitionSettings/SrcCurrent")
    material = images.text("AcquisitionSettings/SourceFilterName")
    return Exposure(
        kvp=positive("ImageInfo/Voltage", "AcquisitionSettings/SrcVoltage"),
        tube_current_ma=None if current_ua is None else current_ua / 1000,
        exposure_time_ms=None if seconds is None else round(1000 * seconds, 6),
        filter_material=material if material and material.lower() not in ("air", "none") else None,
    )


def _acquired(text: str) -> str:
    """Date and time in ISO 8601, or "" where it is of an unknown kind."""
    for form in _DATES:
        try:
            return datetime.strptime(text, form).isoformat()
        except ValueError:
            continue
    return ""
