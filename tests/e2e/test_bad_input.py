# SPDX-License-Identifier: Apache-2.0
"""Bad input through the command: one clear sentence, the right exit code, and nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from storage.publish import is_temporary
from tests.support.command_line import conepacs, conepacs_apart, files_below, start_conepacs
from tests.support.dicom_objects import make_ct, part10
from tests.support.peers import require_peer
from tests.support.reader_samples import all_samples
from tests.support.reader_samples_plain import GEOMETRY_TOML, write_toml
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

MAKERS = all_samples()
BAD_INPUT, UNAVAILABLE = 3, 4


def cut(path: Path) -> None:
    """Take the end of a file away, in the middle of a frame."""
    os.truncate(path, int(path.stat().st_size * 0.7))


def truncated(name):
    def make(folder):
        sample = MAKERS[name](folder)
        cut(sample.truncate)
        return sample.source, [sample.truncate.name], sample.settings

    return make


def array_scan(folder, *, geometry=GEOMETRY_TOML, fill=None, dtype=np.uint16, n_views=5):
    """A scan of .npy files; `fill` spoils one pixel of the last view."""
    frames = np.random.default_rng(1).integers(1, 60_000, (1, n_views, 4, 6)).astype(dtype)
    if fill is not None:
        frames[0, -1, 2, 3] = fill
    np.save(folder / "projections.npy", frames)
    np.save(folder / "flats.npy", np.full((1, 2, 4, 6), 60_000, dtype))
    write_toml(folder, '[files]\nprojections = "projections.npy"\nflats = "flats.npy"\n' + geometry)
    return folder


def missing_nikon_view(folder):
    sample = MAKERS["nikon"](folder)
    sample.truncate.unlink()
    return sample.source, ["2 of 5 views", sample.truncate.name], {}


def fewer_views_than_promised(folder):
    source = array_scan(folder)
    text = (folder / "scan.toml").read_text()
    (folder / "scan.toml").write_text("[scan]\nn_views = 9\n" + text)
    return source, ["projections.npy holds 5 views, expected 9"], {}


def frame_of_another_size(folder):
    sample = MAKERS["tiff_folder"](folder)
    tifffile.imwrite(folder / "proj_3.tif", np.ones((5, 6), np.uint16))
    return sample.source, ["proj_3.tif", "5 rows x 6 columns, expected 4 x 6"], {}


def flats_of_another_size(folder):
    source = array_scan(folder)
    np.save(folder / "flats.npy", np.ones((2, 4, 7), np.uint16))
    return source, ["flat", "7"], {}


def not_a_number(folder):
    return array_scan(folder, fill=np.nan, dtype=np.float32), ["view 4, row 2, column 3 is nan, expected a number"], {}


def infinite(folder):
    return array_scan(folder, fill=np.inf, dtype=np.float32), ["view 4, row 2, column 3 is inf, expected a number"], {}


def negative_count(folder):
    return array_scan(folder, fill=-3.0, dtype=np.float32), ["view 4", "row 2, column 3"], {}


def negative_count_of_integers(folder):
    return array_scan(folder, fill=-3, dtype=np.int32), ["negative"], {}


def angles_that_do_not_match(folder):
    geometry = GEOMETRY_TOML.replace("arc_deg = 360.0", "angles_deg = [0, 90, 180, 270]")
    return array_scan(folder, geometry=geometry), ["got 4 angles for 5 views"], {}


def hdf5_angles_that_do_not_match(folder):
    sample = MAKERS["nxtomo_cone"](folder)
    with h5py.File(sample.source, "a") as file:
        angles = next(iter(file.values()))["sample/rotation_angle"]
        name, values = angles.name, angles[:-1]
        del file[name]
        file[name] = values
        file[name].attrs["units"] = "degree"
    return sample.source, ["rotation_angle", sample.source.name], {}


def unknown_geometry(folder):
    geometry = GEOMETRY_TOML.replace('"circular"', '"helical"')
    return array_scan(folder, geometry=geometry), ["scan.toml", "'helical'", "circular"], {}


def misspelt_description(folder):
    return array_scan(folder, geometry=GEOMETRY_TOML.replace("sod_mm", "sod")), ["scan.toml", "'sod'"], {}


def description_that_is_no_toml(folder):
    return array_scan(folder, geometry="[geometry\n"), ["scan.toml"], {}


def unread_format(folder):
    path = folder / "scan.txrm"
    path.write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(4096))
    return path, ["scan.txrm"], {}


def no_scan_at_all(folder):
    (folder / "notes.txt").write_text("see the other disk")
    return folder, [folder.name], {}


CASES = {
    "truncated .mib": truncated("merlin_counters"),
    "truncated raw .mib": truncated("merlin_quad_raw"),
    "truncated TIFF": truncated("tiff_folder"),
    "truncated TIFF stack": truncated("tiff_stack"),
    "truncated HDF5, NXtomo": truncated("nxtomo_cone"),
    "truncated HDF5, Data Exchange": truncated("dataexchange_parallel"),
    "truncated .mat": truncated("htc_mat5"),
    "truncated .npy": truncated("array_npy"),
    "missing view": missing_nikon_view,
    "fewer views than promised": fewer_views_than_promised,
    "frame of another size": frame_of_another_size,
    "flats of another size": flats_of_another_size,
    "NaN": not_a_number,
    "infinite": infinite,
    "negative count": negative_count,
    "negative count of integers": negative_count_of_integers,
    "angles do not match": angles_that_do_not_match,
    "angles do not match in HDF5": hdf5_angles_that_do_not_match,
    "unknown geometry": unknown_geometry,
    "misspelt description": misspelt_description,
    "description is no TOML": description_that_is_no_toml,
    "unread format": unread_format,
    "no scan at all": no_scan_at_all,
}


def require_no_trace(store: Path, capsys) -> None:
    """A store shows no scan, no manifest, no index and no temporary file."""
    if store.exists():
        assert conepacs(capsys, "inspect", "--store", store, "--json").out == "[]\n"
    left = files_below(store)
    assert not [name for name in left if is_temporary(name) or name.endswith((".tmp", ".part"))]
    assert not [name for name in left if name.endswith(("manifest.json", "index.sqlite", ".dcm"))]


@pytest.mark.parametrize("case", CASES)
def test_a_bad_source_is_refused_in_one_sentence(case, tmp_path, capsys):
    (tmp_path / "scan").mkdir()
    source, words, settings = CASES[case](tmp_path / "scan")
    store = tmp_path / "store"
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    arguments = ["upload", source, "--store", store, "--scan-id", "bad", *options]
    outcome = conepacs(capsys, *arguments)
    outcome.failed_with(BAD_INPUT, *words)
    assert outcome.out == ""
    require_no_trace(store, capsys)
    # A second try of the same is refused alike: nothing of the first one stands in its way.
    assert conepacs(capsys, *arguments).err == outcome.err
    conepacs(capsys, "plan", "bad", "--store", store).failed_with(BAD_INPUT)


def test_a_spoilt_scan_can_be_uploaded_once_it_is_mended(tmp_path, capsys):
    source, store = tmp_path / "scan", tmp_path / "store"
    source.mkdir()
    array_scan(source, fill=np.nan, dtype=np.float32)
    conepacs(capsys, "upload", source, "--store", store).failed_with(BAD_INPUT, "is nan")
    array_scan(source, dtype=np.float32)
    assert conepacs(capsys, "upload", source, "--store", store).code == 0
    assert conepacs(capsys, "inspect", "--store", store).out == "scan\n"


@pytest.mark.parametrize("verb", ["plan", "reconstruct", "inspect"])
def test_an_unknown_scan_id_is_named(verb, tmp_path, capsys):
    store = tmp_path / "store"
    (tmp_path / "scan").mkdir()
    assert conepacs(capsys, "upload", array_scan(tmp_path / "scan"), "--store", store).code == 0
    before = files_below(store)
    for scan_id in ("nobody", "..", "a b"):
        conepacs(capsys, verb, scan_id, "--store", store).failed_with(BAD_INPUT, scan_id)
    assert files_below(store) == before


def test_a_damaged_store_is_not_read_over(tmp_path, capsys):
    store = tmp_path / "store"
    # Five views are one block; inspect looks at some blocks only.
    assert conepacs(capsys, "upload", large_scan(tmp_path / "scan", 5), "--store", store).code == 0
    chunk = next(path for path in store.rglob("projections-bin01*.parquet"))
    footer = pq.read_metadata(chunk)
    pixels = footer.row_group(0).column(footer.schema.names.index("byte0"))
    content = bytearray(chunk.read_bytes())
    content[pixels.data_page_offset + pixels.total_compressed_size // 2] ^= 0x40
    chunk.write_bytes(bytes(content))
    conepacs(capsys, "inspect", "scan", "--store", store).failed_with(5, "scan")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MiB."""
    require_peer("tmpfs", sys.platform == "linux" and os.geteuid() == 0, "mounting needs root on Linux")
    place = tmp_path / "small-disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=False, capture_output=True
    )
    require_peer("tmpfs", mounted.returncode == 0, f"mount says {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def large_scan(folder: Path, n_views: int) -> Path:
    """A scan of noise, which no compression makes small: 64 KiB a view in two bins."""
    folder.mkdir()
    noise = np.random.default_rng(2)
    for name, n in {"projections": n_views, "flats": 4, "darks": 4}.items():
        np.save(folder / f"{name}.npy", noise.integers(1, 65_535, (2, n, 128, 128), np.uint16))
    files = "".join(f'{name} = "{name}.npy"\n' for name in ("projections", "flats", "darks"))
    bins = "[[bins]]\nlow_kev = 20\n[[bins]]\nlow_kev = 40\n"
    write_toml(folder, "[files]\n" + files + bins + GEOMETRY_TOML.replace("0.2", "0.1"))
    return folder


def test_a_full_disk_is_one_sentence_and_the_upload_goes_on_when_there_is_room(small_disk, tmp_path, capsys):
    source, store = large_scan(tmp_path / "scan", 48), small_disk / "store"
    outcome = conepacs(capsys, "upload", source, "--store", store)
    outcome.failed_with(UNAVAILABLE, "no space left")
    require_no_trace(store, capsys)
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    outcome = conepacs(capsys, "upload", source, "--store", store, "--json")
    assert json.loads(outcome.out)["files_kept"] > 0
    assert conepacs(capsys, "inspect", "--store", store).out == "scan\n"


def test_a_full_disk_at_import_is_one_sentence(small_disk, tmp_path, capsys):
    slices = tmp_path / "slices"
    slices.mkdir()
    for number in range(8):
        (slices / f"{number}.dcm").write_bytes(part10(make_ct(number + 1, size=512)))
    store = small_disk / "store"
    outcome = conepacs(capsys, "pacs", "import", slices, "--store", store)
    outcome.failed_with(UNAVAILABLE)
    names = files_below(store)
    n_kept = len([name for name in names if name.endswith(".dcm")])
    assert 0 < n_kept < 8
    assert not [name for name in names if name.endswith(".part")]
    rows = json.loads(conepacs(capsys, "pacs", "find", "image", "--store", store, "--json").out)
    assert len(rows) == n_kept


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files_below(folder)}


