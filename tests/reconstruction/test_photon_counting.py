# SPDX-License-Identifier: Apache-2.0
"""Materials, spectra and simulated photon-counting scans."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from reconstruction.errors import ParameterError
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.materials import (
    ALUMINIUM,
    BONE,
    IODINE,
    MATERIALS,
    WATER,
    Material,
    mass_attenuation_cm2_g,
    solution,
)
from reconstruction.phantom import Phantom, uniform_cylinder
from reconstruction.photon_counting import (
    FULL_COUNTER,
    MaterialPhantom,
    PhotonCountingSettings,
    expected_counts,
    make_panel,
    marker_specimen,
    simulate_fields,
    simulate_scan,
    simulate_views,
)
from reconstruction.projector import forward_project
from reconstruction.spectrum import bin_response, kramers_spectrum

QUIET = PhotonCountingSettings(noise=False, gain_sigma=0.0)


def orbit(n_views=3, n_rows=12, n_cols=16, pitch=1.8):
    angles = np.arange(n_views) * 2 * math.pi / n_views
    return ConeBeamGeometry.circular(
        sod_mm=200, sdd_mm=280, angles_rad=angles, n_rows=n_rows, n_cols=n_cols, pitch_u_mm=pitch, pitch_v_mm=pitch
    )


def water_cylinder():
    return MaterialPhantom(((WATER, uniform_cylinder(8.0, 12.0, 1.0)),))


# -- materials


def test_mixtures_agree_with_nist_tables_of_compounds():
    """Water and cortical bone as NIST lists them, mu / rho in cm^2/g."""
    water = {20: 0.8096, 30: 0.3756, 60: 0.2059, 100: 0.1707}
    bone = {20: 4.001, 30: 1.331, 60: 0.3148, 100: 0.1855}
    for material, table in ((WATER, water), (BONE, bone)):
        got = material.mu_per_mm(list(table)) * 10 / material.density_g_cm3
        np.testing.assert_allclose(got, list(table.values()), rtol=2e-3)


def test_between_the_points_of_the_table():
    # XCOM, total with coherent scattering, at energies that the table lacks.
    assert WATER.mu_per_mm(25.0) * 10 == pytest.approx(0.509, rel=5e-3)
    assert WATER.mu_per_mm(70.0) * 10 == pytest.approx(0.1929, rel=5e-3)


def test_iodine_jumps_at_its_k_edge():
    below, above = mass_attenuation_cm2_g("I", [33.16, 33.18])
    assert above / below == pytest.approx(35.82 / 6.553, rel=0.01)
    assert mass_attenuation_cm2_g("I", 33.17) == pytest.approx(35.82)
    assert (np.diff(mass_attenuation_cm2_g("I", np.linspace(33.2, 200, 300))) < 0).all()
    assert (np.diff(mass_attenuation_cm2_g("I", np.linspace(10, 33.1, 300))) < 0).all()


def test_solution_adds_its_solute_to_water():
    mixed = solution("contrast", IODINE, 20.0)
    expected = WATER.mu_per_mm([40.0, 80.0]) + IODINE.mu_per_mm([40.0, 80.0]) * 0.020 / IODINE.density_g_cm3
    np.testing.assert_allclose(mixed.mu_per_mm([40.0, 80.0]), expected, rtol=1e-12)
    assert sum(mixed.mass_fractions.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Material("x", 0.0, {"H": 1.0}), "positive density"),
        (lambda: Material("x", 1.0, {"U": 1.0}), r"without a table: \['U'\]"),
        (lambda: Material("x", 1.0, {"H": 0.5}), "add up to 1, got 0.5"),
        (lambda: Material("x", 1.0, {}), "add up to 1"),
        (lambda: WATER.mu_per_mm(9.0), "tabulated from 10 to 200 keV"),
        (lambda: mass_attenuation_cm2_g("U", 50.0), "no attenuation table for element 'U'"),
        (lambda: solution("x", IODINE, -1.0), "positive concentration"),
    ],
)
def test_material_refusals(make, message):
    with pytest.raises(ParameterError, match=message):
        make()


# -- spectrum and bins


def test_spectrum_ends_at_the_tube_voltage_and_hardens_by_filters():
    energies, soft = kramers_spectrum(100.0, ())
    _, hard = kramers_spectrum(100.0, ((ALUMINIUM, 4.0),))
    assert energies[0] == 10.5
    assert energies[-1] == 99.5
    assert soft.sum() == pytest.approx(1.0)
    assert hard.sum() == pytest.approx(1.0)
    assert (energies * hard).sum() > (energies * soft).sum() + 5


def test_difference_bins_add_up_to_counters():
    thresholds = (25.0, 45.0, 70.0)
    counters = bin_response(120.0, thresholds, resolution_kev=3.0, kind="counter")
    bins = bin_response(120.0, thresholds, resolution_kev=3.0)
    np.testing.assert_allclose(bins.weights[::-1].cumsum(axis=0)[::-1], counters.weights, atol=1e-15)
    assert bins.weights.sum() == pytest.approx(1.0)
    assert bins.high_kev == (45.0, 70.0, 120.0)
    assert counters.high_kev == (120.0, 120.0, 120.0)


def test_ideal_bins_hold_their_energies_only_and_poor_resolution_mixes_them():
    filters = ((MATERIALS["copper"], 1.0),)  # without the many photons just below 30 keV
    ideal = bin_response(120.0, (30.0, 60.0), filters=filters)
    low = ideal.energies_kev[ideal.weights[0] > 0]
    assert low.min() == 30.5
    assert low.max() == 59.5
    poor = bin_response(120.0, (30.0, 60.0), filters=filters, resolution_kev=4.0)
    assert poor.weights[0, poor.energies_kev > 61.0].sum() > 0.01
    # Mixing brings the two bins' views of bone closer together.
    ratio = [r.effective_mu_per_mm(BONE)[0] / r.effective_mu_per_mm(BONE)[1] for r in (ideal, poor)]
    assert ratio[0] > ratio[1] > 1.0


def test_effective_attenuation_falls_behind_a_thick_layer():
    response = QUIET.response
    thin, thick = response.effective_mu_per_mm(WATER), response.effective_mu_per_mm(WATER, path_mm=100.0)
    assert (thick < thin).all()
    np.testing.assert_allclose(response.effective_mu_per_mm(WATER, path_mm=1e-4), thin, rtol=1e-5)
    behind = response.effective_mu_per_mm(BONE, behind=((WATER, 50.0),))
    assert (behind < response.effective_mu_per_mm(BONE)).all()


@pytest.mark.parametrize(
    ("kvp", "thresholds", "message"),
    [
        (120.0, (60.0, 30.0), "thresholds must rise"),
        (120.0, (30.0, 130.0), "below the tube voltage 120 kV"),
        (120.0, (), "thresholds must rise"),
        (300.0, (30.0,), "from 20 to 200 kV, got 300"),
    ],
)
def test_bin_refusals(kvp, thresholds, message):
    with pytest.raises(ParameterError, match=message):
        bin_response(kvp, thresholds)


# -- scans


def test_expected_counts_follow_beer_and_lambert():
    geometry = orbit()
    counts = expected_counts(water_cylinder(), geometry, QUIET, 1)
    paths = forward_project(uniform_cylinder(8.0, 12.0, 1.0), geometry, [1])[0].astype(np.float64)
    response = QUIET.response
    mu = WATER.mu_per_mm(response.energies_kev)
    expected = QUIET.white_counts * (response.weights @ np.exp(-mu[:, None] * paths.ravel())).reshape(counts.shape)
    np.testing.assert_allclose(counts, expected, rtol=1e-6)
    assert counts[:, 0, 0].sum() == pytest.approx(QUIET.white_counts)


def test_a_scan_does_not_depend_on_which_views_are_made_together():
    geometry = orbit(n_views=5)
    settings = PhotonCountingSettings(dead_share=0.02, hot_share=0.02, seed=7)
    scan = simulate_scan(marker_specimen(10.0), geometry, settings)
    assert scan.counts.shape == (2, 5, 12, 16)
    assert scan.counts.dtype == np.uint16
    for view, counts in simulate_views(marker_specimen(10.0), geometry, settings, [4, 2]):
        np.testing.assert_array_equal(counts, scan.counts[:, view])
    flats, darks = simulate_fields(settings, 12, 16)
    np.testing.assert_array_equal(flats, scan.flats)
    np.testing.assert_array_equal(darks, scan.darks)
    assert scan.bad_pixels.sum() == 8
    again = simulate_scan(marker_specimen(10.0), geometry, replace(settings, seed=8))
    assert (again.counts != scan.counts).mean() > 0.9


def test_noise_is_poisson_and_bins_are_independent():
    settings = PhotonCountingSettings(n_flats=400, gain_sigma=0.0, white_counts=500.0)
    flats, darks = simulate_fields(settings, 8, 8)
    mean, variance = flats.mean(axis=1), flats.var(axis=1, ddof=1)
    np.testing.assert_allclose(mean.mean(axis=(1, 2)), settings.response.weights.sum(axis=1) * 500, rtol=5e-3)
    np.testing.assert_allclose((variance / mean).mean(axis=(1, 2)), 1.0, atol=0.03)
    assert not darks.any()
    together = np.corrcoef(flats[0].ravel(), flats[1].ravel())[0, 1]
    assert abs(together) < 0.02


def test_counters_count_the_same_photons():
    settings = PhotonCountingSettings(kind="counter", n_flats=400, gain_sigma=0.0, white_counts=500.0)
    flats, _ = simulate_fields(settings, 8, 8)
    assert (flats[0] >= flats[1]).all()
    np.testing.assert_allclose((flats.var(axis=1) / flats.mean(axis=1)).mean(axis=(1, 2)), 1.0, atol=0.03)
    share = settings.response.weights[1].sum()
    assert np.corrcoef(flats[0].ravel(), flats[1].ravel())[0, 1] == pytest.approx(math.sqrt(share), abs=0.02)


def test_bad_pixels_show():
    settings = PhotonCountingSettings(dead_share=0.05, hot_share=0.05)
    panel = make_panel(settings, 10, 20)
    assert panel.dead.sum() == panel.hot.sum() == 10
    assert not (panel.dead & panel.hot).any()
    flats, darks = simulate_fields(settings, 10, 20)
    assert not flats[:, :, panel.dead].any()
    assert (darks[:, :, panel.hot] > 0).all()
    assert not darks[:, :, ~panel.hot].any()


def test_a_full_counter_stops():
    flats, _ = simulate_fields(PhotonCountingSettings(white_counts=3e5), 4, 4)
    assert (flats == FULL_COUNTER).all()


def test_a_wide_focal_spot_blurs_edges_and_keeps_the_sum():
    geometry = orbit(n_views=1, n_rows=8, n_cols=64, pitch=0.5)
    point = expected_counts(water_cylinder(), geometry, QUIET, 0)
    spot = replace(QUIET, focal_spot_mm=2.0, focal_spot_samples=4)
    wide = expected_counts(water_cylinder(), geometry, spot, 0)

    def steepest(counts):
        return np.abs(np.diff(counts[0, 4])).max()

    assert steepest(wide) < 0.8 * steepest(point)
    assert wide.sum() == pytest.approx(point.sum(), rel=1e-3)
    np.testing.assert_allclose(expected_counts(water_cylinder(), geometry, replace(spot, focal_spot_mm=0.0), 0), point)


def test_truth_volume_is_what_the_bins_see():
    phantom, response = marker_specimen(10.0), QUIET.response
    mu = {m.name: response.effective_mu_per_mm(m) for m, _ in phantom.parts}
    volume = phantom.sample_bins(VolumeGrid.cubic(41, 0.5), mu)
    assert volume.shape == (2, 41, 41, 41)

    def at(x, y, z):
        return volume[:, round(z / 0.5) + 20, round(y / 0.5) + 20, round(x / 0.5) + 20]

    np.testing.assert_allclose(at(-5, 0, 0), mu["water"], rtol=1e-5)
    np.testing.assert_allclose(at(5, 0, -1), mu["bone"], rtol=1e-5)
    np.testing.assert_allclose(at(0, 4, -0.5), mu["iodine solution"], rtol=1e-5)
    np.testing.assert_allclose(at(3.5, 3.5, 3), 0.0, atol=1e-8)
    assert set(mu) <= {*MATERIALS, "iodine solution"}


def test_specimen_lies_in_its_radius_and_holds_no_negative_material():
    specimen = marker_specimen(10.0)
    for _, part in specimen.parts:
        assert isinstance(part, Phantom)
        for shape in part.shapes:
            half = shape.bounding_half_size_mm()
            assert math.hypot(abs(shape.center_mm[0]) + half[0], abs(shape.center_mm[2]) + half[2]) <= 10.0
    paths = specimen.path_lengths_mm(orbit().poses[0], 12, 16)
    assert paths.min() >= 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"white_counts": 0.0}, "white_counts must be positive"),
        ({"dead_share": -0.1}, "dead_share must not be negative"),
        ({"dead_share": 0.4, "hot_share": 0.2}, "at most half"),
        ({"n_flats": 0}, "at least 1"),
        ({"thresholds_kev": (60.0, 30.0)}, "thresholds must rise"),
        ({"resolution_kev": -1.0}, "resolution must not be negative"),
    ],
)
def test_setting_refusals(changes, message):
    with pytest.raises(ParameterError, match=message):
        PhotonCountingSettings(**changes)
