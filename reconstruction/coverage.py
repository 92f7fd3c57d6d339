# SPDX-License-Identifier: Apache-2.0
"""What the panel sees of the field, and the refusal of what cannot be reconstructed right.

The *field* is a cylinder about the rotation axis; voxels outside it are not computed.  A line through the field that no
view measures, from either end, cannot be made up for: it is refused, with where it lies and what to do instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.errors import GeometryError
from reconstruction.geometry import VolumeGrid
from reconstruction.orbits import OFFSET_SHARE, find_orbits
from reconstruction.projection import projection_matrices as projection_matrices
from reconstruction.redundancy import EDGE_PIXELS
from reconstruction.slice_weights import find_reach, seen_heights, turn_heights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry
    from reconstruction.orbits import Orbits, Track

    Float64Array = NDArray[np.float64]

_CIRCLE_POINTS = 128
#: Views projected at a time.
_SHADOW_VIEWS = 256
#: Lines that are looked at: view angles round the circle, and fan angles from the axis outwards.
_BETAS, _GAMMAS = 720, 400
#: A gap between camera positions is none below twice this: their columns are aligned to continue each other's.
_INNER_PIXELS = 0.25
_TWO_PI = 2 * math.pi


def field_radius_mm(grid: VolumeGrid, wanted_mm: float | None = None) -> float:
    """Radius of the field: as wanted, or what the grid suggests.

    A grid centred on the axis has its inscribed circle as the field; one beside the axis (a region
    of interest) reaches out to its farthest corner.
    """
    if wanted_mm is not None:
        if not (math.isfinite(wanted_mm) and wanted_mm > 0):
            raise GeometryError(f"the field's radius must be a positive length, got {wanted_mm} mm")
        return wanted_mm
    _, ny, nx = grid.shape
    _, py, px = grid.voxel_pitch_mm
    cx, cy, _ = grid.center_mm
    if abs(cx) <= px / 2 and abs(cy) <= py / 2:
        return min(nx * px, ny * py) / 2
    return grid.field_radius_mm()


def shadow(
    geometry: ConeBeamGeometry, radius_mm: float, z_low_mm: float, z_high_mm: float
) -> tuple[float, float, float, float]:
    """Return the shadow of a cylinder about the axis: (first col, last col, first row, last row), over all views.

    Fractional pixel indices, pixel centres at integers, not cut to the panel.

    Raises
    ------
    GeometryError
        If the cylinder reaches the source of a view.
    """
    orbit = geometry.circular_orbit
    nearest = float(np.hypot(geometry.poses[:, 0], geometry.poses[:, 1]).min())
    if radius_mm >= nearest:
        raise GeometryError(
            f"a field of radius {radius_mm:.4g} mm reaches the source, which is {nearest:.4g} mm from the axis: "
            f"ask for a smaller field"
        )
    if orbit is None:
        return _sampled_shadow(geometry, radius_mm, z_low_mm, z_high_mm)
    half_width = orbit.sdd_mm * radius_mm / math.sqrt(orbit.sod_mm**2 - radius_mm**2) / orbit.pitch_u_mm
    rows = [
        orbit.center_row + orbit.sdd_mm * (z - orbit.z_mm) / (orbit.sod_mm + side * radius_mm) / orbit.pitch_v_mm
        for z in (z_low_mm, z_high_mm)
        for side in (-1, 1)
    ]
    return orbit.center_col - half_width, orbit.center_col + half_width, min(rows), max(rows)


@lru_cache(maxsize=8)
def _sampled_shadow(
    geometry: ConeBeamGeometry, radius_mm: float, z_low_mm: float, z_high_mm: float
) -> tuple[float, float, float, float]:
    """Shadow by projecting the corners of a polygon round the cylinder's ends, for any poses."""
    angle = 2 * np.pi * np.arange(_CIRCLE_POINTS) / _CIRCLE_POINTS
    outside = radius_mm / math.cos(math.pi / _CIRCLE_POINTS)
    ring = np.stack([outside * np.cos(angle), outside * np.sin(angle), np.zeros_like(angle)], axis=1)
    points = np.concatenate([ring + np.array([0, 0, z]) for z in (z_low_mm, z_high_mm)])
    matrices = projection_matrices(geometry)
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for start in range(0, geometry.n_views, _SHADOW_VIEWS):
        part = matrices[start : start + _SHADOW_VIEWS]
        projected = part[:, :, :3] @ points.T + part[:, :, 3:4]
        depth = projected[:, 2]
        if depth.min() <= 0:
            raise GeometryError(
                f"a field of radius {radius_mm:.4g} mm reaches behind the source of a view: ask for a smaller field"
            )
        pixel = projected[:, :2] / depth[:, None]
        low, high = np.minimum(low, pixel.min(axis=(0, 2))), np.maximum(high, pixel.max(axis=(0, 2)))
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


