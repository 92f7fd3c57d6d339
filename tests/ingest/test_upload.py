# SPDX-License-Identifier: Apache-2.0
"""An upload ends at the same bytes however often it is killed, and never shows a scan that is not whole."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.chunks import list_scans, open_scan_chunks
from ingest.errors import (
    ChunkCorruptError,
    FrameFormatError,
    IncompleteScanError,
    IngestError,
    ScanConflictError,
    UnknownScanError,
)
from ingest.upload import upload
from storage.errors import MissingFileError, StorageError, StoreFullError
from storage.filesystem import open_store
from tests.support.fake_reader import FakeReader, random_reader, small_scan
from tests.support.fake_store import FakeStore, Killed
from tests.support.peers import REPOSITORY
from tests.support.small_uploads import N_FILES, SMALL, check_stored


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_what_is_uploaded_can_be_read(data):
    reader = random_reader(
        data.draw(st.integers(0, 5)),
        fields=data.draw(st.booleans()),
        n_views=data.draw(st.integers(1, 12)),
        n_bins=data.draw(st.integers(1, 3)),
        n_rows=data.draw(st.integers(1, 40)),
        n_cols=data.draw(st.integers(1, 7)),
        pixel_type=data.draw(st.sampled_from(["uint8", "uint16", "uint32", "float32"])),
    )
    store = FakeStore()
    report = upload(
        reader, store, memory_bytes=data.draw(st.integers(1, 4000)), file_bytes=data.draw(st.integers(1, 4000))
    )
    check_stored(store, reader)
    assert not report.unchanged
    assert report.files_kept == 0
    assert not [path for path in store.files if "upload" in path or path.endswith(".tmp")]


def test_the_report_counts_what_the_pixels_hold():
    reader = random_reader(fields=False)
    reader.frames[0, 0, 0, :2] = 0
    reader.frames[1, 3, 2, 0] = 65535
    report = upload(reader, FakeStore(), **SMALL)
    first, second = report.statistics
    assert (first.n_zeros, first.n_saturated, second.n_saturated) == (2, 0, 1)
    assert second.maximum == 65535
    assert first.mean == pytest.approx(reader.frames[0].mean())
    assert report.notes == ("bin 1: 1 pixels (0.42%) are saturated",)
    assert report.pixel_bytes == reader.frames.nbytes
    assert (report.n_views, report.n_bins, report.files_written) == (8, 2, 4)


def test_the_same_upload_twice_changes_nothing_and_says_so():
    reader, store = random_reader(), FakeStore()
    first = upload(reader, store, **SMALL)
    before, renames = dict(store.files), len(store.renames)
    again = upload(random_reader(), store, memory_bytes=10**9)
    assert again.unchanged
    assert (again.files_written, again.files_kept) == (0, N_FILES)
    assert again.manifest_sha256 == first.manifest_sha256
    assert again.statistics == pytest.approx(first.statistics)
    assert store.files == before
    assert len(store.renames) == renames


def test_a_lost_file_is_written_again():
    reader, store = random_reader(), FakeStore()
    upload(reader, store, **SMALL)
    before = dict(store.files)
    for name in ("projections-bin01-pos00-views00004-00007.parquet", "flats-bin00-pos00-views00000-00002.parquet"):
        del store.files[f"scans/stone-1/{name}"]
    report = upload(reader, store, **SMALL)
    assert (report.files_written, report.unchanged) == (2, False)
    assert store.files == before


def test_killed_at_any_file_it_leaves_no_scan_and_resumes_to_the_same_bytes():
    whole = FakeStore()
    upload(random_reader(), whole, **SMALL)
    n_renames = len(whole.renames)
    assert n_renames == 1 + 2 * N_FILES  # header, each file with its record but the last, manifest
    for kill_at in range(n_renames):
        store = FakeStore()
        store.kill_at_rename = kill_at
        with pytest.raises(Killed):
            upload(random_reader(), store, **SMALL)
        assert list_scans(store) == []
        with pytest.raises(UnknownScanError):
            open_scan_chunks(store, "stone-1")
        store.kill_at_rename, done = None, len(store.renames)
        report = upload(random_reader(), store, **SMALL)
        assert store.files == whole.files
        assert report.files_kept == max(0, (done - 1) // 2)
        chunk_files = [path for path in store.renames if path.endswith(".parquet")]
        # Only the file whose record was cut off, or the manifest after the last one, is written twice.
        assert len(chunk_files) - N_FILES == (1 if kill_at and kill_at % 2 == 0 and done > 1 else 0)


def test_killed_again_and_again_it_still_ends_at_the_same_bytes():
    whole, store = FakeStore(), FakeStore()
    upload(random_reader(), whole, **SMALL)
    for _ in range(100):
        store.kill_at_rename = len(store.renames) + 2
        try:
            upload(random_reader(), store, **SMALL)
        except Killed:
            continue
        break
    assert store.files == whole.files


def test_an_unfinished_upload_keeps_its_layout_unless_restarted():
    store = FakeStore()
    store.kill_at_rename = 13  # a file of projections is recorded
    with pytest.raises(Killed):
        upload(random_reader(n_views=9), store, **SMALL)
    store.kill_at_rename = None
    with pytest.raises(IngestError, match="begun with 240 B of memory, got 120 B"):
        upload(random_reader(n_views=9), store, memory_bytes=120)
    upload(random_reader(n_views=9), store, memory_bytes=10**9)
    assert open_scan_chunks(store, "stone-1").view_blocks == ((0, 2), (2, 4), (4, 6), (6, 8), (8, 9))
    store = FakeStore()
    store.kill_at_rename = 13
    with pytest.raises(Killed):
        upload(random_reader(n_views=9), store, **SMALL)
    store.kill_at_rename = None
    assert upload(random_reader(n_views=9), store, memory_bytes=10**9, restart=True).files_kept == 0
    assert open_scan_chunks(store, "stone-1").n_view_blocks == 1


def test_a_source_that_changed_since_the_upload_was_begun_is_refused():
    store = FakeStore()
    store.kill_at_rename = 13
    with pytest.raises(Killed):
        upload(random_reader(), store, **SMALL)
    store.kill_at_rename = None
    changed = random_reader()
    changed.frames[1, 3, 2, 2] += 1
    with pytest.raises(ScanConflictError, match="changed since its upload was begun: view 3 differs"):
        upload(changed, store, **SMALL)
    flats = random_reader()
    flats.flats[0, 0, 0, 0] += 1
    with pytest.raises(ScanConflictError, match="the flat frames differs"):
        upload(flats, store, **SMALL)
    other = random_reader()
    other.scan = replace(other.scan, model="another")
    with pytest.raises(ScanConflictError, match=r"unfinished upload of scan stone-1 .* differs in model"):
        upload(other, store, **SMALL)
    assert list_scans(store) == []
    upload(changed, store, **SMALL, restart=True)
    check_stored(store, changed)


def test_another_scan_under_the_same_id_is_refused():
    store = FakeStore()
    upload(random_reader(), store, **SMALL)
    before = dict(store.files)
    pixels = random_reader()
    pixels.frames[0, 7, 0, 0] += 1
    with pytest.raises(ScanConflictError, match="stone-1 is stored already with other pixels: view 7 differs"):
        upload(pixels, store)
    no_mask = random_reader()
    no_mask.bad_pixels = None
    with pytest.raises(ScanConflictError, match="the mask of bad pixels differs"):
        upload(no_mask, store)
    settings_ = random_reader()
    settings_.scan = replace(settings_.scan, station="two", model="x")
    with pytest.raises(ScanConflictError, match="differs in model, station: give this one another id"):
        upload(settings_, store, restart=True)
    assert store.files == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r.frames.__setitem__((1, 5, 2, 3), np.nan), "energy bin 1, view 5, row 2, column 3 is nan"),
        (lambda r: r.frames.__setitem__((0, 5, 2, 3), np.inf), "energy bin 0, view 5, row 2, column 3 is inf"),
        (lambda r: r.frames.__setitem__((0, 6, 0, 0), -1), "view 6, row 0, column 0 has the negative count -1"),
        (lambda r: r.flats.__setitem__((0, 1, 0, 0), -2), "flat frame 1, row 0, column 0 has the negative count -2"),
        (lambda r: setattr(r, "frames", r.frames[..., :4]), r"views 0:1 must be \(2, 1, 6, 5\) float32, got"),
        (lambda r: setattr(r, "frames", r.frames.astype("u2")), r"views 0:1 must be .* float32, got .* uint16"),
        (lambda r: setattr(r, "darks", r.darks[..., :3]), "dark frames must be"),
        (lambda r: setattr(r, "bad_pixels", r.bad_pixels[:2]), "mask of bad pixels must be"),
    ],
)
def test_frames_that_are_not_sane_are_refused_and_leave_no_scan(spoil, message):
    reader, store = random_reader(pixel_type="float32"), FakeStore()
    spoil(reader)
    with pytest.raises(FrameFormatError, match=f"scan stone-1.*{message}"):
        upload(reader, store, **SMALL)
    assert list_scans(store) == []
    assert all(path.endswith((".parquet", ".json")) for path in store.files)


def test_missing_views_and_frames_are_refused():
    reader = random_reader()
    reader.limit = 5
    with pytest.raises(IncompleteScanError, match=r"5 of 8 views are there \(v_0005\.tif: view 5 is missing\); upload"):
        upload(reader, FakeStore())
    reader = random_reader()
    reader.flats = None
    with pytest.raises(IncompleteScanError, match="it says 3 flat frames, its files hold 0"):
        upload(reader, FakeStore())


@pytest.mark.parametrize("capacity", [0, 3000, 9000, 20_000])
def test_a_full_store_leaves_nothing_half_written_and_resumes(capacity):
    reader, store = random_reader(n_rows=40), FakeStore(capacity=capacity)
    with pytest.raises(StoreFullError, match="full"):
        upload(reader, store, **SMALL)
    assert list_scans(store) == []
    assert not [path for path in store.files if path.endswith(".tmp")]
    store.capacity = None
    upload(reader, store, **SMALL)
    check_stored(store, reader)


def test_a_full_disk_for_temporary_files_is_named(monkeypatch, tmp_path):
    with pytest.raises(IngestError, match=f"temporary files in {tmp_path / 'gone'} failed"):
        upload(random_reader(), FakeStore(), spool_folder=tmp_path / "gone")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ingest.spool._SpoolFile.write", full)
    with pytest.raises(IngestError, match=r"scan stone-1: temporary files in .*No space left on device"):
        upload(random_reader(), FakeStore(), spool_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_upload_state_is_named():
    store = FakeStore()
    store.kill_at_rename = 13
    with pytest.raises(Killed):
        upload(random_reader(), store, **SMALL)
    store.kill_at_rename = None
    header = json.loads(store.files["scans/stone-1/upload/scan.json"])
    store.files["scans/stone-1/upload/scan.json"] = json.dumps({**header, "layout": {}}).encode()
    with pytest.raises(ChunkCorruptError, match=r"unfinished upload of scan stone-1 .* is malformed"):
        upload(random_reader(), store)
    store.files["scans/stone-1/upload/scan.json"] = b"{"
    with pytest.raises(ChunkCorruptError, match="is not JSON"):
        upload(random_reader(), store)


def test_memory_is_bounded_by_the_setting_not_by_the_scan():
    scan = small_scan(n_views=64, n_bins=2, n_rows=256, n_cols=256)
    view_bytes = 2 * 256 * 256 * 2

    class Endless(FakeReader):
        """Makes views when they are asked for."""

        def __init__(self) -> None:
            super().__init__(scan, np.zeros((2, 64, 1, 1), dtype=np.uint16))

        def read_views(self, start, stop):
            self.largest_read = max(self.largest_read, (stop - start) * view_bytes)
            return np.full((2, stop - start, 256, 256), start, dtype=np.uint16)

    def peak(memory_bytes) -> int:
        reader, store = Endless(), open_store("memory://upload-peak")
        tracemalloc.start()
        upload(reader, store, memory_bytes=memory_bytes, file_bytes=8 * view_bytes)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        store.delete("scans", recursive=True)
        assert reader.largest_read <= memory_bytes
        return found

    whole = 64 * view_bytes
    for memory_bytes in (8 * view_bytes, 2 * view_bytes):
        assert peak(memory_bytes) < memory_bytes + 4_000_000 < whole / 2


def test_progress_goes_up_to_the_end():
    seen = []
    upload(random_reader(), FakeStore(), **SMALL, progress=seen.append)
    views = [progress.views_done for progress in seen]
    assert views == sorted(views)
    assert (seen[-1].stage, seen[-1].views_done, seen[-1].n_views) == ("done", 8, 8)
    assert seen[-1].files_written == N_FILES
    assert {progress.stage for progress in seen} == {"reading", "writing", "done"}


@pytest.mark.parametrize("version", [1, 3])
def test_a_scan_of_a_former_version_goes_on_in_it(version, monkeypatch):
    """Unfinished or with a lost file: its files are the same bytes as before."""
    with monkeypatch.context() as patch:
        patch.setattr("ingest.upload_state.CHUNK_SCHEMA_VERSION", version)
        whole, store = FakeStore(), FakeStore()
        upload(random_reader(), whole, **SMALL)
        store.kill_at_rename = 13
        with pytest.raises(Killed):
            upload(random_reader(), store, **SMALL)
    store.kill_at_rename = None
    assert upload(random_reader(), store, **SMALL).files_kept > 0
    assert store.files == whole.files
    assert open_scan_chunks(store, "stone-1").manifest.schema_version == version
    check_stored(store, random_reader())
    del store.files["scans/stone-1/projections-bin01-pos00-views00004-00007.parquet"]
    upload(random_reader(), store, **SMALL)
    assert store.files == whole.files
    new = FakeStore()
    assert upload(random_reader(), new, **SMALL).manifest_sha256 == open_scan_chunks(store, "stone-1").manifest_sha256


KILLED_UPLOAD = """
import sys, time
from ingest.upload import upload
from storage.filesystem import open_store
from tests.support.fake_reader import random_reader
reader = random_reader(n_views=12, n_rows=64, n_cols=64)
def slowly(progress):
    print(progress.files_written, flush=True)
    time.sleep(0.05)
