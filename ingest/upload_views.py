# SPDX-License-Identifier: Apache-2.0
"""The projections of an upload: read piece by piece, digested, counted and split in one go, packed block by block.

Three things go on at once: the next piece of views is read, those before are taken, the block before is packed into
its files (and what is packed is sent, see `ingest.sender`).
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ingest.block_planes import BlockPlanes
from ingest.chunk_writer import pixel_columns
from ingest.errors import FrameFormatError, IngestError
from ingest.frame_statistics import frame_statistics, merge_statistics
from ingest.frames import check_frames
from ingest.pixel_digests import pixel_digest
from ingest.upload_state import require_same_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from ingest.chunk_layout import ChunkLayout
    from ingest.frame_statistics import BinStatistics
    from ingest.pixel_digests import DigestAlgorithm
    from ingest.scan import Scan
    from ingest.spool import FileGroup
    from ingest.upload_run import UploadRun, UploadWork

#: Share of the memory that one piece of views takes at most; one is read while others are taken.
PIECE_SHARE = 1 / 8
#: A piece is no larger than this [B] unless a view is: it still lies in a cache when it is taken, and the next ones are
#: given its memory, where larger ones would have fresh pages, whose first touch costs more than reading does.
PIECE_BYTES = 24_000_000
#: Pieces that are held at once, where their share of the memory takes them.
MAX_PIECES = 4


def upload_views(work: UploadWork) -> list[str]:
    """Upload the projections; return the digest of every view."""
    layout, views = work.state.layout, _Views(work)
    for blocks in layout.file_blocks:
        group = _OpenGroup(blocks, work.lacks_files(layout, blocks))
        for block in range(*blocks):
            for first, frames in _read_block(work.run, layout, block, whole=group.whole):
                work.sender.require_sound()
                views.take(_Piece(group, block, first, frames))
                del frames  # before the next piece is read: so many are counted
    return views.finish()


@dataclass(slots=True)
class _OpenGroup:
    """View blocks that share files; these are opened when the first piece is taken, or are all there."""

    blocks: tuple[int, int]
    whole: bool
    files: FileGroup | None = None


class _Piece(NamedTuple):
    """Some views of a block, frames (bin, view, row, col), the first being number `first` of the scan."""

    group: _OpenGroup
    block: int
    first: int
    frames: NDArray[Any]


class _Views:
    """Takes piece after piece, some at once; a block is packed when its last piece is taken."""

    def __init__(self, work: UploadWork) -> None:
        self._work = work
        self._layout = work.state.layout
        self._digests: list[str] = []
        self._in_group: list[str] = []
        self._expected: dict[int, str] = {}
        self._group: _OpenGroup | None = None
        self._block = -1
        self._taking: deque[tuple[_Piece, list[Future[tuple[str, tuple[BinStatistics, ...]]]]]] = deque()
        self._planes: list[dict[int, BlockPlanes]] = []
        self._packing: list[list[Future[None]]] = []

    def take(self, piece: _Piece) -> None:
        """Begin with a piece; so many of those before are done then that only the pieces counted are held."""
        new_block = piece.block != self._block
        self._end_pieces(0 if new_block else pieces_held(self._layout, self._work.run.memory_bytes) - 2)
        if piece.group is not self._group:
            self._end_group()
            self._begin_group(piece.group)
        block_start, block_stop = self._layout.view_blocks[piece.block]
        if new_block:
            self._block = piece.block
            if piece.group.whole:
                self._begin_block(block_stop - block_start)
        planes = self._planes[-1] if piece.group.whole else {}
        threads, algorithm = self._work.threads, self._work.state.algorithm
        running = [
            threads.submit(_take_view, piece.frames[:, index], planes, piece.first + index - block_start, algorithm)
            for index in range(piece.frames.shape[1])
        ]
        self._taking.append((piece, running))

    def finish(self) -> list[str]:
        """Return the digests of all views, once all blocks are packed."""
        self._end_pieces(0)
        self._end_group()
        return self._digests

    def _begin_group(self, group: _OpenGroup) -> None:
        """Open files."""
        self._group, self._in_group = group, []
        self._expected = _expected_views(self._work, group.blocks)
        last = self._work.run.wait_for_view is None and group.blocks == self._layout.file_blocks[-1]
        group.files = self._work.begin_group(self._layout, group.blocks, self._in_group, last=last)

    def _begin_block(self, n_views: int) -> None:
        """Have memory for a block: new, or that of the block before last once it is packed."""
        if len(self._planes) < n_blocks_held(self._layout, self._work.run.memory_bytes, self._work.n_threads):
            n_planes = len(pixel_columns(self._layout, self._work.state.schema_version))
            planes = {index: BlockPlanes(self._layout, n_planes) for index in range(self._layout.n_bins)}
            self._planes.append(planes)
            self._packing.append([])
        else:
            _wait_for(self._packing[0])
            self._planes.append(self._planes.pop(0))
            self._packing.append(self._packing.pop(0))
        for one in self._planes[-1].values():
            one.begin(n_views)

    def _end_pieces(self, n_left: int) -> None:
        """Wait until no more pieces than that are being taken."""
        while len(self._taking) > n_left:
            self._end_piece(*self._taking.popleft())

    def _end_piece(self, piece: _Piece, running: list[Future[tuple[str, tuple[BinStatistics, ...]]]]) -> None:
        """Wait until a piece is taken; with its block complete, have that packed."""
        work = self._work
        wait(running)
        found = [one.result() for one in running]
        for view, (digest, statistics) in enumerate(found, start=piece.first):
            expected = self._expected.get(view, digest)
            require_same_pixels(work.run.scan, work.state, f"view {view}", digest, expected)
            work.run.statistics = merge_statistics(work.run.statistics, statistics)
            self._in_group.append(digest)
        if piece.group.files is not None and piece.group.whole:
            if piece.first + len(found) == self._layout.view_blocks[piece.block][1]:
                for before in self._packing:  # blocks go into a file in their order
                    _wait_for(before)
                self._packing[-1] = piece.group.files.submit_planes(work.threads, piece.block, self._planes[-1])
        work.run.count_views(len(found))

    def _end_group(self) -> None:
        """Wait until the files are whole."""
        for running in self._packing:
            _wait_for(running)
        if self._group is not None and self._group.files is not None:
            self._work.count_kept(self._layout, self._group.blocks)
            self._digests += self._in_group
        self._group = None


def n_blocks_held(layout: ChunkLayout, memory_bytes: int, n_threads: int) -> int:
    """Return how many view blocks of all bins are held: two, one being packed, where that is quicker and there is room.

    A thread packs the block of a bin.  Where all threads have a bin to pack, nobody could take views for the next block
    meanwhile, and the first touch of its memory would take time.
    """
    pieces = pieces_held(layout, memory_bytes) * views_of_piece(layout, memory_bytes)
    fits = (2 * layout.view_block + pieces) * layout.view_bytes <= memory_bytes
    return 2 if fits and layout.n_bins < n_threads else 1


def pieces_held(layout: ChunkLayout, memory_bytes: int) -> int:
    """Pieces of views that are held at once, one of them being read: two, or more where they are small."""
    piece_bytes = views_of_piece(layout, memory_bytes) * layout.view_bytes
    return max(2, min(MAX_PIECES, int(2 * memory_bytes * PIECE_SHARE) // piece_bytes))


def views_of_piece(layout: ChunkLayout, memory_bytes: int) -> int:
    """Views that are read at once, at least one."""
    at_most = max(1, min(layout.view_block, min(int(memory_bytes * PIECE_SHARE), PIECE_BYTES) // layout.view_bytes))
    n_pieces = -(-layout.view_block // at_most)
    return -(-layout.view_block // n_pieces)


def _wait_for(running: list[Future[None]]) -> None:
    """Wait for all and raise what went wrong."""
    wait(running)
    for one in running:
        one.result()
    running.clear()


def _take_view(
    frames: NDArray[Any], planes: Mapping[int, BlockPlanes], view: int, algorithm: DigestAlgorithm
) -> tuple[str, tuple[BinStatistics, ...]]:
    """Digest and count a view, frames (bin, row, col), and put it into the planes of its block, each bin in one go."""
    statistics = []

    def bins() -> Iterator[NDArray[Any]]:
        for index, frame in enumerate(frames):
            yield frame
            # Just digested, it lies in the core's cache.
            statistics.append(frame_statistics(index, frame[np.newaxis]))
            if index in planes:
                planes[index].put_view(view, frame)

    digest = pixel_digest(bins(), algorithm)
    return digest, tuple(statistics)


def _read_block(run: UploadRun, layout: ChunkLayout, block: int, *, whole: bool) -> Iterator[tuple[int, NDArray[Any]]]:
    """The views of a block in pieces, (bin, view, row, col), checked, each with the number of its first view."""
    scan = run.scan
    first, end = layout.view_blocks[block]
    block_bytes = (end - first) * layout.view_bytes
    if whole and end - first > 1 and block_bytes > run.memory_bytes:
        raise IngestError(
            f"scan {scan.scan_id}: its upload was begun with {block_bytes} B of memory, "
            f"got {run.memory_bytes} B: give it as much, or begin anew with restart"
        )
    step = views_of_piece(layout, run.memory_bytes)
    for start in range(first, end, step):
        stop = min(start + step, end)
        if run.wait_for_view is not None:
            run.wait_for_view(stop)
        frames = run.reader.read_views(start, stop)
        require_shape(frames, (len(scan.bins), stop - start, scan.n_rows, scan.n_cols), scan, f"views {start}:{stop}")
        check_frames(frames, start, f"scan {scan.scan_id}", content=scan.content)
        yield start, frames
        del frames


def _expected_views(work: UploadWork, blocks: tuple[int, int]) -> dict[int, str]:
    """Digests that the views of these blocks must have, as far as they were uploaded before."""
    state, layout = work.state, work.state.layout
    start, stop = layout.file_views(blocks)
    if state.manifest is not None:
        return dict(zip(range(start, stop), state.manifest.digests.views[start:stop], strict=True))
    expected: dict[int, str] = {}
    for index in range(layout.n_bins):
        record = state.records.get(layout.file_name(index, blocks))
        if record is not None:
            expected.update(zip(range(start, stop), record.pixel_digests, strict=True))
    return expected


def require_shape(frames: NDArray[Any], shape: tuple[int, ...], scan: Scan, what: str) -> None:
    """Refuse frames of another shape or type than the scan says."""
    if frames.shape != shape or frames.dtype.newbyteorder("=") != np.dtype(scan.pixel_type):
        raise FrameFormatError(
            f"scan {scan.scan_id}: {what} must be {shape} {scan.pixel_type}, got {frames.shape} {frames.dtype}"
        )
