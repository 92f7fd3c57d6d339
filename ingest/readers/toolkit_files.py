# SPDX-License-Identifier: Apache-2.0
"""Files that hold projections and geometry together: TIGRE's variables in a MATLAB file, CIL's NeXus file."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ingest.errors import FrameFormatError
from ingest.readers.array_frames import ArrayFrames
from ingest.readers.hdf5_frames import is_hdf5, member, open_hdf5
from reconstruction.exchange import cil, tigre

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from reconstruction.exchange.panels import Imported
    from reconstruction.exchange.tigre import Order

_MAT5_MAGIC: Final = b"MATLAB 5.0 MAT-file"
#: Names under which TIGRE's users save projections.
_PROJECTIONS: Final = ("proj", "projections", "data")
_CIL_CREATOR: Final = "NEXUSDataWriter"
_CIL_DATA: Final = "entry1/tomo_entry/data/data"
_CIL_CONFIG: Final = "entry1/tomo_entry/config"
_CIL_AXES: Final = {"channel": "bin", "angle": "view", "projection": "view", "vertical": "row", "horizontal": "col"}


def is_tigre_mat(path: Path) -> bool:
    """Whether a file is a MATLAB file of version 5 with a variable ``geo``; never raises."""
    if path.suffix.lower() != ".mat":
        return False
    try:
        with path.open("rb") as stream:
            if not stream.read(len(_MAT5_MAGIC)).startswith(_MAT5_MAGIC):
                return False
        from scipy.io import whosmat  # slow to load: only where a file needs it

        return any(name == "geo" for name, _, _ in whosmat(path))
    except (OSError, ValueError, TypeError, KeyError, zlib.error):
        return False


def is_cil_nexus(path: Path) -> bool:
    """Whether a file is one that CIL's NeXus writer made; never raises."""
    if path.suffix.lower() not in (".nxs", ".nex") or not is_hdf5(path):
        return False
    try:
        with open_hdf5(path) as file:
            return _CIL_CREATOR in _text(file.attrs.get("creator", ""))
    except (FrameFormatError, OSError, RuntimeError, KeyError):
        return False


