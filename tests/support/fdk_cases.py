# SPDX-License-Identifier: Apache-2.0
"""Small slabs of every pose, for back ends that are held against the judge."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np

from reconstruction.bricks import Area
from reconstruction.fdk import FdkParameters, prepare
from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid
from reconstruction.phantom import marker_phantom
from reconstruction.projector import forward_project

GRID = VolumeGrid((40, 22, 20), (0.8, 1.0, 1.1), (0.0, 0.0, 0.5))
N_VIEWS = 36


def circle(n_views=N_VIEWS, **changes):
    values = {
        "sod_mm": 100.0, "sdd_mm": 150.0, "angles_rad": 0.3 + np.arange(n_views) * 2 * math.pi / n_views,
        "n_rows": 64, "n_cols": 48, "pitch_u_mm": 1.0, "pitch_v_mm": 0.9, "offset_u_mm": 0.7, "offset_v_mm": -0.6,
    }  # fmt: skip
    return ConeBeamGeometry.circular(**(values | changes))


def rotation(axis, angle):
    """Rotation matrix about a unit vector (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def tilted_panel(**changes):
    """Tilts of 2, -3 and 1.5 degrees about the panel's columns, rows and normal."""
    poses = circle(**changes).poses.copy()
    for pose in poses:
        u, v = pose[6:9] / np.linalg.norm(pose[6:9]), pose[9:12] / np.linalg.norm(pose[9:12])
        turn = np.eye(3)
        for axis, degrees in ((v, 2.0), (u, -3.0), (np.cross(u, v), 1.5)):
            turn = rotation(axis, math.radians(degrees)) @ turn
        pose[6:9], pose[9:12] = turn @ pose[6:9], turn @ pose[9:12]
    return ConeBeamGeometry(poses, 64, 48)


def lifted(geometry, heights):
    poses = geometry.poses.copy()
    poses[:, 2] += heights
    poses[:, 5] += heights
    return ConeBeamGeometry(poses, geometry.n_rows, geometry.n_cols)


def unequal_steps():
    steps = np.random.default_rng(5).uniform(0.7, 1.3, N_VIEWS)
    return circle(angles_rad=np.cumsum(steps) / steps.sum() * 2 * math.pi)


def rings():
    """Two circles, one above the other."""
    return lifted(circle(2 * N_VIEWS), np.repeat([-10.0, 10.0], N_VIEWS))


def shares_of_rings(setup):
    """Any partition of unity in z will do: the lower ring's views fade out upwards."""
    rise = np.linspace(0, 1, setup.slab.n_slices, dtype=np.float32)
    return np.concatenate([np.tile(1 - rise, (N_VIEWS, 1)), np.tile(rise, (N_VIEWS, 1))]).astype(np.float32)


@functools.cache
def setups():
    """Name -> set-up of a slab; the set-ups are changed where a case needs what no plain scan has."""
    general = FdkParameters(tilted="general")
    plain = prepare(circle(), GRID, FdkParameters())
    helix = lifted(
        circle(2 * N_VIEWS, angles_rad=np.arange(2 * N_VIEWS) * 2 * math.pi / N_VIEWS), np.linspace(-9, 9, 72)
    )
    stack = replace(
        plain, geometry=rings(), quarter=None, kernel="upright", views=np.arange(2 * N_VIEWS), view_rows=None
    )
    return {
        "full turn": plain,
        "other voxels": prepare(circle(), VolumeGrid((150, 8, 10), (0.2, 2.0, 2.5)), FdkParameters()),
        "unequal angles": prepare(unequal_steps(), GRID, FdkParameters()),
        "upright as any pose": prepare(circle(), GRID, FdkParameters(), force_general=True),
        "offset panel": prepare(circle(n_cols=34, offset_u_mm=8.0), replace(GRID, shape=(40, 16, 16)), FdkParameters()),
        "short arc": prepare(circle(40, angles_rad=np.linspace(0, math.radians(240), 40)), GRID, FdkParameters()),
        "three tilts": prepare(tilted_panel(), GRID, general),
        "three tilts, short arc": prepare(
            tilted_panel(n_views=40, angles_rad=np.linspace(0, math.radians(250), 40)), GRID, general
        ),
        "helix": replace(stack, geometry=helix, slice_weights=None),
        "rings": replace(stack, slice_weights=shares_of_rings(stack)),
        "rings as any pose": replace(stack, slice_weights=shares_of_rings(stack), kernel="any_pose"),
        "truncated, air outside": prepare(
            circle(), GRID, FdkParameters(truncation_padding=0.2, outside_value=-0.01, filter_window="hann")
        ),
        "a brick": prepare(circle(), GRID, FdkParameters(), Slab(16, 40), area=Area(5, 17, 9, 20)),
    }  # fmt: skip


def made_by(backend, setup, projections, batch=1 << 30):
    accumulator = backend.start(setup)
    for views in setup.batches(min(batch, setup.geometry.n_views)):
        band, n_cols = setup.band_of(views), setup.geometry.n_cols
        accumulator.add([projections[i, band.row_start : band.row_stop, :n_cols] for i in views], views)
    return accumulator.read_slices(0, setup.slab.n_slices)


def off(got, expected):
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def scan_of(setup):
    """Projections of the marker phantom, with 2 % of noise, as the set-up's views see it."""
    lines = forward_project(marker_phantom(9.0), setup.geometry)
    noise = np.random.default_rng(7).normal(size=lines.shape)
    return (lines + 0.02 * lines.max() * noise).astype(np.float32)