@dataclass(frozen=True, slots=True)
class UnmeasuredLine:
    """One of the lines through a field that no view measures.

    Attributes
    ----------
    direction_rad : float or None
        Azimuth of the line, in [0, pi); None where all directions lack it.
    distance_mm : float
        Its distance from the rotation axis.
    """

    direction_rad: float | None
    distance_mm: float

    def __str__(self) -> str:
        if self.direction_rad is None:
            return f"lines {self.distance_mm:.4g} mm from the axis, in any direction,"
        return f"lines along {math.degrees(self.direction_rad):.0f} degrees, {self.distance_mm:.4g} mm from the axis,"


def check_orbit(geometry: ConeBeamGeometry) -> None:
    """Refuse views that can reconstruct no field at all.

    Raises
    ------
    GeometryError
        With the arc that was got.
    """
    orbits = find_orbits(geometry)
    if orbits.kind == "irregular":
        z = geometry.poses[:, 2]
        raise GeometryError(
            f"the source moves between {z.min():.4g} and {z.max():.4g} mm along the axis on no circle, stack of "
            f"circles or helix of evenly rising turns; reconstruct parts of the scan that are one of these"
        )
    reach_mm, line = _first_unmeasured(geometry)
    if geometry.n_views < 3 or (reach_mm <= 0 and orbits.has_holes):
        raise GeometryError(_arc_text(geometry, orbits, 0.0, line))
    if reach_mm <= 0:
        raise GeometryError(f"{line} are measured by no view; {_smaller_field(reach_mm)}")


def check_reconstructable(geometry: ConeBeamGeometry, grid: VolumeGrid, radius_mm: float) -> None:
    """Refuse a scan whose field has lines that nothing measures, or slices between turns that nothing sees.

    Raises
    ------
    GeometryError
        With the arc, the gap, the width or the pitch that was got, and what to do instead.
    """
    check_orbit(geometry)
    z_low, z_high = _z_range(grid)
    first, last, _, _ = shadow(geometry, radius_mm, z_low, z_high)
    orbits = find_orbits(geometry)
    reach_mm, line = _first_unmeasured(geometry)
    if line is not None and radius_mm > reach_mm:
        if orbits.has_holes and orbits.kind != "helix" and line.direction_rad is not None:
            raise GeometryError(_arc_text(geometry, orbits, radius_mm, line))
        raise GeometryError(
            f"the panel covers columns 0 to {geometry.n_cols - 1}, but the shadow of the field of radius "
            f"{radius_mm:.4g} mm reaches from column {first:.1f} to {last:.1f}, and {line} are measured by no view; "
            + _smaller_field(reach_mm)
        )
    _check_steps_along_axis(geometry, orbits, radius_mm, z_low, z_high)


def _smaller_field(reach_mm: float) -> str:
    """What to do about a field that is too large."""
    if reach_mm <= 0:
        return "move the panel, or add a camera position, so that the axis is seen"
    return f"up to {reach_mm:.4g} mm are covered: ask for a smaller field"


