# SPDX-License-Identifier: Apache-2.0
"""Helsinki Tomography Challenge (HTC 2022) and HelTomo ``.mat`` files: one detector row of line integrals.

The MATLAB struct ``CtDataFull`` or ``CtDataLimited`` holds ``sinogram`` (view, column), already after -log, and
``parameters``.  Both MAT version 5 and version 7.3 (which is HDF5, its arrays transposed) are read.

The angles are those of ASTRA's ``fanflat``: the source turns counter-clockwise and stands at angle - 90 degrees,
the columns run to the right as seen from it, and a reconstruction's first image row is the highest y.  The
challenge's own reconstruction projects onto the measured rows that way and no other
(``tests/ingest/test_htc_real.py``).  Its values are mu times the effective pixel size
``pixelSizePost * distanceSourceOrigin / distanceSourceDetector``: divide by that for mu [1/mm].
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.config import load_description
from ingest.describe import describe_scan
from ingest.errors import FrameFormatError
from ingest.frames import orient_frames
from ingest.readers.frame_reader import require_view_range
from ingest.readers.hdf5_frames import require_announced_views
from ingest.readers.masks import read_mask
from ingest.scan import Exposure
from reconstruction.errors import GeometryError
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from ingest.readers import SourceOptions
    from ingest.scan import Scan

MAT5_MAGIC = b"MATLAB 5.0 MAT-file"
MAT73_MAGIC = b"MATLAB 7.3 MAT-file"
STRUCT_PREFIX = "CtData"

_NEEDED = ("distanceSourceOrigin", "distanceSourceDetector", "angles", "pixelSizePost", "numDetectorsPost")


def looks_like(source: Path) -> bool:
    """Whether a file is a .mat file of version 5 or 7.3."""
    return source.suffix.lower() == ".mat" and _magic(source).startswith((MAT5_MAGIC, MAT73_MAGIC))


def open_source(source: Path, options: SourceOptions) -> HtcReader:
    """Open a .mat file.

    Raises
    ------
    FrameFormatError
        If it is no MAT file of a kind that is read, is cut short, lacks the struct or one of its fields, or its
        angles and columns do not match the sinogram.
    """
    return HtcReader(source, options)


class HtcReader:
    """An opened .mat file; the sinogram is small and held in memory."""

    def __init__(self, source: Path, options: SourceOptions) -> None:
        description = load_description(source, options)
        self._description = description
        struct = read_struct(source)
        parameters = struct["parameters"]
        sinogram = _checked_sinogram(source, struct)
        n_views, n_cols = sinogram.shape
        require_announced_views(n_views, description, source)
        frames = sinogram.astype(np.float32)[None, :, None, :]
        self._frames = orient_frames(frames, description.rows, description.cols)
        self._scan = describe_scan(
            description,
            source,
            source_format="htc",
            pixel_type="float32",
            n_views=n_views,
            n_rows=1,
            n_cols=n_cols,
            content="line_integrals",
            geometry=_geometry(source, parameters, n_cols),
            acquired=_acquired(parameters),
            exposure=_exposure(parameters),
            notes=_notes(parameters),
        )

    @property
    def scan(self) -> Scan:
        """The manifest."""
        return self._scan

    def available_views(self) -> int:
        """All views: such files are written at once."""
        return self._scan.n_views

    def read_views(self, start: int, stop: int) -> NDArray[Any]:
        """Views as (1, view, 1, col) float32; IncompleteScanError if the scan has no such view."""
        require_view_range(start, stop, self._scan)
        return np.array(self._frames[:, start:stop], order="C")

    def read_flats(self, position: int | None = None) -> None:
        """None: line integrals need none."""

    def read_darks(self, position: int | None = None) -> None:
        """None: line integrals need none."""

    def read_bad_pixels(self) -> NDArray[Any] | None:
        """Pixels that the description calls bad (row, col) bool, or None."""
        return read_mask(self._description, (self._scan.n_rows, self._scan.n_cols))

    def close(self) -> None:
        """Nothing stays open."""


def read_struct(path: Path) -> dict[str, Any]:
    """Read the ``CtData...`` struct of a .mat file.

    Returns
    -------
    dict
        ``sinogram`` as (view, col) float64, ``parameters`` as a dict of str, float or float64 arrays, ``type``.

    Raises
    ------
    FrameFormatError
        If the file is none, is cut short, or holds no such struct or several.
    """
    magic = _magic(path)
    if magic.startswith(MAT73_MAGIC):
        return _read_mat73(path)
    if magic.startswith(MAT5_MAGIC):
        return _read_mat5(path)
    raise FrameFormatError(f"{path}: expected a MAT file of version 5 or 7.3, got a file that starts with {magic!r}")


def _magic(path: Path) -> bytes:
    """The first bytes of a file; empty if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(MAT5_MAGIC))
    except OSError:
        return b""


