# SPDX-License-Identifier: Apache-2.0
"""Projection geometries of the ASTRA toolbox: ``cone_vec``, and ``cone`` with angles.

A row of ``cone_vec`` has source, panel's middle, the vector from pixel (0, 0) to (0, 1), and that from (0, 0) to (1,
0): the same twelve numbers as ours, in the same frame.  A ``cone`` with angle theta has its source at (sod sin theta,
-sod cos theta, 0) and u along (cos theta, sin theta, 0), so theta is our beta + 90 degrees.  Projections are (row,
view, col).  Lengths have no unit in ASTRA; users often count in voxels, hence ``unit_mm``.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.errors import GeometryError
from reconstruction.exchange.panels import Imported, Panel
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    Float64Array = NDArray[np.float64]


def to_vectors(geometry: ConeBeamGeometry) -> Float64Array:
    """Return (view, 12) float64 for ``astra.create_proj_geom('cone_vec', n_rows, n_cols, vectors)``."""
    return np.array(geometry.poses)


def from_vectors(vectors: ArrayLike, panel: Panel, *, unit_mm: float = 1.0, where: str = "ASTRA vectors") -> Imported:
    """Return our poses from ``cone_vec`` vectors.

    Parameters
    ----------
    vectors : (view, 12) float
    panel : Panel
        Its size; the vectors have the pitch.
    unit_mm : float
        One length of the vectors in mm.
    where : what to call them in a message.

    Raises
    ------
    GeometryError
        If they are not 12 numbers a view, or a pose is degenerate.
    """
    poses = np.asarray(vectors, dtype=np.float64)
    if poses.ndim != 2 or poses.shape[1] != 12:
        raise GeometryError(f"{where}: cone_vec needs 12 numbers a view, got an array of shape {poses.shape}")
    return Imported(ConeBeamGeometry(poses * _unit(unit_mm, where), panel.n_rows, panel.n_cols))


def from_angles(
    angles_rad: ArrayLike,
    *,
    source_origin: float,
    origin_det: float,
    det_spacing_x: float,
    det_spacing_y: float,
    panel: Panel,
    unit_mm: float = 1.0,
    where: str = "ASTRA geometry",
) -> Imported:
    """Return our poses from the arguments of ``astra.create_proj_geom('cone', ...)``.

    Raises
    ------
    GeometryError
        If a length is not positive.
    """
    unit = _unit(unit_mm, where)
    beta = np.atleast_1d(np.asarray(angles_rad, dtype=np.float64)).ravel() - math.pi / 2
    geometry = ConeBeamGeometry.circular(
        sod_mm=source_origin * unit, sdd_mm=(source_origin + origin_det) * unit, angles_rad=beta, n_rows=panel.n_rows,
        n_cols=panel.n_cols, pitch_u_mm=det_spacing_x * unit, pitch_v_mm=det_spacing_y * unit,
    )  # fmt: skip
    return Imported(geometry)


def write_json(geometry: ConeBeamGeometry) -> str:
    """Return ASTRA's dictionary of the geometry as JSON; ``np.array(d['Vectors'])`` makes it one that ASTRA takes."""
    values = {
        "type": "cone_vec",
        "DetectorRowCount": geometry.n_rows,
        "DetectorColCount": geometry.n_cols,
        "Vectors": to_vectors(geometry).tolist(),
    }
    return json.dumps(values) + "\n"


def from_dict(values: Mapping[str, Any], where: str, *, unit_mm: float = 1.0) -> Imported:
    """Return our poses from ASTRA's dictionary of a ``cone`` or ``cone_vec``.

    Raises
    ------
    GeometryError
        If the kind is another one, a key is missing, or a value is malformed.
    """
    kind = values.get("type")
    if kind not in ("cone", "cone_vec"):
        raise GeometryError(f"{where}: the ASTRA geometry is of type '{kind}', expected 'cone' or 'cone_vec'")
    try:
        panel = Panel(int(values["DetectorRowCount"]), int(values["DetectorColCount"]))
        if kind == "cone_vec":
            return from_vectors(values["Vectors"], panel, unit_mm=unit_mm, where=where)
        return from_angles(
            values["ProjectionAngles"], source_origin=float(values["DistanceOriginSource"]),
            origin_det=float(values["DistanceOriginDetector"]), det_spacing_x=float(values["DetectorSpacingX"]),
            det_spacing_y=float(values["DetectorSpacingY"]), panel=panel, unit_mm=unit_mm, where=where,
        )  # fmt: skip
    except KeyError as error:
        raise GeometryError(f"{where}: an ASTRA geometry of type '{kind}' lacks the key {error}") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, GeometryError):
            raise
        raise GeometryError(f"{where}: an ASTRA geometry of type '{kind}' has a malformed value: {error}") from error


def _unit(unit_mm: float, where: str) -> float:
    """The unit, if it is a length."""
    if not (math.isfinite(unit_mm) and unit_mm > 0):
        raise GeometryError(f"{where}: unit_mm must be a positive length, got {unit_mm}")
    return unit_mm
