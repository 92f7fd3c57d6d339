# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ingest.angles import read_angles_deg, read_numbers
from ingest.config import find_description, load_description, read_description
from ingest.describe import default_scan_id, describe_scan
from ingest.described_geometry import build_geometry
from ingest.errors import ScanDescriptionError
from ingest.manifest import scan_from_json, scan_to_json
from ingest.panel import place_panel
from ingest.readers import SourceOptions
from ingest.scan import EnergyBin, Exposure, ParallelBeam
from tests.support.scans import make_geometry, make_scan

if TYPE_CHECKING:
    from pathlib import Path

CIRCULAR = '[geometry]\nkind = "circular"\nsod_mm = 100\nsdd_mm = 200.0\npitch_mm = 0.2\n'


def described(folder: Path, text: str, **options):
    (folder / "scan.toml").write_text(text, encoding="utf-8")
    return load_description(folder, SourceOptions(), **options)


def geometry(folder: Path, text: str, n_views=6, n_rows=4, n_cols=8, **options):
    return build_geometry(described(folder, text, **options), n_views, n_rows, n_cols)


def test_every_section_is_read(tmp_path):
    description = described(
        tmp_path,
        """
[scan]
id = "stone-1"
acquired = "2026-03-01T10:00:00"
content = "counts"
manufacturer = "MARS"
[files]
projections = "p.npy"
flats = "f.npy"
[geometry]
kind = "circular"
sod_mm = 100
sdd_mm = 200
pitch_mm = 0.11
arc_deg = 360
[[bins]]
low_kev = 20
high_kev = 30
[[bins]]
low_kev = 30
[exposure]
kvp = 120
filter_material = "Al"
[subject]
kind = "specimen"
identifier = "S1"
[order]
accession_number = "A1"
""",
    )
    scan = describe_scan(
        description, tmp_path, source_format="array", pixel_type="uint16", n_views=6, n_rows=4, n_cols=8, n_bins=2,
        exposure=Exposure(kvp=99.0, tube_current_ma=0.1),
    )  # fmt: skip
    assert scan.scan_id == "stone-1"
    assert scan.bins == (EnergyBin(0, "difference", 20.0, 30.0), EnergyBin(1, "counter", 30.0))
    assert scan.exposure == Exposure(kvp=120.0, tube_current_ma=0.1, filter_material="Al")
    assert scan.subject.identifier == "S1"
    assert scan.order.accession_number == "A1"
    assert scan.geometry is not None
    assert scan.geometry.pitch_mm == pytest.approx((0.11, 0.11))


def test_json_says_the_same(tmp_path):
    (tmp_path / "scan.json").write_text(json.dumps({"scan": {"id": "a"}, "geometry": {"kind": "parallel"}}))
    description = load_description(tmp_path, SourceOptions())
    assert description.scan.id == "a"
    assert description.geometry.kind == "parallel"


def test_it_is_found_in_the_folder_then_beside(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    assert find_description(folder) is None
    (tmp_path / "scan.toml").touch()
    assert find_description(folder) == tmp_path / "scan.toml"
    assert find_description(tmp_path / "x.npy") == tmp_path / "scan.toml"
    (folder / "scan.json").touch()
    assert find_description(folder) == folder / "scan.json"
    (folder / "scan.toml").touch()
    with pytest.raises(ScanDescriptionError, match="both"):
        find_description(folder)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[scan]\nid = 3", r"\[scan\] id must be a text, got 3"),
        ("[scan]\nname = 'x'", r"\[scan\] has the unknown key 'name'"),
        ("[scanner]", "unknown key 'scanner'"),
        ("scan = 3", r"\[scan\] must be a table"),
        ("[scan", "is not a TOML file"),
        ("[geometry]\nkind = 'helical'", r"kind must be one of 'circular', 'poses', 'parallel', got 'helical'"),
        ("[geometry]\nsod_mm = 'far'", "sod_mm must be a number, got 'far'"),
        ("[geometry]\nsod_mm = nan", "sod_mm must be a finite number"),
        ("[geometry]\nangles_deg = [1, 'x']", r"angles_deg\[1\] must be a number"),
        ("[[bins]]\nlow_kev = 30\nhigh_kev = 20", r"\[\[bins\]\] 0: energy bin 0 must end above"),
        ("[bins]\nlow_kev = 30", "must be a list of tables"),
        ("[exposure]\nkvp = -1", r"\[exposure\]: kvp must be a positive number"),
        ("[subject]\nsex = 'X'", r"\[subject\] sex must be one of"),
        ("[order]\nstudy_uid = 'x'", "DICOM UID"),
        ("[settings]\nbin_pixels = 2", r"'bin_pixels' belongs in \[scan\]"),
        ("[settings]\nspeed = 2", "unknown key 'speed'"),
        ("[scan]\nbin_pixels = 0", "bin_pixels must be at least 1"),
    ],
)
def test_mistakes_are_refused_with_file_and_key(tmp_path, text, sentence):
    with pytest.raises(ScanDescriptionError, match=sentence) as error:
        described(tmp_path, text)
    assert "scan.toml" in str(error.value)


