# SPDX-License-Identifier: Apache-2.0
"""What the poses of a scan are: circles, stacks of circles or helices, and the camera positions along them.

A *track* is what one camera position measured on one circle or helix: its views, the angle that each stands for,
the runs of angles without a hole, and the fan angles that its panel covers.  Fan angles are counted at the source from
the line to the axis, positive towards +u.  A ray at view angle beta and fan angle gamma is measured again, from its
other end, at ``beta + pi - 2 gamma`` and ``-gamma``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry

    Float64Array = NDArray[np.float64]
    IndexArray = NDArray[np.int64]

#: A gap between neighbouring views is a hole if it is wider than this many usual steps.
HOLE_STEPS = 2.5
#: A hole that no other views make up for is shared by its neighbours up to this many usual steps, and this angle.
BRIDGED_STEPS, BRIDGED_RAD = 6.0, math.radians(20)
#: Camera positions lie apart by more than this share of the panel's fan angle.
POSITION_SHARE = 0.02
#: Sources of one circle lie within this share of the height that the panel sees on the axis.
RING_SHARE = 0.02
#: A source that wobbles by less than this share of that height is still one circle's.
WOBBLE_SHARE = 0.25
#: Columns of two camera positions continue each other's if they are off by less than this share of a column.
ALIGNED_SHARE = 0.01
#: A panel is offset if its middle is away from the axis by more than this share of its width (as RTK has it).
OFFSET_SHARE = 0.05
_TWO_PI = 2 * math.pi


@dataclass(frozen=True, slots=True)
class Track:
    """The views of one camera position on one circle or helix, by ascending angle.

    Attributes
    ----------
    views : (n,) int64
        Indices in the geometry.
    angles_rad : (n,) float64
        Angle of the source, in [0, 2 pi) and ascending; running on from turn to turn on a helix.
    heights_mm : (n,) float64
        z of the source.
    shares_rad : (n,) float64
        Angle that each view stands for.
    step_rad : float
        The usual step.
    runs : ((start, stop), ...)
        Angles measured without a hole, half a step beyond the outer views; empty for a full turn without a hole.
    fan : (low, high)
        Fan angles that every view's panel covers, to the pixels' outer edges.
    fan_gaps : ((low, high), ...)
        Fan angles of the panel's column gaps.
    pixel_rad : float
        Fan angle of one pixel in the middle.
    ring : int
        Number of the circle, counted from the lowest.
    bridged : int
        Holes that the neighbours share.
    """

    views: IndexArray = field(repr=False)
    angles_rad: Float64Array = field(repr=False)
    heights_mm: Float64Array = field(repr=False)
    shares_rad: Float64Array = field(repr=False)
    step_rad: float
    runs: tuple[tuple[float, float], ...]
    fan: tuple[float, float]
    fan_gaps: tuple[tuple[float, float], ...]
    pixel_rad: float
    ring: int
    bridged: int


@dataclass(frozen=True, slots=True)
class Orbits:
    """All tracks of a scan.

    Attributes
    ----------
    kind : str
        ``circle``, ``stack`` (of circles along the axis), ``helix``, or ``irregular`` where the heights of the
        source are none of these.
    tracks : tuple of Track
    ring_heights_mm : (ring,) float64
        Mean height of each circle; one for a helix.
    shares_rad : (view,) float64
        Angle that each view stands for.
    track_of : (view,) int64
        Each view's track.
    """

    kind: str
    tracks: tuple[Track, ...]
    ring_heights_mm: Float64Array = field(repr=False)
    shares_rad: Float64Array = field(repr=False)
    track_of: IndexArray = field(repr=False)

    def ring_tracks(self, ring: int) -> tuple[Track, ...]:
        """The camera positions of one circle."""
        return tuple(track for track in self.tracks if track.ring == ring)

    @property
    def n_positions(self) -> int:
        """Camera positions of a circle, at most."""
        return max(len(self.ring_tracks(ring)) for ring in range(len(self.ring_heights_mm)))

    @property
    def has_holes(self) -> bool:
        """Whether any track is not a full turn."""
        return any(track.runs for track in self.tracks)


@lru_cache(maxsize=8)
def find_orbits(geometry: ConeBeamGeometry) -> Orbits:
    """Sort the views of a scan into tracks."""
    low, high = _fan_of_views(geometry)
    positions = _positions(low, high)
    kind, rings = _rings(geometry, positions)
    tracks: list[Track] = []
    for ring in range(int(rings.max()) + 1):
        for position in range(int(positions.max()) + 1):
            views = np.flatnonzero((rings == ring) & (positions == position))
            if views.size:
                tracks.append(_track(geometry, views, ring, low[views], high[views], helical=kind == "helix"))
    shares, track_of = np.empty(geometry.n_views), np.empty(geometry.n_views, dtype=np.int64)
    for number, track in enumerate(tracks):
        shares[track.views] = track.shares_rad
        track_of[track.views] = number
    heights = np.array([geometry.poses[rings == ring, 2].mean() for ring in range(int(rings.max()) + 1)])
    return Orbits(kind, tuple(tracks), heights, shares, track_of)


def camera_positions(geometry: ConeBeamGeometry) -> IndexArray:
    """Number of each view's camera position (view,) int64, from low to high fan angles."""
    return _positions(*_fan_of_views(geometry))


