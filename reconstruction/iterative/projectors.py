# SPDX-License-Identifier: Apache-2.0
"""The projector pair by name, on a region and a band of detector rows."""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from reconstruction.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
    from reconstruction.slabs import RowBand

    Float32Array = NDArray[np.float32]
    Float64Array = NDArray[np.float64]

#: Zero voxels on every side of the arrays that projectors take.
PAD = 2
#: Voxels along z are held in whole runs of so many, zero behind the padding, with so many floats before and behind all.
LINE_UNIT = 16
SPARE_FLOATS = 64
#: Back end of FDK -> module of its projector pair (``open_pair``).
PAIRS: Mapping[str, str] = {
    "numpy_reference": "reconstruction.backends.projector_reference",
    "numba": "reconstruction.backends.projector_numba",
    "numba-avx512": "reconstruction.backends.projector_numba",
    "numba-avx2": "reconstruction.backends.projector_numba",
    "numba-portable": "reconstruction.backends.projector_numba",
}
#: A pixel counts as larger than a voxel, and gets more than one ray, from this ratio at the axis on.
_LARGE_PIXEL = 1.25
_MOST_SAMPLES = 4


class ProjectorPair(Protocol):
    """A projector, its exact transpose, and a denoiser for volumes of the same layout.

    Volumes are (y, x, z) float32 of `empty_volume`, line integrals (view, col, row) float32.
    """

    name: str

    def project(self, volume: Float32Array, views: NDArray[np.int64]) -> Float32Array:
        """Line integrals of a volume for some views."""

    def back_project(self, lines: Float32Array, views: NDArray[np.int64], out: Float32Array) -> None:
        """Add the transpose to a volume; what lands in the padding means nothing."""

    def denoise(
        self,
        noisy: Float32Array,
        dual: Float32Array,
        weight: float,
        slopes: Float32Array,
        inside: NDArray[np.bool_],
        lower: float,
        steps: int,
        out: Float32Array,
    ) -> None:
        """Move towards the volume of least ``1/2 |x - noisy|^2 + weight TV(x)``; `dual` goes on from call to call."""


def open_pair(
    backend: str, geometry: ConeBeamGeometry, grid: VolumeGrid, band: RowBand, *, threads: int | None = None
) -> ProjectorPair:
    """Return the projector pair of a back end for a grid and a band of rows.

    Raises
    ------
    BackendUnavailableError
        If the back end has no projector pair.
    """
    if backend not in PAIRS:
        raise BackendUnavailableError(
            f"back end '{backend}' has no projectors for iterative methods: take one of {', '.join(PAIRS)}"
        )
    module = importlib.import_module(PAIRS[backend])
    pz, py, px = grid.voxel_pitch_mm
    pair = module.open_pair(
        voxel_poses(geometry, grid, band), grid.shape, (px, py, pz), geometry.n_cols, band.n_rows,
        rays_per_side(geometry, grid), backend, threads,
    )  # fmt: skip
    return cast("ProjectorPair", pair)


def kernel_of(geometry: ConeBeamGeometry) -> str:
    """Name of the compiled projectors: ``joseph_upright`` (rows level, columns along z), or ``joseph_any_pose``."""
    poses = geometry.poses
    upright = (poses[:, 8:11] == 0).all() and (poses[:, 11] > 0).all()
    return "joseph_upright" if upright else "joseph_any_pose"


def rays_per_side(geometry: ConeBeamGeometry, grid: VolumeGrid) -> int:
    """Rays along each side of a pixel: so many that neighbouring ones are no wider apart than voxels."""
    at_axis = geometry.sod_mm / geometry.sdd_mm
    pixel = max(pitch * at_axis for pitch in geometry.pitch_mm)
    ratio = pixel / min(grid.voxel_pitch_mm)
    return 1 if ratio <= _LARGE_PIXEL else min(_MOST_SAMPLES, math.ceil(ratio))


def voxel_poses(geometry: ConeBeamGeometry, grid: VolumeGrid, band: RowBand) -> Float64Array:
    """Return poses (view, 12) counted in voxels: source, pixel (first row of the band, column 0), and the two steps."""
    origin = np.asarray(grid.origin_mm)
    pitch = np.asarray(grid.voxel_pitch_mm[::-1])
    poses = geometry.poses
    u_step, v_step = poses[:, 6:9], poses[:, 9:12]
    corner = poses[:, 3:6] - (geometry.n_cols - 1) / 2 * u_step + (band.row_start - (geometry.n_rows - 1) / 2) * v_step
    return np.concatenate(
        [(poses[:, 0:3] - origin) / pitch, (corner - origin) / pitch, u_step / pitch, v_step / pitch], axis=1
    )


def pad_volume(volume: Float32Array) -> Float32Array:
    """(z, y, x) to the padded (y, x, z) of `empty_volume`; a new array."""
    nz, ny, nx = volume.shape
    padded = empty_volume((nz, ny, nx))
    unpad_volume(padded, nz)[...] = volume
    return padded


def padded_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(y, x, z) of the padded array for a grid of the shape (z, y, x): lines of voxels are whole SIMD runs."""
    nz, ny, nx = shape
    return ny + 2 * PAD, nx + 2 * PAD, -(-(nz + 2 * PAD) // LINE_UNIT) * LINE_UNIT


def empty_volume(shape: tuple[int, int, int]) -> Float32Array:
    """Zeros (y, x, z) with padding for a grid of the shape (z, y, x); spare floats lie before and behind."""
    padded = padded_shape(shape)
    n = math.prod(padded)
    return np.zeros(n + 2 * SPARE_FLOATS, dtype=np.float32)[SPARE_FLOATS : SPARE_FLOATS + n].reshape(padded)


def unpad_volume(padded: Float32Array, n_slices: int) -> Float32Array:
    """(y, x, z) with padding to (z, y, x); a view."""
    return padded[PAD:-PAD, PAD:-PAD, PAD : PAD + n_slices].transpose(2, 0, 1)
