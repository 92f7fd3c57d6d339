# SPDX-License-Identifier: Apache-2.0
"""One run of an upload: reads view blocks, compares them with what was uploaded before, publishes files."""

from __future__ import annotations

import functools
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
from ingest.errors import FrameFormatError, IncompleteScanError
from ingest.frames import check_frames
from ingest.pixel_digests import pixel_digest
from ingest.sender import FileSender
from ingest.spool import FileGroup, bytes_at_once
from ingest.upload_report import UploadProgress, UploadReport, statistics_notes
from ingest.upload_state import (
    FileRecord,
    UploadState,
    begin_upload,
    record_file,
    record_header,
    require_same_pixels,
    sweep_upload,
)
from ingest.upload_views import require_shape, upload_views
from storage.errors import StorageError
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from ingest.chunk_layout import ChunkKind, ChunkLayout
    from ingest.chunk_manifest import ChunkFile, FieldDigests
    from ingest.frame_statistics import BinStatistics
    from ingest.readers import ScanReader
    from ingest.scan import FieldFrames, Scan
    from ingest.upload_report import UploadStage
    from storage.filesystem import Store

#: Threads that digest and compress.
MAX_THREADS = 4
#: The records of the last files are not written where all files are there before [s].
RECORD_DELAY_S = 1.0
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
    records: dict[str, FileRecord] = field(default_factory=dict)
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

    def add_record(self, record: FileRecord) -> bool:
        """Keep the record of a file that is in the store or on its way; return whether it is the first of the file."""
        with self._lock:
            is_first = record.file.name not in self.records
            self.records[record.file.name] = record
            return is_first

    def count_file(self, *, kept: bool) -> None:
        """Count a file that is in the store, and need not be sent again."""
        with self._lock:
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
    started = time.monotonic()
    scan, store = run.scan, run.store
    layout = projection_layout(scan, memory_bytes=run.memory_bytes, file_bytes=run.file_bytes)
    again = replace(run, records={}, _lock=threading.Lock())
    state = begin_upload(store, scan, layout, restart=restart)
    try:
        return _run_once(run, state, started)
    except StorageError as error:
        if state.manifest is not None or not store.exists(manifest_path(scan.scan_id)):
            raise
        _log.info("scan %s: another upload finished it meanwhile (%s); comparing with it", scan.scan_id, error)
        return _run_once(again, begin_upload(store, scan, layout), started)


def _run_once(run: UploadRun, state: UploadState, started: float) -> UploadReport:
    """One try of an upload, begun at `started` on the monotonic clock [s]."""
    scan = run.scan
    layouts = {"projection": state.layout}
    digests: dict[str, str] = {}
    run.pixel_bytes = state.layout.pixel_bytes
    n_threads = max(1, min(MAX_THREADS, os.cpu_count() or 1))
    with (
        FileSender(run.streams) as sender,
        ThreadPoolExecutor(n_threads, thread_name_prefix="conepacs-spool") as threads,
    ):
        if state.header is not None:
            sender.send_first(functools.partial(record_header, run.store, scan.scan_id, state.header))
        work = UploadWork(run, state, sender, threads, n_threads)
        # While a scanner writes, its flat frames may come last.
        if run.wait_for_view is None:
            _upload_fields(work, layouts, digests)
        view_digests = upload_views(work)
        if run.wait_for_view is not None:
            _upload_fields(work, layouts, digests)
        sender.wait_sent()
        manifest = _manifest(run, state, layouts, PixelDigests(
            tuple(view_digests), _field_digests("flat", scan.flats, digests),
            _field_digests("dark", scan.darks, digests), digests.get("bad_pixels"), state.algorithm,
        ))  # fmt: skip
        # A store takes its time to end a file: the manifest is written meanwhile, and shown when all files are there.
        if state.manifest is None or manifest.files != state.manifest.files:
            publish_bytes(
                run.store, manifest_path(scan.scan_id), manifest.to_bytes(), kind="replace",
                before_rename=sender.wait_published,
            )  # fmt: skip
        sender.wait()
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


