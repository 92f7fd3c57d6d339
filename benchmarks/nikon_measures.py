# SPDX-License-Identifier: Apache-2.0
"""What the reconstructed bar is measured by: its surface, its edge, its material along the axis, its chords."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import map_coordinates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.nikon_job import Radiogram, Volume
    from reconstruction.rotation_axis import AxisLine

    Float64Array = NDArray[np.float64]

N_ANGLES = 360
#: Samples of a radial profile for each voxel.
OVERSAMPLING = 10
#: Slices nearer than this to one whose radius is not the bar's belong to the neck [mm].  The picture itself says so:
#: the line integral through the axis, even along the bar, begins to fall 2 mm before the shoulder (3 % at 1 mm).
NECK_MARGIN_MM = 2.0
#: Places along the straight part whose surface is measured, each on the mean of the slices within this height [mm]:
#: one view has one noise, which rings in every slice.
N_SURFACES = 16
SURFACE_HEIGHT_MM = 0.2
#: Of the bar's radius: the cross-section without the surface's blur, and the ring that stands for a wall.
CORE_SHARE = 0.9
WALL_SHARES = (0.8, 0.95)


@dataclass(frozen=True)
class Surface:
    """The surface about one height, in voxels; `profile` is the mean over 360 degrees at `radii_mm`."""

    z_mm: float
    radius_mm: float
    radius_rms: float
    edge_10_90: float
    profile: Float64Array
    radii_mm: Float64Array


@dataclass(frozen=True)
class Bar:
    """The bar in numbers.

    Attributes
    ----------
    radius_mm : median over the straight slices
    is_straight : (z,) bool, slices at least `NECK_MARGIN_MM` away from the neck
    surfaces : of some straight slices, from the lowest z up
    core_mu, wall_mu, center_mu : (z,) mean of the cross-section, of the outer ring, of the middle [1/mm]
    """

    radius_mm: float
    is_straight: NDArray[np.bool_]
    surfaces: tuple[Surface, ...]
    core_mu: Float64Array
    wall_mu: Float64Array
    center_mu: Float64Array

    def spread(self, values: Float64Array) -> float:
        """Largest deviation from their mean over the straight slices, as a share of it."""
        straight = values[self.is_straight]
        return float(np.abs(straight / straight.mean() - 1).max())


def measure_bar(volume: Volume) -> Bar:
    """Measure the volume as it came back from DICOM."""
    radius = np.hypot(volume.x_mm[None, :], volume.y_mm[:, None])
    half = _half_level(volume, radius)
    # The neck has less mu than the bar: filled discs are counted, not densities.
    areas = (volume.mu > half).sum(axis=(1, 2)) * volume.voxel_mm**2
    radii = np.sqrt(areas / np.pi)
    bar_radius = float(np.median(radii))
    off = np.abs(radii - bar_radius) > volume.voxel_mm
    is_straight = ~off
    for z in volume.z_mm[off]:
        is_straight &= np.abs(volume.z_mm - z) >= NECK_MARGIN_MM
    core = radius < CORE_SHARE * bar_radius
    wall = (radius > WALL_SHARES[0] * bar_radius) & (radius < WALL_SHARES[1] * bar_radius)
    center = radius < 0.2 * bar_radius
    chosen = np.flatnonzero(is_straight)
    chosen = chosen[np.linspace(0, len(chosen) - 1, N_SURFACES).astype(int)]
    return Bar(
        radius_mm=bar_radius,
        is_straight=is_straight,
        surfaces=tuple(measure_surface(volume, int(z), bar_radius) for z in chosen),
        core_mu=_means(volume.mu, core),
        wall_mu=_means(volume.mu, wall),
        center_mu=_means(volume.mu, center),
    )


def measure_surface(volume: Volume, z_index: int, near_mm: float) -> Surface:
    """Where the bar ends in each of 360 directions about one slice, and how sharply.

    The edge goes from the mean of the ring `WALL_SHARES` to the mean beyond 1.05 radii (air with scatter, not 0).
    """
    reach = round(SURFACE_HEIGHT_MM / volume.voxel_mm / 2)
    plane = volume.mu[max(0, z_index - reach) : z_index + reach + 1].mean(axis=0)
    radii = np.arange(0.0, volume.x_mm.max(), volume.voxel_mm / OVERSAMPLING)
    angles = np.linspace(0, 2 * np.pi, N_ANGLES, endpoint=False)
    rows = (radii * np.sin(angles)[:, None] - volume.y_mm[0]) / volume.voxel_mm
    cols = (radii * np.cos(angles)[:, None] - volume.x_mm[0]) / volume.voxel_mm
    rays = map_coordinates(plane, [rows, cols], order=1, mode="nearest")
    profile = rays.mean(axis=0, dtype=np.float64)
    inside = float(profile[(radii > WALL_SHARES[0] * near_mm) & (radii < WALL_SHARES[1] * near_mm)].mean())
    outside = float(profile[(radii > 1.05 * near_mm) & (radii < radii[-1] - volume.voxel_mm)].mean())
    at = [_last_crossing(ray, radii, (inside + outside) / 2) for ray in rays]
    low, high = (_last_crossing(profile, radii, outside + share * (inside - outside)) for share in (0.9, 0.1))
    return Surface(
        z_mm=float(volume.z_mm[z_index]),
        radius_mm=float(np.mean(at)),
        radius_rms=float(np.std(at)) / volume.voxel_mm,
        edge_10_90=(high - low) / volume.voxel_mm,
        profile=profile,
        radii_mm=radii,
    )


def chord_ratio(volume: Volume, bar: Bar, radiogram: Radiogram, axis: AxisLine) -> float:
    """Line integral through the axis in the volume over the measured one, median over the straight slices.

    The ray through the axis at height z rises by z / sod: in a straight bar its chord is longer by that much.  Scatter
    round the bar is measured as if it were matter; what of it lies beyond the field is missing in the chord.
    """
    geometry = radiogram.scan.geometry
    orbit = geometry.circular_orbit if geometry else None
    assert orbit is not None
    chords = volume.mu[:, _nearest(volume.y_mm)].sum(axis=(1, 2)) / 2 * volume.voxel_mm
    rise = volume.z_mm / orbit.sod_mm
    rows = orbit.center_row + rise * orbit.sdd_mm / orbit.pitch_v_mm
    measured = np.empty(len(rows))
    for k, row in enumerate(rows):
        col, r = round(axis.col_at(row)), round(row)
        measured[k] = radiogram.line_integrals[r - 2 : r + 3, col - 2 : col + 3].mean()
    ratios = chords * np.sqrt(1 + rise**2) / measured
    return float(np.median(ratios[bar.is_straight]))


def _nearest(positions: Float64Array) -> NDArray[np.int64]:
    """The two positions beside 0."""
    return np.argsort(np.abs(positions), kind="stable")[:2]


def _half_level(volume: Volume, radius: Float64Array) -> float:
    """Half of the mu that most of the volume's middle has."""
    return float(np.median(volume.mu[:, radius < 2.0])) / 2


def _means(mu: NDArray[np.float32], where: NDArray[np.bool_]) -> Float64Array:
    """Mean of each slice over a mask."""
    return np.asarray(mu[:, where].mean(axis=1, dtype=np.float64))


def _last_crossing(profile: NDArray[np.floating], radii: Float64Array, level: float) -> float:
    """Radius of the outermost crossing from above the level to below it."""
    k = int(np.flatnonzero(profile >= level).max())
    step = (profile[k] - level) / (profile[k] - profile[k + 1])
    return float(radii[k] + step * (radii[k + 1] - radii[k]))