def fan_angles(geometry: ConeBeamGeometry, view_index: int, rows: Float64Array, cols: Float64Array) -> Float64Array:
    """Fan angle of the rays to the pixels (row, col) of a view [rad]; rows and columns broadcast."""
    return _fan(geometry.poses[view_index], rows, cols, geometry)


def shared_cols(lower: Track, upper: Track) -> float:
    """Columns that two camera positions of upright panels share, fractional; negative where a gap lies between them."""
    n_cols = round((lower.fan[1] - lower.fan[0]) / lower.pixel_rad)
    pitch = (math.tan(lower.fan[1]) - math.tan(lower.fan[0])) / n_cols
    return (math.tan(lower.fan[1]) - math.tan(upper.fan[0])) / pitch


def _fan(pose: Float64Array, rows: Float64Array, cols: Float64Array, geometry: ConeBeamGeometry) -> Float64Array:
    """Fan angle of pixels; the last axis of `pose` holds its 12 numbers, the others broadcast."""
    pose = np.moveaxis(pose, -1, 0)
    col, row = cols - (geometry.n_cols - 1) / 2, rows - (geometry.n_rows - 1) / 2
    dx = pose[3] - pose[0] + col * pose[6] + row * pose[9]
    dy = pose[4] - pose[1] + col * pose[7] + row * pose[10]
    x, y = pose[0], pose[1]
    return np.asarray(np.arctan2(-dx * y + dy * x, -dx * x - dy * y))


def _fan_of_views(geometry: ConeBeamGeometry) -> tuple[Float64Array, Float64Array]:
    """Fan angles of both side edges of each view's panel, at its middle row."""
    middle = np.asarray((geometry.n_rows - 1) / 2)
    left, right = (_fan(geometry.poses, middle, np.asarray(c), geometry) for c in (-0.5, geometry.n_cols - 0.5))
    return np.minimum(left, right), np.maximum(left, right)


def _positions(low: Float64Array, high: Float64Array) -> IndexArray:
    """Number of each view's camera position, from low to high fan angles."""
    middle, width = (low + high) / 2, float(np.median(high - low))
    return _clusters(middle, POSITION_SHARE * width, least=max(3, round(0.02 * low.size)))


