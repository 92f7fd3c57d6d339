# SPDX-License-Identifier: Apache-2.0
"""Weights of rays: what all measurements of a line get together, whatever the orbit."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconstruction.coverage import measured_radius_mm
from reconstruction.errors import GeometryError, ParameterError
from reconstruction.fdk import FdkParameters, prepare
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.orbits import fan_angles, find_orbits
from reconstruction.redundancy import find_redundancy
from reconstruction.weighting import cosine_weights
from tests.support.orbits import circle, degrees, stepped

GRID = VolumeGrid((2, 40, 40), (1.0, 0.5, 0.5))
STEP = 0.5


def weights_of(geometry, redundancy, view):
    middle = np.array([(geometry.n_rows - 1) / 2])
    factors = redundancy.factors(geometry, view, 0, 1)
    gamma = fan_angles(geometry, view, middle, np.arange(geometry.n_cols))
    return gamma, np.broadcast_to(factors, (1, geometry.n_cols))[0]


def sum_over_measurements(geometry, redundancy, radius_mm):
    """Integral of each line's weights over all views that see it, times 1/2: binned by (line angle, distance)."""
    n_angle, n_distance = 36, 9
    total, edges = np.zeros((n_angle, n_distance)), np.linspace(-radius_mm, radius_mm, n_distance + 1)
    shares = redundancy.orbits.shares_rad
    for view in range(geometry.n_views):
        gamma, weight = weights_of(geometry, redundancy, view)
        distance = geometry.sod_mm * np.sin(gamma)
        theta = geometry.source_angles_rad[view] - gamma
        turned = np.mod(theta, 2 * math.pi) >= math.pi
        place = np.digitize(np.where(turned, -distance, distance), edges) - 1
        ok = (place >= 0) & (place < n_distance)
        bin_angle = np.floor(np.mod(theta, math.pi) / math.pi * n_angle).astype(int)
        # A pixel measures d(distance) = sod cos(gamma) d(gamma).
        measure = 0.5 * shares[view] * weight * geometry.sod_mm * np.cos(gamma) * np.gradient(gamma)
        np.add.at(total, (bin_angle[ok] % n_angle, place[ok]), measure[ok])
    return total / (math.pi / n_angle * (edges[1] - edges[0]))


@pytest.mark.parametrize(
    "geometry",
    [
        circle(degrees(0, 360, STEP), n_cols=400, pitch_u_mm=0.2),
        circle(degrees(0, 220, STEP), n_cols=400, pitch_u_mm=0.2),
        circle(degrees(20, 300, STEP), n_cols=400, pitch_u_mm=0.2),
        circle(np.delete(degrees(0, 360, STEP), slice(100, 160)), n_cols=400, pitch_u_mm=0.2),
        circle(degrees(0, 360, STEP), n_cols=400, pitch_u_mm=0.2, offset_u_mm=30.0),
        circle(degrees(0, 360, STEP), n_cols=400, pitch_u_mm=0.2, offset_u_mm=-15.0),
        stepped((-27.0, 0.0, 27.0), (0.0, 0.3, 0.6), 720, n_cols=150, pitch_u_mm=0.2),
        stepped((6.0, 30.0), (0.0, 0.3), 720, n_cols=150, pitch_u_mm=0.2),
        ConeBeamGeometry(circle(degrees(0, 360, STEP), n_cols=400, pitch_u_mm=0.2).poses, 30, 400, ((100, 112),)),
    ],
    ids=["full", "short", "long", "hole", "offset", "offset back", "stepped", "half stepped", "column gap"],
)
def test_every_line_counts_once_in_sum(geometry):
    redundancy = find_redundancy(find_orbits(geometry), "auto", math.asin(0.15))
    together = sum_over_measurements(geometry, redundancy, 15.0)
    assert together == pytest.approx(np.ones_like(together), abs=0.03)
    assert together.mean() == pytest.approx(1.0, abs=6e-3)


@settings(max_examples=30)
@given(
    arc=st.integers(200, 355), offset=st.floats(-1.5, 1.5), beta=st.floats(0, 6.28), gamma=st.floats(-0.15, 0.15),
)  # fmt: skip
def test_a_ray_and_its_opposite_share_two(arc, offset, beta, gamma):
    orbits = find_orbits(circle(degrees(0, arc), offset_u_mm=offset))
    redundancy = find_redundancy(orbits, "auto", 0.15)
    at = np.array([gamma])
    here = redundancy._noo(0, beta, at)[0]
    there = redundancy._noo(0, beta + math.pi - 2 * gamma, -at)[0]
    seen = [(b - math.radians(-0.5)) % (2 * math.pi) <= math.radians(arc) for b in (beta, beta + math.pi - 2 * gamma)]
    assert here + there == pytest.approx(2.0 if any(seen) else 0.0, abs=1e-9)


def test_a_full_turn_with_a_covering_panel_has_the_cosine_alone():
    for geometry in (circle(degrees(0, 360, 2)), circle(degrees(0, 360, 2), offset_u_mm=1.5)):
        setup = prepare(geometry, GRID, FdkParameters())
        assert setup.redundancy.method == "none"
        assert setup.weights_are_shared
        assert np.array_equal(setup.ray_weights(3, 2, 9), cosine_weights(geometry, 3, 2, 9))
        assert setup.kernel == "four_fold"