def _arc_text(geometry: ConeBeamGeometry, orbits: Orbits, radius_mm: float, line: UnmeasuredLine | None) -> str:
    """Refusal of an arc that is too short."""
    arc = math.degrees(geometry.arc_rad)
    nearest = _nearest_source_mm(geometry)
    low, high = _fan_edges(orbits.ring_tracks(0))
    reach = math.asin(min(1.0, radius_mm / nearest))
    need = math.degrees(math.pi + 2 * reach)
    if arc >= need or reach > min(-low, high) + EDGE_PIXELS * orbits.tracks[0].pixel_rad:
        need = 360.0  # an offset panel, or gaps, that only the opposite views make up for
    field_text = f"for a field of radius {radius_mm:.4g} mm" if radius_mm > 0 else "for the narrowest field"
    why = "some lines through the field" if line is None else str(line)
    least = "360" if need >= 360 else f"at least {need:.4g}"
    text = (
        f"the {geometry.n_views} views cover an arc of {arc:.4g} degrees; {least} degrees are needed {field_text}, "
        f"since {why} are measured by no view"
    )
    smaller = measured_radius_mm(geometry)
    return text + (f"; a field of up to {smaller:.4g} mm can be reconstructed" if smaller > 0 else "")


def _check_steps_along_axis(
    geometry: ConeBeamGeometry, orbits: Orbits, radius_mm: float, z_low: float, z_high: float
) -> None:
    """Refuse a pitch, or a step from circle to circle, that leaves voxels in between unseen."""
    if orbits.kind not in ("stack", "helix"):
        return
    reach = find_reach(geometry, radius_mm)
    step = _largest_step(orbits, z_low - reach.high_mm, z_high - reach.low_mm)
    if step <= reach.height_mm * (1 + 1e-6):
        return
    fits = _radius_for_step(geometry, step, radius_mm)
    advice = f"; a field of radius {fits:.4g} mm would do" if fits > 0 else ""
    what = "a helix with a pitch" if orbits.kind == "helix" else "a stack of circles with a step"
    raise GeometryError(
        f"{what} of {step:.4g} mm is too steep: every voxel of a field of radius {radius_mm:.4g} mm is seen from all "
        f"sides up to {max(0.0, reach.height_mm):.4g} mm{advice}"
    )


def _largest_step(orbits: Orbits, low: float, high: float) -> float:
    """Largest distance along the axis between neighbouring sources of one direction, between two heights."""
    if orbits.kind == "stack":
        columns = [orbits.ring_heights_mm[:, None]]
    else:
        columns = [
            turn_heights(t, t.angles_rad[0] + _TWO_PI * np.arange(180) / 180)[0] for t in orbits.tracks
        ]  # fmt: skip
    largest = 0.0
    for heights in columns:
        ordered = np.sort(heights, axis=0)  # NaN, not measured, comes last
        steps, below, above = np.diff(ordered, axis=0), ordered[:-1], ordered[1:]
        inside = np.isfinite(steps) & (above > low) & (below < high)
        largest = max(largest, float(steps[inside].max())) if inside.any() else largest
    return largest


def _radius_for_step(geometry: ConeBeamGeometry, step_mm: float, radius_mm: float) -> float:
    """Largest radius whose disc is seen whole over a height of `step_mm`; 0 if none is."""
    low, high = 0.0, radius_mm
    for _ in range(20):
        middle = (low + high) / 2
        fits = find_reach(geometry, middle).height_mm >= step_mm
        low, high = (middle, high) if fits else (low, middle)
    return low


def _z_range(grid: VolumeGrid) -> tuple[float, float]:
    """Heights of the first and last slice's centres [mm]."""
    low = grid.origin_mm[2]
    return low, low + (grid.shape[0] - 1) * grid.voxel_pitch_mm[0]


def _nearest_source_mm(geometry: ConeBeamGeometry) -> float:
    """Least distance of a source from the axis."""
    return float(np.hypot(geometry.poses[:, 0], geometry.poses[:, 1]).min())


def _fan_edges(tracks: tuple[Track, ...]) -> tuple[float, float]:
    """Outermost fan angles that all camera positions together cover."""
    return min(t.fan[0] for t in tracks), max(t.fan[1] for t in tracks)


