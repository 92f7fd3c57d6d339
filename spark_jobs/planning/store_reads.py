# SPDX-License-Identifier: Apache-2.0
"""How many reads and bytes tasks take from the store, from the manifest alone: what a counting store would see."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ingest.chunk_reader import window_groups
from ingest.chunk_writer import pixel_columns
from spark_jobs.run_files.white_file import WhiteFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ingest.chunk_layout import ChunkKind, ChunkLayout
    from ingest.chunks import ChunkFile, StoredScan

#: The end of a chunk file that is read to find its footer (`ingest.chunk_files`), and what a footer takes.
_TAIL_BYTES = 131_072
_FOOTER_BYTES, _FOOTER_BYTES_PER_GROUP, _FOOTER_BYTES_PER_PLANE, _TRAILER_BYTES = 400, 267, 34, 8
#: Columns of keys before checksum and pixels in a row group: the first group's of a read are not fetched.
_KEY_COLUMNS, _KEY_HEAD_BYTES, _KEY_BYTES = 4, 17, 4
#: The packed mask of bad pixels: its head, and the share of its bits that is left of few bad pixels.
_MASK_HEAD_BYTES, _MASK_SHARE = 550, 0.01


@dataclass(frozen=True, slots=True)
class Traffic:
    """Reads of the store, their bytes, and unpacked pixels among them."""

    reads: int = 0
    read_bytes: int = 0
    pixel_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.reads + other.reads, self.read_bytes + other.read_bytes, self.pixel_bytes + other.pixel_bytes
        )

    def times(self, count: int) -> Traffic:
        """The same so many times."""
        return Traffic(self.reads * count, self.read_bytes * count, self.pixel_bytes * count)


def projection_rows(stored: StoredScan, bin_index: int, row_start: int, row_stop: int) -> Traffic:
    """A band of rows of all views of a bin, in whole row groups; footers apart."""
    found = stored.ranged_reads_for(row_start, row_stop, bin_index=bin_index)
    return Traffic(found.n_reads, found.stored_bytes - found.n_reads * _skipped_bytes(stored.layout), found.pixel_bytes)


def projection_blocks(
    stored: StoredScan, bin_index: int, counts: Sequence[int], row_start: int, row_stop: int
) -> Traffic:
    """A band of rows of each view block of a bin so many times, in whole row groups; footers apart."""
    whole = projection_rows(stored, bin_index, row_start, row_stop)
    size, n_frames = stored.layout.view_block, stored.scan.n_views
    short = n_frames - (len(counts) - 1) * size  # frames of the last block
    frames = sum(counts) * size - counts[-1] * (size - short)
    reads = whole.reads * sum(counts) / len(counts)
    share = frames / n_frames
    return Traffic(round(reads), round(share * whole.read_bytes), round(share * whole.pixel_bytes))


def projection_footers(stored: StoredScan, bin_index: int) -> Traffic:
    """Footers of all files of a bin's projections, as a task that needs all views reads them once."""
    return _footers(stored, stored.layout, bin_index)