def _read_mat5(path: Path) -> dict[str, Any]:
    """The struct of a version 5 file."""
    # SciPy's MAT reader is slow to load: only where a file needs it.
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    try:
        name = _struct_name([name for name, _, _ in whosmat(path)], path)
        struct = loadmat(path, variable_names=[name], squeeze_me=True, struct_as_record=False)[name]
    except (MatReadError, OSError, ValueError, TypeError, KeyError, IndexError, zlib.error) as error:
        if isinstance(error, FrameFormatError):
            raise
        raise FrameFormatError(f"{path}: the MAT file is cut short or damaged ({error})") from error
    values = _mat5_value(struct)
    if not isinstance(values, dict):
        raise FrameFormatError(f"{path}: expected {name} to be a struct with sinogram and parameters, got an array")
    return _with_needed(values, name, path)


def _mat5_value(value: Any) -> Any:
    """SciPy's objects as dict, str, float or array."""
    if hasattr(value, "_fieldnames"):
        return {field: _mat5_value(getattr(value, field)) for field in value._fieldnames}
    if isinstance(value, np.ndarray):
        return value if value.ndim else value.item()
    return value


def _read_mat73(path: Path) -> dict[str, Any]:
    """The struct of a version 7.3 file."""
    import h5py

    try:
        with h5py.File(path) as file:
            name = _struct_name(list(file), path)
            values = _mat73_value(file[name])
    except (OSError, KeyError, RuntimeError) as error:
        raise FrameFormatError(f"{path}: the MAT file is cut short or damaged ({error})") from error
    if not isinstance(values, dict):
        raise FrameFormatError(f"{path}: expected {name} to be a struct with sinogram and parameters, got an array")
    return _with_needed(values, name, path)


def _mat73_value(node: Any) -> Any:
    """HDF5 objects as dict, str, float or array; MATLAB's arrays are stored transposed."""
    if hasattr(node, "keys"):
        return {field: _mat73_value(node[field]) for field in node}
    kind = node.attrs.get("MATLAB_class", b"")
    if node.attrs.get("MATLAB_empty", 0):
        return "" if kind == b"char" else np.empty(0)
    array = np.asarray(node[()])
    if kind == b"char":
        return "".join(chr(code) for code in array.ravel())
    array = array.T.squeeze() if array.ndim <= 2 and min(array.shape, default=0) == 1 else array.T
    return array if array.ndim else array.item()


def _struct_name(names: list[str], path: Path) -> str:
    """The one variable that is a CtData struct."""
    found = [name for name in names if name.startswith(STRUCT_PREFIX)]
    if len(found) != 1:
        raise FrameFormatError(
            f"{path}: expected one variable CtDataFull or CtDataLimited, got {', '.join(names) or 'an empty file'}"
        )
    return found[0]


