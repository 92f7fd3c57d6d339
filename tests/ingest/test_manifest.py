# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
from hypothesis import given, settings

from ingest.errors import ScanDescriptionError
from ingest.manifest import (
    canonical_json,
    manifest_bytes,
    manifest_sha256,
    scan_from_bytes,
    scan_from_json,
    scan_to_json,
)
from ingest.scan import EnergyBin, Exposure
from tests.support.scans import make_geometry, make_scan, scans


@settings(max_examples=40, deadline=None)
@given(scans())
def test_a_scan_comes_back_as_it_was(scan):
    content = manifest_bytes(scan)
    back = scan_from_bytes(content)
    assert back == scan
    assert manifest_bytes(back) == content


def test_poses_survive_to_the_bit():
    angles = np.nextafter(np.linspace(0.1, 6.0, 6), 7)
    geometry = make_geometry(angles_rad=angles, offset_u_mm=-0.1 / 3)
    back = scan_from_bytes(manifest_bytes(make_scan(geometry=geometry)))
    assert back.geometry.poses.tobytes() == geometry.poses.tobytes()


def test_the_bytes_are_canonical():
    content = manifest_bytes(make_scan(manufacturer="Größe"))
    assert content.endswith(b"}\n")
    assert b'": ' not in content
    assert "Größe".encode() in content
    keys = list(json.loads(content))
    assert keys == sorted(keys)


def test_the_sha256_names_the_scan_not_how_it_was_written():
    whole = make_scan(exposure=Exposure(kvp=120), bins=(EnergyBin(0, "difference", 30, 45),))
    real = make_scan(exposure=Exposure(kvp=120.0), bins=(EnergyBin(0, "difference", 30.0, np.float64(45.0)),))
    assert manifest_sha256(whole) == manifest_sha256(real)
    assert manifest_sha256(whole) != manifest_sha256(make_scan())


def test_the_sha256_never_changes():
    # A change of the canonical form renames every series that was ever made: raise the schema version then.
    assert manifest_sha256(make_scan()) == "bb94877996108d348086ddf9516a760295dba8dd45191e4d0dfd481e59adddee"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"schema_version": 2}, "schema version 2 is not read here, expected 1"),
        ({"schema_version": True}, "schema version True"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"n_views": "6"}, "n_views must be a whole number, got '6'"),
        ({"n_views": 6.0}, "n_views must be a whole number"),
        ({"content": "photons"}, "content must be one of"),
        ({"bins": {}}, "bins must be a list"),
        ({"bins": [{"index": 0, "hue": 1}]}, "unknown key 'hue'"),
        ({"exposure": None}, "exposure must be a table"),
        ({"geometry": {"n_rows": 4, "n_cols": 8}}, "lacks the key 'poses'"),
        ({"geometry": {"n_rows": 4, "n_cols": 8, "poses": [[1, 2]]}}, "poses need the shape"),
        ({"geometry": {"n_rows": 4, "n_cols": 8, "poses": "many"}}, "geometry"),
        ({"notes": "one"}, "notes must be a list"),
    ],
)
def test_a_malformed_manifest_is_refused_by_name(change, sentence):
    values = scan_to_json(make_scan()) | change
    with pytest.raises(ScanDescriptionError, match=sentence) as error:
        scan_from_json(values, "memory:manifest.json")
    assert "memory:manifest.json" in str(error.value)


def test_a_missing_key_is_refused_by_name():
    values = scan_to_json(make_scan())
    del values["n_rows"]
    with pytest.raises(ScanDescriptionError, match="lacks the key 'n_rows'"):
        scan_from_json(values)


def test_what_is_not_json_is_refused():
    with pytest.raises(ScanDescriptionError, match=r"m\.json is not JSON"):
        scan_from_bytes(b"{", "m.json")


def test_nan_never_enters_a_manifest():
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json({"x": float("nan")})