def test_a_killed_upload_resumes_to_the_same_bytes(tmp_path, capsys):
    source = large_scan(tmp_path / "scan", 240)
    whole, store = tmp_path / "whole", tmp_path / "store"
    assert conepacs(capsys, "upload", source, "--store", whole).code == 0

    with start_conepacs("upload", source, "--store", store, folder=tmp_path) as running:
        try:
            wait_until("a first file", lambda: list(store.rglob("*.parquet")), interval_s=0.001)
            running.send_signal(signal.SIGKILL)
        finally:
            running.kill()
    assert running.returncode == -signal.SIGKILL
    if not (store / "scans" / "scan" / "manifest.json").exists():
        assert conepacs(capsys, "inspect", "--store", store).out.startswith("no scan in")
    conepacs(capsys, "plan", "scan", "--store", store).failed_with(BAD_INPUT, "scan")

    outcome = conepacs_apart("upload", source, "--store", store, "--json", folder=tmp_path)
    report = json.loads(outcome.out)
    assert (outcome.code, outcome.err, report["unchanged"]) == (0, "", False)
    assert report["files_kept"] + report["files_written"] == len(list(whole.rglob("*.parquet")))
    assert digests(store) == digests(whole)


@pytest.mark.parametrize("kept", [0, 100, 200, 400, -100])
def test_a_broken_dicom_file_is_refused_at_import(kept, tmp_path, capsys):
    path, store = tmp_path / "broken.dcm", tmp_path / "store"
    path.write_bytes(part10(make_ct())[:kept])
    conepacs(capsys, "pacs", "import", path, "--store", store).failed_with(BAD_INPUT, "not imported", "broken.dcm")
    assert not [name for name in files_below(store) if name.endswith((".dcm", ".part"))]
    assert conepacs(capsys, "pacs", "find", "--store", store).out == "there is no study in the archive\n"


def test_a_scan_that_cannot_be_reconstructed_is_refused_with_what_it_has(tmp_path, capsys):
    """A short arc, a parallel beam: planned and reconstructed alike."""
    pictures = {
        "arc": (GEOMETRY_TOML.replace("arc_deg = 360.0", "angle_step_deg = 6.0"), "30"),
        "parallel": ('[geometry]\nkind = "parallel"\npitch_mm = 0.1\narc_deg = 180.0\n', "parallel"),
        "none": ("", "geometry"),
    }
    store = tmp_path / "store"
    for name, (geometry, word) in pictures.items():
        (tmp_path / name).mkdir()
        assert conepacs(capsys, "upload", array_scan(tmp_path / name, geometry=geometry), "--store", store).code == 0
        before = files_below(store)
        conepacs(capsys, "plan", name, "--store", store).failed_with(BAD_INPUT, word)
        conepacs(capsys, "reconstruct", name, "--store", store, "--index", tmp_path / "i.sqlite").failed_with(
            BAD_INPUT, word
        )
        assert files_below(store) == before
    shutil.rmtree(store)
