# SPDX-License-Identifier: Apache-2.0
"""Inspection says what geometry, views and pixels mean, and names what is wrong."""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from ingest.chunks import open_scan_chunks
from ingest.draw import draw_geometry, draw_projection
from ingest.errors import FrameFormatError, IncompleteScanError, IngestError
from ingest.inspect import inspect_source, inspect_stored, inspection_table
from ingest.inspect_faults import described_findings
from ingest.inspect_geometry import geometry_facts
from ingest.readers import SourceOptions, open_source
from ingest.scan import ParallelBeam
from ingest.upload import upload
from reconstruction.geometry import ConeBeamGeometry
from reconstruction.phantom import uniform_cylinder
from reconstruction.projector import forward_project
from tests.support import orbits
from tests.support.fake_reader import FakeReader, random_reader, small_scan
from tests.support.fake_store import FakeStore
from tests.support.peers import real_data_path


def circle(n_views=90, arc_deg=360.0, n_cols=100, **changes) -> ConeBeamGeometry:
    arguments = {
        "sod_mm": 200.0,
        "sdd_mm": 300.0,
        "angles_rad": np.radians(arc_deg) * np.arange(n_views) / n_views,
        "n_rows": 80,
        "n_cols": n_cols,
        "pitch_u_mm": 0.3,
        "pitch_v_mm": 0.2,
    }
    return ConeBeamGeometry.circular(**(arguments | changes))


