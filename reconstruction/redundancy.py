# SPDX-License-Identifier: Apache-2.0
"""How rays that are measured more than once share: weights for any arc, panel and number of camera positions.

The weight of a ray is ``2 c / (sum of c over all its measurements)``: those of all camera positions at the same
angle and of the opposite ones (Noo, Defrise, Clackdoyle and Kudo, Phys. Med. Biol. 47 (2002) 2525).  c tapers
smoothly to 0 at the ends of an arc, at holes in it, at a panel's edge within the field, where camera positions
overlap, and at the panel's column gaps.  A full turn with a panel that covers the field has the weight 1 everywhere.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.errors import GeometryError, ParameterError
from reconstruction.orbits import ALIGNED_SHARE, OFFSET_SHARE, Orbits, Track, fan_angles, shared_cols

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry

    Float64Array = NDArray[np.float64]

REDUNDANCIES: tuple[str, ...] = ("auto", "parker", "wang", "none")
#: A panel covers the field if the field's shadow sticks out by less than this many pixels.
EDGE_PIXELS = 1.0
#: Tapers: least number of pixels, and share of the panel's fan angle.
_TAPER_PIXELS, _TAPER_SHARE = 16.0, 0.2
#: Taper at the edge of a gap between columns or camera positions, which is no place to lose rays.
_GAP_PIXELS, _GAP_SHARE = 8.0, 0.05
#: Columns that positions share are enough to hand over within, if they are aligned.
_ENOUGH_COLS = 3.5
#: Least sum of c where camera positions meet: below it their shares would change within a column.
_LEAST_C = 0.2
#: Tapers at the ends of an arc: least number of steps, least and greatest angle.
_ARC_STEPS, _ARC_LEAST_RAD, _ARC_MOST_RAD = 4.0, math.radians(10), math.radians(30)
_TWO_PI = 2 * math.pi


@dataclass(frozen=True, slots=True)
class Redundancy:
    """The weights of one scan for one radius of the field.

    Attributes
    ----------
    orbits : Orbits
    method : str
        ``auto``, ``parker`` or ``wang``; ``none`` where all weights are 1.
    tapers : for each track (low, high)
        Fan angles over which c rises from 0 at both edges of the panel; 0 where it does not.
    """

    orbits: Orbits
    method: str
    tapers: tuple[tuple[float, float], ...] = field(repr=False)

    @property
    def same_for_all_angles(self) -> bool:
        """Whether the weights depend on the fan angle alone."""
        turning = self.orbits.kind != "helix" and self.orbits.has_holes
        several = len(self.orbits.tracks) > 1 or self.method == "parker"
        return self.method == "none" or not (turning or several)

    def factors(
        self, geometry: ConeBeamGeometry, view_index: int, row_start: int, row_stop: int
    ) -> Float64Array | float:
        """Return the weights of a view's rays: (row, col) float64, or 1.0 where all are."""
        if self.method == "none":
            return 1.0
        cols = np.arange(geometry.n_cols, dtype=np.float64)
        pose = geometry.poses[view_index]
        upright = pose[9] == 0 and pose[10] == 0
        rows = np.array([(geometry.n_rows - 1) / 2]) if upright else np.arange(row_start, row_stop, dtype=np.float64)
        gamma = fan_angles(geometry, view_index, rows[:, None], cols[None, :])
        beta = float(geometry.source_angles_rad[view_index])
        place = int(self.orbits.track_of[view_index])
        if self.method == "parker":
            found = _parker(self.orbits.tracks[place], beta, gamma)
        elif self.method == "wang":
            found = _wang(geometry, view_index, gamma)
        else:
            found = self._noo(place, beta, gamma)
        for start, stop in geometry.column_gaps:
            found[:, start:stop] = 0.0
        return np.asarray(np.broadcast_to(found, (row_stop - row_start, geometry.n_cols)))

    def _noo(self, place: int, beta: float, gamma: Float64Array) -> Float64Array:
        """Weights of rays by all that measure them."""
        own = self.orbits.tracks[place]
        angles = np.full_like(gamma, beta)
        mine = self._c(place, angles, gamma)
        total = np.zeros_like(gamma)
        for other, track in enumerate(self.orbits.tracks):
            if track.ring == own.ring:
                total += mine if other == place else self._c(other, angles, gamma)
                total += self._c(other, angles + math.pi - 2 * gamma, -gamma)
        return np.divide(2 * mine, total, out=np.zeros_like(total), where=mine > 0)

    def _c(self, place: int, beta: Float64Array, gamma: Float64Array) -> Float64Array:
        """Smooth measure of how well a track measures the rays (beta, gamma), in [0, 1]."""
        track = self.orbits.tracks[place]
        found = _rise(gamma - track.fan[0], self.tapers[place][0])
        found *= _rise(track.fan[1] - gamma, self.tapers[place][1])
        width = min(max(_GAP_PIXELS * track.pixel_rad, _GAP_SHARE * (track.fan[1] - track.fan[0])), math.pi)
        for low, high in track.fan_gaps:
            found *= np.maximum(_rise(low - gamma, width), _rise(gamma - high, width))
        if track.runs and self.orbits.kind != "helix":
            found *= _on_runs(track, beta)
        return found