def _clusters(values: Float64Array, gap: float, least: int) -> IndexArray:
    """Number the groups of values that lie farther apart than `gap`; groups smaller than `least` join their nearest."""
    order = np.argsort(values, kind="stable")
    labels = np.empty(values.size, dtype=np.int64)
    labels[order] = np.concatenate([[0], np.cumsum(np.diff(values[order]) > gap)])
    while True:
        counts = np.bincount(labels)
        small = np.flatnonzero(counts < least)
        if not small.size or counts.size == 1:
            return labels
        centers = np.bincount(labels, weights=values) / counts
        distance = np.abs(centers - centers[small[0]])
        distance[small[0]] = np.inf
        labels[labels == small[0]] = int(np.argmin(distance))
        labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _rings(geometry: ConeBeamGeometry, positions: IndexArray) -> tuple[str, IndexArray]:
    """Kind of the orbits, and the circle that each view belongs to."""
    z = geometry.poses[:, 2]
    one = np.zeros(z.size, dtype=np.int64)
    seen = geometry.n_rows * geometry.pitch_mm[0] * geometry.sod_mm / geometry.sdd_mm
    if float(np.ptp(z)) <= RING_SHARE * seen:
        return "circle", one
    helices = [_helix(geometry, np.flatnonzero(positions == p)) for p in range(int(positions.max()) + 1)]
    if all(helix is not None for helix in helices):
        # One turn whose ends are close is a circle with a wobble: no direction is measured twice.
        turns = max(float(np.ptp(helix[1])) / _TWO_PI for helix in helices if helix is not None)
        return ("circle" if turns <= 1.0 and float(np.ptp(z)) <= WOBBLE_SHARE * seen else "helix"), one
    steps = np.diff(np.sort(z))
    levels = _clusters(z, max(RING_SHARE * seen, 10 * float(np.median(steps))), least=3)
    spread = max(float(np.ptp(z[levels == level])) for level in range(int(levels.max()) + 1))
    if levels.max() > 0 and spread <= WOBBLE_SHARE * seen:
        return "stack", levels
    return ("circle" if float(np.ptp(z)) <= WOBBLE_SHARE * seen else "irregular"), one


def _helix(geometry: ConeBeamGeometry, views: IndexArray) -> tuple[IndexArray, Float64Array] | None:
    """Views of a helix by ascending angle, with the angles running on; None where they are no helix of a turn."""
    if views.size < 6:
        return None
    for order in (views, views[np.argsort(geometry.poses[views, 2], kind="stable")]):
        angles, z = np.unwrap(geometry.source_angles_rad[order]), geometry.poses[order, 2]
        steps = np.diff(angles)
        turning = bool((steps > 0).all() or (steps < 0).all())
        if not turning or abs(angles[-1] - angles[0]) + np.abs(steps).mean() < _TWO_PI * (1 - 1e-9):
            continue
        # On a stack of circles the height stays for a turn and then jumps; on a helix it goes with the angle.
        fit = np.polyval(np.polyfit(angles, z, 1), angles)
        pitch = float(np.ptp(fit)) / (abs(angles[-1] - angles[0]) / _TWO_PI)
        if float(np.abs(z - fit).max()) > 0.05 * pitch:
            continue
        return (order, angles) if steps[0] > 0 else (order[::-1], angles[::-1])
    return None