def shadow_reader(*, width=20, n_views=200, n_cols=100, n_rows=80, **changes) -> FakeReader:
    """Counts of 1000 with flats, a shadow of that width in the middle."""
    scan = small_scan(
        n_views=n_views, n_bins=1, n_rows=n_rows, n_cols=n_cols,
        geometry=circle(n_views, n_cols=n_cols, n_rows=n_rows), **changes,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    mean = np.full((n_rows, n_cols), 1000.0)
    mean[:, (n_cols - width) // 2 : (n_cols + width) // 2] = 300.0
    frames = rng.poisson(mean, size=(1, n_views, n_rows, n_cols)).astype(np.uint16)
    flats = rng.poisson(1000.0, size=(1, 5, n_rows, n_cols)).astype(np.uint16)
    darks = rng.poisson(2.0, size=(1, 5, n_rows, n_cols)).astype(np.uint16)
    return FakeReader(scan, frames, flats=flats, darks=darks)


def texts(inspection, severity=None) -> str:
    return "\n".join(f.text for f in inspection.findings if severity in (None, f.severity))


def test_geometry_in_numbers():
    facts = geometry_facts(circle(offset_u_mm=3.0))
    assert facts.is_circular
    assert facts.is_full_turn
    assert facts.sense == "counter-clockwise"
    assert facts.magnification == pytest.approx(1.5)
    assert facts.voxel_mm == pytest.approx((0.2 / 1.5, 0.3 / 1.5))
    assert facts.field_radius_mm == pytest.approx(200 * math.sin(math.atan(12 / 300)))
    assert facts.reach_radius_mm == pytest.approx(200 * math.sin(math.atan(18 / 300)))
    assert facts.field_height_mm == pytest.approx(80 * 0.2 / 1.5)
    assert facts.cone_angle_deg == pytest.approx(2 * math.degrees(math.atan(8 / 300)), rel=1e-3)
    assert facts.fan_angle_deg == pytest.approx(math.degrees(math.atan(12 / 300) + math.atan(18 / 300)))
    assert facts.center_col == pytest.approx(49.5 - 10)
    assert (facts.step_deg, facts.step_deviation_deg) == pytest.approx((4.0, 0.0), abs=1e-9)


def test_geometry_of_a_table_that_turns_the_other_way_and_of_one_view():
    assert geometry_facts(circle(arc_deg=-180)).sense == "clockwise"
    assert geometry_facts(circle(arc_deg=-180)).arc_deg == pytest.approx(180)
    assert geometry_facts(circle(1)).sense == "one view"
    assert geometry_facts(circle(offset_u_mm=20.0)).field_radius_mm < 0


def test_a_sound_scan_has_no_findings():
    inspection = inspect_source(shadow_reader())
    assert inspection.findings == ()
    assert inspection.sampled_views[0] == 0
    assert len(inspection.sampled_views) == 12
    found = inspection.bins[0]
    assert found.label == ">20 keV"
    low, median, high = found.percentiles
    assert low < 330 < 950 < median < high <= found.statistics.maximum
    assert found.statistics.n_zeros == 0
    assert json.loads(json.dumps(inspection.to_json()))["geometry"]["magnification"] == pytest.approx(1.5)
    labels = dict(inspection_table(inspection))
    assert labels["views"] == "200 of 200"
    assert labels["magnification"] == "1.5000"
    assert "50, 99 %" in labels["bin 0: >20 keV"]


def test_a_stored_scan_is_inspected_like_its_source():
    reader, store = shadow_reader(), FakeStore()
    reader.bad_pixels = np.zeros((80, 100), dtype=bool)
    reader.bad_pixels[3, 4] = True
    upload(reader, store, memory_bytes=1_000_000)
    stored = open_scan_chunks(store, "stone-1")
    inspection, source = inspect_stored(stored), inspect_source(reader, sample_views=4)
    assert inspection.bins == source.bins
    assert inspection.findings == source.findings
    assert inspection.geometry == source.geometry
    assert inspection.bins[0].faults.n_known == 1
    assert inspection.manifest_sha256 == stored.manifest_sha256
    assert "stored" in dict(inspection_table(inspection))
    plain = FakeStore()
    upload(random_reader(fields=False), plain)
    assert "there are no flat frames" in texts(inspect_stored(open_scan_chunks(plain, "stone-1")), "fault")


def spoil_pixels(reader) -> None:
    reader.frames[:, :, 10, 10] = 0
    reader.flats[:, :, 10, 10] = 0
    reader.flats[:, :, 20, 20:22] = 9000
    reader.darks[:, :, 30, 30] = 500


def set_scan(**changes):
    return lambda reader: setattr(reader, "scan", replace(reader.scan, **changes))


@pytest.mark.parametrize(
    ("spoil", "severity", "message"),
    [
        (lambda r: setattr(r, "limit", 150), "fault", "150 of 200 views are there"),
        (spoil_pixels, "remark", "bin 0: 1 dead pixels that the mask of bad pixels does not name"),
        (spoil_pixels, "remark", "bin 0: 3 hot pixels that the mask"),
        (lambda r: r.frames.__setitem__((0, slice(None), 5), 65535), "fault", "bin 0: 1.25% of the pixels are saturat"),
        (lambda r: r.frames.__setitem__((0, slice(None), slice(5)), 0), "fault", "of the pixels counted nothing"),
        (lambda r: r.frames.fill(7), "fault", "bin 0: every pixel is 7"),
        (lambda r: r.frames.__setitem__((..., slice(0, 60)), 300), "fault", "the sample covers the first columns"),
        (set_scan(geometry=None), "fault", "there is no geometry"),
        (set_scan(geometry=None, parallel=ParallelBeam(tuple(range(200)))), "remark", "the beam is parallel"),
        (set_scan(geometry=circle(200, 181.0)), "remark", "the views cover 181.00 degrees, not a full turn"),
        (set_scan(geometry=circle(200, offset_u_mm=5.0)), "remark", "the panel is offset"),
        (set_scan(geometry=circle(200, offset_u_mm=16.0)), "fault", "does not see the rotation axis on both sides"),
        (set_scan(geometry=circle(200, angles_rad=np.linspace(0, 2.4, 200) ** 2)), "remark", "not evenly spaced"),
    ],
)  # fmt: skip
def test_faults_are_named(spoil, severity, message):
    reader = shadow_reader()
    spoil(reader)
    inspection = inspect_source(reader)
    assert message in texts(inspection, severity)
    order = [finding.severity for finding in inspection.findings]
    assert all(one <= other for one, other in pairwise(order))


def test_too_few_views_and_general_poses_are_remarked():
    reader = shadow_reader(n_views=40)
    poses = reader.scan.geometry.poses.copy()
    poses[7, 5] += 1.0
    reader.scan = replace(reader.scan, geometry=ConeBeamGeometry(poses, 80, 100))
    found = texts(inspect_source(reader), "remark")
    assert "40 views are few for 100 columns" in found
    assert "pi/2 x 100 = 158" in found
    assert "not exactly those of one circle" in found


@pytest.mark.parametrize(
    ("geometry", "orbit", "height_mm"),
    [
        (orbits.stack((-6.0, 6.0), orbits.degrees(0, 360, 2)), "2 circles along the axis", 27.0),
        (orbits.helix(2.0, 180, 9.0), "helix of 2 turns", 33.0),
        (orbits.stepped((-24.0, 0.0, 24.0), (0.0,) * 3, 180, n_cols=36), "circle, 3 camera positions side by side", 15),
        (
            orbits.stepped((-24.0, 0.0, 24.0), (0.0, 0.3, 0.6), 180, n_cols=36),
            "circle, 3 camera positions at angles of their own",
            15.0,
        ),
        (orbits.tilted(orbits.circle(orbits.degrees(0, 360, 2)), roll_deg=3.0), "circle, tilted panels", 15.0),
    ],
)
def test_orbits_are_known_and_are_no_faults(geometry, orbit, height_mm):
    """A specimen that fits the field: inner camera positions and short circles see only a part of it."""
    scan = small_scan(
        n_views=geometry.n_views, n_bins=1, n_rows=geometry.n_rows, n_cols=geometry.n_cols, geometry=geometry,
        content="line_integrals", pixel_type="float32",
    )  # fmt: skip
    lines = forward_project(uniform_cylinder(10.0, 100.0, 0.05), geometry)
    inspection = inspect_source(FakeReader(scan, lines[None]))
    facts = inspection.geometry
    assert facts.orbit == orbit
    assert facts.is_full_turn
    assert facts.field_radius_mm > 20.0
    assert facts.field_height_mm == pytest.approx(height_mm, rel=0.05)
    assert facts.views_per_turn == pytest.approx(180, rel=0.03)
    assert texts(inspection, "fault") == ""


def test_the_short_side_of_an_offset_panel_is_not_truncated():
    geometry = orbits.circle(orbits.degrees(0, 360, 2), offset_u_mm=30.0)
    scan = small_scan(
        n_views=180, n_bins=1, n_rows=30, n_cols=100, geometry=geometry, content="line_integrals", pixel_type="float32",
    )  # fmt: skip
    for radius, told in ((15.0, ""), (50.0, "last columns")):
        lines = forward_project(uniform_cylinder(radius, 100.0, 0.05), geometry)
        faults = texts(inspect_source(FakeReader(scan, lines[None])), "fault")
        assert "first columns" not in faults
        assert told in faults
        assert bool(faults) == bool(told)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"pitch_u_mm": 800.0, "pitch_v_mm": 800.0}, "a pixel pitch of 800 mm"),
        ({"sod_mm": 0.1, "sdd_mm": 0.16}, "a way of 0.16 mm from source to detector"),
        ({"angles_rad": np.radians(np.linspace(0, 6.28, 180))}, "angles are in degrees, not in radians"),
    ],
)
def test_other_units_are_suspected(values, told):
    geometry = orbits.circle(**({"angles_rad": orbits.degrees(0, 360, 2)} | values))
    scan = small_scan(n_views=180, n_bins=1, n_rows=30, n_cols=100, geometry=geometry)
    assert told in "; ".join(finding.text for finding in described_findings(scan, geometry_facts(geometry), 180))


