# SPDX-License-Identifier: Apache-2.0
"""One run of an upload: reads view blocks, compares them with what was uploaded before, publishes files."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ingest.chunk_layout import KINDS, frames_layout, layout_name, projection_layout
from ingest.chunk_manifest import PixelDigests, ScanManifest, manifest_path
from ingest.errors import FrameFormatError, IncompleteScanError, IngestError
from ingest.frame_statistics import BinStatistics, frame_statistics, merge_statistics
from ingest.frames import check_frames
from ingest.sender import FileSender
from ingest.spool import FileGroup
from ingest.upload_report import UploadProgress, UploadReport, statistics_notes
from ingest.upload_state import FileRecord, UploadState, begin_upload, record_file, require_same_pixels, sweep_upload
from storage.errors import StorageError
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from numpy.typing import NDArray

    from ingest.chunk_layout import ChunkKind, ChunkLayout
    from ingest.chunk_manifest import FieldDigests
    from ingest.readers import ScanReader
    from ingest.scan import FieldFrames, Scan
    from ingest.upload_report import UploadStage
    from storage.filesystem import Store

#: Threads that digest and compress.
MAX_THREADS = 4
#: Progress while files are sent [s].
TELL_EVERY_S = 0.25

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class UploadRun:
    """One run of an upload: what it was told, and what it has done.

    Several threads send files; counts and `progress` belong to one of them at a time.
    """

    reader: ScanReader
    store: Store
    memory_bytes: int
    file_bytes: int
    streams: int
    spool_folder: Path | None
    progress: Callable[[UploadProgress], None] | None
    wait_for_view: Callable[[int], None] | None = None
    views_done: int = 0
    pixel_bytes: int = 0
    files_written: int = 0
    files_kept: int = 0
    sent_bytes: int = 0
    statistics: tuple[BinStatistics, ...] | None = None
    records: list[FileRecord] = field(default_factory=list)
    _send_started_s: float | None = None
    _sent_told_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def scan(self) -> Scan:
        """The scan that is uploaded."""
        return self.reader.scan

    @property
    def bytes_per_s(self) -> float:
        """Bytes sent per second, since the first."""
        if self._send_started_s is None:
            return 0.0
        return self.sent_bytes / max(1e-3, time.monotonic() - self._send_started_s)

    def tell(self, stage: UploadStage, message: str = "") -> None:
        """Report progress."""
        with self._lock:
            self._tell(stage, message)

    def count_views(self, n_views: int) -> None:
        """Count views that were read."""
        with self._lock:
            self.views_done += n_views
            self._tell("reading")

    def count_sent(self, n_bytes: int) -> None:
        """Count bytes that went to the store."""
        now_s = time.monotonic()
        with self._lock:
            if self._send_started_s is None:
                self._send_started_s = now_s
            self.sent_bytes += n_bytes
            if now_s - self._sent_told_s >= TELL_EVERY_S:
                self._sent_told_s = now_s
                self._tell("writing")

    def count_file(self, record: FileRecord, *, kept: bool) -> None:
        """Count a file that is in the store."""
        with self._lock:
            self.records.append(record)
            if kept:
                self.files_kept += 1
            else:
                self.files_written += 1
            self._tell("writing")

    def _tell(self, stage: UploadStage, message: str = "") -> None:
        if self.progress is not None:
            self.progress(
                UploadProgress(
                    scan_id=self.scan.scan_id,
                    stage=stage,
                    views_done=self.views_done,
                    n_views=self.scan.n_views,
                    files_written=self.files_written,
                    files_kept=self.files_kept,
                    message=message,
                    pixel_bytes_done=self.pixel_bytes * self.views_done // self.scan.n_views,
                    pixel_bytes=self.pixel_bytes,
                    sent_bytes=self.sent_bytes,
                    bytes_per_s=self.bytes_per_s,
                )
            )


def run_upload(run: UploadRun, *, restart: bool = False) -> UploadReport:
    """Carry an upload out, from the first file to the manifest.

    Of two uploads of a scan at once, the one that is done first takes its traces away, which the other may
    stumble over; that one then compares its source with what is stored.
    """
    path = manifest_path(run.scan.scan_id)
    was_there = run.store.exists(path)
    again = replace(run, records=[], _lock=threading.Lock())
    try:
        return _run_once(run, restart)
    except StorageError as error:
        if was_there or not run.store.exists(path):
            raise
        _log.info("scan %s: another upload finished it meanwhile (%s); comparing with it", run.scan.scan_id, error)
        return _run_once(again, restart=False)


def _run_once(run: UploadRun, restart: bool) -> UploadReport:
    """One try of an upload."""
    started = time.monotonic()
    scan = run.scan
    layout = projection_layout(scan, memory_bytes=run.memory_bytes, file_bytes=run.file_bytes)
    state = begin_upload(run.store, scan, layout, restart=restart)
    layouts = {"projection": state.layout}
    digests: dict[str, str] = {}
    run.pixel_bytes = state.layout.pixel_bytes
    n_threads = max(1, min(MAX_THREADS, os.cpu_count() or 1))
    with (
        FileSender(run.streams) as sender,
        ThreadPoolExecutor(n_threads, thread_name_prefix="conepacs-spool") as threads,
    ):
        work = _Work(run, state, sender, threads)
        # While a scanner writes, its flat frames may come last.
        if run.wait_for_view is None:
            _upload_fields(work, layouts, digests)
        view_digests = _upload_views(work)
        if run.wait_for_view is not None:
            _upload_fields(work, layouts, digests)
        sender.wait()
    manifest = _manifest(run, state, layouts, PixelDigests(
        tuple(view_digests), _field_digests("flat", scan.flats, digests),
        _field_digests("dark", scan.darks, digests), digests.get("bad_pixels"),
    ))  # fmt: skip
    if state.manifest is None or manifest.files != state.manifest.files:
        publish_bytes(run.store, manifest_path(scan.scan_id), manifest.to_bytes(), kind="replace")
    sweep_upload(run.store, manifest)
    run.tell("done")
    statistics = run.statistics or ()
    return UploadReport(
        scan_id=scan.scan_id,
        manifest_sha256=manifest.sha256,
        unchanged=state.manifest is not None and not run.files_written,
        n_views=scan.n_views,
        n_bins=len(scan.bins),
        files_written=run.files_written,
        files_kept=run.files_kept,
        pixel_bytes=state.layout.pixel_bytes,
        stored_bytes=manifest.stored_bytes,
        sent_bytes=run.sent_bytes,
        bytes_per_s=run.bytes_per_s,
        seconds=time.monotonic() - started,
        statistics=statistics,
        notes=tuple(statistics_notes(statistics)),
    )


class _Work(NamedTuple):
    """An upload that runs: what was found of it, what sends its files, and what digests and compresses."""

    run: UploadRun
    state: UploadState
    sender: FileSender
    threads: ThreadPoolExecutor

    def begin_group(self, layout: ChunkLayout, blocks: tuple[int, int], pixels_sha256: list[str]) -> FileGroup:
        """Open the files of some view blocks that are not there, and have them sent while they are built.

        Until they are whole, `pixels_sha256` has been filled with the digests of the source's pixels in them.
        """
        self.sender.make_room()
        run, records = self.run, self.state.records
        missing = [index for index in range(layout.n_bins) if layout.file_name(index, blocks) not in records]
        version = self.state.schema_version
        group = FileGroup(layout, run.scan.scan_id, blocks, missing, run.spool_folder, version)
        sends = [functools.partial(self._send, group, index, pixels_sha256) for index in missing]
        self.sender.send(group, sends)
        return group

    def end_group(self, group: FileGroup, layout: ChunkLayout, blocks: tuple[int, int]) -> None:
        """All blocks are written: the files are whole, and those that were there before are counted."""
        group.finish()
        for index in range(layout.n_bins):
            record = self.state.records.get(layout.file_name(index, blocks))
            if record is not None:
                self.run.count_file(record, kept=True)

    def _send(self, group: FileGroup, index: int, pixels_sha256: list[str]) -> None:
        """Publish one file of a group and record it."""
        run = self.run

        def sent(n_bytes: int) -> None:
            self.sender.go_on()
            run.count_sent(n_bytes)

        file, group_bytes = group.publish(run.store, index, sent)
        record = FileRecord(file, group_bytes, tuple(pixels_sha256))
        if self.state.manifest is None:
            record_file(run.store, run.scan.scan_id, record)
        run.count_file(record, kept=False)


def _upload_views(work: _Work) -> list[str]:
    """Upload the projections; return the digest of every view."""
    run, state, layout = work.run, work.state, work.state.layout
    digests: list[str] = []
    for blocks in layout.file_blocks:
        names = [layout.file_name(index, blocks) for index in range(layout.n_bins)]
        whole = any(name not in state.records for name in names)
        expected = _expected_views(state, layout, blocks)
        in_group: list[str] = []
        group = work.begin_group(layout, blocks, in_group)
        for block in range(*blocks):
            work.sender.require_sound()
            for start, frames in _read_block(run, layout, block, whole=whole):
                writing = group.submit_block(work.threads, block, frames) if whole else []
                found = _take_views(work, frames, writing)
                for view, digest in enumerate(found, start=start):
                    require_same_pixels(run.scan, state, f"view {view}", digest, expected.get(view, digest))
                in_group += found
                n_views = frames.shape[1]
                del frames  # before the next block is read: the memory is for one
                run.count_views(n_views)
        work.end_group(group, layout, blocks)
        digests += in_group
    return digests


def _take_views(work: _Work, frames: NDArray[Any], writing: list[Future[None]]) -> list[str]:
    """Digest views (bin, view, row, col) and count their pixels while they are written; return the digests."""
    threads, run = work.threads, work.run
    digests = [threads.submit(_view_digest, frames[:, view]) for view in range(frames.shape[1])]
    counts = [threads.submit(frame_statistics, index, frames[index]) for index in range(len(frames))]
    running: list[Future[Any]] = [*writing, *digests, *counts]
    wait(running)
    for written in writing:
        written.result()
    run.statistics = merge_statistics(run.statistics, tuple(one.result() for one in counts))
    return [one.result() for one in digests]


def _upload_fields(work: _Work, layouts: dict[str, ChunkLayout], digests: dict[str, str]) -> None:
    """Upload flat and dark frames and the mask of bad pixels, as far as the scan has them."""
    run, state = work.run, work.state
    scan = run.scan
    old = state.manifest.digests if state.manifest is not None else None
    for kind, position, frames in _field_arrays(run.reader):
        name = layout_name(kind, position)
        what = {"flat": "the flat frames", "dark": "the dark frames"}.get(kind, "the mask of bad pixels")
        what = what if position is None else f"{what} of camera position {position}"
        recorded = None if old is None else old.of(kind, position)
        if frames is None:
            if recorded is not None:
                require_same_pixels(scan, state, what, "", recorded)
            continue
        layout = frames_layout(kind, scan, frames.shape[1], position)
        digest = hashlib.sha256(_little_endian(frames).data).hexdigest()
        blocks = (0, layout.n_view_blocks)
        for index in range(layout.n_bins):
            record = state.records.get(layout.file_name(index, blocks))
            if record is not None:
                require_same_pixels(scan, state, what, digest, record.pixels_sha256[0])
        if old is not None:
            require_same_pixels(scan, state, what, digest, recorded)
        group = work.begin_group(layout, blocks, [digest])
        for block, (start, stop) in enumerate(layout.view_blocks):
            written = group.submit_block(work.threads, block, frames[:, start:stop])
            wait(written)
            for one in written:
                one.result()
        work.end_group(group, layout, blocks)
        layouts[name], digests[name] = layout, digest


def _field_arrays(reader: ScanReader) -> Iterator[tuple[ChunkKind, int | None, NDArray[Any] | None]]:
    """Flat and dark frames, by camera position where they are, and the mask, each checked; None where there are none.

    Each is (bin, frame, row, col); the frames of one position are held at a time.
    """
    scan = reader.scan
    source = f"scan {scan.scan_id}"
    kinds: tuple[tuple[ChunkKind, FieldFrames | None, Callable[..., NDArray[Any] | None]], ...] = (
        ("flat", scan.flats, reader.read_flats), ("dark", scan.darks, reader.read_darks),
    )  # fmt: skip
    for kind, described, read in kinds:
        for position in (None,) if described is None else described.positions:
            frames = read() if position is None else read(position)
            first, end = (0, 0) if described is None else described.frames_at(position)
            found = 0 if frames is None else frames.shape[1]
            if end - first != found:
                where = "" if position is None else f" at camera position {position}"
                raise IncompleteScanError(
                    f"{source}: it says {end - first} {kind} frames{where}, its files hold {found}"
                )
            if frames is not None:
                _check_shape(frames, (len(scan.bins), found, scan.n_rows, scan.n_cols), scan, f"{kind} frames")
                check_frames(frames, first, source, kind=f"{kind} frame")
            yield kind, position, frames
    mask = reader.read_bad_pixels()
    if mask is not None and (mask.shape != (scan.n_rows, scan.n_cols) or mask.dtype != np.bool_):
        raise FrameFormatError(
            f"{source}: the mask of bad pixels must be {(scan.n_rows, scan.n_cols)} bool, got {mask.shape} {mask.dtype}"
        )
    yield "bad_pixels", None, None if mask is None else mask.astype(np.uint8)[None, None]


def _field_digests(kind: ChunkKind, described: FieldFrames | None, digests: dict[str, str]) -> FieldDigests:
    """Digests of flat or dark frames: of the one set, or of each camera position's."""
    if described is None or not described.by_position:
        return digests.get(kind)
    return tuple(digests[layout_name(kind, position)] for position in described.positions)