@pytest.mark.parametrize("missing", ["sod_mm", "sdd_mm", "pitch_mm"])
def test_a_missing_number_is_named(tmp_path, missing):
    text = "\n".join(line for line in CIRCULAR.splitlines() if not line.startswith(missing)) + "\narc_deg = 360"
    with pytest.raises(ScanDescriptionError, match=f"needs {missing.replace('pitch_', 'pitch_u_')}"):
        geometry(tmp_path, text)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ("", "exactly one of angles_deg, angles_file, angle_step_deg, arc_deg, got none"),
        ("arc_deg = 360\nangle_step_deg = 1", "got angle_step_deg and arc_deg"),
        ("angles_deg = [0, 1, 2]", "got 3 angles for 6 views"),
        ("arc_deg = 360\nsense = 'clockwise'\ntable_turns = 'clockwise'", "not both"),
        ("arc_deg = 360\noffset_u_mm = 1\ncenter_col = 3", "offset_u_mm or center_col, not both"),
        ("arc_deg = 360\nposes_file = 'p.npy'", "does not take the key 'poses_file'"),
        ("angles_file = 'none.txt'", "none.txt cannot be read"),
    ],
)
def test_angles_and_offsets_must_agree(tmp_path, extra, sentence):
    with pytest.raises(ScanDescriptionError, match=sentence):
        geometry(tmp_path, CIRCULAR + extra)


def test_impossible_lengths_name_the_file(tmp_path):
    with pytest.raises(ScanDescriptionError, match=r"scan\.toml: \[geometry\]: the detector must lie behind"):
        geometry(tmp_path, CIRCULAR.replace("200.0", "50.0") + "arc_deg = 360")


@pytest.mark.parametrize(
    ("extra", "beta_deg"),
    [
        ("arc_deg = 360", [0, 60, 120, 180, 240, 300]),
        ("angle_start_deg = 5\nangle_step_deg = 2", [5, 7, 9, 11, 13, 15]),
        ("angles_deg = [0, 1, 4, 9, 16, 25]", [0, 1, 4, 9, 16, 25]),
        ("arc_deg = 360\nsense = 'counter-clockwise'", [0, 60, 120, 180, 240, 300]),
        ("arc_deg = 360\nsense = 'clockwise'", [0, -60, -120, -180, -240, -300]),
        ("arc_deg = 360\ntable_turns = 'counter-clockwise'", [0, -60, -120, -180, -240, -300]),
        ("arc_deg = 360\ntable_turns = 'clockwise'", [0, 60, 120, 180, 240, 300]),
    ],
)
def test_angles_become_beta(tmp_path, extra, beta_deg):
    made = geometry(tmp_path, CIRCULAR + extra)
    beta = np.deg2rad(beta_deg)
    np.testing.assert_allclose(made.poses[:, 0:2], 100 * np.stack([np.cos(beta), np.sin(beta)], 1), atol=1e-12)


@pytest.mark.parametrize(
    ("extra", "center_col", "center_row"),
    [
        ("", 3.5, 1.5),
        ("center_col = 3.25\ncenter_row = 1.0", 3.25, 1.0),
        ("offset_u_mm = 0.2\noffset_v_mm = -0.4", 2.5, 3.5),
        ("center_col = 3.0\ncols = 'right-to-left'", 4.0, 1.5),
        ("center_row = 1.0\nrows = 'top-down'", 3.5, 2.0),
    ],
)
def test_centres_count_in_the_files_own_order(tmp_path, extra, center_col, center_row):
    orbit = geometry(tmp_path, CIRCULAR + "arc_deg = 360\nz_mm = 7\n" + extra).circular_orbit
    assert orbit is not None
    assert orbit.center_col == pytest.approx(center_col)
    assert orbit.center_row == pytest.approx(center_row)
    assert orbit.z_mm == pytest.approx(7)


def test_the_readers_default_row_order_holds_unless_described(tmp_path):
    assert described(tmp_path, CIRCULAR, rows="top-down").rows == "top-down"
    assert described(tmp_path, CIRCULAR + "rows = 'bottom-up'", rows="top-down").rows == "bottom-up"


