# SPDX-License-Identifier: Apache-2.0
"""Projections in DICOM files: one file a view or many frames in one, by a tag map (`ingest.readers.dicom_map`).

A map for DICOM-CT-PD and one for enhanced XA objects come with the program; others are TOML files that ``--set
map=FILE`` names.  Curved panels of DICOM-CT-PD are resampled to flat ones; spherical ones are refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ingest.config import load_description
from ingest.describe import describe_scan
from ingest.errors import FrameFormatError, IncompleteScanError, IngestError
from ingest.frames import convert_frames, orient_frames, stored_pixel_type
from ingest.readers.dicom_map import MODELS, TagMap, read_map, shipped_maps, values_expected
from ingest.readers.dicom_panels import CYLINDRICAL, CylinderPanel, circular_pose, focal_pose, interpolate
from ingest.readers.frame_reader import require_view_range
from ingest.readers.hdf5_frames import require_announced_views
from ingest.readers.masks import read_mask
from ingest.readers.series import natural_key
from ingest.scan import EnergyBin, Exposure
from reconstruction.errors import GeometryError
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from ingest.config import ScanDescription
    from ingest.readers import SourceOptions
    from ingest.scan import Scan

NAME: Final = "dicom"
SETTINGS: Final = ("map",)
_MAGIC: Final = b"DICM"
#: What pydicom raises on bytes that end too early or make no sense.
_DAMAGED: Final = (
    OSError, ValueError, EOFError, AttributeError, KeyError, TypeError, RuntimeError, NotImplementedError, struct.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame of a file: its place in the scan, and how its pixels become numbers."""

    path: Path
    index: int
    order: float | None
    bin: float
    dataset: Dataset


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's magic after its preamble; never raises."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == _MAGIC
    except OSError:
        return False


def looks_like(source: Path) -> bool:
    """Whether the source is a DICOM file, or a folder whose first file is one; never raises."""
    try:
        if not source.is_dir():
            return source.is_file() and is_dicom(source)
        return any(is_dicom(path) for path in _files(source)[:3])
    except OSError:
        return False


def open_source(source: Path, options: SourceOptions) -> DicomReader:
    """Open projections in DICOM files.

    Raises
    ------
    FrameFormatError
        If a file is damaged, lacks an element, or is not like the others; if no map fits.
    IncompleteScanError
        If energy bins have different numbers of views.
    ScanDescriptionError
        If the map or the description is malformed.
    """
    return DicomReader(source, options)