upload(reader, open_store(sys.argv[1]), memory_bytes=2 * 2 * 64 * 64 * 2, file_bytes=1, progress=slowly)
"""


def test_a_killed_process_resumes_to_the_same_bytes(tmp_path):
    def reader():
        return random_reader(n_views=12, n_rows=64, n_cols=64)

    sizes = {"memory_bytes": 2 * 2 * 64 * 64 * 2, "file_bytes": 1}
    whole = upload(reader(), open_store(tmp_path / "whole"), **sizes)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_UPLOAD, str(tmp_path / "killed")], cwd=REPOSITORY, env=environment,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 6:
                break
    finally:
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait(timeout=20)
    assert process.returncode == -signal.SIGKILL
    store = open_store(tmp_path / "killed")
    assert list_scans(store) == []
    report = upload(reader(), store, **sizes)
    assert report.files_kept >= 6
    assert report.manifest_sha256 == whole.manifest_sha256

    def files(root):
        return {path.name: path.read_bytes() for path in sorted((root / "scans" / "stone-1").iterdir())}

    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_two_uploads_at_once_end_well(tmp_path):
    """Whichever is done first: the other compares with it."""
    reports, errors = [], []

    def run() -> None:
        try:
            reports.append(upload(random_reader(), open_store(tmp_path), **SMALL))
        except (IngestError, StorageError) as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(reports) == 3
    assert len({report.manifest_sha256 for report in reports}) == 1
    check_stored(open_store(tmp_path), random_reader())


def test_an_upload_that_another_one_overtakes_compares_with_it():
    store, finished = FakeStore(), FakeStore()
    upload(random_reader(), finished, **SMALL)

    def overtake(progress) -> None:
        if progress.files_written == 7 and not list_scans(store):
            store.files = dict(finished.files)
            store.rename = lost

    def lost(source, target, *, overwrite):
        del store.rename
        raise MissingFileError(f"{source} is not there")

    report = upload(random_reader(), store, **SMALL, progress=overtake)
    assert report.unchanged
    assert store.files == finished.files


def test_an_upload_goes_on_with_the_digests_it_was_begun_with(monkeypatch):
    """Scans of the former version have sha256: unfinished, with a lost file, or uploaded once more."""
    with monkeypatch.context() as patch:
        patch.setattr("ingest.upload_state.CHUNK_SCHEMA_VERSION", 2)
        patch.setattr("ingest.upload_state.NEW_ALGORITHM", "sha256")
        whole, store = FakeStore(), FakeStore()
        upload(random_reader(), whole, **SMALL)
        store.kill_at_rename = 13
        with pytest.raises(Killed):
            upload(random_reader(), store, **SMALL)
    # A former version's header says nothing of digests.
    path = "scans/stone-1/upload/scan.json"
    store.files[path] = store.files[path].replace(b'"digest_algorithm":"sha256",', b"")
    store.kill_at_rename = None
    assert upload(random_reader(), store, **SMALL).files_kept > 0
    assert store.files == whole.files
    values = json.loads(store.files["scans/stone-1/manifest.json"])
    assert (values["schema_version"], "algorithm" in values["pixels"]) == (2, False)
    frames = random_reader().frames[:, 0]
    assert values["pixels"]["views"][0] == hashlib.sha256(frames.astype("<u2").tobytes()).hexdigest()
    assert upload(random_reader(), store, **SMALL).unchanged
    other = random_reader()
    other.frames[1, 6, 2, 3] ^= 1
    with pytest.raises(ScanConflictError, match="other pixels: view 6 differs"):
        upload(other, store, **SMALL)
    new = FakeStore()
    upload(random_reader(), new, **SMALL)
    values = json.loads(new.files["scans/stone-1/manifest.json"])
    assert (values["schema_version"], values["pixels"]["algorithm"]) == (4, "blake3")
    assert upload(random_reader(), new, **SMALL).unchanged
    check_stored(new, random_reader())


def test_digests_of_an_unknown_algorithm_are_refused():
    store = FakeStore()
    upload(random_reader(), store, **SMALL)
    path = "scans/stone-1/manifest.json"
    store.files[path] = store.files[path].replace(b'"algorithm":"blake3"', b'"algorithm":"blake9"')
    with pytest.raises(ChunkCorruptError, match=r"digests of its pixels by 'blake9', expected sha256 or blake3"):
        upload(random_reader(), store, **SMALL)
    store = FakeStore()
    store.kill_at_rename = 13
    with pytest.raises(Killed):
        upload(random_reader(), store, **SMALL)
    path = "scans/stone-1/upload/scan.json"
    store.files[path] = store.files[path].replace(b'"digest_algorithm":"blake3"', b'"digest_algorithm":"blake9"')
    with pytest.raises(ChunkCorruptError, match=r"unfinished upload of scan stone-1 .*blake9"):
        upload(random_reader(), store, **SMALL)