def find_redundancy(orbits: Orbits, method: str, field_rad: float) -> Redundancy:
    """Decide how rays share, for a field whose edge is seen at the fan angle `field_rad`.

    Raises
    ------
    ParameterError
        If Parker's or Wang's weights are asked for by name where they do not apply.
    """
    if method == "parker":
        if orbits.kind != "circle" or len(orbits.tracks) != 1 or len(orbits.tracks[0].runs) != 1:
            raise ParameterError(
                "Parker's weights are for one arc of one camera position; this scan is another: use redundancy 'auto'"
            )
    elif method == "wang":
        if len(orbits.tracks) != 1 or (orbits.has_holes and orbits.kind != "helix"):
            raise ParameterError(
                "Wang's weights are for a full turn of one camera position; this scan is another: use redundancy 'auto'"
            )
    elif method == "auto":
        rings = range(len(orbits.ring_heights_mm))
        found = [taper for ring in rings for taper in _ring_tapers(orbits.ring_tracks(ring), field_rad)]
        plain = all(
            len(orbits.ring_tracks(ring)) == 1 and not is_offset(orbits.ring_tracks(ring), field_rad) for ring in rings
        )
        if plain and not any(t.fan_gaps for t in orbits.tracks) and (orbits.kind == "helix" or not orbits.has_holes):
            return Redundancy(orbits, "none", ())
        return Redundancy(orbits, "auto", tuple(found))
    return Redundancy(orbits, method, ())


def is_offset(tracks: tuple[Track, ...], field_rad: float) -> bool:
    """Whether the panel (all camera positions together) reaches farther to one side, and the shorter needs weights."""
    low, high = min(t.fan[0] for t in tracks), max(t.fan[1] for t in tracks)
    short, long = sorted((-low, high))
    edge = EDGE_PIXELS * tracks[0].pixel_rad
    return long - short > 2 * OFFSET_SHARE * (high - low) or (field_rad > short + edge and long > short + edge)


def _ring_tapers(tracks: tuple[Track, ...], field_rad: float) -> list[tuple[float, float]]:
    """Tapers at the panel's edges of all camera positions of a circle."""
    low, high = min(t.fan[0] for t in tracks), max(t.fan[1] for t in tracks)
    offset = is_offset(tracks, field_rad)
    ordered = sorted(tracks, key=lambda t: t.fan)
    inner = _inner_tapers(ordered)
    found = {}
    for place, track in enumerate(ordered):
        left = inner[place - 1] if place else _outer_taper(-low, -low <= high and offset, track)
        last = place + 1 == len(ordered)
        right = _outer_taper(high, high < -low and offset, track) if last else inner[place]
        share = min(1.0, (track.fan[1] - track.fan[0]) / max(left + right, 1e-12))
        found[track.fan] = (left * share, right * share)
    return [found[track.fan] for track in tracks]