def open_tigre_mat(path: Path, bin_index: int, order: Order) -> tuple[ArrayFrames, Imported]:
    """Open the variables ``geo``, ``angles`` and ``proj`` of a MATLAB file; the projections are held in memory.

    Parameters
    ----------
    path : the file.
    bin_index : energy bin, if the projections have a fourth axis.
    order : which way round axes are counted; MATLAB's projections are (row, col, view), Python's (view, row, col).

    Raises
    ------
    FrameFormatError
        If the file is cut short or lacks one of them.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        variables = loadmat(path, squeeze_me=True, struct_as_record=False)
    except (
        MatReadError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        zlib.error,
        NotImplementedError,
    ) as error:
        raise FrameFormatError(f"{path}: the MAT file is cut short or damaged ({error})") from error
    geo = variables.get("geo")
    names = getattr(geo, "_fieldnames", None)
    if names is None:
        raise FrameFormatError(f"{path}: 'geo' is no struct: save TIGRE's geo with its fields")
    fields: dict[str, Any] = {name: getattr(geo, name) for name in names}
    if "angles" in variables:
        fields["angles"] = variables["angles"]
    imported = tigre.from_tigre(tigre.from_dict(fields, str(path), order))
    found = [name for name in _PROJECTIONS if name in variables]
    if not found:
        raise FrameFormatError(
            f"{path} holds TIGRE's geometry, but no projections: save them in it as '{_PROJECTIONS[0]}'"
        )
    axes = ("row", "col", "view") if order == "matlab" else ("view", "row", "col")
    projections = np.asarray(variables[found[0]])
    shape = imported.geometry
    wanted = {"view": shape.n_views, "row": shape.n_rows, "col": shape.n_cols}
    if projections.ndim < len(axes):
        projections = projections.reshape([wanted[axis] for axis in axes])  # loadmat drops axes of size 1
    return ArrayFrames(path, projections, axes, bin_index), imported


def open_cil_nexus(path: Path, bin_index: int) -> tuple[ArrayFrames, Imported]:
    """Open a NeXus file of CIL's writer; its channels are energy bins.

    Raises
    ------
    FrameFormatError
        If the file is cut short, lacks something, or is not of a cone beam.
    """
    file = open_hdf5(path)
    try:
        data = member(file, _CIL_DATA)
        if data is None or _text(data.attrs.get("data_type", "AcquisitionData")) != "AcquisitionData":
            raise FrameFormatError(f"{path} holds no projections of CIL's (data_type AcquisitionData)")
        labels = [_text(data.attrs.get(f"dim{i}", "")) for i in range(data.ndim)]
        axes = tuple(_CIL_AXES.get(label, label) for label in labels)
        if not {"view", "row", "col"} <= set(axes) <= set(_CIL_AXES.values()):
            raise FrameFormatError(f"{path} has the axes {', '.join(labels)}, expected angle, vertical and horizontal")
        values = _cil_values(path, file, data.attrs)
        scale, offset = (_cil_number(path, data.attrs, *said) for said in (("scale", 1.0), ("offset", 0.0)))
        frames = ArrayFrames(path, data, axes, bin_index, slope=scale, offset=offset, close=file.close)
        return frames, cil.from_dict(values, str(path))
    except (OSError, RuntimeError, KeyError) as error:
        file.close()
        raise FrameFormatError(f"{path}: the HDF5 file is cut short or damaged ({error})") from error
    except BaseException:
        file.close()
        raise


def write_cil_nexus(path: Path, cone: cil.CilCone3D, n_bins: int, dtype: np.dtype[Any]) -> Any:
    """Make a NeXus file as CIL's own writer does, without its pixels.

    Numbers of the geometry are float64, where CIL writes float32: its reader takes both.

    Returns
    -------
    h5py.File
        Open; its data set ``entry1/tomo_entry/data/data`` is ([channel,] angle, vertical, horizontal).
    """
    import h5py

    panel = cone.panel
    file = h5py.File(path, "w")
    file.attrs["creator"] = np.bytes_("NEXUSDataWriter.py")
    file.attrs["NeXus_version"] = "4.3.0"
    file.create_group("entry1/tomo_entry").attrs["NX_class"] = "NXentry"
    sizes = [cone.angles_deg.size, panel.n_rows, panel.n_cols]
    names = ["angle", "vertical", "horizontal"]
    if n_bins > 1:
        sizes, names = [n_bins, *sizes], ["channel", *names]
    data = file.create_dataset(_CIL_DATA, shape=sizes, dtype=dtype)
    attributes = {
        "data_type": "AcquisitionData", "geometry": "cone", "dimension": "3D", "num_channels": n_bins,
        "num_pixels_h": panel.n_cols, "pixel_size_h": panel.pixel_size_h, "num_pixels_v": panel.n_rows,
        "pixel_size_v": panel.pixel_size_v, "panel_origin": panel.origin,
        **{f"dim{i}": name for i, name in enumerate(names)},
    }  # fmt: skip
    for key, value in attributes.items():
        data.attrs[key] = value
    for name, vector in {
        "source/position": cone.source_position, "detector/position": cone.detector_position,
        "detector/direction_x": cone.detector_direction_x, "detector/direction_y": cone.detector_direction_y,
        "rotation_axis/position": cone.rotation_axis_position, "rotation_axis/direction": cone.rotation_axis_direction,
        "angles": cone.angles_deg,
    }.items():  # fmt: skip
        file[f"{_CIL_CONFIG}/{name}"] = np.asarray(vector, dtype=np.float64)
    angles = file[f"{_CIL_CONFIG}/angles"]
    angles.attrs["angle_unit"], angles.attrs["initial_angle"] = "degree", cone.initial_angle_deg
    return file


def _cil_values(path: Path, file: Any, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """CIL's arguments, from its NeXus file."""
    config = member(file, _CIL_CONFIG)
    if config is None or member(config, "source/position") is None:
        raise FrameFormatError(f"{path} is not of a cone beam, or of an older CIL: write it with the CIL of today")

    def vector(name: str, older: str = "") -> list[float]:
        node = member(config, name)
        node = member(config, older) if node is None and older else node
        if node is None:
            raise FrameFormatError(f"{path} lacks the data set {_CIL_CONFIG}/{name}: write it with the CIL of today")
        try:
            values: NDArray[np.float64] = np.asarray(node[()], dtype=np.float64).ravel()
        except (TypeError, ValueError) as error:
            raise FrameFormatError(f"{path}: {_CIL_CONFIG}/{name} should hold numbers: {error}") from error
        return list(values.tolist())

    angles = member(config, "angles")
    said = {} if angles is None else angles.attrs
    radian = _text(said.get("angle_unit", "degree")) == "radian"
    to_degree = 180 / math.pi if radian else 1.0
    pixel_h = _cil_number(path, attributes, "pixel_size_h")
    return {
        "geometry": "Cone3D",
        "source_position": vector("source/position"),
        "detector_position": vector("detector/position"),
        "detector_direction_x": vector("detector/direction_x", "detector/direction_row"),
        "detector_direction_y": vector("detector/direction_y", "detector/direction_col"),
        "rotation_axis_position": vector("rotation_axis/position"),
        "rotation_axis_direction": vector("rotation_axis/direction"),
        "angles": [angle * to_degree for angle in vector("angles")],
        "initial_angle": _cil_number(path, said, "initial_angle", 0.0) * to_degree,
        "num_pixels": [int(_cil_number(path, attributes, f"num_pixels_{axis}", 1)) for axis in "hv"],
        "pixel_size": [pixel_h, _cil_number(path, attributes, "pixel_size_v", pixel_h)],
        "origin": _text(attributes.get("panel_origin", "bottom-left")),
    }


def _cil_number(path: Path, attributes: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A number among the attributes of CIL's data sets."""
    value = attributes.get(name, default)
    if value is None:
        raise FrameFormatError(f"{path} lacks the attribute {name} of {_CIL_DATA}: write it with the CIL of today")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise FrameFormatError(f"{path}: the attribute {name} should be a number: {error}") from error


def _text(value: Any) -> str:
    """An attribute as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