class DicomReader:
    """An opened set of DICOM files; headers are held, pixels are read when asked for."""

    def __init__(self, source: Path, options: SourceOptions) -> None:
        description = load_description(source, options, known_settings=SETTINGS)
        frames, chosen = _read_headers(source, description)
        # Which way round the pixels lie is the map's, unless the description says.
        section = description.geometry
        rows = (section and section.rows) or chosen.section.rows
        cols = (section and section.cols) or chosen.section.cols
        self._map, self._rows, self._cols, self._description = chosen, rows, cols, description
        self._bins = _by_bin(frames, source)
        first = self._bins[0][0]
        self._transposed, panel_rows, panel_cols = _panel_size(first, chosen)
        self._curved, self._offset = self._panel(first, panel_rows, panel_cols)
        self._n_rows = panel_rows
        self._n_cols = panel_cols if self._curved is None else self._curved.n_flat_cols
        self._moved: list[tuple[float, float, float]] = []
        n_views = len(self._bins[0])
        require_announced_views(n_views, description, source)
        content = description.scan.content or chosen.section.content
        self._scaled = any(_rescale(frame) != (1.0, 0.0) for frames_of in self._bins for frame in frames_of)
        as_float = content == "line_integrals" or self._scaled or self._curved is not None
        notes = [f"The tags are read by the map '{chosen.section.name}'."]
        notes += [chosen.section.note] if chosen.section.note else []
        if self._curved is not None:
            notes.append(f"The curved panel of {panel_cols} columns is resampled to a flat one of {self._n_cols}.")
        self._scan = describe_scan(
            description,
            source,
            source_format=NAME,
            pixel_type="float32" if as_float else stored_pixel_type(_dtype(first), source),
            n_views=n_views,
            n_rows=self._n_rows,
            n_cols=self._n_cols,
            n_bins=len(self._bins),
            bins=self._energies(),
            content=content,
            white_level=chosen.section.white_level,
            geometry=self._geometry(source),
            manufacturer=str(first.dataset.get("Manufacturer", "") or ""),
            model=str(first.dataset.get("ManufacturerModelName", "") or ""),
            exposure=self._exposure(first),
            notes=tuple(notes),
        )

    @property
    def scan(self) -> Scan:
        """The manifest."""
        return self._scan

    def available_views(self) -> int:
        """All views."""
        return self._scan.n_views

    def read_views(self, start: int, stop: int) -> NDArray[Any]:
        """Views as (bin, view, row, col); FrameFormatError if pixels cannot be decoded."""
        scan = self._scan
        require_view_range(start, stop, scan)
        views = np.empty((scan.n_bins, stop - start, scan.n_rows, scan.n_cols), dtype=scan.pixel_type)
        for bin_index, frames in enumerate(self._bins):
            for view in range(start, stop):
                pixels = self._read(frames[view], view)[None]
                views[bin_index, view - start] = convert_frames(
                    pixels, scan.pixel_type, view, frames[view].path, content=scan.content
                )[0]
        return views

    def read_flats(self, position: int | None = None) -> None:
        """None: such files hold views only."""

    def read_darks(self, position: int | None = None) -> None:
        """None: such files hold views only."""

    def read_bad_pixels(self) -> NDArray[Any] | None:
        """Pixels that the description calls bad (row, col) bool, or None."""
        return read_mask(self._description, (self._scan.n_rows, self._scan.n_cols))

    def close(self) -> None:
        """Nothing stays open."""

    def _read(self, frame: _Frame, view: int) -> NDArray[Any]:
        """One frame (row, col), in our orientation, flat."""
        from pydicom.pixels.utils import pixel_array

        many = int(frame.dataset.get("NumberOfFrames", 1) or 1) > 1
        try:
            pixels = np.asarray(pixel_array(frame.path, index=frame.index if many else None, raw=True))
        except _DAMAGED as error:
            said = " ".join(str(error).split())
            raise FrameFormatError(
                f"{frame.path}: frame {frame.index} cannot be decoded ({said}): the file is cut short, or compressed "
                "in a way that is not read; if so, store it uncompressed"
            ) from error
        stored = (int(frame.dataset.Rows), int(frame.dataset.Columns))
        if pixels.shape != stored:
            raise FrameFormatError(
                f"{frame.path}: frame {frame.index} has the shape {pixels.shape}, expected {stored} of one grey value "
                "a pixel"
            )
        slope, intercept = _rescale(frame)
        if (slope, intercept) != (1.0, 0.0):
            pixels = (pixels * slope + intercept).astype(np.float32)
        pixels = orient_frames(pixels.T if self._transposed else pixels, self._rows, self._cols)
        if self._curved is None:
            return pixels
        return interpolate(pixels.astype(np.float32), *self._curved.places(self._moved[view]))

    def _panel(self, first: _Frame, n_rows: int, n_cols: int) -> tuple[CylinderPanel | None, tuple[float, float]]:
        """The curved panel, if it is one, and where the panel's middle lies from the foot of the central ray."""
        if self._map.section.model != "ct-pd":
            return None, (0.0, 0.0)
        shape = self._map.text("shape", first.dataset, first.index)
        if shape not in ("FLAT", CYLINDRICAL):
            raise FrameFormatError(f"{first.path}: the panel is '{shape}', expected FLAT or CYLINDRICAL")
        values = self._values(first)
        element = self._map.numbers("central_element", first.dataset, first.index, first.path)
        if element is None or len(element) != 2:
            got = 0 if element is None else len(element)
            raise FrameFormatError(
                f"{first.path}: central_element has {got} numbers, expected a column and a row: name another element "
                "by a map of your own"
            )
        col = n_cols - element[0] if self._cols == "right-to-left" else element[0] - 1
        row = n_rows - element[1] if self._rows == "top-down" else element[1] - 1
        panel = CylinderPanel(
            values["focal_to_detector_mm"], values["pitch_u_mm"], values["pitch_v_mm"], n_rows, n_cols, row, col
        )
        if shape == CYLINDRICAL:
            return panel, panel.flat_offset_mm
        return None, (((n_cols - 1) / 2 - col) * panel.pitch_u_mm, panel.flat_offset_mm[1])

    def _geometry(self, source: Path) -> ConeBeamGeometry:
        """The poses of all views, which all energy bins must share."""
        found: list[NDArray[np.float64]] = []
        for frames in self._bins:
            poses = np.array([self._pose(frame) for frame in frames])
            if found and np.abs(poses - found[0]).max() > 1e-3:
                raise FrameFormatError(f"{source}: energy bins have different poses: upload them as scans of their own")
            found.append(poses)
        try:
            return ConeBeamGeometry(found[0], self._n_rows, self._n_cols)
        except GeometryError as error:
            raise FrameFormatError(f"{source}: {error}; correct the tag map or the elements it names") from error

    def _pose(self, frame: _Frame) -> NDArray[np.float64]:
        """The pose of one frame."""
        model = self._map.section.model
        if model == "poses":
            return np.concatenate([self._vector(name, frame) for name in MODELS["poses"][0]])
        values = self._values(frame)
        if model == "ct-pd":
            pose, moved = focal_pose(values, self._offset)
            self._moved.append(moved)
            return pose
        # Centres count in the file's order.
        if self._cols == "right-to-left" and "center_col" in values:
            values["center_col"] = self._n_cols - 1 - values["center_col"]
        if self._rows == "top-down" and "center_row" in values:
            values["center_row"] = self._n_rows - 1 - values["center_row"]
        try:
            return circular_pose(values, self._n_rows, self._n_cols, frame.path)
        except GeometryError as error:
            raise FrameFormatError(f"{frame.path}: {error}; correct the tag map or the elements it names") from error

    def _values(self, frame: _Frame) -> dict[str, float]:
        """The quantities of one number; those that the model needs must be there."""
        needed, optional = MODELS[self._map.section.model]
        values = {}
        for name in (*needed, *optional):
            if name == "shape" or values_expected(name) != 1:
                continue
            number = self._map.number(name, frame.dataset, frame.index, frame.path)
            if number is not None:
                values[name] = number
            elif name in needed:
                tag = self._map.tags[name].tag
                raise FrameFormatError(
                    f"{frame.path}: frame {frame.index} lacks {name}, the element ({tag}): name another, or a value, "
                    "in a map of your own"
                )
        return values

    def _vector(self, name: str, frame: _Frame) -> NDArray[np.float64]:
        """A quantity of several numbers, which must be there."""
        numbers = self._map.numbers(name, frame.dataset, frame.index, frame.path) or ()
        if len(numbers) != values_expected(name):
            raise FrameFormatError(
                f"{frame.path}: frame {frame.index} has {len(numbers)} numbers of {name}, the element "
                f"({self._map.tags[name].tag}), expected {values_expected(name)}"
            )
        return np.array(numbers)

    def _energies(self) -> tuple[EnergyBin, ...]:
        """The energy bins, with their limits if the map has them."""
        bins = []
        for index, frames in enumerate(self._bins):
            low, high = (
                self._map.number(name, frames[0].dataset, frames[0].index, frames[0].path)
                for name in ("low_kev", "high_kev")
            )
            kind = (
                "difference"
                if low is not None and high is not None
                else "counter"
                if low is not None
                else "integrating"
            )
            bins.append(EnergyBin(index, kind, low, high))  # type: ignore[arg-type]  # one of the three
        return tuple(bins)

    def _exposure(self, first: _Frame) -> Exposure:
        """How the tube was run."""
        kvp, current, time = (
            self._map.number(name, first.dataset, first.index, first.path)
            for name in ("kvp", "tube_current_ma", "exposure_time_ms")
        )
        return Exposure(kvp or None, current or None, time or None)


