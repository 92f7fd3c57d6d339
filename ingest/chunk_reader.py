# SPDX-License-Identifier: Apache-2.0
"""Reads bands of detector rows back from the chunk files of a scan, by ranged reads."""

from __future__ import annotations

import functools
import json
import math
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ingest.chunk_files import ChunkFiles
from ingest.chunk_manifest import read_manifest, scan_folder
from ingest.chunk_writer import CHECKSUM_COLUMN, CHUNK_SCHEMA, METADATA_KEY, PIXEL_COLUMN, chunk_metadata
from ingest.errors import ChunkCorruptError, IngestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ingest.chunk_files import FetchedGroups
    from ingest.chunk_layout import ChunkKind, ChunkLayout
    from ingest.chunk_manifest import ScanManifest
    from ingest.scan import Scan
    from storage.filesystem import Store

#: Pixel bytes of the row groups that one ranged read takes, before compression.
MAX_RANGED_READ_BYTES = 32 * 1024 * 1024
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
        return self._read("projection", bin_index, view_block_index, row_start, row_stop, out)

    def read_rows_by_row(self, bin_index: int, view_block_index: int, row_start: int, row_stop: int) -> NDArray[Any]:
        """Like `read_rows`, but (row, view, col) as it is stored: mostly without a copy, and then read-only."""
        windows = list(self._windows(self.layout, bin_index, view_block_index, row_start, row_stop))
        return windows[0] if len(windows) == 1 else np.concatenate(windows)

    def read_view(self, bin_index: int, view_index: int) -> NDArray[Any]:
        """Read one projection as (row, col); it costs reading its whole view block, a few row groups at a time."""
        layout = self.layout
        if not 0 <= view_index < layout.n_views:
            raise IngestError(f"scan {self.scan.scan_id} has {layout.n_views} views, asked for view {view_index}")
        block, offset = divmod(view_index, layout.view_block)
        frame = np.empty((layout.n_rows, layout.n_cols), dtype=layout.pixel_type)
        row = 0
        for cells in self._windows(layout, bin_index, block, 0, layout.n_rows):
            frame[row : row + len(cells)] = cells[:, offset]
            row += len(cells)
        return frame

    def read_flats(self, bin_index: int, row_start: int = 0, row_stop: int | None = None) -> NDArray[Any] | None:
        """Read a band of rows of all flat frames as (frame, row, col), or None if the scan has none."""
        return self._read_frames("flat", bin_index, row_start, row_stop)

    def read_darks(self, bin_index: int, row_start: int = 0, row_stop: int | None = None) -> NDArray[Any] | None:
        """Read a band of rows of all dark frames as (frame, row, col), or None if the scan has none."""
        return self._read_frames("dark", bin_index, row_start, row_stop)

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
        self, kind: ChunkKind, bin_index: int, row_start: int, row_stop: int | None
    ) -> NDArray[Any] | None:
        """All frames of a kind, (frame, row, col)."""
        layout = self.manifest.layouts.get(kind)
        if layout is None:
            return None
        row_stop = layout.n_rows if row_stop is None else row_stop
        blocks = range(layout.n_view_blocks)
        return np.concatenate([self._read(kind, bin_index, block, row_start, row_stop, None) for block in blocks])

    def _read(
        self,
        kind: ChunkKind,
        bin_index: int,
        block_index: int,
        row_start: int,
        row_stop: int,
        out: NDArray[Any] | None,
    ) -> NDArray[Any]:
        """A band of rows of one view block, (view, row, col)."""
        layout = self.manifest.layouts[kind]
        self._require(layout, bin_index, block_index, row_start, row_stop)
        start, stop = layout.view_blocks[block_index]
        shape = (stop - start, row_stop - row_start, layout.n_cols)
        dtype = np.dtype(layout.pixel_type)
        if out is None:
            out = np.empty(shape, dtype=dtype)
        elif out.shape != shape or out.dtype != dtype:
            raise IngestError(f"rows {row_start}:{row_stop} need an array {shape} {dtype}, got {out.shape} {out.dtype}")
        row = 0
        for cells in self._windows(layout, bin_index, block_index, row_start, row_stop):
            out[:, row : row + len(cells)] = cells.transpose(1, 0, 2)
            row += len(cells)
        return out

    def _windows(
        self, layout: ChunkLayout, bin_index: int, block_index: int, row_start: int, row_stop: int
    ) -> Iterator[NDArray[Any]]:
        """A band of rows as stored, (row, view, col), one ranged read at a time, every checksum verified."""
        self._require(layout, bin_index, block_index, row_start, row_stop)
        blocks = next(b for b in layout.file_blocks if b[0] <= block_index < b[1])
        name = layout.file_name(bin_index, blocks)
        where = f"scan {self.scan.scan_id}, bin {bin_index}, view block {block_index}, file {name}"
        footer = self._checked_footer(layout, bin_index, blocks, where)
        skipped = (block_index - blocks[0]) * len(layout.row_groups)
        first, end = layout.groups_of_rows(row_start, row_stop)
        step = window_groups(layout)
        windows = [range(group, min(group + step, end)) for group in range(first, end, step)]
        stored = [range(skipped + groups[0], skipped + groups[-1] + 1) for groups in windows]
        for groups in stored:
            self._check_size(footer, groups, layout, where)
        spans = [(layout.row_groups[groups[0]][0], layout.row_groups[groups[-1]][1]) for groups in windows]
        asked = [(max(row_start, span[0]), min(row_stop, span[1])) for span in spans]
        columns = [CHECKSUM_COLUMN, PIXEL_COLUMN]
        fetches = [functools.partial(self._files.fetch_groups, name, footer, groups, columns) for groups in stored]
        fetched = _one_ahead(fetches)
        for span, rows in zip(spans, asked, strict=True):
            try:
                table = self._files.unpack_groups(name, footer, next(fetched))
            except ChunkCorruptError as error:
                raise ChunkCorruptError(f"{where}, rows {rows[0]} to {rows[1] - 1}: {error}") from error
            yield _verified_cells(table, layout, block_index, span, rows, where)

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
        expected = chunk_metadata(self.scan.scan_id, layout, bin_index, blocks)
        for key, value in expected.items():
            if found.get(key) != value:
                raise ChunkCorruptError(f"{where}: the file has {key} {found.get(key)!r}, the manifest {value!r}")
        if names != CHUNK_SCHEMA.names:
            raise ChunkCorruptError(f"{where}: the file has the columns {names}, expected {CHUNK_SCHEMA.names}")
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


