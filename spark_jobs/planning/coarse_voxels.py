# SPDX-License-Identifier: Apache-2.0
"""Voxels that are coarser than the detector: how many pixels may be averaged, and what that saves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid

_FACTORS: tuple[Literal[1, 2, 4], ...] = (4, 2, 1)
#: A voxel pitch may miss a multiple of the pixel's image by this share.
_SLACK = 1e-3


def fitting_binning(voxel_pitch_mm: float, pixel_at_axis_mm: float) -> Literal[1, 2, 4]:
    """Return how many pixels of a side may be averaged: a block's image at the axis is no larger than a voxel."""
    return next(f for f in _FACTORS if f == 1 or voxel_pitch_mm >= f * pixel_at_axis_mm * (1 - _SLACK))


def binning_notes(geometry: ConeBeamGeometry, grid: VolumeGrid, binning: int) -> tuple[str, ...]:
    """What an operator should know about voxels that are coarser than the detector's pixels."""
    pixel = geometry.pitch_mm[1] * geometry.sod_mm / geometry.sdd_mm
    fitting = fitting_binning(grid.voxel_pitch_mm[1], pixel)
    ratio = grid.voxel_pitch_mm[1] / pixel
    if binning > fitting:
        return (
            f"{binning} x {binning} pixels are averaged, but a voxel is only {ratio:.2g} pixels wide at the axis: "
            f"details below {binning * pixel:.3g} mm are lost",
        )
    if fitting == 1 or binning == fitting:
        return ()
    return (
        f"a voxel is {ratio:.3g} pixels wide at the axis: averaging {fitting} x {fitting} pixels after the logarithm "
        f"(detector binning {fitting}) loses nothing that such voxels show, reads the same bytes, and filters and "
        f"stores 1/{fitting**2} of the values",
    )
