# SPDX-License-Identifier: Apache-2.0
"""Gaps between chips in frames that are resampled: what stands in them reaches no voxel, and mu stays right."""

import dataclasses

import numpy as np
import pytest

from reconstruction.errors import GeometryError
from reconstruction.fdk import FdkParameters, prepare, reconstruct
from reconstruction.geometry import VolumeGrid
from reconstruction.projector import forward_project
from tests.support.orbits import circle, degrees, pillars, regions, stepped, tilted

GRID = VolumeGrid((1, 48, 48), (1.0, 0.6, 0.6))
FIELD = FdkParameters(field_radius_mm=14.0)


@pytest.mark.parametrize(
    "geometry",
    [
        stepped((-18.0, 18.0), (0.0, 0.0), 180, n_cols=52, n_rows=12),
        stepped((-18.2, 18.2), (0.0, 0.0), 180, n_cols=52, n_rows=12),
        tilted(circle(degrees(0, 360, 2), n_rows=12), roll_deg=1.5),
    ],
    ids=["merged on columns", "merged between columns", "tilted"],
)
def test_what_stands_in_a_gap_reaches_no_voxel(geometry):
    gapped = dataclasses.replace(geometry, column_gaps=((10, 13),))
    assert prepare(gapped, GRID, FIELD).virtual is not None
    lines = forward_project(pillars(), geometry)
    right = reconstruct(lines, gapped, GRID, FIELD)
    lines[:, :, 10:13] = 50.0
    wrong = reconstruct(lines, gapped, GRID, FIELD)
    assert np.abs(wrong - right).max() < 1e-5 * right.max()
    for name, share in regions(right, GRID).items():
        assert share == pytest.approx(1, abs=0.006), name


def test_a_gap_on_the_axis_of_merged_positions_is_refused_with_what_to_do():
    geometry = stepped((-18.0, 18.0), (0.0, 0.0), 180, n_cols=52, n_rows=12)
    middle = dataclasses.replace(geometry, column_gaps=((47, 52),))
    with pytest.raises(GeometryError, match="are measured by no view; move the panel, or add a camera position, so"):
        prepare(middle, GRID, FIELD)
