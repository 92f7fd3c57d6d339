# SPDX-License-Identifier: Apache-2.0
"""Poses from the numbers of a DICOM file, and curved panels resampled to flat ones.

DICOM-CT-PD: with the focal centre of the panel at (rho, phi, z), a point of the scanner is (-rho sin phi, rho cos
phi, z), so our view angle beta is phi + 90 degrees; shifts of a flying focal spot add to rho, phi and z.  Columns run
against u and rows against v (`TagMap` says so), and the central element counts from 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ingest.errors import FrameFormatError
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]

CYLINDRICAL: Final = "CYLINDRICAL"


@dataclass(frozen=True, slots=True)
class CylinderPanel:
    """A panel on a cylinder about an axis along z through the focal centre, and the flat panel that stands for it.

    Attributes
    ----------
    radius_mm : from the focal centre to the pixels.
    pitch_u_mm, pitch_v_mm : along the arc, and along z.
    n_rows, n_cols : of the curved panel.
    center_row, center_col : pixel at which the central ray meets it, in our orientation, from 0.
    """

    radius_mm: float
    pitch_u_mm: float
    pitch_v_mm: float
    n_rows: int
    n_cols: int
    center_row: float
    center_col: float

    @property
    def flat_ends_mm(self) -> tuple[float, float]:
        """Where the outermost columns meet the plane that touches the cylinder at the central ray."""
        angles = ((np.array([0, self.n_cols - 1]) - self.center_col) * self.pitch_u_mm / self.radius_mm).tolist()
        return self.radius_mm * math.tan(angles[0]), self.radius_mm * math.tan(angles[1])

    @property
    def n_flat_cols(self) -> int:
        """Columns of the flat panel, of the same pitch."""
        low, high = self.flat_ends_mm
        return int((high - low) / self.pitch_u_mm + 1e-9) + 1

    @property
    def flat_offset_mm(self) -> tuple[float, float]:
        """Where the flat panel's middle lies from the foot of the central ray, along u and v."""
        low, high = self.flat_ends_mm
        return (low + high) / 2, ((self.n_rows - 1) / 2 - self.center_row) * self.pitch_v_mm

    def places(self, source_mm: tuple[float, float, float]) -> tuple[Float64Array, Float64Array]:
        """Return row and column (row, flat col) of the curved panel that each pixel of the flat one sees.

        Parameters
        ----------
        source_mm : the source from the focal centre, along the way from the axis, along u, along z.
        """
        offset_u, offset_v = self.flat_offset_mm
        u = offset_u + (np.arange(self.n_flat_cols) - (self.n_flat_cols - 1) / 2) * self.pitch_u_mm
        v = offset_v + (np.arange(self.n_rows) - (self.n_rows - 1) / 2) * self.pitch_v_mm
        way_r, way_u = -self.radius_mm - source_mm[0], u - source_mm[1]
        # The ray meets the cylinder where its distance from the axis is the radius.
        a = way_r**2 + way_u**2
        b = source_mm[0] * way_r + source_mm[1] * way_u
        c = source_mm[0] ** 2 + source_mm[1] ** 2 - self.radius_mm**2
        share = (-b + np.sqrt(b * b - a * c)) / a
        angle = np.arctan2(source_mm[1] + share * way_u, -(source_mm[0] + share * way_r))
        col = self.center_col + angle * self.radius_mm / self.pitch_u_mm
        height = source_mm[2] + share[None, :] * (v[:, None] - source_mm[2])
        row = self.center_row + height / self.pitch_v_mm
        return row, np.broadcast_to(col, row.shape)


def interpolate(frame: NDArray[np.float32], row: Float64Array, col: Float64Array) -> NDArray[np.float32]:
    """Take a frame (row, col) at fractional places, linearly; beyond its edge the edge's value."""
    n_rows, n_cols = frame.shape
    j, i = np.clip(row, 0, n_rows - 1), np.clip(col, 0, n_cols - 1)
    j0, i0 = np.minimum(j.astype(np.intp), max(n_rows - 2, 0)), np.minimum(i.astype(np.intp), max(n_cols - 2, 0))
    j1, i1 = np.minimum(j0 + 1, n_rows - 1), np.minimum(i0 + 1, n_cols - 1)
    fj, fi = j - j0, i - i0
    low = frame[j0, i0] * (1 - fi) + frame[j0, i1] * fi
    high = frame[j1, i0] * (1 - fi) + frame[j1, i1] * fi
    return np.asarray(low * (1 - fj) + high * fj, dtype=np.float32)


def circular_pose(values: Mapping[str, float], n_rows: int, n_cols: int, where: object) -> Float64Array:
    """One pose (12,) of the model ``circular``; centres count in our orientation, from 0.

    Raises
    ------
    FrameFormatError
        If the C-arm was inclined, or both an offset and a centre are given.
    """
    if abs(values.get("elevation_deg", 0.0)) > 0.05:
        raise FrameFormatError(
            f"{where}: the source is inclined by {values['elevation_deg']:g} degrees against the plane of the turn, "
            "expected 0: give poses by a map of the model 'poses'"
        )
    offsets = {}
    for axis, name, n in (("u", "center_col", n_cols), ("v", "center_row", n_rows)):
        given = values.get(f"offset_{axis}_mm")
        if given is not None and name in values:
            raise FrameFormatError(f"{where}: the tag map gives offset_{axis}_mm and {name}: keep one")
        center = ((n - 1) / 2 - values[name]) * values[f"pitch_{axis}_mm"] if name in values else 0.0
        offsets[f"offset_{axis}_mm"] = center if given is None else given
    geometry = ConeBeamGeometry.circular(
        sod_mm=values["sod_mm"], sdd_mm=values["sdd_mm"], angles_rad=[math.radians(values["angle_deg"])], n_rows=n_rows,
        n_cols=n_cols, pitch_u_mm=values["pitch_u_mm"], pitch_v_mm=values["pitch_v_mm"], z_mm=values.get("z_mm", 0.0),
        **offsets,
    )  # fmt: skip
    return np.asarray(geometry.poses[0])


def focal_pose(
    values: Mapping[str, float], offset_mm: tuple[float, float]
) -> tuple[Float64Array, tuple[float, float, float]]:
    """One pose of the model ``ct-pd``, and the source from the focal centre (along the way from the axis, u, z).

    Parameters
    ----------
    values : the quantities of the model.
    offset_mm : the panel's middle from the foot of the central ray, along u and v.
    """
    beta = values["phi_rad"] + math.pi / 2
    rho, z = values["rho_mm"], values["z_mm"]
    radial = np.array([math.cos(beta), math.sin(beta), 0.0])
    side = np.array([-math.sin(beta), math.cos(beta), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    focal = rho * radial + z * up
    turned = beta + values.get("phi_shift_rad", 0.0)
    distance = rho + values.get("rho_shift_mm", 0.0)
    source = np.array([
        distance * math.cos(turned), distance * math.sin(turned), z + values.get("z_shift_mm", 0.0)
    ])  # fmt: skip
    middle = focal - values["focal_to_detector_mm"] * radial + offset_mm[0] * side + offset_mm[1] * up
    pose = np.concatenate([source, middle, values["pitch_u_mm"] * side, values["pitch_v_mm"] * up])
    moved = source - focal
    return pose, (float(moved @ radial), float(moved @ side), float(moved @ up))
