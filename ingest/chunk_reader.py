# SPDX-License-Identifier: Apache-2.0
"""Reads bands of detector rows back from the chunk files of a scan, by ranged reads."""

from __future__ import annotations

import functools
import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ingest.chunk_files import ChunkFiles
from ingest.chunk_manifest import read_manifest, scan_folder
from ingest.chunk_writer import (
    CHECKSUM_COLUMN,
    KEY_COLUMNS,
    METADATA_KEY,
    chunk_metadata,
    pixel_columns,
    rows_crc32,
)
from ingest.errors import ChunkCorruptError, IngestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ingest.chunk_layout import ChunkKind, ChunkLayout
    from ingest.chunk_manifest import ScanManifest
    from ingest.scan import Scan
    from storage.filesystem import Store

#: Pixel bytes of the row groups that one ranged read takes, before compression.  hdfs-native takes nearly twice the
#: time for each byte of larger ones (measured), and several at once are read and unpacked side by side.
MAX_RANGED_READ_BYTES = 8 * 1024 * 1024
#: Ranged reads of a band of rows at once, each unpacked by the thread that has fetched it.
READ_THREADS = 3
#: Pixels are put together from planes in pieces that stay in a core's cache [B].
_TILE_BYTES = 1 << 18
#: A row group may be this much larger than its pixels before it is taken for a decompression bomb.
_PAGE_SLACK_BYTES = 65_536


class RangedReads(NamedTuple):
    """What reading a band of rows of all views costs: ranged reads, stored bytes, pixel bytes, in whole row groups."""

    n_reads: int
    stored_bytes: int
    pixel_bytes: int