def files_of_blocks(stored: StoredScan, blocks: Iterable[int]) -> int:
    """Count the files of a bin that hold these view blocks."""
    per_file = stored.layout.blocks_per_file
    return len({block // per_file for block in blocks})


def some_footers(stored: StoredScan, bin_index: int, n_files: int) -> Traffic:
    """Footers of so many files of a bin's projections, of mean size: a task reads each once."""
    whole, n_all = projection_footers(stored, bin_index), len(stored.layout.file_blocks)
    return Traffic(math.ceil(whole.reads / n_all) * n_files, whole.read_bytes * n_files // n_all)


def field_rows(stored: StoredScan, bin_index: int, row_start: int, row_stop: int, *, bands: int = 1) -> Traffic:
    """A band of rows of a bin's flat and dark frames with footers, read in so many parts."""
    total = Traffic()
    for kind in ("flat", "dark"):
        total += frame_rows(stored, kind, bin_index, row_start, row_stop, bands=bands)
    return total


def field_footers(stored: StoredScan, bin_index: int) -> Traffic:
    """Footers of a bin's flat and dark frames."""
    total = Traffic()
    for layout in (*stored.manifest.field_layouts("flat"), *stored.manifest.field_layouts("dark")):
        total += _footers(stored, layout, bin_index)
    return total


def frame_rows(
    stored: StoredScan, kind: ChunkKind, bin_index: int, row_start: int, row_stop: int, *, bands: int = 1
) -> Traffic:
    """A band of rows of all frames of a kind, with the files' footers; nothing if the scan has none of them."""
    total = Traffic()
    for layout in stored.manifest.field_layouts(kind):
        total += _footers(stored, layout, bin_index)
        first, end = layout.groups_of_rows(row_start, row_stop)
        # Bands that end within a row group read it twice.
        n_groups = min(end - first + bands - 1, bands * (end - first))
        reads = layout.n_view_blocks * max(bands, math.ceil((end - first) / window_groups(layout)))
        groups_bytes = sum(file.bytes for file in _files(stored, layout, bin_index)) - _footer_bytes(stored, layout)
        share = n_groups / _n_row_groups(layout)
        total += Traffic(reads, max(0, round(share * groups_bytes) - reads * _skipped_bytes(layout)))
    return total


def white_rows(stored: StoredScan, row_start: int, row_stop: int, *, n_sets: int | None = None) -> Traffic:
    """Rows of the white and dark that the first stage averages; nothing for frames that need none.

    `n_sets` says of how many camera positions with field frames of their own; of all by default.
    """
    scan = stored.scan
    if scan.content != "counts":
        return Traffic()
    row_bytes = WhiteFile("", scan.n_rows, scan.n_cols, scan.darks is not None).row_bytes
    sets = len(scan.field_positions) if n_sets is None else n_sets
    return Traffic(1, (row_stop - row_start) * row_bytes).times(sets)


def n_field_sets(stored: StoredScan, frames: NDArray[np.int64]) -> int:
    """Count the camera positions with field frames of their own that some frames were taken at; 1 without such."""
    if stored.scan.field_positions == (None,):
        return 1
    return int(np.unique(np.array(stored.scan.camera_positions)[frames]).size)


def mask_bytes_of(stored: StoredScan) -> int:
    """Size of the file of a bin's bad pixels; a panel with many of them takes more [B]."""
    return _MASK_HEAD_BYTES + round(_MASK_SHARE * stored.scan.n_rows * stored.scan.n_cols / 8)


def _skipped_bytes(layout: ChunkLayout) -> int:
    """What a ranged read leaves out of its first row group."""
    return _KEY_COLUMNS * (_KEY_HEAD_BYTES + _KEY_BYTES * layout.row_group)


def _n_row_groups(layout: ChunkLayout) -> int:
    """Row groups of a view block, counted without making them: a body has thousands, and is asked for often."""
    return -(-layout.n_rows // layout.row_group)


def _footer_bytes(stored: StoredScan, layout: ChunkLayout, n_blocks: int | None = None) -> int:
    """Size of a file's footer that holds so many view blocks (all of them)."""
    groups = _n_row_groups(layout) * (layout.n_view_blocks if n_blocks is None else n_blocks)
    n_planes = len(pixel_columns(layout, stored.manifest.schema_version))
    return _FOOTER_BYTES + (_FOOTER_BYTES_PER_GROUP + _FOOTER_BYTES_PER_PLANE * n_planes) * groups + _TRAILER_BYTES


def _files(stored: StoredScan, layout: ChunkLayout, bin_index: int) -> list[ChunkFile]:
    """The files of a layout and bin."""
    manifest = stored.manifest
    files = [file for file in manifest.files if file.kind == layout.kind and file.bin_index == bin_index]
    if len(manifest.field_layouts(layout.kind)) == 1:
        return files
    names = {layout.file_name(bin_index, blocks) for blocks in layout.file_blocks}
    return [file for file in files if file.name in names]


def _footers(stored: StoredScan, layout: ChunkLayout, bin_index: int) -> Traffic:
    """Footers of all files of a layout and bin: the tail, and once more where the footer is longer."""
    total = Traffic()
    for file in _files(stored, layout, bin_index):
        tail = min(_TAIL_BYTES, file.bytes)
        footer = _footer_bytes(stored, layout, file.blocks[1] - file.blocks[0])
        total += Traffic(1, tail) if footer <= tail else Traffic(2, tail + footer)
    return total
