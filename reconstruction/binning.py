# SPDX-License-Identifier: Apache-2.0
"""Detector pixels averaged in blocks, for voxels much larger than a pixel's image at the axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reconstruction.errors import GeometryError, ParameterError
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from numpy.typing import NDArray


def binned_geometry(geometry: ConeBeamGeometry, factor: int) -> ConeBeamGeometry:
    """Return the geometry of a panel of factor x factor blocks of pixels; what fills no block is left out.

    A block with a column that measures nothing is a gap itself.

    Raises
    ------
    GeometryError
        If the panel has no whole block.
    """
    if factor == 1:
        return geometry
    n_rows, n_cols = geometry.n_rows // factor, geometry.n_cols // factor
    if factor < 1 or min(n_rows, n_cols) < 1:
        raise GeometryError(
            f"a panel of {geometry.n_rows} x {geometry.n_cols} pixels has no block of {factor} x {factor}"
        )
    poses = geometry.poses.copy()
    u_step, v_step = geometry.poses[:, 6:9], geometry.poses[:, 9:12]
    poses[:, 3:6] += (n_cols * factor - geometry.n_cols) / 2 * u_step + (n_rows * factor - geometry.n_rows) / 2 * v_step
    poses[:, 6:12] *= factor
    return ConeBeamGeometry(poses, n_rows, n_cols, _binned_gaps(geometry.column_gaps, factor, n_cols))


def _binned_gaps(gaps: tuple[tuple[int, int], ...], factor: int, n_cols: int) -> tuple[tuple[int, int], ...]:
    """Blocks of columns that hold a column of a gap; gaps that meet become one."""
    found: list[tuple[int, int]] = []
    for start, stop in gaps:
        first, last = start // factor, min(-(-stop // factor), n_cols)
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(last, found[-1][1])
        elif first < last:
            found.append((first, last))
    return tuple(found)


def bin_pixels(line_integrals: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Average blocks of line integrals, (view, row, col) float32; rows must be a multiple of the factor.

    The mean is that of line integrals, after -log: what a larger voxel's mu is the mean of.

    Raises
    ------
    ParameterError
        If the rows are no multiple of the factor.
    """
    if factor == 1:
        return line_integrals
    n_views, n_rows, n_cols = line_integrals.shape
    if n_rows % factor:
        raise ParameterError(f"{n_rows} rows cannot be averaged in blocks of {factor}")
    cut = line_integrals[:, :, : n_cols // factor * factor]
    blocks = cut.reshape(n_views, n_rows // factor, factor, n_cols // factor, factor)
    return np.asarray(blocks.sum(axis=(2, 4)) / np.float32(factor * factor), dtype=np.float32)
