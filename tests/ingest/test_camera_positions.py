# SPDX-License-Identifier: Apache-2.0
"""Camera positions and their field frames: from the description to the chunk store and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from ingest.camera_positions import parse_views
from ingest.chunks import open_scan_chunks, read_manifest
from ingest.errors import (
    FrameFormatError,
    IncompleteScanError,
    IngestError,
    ScanConflictError,
    ScanDescriptionError,
)
from ingest.exchange_export import OpenedSource, export_scan
from ingest.inspect import inspect_source, inspect_stored, inspection_table
from ingest.manifest import manifest_bytes, manifest_sha256, scan_from_bytes
from ingest.readers import SourceOptions, open_source
from ingest.scan import FieldFrames
from ingest.sender import DEFAULT_STREAMS
from ingest.upload import upload
from reconstruction.orbits import camera_positions
from storage.filesystem import open_store
from tests.support.fake_reader import FakeReader, small_scan
from tests.support.hdf5_maker import write_nxtomo
from tests.support.orbits import stepped
from tests.support.scans import make_geometry, make_scan
from tests.support.stepped_scan import DARKS, N_DARKS, N_FLATS, OFFSETS_MM, PANEL, write_stepped_scan

#: Of a scan as it was before there were camera positions.
GOLDEN = "22db14a1c8740acfb981ddfd74fab14b4364d46a404d35fdeaaeebaef3e51221"


@pytest.fixture
def folder(tmp_path):
    write_stepped_scan(tmp_path / "scan", n_views=6)
    return tmp_path / "scan"


def rewrite(folder, *pairs):
    """Change the text of a scan.toml."""
    path = folder / "scan.toml"
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


def at_two(n_views=6, **changes):
    """A scan of two camera positions."""
    values = {
        "n_views": n_views, "camera_positions": tuple(view % 2 for view in range(n_views)),
        "flats": FieldFrames(5, position_counts=(2, 3)),
    }  # fmt: skip
    return make_scan(**(values | changes))


# The manifest


def test_a_scan_without_positions_keeps_its_bytes_and_name():
    """What this digest was before there were camera positions: UIDs derive from it."""
    scan = make_scan(geometry=make_geometry(), flats=FieldFrames(4), darks=FieldFrames(2, camera_position=1))
    assert manifest_sha256(scan) == GOLDEN
    values = json.loads(manifest_bytes(scan))
    assert "camera_positions" not in values
    assert values["darks"] == {"camera_position": 1, "count": 2, "times_s": None}


def test_positions_come_back_from_the_manifest():
    scan = at_two(darks=FieldFrames(4))
    assert scan_from_bytes(manifest_bytes(scan)) == scan
    assert scan.n_positions == 2
    assert scan.field_positions == (0, 1)
    assert scan.flats.frames_at(1) == (2, 5)
    assert scan.darks.frames_at(1) == (0, 4)
    assert manifest_sha256(scan) != manifest_sha256(replace(scan, camera_positions=(0, 0, 0, 1, 1, 1)))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: FieldFrames(5, position_counts=(2, 0, 3)),
            "camera position 1 has no flat or dark frames, while others",
        ),
        (lambda: FieldFrames(5, position_counts=(2, 2)), "4 flat or dark frames together, expected 5"),
        (lambda: FieldFrames(5, camera_position=1, position_counts=(2, 3)), "of one camera position, or of each"),
        (lambda: FieldFrames(5, position_counts=(2, 3)).frames_at(2), "0 to 1, asked for those of position 2"),
        (lambda: at_two(camera_positions=()), "not said at which position each view was taken"),
        (lambda: at_two(camera_positions=(0, 1)), "got camera positions for 2 of 6 views"),
        (lambda: at_two(camera_positions=(0, 2, 0, 2, 0, 2)), "numbered 0, 1, 2, ... and each have views, got 0, 2"),
        (lambda: at_two(camera_positions=(0, 1, 2, 0, 1, 2)), "flat frames of 2 camera positions, but the views were"),
    ],
)
def test_positions_that_contradict_each_other_are_refused(make, match):
    with pytest.raises(ScanDescriptionError, match=match):
        make()


# The description


def test_views_are_named_in_plain_text():
    assert parse_views("2:5, 0, 6:", 8, "x").tolist() == [2, 3, 4, 0, 6, 7]
    assert parse_views("1::3", 8, "x").tolist() == [1, 4, 7]
    assert parse_views((3, 1), 8, "x").tolist() == [3, 1]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("0:9", "ends at 9, but there are 8"), ("9", "names view 9, but the views are 0 to 7"), ((-1,), "view -1"),
        ("0:4, 3", "names view 3 twice"), ("all", "separated by commas, got 'all'"), ("", "got ''"),
        ("1:2:3:4", "separated by commas"), ("0:4:0", "step of at least 1"), ("5:5", "must name views, got none"),
    ],
)  # fmt: skip
def test_views_that_make_no_sense_are_refused(text, match):
    with pytest.raises(ScanDescriptionError, match=match):
        parse_views(text, 8, "scan.toml views")


def test_a_description_gives_each_position_its_place_angles_and_fields(folder):
    reader = open_source(folder)
    scan = reader.scan
    assert scan.camera_positions == (0,) * 6 + (1,) * 6
    assert scan.flats.position_counts == N_FLATS
    assert scan.darks.position_counts == N_DARKS
    expected = stepped(OFFSETS_MM, (0.0, 0.0), 6, **PANEL)
    np.testing.assert_allclose(scan.geometry.poses, expected.poses, atol=1e-12)
    for position in range(2):
        np.testing.assert_array_equal(reader.read_flats(position)[0], np.load(folder / f"flats{position}.npy"))
        assert (reader.read_darks(position) == DARKS[position]).all()
    assert reader.read_flats().shape[1] == sum(N_FLATS)


def test_center_col_counts_in_the_files_own_order(folder):
    rewrite(folder, ("offset_u_mm = -13.0", "center_col = 35.75"), ("kind =", 'cols = "right-to-left"\nkind ='))
    geometry = open_source(folder).scan.geometry
    np.testing.assert_allclose(geometry.poses[0, 3:6] - geometry.poses[6, 3:6], [0, 0, 0], atol=1e-9)


def test_positions_follow_from_the_poses_in_the_order_of_the_scan(folder):
    """The camera begins on the right: position 0 is where the first view was taken."""
    geometry = stepped(OFFSETS_MM[::-1], (0.0, 0.0), 6, **PANEL)
    np.save(folder / "poses.npy", geometry.poses)
    poses = '[geometry]\nkind = "poses"\nposes_file = "poses.npy"\n'
    tables = "".join(f'[[camera_positions]]\nflats = "flats{p}.npy"\n' for p in range(2))
    (folder / "scan.toml").write_text(f'[files]\nprojections = "projections.npy"\n{poses}{tables}')
    assert camera_positions(geometry).tolist() == [1] * 6 + [0] * 6
    scan = open_source(folder).scan
    assert scan.camera_positions == (0,) * 6 + (1,) * 6
    assert scan.darks is None
    rewrite(folder, (tables, tables + '[[camera_positions]]\nflats = "flats1.npy"\n'))
    with pytest.raises(
        ScanDescriptionError, match="has 3 tables, but the poses show 2 camera positions: name the views"
    ):
        open_source(folder)


def test_views_count_the_whole_series_missing_ones_included(tmp_path):
    for view in (0, 1, 3, 4, 5):
        np.save(tmp_path / f"v_{view}.npy", np.full((4, 6), 100 + view, dtype="u2"))
    tables = '[[camera_positions]]\nviews = "0:3"\n[[camera_positions]]\nviews = "3:6"\n'
    (tmp_path / "scan.toml").write_text(f'[files]\nprojections = "v_*.npy"\nmissing_views = [2]\n{tables}')
    assert open_source(tmp_path).scan.camera_positions == (0, 0, 1, 1, 1)
    rewrite(tmp_path, ("[2]", "[0, 1, 2]"))
    for view in (0, 1):
        (tmp_path / f"v_{view}.npy").unlink()
    with pytest.raises(ScanDescriptionError, match=r"\[\[camera_positions\]\] 0 has no view that exists"):
        open_source(tmp_path)


def test_arrays_of_an_npz_are_named_by_position(folder, tmp_path):
    arrays = {f"{k}{p}": np.load(folder / f"{k}{p}.npy") for k in ("flats", "darks") for p in range(2)}
    projections = np.load(folder / "projections.npy")
    np.savez(tmp_path / "scan.npz", projections=projections, **arrays)
    text = (folder / "scan.toml").read_text().replace(".npy", "").replace('projections = "projections"', "")
    (tmp_path / "scan.toml").write_text(text)
    reader = open_source(tmp_path / "scan.npz")
    np.testing.assert_array_equal(reader.read_flats(1)[0], arrays["flats1"])
    np.savez(tmp_path / "scan.npz", projections=projections, flats=arrays["flats0"], **arrays)
    with pytest.raises(ScanDescriptionError, match="holds 'flats' for all views"):
        open_source(tmp_path / "scan.npz")
    del arrays["darks1"]
    np.savez(tmp_path / "scan.npz", projections=projections, **arrays)
    with pytest.raises(FrameFormatError, match="no array 'darks1' of darks"):
        open_source(tmp_path / "scan.npz")


REFUSED = {
    "no flats at one": ([('flats = "flats1.npy"\n', "")], "1 names no flats, while others do: name flats for each"),
    "both ways": ([("[geometry]", 'flats = "flats0.npy"\n[geometry]')], "names 'flats0.npy' for all views: keep one"),
    "a view in two": ([('views = "6:12"', 'views = "5:12"')], "view 5 is in the positions 0 and 1: give it to one"),
    "a view in none": ([('views = "6:12"', 'views = "8:12"')], r"2 of 12 views are at no position \(6, 7\)"),
    "views of one only": ([('views = "6:12"\noffset_u_mm = 13.0\n', "")], "1 names no views, while others do"),
    "a view that is not there": ([('views = "6:12"', 'views = "6:13"')], "views ends at 13, but there are 12"),
    "place twice": (
        [("offset_u_mm = 13.0", "offset_u_mm = 13.0\ncenter_col = 1.0")],
        "needs offset_u_mm or center_col",
    ),
    "unknown key": (
        [("offset_u_mm = 13.0", "place = 13.0")],
        r"\[\[camera_positions\]\] 1 has the unknown key 'place'",
    ),
    "poses say it": (
        [('kind = "circular"', 'kind = "parallel"'), ("sod_mm = 100.0\nsdd_mm = 160.0\n", "")],
        "'offset_u_mm', which is for a .geometry. of kind",
    ),
    "no views": (
        [('views = "0:6"\noffset_u_mm = -13.0\n', ""), ('views = "6:12"\noffset_u_mm', "offset_u_mm")],
        "has 'offset_u_mm', but names no views",
    ),
    "poses show one": (
        [('views = "0:6"\noffset_u_mm = -13.0\n', ""), ('views = "6:12"\noffset_u_mm = 13.0\n', "")],
        "has 2 tables, but the poses show 1",
    ),
    "no poses": (
        [('views = "0:6"\noffset_u_mm = -13.0\n', ""), ('views = "6:12"\noffset_u_mm = 13.0\n', "")]
        + [(line, "") for line in ('kind = "circular"\n', "sod_mm = 100.0\n", "sdd_mm = 160.0\n", "pitch_mm = 0.8\n")]
        + [("arc_deg = 360.0\n", "")],
        "must name the views of each position: no poses show",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_description_that_makes_no_sense_is_refused(folder, why):
    pairs, match = REFUSED[why]
    rewrite(folder, *pairs)
    with pytest.raises(ScanDescriptionError, match=match) as error:
        open_source(folder)
    assert "\n" not in str(error.value)


def test_field_frames_of_another_size_or_none_are_refused(folder):
    np.save(folder / "flats1.npy", np.ones((2, 8, 39), dtype="u2"))
    with pytest.raises(FrameFormatError, match=r"flats1\.npy has frames of 8 rows x 39 columns"):
        open_source(folder)
    (folder / "flats1.npy").unlink()
    with pytest.raises(IncompleteScanError, match=r"'flats1\.npy' matches no file"):
        open_source(folder)


def test_a_reader_that_takes_no_fields_by_position_says_so(tmp_path, folder):
    from tests.support.reader_samples_dicom import SAMPLES

    made = tmp_path / "dicom"
    made.mkdir()
    sample = SAMPLES[sorted(SAMPLES)[0]](made)
    tables = '[[camera_positions]]\nviews = "0:"\nflats = "flats.npy"\n'
    (tmp_path / "other.toml").write_text(tables)
    options = SourceOptions(settings=sample.settings, description=tmp_path / "other.toml")
    with pytest.raises(ScanDescriptionError, match="name flats, which the dicom reader does not take"):
        open_source(sample.source, source_format="dicom", options=options)


def test_frames_of_a_hdf5_file_are_named_by_number(tmp_path):
    path = tmp_path / "scan.nx"
    keys = [1, 1, 0, 0, 1, 0, 0, 2]
    frames = np.arange(8 * 4 * 6, dtype="u2").reshape(8, 4, 6)
    write_nxtomo(path, frames, keys, np.arange(8) * 45.0)
    (tmp_path / "scan.toml").write_text(
        '[[camera_positions]]\nviews = "0:2"\nflats = "2"\n[[camera_positions]]\nviews = "2:4"\nflats = "0:2"\n'
    )
    reader = open_source(path)
    assert reader.scan.flats.position_counts == (1, 2)
    np.testing.assert_array_equal(reader.read_flats(0)[0], frames[[4], ::-1])
    np.testing.assert_array_equal(reader.read_flats(1)[0], frames[[0, 1], ::-1])
    np.testing.assert_array_equal(reader.read_darks()[0], frames[[7], ::-1])
    rewrite(tmp_path, ('flats = "2"', 'flats = "1:3"'))
    with pytest.raises(ScanDescriptionError, match=r"some of the flats of .* twice"):
        open_source(path)
    rewrite(tmp_path, ('flats = "1:3"', 'flats = "3"'))
    with pytest.raises(ScanDescriptionError, match="names flat frame 3, but the flat frames are 0 to 2"):
        open_source(path)


def test_binned_pixels_keep_their_positions(folder):
    reader = open_source(folder, options=SourceOptions(settings={"bin_pixels": 2}))
    assert reader.scan.flats.position_counts == N_FLATS
    plain = open_source(folder).read_flats(1).astype(np.int64)
    np.testing.assert_array_equal(reader.read_flats(1), plain.reshape(1, 5, 4, 2, 20, 2).sum(axis=(3, 5)))


# The store


def position_reader(**changes):
    rng = np.random.default_rng(4)
    values = {"camera_positions": (0, 1, 2, 0, 1, 2, 0, 1), "flats": FieldFrames(9, position_counts=(4, 2, 3))}
    scan = replace(small_scan(), **(values | {"darks": FieldFrames(2)} | changes))
    flats, darks = (rng.poisson(mean, (2, n, 6, 5)).astype("u2") for mean, n in ((200, 9), (3, 2)))
    return FakeReader(scan, rng.poisson(100, (2, 8, 6, 5)).astype("u2"), flats=flats, darks=darks)


def test_fields_of_each_position_are_stored_and_read(tmp_path):
    reader, store = position_reader(), open_store((tmp_path / "store").as_uri())
    assert upload(reader, store).files_written == 2 * (1 + 3 + 1)
    stored = open_scan_chunks(store, "stone-1")
    names = sorted(file.name for file in stored.manifest.files if file.kind == "flat")
    assert names[:2] == ["flats-bin00-pos00-views00000-00003.parquet", "flats-bin00-pos01-views00000-00001.parquet"]
    for position in range(3):
        expected = reader.read_flats(position)[1, :, 2:5]
        np.testing.assert_array_equal(stored.read_flats(1, 2, 5, position=position), expected)
        np.testing.assert_array_equal(stored.read_darks(1, position=position), reader.darks[1])
    np.testing.assert_array_equal(stored.read_darks(0), reader.darks[0])
    for position, asked in ((None, "but none is named"), (3, "but position 3 is asked for")):
        with pytest.raises(IngestError, match=f"flat frames of the camera positions 0 to 2, {asked}"):
            stored.read_flats(0, position=position)
    assert read_manifest(store, "stone-1").to_bytes() == stored.manifest.to_bytes()


def test_the_same_scan_changes_nothing_and_lost_files_are_written_again(tmp_path):
    reader, store = position_reader(), open_store((tmp_path / "store").as_uri())
    first = upload(reader, store)
    assert upload(reader, store).unchanged
    lost = "scans/stone-1/flats-bin01-pos01-views00000-00001.parquet"
    before = store.read_bytes(lost)
    store.delete(lost)
    again = upload(reader, store)
    assert (again.files_written, again.manifest_sha256) == (1, first.manifest_sha256)
    assert store.read_bytes(lost) == before
    reader.flats = reader.flats.copy()
    reader.flats[0, 5] += 1
    with pytest.raises(ScanConflictError, match="the flat frames of camera position 1 differs"):
        upload(reader, store)
    moved = position_reader(camera_positions=(0, 1, 2, 0, 1, 2, 1, 0))
    with pytest.raises(ScanConflictError, match="differs in camera_positions"):
        upload(moved, store)


def test_an_interrupted_upload_goes_on_to_the_same_bytes(tmp_path):
    whole, part = (open_store((tmp_path / name).as_uri()) for name in ("whole", "part"))
    upload(position_reader(), whole)
    broken = position_reader()
    broken.read_views = lambda start, stop: (_ for _ in ()).throw(FrameFormatError("a broken disk"))
    with pytest.raises(FrameFormatError):
        upload(broken, part)
    report = upload(position_reader(), part)
    # All files of fields, but for those that were on their way when the reading broke.
    assert 2 * 4 - DEFAULT_STREAMS <= report.files_kept <= 2 * 4
    for entry in whole.list_folder("scans/stone-1"):
        assert part.read_bytes(entry.path) == whole.read_bytes(entry.path)


def test_another_number_of_frames_than_the_scan_says_is_refused(tmp_path):
    reader, store = position_reader(), open_store((tmp_path / "store").as_uri())
    reader.flats = reader.flats[:, :8]
    with pytest.raises(IncompleteScanError, match="it says 3 flat frames at camera position 2, its files hold 2"):
        upload(reader, store)


def test_a_manifest_whose_fields_are_not_there_is_refused(tmp_path):
    store = open_store((tmp_path / "store").as_uri())
    upload(position_reader(), store)
    path = "scans/stone-1/manifest.json"
    values = json.loads(store.read_bytes(path))
    assert sorted(values["layouts"]) == ["dark", "flat-pos00", "flat-pos01", "flat-pos02", "projection"]
    assert len(values["pixels"]["flats"]) == 3
    assert isinstance(values["pixels"]["darks"], str)
    del values["layouts"]["flat-pos01"]
    (tmp_path / "store" / path).write_text(json.dumps(values))
    with pytest.raises(IngestError, match="does not describe the flat frames that the scan has"):
        read_manifest(store, "stone-1")


# Looking over, and other programs


def test_inspection_tells_positions_and_judges_views_by_their_own_fields(folder, tmp_path):
    store = open_store((tmp_path / "store").as_uri())
    reader = open_source(folder)
    upload(reader, store)
    for found in (inspect_source(reader), inspect_stored(open_scan_chunks(store, "stepped"))):
        table = dict(inspection_table(found))
        assert table["camera positions"] == "2, of 6, 6 views"
        assert table["flat frames"] == "9: 4, 5 at the camera positions"
        assert found.to_json()["flats_at_positions"] == [4, 5]
        assert found.bins[0].faults.n_dead == 1
        assert not [f for f in found.findings if "camera position" in f.text]


def test_inspection_says_where_fields_and_poses_do_not_fit(folder, tmp_path):
    write_stepped_scan(tmp_path / "common", n_views=6, common_flats=True)
    said = [f.text for f in inspect_source(open_source(tmp_path / "common")).findings]
    assert any("the poses show 2 camera positions, but one set of flat frames serves all" in text for text in said)
    reader = open_source(folder)
    reader.scan = replace(reader.scan, camera_positions=(0, 1) * 6)
    said = [f.text for f in inspect_source(reader).findings if f.severity == "fault"]
    assert any("the views of camera position 0 stand at 2 different places" in text for text in said)


def test_export_corrects_by_position_or_writes_them_as_they_are(folder, tmp_path):
    truth = write_stepped_scan(tmp_path / "truth", n_views=6, interleaved=True)
    reader = open_source(tmp_path / "truth")
    export_scan(OpenedSource(reader), "leap", tmp_path / "lines")
    lines = np.load(tmp_path / "lines/projections.npy")
    good = np.ones(lines.shape, bool)
    good[:, 3, 17] = False
    assert np.abs(lines - truth.lines)[good].max() < 2e-3
    export_scan(OpenedSource(reader), "leap", tmp_path / "counts", as_stored=True)
    again = open_source(tmp_path / "counts")
    assert again.scan.camera_positions == reader.scan.camera_positions
    for position in range(2):
        np.testing.assert_array_equal(again.read_flats(position), reader.read_flats(position))
        np.testing.assert_array_equal(again.read_darks(position), reader.read_darks(position))
    assert math.isclose(again.scan.geometry.sod_mm, 100.0)