@pytest.mark.parametrize("content", ["normalized", "line_integrals"])
def test_truncation_is_seen_without_flat_frames(content):
    scan = small_scan(
        n_views=200, n_bins=1, n_rows=80, n_cols=100, geometry=circle(200), content=content, pixel_type="float32",
        white_level=1000.0 if content == "normalized" else None,
    )  # fmt: skip
    white, dark = (1000.0, 300.0) if content == "normalized" else (0.0, 1.2)
    frames = np.full((1, 200, 80, 100), white, dtype=np.float32)
    frames[..., 40:] = dark
    found = texts(inspect_source(FakeReader(scan, frames)), "fault")
    assert "covers the last columns" in found
    assert "first columns" not in found


def test_what_cannot_be_inspected_is_refused():
    reader = shadow_reader()
    reader.limit = 0
    with pytest.raises(IncompleteScanError, match="none of its 200 views is there yet"):
        inspect_source(reader)
    bad = random_reader(pixel_type="float32")
    bad.frames[0, 0, 0, 0] = np.nan
    with pytest.raises(FrameFormatError, match=r"scan stone-1.*is nan"):
        inspect_source(bad)


def open_png(content: bytes) -> np.ndarray:
    assert content.startswith(b"\x89PNG\r\n")
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=int)


@pytest.mark.parametrize(
    "geometry", [circle(), circle(arc_deg=-200, offset_u_mm=4.0, z_mm=30.0), circle(sod_mm=20.0), circle(1)]
)
def test_the_geometry_is_drawn(geometry):
    scan = small_scan(n_views=geometry.n_views, n_rows=80, n_cols=100, geometry=geometry)
    picture = open_png(draw_geometry(scan))
    for color in ((0xD1, 0x49, 0x5B), (0x00, 0x79, 0x8C)):  # source and panel are there
        assert (np.abs(picture - color).sum(axis=2) < 20).sum() > 100


