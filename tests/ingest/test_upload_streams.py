# SPDX-License-Identifier: Apache-2.0
"""Files of an upload are sent side by side while they are built, views read while others are packed."""

from __future__ import annotations

import threading
import time

import pytest

from ingest.chunks import ChunkFileWriter, list_scans, projection_layout
from ingest.errors import (
    FrameFormatError,
    IngestError,
)
from ingest.upload import upload
from ingest.upload_views import PIECE_BYTES, n_blocks_held, pieces_held, views_of_piece
from storage.errors import StoreFullError
from tests.support.fake_reader import FakeReader, random_reader, small_scan
from tests.support.fake_store import FakeStore, Killed
from tests.support.small_uploads import SMALL


class SlowStore(FakeStore):
    """Sees how many files are written at once; writing takes a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.open_files, self.most_files = threading.Lock(), 0, 0

    def open_write(self, path):
        handle = super().open_write(path)
        if path.endswith(".tmp") and "parquet.json" not in path:
            with self.lock:
                self.open_files += 1
                self.most_files = max(self.most_files, self.open_files)
            time.sleep(0.05)
            with self.lock:
                self.open_files -= 1
        return handle


@pytest.mark.parametrize(("streams", "at_once"), [(1, 1), (3, 3), (8, 8)])
def test_the_files_of_a_block_are_sent_side_by_side(streams, at_once):
    alone, store = FakeStore(), SlowStore()
    upload(random_reader(n_bins=4), alone, **SMALL)
    seen = []
    report = upload(random_reader(n_bins=4), store, **{**SMALL, "streams": streams}, progress=seen.append)
    assert min(at_once, 4) <= store.most_files <= at_once  # files of two groups, at most
    assert store.files == alone.files
    assert report.sent_bytes == report.stored_bytes == seen[-1].sent_bytes
    assert report.bytes_per_s > 0
    assert (seen[-1].pixel_bytes_done, seen[-1].pixel_bytes) == (report.pixel_bytes, report.pixel_bytes)
    for values in ([p.views_done for p in seen], [p.sent_bytes for p in seen], [p.files_written for p in seen]):
        assert values == sorted(values)


def test_a_stream_that_fails_stops_the_others_and_the_reading(tmp_path):
    class Failing(SlowStore):
        def rename(self, source, target, *, overwrite):
            if "bin02" in target:
                raise StoreFullError("the store is full")
            super().rename(source, target, overwrite=overwrite)

    reader, store = random_reader(n_bins=4, n_views=80, fields=False), Failing()
    with pytest.raises(StoreFullError, match="the store is full"):
        upload(reader, store, memory_bytes=2 * 4 * 6 * 5 * 2, file_bytes=1, streams=4, spool_folder=tmp_path)
    assert reader.n_reads <= 5
    assert not [path for path in store.files if path.endswith(".tmp")]
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == 1 or not [
        thread for thread in threading.enumerate() if thread.name.startswith("conepacs-")
    ]


def small_pieces(monkeypatch, n_bytes):
    """Have streams send pieces of so many bytes, as small as the scans here."""
    for name in ("_SEND_BYTES", "_LEAST_SEND_BYTES"):
        monkeypatch.setattr(f"ingest.spool.{name}", n_bytes)


class WatchedStore(FakeStore):
    """Notes how many bytes of chunk files have gone out."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.begun, self.pieces = threading.Event(), 0, []

    def open_write(self, path):
        handle = super().open_write(path)
        if ".parquet." in path and ".json" not in path:
            self.begun += 1
            write = handle.write

            def note(content):
                self.sent.set()
                self.pieces.append(len(content))
                return write(content)

            handle.write = note
        return handle


class WaitingReader(FakeReader):
    """Gives the last block of views only when `go` is set, or after the time is over."""

    def __init__(self, reader, go, timeout_s) -> None:
        super().__init__(reader.scan, reader.frames)
        self.go, self.timeout_s, self.went = go, timeout_s, None

    def read_views(self, start, stop):
        if stop == self.scan.n_views:
            self.went = self.go.wait(self.timeout_s)
        return super().read_views(start, stop)


