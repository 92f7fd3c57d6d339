# SPDX-License-Identifier: Apache-2.0
"""A scan is uploaded while the scanner still writes it."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from ingest.chunks import list_scans, open_scan_chunks
from ingest.errors import FrameFormatError, IncompleteScanError
from ingest.readers import open_source
from ingest.upload import upload, watch
from tests.support.fake_reader import random_reader
from tests.support.fake_store import FakeStore
from tests.support.reader_samples_plain import GEOMETRY_TOML, counts, write_toml

SOURCE = Path("scanner")
SMALL = {"memory_bytes": 2 * 2 * 6 * 5 * 2, "file_bytes": 1}


def test_views_are_uploaded_as_they_come():
    reader, store = random_reader(), FakeStore()
    reader.limit = 0
    stages, waiting, uploaded = set(), threading.Event(), threading.Event()

    def write_slowly() -> None:
        waiting.wait(5)
        for limit in range(1, 8):
            time.sleep(0.005)
            reader.limit = limit
        # The last view is written only when others are in the store.
        if uploaded.wait(5):
            reader.limit = 8

    def note(progress) -> None:
        stages.add(progress.stage)
        waiting.set()
        if progress.files_written:
            uploaded.set()

    scanner = threading.Thread(target=write_slowly)
    scanner.start()
    try:
        report = watch(SOURCE, store, open_reader=lambda _: reader, poll_s=0.005, timeout_s=5, progress=note, **SMALL)
    finally:
        scanner.join()
    assert report.files_written == 2 * 4 + 2 + 2 + 1
    assert stages == {"waiting", "reading", "writing", "done"}
    whole = FakeStore()
    upload(random_reader(), whole, **SMALL)
    assert store.files == whole.files


def test_a_scanner_that_stops_is_given_up_and_the_upload_goes_on_later():
    reader, store = random_reader(), FakeStore()
    reader.limit = 5
    message = "scan stone-1: the scanner has written 5 of 8 views and no new one for 0.05 s"
    with pytest.raises(IncompleteScanError, match=message):
        watch(SOURCE, store, open_reader=lambda _: reader, poll_s=0.01, timeout_s=0.05, **SMALL)
    assert list_scans(store) == []
    reader.limit = 8
    report = watch(SOURCE, store, open_reader=lambda _: reader, poll_s=0.01, timeout_s=0.05, **SMALL)
    assert report.files_kept == 2 * 2
    stored = open_scan_chunks(store, "stone-1")
    np.testing.assert_array_equal(stored.read_view(1, 7), reader.frames[1, 7])


def test_a_source_that_is_not_there_yet_is_waited_for():
    reader, looks, messages = random_reader(), [], []

    def open_reader(source):
        looks.append(source)
        if len(looks) < 3:
            raise FrameFormatError(f"{source} does not exist")
        return reader

    watch(
        SOURCE, FakeStore(), open_reader=open_reader, poll_s=0.001, timeout_s=5,
        progress=lambda progress: messages.append(progress.message),
    )  # fmt: skip
    assert looks == [SOURCE] * 3
    assert messages[:2] == ["scanner does not exist"] * 2


def test_a_folder_of_tiffs_is_watched_while_a_slow_scanner_writes_it(tmp_path):
    frames = counts(8, 6, 5)
    folder, store = tmp_path / "scan-7", FakeStore()
    started, uploaded = threading.Event(), threading.Event()

    def write_slowly() -> None:
        started.wait(5)
        folder.mkdir()
        write_toml(folder, "[scan]\nn_views = 8\n" + GEOMETRY_TOML)
        for index, frame in enumerate(frames):
            buffer = io.BytesIO()
            tifffile.imwrite(buffer, frame)
            content = buffer.getvalue()
            with (folder / f"view_{index}.tif").open("wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                time.sleep(0.01)  # half a file is no view
                file.write(content[len(content) // 2 :])
            if index == 6:
                assert uploaded.wait(5)

    def note(progress) -> None:
        started.set()
        if progress.files_written:
            uploaded.set()

    scanner = threading.Thread(target=write_slowly)
    scanner.start()
    try:
        report = watch(folder, store, poll_s=0.005, timeout_s=10, progress=note, **SMALL)
    finally:
        scanner.join()
    stored = open_scan_chunks(store, report.scan_id)
    source = open_source(folder)
    for view in range(8):
        np.testing.assert_array_equal(stored.read_view(0, view), source.read_views(view, view + 1)[0, 0])
    source.close()
    assert upload(open_source(folder), store, **SMALL).unchanged


def test_a_source_that_never_comes_is_given_up():
    def open_reader(source):
        raise FrameFormatError(f"{source} does not exist")

    with pytest.raises(IncompleteScanError, match=r"waited 0.02 s for a scan to begin: scanner does not exist"):
        watch(SOURCE, FakeStore(), open_reader=open_reader, poll_s=0.005, timeout_s=0.02)


def test_a_watched_scan_that_is_there_already_changes_nothing():
    store = FakeStore()
    upload(random_reader(), store, **SMALL)
    before = dict(store.files)
    report = watch(SOURCE, store, open_reader=lambda _: random_reader(), poll_s=0.001, timeout_s=1)
    assert report.unchanged
    assert store.files == before
