# SPDX-License-Identifier: Apache-2.0
"""How stacked circles and the turns of a helix share the slices: a partition of unity along the axis.

A slice is seen by a view if the panel's rows hold the whole disc of the field at its height.  Of all views from the
same direction (the circles of a stack, the turns of a helix) each gets ``q((z - z_source) / h) / sum of q`` with a
smooth q that is 0 where the panel ends, so that nothing jumps from one to the next.  Where none sees the slice, beyond
the ends, the nearest has it alone, as on a single circle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.errors import GeometryError
from reconstruction.projection import projection_matrices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry
    from reconstruction.orbits import Orbits, Track

    Float64Array = NDArray[np.float64]

#: Points of a circle that stand for the edge of the field's disc; the first is nearest to the source.
_CIRCLE_POINTS = 64
#: Below this sum of q nothing sees the slice.
_SEEN = 1e-6
#: Slices worked on at a time.
_SLICES = 8
_TWO_PI = 2 * math.pi


@dataclass(frozen=True, slots=True)
class Reach:
    """Heights that a view sees over the whole disc of the field, from its source's height on [mm]: low, high."""

    low_mm: float
    high_mm: float

    @property
    def height_mm(self) -> float:
        """Height of the interval; negative where the disc is seen whole at no height."""
        return self.high_mm - self.low_mm


def seen_heights(geometry: ConeBeamGeometry, radius_mm: float, edge_px: float = 0.5) -> Float64Array:
    """Heights between which each view's rows hold the whole disc of that radius.

    Parameters
    ----------
    geometry : ConeBeamGeometry
    radius_mm : float
    edge_px : float
        By how much the panel reaches beyond the outer rows' centres.

    Returns
    -------
    (view, 2) float64 [mm]
        Lowest and highest; the wrong way round where a view sees it whole at no height.
    """
    angle = geometry.source_angles_rad[:, None] + _TWO_PI * np.arange(_CIRCLE_POINTS) / _CIRCLE_POINTS
    x, y = radius_mm * np.cos(angle), radius_mm * np.sin(angle)
    matrices = projection_matrices(geometry)

    def linear(k: int) -> tuple[Float64Array, Float64Array]:
        m = matrices[:, k]
        return m[:, 0:1] * x + m[:, 1:2] * y + m[:, 3:4], np.broadcast_to(m[:, 2:3], x.shape)

    (col, col_z), (row, row_z), (depth, depth_z) = (linear(k) for k in range(3))
    found = np.empty((geometry.n_views, 2))
    for index, (edge, worst, nothing) in enumerate(
        ((-edge_px, np.max, -np.inf), (geometry.n_rows - 1 + edge_px, np.min, np.inf))
    ):
        # row(z) = edge where row + z row_z = edge (depth + z depth_z).
        z = (edge * depth - row) / (row_z - edge * depth_z)
        at = (col + z * col_z) / (depth + z * depth_z)
        beside = (at < -0.5) | (at > geometry.n_cols - 0.5)
        found[:, index] = worst(np.where(beside, nothing, z), axis=1)
    # A panel that misses the disc's edge altogether sees what its middle sees.
    return np.where(np.isfinite(found), found, geometry.poses[:, 2:3])


@lru_cache(maxsize=8)
def find_reach(geometry: ConeBeamGeometry, radius_mm: float, edge_px: float = 0.5) -> Reach:
    """Heights above its source's that every view sees over the whole disc."""
    relative = seen_heights(geometry, radius_mm, edge_px) - geometry.poses[:, 2:3]
    return Reach(float(relative[:, 0].max()), float(relative[:, 1].min()))


def slice_weights(
    geometry: ConeBeamGeometry, orbits: Orbits, radius_mm: float, heights_mm: Float64Array
) -> NDArray[np.float32] | None:
    """Share of each view in slices at some heights.

    Returns
    -------
    (view, slice) float32 or None
        None on a single circle, where all shares are 1.
    """
    if orbits.kind not in ("stack", "helix"):
        return None
    reach = find_reach(geometry, radius_mm, 0.0)
    if reach.height_mm <= 0:
        raise GeometryError(
            f"no view sees the whole disc of a field of radius {radius_mm:.4g} mm at any height: ask for a smaller "
            f"field"
        )
    if orbits.kind == "stack":
        ring_share = _shares(orbits.ring_heights_mm[:, None], heights_mm, reach)[:, 0]
        rings = np.array([track.ring for track in orbits.tracks])
        return np.asarray(ring_share[rings[orbits.track_of]], dtype=np.float32)
    found = np.empty((geometry.n_views, heights_mm.size), dtype=np.float32)
    for track in orbits.tracks:
        sources, own = turn_heights(track, track.angles_rad)
        # In pieces: all turns at once for every slice would be a multiple of what is kept.
        for start in range(0, heights_mm.size, _SLICES):
            shares = _shares(sources, heights_mm[start : start + _SLICES], reach)
            found[track.views, start : start + _SLICES] = shares[own, np.arange(track.views.size)]
    return found


def turn_heights(track: Track, angles_rad: Float64Array) -> tuple[Float64Array, NDArray[np.int64]]:
    """Heights of the source at the same direction in every turn of a helix.

    Returns
    -------
    (turn, angle) float64 [mm]
        NaN where the turn was not measured at that direction.
    (angle,) int64
        The turn that holds the angle itself.
    """
    first, last = track.runs[0][0], track.runs[-1][1]
    n_turns = math.ceil((last - first) / _TWO_PI) + 1
    own = np.floor((angles_rad - first) / _TWO_PI).astype(np.int64)
    theta = angles_rad - own * _TWO_PI + _TWO_PI * np.arange(n_turns)[:, None]
    measured = np.zeros(theta.shape, dtype=bool)
    for start, stop in track.runs:
        measured |= (theta >= start - 1e-9) & (theta <= stop + 1e-9)
    return np.where(measured, _heights_at(track, theta), np.nan), own


def _heights_at(track: Track, theta: Float64Array) -> Float64Array:
    """Height of the source at any angle; straight on beyond the ends."""
    angles, z = track.angles_rad, track.heights_mm
    found = np.interp(theta, angles, z)
    slope = (z[-1] - z[0]) / (angles[-1] - angles[0])
    found += np.where(theta < angles[0], (theta - angles[0]) * slope, 0.0)
    found += np.where(theta > angles[-1], (theta - angles[-1]) * slope, 0.0)
    return np.asarray(found)


def _shares(sources: Float64Array, heights: Float64Array, reach: Reach) -> Float64Array:
    """Share of each source (turn, angle) in each slice: (turn, angle, slice), 1 in sum over the turns."""
    middle, half = (reach.low_mm + reach.high_mm) / 2, reach.height_mm / 2
    at = (heights - sources[..., None] - middle) / half
    q = np.where(np.abs(at) < 1, np.cos(math.pi / 2 * np.clip(at, -1, 1)) ** 2, 0.0)
    q[np.isnan(at)] = 0.0
    total = q.sum(axis=0)
    nearest = np.zeros_like(q)
    order = np.where(np.isnan(at), np.inf, np.abs(at))
    np.put_along_axis(nearest, np.argmin(order, axis=0)[None], 1.0, axis=0)
    return np.asarray(np.where(total > _SEEN, q / np.where(total > _SEEN, total, 1.0), nearest))