def _track(
    geometry: ConeBeamGeometry, views: IndexArray, ring: int, low: Float64Array, high: Float64Array, *, helical: bool
) -> Track:
    """Make one track: the angle that each view stands for, and the holes."""
    found = _helix(geometry, views) if helical else None
    if found is not None:
        order, angles = found
        steps = np.diff(angles)
        usual = _usual_step(steps)
        holes = np.flatnonzero(steps > HOLE_STEPS * usual)
        bridged = 0
        runs = _runs(angles, holes, usual)
        before, after = np.append(usual, steps), np.append(steps, usual)
    else:
        angles = np.mod(geometry.source_angles_rad[views], _TWO_PI)
        sorting = np.argsort(angles, kind="stable")
        order, angles = views[sorting], angles[sorting]
        steps = np.diff(np.append(angles, angles[0] + _TWO_PI))
        usual = _usual_step(steps)
        fan = (float(low.max()), float(high.min()))
        holes, bridged = _holes(angles, steps, usual, fan)
        runs = _runs_round(angles, steps, holes, usual)
        steps = steps.copy()
        steps[holes] = usual
        before, after = np.roll(steps, 1), steps
    if found is not None:
        before, after = np.minimum(before, HOLE_STEPS * usual), np.minimum(after, HOLE_STEPS * usual)
    gaps = _fan_gaps(geometry, order)
    return Track(
        views=order,
        angles_rad=angles,
        heights_mm=geometry.poses[order, 2].copy(),
        shares_rad=(before + after) / 2,
        step_rad=usual,
        runs=runs,
        fan=(float(low.max()), float(high.min())),
        fan_gaps=gaps,
        pixel_rad=float(np.median(high - low)) / geometry.n_cols,
        ring=ring,
        bridged=bridged,
    )


def _usual_step(steps: Float64Array) -> float:
    """The step that three quarters of the steps do not exceed; doubled views do not count."""
    real = steps[steps > 1e-7]
    return float(np.percentile(real, 75, method="lower")) if real.size else _TWO_PI


def _holes(angles: Float64Array, steps: Float64Array, usual: float, fan: tuple[float, float]) -> tuple[IndexArray, int]:
    """Steps that are holes, and how many narrow ones count as steps since no other views make up for them."""
    holes = np.flatnonzero(steps > HOLE_STEPS * usual)
    if steps.size < 3:
        return np.flatnonzero(steps > math.pi), 0
    offset = abs(fan[0] + fan[1]) > 2 * OFFSET_SHARE * (fan[1] - fan[0])
    reach = 2 * max(abs(fan[0]), abs(fan[1]))
    kept = []
    for hole in holes:
        start, width = angles[hole], steps[hole]
        narrow = width <= BRIDGED_STEPS * usual and width <= BRIDGED_RAD
        # Opposite views, over the whole fan, must not fall into a hole themselves.
        away = np.mod(angles[holes] - (start + math.pi - reach), _TWO_PI)
        clash = bool(((away < width + 2 * reach) | (away + steps[holes] > _TWO_PI)).any())
        if not (narrow and (offset or clash)):
            kept.append(int(hole))
    return np.array(kept, dtype=np.int64), holes.size - len(kept)


def _runs(angles: Float64Array, holes: IndexArray, usual: float) -> tuple[tuple[float, float], ...]:
    """Measured angles of a helix, half a step beyond the outer views."""
    starts, stops = np.append(0, holes + 1), np.append(holes, angles.size - 1)
    pairs = zip(starts, stops, strict=True)
    return tuple((float(angles[a]) - usual / 2, float(angles[b]) + usual / 2) for a, b in pairs)


def _runs_round(
    angles: Float64Array, steps: Float64Array, holes: IndexArray, usual: float
) -> tuple[tuple[float, float], ...]:
    """Measured angles of a circle between its holes; empty where there is none."""
    runs = []
    for place, hole in enumerate(holes):
        start = angles[hole] + steps[hole] - usual / 2
        stop = angles[holes[(place + 1) % holes.size]] + usual / 2
        runs.append((float(start), float(start + np.mod(stop - start, _TWO_PI))))
    return tuple(runs)


def _fan_gaps(geometry: ConeBeamGeometry, views: IndexArray) -> tuple[tuple[float, float], ...]:
    """Fan angles of the panel's column gaps, over all views of a track."""
    middle = np.asarray((geometry.n_rows - 1) / 2)
    gaps = []
    for start, stop in geometry.column_gaps:
        edges = [_fan(geometry.poses[views], middle, np.asarray(c - 0.5), geometry) for c in (start, stop)]
        gaps.append((float(np.min(edges)), float(np.max(edges))))
    return tuple(sorted(gaps))