def _with_needed(struct: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """The struct, if it has what is needed."""
    parameters = struct.get("parameters")
    if "sinogram" not in struct or not isinstance(parameters, dict):
        raise FrameFormatError(f"{path}: {name} lacks the field 'sinogram' or 'parameters'")
    missing = [field for field in _NEEDED if field not in parameters]
    if missing:
        raise FrameFormatError(f"{path}: {name}.parameters lacks the field '{missing[0]}'")
    return struct


def _checked_sinogram(path: Path, struct: Mapping[str, Any]) -> NDArray[np.float64]:
    """The sinogram (view, col), if it fits the parameters."""
    parameters = struct["parameters"]
    sinogram = np.asarray(struct["sinogram"], dtype=np.float64)
    angles = np.atleast_1d(np.asarray(parameters["angles"], dtype=np.float64)).ravel()
    sinogram = sinogram.reshape(1, -1) if sinogram.ndim == 1 and angles.size == 1 else sinogram
    if sinogram.ndim != 2:
        raise FrameFormatError(
            f"{path}: expected a sinogram (view, column), got an array of shape "
            f"{sinogram.shape}: write one row of the panel to a file"
        )
    if angles.size != sinogram.shape[0]:
        raise FrameFormatError(
            f"{path}: got {angles.size} angles for a sinogram of {sinogram.shape[0]} views, expected one a view"
        )
    n_cols = _number(path, parameters, "numDetectorsPost")
    if n_cols != sinogram.shape[1]:
        raise FrameFormatError(
            f"{path}: numDetectorsPost is {n_cols:g}, but the sinogram has {sinogram.shape[1]} columns"
        )
    bad = np.argwhere(~np.isfinite(sinogram))
    if bad.size:
        raise FrameFormatError(
            f"{path}: the sinogram is not a finite number at view {int(bad[0][0])}, column {int(bad[0][1])}"
        )
    return sinogram


def _geometry(path: Path, parameters: Mapping[str, Any], n_cols: int) -> ConeBeamGeometry:
    """ASTRA's fan as a cone beam of one row: beta is the angle less a quarter turn."""
    unit = _text(parameters, "distanceUnit") or "mm"
    if unit != "mm":
        raise FrameFormatError(
            f"{path}: distances are in '{unit}', expected mm: convert them, and say mm in distanceUnit"
        )
    angles = np.atleast_1d(np.asarray(parameters["angles"], dtype=np.float64)).ravel()
    pitch_mm = _number(path, parameters, "pixelSizePost")
    try:
        return ConeBeamGeometry.circular(
            sod_mm=_number(path, parameters, "distanceSourceOrigin"),
            sdd_mm=_number(path, parameters, "distanceSourceDetector"),
            angles_rad=np.deg2rad(angles) - math.pi / 2,
            n_rows=1,
            n_cols=n_cols,
            pitch_u_mm=pitch_mm,
            pitch_v_mm=pitch_mm,
        )
    except GeometryError as error:
        raise FrameFormatError(f"{path}: {error}") from error


def _exposure(parameters: Mapping[str, Any]) -> Exposure:
    """How the tube was run, as far as the units are the ones known."""
    material = _text(parameters, "xRayFilter")
    return Exposure(
        kvp=_quantity(parameters, "voltage", "kV"),
        tube_current_ma=_quantity(parameters, "current", "mA"),
        exposure_time_ms=_quantity(parameters, "exposureTime", "ms"),
        filter_material=material or None,
        filter_thickness_mm=_optional_number(parameters, "xRayFilterThickness") if material else None,
    )


def _notes(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reader of the manifest should know; the names of persons stay out."""
    notes = ["One detector row, the central one: a fan beam, read as a cone beam of one row."]
    notes += [
        f"{name.capitalize()}: {text}." for name in ("scanner", "tube", "detector") if (text := _text(parameters, name))
    ]
    if _acquired(parameters):
        notes.append("The file gives the day of the scan only, not the time.")
    return tuple(notes)


def _acquired(parameters: Mapping[str, Any]) -> str:
    """The date as ISO 8601, or "" if its format is not the one known."""
    date = _text(parameters, "date")
    if _text(parameters, "dateFormat") != "YYYYMMDD" or len(date) != 8 or not date.isdigit():
        return ""
    return f"{date[:4]}-{date[4:6]}-{date[6:]}T00:00:00"


def _quantity(parameters: Mapping[str, Any], name: str, unit: str) -> float | None:
    """A number whose unit is given beside it; None if either is missing or another."""
    return _optional_number(parameters, name) if _text(parameters, f"{name}Unit") == unit else None


def _number(path: Path, parameters: Mapping[str, Any], name: str) -> float:
    """A needed number."""
    value = _optional_number(parameters, name)
    if value is None:
        raise FrameFormatError(f"{path}: parameters.{name} is not a number, got {parameters[name]!r}")
    return value


def _optional_number(parameters: Mapping[str, Any], name: str) -> float | None:
    """A number, also one given as text; None if it is none."""
    try:
        value = float(parameters[name])
    except (KeyError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def _text(parameters: Mapping[str, Any], name: str) -> str:
    """A text; numbers as they are written, "" if there is none."""
    value = parameters.get(name, "")
    if isinstance(value, float | int):
        return f"{value:g}" if value < 1e6 else f"{value:.0f}"
    return value.strip() if isinstance(value, str) else ""