def test_a_file_is_sent_while_it_is_built(monkeypatch):
    small_pieces(monkeypatch, 64)
    store, whole = WatchedStore(), FakeStore()
    upload(random_reader(fields=False), whole, memory_bytes=SMALL["memory_bytes"])
    reader = WaitingReader(random_reader(fields=False), store.sent, 20)
    upload(reader, store, memory_bytes=SMALL["memory_bytes"])
    assert reader.went  # bytes of the first blocks were out before the last block was read
    assert store.files == whole.files


def test_what_there_is_of_a_piece_is_sent_when_no_more_comes(monkeypatch):
    monkeypatch.setattr("ingest.spool.STALL_S", 0.05)
    store, whole = WatchedStore(), FakeStore()
    upload(random_reader(fields=False), whole, memory_bytes=SMALL["memory_bytes"])
    reader = WaitingReader(random_reader(fields=False), store.sent, 20)
    upload(reader, store, memory_bytes=SMALL["memory_bytes"])
    assert reader.went  # though a piece is larger than the whole file
    assert store.files == whole.files


def test_pieces_are_small_where_sending_them_takes_long(monkeypatch):
    small_pieces(monkeypatch, 256)
    monkeypatch.setattr("ingest.spool._LEAST_SEND_BYTES", 64)
    monkeypatch.setattr("ingest.spool.SLOW_S", -1.0)
    store, whole = WatchedStore(), FakeStore()
    upload(random_reader(n_bins=1, fields=False), whole)
    upload(random_reader(n_bins=1, fields=False), store)
    assert store.files == whole.files
    assert store.pieces[:3] == [256, 128, 64]
    assert set(store.pieces[3:-1]) == {64}


def test_a_store_is_not_kept_waiting_by_a_slow_source(monkeypatch):
    small_pieces(monkeypatch, 64)
    monkeypatch.setattr("ingest.spool.STALL_S", 0.05)
    store, whole = WatchedStore(), FakeStore()
    upload(random_reader(fields=False), whole, memory_bytes=SMALL["memory_bytes"])
    report = upload(
        WaitingReader(random_reader(fields=False), threading.Event(), 0.5), store, memory_bytes=SMALL["memory_bytes"]
    )
    assert store.begun == 4  # each of two files once more
    assert store.files == whole.files
    assert report.sent_bytes > report.stored_bytes


def test_a_source_that_breaks_while_its_file_is_sent_is_told(monkeypatch, tmp_path):
    small_pieces(monkeypatch, 64)
    store = WatchedStore()

    class Breaking(FakeReader):
        def read_views(self, start, stop):
            if stop == self.scan.n_views:
                store.sent.wait(20)
                raise FrameFormatError("v_0007.tif is cut off")
            return super().read_views(start, stop)

    good = random_reader(fields=False)
    with pytest.raises(FrameFormatError, match="is cut off"):
        upload(
            Breaking(good.scan, good.frames), store, memory_bytes=SMALL["memory_bytes"], spool_folder=tmp_path,
        )  # fmt: skip
    assert list(store.files) == ["scans/stone-1/upload/scan.json"]
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("conepacs-")]


def test_killed_with_several_streams_it_resumes_to_the_same_bytes():
    whole = FakeStore()
    upload(random_reader(n_bins=4), whole, **SMALL)
    for kill_at in range(2, len(whole.renames) - 3, 3):  # records of the last files may not be needed
        store = FakeStore()
        store.kill_at_rename = kill_at
        with pytest.raises(Killed):
            upload(random_reader(n_bins=4), store, **{**SMALL, "streams": 4})
        assert list_scans(store) == []
        store.kill_at_rename = None
        upload(random_reader(n_bins=4), store, **{**SMALL, "streams": 4})
        assert store.files == whole.files


def test_no_stream_at_all_is_refused():
    with pytest.raises(IngestError, match="at least 1 stream, got 0"):
        upload(random_reader(), FakeStore(), streams=0)


