# SPDX-License-Identifier: Apache-2.0
"""The sample scan: always the same bytes, read by the array reader, and true to what it says it was made from."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from data_samples.make_sample import (
    MANIFEST_PATH,
    RADIUS_MM,
    describe_sample,
    file_digests,
    main,
    make_sample,
)
from ingest.readers import open_source
from reconstruction.correction import prepare_fields, to_line_integrals
from reconstruction.geometry import VolumeGrid


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("sample"), n_views=6, n_rows=24, n_cols=32)


def test_default_numbers_give_the_bytes_of_the_manifest(tmp_path):
    manifest = json.loads(MANIFEST_PATH.read_text(encoding="utf-8"))
    parameters = manifest["parameters"]
    truth = make_sample(tmp_path, **parameters)
    assert (truth.geometry.n_views, truth.geometry.n_rows, truth.geometry.n_cols) == (180, 96, 128)
    assert file_digests(tmp_path) == manifest["files"]
    assert manifest["licence"] == "Apache-2.0"


def test_the_array_reader_takes_it(small):
    reader = open_source(small.folder)
    try:
        scan = reader.scan
        assert scan.scan_id == "sample-marker"
        assert scan.source_format == "array"
        assert scan.content == "counts"
        assert [(b.kind, b.low_kev, b.high_kev) for b in scan.bins] == [
            ("difference", 30.0, 60.0), ("difference", 60.0, 120.0),
        ]  # fmt: skip
        np.testing.assert_allclose(scan.geometry.poses, small.geometry.poses, atol=1e-9)
        assert (scan.geometry.n_rows, scan.geometry.n_cols) == (24, 32)
        assert scan.subject.kind == "specimen"
        assert scan.exposure.kvp == 120.0
        stored = np.load(small.folder / "projections.npy")
        np.testing.assert_array_equal(reader.read_views(2, 5), stored[:, 2:5])
        assert reader.read_flats().shape == (2, 20, 24, 32)
        assert reader.read_darks().shape == (2, 4, 24, 32)
    finally:
        reader.close()


def test_the_panel_covers_the_specimen(small):
    orbit = small.geometry.circular_orbit
    assert orbit is not None
    assert small.geometry.is_full_turn
    shadow = orbit.sdd_mm * math.tan(math.asin(RADIUS_MM / orbit.sod_mm))
    assert (small.geometry.n_cols - 1) / 2 * orbit.pitch_u_mm >= shadow * 0.999
    reader_counts = np.load(small.folder / "projections.npy")
    flats = np.load(small.folder / "flats.npy")
    line_integrals, _ = to_line_integrals(reader_counts[0], prepare_fields(flats[0], None))
    border = np.concatenate([line_integrals[:, [0, -1]].ravel(), line_integrals[:, :, [0, -1]].ravel()])
    assert np.abs(border).max() < 0.06
    assert line_integrals.max() > 0.4


def test_corrected_projections_follow_the_truth(small):
    """Every bad pixel is found, and the mean line integral through the specimen is the one of its materials."""
    counts, flats, darks = (np.load(small.folder / f"{name}.npy") for name in ("projections", "flats", "darks"))
    for index in range(2):
        correction = prepare_fields(flats[index], darks[index])
        np.testing.assert_array_equal(correction.bad, small.bad_pixels)
        line_integrals, report = to_line_integrals(counts[index], correction)
        assert report.n_floored == 0
        paths = small.phantom.path_lengths_mm(small.geometry.poses[3], 24, 32)
        mu = np.array([small.mu_in_specimen_per_mm[m.name][index] for m, _ in small.phantom.parts])
        expected = np.tensordot(mu, paths, axes=1)
        hit = (expected > 0.1) & ~correction.bad
        assert line_integrals[3][hit].mean() == pytest.approx(expected[hit].mean(), rel=0.01)


def test_truth_file_says_where_everything_is(small):
    truth = json.loads((small.folder / "truth.json").read_text(encoding="utf-8"))
    assert truth["bins_kev"] == [[30.0, 60.0], [60.0, 120.0]]
    assert {shape["name"] for shape in truth["shapes"]} == {
        "body", "bone ball", "iodine ball", "bone rod", "empty ball",
    }  # fmt: skip
    assert truth["mu_per_mm"]["water"] == pytest.approx(list(small.mu_per_mm["water"]), rel=1e-8)
    assert [tuple(place) for place in truth["bad_pixels_row_col"]] == [
        tuple(place) for place in np.argwhere(small.bad_pixels)
    ]
    volume = small.phantom.sample_bins(VolumeGrid.cubic(20, 1.0), small.mu_per_mm)
    assert volume[0].max() > volume[1].max() > 0.04


def test_description_agrees_with_what_is_made_and_seeds_differ(small, tmp_path):
    described = describe_sample(tmp_path, n_views=6, n_rows=24, n_cols=32)
    assert described.geometry == small.geometry
    np.testing.assert_array_equal(described.bad_pixels, small.bad_pixels)
    assert not list(tmp_path.iterdir())
    make_sample(tmp_path, seed=1, n_views=6, n_rows=24, n_cols=32)
    other, same = file_digests(tmp_path), file_digests(small.folder)
    assert other["projections.npy"] != same["projections.npy"]
    assert other["scan.toml"] == same["scan.toml"]


def test_command_line(tmp_path, capsys):
    assert main([str(tmp_path / "scan"), "--views", "4", "--rows", "16", "--cols", "20"]) == 0
    assert "sample-marker: 4 views" in capsys.readouterr().out
    assert np.load(tmp_path / "scan" / "projections.npy").shape == (2, 4, 16, 20)