@lru_cache(maxsize=8)
def _first_unmeasured(geometry: ConeBeamGeometry) -> tuple[float, UnmeasuredLine | None]:
    """Radius up to which all lines are measured, and the middle one of those that lack at the next distance.

    A panel that reaches beyond the source's own circle, or a field that does, is left to `shadow`.
    """
    orbits = find_orbits(geometry)
    nearest = _nearest_source_mm(geometry)
    best: tuple[float, UnmeasuredLine | None] = (nearest, None)
    for ring in range(len(orbits.ring_heights_mm)):
        tracks = orbits.ring_tracks(ring)
        edge = max(abs(angle) for angle in _fan_edges(tracks))
        beyond = edge + 4 * EDGE_PIXELS * tracks[0].pixel_rad
        gamma = np.linspace(0.0, min(beyond, math.pi / 2 * 0.999), _GAMMAS)
        turning = orbits.kind != "helix" and any(t.runs for t in tracks)
        beta = _TWO_PI * np.arange(_BETAS if turning else 1) / _BETAS
        b, g = np.meshgrid(beta, gamma, indexing="ij")
        seen = np.zeros(b.shape, dtype=bool)
        for track in tracks:
            slack = _slack(track, tracks)
            seen |= _measures(track, b, g, slack, turning=turning)
            seen |= _measures(track, b + math.pi - 2 * g, -g, slack, turning=turning)
        missing = np.flatnonzero(~seen.all(axis=0))
        if not missing.size:
            continue
        first = int(missing[0])
        reach = 0.0 if first == 0 else nearest * math.sin(float(gamma[first - 1] + gamma[first]) / 2)
        reach = _exact_reach(tracks, nearest, reach, float(gamma[1]), turning=turning)
        if reach < best[0]:
            lacking = np.flatnonzero(~seen[:, first])
            middle = beta[lacking[lacking.size // 2]]
            every = lacking.size == beta.size
            direction = None if every else float(np.mod(middle - gamma[first], math.pi))
            best = reach, UnmeasuredLine(direction, max(reach, nearest * math.sin(float(gamma[first]))))
    return best


def _exact_reach(tracks: tuple[Track, ...], nearest: float, reach: float, step: float, *, turning: bool) -> float:
    """The outer edge of the panel where that is what ends the field: exact, not on the grid of fan angles."""
    low, high = _fan_edges(tracks)
    edges = [high, -low, max(high, -low)] if turning else [max(high, -low)]
    for edge in edges:
        exact = nearest * math.sin(max(0.0, edge + EDGE_PIXELS * tracks[0].pixel_rad))
        if abs(exact - reach) <= nearest * step:
            return exact
    return reach


def _slack(track: Track, tracks: tuple[Track, ...]) -> tuple[float, float]:
    """Fan angle by which a track counts as reaching beyond either edge: little where another camera position is next.

    Weights of 1 that miss half a column between two positions make a ring; beyond the outermost edge is mostly air.
    """
    low, high = _fan_edges(tracks)
    below = _INNER_PIXELS if track.fan[0] > low else EDGE_PIXELS
    above = _INNER_PIXELS if track.fan[1] < high else EDGE_PIXELS
    return below * track.pixel_rad, above * track.pixel_rad


def _measures(
    track: Track, beta: Float64Array, gamma: Float64Array, slack: tuple[float, float], *, turning: bool
) -> NDArray[np.bool_]:
    """Whether a track measures the rays (beta, gamma), give or take a step and some of a pixel at the edges."""
    seen = (gamma >= track.fan[0] - slack[0]) & (gamma <= track.fan[1] + slack[1])
    for low, high in track.fan_gaps:
        seen &= (gamma <= low) | (gamma >= high)
    if turning and track.runs:
        on = np.zeros(beta.shape, dtype=bool)
        for start, stop in track.runs:
            on |= np.mod(beta - start + track.step_rad / 2, _TWO_PI) <= stop - start + track.step_rad
        seen &= on
    return np.asarray(seen)


def measured_radius_mm(geometry: ConeBeamGeometry) -> float:
    """Largest radius about the axis through which every line is measured, give or take an edge's pixels; 0 if none."""
    return _first_unmeasured(geometry)[0]


def covered_radius_mm(geometry: ConeBeamGeometry) -> float:
    """Largest radius about the axis through which every line is measured, from one end at least; 0 if none.

    A panel that is off centre by no more than a twentieth of its width counts by its shorter side, which both ends of
    every line see; beyond that by its longer side.  On a stack or helix no larger than its step allows.
    """
    orbits = find_orbits(geometry)
    measured = measured_radius_mm(geometry)
    nearest = _nearest_source_mm(geometry)
    found = measured
    for ring in range(len(orbits.ring_heights_mm)):
        tracks = orbits.ring_tracks(ring)
        low, high = _fan_edges(tracks)
        near_center = abs(low + high) <= 2 * OFFSET_SHARE * (high - low)
        side = min(-low, high) if near_center else max(-low, high)
        found = min(found, nearest * math.sin(max(0.0, min(side, math.pi / 2 * 0.999))))
    if found > 0 and orbits.kind in ("stack", "helix"):
        step = _largest_step(orbits, -math.inf, math.inf)
        if step > find_reach(geometry, found).height_mm:
            found = _radius_for_step(geometry, step, found)
    return max(0.0, found)


def covered_z_mm(geometry: ConeBeamGeometry, radius_mm: float) -> tuple[float, float]:
    """Heights between which the whole disc of that radius is seen from every direction [mm].

    On a stack from the lowest circle to the highest, on a helix less what lacks a turn at either end.
    """
    orbit = geometry.circular_orbit
    if orbit is not None:
        scale = orbit.pitch_v_mm / orbit.sdd_mm
        low = (-0.5 - orbit.center_row) * scale
        high = (geometry.n_rows - 0.5 - orbit.center_row) * scale
        # The disc is seen enlarged most at its near edge; a plane beyond the panel's edge shrinks towards it.
        near, far = orbit.sod_mm - radius_mm, orbit.sod_mm + radius_mm
        return orbit.z_mm + low * (near if low < 0 else far), orbit.z_mm + high * (near if high > 0 else far)
    orbits = find_orbits(geometry)
    heights = seen_heights(geometry, radius_mm)
    if orbits.kind != "helix":
        rings = np.array([track.ring for track in orbits.tracks])[orbits.track_of]
        parts = [heights[rings == ring] for ring in range(len(orbits.ring_heights_mm))]
        return min(float(p[:, 0].max()) for p in parts), max(float(p[:, 1].min()) for p in parts)
    reach = find_reach(geometry, radius_mm)
    lows, highs = [], []
    for track in orbits.tracks:
        sources, _ = turn_heights(track, track.angles_rad[0] + _TWO_PI * np.arange(360) / 360)
        lows.append(float(np.nanmin(sources, axis=0).max()) + reach.low_mm)
        highs.append(float(np.nanmax(sources, axis=0).min()) + reach.high_mm)
    return max(lows), min(highs)


def uncovered_slices(geometry: ConeBeamGeometry, grid: VolumeGrid, radius_mm: float) -> int:
    """How many slices have voxels in the field that are not seen from every direction (cone angle, ends)."""
    low, high = covered_z_mm(geometry, radius_mm)
    z = grid.origin_mm[2] + np.arange(grid.shape[0]) * grid.voxel_pitch_mm[0]
    slack = grid.voxel_pitch_mm[0] / 2
    return int(np.count_nonzero((z < low - slack) | (z > high + slack)))


def default_grid(geometry: ConeBeamGeometry, voxel_pitch_mm: float | None = None) -> VolumeGrid:
    """Return the largest grid of cubic voxels that the panel covers whole.

    The voxel pitch defaults to the pixel pitch at the axis (pitch x sod / sdd).  The sides in x and y are
    equal and even, so that the four-fold kernel applies.

    Raises
    ------
    GeometryError
        If the panel covers nothing around the axis.
    """
    pitch = voxel_pitch_mm if voxel_pitch_mm is not None else geometry.pitch_mm[1] * geometry.sod_mm / geometry.sdd_mm
    if not (math.isfinite(pitch) and pitch > 0):
        raise GeometryError(f"the voxel pitch must be a positive length, got {pitch} mm")
    radius = covered_radius_mm(geometry)
    side = 2 * math.floor(radius / pitch + 1e-6)
    low, high = covered_z_mm(geometry, radius)
    n_slices = math.floor((high - low) / pitch + 1e-6)
    if side < 2 or n_slices < 1:
        raise GeometryError(
            f"the panel covers a field of radius {radius:.4g} mm and height {max(0.0, high - low):.4g} mm about the "
            f"rotation axis, which holds no voxel of {pitch:.4g} mm: take smaller voxels, or say the grid"
        )
    return VolumeGrid((n_slices, side, side), (pitch, pitch, pitch), (0.0, 0.0, (low + high) / 2))