@pytest.mark.parametrize("name", ["poses.npy", "poses.csv"])
def test_poses_come_exactly(tmp_path, name):
    poses = make_geometry(offset_u_mm=1 / 3).poses
    if name.endswith("npy"):
        np.save(tmp_path / name, poses)
    else:
        rows = [",".join(repr(float(value)) for value in row) for row in poses]
        (tmp_path / name).write_text("\n".join(rows))
    made = geometry(tmp_path, f"[geometry]\nkind = 'poses'\nposes_file = '{name}'\n")
    np.testing.assert_array_equal(made.poses, poses)
    with pytest.raises(ScanDescriptionError, match="got 6 poses for 7 views"):
        build_geometry(load_description(tmp_path, SourceOptions()), 7, 4, 8)


def test_a_parallel_beam(tmp_path):
    made = geometry(tmp_path, "[geometry]\nkind = 'parallel'\narc_deg = 180\npitch_mm = 0.01\n")
    assert isinstance(made, ParallelBeam)
    assert made.angles_rad[3] == pytest.approx(math.pi / 2)
    assert made.pitch_v_mm == 0.01


def test_no_geometry_is_none(tmp_path):
    assert geometry(tmp_path, "[geometry]\nrows = 'top-down'\n") is None
    assert geometry(tmp_path, "") is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "# degrees\n0\n1.5\n3\n"),
        ("a.ang", "Projection\tAngle(deg)\n1:\t0.0\n2:\t1.5\n3:\t3.0\n"),
        ("a.csv", "view,angle\n0,0\n1,1.5\n2,3\n"),
        ("a.txt", "0 1.5 3 4.5"),
    ],
)
def test_tables_of_angles(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    np.testing.assert_array_equal(read_angles_deg(tmp_path / name)[:3], [0, 1.5, 3])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("1:\t0\n3:\t1\n", "do not go on by one after 1"),
        ("0\nlast\n", "line 2: 'last' is not numbers"),
        ("0 1\n2\n", "line 2: got 1 numbers, expected 2"),
        ("", "holds no numbers"),
        ("nan\n", "not finite"),
    ],
)
def test_malformed_tables_are_refused_by_line(tmp_path, content, sentence):
    (tmp_path / "a.ang").write_text(content)
    with pytest.raises(ScanDescriptionError, match=sentence):
        read_angles_deg(tmp_path / "a.ang")


def test_pickles_are_never_opened(tmp_path):
    np.save(tmp_path / "p.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ScanDescriptionError, match="not a NumPy array of numbers"):
        read_numbers(tmp_path / "p.npy")


def test_the_users_options_win(tmp_path):
    (tmp_path / "other.toml").write_text("[scan]\nid = 'a'\nbin_pixels = 2\n[settings]\nspeed = 1\n")
    options = SourceOptions("b", {"bin_pixels": 4, "speed": 2}, tmp_path / "other.toml")
    description = load_description(tmp_path / "absent", options, known_settings=("speed",))
    assert (description.scan.id, description.scan.bin_pixels, description.settings) == ("b", 4, {"speed": 2})
    with pytest.raises(ScanDescriptionError, match="setting bin_pixels must be a whole number"):
        load_description(tmp_path, SourceOptions(settings={"bin_pixels": "many"}))


def test_the_default_scan_id_comes_from_the_name(tmp_path):
    folder = tmp_path / "Größe 3.5 (b)"
    folder.mkdir()
    assert default_scan_id(folder) == "Gr-e-3.5-b"
    assert default_scan_id(tmp_path / "scan 1.npy") == "scan-1"
    assert default_scan_id(tmp_path / "...") == "scan"


def test_a_description_replaces_the_files_geometry_and_says_so(tmp_path):
    description = described(tmp_path, CIRCULAR + "arc_deg = 360\n")
    scan = describe_scan(
        description, tmp_path, source_format="nikon", pixel_type="uint16", n_views=6, n_rows=4, n_cols=8,
        geometry=make_geometry(sod_mm=50.0),
    )  # fmt: skip
    assert scan.geometry.sod_mm == pytest.approx(100)
    assert "not of the nikon files" in scan.notes[0]


def test_energy_bins_must_be_as_many_as_the_frames_have(tmp_path):
    description = described(tmp_path, "[[bins]]\nlow_kev = 20\n")
    with pytest.raises(ScanDescriptionError, match="got 1 energy bins for frames with 2"):
        describe_scan(
            description, tmp_path, source_format="array", pixel_type="uint16", n_views=6, n_rows=4, n_cols=8, n_bins=2
        )


def test_a_description_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ScanDescriptionError, match=r"none\.toml cannot be read"):
        read_description(tmp_path / "none.toml")


