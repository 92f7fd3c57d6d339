# SPDX-License-Identifier: Apache-2.0
"""How the volume's frame lies in the patient's: decided once, here (docs/conformance.md, section Encoding).

Patient axes (PS3.3 C.7.6.2.1.1): +x to the left, +y to the back, +z to the head.  For a subject that lies head
first and supine (HFS), or whose position is not known, the volume's axes are the patient's: +x is left, +y is
posterior and the rotation axis +z points to the head, whether that axis stands or lies in the room.  Any other
position turns the subject within the scanner; all are rotations, so nothing is ever mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pacs.errors import EncodingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconstruction.geometry import VolumeGrid

Vector = tuple[float, float, float]
_LEFT, _RIGHT = (1, 0, 0), (-1, 0, 0)
_BACK, _FRONT = (0, 1, 0), (0, -1, 0)
_HEAD, _FEET = (0, 0, 1), (0, 0, -1)


@dataclass(frozen=True, slots=True)
class PatientAxes:
    """Directions in the patient's frame of the volume's +x, +y and +z; a right-handed set of unit vectors."""

    x: tuple[int, int, int]
    y: tuple[int, int, int]
    z: tuple[int, int, int]

    def position_mm(self, point_mm: Vector) -> Vector:
        """Return the patient coordinates [mm] of a point of the volume's frame (x, y, z) [mm]."""
        px, py, pz = point_mm
        a, b, c = (px * self.x[i] + py * self.y[i] + pz * self.z[i] for i in range(3))
        return a, b, c


#: Patient Position (PS3.3 C.7.3.1.1.2) -> where the volume's +x, +y and +z point; "" is a position not known.
AXES: Mapping[str, PatientAxes] = MappingProxyType(
    {
        "": PatientAxes(_LEFT, _BACK, _HEAD),
        "HFS": PatientAxes(_LEFT, _BACK, _HEAD),
        "HFP": PatientAxes(_RIGHT, _FRONT, _HEAD),
        "HFDR": PatientAxes(_BACK, _RIGHT, _HEAD),
        "HFDL": PatientAxes(_FRONT, _LEFT, _HEAD),
        "FFS": PatientAxes(_RIGHT, _BACK, _FEET),
        "FFP": PatientAxes(_LEFT, _FRONT, _FEET),
        "FFDR": PatientAxes(_FRONT, _RIGHT, _FEET),
        "FFDL": PatientAxes(_BACK, _LEFT, _FEET),
    }
)


def axes_of(patient_position: str) -> PatientAxes:
    """Return the axes for a Patient Position; EncodingError if it is none that CT has."""
    try:
        return AXES[patient_position]
    except KeyError:
        known = ", ".join(name for name in AXES if name)
        raise EncodingError(f"unknown patient position '{patient_position}': expected one of {known}") from None


def image_orientation(axes: PatientAxes) -> tuple[int, ...]:
    """Return Image Orientation (Patient): where the columns' index grows (+x), then where the rows' does (+y)."""
    return (*axes.x, *axes.y)


def image_position_mm(axes: PatientAxes, grid: VolumeGrid, z_index: int) -> Vector:
    """Return Image Position (Patient) [mm]: the centre of the first voxel of a slice, computed from its index."""
    x, y, z = grid.origin_mm
    return axes.position_mm((x, y, z + z_index * grid.voxel_pitch_mm[0]))