def _files(source: Path) -> list[Path]:
    """Files that may be DICOM: of a folder, all that are not hidden and not of another kind by name."""
    if not source.is_dir():
        return [source]
    suffixes = ("", ".dcm", ".ima", ".dicom", ".img")
    found = (p for p in source.iterdir() if not p.name.startswith(".") and p.name != "DICOMDIR")
    # A name that ends in a UID has a "suffix" of digits.
    kept = (p for p in found if p.suffix.lower() in suffixes or p.suffix[1:].isdigit())
    return sorted((p for p in kept if p.is_file()), key=natural_key)


def _read_headers(source: Path, description: ScanDescription) -> tuple[list[_Frame], TagMap]:
    """The frames of all files, in the order of their names, and the map for them."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    paths = [path for path in _files(source) if is_dicom(path)]
    if not paths:
        raise FrameFormatError(
            f"{source} holds no DICOM file, expected .dcm, .ima, .dicom, .img or names without an ending"
        )
    frames: list[_Frame] = []
    chosen: TagMap | None = None
    for path in paths:
        try:
            dataset = dcmread(path, stop_before_pixels=True)
            chosen = chosen or _choose_map(dataset, description, path)
            # Sequences are parsed when they are first asked for, which is here.
            for index in range(int(dataset.get("NumberOfFrames", 1) or 1)):
                order, bin_value = (chosen.number(name, dataset, index, path) for name in ("order", "bin"))
                frames.append(_Frame(path, index, order, bin_value or 0.0, dataset))
        except (InvalidDicomError, *_DAMAGED) as error:
            if isinstance(error, IngestError):
                raise
            raise FrameFormatError(f"{path} is truncated or not a readable DICOM file: {error}") from error
    assert chosen is not None
    return frames, chosen


def _choose_map(dataset: Dataset, description: ScanDescription, path: Path) -> TagMap:
    """The map that the settings name, or the first that fits."""
    shipped = shipped_maps()
    named = description.settings.get("map")
    if named is not None:
        known = [tag_map for tag_map in shipped if tag_map.path.stem == str(named)]
        return known[0] if known else read_map(description.file(str(named)))
    fitting = [tag_map for tag_map in shipped if tag_map.fits(dataset)]
    if not fitting:
        names = ", ".join(tag_map.section.name for tag_map in shipped)
        raise FrameFormatError(
            f"{path} is a DICOM file, but none of the tag maps ({names}) fits it: write a map and name it by "
            "--set map=FILE"
        )
    return fitting[0]


def _by_bin(frames: list[_Frame], source: Path) -> list[list[_Frame]]:
    """Frames of each energy bin, in the order of the scan."""
    bins: dict[float, list[_Frame]] = {}
    for frame in frames:
        bins.setdefault(frame.bin, []).append(frame)
    ordered = []
    for _, members in sorted(bins.items()):
        orders = [frame.order for frame in members if frame.order is not None]
        single = all(frame.index == 0 for frame in members)
        if len(orders) == len(members) and single:
            if len(set(orders)) != len(orders):
                twice = next(order for order in orders if orders.count(order) > 1)
                raise FrameFormatError(f"{source}: two files have the number {twice:g}: keep one scan in a folder")
            members = sorted(members, key=lambda frame: frame.order or 0.0)
        ordered.append(members)
    counts = {len(members) for members in ordered}
    if len(counts) > 1:
        numbers = ", ".join(map(str, sorted(counts)))
        raise IncompleteScanError(
            f"{source}: energy bins have {numbers} views, expected as many each: copy what is missing"
        )
    first = ordered[0][0]
    for frame in frames:
        like, got = _look(first), _look(frame)
        if like != got:
            raise FrameFormatError(
                f"{frame.path} has frames of {got}, expected {like} as in {first.path.name}: keep one scan in a folder"
            )
    return ordered


def _look(frame: _Frame) -> str:
    """Size and type of a frame."""
    dataset = frame.dataset
    try:
        return f"{dataset.Rows} x {dataset.Columns}, {dataset.BitsAllocated} bit"
    except AttributeError as error:
        raise FrameFormatError(f"{frame.path} holds no pixels ({error}): take it out of the folder") from error


def _panel_size(first: _Frame, tag_map: TagMap) -> tuple[bool, int, int]:
    """Whether pixels are stored by columns, and the panel's rows and columns."""
    stored = (int(first.dataset.Rows), int(first.dataset.Columns))
    sizes = [
        tag_map.number(name, first.dataset, first.index, first.path) for name in ("detector_rows", "detector_cols")
    ]
    said = tag_map.section.transposed
    if None in sizes:
        return bool(said), *(stored[::-1] if said else stored)
    rows, cols = (int(size or 0) for size in sizes)
    if (rows, cols) not in (stored, stored[::-1]):
        raise FrameFormatError(
            f"{first.path}: the panel should have {rows} rows x {cols} columns, but the pixels are "
            f"{stored[0]} x {stored[1]}: correct detector_rows and detector_cols of the map"
        )
    # Of a square panel the sizes do not tell; files of DICOM-CT-PD are stored by columns.
    transposed = said if said is not None else (cols, rows) == stored
    return transposed, rows, cols


def _rescale(frame: _Frame) -> tuple[float, float]:
    """Slope and intercept of a frame."""
    try:
        slope = float(frame.dataset.get("RescaleSlope", 1.0) or 1.0)
        return slope, float(frame.dataset.get("RescaleIntercept", 0.0) or 0.0)
    except (TypeError, ValueError) as error:
        raise FrameFormatError(f"{frame.path}: rescale slope and intercept should be numbers: {error}") from error


def _dtype(frame: _Frame) -> np.dtype[Any]:
    """Type of the stored pixels."""
    signed = int(frame.dataset.get("PixelRepresentation", 0))
    return np.dtype(f"{'i' if signed else 'u'}{max(1, int(frame.dataset.BitsAllocated) // 8)}")