def test_weights_are_shared_unless_they_turn_with_the_arc():
    assert prepare(circle(degrees(0, 360, 2), offset_u_mm=20.0), GRID, FdkParameters()).weights_are_shared
    assert not prepare(circle(degrees(0, 210, 2)), GRID, FdkParameters()).weights_are_shared
    parker = prepare(circle(degrees(0, 210, 2)), GRID, FdkParameters(redundancy="parker"))
    assert not parker.weights_are_shared
    gaps = ConeBeamGeometry(circle(degrees(0, 360, 2)).poses, 30, 100, ((20, 23),))
    weights = prepare(gaps, GRID, FdkParameters()).ray_weights(0, 0, 2)
    assert np.all(weights[:, 20:23] == 0)
    assert np.all(weights[:, [10, 40]] > 0.9)


@given(arc=st.integers(215, 300), view=st.integers(0, 200))
def test_parkers_weights_sum_to_two(arc, view):
    geometry = circle(degrees(0, arc))
    redundancy = find_redundancy(find_orbits(geometry), "parker", 0.15)
    excess = math.radians(arc - 1 - 180) / 2
    gamma = np.linspace(-0.2, 0.2, 9)
    beta = math.radians(view)
    from reconstruction.redundancy import _parker

    track = redundancy.orbits.tracks[0]
    here = _parker(track, beta, gamma)
    there = np.array([_parker(track, beta + math.pi - 2 * g, np.array([-g]))[0] for g in gamma])
    assert excess > 0
    on_arc = beta <= math.pi + 2 * excess
    opposite = np.mod(beta + math.pi - 2 * gamma, 2 * math.pi) <= math.pi + 2 * excess
    assert np.where(on_arc | opposite, here + there, 2.0) == pytest.approx(np.full(9, 2.0), abs=1e-6)


def test_wangs_weights_are_those_of_the_paper():
    geometry = circle(degrees(0, 360, 2), offset_u_mm=20.0)
    gamma, weight = weights_of(geometry, find_redundancy(find_orbits(geometry), "wang", 0.2), 7)
    overlap = -gamma[0]
    expected = np.where(gamma >= overlap, 2.0, 1 + np.sin(math.pi / 2 * np.clip(gamma / overlap, -1, 1)))
    np.testing.assert_allclose(weight, expected, atol=1e-12)


def test_weights_by_name_are_refused_where_they_do_not_apply():
    for method, geometry in (
        ("parker", circle(degrees(0, 360, 2))), ("wang", circle(degrees(0, 210, 2))),
        ("wang", stepped((-15.0, 15.0), (0.0, 0.4), 60, n_cols=40)),
    ):  # fmt: skip
        with pytest.raises(ParameterError, match="use redundancy 'auto'"):
            prepare(geometry, GRID, FdkParameters(redundancy=method))
    with pytest.raises(ParameterError, match="unknown value 'noo' of redundancy"):
        FdkParameters(redundancy="noo")
    with pytest.raises(ParameterError, match="tilted"):
        FdkParameters(tilted="never")
    with pytest.raises(ParameterError, match="truncation padding"):
        FdkParameters(truncation_padding=-0.1)
    with pytest.raises(ParameterError, match="outside the field"):
        FdkParameters(outside_value=math.nan)


@given(arc=st.integers(30, 354), offset=st.floats(-38, 38), radius=st.floats(2, 30))
@settings(max_examples=40)
def test_what_is_measured_and_what_is_refused_agree(arc, offset, radius):
    """Refused are just the fields that have a line which no view sees, judged ray by ray.

    A hole of up to six steps counts as bridged by its neighbours on an offset panel: such arcs are left out.
    """
    geometry = circle(degrees(0, arc), offset_u_mm=offset, n_cols=100)
    reach = measured_radius_mm(geometry)
    beta = np.arange(0, 360, 3.0)
    low, high = math.atan((offset - 40) / 160), math.atan((offset + 40) / 160)
    for share, expected in ((0.97, True), (1.05, False)):
        gamma = math.asin(min(0.999, share * reach / 100)) if reach > 0 else 0.01
        seen = np.zeros(beta.size, dtype=bool)
        for b, g in ((beta, gamma), (beta + 180 - 2 * math.degrees(gamma), -gamma)):
            seen |= (np.mod(b + 1, 360) <= arc + 1) & (low - 0.006 <= g <= high + 0.006)
        if expected and reach > 3:
            assert seen.all()
        if not expected and reach < 99:
            later = math.asin(min(0.999, (share * reach + 2.5) / 100))
            missed = np.ones(beta.size, dtype=bool)
            for b, g in ((beta, later), (beta + 180 - 2 * math.degrees(later), -later)):
                missed &= ~((np.mod(b + 0.5, 360) <= arc) & (low <= g <= high))
            assert missed.any()
    assert radius > 0


def test_parker_needs_more_than_half_a_turn():
    geometry = circle(degrees(0, 170))
    redundancy = find_redundancy(find_orbits(geometry), "parker", 0.01)
    with pytest.raises(GeometryError, match="above 180 degrees"):
        redundancy.factors(geometry, 0, 0, 1)
