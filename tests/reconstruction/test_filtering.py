# SPDX-License-Identifier: Apache-2.0
"""Ramp filter and weights."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconstruction.errors import ParameterError
from reconstruction.filtering import FILTER_WINDOWS, fast_fft_length, ramp_filter, window_response
from reconstruction.geometry import ConeBeamGeometry
from reconstruction.weighting import angular_gap_weights, cosine_weights, view_scales


@given(st.integers(1, 5000))
def test_fft_length_is_even_smooth_and_close(minimum):
    size = fast_fft_length(minimum)
    assert size >= minimum
    assert size % 2 == 0
    rest = size
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1
    assert size <= max(4, 1.35 * minimum)


@given(
    n_cols=st.integers(3, 40), left=st.floats(-30, 20), width=st.floats(1, 60), seed=st.integers(0, 99),
)  # fmt: skip
def test_filter_is_the_linear_convolution_of_the_zero_extended_row(n_cols, left, width, seed):
    pitch = 0.3
    ramp = ramp_filter(window="ram-lak", cutoff=1.0, n_cols=n_cols, pitch_mm=pitch, shadow_cols=(left, left + width))
    row = np.random.default_rng(seed).random(n_cols)
    got = np.fft.irfft(np.fft.rfft(row, ramp.n_fft) * ramp.response, ramp.n_fft)
    got = np.take(got, np.arange(ramp.col_start, ramp.col_start + ramp.n_out), mode="wrap")
    lag = np.arange(ramp.col_start, ramp.col_start + ramp.n_out)[:, None] - np.arange(n_cols)[None]
    odd = lag % 2 != 0
    taps = np.where(lag == 0, 0.25, np.where(odd, -1.0 / (np.pi * np.where(odd, lag, 1)) ** 2, 0.0)) / pitch
    np.testing.assert_allclose(got, taps @ row, atol=1e-10)
    assert ramp.col_start <= left
    assert ramp.col_start + ramp.n_out - 1 >= left + width


@pytest.mark.parametrize("window", FILTER_WINDOWS)
def test_windows_start_at_one_and_end_at_the_cutoff(window):
    response = window_response(window, 0.5, 64)
    assert response[0] == pytest.approx(1.0)
    assert np.all(response[17:] == 0)
    assert np.all(np.diff(response[:17]) <= 1e-12)


@pytest.mark.parametrize(("window", "cutoff"), [("gauss", 1.0), ("hann", 0.0), ("hann", 1.5)])
def test_unknown_window_or_cutoff_is_refused(window, cutoff):
    with pytest.raises(ParameterError):
        window_response(window, cutoff, 64)


def geometry_of(angles_rad):
    return ConeBeamGeometry.circular(
        sod_mm=100, sdd_mm=150, angles_rad=angles_rad, n_rows=6, n_cols=8, pitch_u_mm=2, pitch_v_mm=3, offset_u_mm=1.0
    )


@given(st.lists(st.floats(0.6, 1.4), min_size=12, max_size=40))
def test_angular_gaps_sum_to_a_turn_and_are_never_negative(steps):
    angles = np.cumsum(steps) / np.sum(steps) * 2 * math.pi
    weights = angular_gap_weights(geometry_of(angles))
    assert weights.sum() == pytest.approx(2 * math.pi)
    assert weights.min() >= -1e-12


@given(arc=st.integers(20, 300), start=st.floats(0, 6.2))
def test_no_view_gets_the_hole_of_a_short_arc(arc, start):
    weights = angular_gap_weights(geometry_of(start + np.radians(np.arange(arc))))
    assert weights == pytest.approx(np.full(arc, math.radians(1)))


def test_doubled_views_share_their_weight():
    weights = angular_gap_weights(geometry_of(np.radians([0, 90, 90, 180, 270])))
    assert weights == pytest.approx(np.radians([90, 45, 45, 90, 90]))


def test_cosine_weight_is_the_textbook_one_on_a_circular_orbit():
    got = cosine_weights(geometry_of([0.3]), 0, 2, 6)
    u = (np.arange(8) - 3.5) * 2 + 1.0
    v = (np.arange(2, 6) - 2.5) * 3
    np.testing.assert_allclose(got, 150 / np.sqrt(150**2 + u[None] ** 2 + v[:, None] ** 2), rtol=1e-12)
    assert view_scales(geometry_of([0.0, math.pi])) == pytest.approx([0.5 * math.pi * 100 * 150] * 2)