def _read_block(run: UploadRun, layout: ChunkLayout, block: int, *, whole: bool) -> Iterator[tuple[int, NDArray[Any]]]:
    """The views of a block, (bin, view, row, col) and checked; in pieces that fit the memory unless `whole`."""
    scan = run.scan
    first, end = layout.view_blocks[block]
    view_bytes = layout.pixel_bytes // layout.n_views
    step = max(1, min(end - first, run.memory_bytes // view_bytes))
    if whole and step < end - first:
        raise IngestError(
            f"scan {scan.scan_id}: its upload was begun with {(end - first) * view_bytes} B of memory, "
            f"got {run.memory_bytes} B: give it as much, or begin anew with restart"
        )
    for start in range(first, end, step):
        stop = min(start + step, end)
        if run.wait_for_view is not None:
            run.wait_for_view(stop)
        frames = run.reader.read_views(start, stop)
        _check_shape(frames, (len(scan.bins), stop - start, scan.n_rows, scan.n_cols), scan, f"views {start}:{stop}")
        check_frames(frames, start, f"scan {scan.scan_id}", content=scan.content)
        yield start, frames
        del frames


def _manifest(
    run: UploadRun, state: UploadState, layouts: dict[str, ChunkLayout], digests: PixelDigests
) -> ScanManifest:
    """The manifest; of a scan that is there already it differs at most in files that were written again."""
    files = sorted(
        (record.file for record in run.records), key=lambda f: (KINDS.index(f.kind), f.bin_index, f.blocks, f.name)
    )
    layout = state.layout
    if state.manifest is not None:
        group_bytes = state.manifest.group_bytes
    else:
        totals = np.zeros((layout.n_bins, len(layout.row_groups)), dtype=np.int64)
        for record in run.records:
            if record.file.kind == "projection":
                totals[record.file.bin_index] += record.group_bytes
        group_bytes = tuple(tuple(int(size) for size in sizes) for sizes in totals)
    return ScanManifest(run.scan, digests, layouts, tuple(files), group_bytes, state.schema_version)


def _expected_views(state: UploadState, layout: ChunkLayout, blocks: tuple[int, int]) -> dict[int, str]:
    """Digests that the views of these blocks must have, as far as they were uploaded before."""
    start, stop = layout.file_views(blocks)
    if state.manifest is not None:
        return dict(zip(range(start, stop), state.manifest.digests.views[start:stop], strict=True))
    expected: dict[int, str] = {}
    for index in range(layout.n_bins):
        record = state.records.get(layout.file_name(index, blocks))
        if record is not None:
            expected.update(zip(range(start, stop), record.pixels_sha256, strict=True))
    return expected


def _view_digest(frames: NDArray[Any]) -> str:
    """Sha256 of a view over all bins; frames (bin, row, col)."""
    digest = hashlib.sha256()
    for energy_bin in frames:
        digest.update(_little_endian(energy_bin).data)
    return digest.hexdigest()


def _little_endian(frames: NDArray[Any]) -> NDArray[Any]:
    """Frames in C order, little-endian; no copy where they are so already."""
    return np.ascontiguousarray(frames, dtype=frames.dtype.newbyteorder("<"))


def _check_shape(frames: NDArray[Any], shape: tuple[int, ...], scan: Scan, what: str) -> None:
    """Refuse frames of another shape or type than the scan says."""
    if frames.shape != shape or frames.dtype.newbyteorder("=") != np.dtype(scan.pixel_type):
        raise FrameFormatError(
            f"scan {scan.scan_id}: {what} must be {shape} {scan.pixel_type}, got {frames.shape} {frames.dtype}"
        )