class StoredScan:
    """A scan in the store: its manifest, and its pixels by bands of detector rows.

    Opening reads the manifest only.  Footers are read when a file is first needed and kept, so a process
    should keep the object.  It holds no open file; several threads may read at once.

    Attributes
    ----------
    store : where the scan is.
    manifest : the manifest.
    manifest_sha256 : identity of the scan, see `ScanManifest.sha256`.
    """

    def __init__(self, store: Store, manifest: ScanManifest) -> None:
        self.store = store
        self.manifest = manifest
        self.manifest_sha256 = manifest.sha256
        self._file_bytes = {file.name: file.bytes for file in manifest.files}
        self._files = ChunkFiles(store, scan_folder(manifest.scan.scan_id))

    @property
    def scan(self) -> Scan:
        """Everything about the scan except its pixels."""
        return self.manifest.scan

    @property
    def layout(self) -> ChunkLayout:
        """How the projections are cut up."""
        return self.manifest.layouts["projection"]

    @property
    def view_blocks(self) -> tuple[tuple[int, int], ...]:
        """First and end view of each view block."""
        return self.layout.view_blocks

    @property
    def n_view_blocks(self) -> int:
        """Number of view blocks."""
        return self.layout.n_view_blocks

    def read_rows(
        self,
        bin_index: int,
        view_block_index: int,
        row_start: int,
        row_stop: int,
        *,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Read a band of detector rows of one view block.

        Parameters
        ----------
        bin_index, view_block_index : int
            Index origin 0.
        row_start, row_stop : int
            The rows ``row_start <= row < row_stop``.
        out : (view, row, col) array of `Scan.pixel_type`, optional
            Written to and returned.

        Returns
        -------
        (view, row, col) `Scan.pixel_type`
            Counts of the block's views.

        Raises
        ------
        ChunkCorruptError
            If stored bytes are not what was written: names scan, bin, row, view block and file.
        IngestError
            If an index lies outside of the scan, or `out` does not fit.
        """
        return self._read(self.layout, bin_index, view_block_index, row_start, row_stop, out)

    def read_rows_by_row(self, bin_index: int, view_block_index: int, row_start: int, row_stop: int) -> NDArray[Any]:
        """Like `read_rows`, but (row, view, col), the order in which it is stored."""
        layout = self.layout
        self._require(layout, bin_index, view_block_index, row_start, row_stop)
        start, stop = layout.view_blocks[view_block_index]
        out = np.empty((row_stop - row_start, stop - start, layout.n_cols), dtype=layout.pixel_type)
        self._read_windows(layout, bin_index, view_block_index, (row_start, row_stop), out)
        return out

    def read_view(self, bin_index: int, view_index: int) -> NDArray[Any]:
        """Read one projection as (row, col); it costs reading its whole view block, a few row groups at a time."""
        layout = self.layout
        if not 0 <= view_index < layout.n_views:
            raise IngestError(f"scan {self.scan.scan_id} has {layout.n_views} views, asked for view {view_index}")
        block, offset = divmod(view_index, layout.view_block)
        self._require(layout, bin_index, block, 0, layout.n_rows)
        frame = np.empty((layout.n_rows, 1, layout.n_cols), dtype=layout.pixel_type)
        self._read_windows(layout, bin_index, block, (0, layout.n_rows), frame, first_view=offset)
        return frame[:, 0]

    def read_flats(
        self, bin_index: int, row_start: int = 0, row_stop: int | None = None, *, position: int | None = None
    ) -> NDArray[Any] | None:
        """Read a band of rows of the flat frames as (frame, row, col), or None if the scan has none.

        `position` is the camera position of the views that they are for; without one the set that serves all views.

        Raises
        ------
        IngestError
            If each position has flat frames of its own and none is named, or there is no such position.
        """
        return self._read_frames("flat", bin_index, row_start, row_stop, position)

    def read_darks(
        self, bin_index: int, row_start: int = 0, row_stop: int | None = None, *, position: int | None = None
    ) -> NDArray[Any] | None:
        """Read a band of rows of the dark frames as `read_flats` does."""
        return self._read_frames("dark", bin_index, row_start, row_stop, position)

    def read_bad_pixels(self, row_start: int = 0, row_stop: int | None = None) -> NDArray[np.bool_] | None:
        """Read a band of rows of the mask of bad pixels as (row, col) bool, or None if the scan has none."""
        mask = self._read_frames("bad_pixels", 0, row_start, row_stop)
        return None if mask is None else mask[0] != 0

    def ranged_reads_for(self, row_start: int, row_stop: int, *, bin_index: int | None = None) -> RangedReads:
        """Return what reading a band of rows of all views costs, from the manifest alone.

        Parameters
        ----------
        row_start, row_stop : int
            The rows ``row_start <= row < row_stop``.
        bin_index : int, optional
            One bin; all of them by default.
        """
        layout = self.layout
        self._require(layout, 0 if bin_index is None else bin_index, 0, row_start, row_stop)
        first, end = layout.groups_of_rows(row_start, row_stop)
        rows = min(end * layout.row_group, layout.n_rows) - first * layout.row_group
        bins = range(layout.n_bins) if bin_index is None else [bin_index]
        return RangedReads(
            n_reads=len(bins) * layout.n_view_blocks * math.ceil((end - first) / window_groups(layout)),
            stored_bytes=sum(sum(self.manifest.group_bytes[index][first:end]) for index in bins),
            pixel_bytes=len(bins) * layout.n_views * rows * layout.n_cols * layout.dtype.itemsize,
        )

    def _read_frames(
        self, kind: ChunkKind, bin_index: int, row_start: int, row_stop: int | None, position: int | None = None
    ) -> NDArray[Any] | None:
        """All frames of a kind that serve a camera position's views, (frame, row, col)."""
        layout = self.manifest.layout_of(kind, position)
        if layout is None:
            known = len(self.manifest.field_layouts(kind))
            if not known:
                return None
            asked = "none is named" if position is None else f"position {position} is asked for"
            raise IngestError(
                f"scan {self.scan.scan_id} has {kind} frames of the camera positions 0 to {known - 1}, but {asked}"
            )
        row_stop = layout.n_rows if row_stop is None else row_stop
        blocks = range(layout.n_view_blocks)
        return np.concatenate([self._read(layout, bin_index, block, row_start, row_stop, None) for block in blocks])

    def _read(
        self,
        layout: ChunkLayout,
        bin_index: int,
        block_index: int,
        row_start: int,
        row_stop: int,
        out: NDArray[Any] | None,
    ) -> NDArray[Any]:
        """A band of rows of one view block, (view, row, col)."""
        self._require(layout, bin_index, block_index, row_start, row_stop)
        start, stop = layout.view_blocks[block_index]
        shape = (stop - start, row_stop - row_start, layout.n_cols)
        dtype = np.dtype(layout.pixel_type)
        if out is None:
            out = np.empty(shape, dtype=dtype)
        elif out.shape != shape or out.dtype != dtype:
            raise IngestError(f"rows {row_start}:{row_stop} need an array {shape} {dtype}, got {out.shape} {out.dtype}")
        self._read_windows(layout, bin_index, block_index, (row_start, row_stop), out.transpose(1, 0, 2))
        return out

    def _read_windows(
        self,
        layout: ChunkLayout,
        bin_index: int,
        block_index: int,
        rows: tuple[int, int],
        out: NDArray[Any],
        *,
        first_view: int = 0,
    ) -> None:
        """Read a band of rows into `out` (row, view, col), whose views are those of the block from `first_view` on."""
        blocks = next(b for b in layout.file_blocks if b[0] <= block_index < b[1])
        name = layout.file_name(bin_index, blocks)
        where = f"scan {self.scan.scan_id}, bin {bin_index}, view block {block_index}, file {name}"
        footer = self._checked_footer(layout, bin_index, blocks, where)
        first, end = layout.groups_of_rows(*rows)
        skipped = (block_index - blocks[0]) * len(layout.row_groups)
        self._check_size(footer, range(skipped + first, skipped + end), layout, where)
        file = _OpenFile(name, footer, where, pixel_columns(layout, self.manifest.schema_version))
        step = window_groups(layout)
        windows = [range(group, min(group + step, end)) for group in range(first, end, step)]
        _side_by_side(
            [
                functools.partial(self._read_window, layout, file, block_index, skipped, groups, rows, out, first_view)
                for groups in windows
            ]
        )

    def _read_window(
        self,
        layout: ChunkLayout,
        file: _OpenFile,
        block_index: int,
        skipped: int,
        groups: range,
        rows: tuple[int, int],
        out: NDArray[Any],
        first_view: int,
    ) -> None:
        """Fetch row groups of a block by one ranged read, verify every checksum, put their pixels where they belong.

        The file has `skipped` row groups before the block.
        """
        spans = [layout.row_groups[group] for group in groups]
        start, stop = layout.view_blocks[block_index]
        n_views = out.shape[1]
        stored = range(skipped + groups[0], skipped + groups[-1] + 1)
        columns = [CHECKSUM_COLUMN, *file.pixels]
        try:
            fetched = self._files.fetch_groups(file.name, file.footer, stored, columns)
            for group, span in zip(stored, spans, strict=True):
                about, n_rows = file.footer.row_group(group), span[1] - span[0]
                checksums = self._files.unpack_numbers(file.name, about, len(KEY_COLUMNS), n_rows, fetched)
                cell_bytes = (stop - start) * layout.n_cols * (layout.dtype.itemsize // len(file.pixels))
                planes = [
                    self._files.unpack_cells(file.name, about, len(KEY_COLUMNS) + 1 + i, n_rows, cell_bytes, fetched)
                    for i in range(len(file.pixels))
                ]
                first, end = max(rows[0], span[0]), min(rows[1], span[1])
                wanted = slice(first - span[0], end - span[0])
                planes = [plane[wanted] for plane in planes]
                _verify(planes, checksums[wanted], first, file.where)
                view_bytes = cell_bytes // (stop - start)
                shown = slice(first_view * view_bytes, (first_view + n_views) * view_bytes)
                _put_together([plane[:, shown] for plane in planes], out[first - rows[0] : end - rows[0]])
        except _WrongRowError:
            raise
        except ChunkCorruptError as error:
            asked = (max(rows[0], spans[0][0]), min(rows[1], spans[-1][1]))
            raise ChunkCorruptError(f"{file.where}, rows {asked[0]} to {asked[1] - 1}: {error}") from error

    def _checked_footer(self, layout: ChunkLayout, bin_index: int, blocks: tuple[int, int], where: str) -> Any:
        """The footer of a file, once it says that it is what the manifest says it is."""
        name = layout.file_name(bin_index, blocks)
        if name not in self._file_bytes:
            raise ChunkCorruptError(f"{where}: the manifest does not list the file")
        try:
            footer = self._files.footer(name, self._file_bytes[name])
            names = footer.schema.names
            found = json.loads((footer.metadata or {}).get(METADATA_KEY.encode(), b"{}"))
        except (ChunkCorruptError, ValueError) as error:
            raise ChunkCorruptError(f"{where}: {error}") from error
        version = self.manifest.schema_version
        expected = chunk_metadata(self.scan.scan_id, layout, bin_index, blocks, version)
        for key, value in expected.items():
            if found.get(key) != value:
                raise ChunkCorruptError(f"{where}: the file has {key} {found.get(key)!r}, the manifest {value!r}")
        columns = [*KEY_COLUMNS, CHECKSUM_COLUMN, *pixel_columns(layout, version)]
        if names != columns:
            raise ChunkCorruptError(f"{where}: the file has the columns {names}, expected {columns}")
        n_groups = (blocks[1] - blocks[0]) * len(layout.row_groups)
        if footer.num_row_groups != n_groups:
            raise ChunkCorruptError(f"{where}: the file has {footer.num_row_groups} row groups, expected {n_groups}")
        return footer

    def _require(self, layout: ChunkLayout, bin_index: int, block_index: int, row_start: int, row_stop: int) -> None:
        """Refuse indices outside of the scan."""
        inside = 0 <= bin_index < layout.n_bins and 0 <= block_index < layout.n_view_blocks
        if not inside or not 0 <= row_start < row_stop <= layout.n_rows:
            raise IngestError(
                f"scan {self.scan.scan_id} has {layout.n_bins} bins, {layout.n_view_blocks} view blocks and "
                f"{layout.n_rows} rows of kind {layout.kind}; asked for bin {bin_index}, "
                f"block {block_index}, rows {row_start}:{row_stop}"
            )

    def _check_size(self, footer: Any, groups: range, layout: ChunkLayout, where: str) -> None:
        """Refuse a row group that would unpack to more than its pixels."""
        limit = layout.row_group * layout.view_block * layout.n_cols * layout.dtype.itemsize + _PAGE_SLACK_BYTES
        for group in groups:
            size = footer.row_group(group).total_byte_size
            if size > limit:
                raise ChunkCorruptError(f"{where}: row group {group} unpacks to {size} B, expected at most {limit} B")


def open_scan_chunks(store: Store, scan_id: str) -> StoredScan:
    """Open a stored scan; UnknownScanError if there is none of that id, ChunkCorruptError if its manifest is broken."""
    return StoredScan(store, read_manifest(store, scan_id))


def window_groups(layout: ChunkLayout) -> int:
    """Return how many row groups one ranged read takes at most."""
    group_bytes = layout.row_group * layout.view_block * layout.n_cols * layout.dtype.itemsize
    return max(1, MAX_RANGED_READ_BYTES // group_bytes)


class _OpenFile(NamedTuple):
    """A chunk file that is read: name, footer, what to call it in messages, names of its columns of pixels."""

    name: str
    footer: Any
    where: str
    pixels: tuple[str, ...]


class _WrongRowError(ChunkCorruptError):
    """Says already which row it is."""


def _side_by_side(reads: Sequence[Callable[[], None]]) -> None:
    """Do all reads, a few at once; a single one needs no thread.  The first error, in their order, is raised."""
    if len(reads) == 1:
        reads[0]()
        return
    with ThreadPoolExecutor(min(READ_THREADS, len(reads)), thread_name_prefix="conepacs-read") as threads:
        running = [threads.submit(read) for read in reads]
        try:
            for one in running:
                one.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _verify(planes: list[NDArray[np.uint8]], checksums: NDArray[np.int64], first_row: int, where: str) -> None:
    """Compare each detector row, its planes (row, byte) one after the other, with the checksum it was written with."""
    wrong = np.flatnonzero(rows_crc32(planes) != checksums)
    if wrong.size:
        row = first_row + int(wrong[0])
        raise _WrongRowError(f"{where}: detector row {row} does not have the checksum it was written with")


def _put_together(planes: list[NDArray[np.uint8]], out: NDArray[Any]) -> None:
    """Make pixels `out` (row, view, col) of planes (row, byte): their bytes, the lowest first, or whole pixels."""
    n_rows, n_views, n_cols = out.shape
    if len(planes) == 1:
        out[...] = planes[0].view(out.dtype.newbyteorder("<")).reshape(out.shape)
        return
    word = np.dtype(f"u{len(planes)}")
    step = max(1, _TILE_BYTES // (n_views * n_cols * word.itemsize))
    for row in range(0, n_rows, step):
        some = slice(row, row + step)
        words = planes[-1][some].astype(word)
        for plane in planes[-2::-1]:
            words <<= word.type(8)
            words |= plane[some]
        out[some] = words.view(out.dtype).reshape(-1, n_views, n_cols)
