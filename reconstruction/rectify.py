# SPDX-License-Identifier: Apache-2.0
"""Which virtual views a scan needs: tilted panels set upright, camera positions merged into wide rows or aligned."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.errors import ParameterError
from reconstruction.geometry import ORBIT_TOLERANCE_PIXELS, ConeBeamGeometry
from reconstruction.orbits import ALIGNED_SHARE, find_orbits, shared_cols
from reconstruction.virtual_views import VirtualViews

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.orbits import Track

    Float64Array = NDArray[np.float64]
    IndexArray = NDArray[np.int64]

#: Camera positions are merged if their angles agree within this share of a view step.
MERGED_SHARE = 0.1
#: ... and their sources within this share of their distance from the axis, and of a pixel's height on it.
_SOURCE_SHARE, _HEIGHT_PIXELS = 1e-3, 0.5
#: Pitch of a rectified panel's columns in those of the frames: a row is interpolated once more when it is
#: back-projected, and the finer pitch keeps the sharpness that two interpolations would cost.
FINER_COLUMNS = 2 / 3
#: Camera positions that overlap by fewer columns are resampled onto columns that continue each other's: weights that
#: fall from 1 to 0 within a few columns would else not be 1 in sum, which the ramp makes a ring of.
ALIGNED_OVERLAP_PX = 16.0
#: ... and if they cannot be, they must overlap by so many.
LEAST_OVERLAP_PX = 6.0


def is_upright(geometry: ConeBeamGeometry) -> bool:
    """Whether v runs along the axis and u across it in every view, within 1e-4 of a pixel over the panel."""
    steps = np.linalg.norm(geometry.poses[:, 6:9], axis=1), np.linalg.norm(geometry.poses[:, 9:12], axis=1)
    off_u = np.abs(geometry.poses[:, 8]) * geometry.n_cols
    off_v = np.abs(geometry.poses[:, 9:11]).max(axis=1) * geometry.n_rows
    tolerance = ORBIT_TOLERANCE_PIXELS * np.minimum(*steps)
    return bool((off_u <= tolerance).all() and (off_v <= tolerance).all() and (geometry.poses[:, 11] > 0).all())


@lru_cache(maxsize=8)
def virtual_views(geometry: ConeBeamGeometry, *, rectify: bool) -> tuple[ConeBeamGeometry, VirtualViews] | None:
    """Return the views that are to be reconstructed in place of the frames, and how they come from them.

    Parameters
    ----------
    geometry : ConeBeamGeometry
        Of the frames.
    rectify : bool
        Set tilted panels upright.

    Returns
    -------
    (ConeBeamGeometry, VirtualViews) or None
        None where the frames themselves are the views.

    Raises
    ------
    ParameterError
        If tilted frames that are taken as they are hardly overlap, and their columns do not continue each other's.
    """
    merged = _merged_frames(geometry)
    tilted = rectify and not is_upright(geometry)
    if merged is None and not tilted:
        if is_upright(geometry):
            if _is_aligned(geometry, -math.inf, ALIGNED_OVERLAP_PX):
                return None
        elif _is_aligned(geometry, -0.5, LEAST_OVERLAP_PX):
            return None
        else:
            raise ParameterError(
                f"tilted 'general' takes frames as they are, but camera positions at angles of their own share fewer "
                f"than {LEAST_OVERLAP_PX:g} columns, which do not continue each other's: use tilted 'rectify'"
            )
    frames = np.arange(geometry.n_views)[:, None] if merged is None else merged
    return _make(geometry, frames, tilted=tilted)


def _merged_frames(geometry: ConeBeamGeometry) -> IndexArray | None:
    """Frames (view, slot) of camera positions that all agree in their angles; None where they do not."""
    orbits = find_orbits(geometry)
    parts = []
    for ring in range(len(orbits.ring_heights_mm)):
        tracks = orbits.ring_tracks(ring)
        if len(tracks) != orbits.n_positions or len(tracks) < 2:
            return None
        columns = [tracks[0].views]
        for other in tracks[1:]:
            matched = _matching_views(geometry, tracks[0], other)
            if matched is None:
                return None
            columns.append(matched)
        parts.append(np.stack(columns, axis=1))
    frames = np.concatenate(parts)
    return frames[np.argsort(frames.min(axis=1), kind="stable")]


def _matching_views(geometry: ConeBeamGeometry, track: Track, other: Track) -> IndexArray | None:
    """For each view of a track the one of another from the same place; None where some have none."""
    if track.views.size != other.views.size:
        return None
    tolerance = MERGED_SHARE * track.step_rad
    best = None
    for shift in (-1, 0, 1):  # the first view may lie on the other side of angle 0
        views = np.roll(other.views, shift)
        turned = geometry.source_angles_rad[views] - geometry.source_angles_rad[track.views]
        off = np.abs(np.mod(turned + math.pi, 2 * math.pi) - math.pi).max()
        if off <= tolerance:
            best = views
    if best is None:
        return None
    poses, others = geometry.poses[track.views], geometry.poses[best]
    radii = np.hypot(poses[:, 0], poses[:, 1])
    far = np.abs(np.hypot(others[:, 0], others[:, 1]) - radii) > _SOURCE_SHARE * radii
    pixel = geometry.pitch_mm[0] * geometry.sod_mm / geometry.sdd_mm
    high = np.abs(others[:, 2] - poses[:, 2]) > _HEIGHT_PIXELS * pixel
    return None if bool((far | high).any()) else best


def _make(geometry: ConeBeamGeometry, frames: IndexArray, *, tilted: bool) -> tuple[ConeBeamGeometry, VirtualViews]:
    """Lay one upright panel behind each view's source that holds all its frames' pixels."""
    poses = geometry.poses[frames]  # (view, slot, 12)
    beta = np.arctan2(poses[..., 1], poses[..., 0])
    turn = np.mod(beta - beta[:, :1] + math.pi, 2 * math.pi) - math.pi
    mean_turn = turn.mean(axis=1)
    view_beta = beta[:, 0] + mean_turn
    cos, sin = np.cos(view_beta), np.sin(view_beta)
    zero = np.zeros_like(cos)
    u_axis = np.stack([-sin, cos, zero], axis=1)
    inward = np.stack([-cos, -sin, zero], axis=1)
    axes = np.stack([u_axis, np.broadcast_to([0.0, 0.0, 1.0], u_axis.shape), inward], axis=1)  # (view, axis, 3)
    # Frames as seen from their own sources, turned into the view's angle: each panel goes with its source.
    back = -(turn - mean_turn[:, None])
    local = np.stack(
        [_turned(part, back) for part in (poses[..., 3:6] - poses[..., 0:3], poses[..., 6:9], poses[..., 9:12])], axis=2
    )
    local = np.einsum("vak,vspk->vspa", axes, local)  # (view, slot, centre | u | v, along u | v | inward)
    middle_col, middle_row = (geometry.n_cols - 1) / 2, (geometry.n_rows - 1) / 2
    corner = local[:, :, 0] - middle_col * local[:, :, 1] - middle_row * local[:, :, 2]
    rays = np.stack([local[:, :, 1], local[:, :, 2], corner], axis=-1)  # B: (col, row, 1) to a ray
    merged = frames.shape[1] > 1
    distance = float(local[:, :, 0, 2].mean())
    pitch_v, pitch_u = geometry.pitch_mm
    pitch_u *= FINER_COLUMNS if tilted else 1.0
    tracks = find_orbits(geometry).track_of[frames[:, 0]]
    u_start, n_cols, v_start, n_rows = _panel(
        geometry, rays, distance, tracks, (pitch_u, pitch_v), apart=find_orbits(geometry).n_positions > 1 and not merged
    )
    panel = np.zeros((len(frames), 3, 3))  # A: (col, row, 1) of the virtual panel to a ray
    panel[:, 0, 0], panel[:, 0, 2] = pitch_u, u_start
    panel[:, 1, 1], panel[:, 1, 2] = pitch_v, v_start
    panel[:, 2, 2] = distance
    homographies = np.linalg.inv(rays) @ panel[:, None]
    radius = np.hypot(poses[..., 0], poses[..., 1]).mean(axis=1)
    source = np.stack([radius * cos, radius * sin, poses[..., 2].mean(axis=1)], axis=1)
    center = source + distance * inward + (u_start + (n_cols - 1) / 2 * pitch_u)[:, None] * u_axis
    center[:, 2] += v_start + (n_rows - 1) / 2 * pitch_v
    up = np.broadcast_to([0.0, 0.0, pitch_v], u_axis.shape)
    made = np.concatenate([source, center, pitch_u * u_axis, up], axis=1)
    virtual = VirtualViews(
        frame_indices=frames.astype(np.int64),
        homographies=homographies,
        feather_px=_feather(geometry) if merged else 1.0,
        frame_rows=geometry.n_rows,
        frame_cols=geometry.n_cols,
        rectified=tilted,
        merged=merged,
    )
    gaps = _column_gaps(geometry, homographies, n_rows, n_cols)
    return ConeBeamGeometry(made, n_rows, n_cols, gaps), virtual


def _turned(vectors: Float64Array, angles: Float64Array) -> Float64Array:
    """Vectors (..., 3) turned about z."""
    cos, sin = np.cos(angles), np.sin(angles)
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1)


def _panel(
    geometry: ConeBeamGeometry,
    rays: Float64Array,
    distance: float,
    tracks: IndexArray,
    pitch: tuple[float, float],
    *,
    apart: bool,
) -> tuple[Float64Array, int, float, int]:
    """First column's place of each view, columns, first row's place, rows of a panel that holds all frames [mm].

    Every pixel lies between two columns; where camera positions are `apart`, all columns lie on the frame at its middle
    row, since each has weights of its own up to its edge.
    """
    corners = np.array([[c, r, 1.0] for c in (0, geometry.n_cols - 1) for r in (0, geometry.n_rows - 1)])
    at = np.einsum("vsak,ck->vsca", rays, corners)
    u, v = (distance * at[..., k] / at[..., 2] for k in (0, 1))
    # The grid runs through the middle pixel of the frames, so that panels that hardly tilt are hardly resampled.
    middle = np.array([geometry.n_cols // 2, geometry.n_rows // 2, 1.0])
    at = rays[:, 0] @ middle
    anchor_u, anchor_v = distance * at[:, 0] / at[:, 2], float((distance * at[:, 1] / at[:, 2]).mean())
    every = np.unique(tracks)
    anchors = np.array([anchor_u[tracks == track].mean() for track in every])
    spare = 1e-3
    if apart:
        anchors = _on_one_grid(anchors, pitch[0], geometry.pitch_mm[1] * geometry.n_cols)
        ends = np.array([[c, (geometry.n_rows - 1) / 2, 1.0] for c in (0, geometry.n_cols - 1)])
        at = np.einsum("vsak,ck->vsca", rays, ends)
        u = distance * at[..., 0] / at[..., 2]
        spare = 1 - 0.5 * geometry.pitch_mm[1] / pitch[0]  # a frame reaches half a pixel beyond its outer centres
    start_u, n_cols = np.empty(len(rays)), 1
    for track, anchor in zip(every, anchors, strict=True):
        same = tracks == track
        below = math.ceil((anchor - u[same].min()) / pitch[0] - spare)
        start_u[same] = anchor - below * pitch[0]
        n_cols = max(n_cols, below + math.ceil((u[same].max() - anchor) / pitch[0] - spare) + 1)
    below = math.ceil((anchor_v - float(v.min())) / pitch[1] - 1e-3)
    n_rows = below + math.ceil((float(v.max()) - anchor_v) / pitch[1] - 1e-3) + 1
    return start_u, n_cols, anchor_v - below * pitch[1], n_rows


def _on_one_grid(anchors: Float64Array, pitch: float, width: float) -> Float64Array:
    """Columns of one grid next to the middles of several camera positions of that width.

    None lies half a column away, and none falls into what positions leave between them if that is half a column.
    """
    away, n_cols = np.sort(anchors - anchors[0]) / pitch, width / pitch
    shifts = np.arange(0.0, 1.0, 2 * ALIGNED_SHARE)
    columns = np.rint(away - shifts[:, None])
    halfway = np.abs(away - shifts[:, None] - columns).max(axis=1) > 0.5 - ALIGNED_SHARE / 2
    lost = (np.diff(columns, axis=1) > n_cols) & (np.diff(away) < n_cols + 0.5)
    shift = shifts[int(np.argmin(halfway + lost.sum(axis=1)))]
    return np.asarray(anchors[0] + pitch * (shift + np.rint((anchors - anchors[0]) / pitch - shift)))


def _is_aligned(geometry: ConeBeamGeometry, fewest: float, enough: float) -> bool:
    """Whether no two camera positions share between so many columns (a gap is negative), unless of one grid."""
    orbits = find_orbits(geometry)
    for ring in range(len(orbits.ring_heights_mm)):
        ordered = sorted(orbits.ring_tracks(ring), key=lambda t: t.fan)
        for lower, upper in itertools.pairwise(ordered):
            shared = shared_cols(lower, upper)
            if fewest < shared < enough and abs(shared - round(shared)) > ALIGNED_SHARE:
                return False
    return True


def _feather(geometry: ConeBeamGeometry) -> float:
    """Columns over which neighbouring camera positions are blended: their overlap."""
    tracks = find_orbits(geometry).ring_tracks(0)
    ordered = sorted(tracks, key=lambda t: t.fan)
    overlaps = [(a.fan[1] - b.fan[0]) / a.pixel_rad for a, b in itertools.pairwise(ordered)]
    return max(1.0, min(overlaps))


def _three_rows(n_rows: int) -> tuple[float, float, float]:
    """First, middle and last row of a panel: in rows that roll, gaps lie askew."""
    return 0.0, (n_rows - 1) / 2, n_rows - 1.0


def _column_gaps(
    geometry: ConeBeamGeometry, homographies: Float64Array, n_rows: int, n_cols: int
) -> tuple[tuple[int, int], ...]:
    """Columns of the virtual panel, inside of it, that some view's frames do not measure at the middle row.

    Of the frames' own gaps what any row has to do with them.
    """
    cols = np.arange(n_cols)
    top, middle, bottom = (np.stack([cols, np.full(n_cols, row), np.ones(n_cols)]) for row in _three_rows(n_rows))
    measured = np.ones(n_cols, dtype=bool)
    for matrices in homographies[:: max(1, len(homographies) // 64)]:
        mapped = matrices @ middle
        x = mapped[:, 0] / mapped[:, 2]
        seen = ((x >= -0.5) & (x <= geometry.n_cols - 0.5)).any(axis=0)
        for points in (top, middle, bottom) if geometry.column_gaps else ():
            mapped = matrices @ points
            x = mapped[:, 0] / mapped[:, 2]
            # Between columns the interpolation reaches two to each side: what stands in a gap must not come along.
            on_columns = np.abs(x - np.rint(x)).max(axis=1, keepdims=True) < ALIGNED_SHARE
            reach = np.where(on_columns, 0.5, 2.0)
            for start, stop in geometry.column_gaps:
                seen &= ~((x > start - reach) & (x < stop - 1 + reach)).any(axis=0)
        measured &= seen
    inside = np.flatnonzero(measured)
    if not inside.size:
        return ()
    lacking = ~measured
    lacking[: inside[0]] = lacking[inside[-1] :] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lacking.astype(np.int8), [0]])))
    return tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2))