def test_the_next_views_are_read_while_a_block_is_packed(monkeypatch):
    """Two blocks are held where the memory takes them, and a block that waits for its files stops no reading."""
    reader, packing, went = random_reader(fields=False), threading.Event(), []
    write_planes, read_views = ChunkFileWriter.write_planes, reader.read_views

    def slow_write(self, block_index, planes):
        if block_index == 0:
            went.append(packing.wait(20))
        write_planes(self, block_index, planes)

    def read(start, stop):
        if start >= 4:  # the third block: the second one is taken into its own memory
            packing.set()
        return read_views(start, stop)

    monkeypatch.setattr("os.cpu_count", lambda: 4)  # more than bins: else no second block is held
    monkeypatch.setattr(ChunkFileWriter, "write_planes", slow_write)
    monkeypatch.setattr(reader, "read_views", read)
    store, whole = FakeStore(), FakeStore()
    upload(reader, store, memory_bytes=10**6)
    assert went == [True, True]
    upload(random_reader(fields=False), whole, memory_bytes=10**6)
    assert store.files == whole.files


def test_a_source_that_breaks_while_a_block_is_packed_is_told(monkeypatch, tmp_path):
    reader, broke, went = random_reader(fields=False), threading.Event(), []
    write_planes, read_views = ChunkFileWriter.write_planes, reader.read_views

    def slow_write(self, block_index, planes):
        went.append(broke.wait(20))
        write_planes(self, block_index, planes)

    def read(start, stop):
        if start >= 4:
            broke.set()
            raise FrameFormatError("v_0004.tif is cut off")
        return read_views(start, stop)

    monkeypatch.setattr("os.cpu_count", lambda: 4)  # more than bins: else nothing is read meanwhile
    monkeypatch.setattr(ChunkFileWriter, "write_planes", slow_write)
    monkeypatch.setattr(reader, "read_views", read)
    store = FakeStore()
    with pytest.raises(FrameFormatError, match=r"v_0004\.tif is cut off"):
        upload(reader, store, memory_bytes=10**6, spool_folder=tmp_path)
    assert set(went) == {True}
    assert not [path for path in store.files if "parquet" in path]
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("conepacs-")]


@pytest.mark.parametrize(
    ("memory_views", "held", "piece"), [(1, 1, 1), (90, 1, 10), (180, 1, 18), (270, 2, 30), (1000, 2, 90)]
)
def test_what_is_held_follows_from_the_memory(memory_views, held, piece):
    scan = small_scan(n_views=360, n_bins=2, n_rows=8, n_cols=8)
    view_bytes = 2 * 8 * 8 * 2
    layout = projection_layout(scan, memory_bytes=memory_views * view_bytes)
    assert n_blocks_held(layout, memory_views * view_bytes, 4) == held
    assert n_blocks_held(layout, memory_views * view_bytes, 2) == 1  # both threads have a bin to pack
    assert views_of_piece(layout, memory_views * view_bytes) == piece
    assert pieces_held(layout, memory_views * view_bytes) == 2
    largest = (held * layout.view_block + 2 * piece) * view_bytes
    assert largest <= memory_views * view_bytes * (1 if held == 2 else 1.25) or piece == 1


@pytest.mark.parametrize(("memory_bytes", "held", "pieces"), [(10**9, 2, 4), (3 * 10**8, 2, 3), (10**8, 1, 2)])
def test_pieces_are_small_enough_for_their_memory_to_be_used_again(memory_bytes, held, pieces):
    layout = projection_layout(small_scan(n_views=60, n_bins=2, n_rows=1024, n_cols=1024), memory_bytes=memory_bytes)
    view_bytes = 2 * 1024 * 1024 * 2
    piece_bytes = views_of_piece(layout, memory_bytes) * view_bytes
    assert view_bytes <= piece_bytes <= PIECE_BYTES
    assert pieces_held(layout, memory_bytes) == pieces
    assert n_blocks_held(layout, memory_bytes, 4) == held
    assert held * layout.view_block * view_bytes + pieces * piece_bytes <= memory_bytes or held == 1