def _inner_tapers(ordered: list[Track]) -> list[float]:
    """Tapers where each camera position meets the next.

    Over a few columns at least, so that rays about a narrow overlap, or a gap, are left to the opposite views.  Where
    these hand over there too, over the overlap alone: columns that continue each other's are 1 in sum, however few.
    """
    pairs = list(itertools.pairwise(ordered))
    wide = [max(a.fan[1] - b.fan[0], _GAP_PIXELS * a.pixel_rad, _GAP_SHARE * (a.fan[1] - a.fan[0])) for a, b in pairs]
    found = []
    for (lower, upper), width in zip(pairs, wide, strict=True):
        shared = shared_cols(lower, upper)
        aligned = shared > -ALIGNED_SHARE and abs(shared - round(shared)) <= ALIGNED_SHARE
        meeting = np.linspace(upper.fan[0], lower.fan[1], 33)
        total = np.zeros_like(meeting)
        for track, left, right in zip(ordered, [0.0, *wide], [*wide, 0.0], strict=True):
            for gamma in (meeting, -meeting):
                total += _rise(gamma - track.fan[0], left) * _rise(track.fan[1] - gamma, right)
        alone = aligned and (shared > _ENOUGH_COLS or total.min() < _LEAST_C)
        found.append(max(0.0, lower.fan[1] - upper.fan[0]) if alone else width)
    return found


def _outer_taper(reach: float, short: bool, track: Track) -> float:
    """Taper at the outermost edge: on the short side of an offset panel, within what the long side measures too."""
    if not short:
        return 0.0
    wide = max(_TAPER_PIXELS * track.pixel_rad, _TAPER_SHARE * (track.fan[1] - track.fan[0]))
    return max(track.pixel_rad, min(2 * reach, wide))


def _rise(distance: Float64Array, width: float) -> Float64Array:
    """0 below 0, 1 from `width` on, in between sin^2."""
    if width <= 0:
        return np.where(distance >= 0, 1.0, 0.0)
    return np.asarray(np.sin(math.pi / 2 * np.clip(distance / width, 0.0, 1.0)) ** 2)


def _on_runs(track: Track, beta: Float64Array) -> Float64Array:
    """Factor of c that a track's arcs bring."""
    found = np.zeros_like(beta)
    for start, stop in track.runs:
        length = stop - start
        least = max(_ARC_STEPS * track.step_rad, _ARC_LEAST_RAD)
        width = min(length / 2, max(least, min(length - math.pi, _ARC_MOST_RAD)))
        at = np.mod(beta - start, _TWO_PI)
        found = np.maximum(found, _rise(at, width) * _rise(length - at, width))
    return found


def _parker(track: Track, beta: float, gamma: Float64Array) -> Float64Array:
    """Parker's weights (Med. Phys. 9 (1982) 254), twice; 1 on average over a ray's measurements.

    The arc is that from the first to the last view, as RTK takes it, whatever the panel's fan angle.
    """
    start, stop = track.runs[0][0] + track.step_rad / 2, track.runs[0][1] - track.step_rad / 2
    excess = (stop - start - math.pi) / 2
    at = math.fmod(beta - start + 4 * _TWO_PI + 1e-9, _TWO_PI) - 1e-9
    if excess <= 0:
        raise GeometryError(
            f"Parker's weights need an arc above 180 degrees, got {math.degrees(stop - start):.4g} degrees: use "
            f"redundancy 'auto'"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        rising = 2 * np.sin(math.pi / 4 * at / (excess + gamma)) ** 2
        falling = 2 * np.sin(math.pi / 4 * (math.pi + 2 * excess - at) / (excess - gamma)) ** 2
    found = np.where(at <= math.pi + 2 * excess, falling, 0.0)
    found = np.where(at <= math.pi + 2 * gamma, 2.0, found)
    return np.where(at <= 2 * (excess + gamma), rising, found)


def _wang(geometry: ConeBeamGeometry, view_index: int, gamma: Float64Array) -> Float64Array:
    """Wang's weights of an offset panel (Med. Phys. 29 (2002) 1634), over the whole overlap; its middle row's edges."""
    middle = np.array([(geometry.n_rows - 1) / 2])
    left, right = np.sort(fan_angles(geometry, view_index, middle, np.array([0.0, geometry.n_cols - 1.0])))
    short = min(-left, right)
    if short <= 0:
        raise GeometryError(
            "Wang's weights need a panel that reaches across the axis; this one lies beside it: use redundancy 'auto'"
        )
    side = 1.0 if right >= -left else -1.0
    return np.asarray(1 + np.sin(math.pi / 2 * np.clip(side * gamma / short, -1.0, 1.0)))