def placed(folder: Path, text: str, made=None):
    return describe_scan(
        described(folder, "[geometry]\n" + text), folder, source_format="nikon", pixel_type="uint16", n_views=6,
        n_rows=4, n_cols=8, geometry=made,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "center_col", "center_row"),
    [
        ("center_col = 3.25", 3.25, 2.5),
        ("center_col = 3.0\ncols = 'right-to-left'", 4.0, 2.5),
        ("center_row = 1.0\nrows = 'top-down'", 2.5, 2.0),
        ("offset_u_mm = 0.0\noffset_v_mm = 0.0", 3.5, 1.5),
        ("rows = 'top-down'", 2.5, 2.5),
    ],
)
def test_without_a_kind_the_panel_of_the_files_geometry_is_corrected(tmp_path, text, center_col, center_row):
    files = make_geometry(n_rows=4, n_cols=8)
    pitch_v, pitch_u = files.pitch_mm
    files = place_panel(files, offset_u_mm=pitch_u, offset_v_mm=-pitch_v)
    scan = placed(tmp_path, text, files)
    orbit = scan.geometry.circular_orbit
    assert (orbit.center_col, orbit.center_row) == pytest.approx((center_col, center_row))
    assert (orbit.sod_mm, orbit.sdd_mm) == pytest.approx((files.sod_mm, files.sdd_mm))
    assert any("overrides what the nikon files say" in note for note in scan.notes) == ("_" in text)


def test_a_roll_is_taken_with_and_without_a_kind(tmp_path):
    lean = math.radians(0.5)
    files = make_geometry(n_rows=4, n_cols=8)
    for made in (
        placed(tmp_path, "roll_deg = 0.5", files).geometry,
        geometry(tmp_path, CIRCULAR + "arc_deg = 360\nroll_deg = 0.5\ncenter_col = 3.0"),
    ):
        assert made.circular_orbit is None
        assert place_panel(made, roll_rad=0.0).circular_orbit is not None
        np.testing.assert_allclose(made.poses[:, 8] / np.linalg.norm(made.poses[:, 6:9], axis=1), math.sin(lean))


@pytest.mark.parametrize(
    ("text", "made", "sentence"),
    [
        ("sod_mm = 100", make_geometry(n_rows=4, n_cols=8), "without a kind does not take the key 'sod_mm': of the n"),
        ("arc_deg = 180", make_geometry(n_rows=4, n_cols=8), "without a kind does not take the key 'arc_deg'"),
        ("sense = 'clockwise'", make_geometry(n_rows=4, n_cols=8), "does not take the key 'sense'"),
        ("center_col = 3\noffset_u_mm = 1", make_geometry(n_rows=4, n_cols=8), "offset_u_mm or center_col, not both"),
        ("center_col = 3", None, "has 'center_col' but no kind, and the nikon files give no geometry"),
        ("roll_deg = 3", ParallelBeam((0.0,) * 6), "has 'roll_deg' but no kind, and the nikon files give a parallel"),
        ("sense = 'clockwise'\ntable_turns = 'clockwise'", None, "not both"),
    ],
)
def test_without_a_kind_what_would_be_ignored_is_refused(tmp_path, text, made, sentence):
    with pytest.raises(ScanDescriptionError, match=sentence) as error:
        placed(tmp_path, text, made)
    assert "scan.toml: [geometry]" in str(error.value)


@pytest.mark.parametrize(
    ("cols", "expected"), [("left-to-right", ((2, 3), (5, 7))), ("right-to-left", ((1, 3), (5, 6)))]
)
def test_gaps_between_chips_count_columns_as_they_are_stored(tmp_path, cols, expected):
    text = f'{CIRCULAR}arc_deg = 360\ncolumn_gaps = [[2, 3], [5, 7]]\ncols = "{cols}"\n'
    built = geometry(tmp_path, text)
    assert built.column_gaps == expected
    assert scan_from_json(json.loads(json.dumps(scan_to_json(make_scan(geometry=built))))).geometry == built


def test_gaps_beyond_the_panel_are_refused(tmp_path):
    with pytest.raises(
        ScanDescriptionError, match=r"scan.toml: \[geometry\]: column gaps must be ascending and lie on"
    ):
        geometry(tmp_path, f"{CIRCULAR}arc_deg = 360\ncolumn_gaps = [[6, 9]]\n")
