# SPDX-License-Identifier: Apache-2.0
"""From counts to line integrals: fields, bad pixels, floor, and the same numbers whatever rows are read."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from reconstruction.bad_pixels import find_bad_pixels, find_bad_pixels_by_rows
from reconstruction.correction import (
    CorrectionParameters,
    FloorReport,
    prepare_band,
    prepare_fields,
    prepare_without_fields,
    to_line_integrals,
)
from reconstruction.errors import CalibrationError, ParameterError
from reconstruction.geometry import ConeBeamGeometry
from reconstruction.phantom import uniform_cylinder
from reconstruction.photon_counting import MATERIALS, MaterialPhantom, PhotonCountingSettings, simulate_scan
from reconstruction.projector import forward_project

WHITE, DARK = 9000, 100


def fields(n_rows=12, n_cols=20, n_flats=8, n_darks=4, seed=1):
    """Flats with a fixed pattern and darks, each with their noise; and the pattern."""
    rng = np.random.default_rng(seed)
    pattern = 1 + 0.1 * rng.standard_normal((n_rows, n_cols))
    flats = rng.poisson(WHITE * pattern + DARK, size=(n_flats, n_rows, n_cols)).astype(np.uint16)
    darks = rng.poisson(DARK, size=(n_darks, n_rows, n_cols)).astype(np.uint16)
    return flats, darks, pattern


def exact_fields(n_rows=6, n_cols=10):
    """Noiseless fields: white 1000 above a dark of 24."""
    return np.full((2, n_rows, n_cols), 1024, np.uint16), np.full((2, n_rows, n_cols), 24, np.uint16)


def test_known_transmissions_come_out_exactly():
    flats, darks = exact_fields()
    counts = np.full((3, 6, 10), 24 + 125, np.uint16)
    counts[1] = 24 + 1000
    line_integrals, report = to_line_integrals(counts, prepare_fields(flats, darks))
    assert line_integrals.dtype == np.float32
    np.testing.assert_allclose(line_integrals[0], math.log(8), rtol=1e-6)
    np.testing.assert_allclose(line_integrals[1], 0.0, atol=1e-7)
    assert report == FloorReport(0, 180)
    without_darks, _ = to_line_integrals(counts, prepare_fields(flats - 24, None))
    np.testing.assert_allclose(without_darks[0], math.log(1000 / 149), rtol=1e-6)


def test_floor_is_counted_and_bounds_the_line_integrals():
    flats, darks = exact_fields()
    counts = np.full((2, 6, 10), 524, np.uint16)
    counts[0, 2, 3] = 24  # nothing above the dark
    counts[1, 2, 3] = 3  # below the dark
    counts[1, 0, 0] = 25  # one count: above the floor
    line_integrals, report = to_line_integrals(counts, prepare_fields(flats, darks))
    assert report == FloorReport(2, 120)
    assert line_integrals[0, 2, 3] == line_integrals[1, 2, 3] == pytest.approx(math.log(1000 / 0.5), rel=1e-6)
    assert line_integrals[1, 0, 0] == pytest.approx(math.log(1000), rel=1e-6)
    higher = CorrectionParameters(count_floor=2.0)
    _, raised = to_line_integrals(counts, prepare_fields(flats, darks, parameters=higher))
    assert raised.n_floored == 3
    assert report + raised == FloorReport(5, 240)


def test_fixed_pattern_and_dark_are_taken_off():
    flats, darks, pattern = fields(n_flats=200, n_darks=200)
    counts = np.rint(WHITE * pattern * math.exp(-1.5) + DARK).astype(np.uint16)[None]
    line_integrals, _ = to_line_integrals(counts, prepare_fields(flats, darks))
    np.testing.assert_allclose(line_integrals, 1.5, atol=0.004)


# -- bad pixels


def test_each_kind_of_bad_pixel_is_found_and_no_good_one():
    flats, darks, _ = fields(n_rows=40, n_cols=60, n_flats=16)
    rng = np.random.default_rng(3)
    flats[:, 1, 2] = DARK  # dead: no white above the dark
    flats[:, 3, 4] = 60000  # bright
    darks[:, 5, 6] = 5000  # hot
    flats[:, 5, 6] = rng.poisson(14000, 16)
    flats[:, 7, 8] = rng.uniform(4000, 14000, 16)  # flickers
    flats[:, 9, 10] = 9000  # stuck
    known = np.zeros((40, 60), bool)
    known[11, 12] = True
    correction = prepare_fields(flats, darks, known)
    assert {tuple(int(k) for k in place) for place in np.argwhere(correction.bad)} == {
        (1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12),
    }  # fmt: skip
    found = correction.found
    assert (found.known, found.dead, found.hot) == (1, 1, 1)
    assert found.bright == 1
    assert found.unstable >= 2
    assert correction.n_bad == 6


def test_a_flickering_tube_makes_no_pixel_bad():
    flats, darks, _ = fields(n_rows=30, n_cols=40, n_flats=20)
    flats = (flats * np.linspace(0.8, 1.2, 20)[:, None, None]).astype(np.uint16)
    assert prepare_fields(flats, darks).n_bad == 0


def test_faults_of_a_simulated_panel_are_found_in_each_bin():
    settings = PhotonCountingSettings(dead_share=0.01, hot_share=0.005, n_flats=20, seed=5)
    geometry = ConeBeamGeometry.circular(
        sod_mm=200, sdd_mm=280, angles_rad=[0.0, 1.0], n_rows=40, n_cols=50, pitch_u_mm=0.6, pitch_v_mm=0.6
    )
    water = MATERIALS["water"]
    phantom = uniform_cylinder(8.0, 12.0, 1.0)
    scan = simulate_scan(MaterialPhantom(((water, phantom),)), geometry, settings)
    paths = forward_project(phantom, geometry)
    for index in range(2):
        correction = prepare_fields(scan.flats[index], scan.darks[index])
        np.testing.assert_array_equal(correction.bad, scan.bad_pixels)
        line_integrals, report = to_line_integrals(scan.counts[index], correction)
        assert report.n_floored == 0
        inside = paths > 2.0
        mean_mu = (line_integrals[inside] / paths[inside]).mean()
        assert mean_mu == pytest.approx(scan.mu_per_mm["water"][index], rel=0.01)


def test_bad_pixels_are_interpolated_along_their_row_in_line_integrals():
    flats, darks = exact_fields(n_rows=7, n_cols=9)
    known = np.zeros((7, 9), bool)
    known[0, 4] = True  # between two good ones
    known[1, 3:6] = True  # a gap of three
    known[2, :2] = True  # at the left end
    known[3, 7:] = True  # at the right end
    known[5] = True  # a whole row
    slope = np.arange(9) * 0.1 + 1.0
    counts = np.rint(1000 * np.exp(-slope) * np.ones((1, 7, 1)) + 24).astype(np.uint16)
    counts[:, known] = 7
    lenient = CorrectionParameters(max_bad_share=0.5)
    line_integrals = to_line_integrals(counts, prepare_fields(flats, darks, known, lenient))[0][0]
    np.testing.assert_allclose(line_integrals[[0, 1, 4, 6]], np.tile(slope, (4, 1)), atol=0.005)
    np.testing.assert_array_equal(line_integrals[2, :2], line_integrals[2, [2, 2]])
    np.testing.assert_array_equal(line_integrals[3, 7:], line_integrals[3, [6, 6]])
    np.testing.assert_array_equal(line_integrals[5], line_integrals[6])
    kept = CorrectionParameters(bad_pixels="keep")
    as_they_are = to_line_integrals(counts, prepare_fields(flats, darks, known, kept))[0][0]
    assert as_they_are[0, 4] == pytest.approx(math.log(1000 / 0.5), rel=1e-6)


def test_floored_bad_pixels_are_not_reported():
    flats, darks = exact_fields()
    flats[:, 2, 3] = 24
    counts = np.full((1, 6, 10), 524, np.uint16)
    counts[0, 2, 3] = 0
    line_integrals, report = to_line_integrals(counts, prepare_fields(flats, darks))
    assert report == FloorReport(0, 59)
    assert line_integrals[0, 2, 3] == pytest.approx(math.log(2), rel=1e-6)


# -- bands of rows


def bad_panel():
    flats, darks, _ = fields(n_rows=30, n_cols=33, n_flats=6)
    known = np.random.default_rng(4).random((30, 33)) < 0.06
    known[4:7] = True
    known[0] = True
    counts = np.random.default_rng(5).poisson(1500, size=(3, 30, 33)).astype(np.uint16)
    return flats, darks, known, counts


@pytest.mark.parametrize("height", [1, 4, 7])
def test_any_band_of_rows_gives_the_same_bytes(height, monkeypatch):
    flats, darks, known, counts = bad_panel()
    correction = prepare_fields(flats, darks, known, CorrectionParameters(max_bad_share=0.5))
    whole, report = to_line_integrals(counts, correction)
    monkeypatch.setattr("reconstruction.correction.CHUNK_VALUES", 100)
    for start in range(0, 30, height):
        stop = min(start + height, 30)
        low, high = correction.rows_to_read(start, stop)
        assert 0 <= low <= start
        assert stop <= high <= 30
        band = correction.band(low, high)
        got, _ = to_line_integrals(counts[:, low:high], band)
        assert got[:, start - low : stop - low].tobytes() == whole[:, start:stop].tobytes()
        own = prepare_band(
            flats[:, low:high], darks[:, low:high], correction.bad, CorrectionParameters(), row_start=low
        )
        again, _ = to_line_integrals(counts[:, low:high], own)
        assert again.tobytes() == got.tobytes()
    assert report.n_values == 3 * int((~correction.bad).sum())


def test_rows_to_read_reach_out_only_for_rows_that_are_bad_throughout():
    flats, darks, known, _ = bad_panel()
    correction = prepare_fields(flats, darks, known, CorrectionParameters(max_bad_share=0.5))
    assert correction.rows_to_read(10, 20) == (10, 20)
    assert correction.rows_to_read(0, 1) == (0, 2)
    assert correction.rows_to_read(4, 5) == (3, 5)
    assert correction.rows_to_read(6, 7) == (6, 8)
    assert correction.band(3, 8).rows_to_read(5, 6) == (5, 8)
    with pytest.raises(ParameterError, match="rows 6:7 need 6:8: a whole row of the panel is bad"):
        correction.band(6, 7)
    with pytest.raises(ParameterError, match="rows 20:31 do not lie in 0:30"):
        correction.rows_to_read(20, 31)


def test_out_is_filled_and_the_input_is_left_alone():
    flats, darks, known, counts = bad_panel()
    correction = prepare_fields(flats, darks, known, CorrectionParameters(max_bad_share=0.5))
    before = counts.copy()
    out = np.empty(counts.shape, np.float32)
    got, _ = to_line_integrals(counts, correction, out=out)
    assert got is out
    np.testing.assert_array_equal(counts, before)
    again, _ = to_line_integrals(counts, pickle.loads(pickle.dumps(correction)))
    np.testing.assert_array_equal(again, out)
    with pytest.raises(ParameterError, match="out needs the shape"):
        to_line_integrals(counts, correction, out=out[:, :, ::-1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32])
def test_pixel_types(dtype):
    flats, darks = np.full((2, 3, 4), 220, dtype), np.full((1, 3, 4), 20, dtype)
    counts = np.full((2, 3, 4), 120, dtype)
    np.testing.assert_allclose(to_line_integrals(counts, prepare_fields(flats, darks))[0], math.log(2), rtol=1e-6)


# -- other contents


def test_normalized_frames():
    known = np.zeros((4, 5), bool)
    known[1, 2] = True
    frames = np.full((2, 4, 5), 16384, np.uint16)
    frames[:, 1, 2] = 0
    frames[0, 3, 3] = 0
    correction = prepare_without_fields("normalized", 4, 5, white_level=65536.0, bad_pixels=known)
    line_integrals, report = to_line_integrals(frames, correction)
    assert report == FloorReport(1, 38)
    assert line_integrals[0, 1, 2] == pytest.approx(math.log(4), rel=1e-6)
    assert line_integrals[0, 3, 3] == pytest.approx(-math.log(1e-6), rel=1e-5)


def test_line_integrals_pass_through_but_for_bad_pixels():
    known = np.zeros((4, 5), bool)
    known[1, 2] = True
    frames = np.random.default_rng(1).normal(size=(2, 4, 5)).astype(np.float32)
    frames[:, 1, 2] = np.nan
    got, report = to_line_integrals(frames, prepare_without_fields("line_integrals", 4, 5, bad_pixels=known))
    np.testing.assert_array_equal(got[:, ~known], frames[:, ~known])
    np.testing.assert_allclose(got[:, 1, 2], (frames[:, 1, 1] + frames[:, 1, 3]) / 2, rtol=1e-5)
    assert report == FloorReport(0, 0)


# -- refusals


@pytest.mark.parametrize("content", ["counts", "normalized", "line_integrals"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused_by_place(content, value):
    frames = np.ones((3, 4, 5), np.float32)
    frames[1, 2, 3] = value
    if content == "counts":
        correction = prepare_fields(np.full((1, 4, 5), 10, np.uint16), None)
    else:
        correction = prepare_without_fields(content, 4, 5)
    with pytest.raises(ParameterError, match=f"view 1, row 2, column 3 is not a finite number: got {value}"):
        to_line_integrals(frames, correction)


def test_negative_counts_are_refused():
    frames = np.full((1, 4, 5), -3, np.float32)
    with pytest.raises(ParameterError, match="raw counts must not be negative, got -3"):
        to_line_integrals(frames, prepare_fields(np.full((1, 4, 5), 10, np.uint16), None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None), "need flat fields, but the scan has none"),
        ((np.ones((4, 5)), None), r"flat frames need the shape \(frame, row, col\), got \(4, 5\)"),
        ((np.ones((0, 4, 5)), None), "flat frames need the shape"),
        ((np.full((2, 4, 5), np.nan), None), "flat frames have values that are negative or not a number"),
        ((np.full((2, 4, 5), -1), None), "flat frames have values that are negative"),
        ((np.ones((2, 4, 5)), np.ones((2, 4, 6))), r"\(4, 5\) pixels, the dark frames \(4, 6\)"),
        ((np.ones((2, 4, 5)), None, np.zeros((4, 6), bool)), r"mask has \(4, 6\) pixels, the panel \(4, 5\)"),
        ((np.zeros((2, 4, 5)), None), "no pixel of the flat fields is brighter"),
        ((np.ones((2, 4, 5)), None, np.ones((4, 5), bool)), "no pixel of the flat fields is brighter"),
    ],
)
def test_fields_that_do_not_fit(arguments, message):
    with pytest.raises(CalibrationError, match=message):
        prepare_fields(*arguments)


def test_too_many_bad_pixels_are_refused_with_their_kinds():
    flats, darks, _ = fields()
    flats[:, :4] = 0
    with pytest.raises(CalibrationError, match=r"33.3% of the panel's pixels are bad \(known 0, dead 80, .* 20% are"):
        prepare_fields(flats, darks)


def test_sizes_and_parameters_that_do_not_fit():
    correction = prepare_without_fields("normalized", 4, 5)
    with pytest.raises(ParameterError, match=r"shape \(view, 4, 5\) of the correction, got \(1, 4, 6\)"):
        to_line_integrals(np.ones((1, 4, 6), np.float32), correction)
    with pytest.raises(CalibrationError, match="positive white level, got 0"):
        prepare_without_fields("normalized", 4, 5, white_level=0.0)
    with pytest.raises(CalibrationError, match="every pixel of the panel is bad"):
        prepare_without_fields("normalized", 4, 5, bad_pixels=np.ones((4, 5), bool))
    with pytest.raises(CalibrationError, match="do not fit a panel"):
        prepare_band(np.ones((1, 3, 5)), None, np.zeros((4, 5), bool), row_start=2)
    for changes in ({"count_floor": 0.0}, {"bad_pixels": "drop"}, {"max_bad_share": 1.5}):
        with pytest.raises(ParameterError):
            CorrectionParameters(**changes)


@pytest.mark.parametrize("n_flats", [3, 12])
@pytest.mark.parametrize("with_darks", [True, False])
@pytest.mark.parametrize("band_rows", [1, 7, 40])
def test_bad_pixels_by_bands_of_rows_are_those_of_the_whole_panel(n_flats, with_darks, band_rows):
    rng = np.random.default_rng(8)
    flats = rng.poisson(900, size=(n_flats, 40, 50)).astype("u2")
    flats[:, 3, 4] = 0
    flats[:, 5, 6] = 60000
    flats[::2, 30, 31] += 500
    darks = rng.poisson(3, size=(5, 40, 50)).astype("u2")
    darks[:, 20, 21] += 400
    known = rng.random((40, 50)) < 0.01
    asked = []

    def read_rows(start, stop):
        asked.append(stop - start)
        return flats[:, start:stop], darks[:, start:stop] if with_darks else None

    expected, counts = find_bad_pixels(flats, darks if with_darks else None, known, CorrectionParameters())
    got, found = find_bad_pixels_by_rows(read_rows, (40, 50), known, CorrectionParameters(), band_rows=band_rows)
    assert np.array_equal(got, expected)
    assert found == counts
    assert found.dead
    assert found.bright
    assert bool(found.unstable) == (n_flats == 12)
    assert max(asked) <= band_rows
