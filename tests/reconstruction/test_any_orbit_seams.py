# SPDX-License-Identifier: Apache-2.0
"""No seam where circles, turns or camera positions hand over: contrast below two standard errors of the noise.

The contrast across a border is that of the scan without noise.  The standard error is that of the same contrast, over
several draws of Poisson noise: neighbouring voxels are not independent, so no rule of thumb would do.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from reconstruction.errors import GeometryError, ParameterError
from reconstruction.fdk import FdkParameters, reconstruct
from reconstruction.geometry import VolumeGrid
from reconstruction.orbits import find_orbits
from reconstruction.phantom import Cylinder, Phantom
from reconstruction.projector import forward_project
from reconstruction.rectify import virtual_views
from tests.support.orbits import MU, REGIONS, degrees, helix, pillars, regions, stack, stepped, tilted

#: Photons that reach a pixel beside the phantom; about half of them come through its middle.
PHOTONS = 2e4
DRAWS = 12
TURN = degrees(0, 360, 4)
#: Pitch of the helices and step of the stack; the panel sees a field of 12 mm radius over 13.2 mm.
RISE_MM = 9.0
PILLARS_MM, RINGED_MM = 12.0, 16.0
TALL = VolumeGrid((28, 48, 48), (0.75, 0.6, 0.6))
FLAT = VolumeGrid((5, 72, 72), (0.8, 0.5, 0.5))


@dataclass(frozen=True)
class Scan:
    """A scan with the places (near, far) whose means are compared."""

    geometry: object
    grid: VolumeGrid
    borders: dict
    radius_mm: float


def axes_of(grid):
    """Coordinates of the voxels as (z, 1, 1), (y, 1), (x,) [mm]."""
    corner = grid.origin_mm[::-1]
    z, y, x = (o + p * np.arange(n) for o, p, n in zip(corner, grid.voxel_pitch_mm, grid.shape, strict=True))
    return z[:, None, None], y[:, None], x


def discs(grid, radius_mm):
    """The flat regions of `pillars` within a slice."""
    _, y, x = axes_of(grid)
    r = radius_mm / 12
    return {name: np.hypot(x - cx * r, y - cy * r) < size * r for name, cx, cy, size, _ in REGIONS}


def stacked(geometry, grid=TALL):
    """Heights midway between circles: what lies there against what lies off it, and above against below."""
    z, _, _ = axes_of(grid)
    borders = {}
    for name, disc in discs(grid, PILLARS_MM).items():
        for middle in (-RISE_MM / 2, RISE_MM / 2):
            off = z - middle
            borders[f"{name}, at z = {middle}"] = (abs(off) < 1.1) & disc, (abs(off) > 2) & (abs(off) < 4) & disc
            borders[f"{name}, across z = {middle}"] = (off > 1) & (off < 4) & disc, (off < -1) & (off > -4) & disc
    return Scan(geometry, grid, borders, PILLARS_MM)


def helical(geometry, grid=TALL):
    """Turns hand over somewhere within each pitch: every eighth of it against the rest, over all turns."""
    z, _, _ = axes_of(grid)
    borders = {}
    for name, disc in discs(grid, PILLARS_MM).items():
        for phase in range(8):
            off = np.abs(np.mod(z - phase / 8 * RISE_MM + RISE_MM / 2, RISE_MM) - RISE_MM / 2)
            borders[f"{name}, {phase} eighths of a turn"] = (off < RISE_MM / 8) & disc, (off > RISE_MM / 6) & disc
    return Scan(geometry, grid, borders, PILLARS_MM)


def sideways(geometry, grid=FLAT):
    """Fan angles where a position begins or ends are rings about the axis: on the ring, and inside against outside.

    A sector of them, in which `pillars` is plain and its edges are far.
    """
    z, y, x = axes_of(grid)
    angle, radius = np.degrees(np.arctan2(y, x)), np.hypot(x, y)
    plain = (angle > 70) & (angle < 160) & (z < 99)
    orbits = find_orbits(geometry)
    borders = {}
    for track in orbits.tracks:
        for edge in track.fan:
            ring = geometry.sod_mm * math.sin(abs(edge))
            if ring > RINGED_MM - 4:
                continue
            off = radius - ring
            borders[f"at r = {ring:.2f}"] = plain & (abs(off) < 0.6), plain & (abs(off) > 1) & (abs(off) < 2)
            borders[f"across r = {ring:.2f}"] = plain & (off > 0.4) & (off < 2), plain & (off < -0.4) & (off > -2)
    assert len(borders) >= 4
    return Scan(geometry, grid, borders, RINGED_MM)


NARROW = {"n_cols": 30}
SIDEWAYS = (-19.0, 0.0, 19.0)
SCANS = {
    "stack": lambda: stacked(stack((-RISE_MM, 0.0, RISE_MM), TURN)),
    "helix": lambda: helical(helix(4, 90, RISE_MM)),
    "helix, turns that do not repeat": lambda: helical(helix(4, 83.7, RISE_MM)),
    "helix, clockwise, offset panel": lambda: helical(helix(4, 90, -RISE_MM, n_cols=64, offset_u_mm=14.0)),
    "stepped, merged": lambda: sideways(stepped(SIDEWAYS, (0, 0.05, -0.05), 120, **NARROW)),
    "stepped, apart": lambda: sideways(stepped(SIDEWAYS, (0, 0.3, 0.6), 120, **NARROW)),
    "stepped, half, merged": lambda: sideways(stepped((6.0, 24.0), (0, 0), 120, **NARROW)),
    "stepped, half, apart": lambda: sideways(stepped((6.0, 24.0), (0, 0.3), 120, **NARROW)),
}


def contrasts(volume, borders):
    """Mean at the border less the mean off it [1/mm]."""
    return np.array([volume[near].mean(dtype=np.float64) - volume[far].mean(dtype=np.float64)
                     for near, far in borders.values()])  # fmt: skip


def noise_of(lines, scan, photons=PHOTONS):
    """Noise of some draws of the scan: volumes less the one without noise, and that."""
    clean = reconstruct(lines, scan.geometry, scan.grid)
    rng = np.random.default_rng(9)
    expected = photons * np.exp(-lines.astype(np.float64))
    draws = []
    for _ in range(DRAWS):
        noisy = -np.log(np.maximum(rng.poisson(expected), 1) / photons)
        draws.append(reconstruct(noisy.astype(np.float32), scan.geometry, scan.grid) - clean)
    return clean, draws


def judge(name, scan, photons):
    """Contrasts over their standard errors; region means without and with noise are right."""
    lines = forward_project(pillars(scan.radius_mm), scan.geometry)
    clean, draws = noise_of(lines, scan, photons)
    errors = np.sqrt(np.mean([contrasts(noise, scan.borders) ** 2 for noise in draws], axis=0))
    found = contrasts(clean, scan.borders)
    off = 0.0
    for volume in (clean, clean + np.mean(draws, axis=0)):
        for means in regions(volume, scan.grid, scan.radius_mm).values():
            off = max(off, 100 * abs(float(means.mean()) - 1))
    ratios = np.abs(found) / errors
    print(
        f"{name}: contrast at most {100 * np.abs(found).max() / MU:.3f} % of mu, standard error "
        f"{100 * np.median(errors) / MU:.3f} %, at most {ratios.max():.2f} standard errors; regions within {off:.2f} %"
    )
    assert off < 0.5
    return dict(zip(scan.borders, ratios, strict=True))


@pytest.mark.parametrize("name", SCANS)
def test_no_seam_shows_above_the_noise(name):
    scan = SCANS[name]()
    made = virtual_views(scan.geometry, rectify=True)
    assert (made is not None and made[1].merged) == name.endswith("merged")
    for border, ratio in judge(name, scan, PHOTONS).items():
        assert ratio < 2, border


#: The same dose as before: four times the pixels, twice the views.
FINE_PHOTONS = PHOTONS / 8
FINE = {"pitch_u_mm": 0.4, "pitch_v_mm": 0.4, "n_rows": 60}
HALF_TURN = degrees(0, 360, 1.5)
FINE_TALL = VolumeGrid((84, 96, 96), (0.25, 0.3, 0.3))
FINE_FLAT = VolumeGrid((11, 144, 144), (0.4, 0.25, 0.25))


def fine(name):
    """The same scans with pixels of half the size and twice as many views."""
    wide, narrow = FINE | {"n_cols": 200}, FINE | {"n_cols": 60}
    if name == "stack":
        return stacked(stack((-RISE_MM, 0.0, RISE_MM), HALF_TURN, **wide), FINE_TALL)
    if name.startswith("helix"):
        offset = {"n_cols": 128, "offset_u_mm": 14.0} if "offset" in name else {}
        per_turn = 171.3 if "repeat" in name else 180
        return helical(helix(4, per_turn, -RISE_MM if offset else RISE_MM, **(wide | offset)), FINE_TALL)
    positions = (6.0, 24.0) if "half" in name else SIDEWAYS
    turned = (0.0, 0.0, 0.0) if "merged" in name else (0.0, 0.3, 0.6)
    return sideways(stepped(positions, turned[: len(positions)], 240, **narrow), FINE_FLAT)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SCANS)
def test_no_seam_shows_above_the_noise_of_a_finer_scan(name):
    for border, ratio in judge(name, fine(name), FINE_PHOTONS).items():
        assert ratio < 2, border


@pytest.mark.parametrize("overlap_cols", [-0.4, 0.0, 0.4, 1.25, 2.5, 6.25, 12.1])
@pytest.mark.parametrize("lowest", [None, -1.5])
def test_positions_that_hardly_overlap_leave_no_ring(overlap_cols, lowest):
    """Steps that are no whole number of columns, at angles of their own: both ends of a line may be handed over."""
    step = (30 - overlap_cols) * 0.8
    start = -step if lowest is None else lowest * step + 7.0
    geometry = stepped((start, start + step, start + 2 * step), (0, 0.3, 0.6), 120, n_cols=30)
    body = Phantom((Cylinder((0.3, 0.2, 0.0), (9.0, 9.0, 100.0), MU),))
    grid = VolumeGrid((1, 44, 44), (0.8, 0.5, 0.5))
    volume = reconstruct(forward_project(body, geometry), geometry, grid)[0]
    _, y, x = axes_of(grid)
    radius = np.hypot(x, y)
    means = [volume[(radius > r - 0.25) & (radius <= r + 0.25)].mean() / MU for r in np.arange(2.0, 7.6, 0.5)]
    assert np.abs(np.array(means) - 1).max() < 0.03


@pytest.mark.parametrize("turned", [{"roll_deg": 0.6}, {"pitch_deg": 3.0}, {"yaw_deg": 3.0}])
def test_tilted_positions_that_hardly_overlap_leave_no_ring(turned):
    geometry = tilted(stepped((-22.0, 0.0, 22.0), (0, 0.3, 0.6), 120, n_cols=30), **turned)
    body = Phantom((Cylinder((0.3, 0.2, 0.0), (9.0, 9.0, 100.0), MU),))
    grid = VolumeGrid((1, 44, 44), (0.8, 0.5, 0.5))
    lines = forward_project(body, geometry)
    volume = reconstruct(lines, geometry, grid)[0]
    _, y, x = axes_of(grid)
    radius = np.hypot(x, y)
    means = [volume[(radius > r - 0.25) & (radius <= r + 0.25)].mean() / MU for r in np.arange(2.0, 7.6, 0.5)]
    assert np.abs(np.array(means) - 1).max() < 0.04
    if "yaw_deg" not in turned:  # an upright panel needs no rectification
        with pytest.raises(ParameterError, match=r"share fewer than 6 columns, .*: use tilted 'rectify'"):
            reconstruct(lines, geometry, grid, FdkParameters(tilted="general"))


def test_a_column_that_no_position_measures_is_refused():
    """A ring of several times mu would be the answer."""
    step = 31 * 0.8
    geometry = stepped((-step, 0.0, step), (0, 0.3, 0.6), 120, n_cols=30)
    with pytest.raises(GeometryError, match=r"are measured by no view; up to 7\.\d* mm are covered"):
        reconstruct(np.zeros((360, 30, 30), np.float32), geometry, FLAT)


@pytest.mark.parametrize("name", ["stack", "stepped, merged", "stepped, apart"])
def test_a_seam_of_two_percent_would_be_found(name):
    """One circle, or one camera position, that measures 2 % too much."""
    scan = SCANS[name]()
    lines = forward_project(pillars(scan.radius_mm), scan.geometry)
    _, draws = noise_of(lines, scan)
    third = scan.geometry.n_views // 3
    lines[third : 2 * third] *= 1.02
    seam = contrasts(reconstruct(lines, scan.geometry, scan.grid), scan.borders)
    errors = np.sqrt(np.mean([contrasts(noise, scan.borders) ** 2 for noise in draws], axis=0))
    assert np.abs(seam / errors).max() > 2