class UploadWork(NamedTuple):
    """An upload that runs: what was found of it, what sends its files, and the threads that digest and compress."""

    run: UploadRun
    state: UploadState
    sender: FileSender
    threads: ThreadPoolExecutor
    n_threads: int

    def begin_group(
        self, layout: ChunkLayout, blocks: tuple[int, int], pixel_digests: list[str], *, last: bool = False
    ) -> FileGroup:
        """Open the files of some view blocks that are not there, and have them sent while they are built.

        Until they are whole, `pixel_digests` has been filled with the digests of the source's pixels in them.  After
        the `last` group comes the manifest.
        """
        self.sender.make_room()
        run, records = self.run, self.state.records
        missing = [index for index in range(layout.n_bins) if layout.file_name(index, blocks) not in records]
        group = FileGroup(
            layout, run.scan.scan_id, blocks, missing, run.spool_folder, self.state.schema_version,
            bytes_at_once(run.memory_bytes, run.streams),
        )  # fmt: skip
        sends = [functools.partial(self._send, group, index, pixel_digests, last) for index in missing]
        self.sender.send(group, sends)
        return group

    def lacks_files(self, layout: ChunkLayout, blocks: tuple[int, int]) -> bool:
        """Whether a file of these view blocks is not there."""
        return any(layout.file_name(index, blocks) not in self.state.records for index in range(layout.n_bins))

    def count_kept(self, layout: ChunkLayout, blocks: tuple[int, int]) -> None:
        """Count the files of some view blocks that were there before."""
        for index in range(layout.n_bins):
            record = self.state.records.get(layout.file_name(index, blocks))
            if record is not None:
                self.run.add_record(record)
                self.run.count_file(kept=True)

    def _send(self, group: FileGroup, index: int, pixel_digests: list[str], last: bool) -> None:
        """Publish one file of a group and record it."""
        run = self.run

        def sent(n_bytes: int) -> None:
            self.sender.go_on()
            run.count_sent(n_bytes)

        def sent_all(file: ChunkFile, group_bytes: tuple[int, ...]) -> None:
            if run.add_record(FileRecord(file, group_bytes, tuple(pixel_digests))):
                self.sender.sent()

        group.publish(run.store, index, sent, sent_all)
        self.sender.published()
        group.drop(index)
        # Nobody needs the records of the last files: the manifest follows at once.
        if self.state.manifest is None and not (last and self.sender.has_all(RECORD_DELAY_S)):
            record_file(run.store, run.scan.scan_id, run.records[group.file_name(index)], self.state.algorithm)
        run.count_file(kept=False)


def _upload_fields(work: UploadWork, layouts: dict[str, ChunkLayout], digests: dict[str, str]) -> None:
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
        digest = pixel_digest([frames], state.algorithm)
        blocks = (0, layout.n_view_blocks)
        for index in range(layout.n_bins):
            record = state.records.get(layout.file_name(index, blocks))
            if record is not None:
                require_same_pixels(scan, state, what, digest, record.pixel_digests[0])
        if old is not None:
            require_same_pixels(scan, state, what, digest, recorded)
        group = work.begin_group(layout, blocks, [digest])
        for block, (start, stop) in enumerate(layout.view_blocks):
            written = group.submit_block(work.threads, block, frames[:, start:stop])
            wait(written)
            for one in written:
                one.result()
        work.count_kept(layout, blocks)
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
                require_shape(frames, (len(scan.bins), found, scan.n_rows, scan.n_cols), scan, f"{kind} frames")
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


def _manifest(
    run: UploadRun, state: UploadState, layouts: dict[str, ChunkLayout], digests: PixelDigests
) -> ScanManifest:
    """The manifest; of a scan that is there already it differs at most in files that were written again."""
    files = sorted(
        (record.file for record in run.records.values()),
        key=lambda f: (KINDS.index(f.kind), f.bin_index, f.blocks, f.name),
    )
    layout = state.layout
    if state.manifest is not None:
        group_bytes = state.manifest.group_bytes
    else:
        totals = np.zeros((layout.n_bins, len(layout.row_groups)), dtype=np.int64)
        for record in run.records.values():
            if record.file.kind == "projection":
                totals[record.file.bin_index] += record.group_bytes
        group_bytes = tuple(tuple(int(size) for size in sizes) for sizes in totals)
    return ScanManifest(run.scan, digests, layouts, tuple(files), group_bytes, state.schema_version)