def _one_ahead(fetches: Sequence[Callable[[], FetchedGroups]]) -> Iterator[FetchedGroups]:
    """What each fetch gives, the next one under way while the caller unpacks; a single one needs no thread."""
    if len(fetches) == 1:
        yield fetches[0]()
        return
    with ThreadPoolExecutor(1, thread_name_prefix="conepacs-read") as thread:
        coming = thread.submit(fetches[0])
        for fetch in fetches[1:]:
            found, coming = coming.result(), thread.submit(fetch)
            yield found
            del found  # at most two windows are at hand
        yield coming.result()


def _verified_cells(
    table: Any, layout: ChunkLayout, block_index: int, group_rows: tuple[int, int], rows: tuple[int, int], where: str
) -> NDArray[Any]:
    """The cells of some of the rows that were read, (row, view, col), once their checksums hold."""
    start, stop = layout.view_blocks[block_index]
    cell_bytes = (stop - start) * layout.n_cols * layout.dtype.itemsize
    cells = _cells(table.column(PIXEL_COLUMN), cell_bytes)
    if cells is None or len(cells) != group_rows[1] - group_rows[0]:
        raise ChunkCorruptError(f"{where}: rows {rows[0]} to {rows[1] - 1} do not have {cell_bytes} B each")
    wanted = slice(rows[0] - group_rows[0], rows[1] - group_rows[0])
    checksums = table.column(CHECKSUM_COLUMN).to_numpy()[wanted]
    for row, (cell, checksum) in enumerate(zip(cells[wanted], checksums, strict=True), start=rows[0]):
        if zlib.crc32(cell.data) != checksum:
            raise ChunkCorruptError(f"{where}: detector row {row} does not have the checksum it was written with")
    return cells[wanted].view(layout.dtype).reshape(rows[1] - rows[0], stop - start, layout.n_cols)


def _cells(column: Any, cell_bytes: int) -> NDArray[np.uint8] | None:
    """The cells of a binary column as (row, byte) without a copy where Arrow gave one buffer; None if sizes differ."""
    parts = []
    for chunk in column.chunks:
        _, offsets_buffer, values = chunk.buffers()
        offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        if chunk.null_count or not (np.diff(offsets) == cell_bytes).all():
            return None
        flat = np.frombuffer(values, dtype=np.uint8, count=len(chunk) * cell_bytes, offset=int(offsets[0]))
        parts.append(flat.reshape(len(chunk), cell_bytes))
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