def test_the_same_scan_gives_the_same_picture():
    scan = small_scan()
    assert draw_geometry(scan) == draw_geometry(scan)


def test_a_projection_is_drawn_with_row_0_at_the_bottom():
    frame = np.full((60, 90), 500, dtype=np.uint16)
    frame[:20] = 100
    picture = open_png(draw_projection(frame, title="view 0"))
    height, width = picture.shape[:2]
    column = picture[:, width // 3].sum(axis=1)
    assert column[int(0.3 * height)] > 700  # bright above
    assert column[int(0.75 * height)] < 60  # dark below
    mask = np.zeros(frame.shape, dtype=bool)
    mask[30, 40] = True
    assert draw_projection(frame, bad_pixels=mask) != draw_projection(frame)
    open_png(draw_projection(np.zeros((1, 2000))))
    with pytest.raises(IngestError, match=r"axes \(row, col\), got the shape \(2, 2, 2\)"):
        draw_projection(np.zeros((2, 2, 2)))


def test_drawing_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(IngestError, match=r"drawing needs matplotlib.*conepacs\[draw\]"):
        draw_geometry(small_scan())
    with pytest.raises(IngestError, match="no cone-beam geometry to draw"):
        draw_geometry(replace(small_scan(), geometry=None))


@pytest.mark.real_data
def test_a_real_radiogram_is_inspected():
    source = real_data_path("nikon_radiogram") / "radiogram.xtekct"
    reader = open_source(source, options=SourceOptions(settings={"repeat_views": 720}))
    try:
        inspection = inspect_source(reader, sample_views=1)
    finally:
        reader.close()
    assert inspection.geometry is not None
    assert inspection.geometry.voxel_mm[0] == pytest.approx(0.0136, abs=1e-4)
    assert inspection.bins[0].statistics.maximum == 61097
    assert [finding.severity for finding in inspection.findings] == ["remark"]
