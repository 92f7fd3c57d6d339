# SPDX-License-Identifier: Apache-2.0
"""Where the pixels of a scan lie in its chunk files: view blocks, row groups, files and their names.

All of it is arithmetic on sizes, so that a plan needs no file to be opened.  ``docs/storage-layout.md`` draws it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ingest.errors import IngestError

if TYPE_CHECKING:
    from ingest.scan import Scan

#: What a chunk file holds; flat and dark frames are stored like views, a mask like a single view.
ChunkKind = Literal["projection", "flat", "dark", "bad_pixels"]
KINDS: tuple[ChunkKind, ...] = get_args(ChunkKind)

DEFAULT_MEMORY_BYTES = 1_000_000_000
#: A quarter of a 360-view turn: four blocks a quarter turn apart then serve the four-fold kernel.
MAX_VIEW_BLOCK = 90
#: Pixel bytes of one row group, before compression.
ROW_GROUP_BYTES = 2_000_000
#: A row group holds at most this share of the detector's rows, so that a thin slab reads few rows in vain.
MIN_ROW_GROUPS = 32
#: Pixel bytes of one file, before compression, unless all of the bin is less.
FILE_BYTES = 256_000_000

_FILE_PREFIX: dict[ChunkKind, str] = {
    "projection": "projections",
    "flat": "flats",
    "dark": "darks",
    "bad_pixels": "bad-pixels",
}


def choose_view_block(
    n_views: int, n_bins: int, n_rows: int, n_cols: int, itemsize: int, memory_bytes: int = DEFAULT_MEMORY_BYTES
) -> int:
    """Return how many views a block holds: as many as the memory takes for all bins together, at most 90.

    If the number of views is a multiple of four, a block holds no more than a quarter of them, and the largest
    divisor of the quarter that fits is taken, so that blocks a quarter turn apart line up; only where that is less
    than half of what fits, what fits is taken.

    Parameters
    ----------
    n_views, n_bins, n_rows, n_cols : int
        Size of the scan, each at least 1.
    itemsize : int
        Size of a pixel [B].
    memory_bytes : int
        Memory for one block of all bins [B]; a single view is taken even where it is larger.

    Raises
    ------
    IngestError
        If a size is not positive.
    """
    if min(n_views, n_bins, n_rows, n_cols, itemsize, memory_bytes) < 1:
        raise IngestError(
            f"a view block needs sizes of at least 1, got {n_views} views, {n_bins} bins, {n_rows} rows, "
            f"{n_cols} columns, {itemsize} B a pixel, {memory_bytes} B of memory"
        )
    view_bytes = n_bins * n_rows * n_cols * itemsize
    limit = max(1, min(MAX_VIEW_BLOCK, n_views, memory_bytes // view_bytes))
    if n_views % 4:
        return limit
    quarter = n_views // 4
    limit = min(limit, quarter)
    divisor = next(size for size in range(limit, 0, -1) if quarter % size == 0)
    return divisor if 2 * divisor >= limit else limit


def choose_row_group(n_rows: int, row_bytes: int) -> int:
    """Return the detector rows of a row group, given the bytes of one row's cell: at most 2 MB, 1/32 of the rows."""
    return max(1, min(ROW_GROUP_BYTES // max(1, row_bytes), n_rows // MIN_ROW_GROUPS))


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """How the pixels of one kind are cut up.

    Attributes
    ----------
    kind : what the pixels are.
    pixel_type : dtype of a pixel, stored little-endian.
    n_bins, n_views, n_rows, n_cols : size; for flat and dark frames the view axis counts the frames.
    camera_position : where the camera stood for flat or dark frames that are only for its views; else 0.  Projections
        lie in the order of the scan: the manifest says where the camera stood for each of them.
    view_block : views of a block; the last block may hold fewer.
    row_group : detector rows of a row group; the last of a block may hold fewer.
    blocks_per_file : view blocks of a file; the last file takes what would be too small for one of its own.
    """

    kind: ChunkKind
    pixel_type: str
    n_bins: int
    n_views: int
    n_rows: int
    n_cols: int
    camera_position: int
    view_block: int
    row_group: int
    blocks_per_file: int

    def __post_init__(self) -> None:
        sizes = (self.n_bins, self.n_views, self.n_rows, self.n_cols, self.view_block, self.row_group)
        if min(*sizes, self.blocks_per_file) < 1 or self.camera_position < 0 or self.kind not in KINDS:
            raise IngestError(f"malformed chunk layout {self}")

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Little-endian dtype of the stored pixels."""
        return np.dtype(self.pixel_type).newbyteorder("<")

    @property
    def n_view_blocks(self) -> int:
        """Number of view blocks."""
        return -(-self.n_views // self.view_block)

    @property
    def view_blocks(self) -> tuple[tuple[int, int], ...]:
        """First and end view of each block."""
        size = self.view_block
        return tuple((start, min(start + size, self.n_views)) for start in range(0, self.n_views, size))

    @property
    def row_groups(self) -> tuple[tuple[int, int], ...]:
        """First and end detector row of each row group of a block."""
        size = self.row_group
        return tuple((start, min(start + size, self.n_rows)) for start in range(0, self.n_rows, size))

    @property
    def file_blocks(self) -> tuple[tuple[int, int], ...]:
        """First and end view block of each file of a bin."""
        n_files = max(1, self.n_view_blocks // self.blocks_per_file)
        ends = [self.blocks_per_file * (i + 1) for i in range(n_files - 1)] + [self.n_view_blocks]
        return tuple(zip([0, *ends[:-1]], ends, strict=True))

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all pixels, before compression."""
        return self.n_views * self.view_bytes

    @property
    def view_bytes(self) -> int:
        """Bytes of one view of all bins, before compression."""
        return self.n_bins * self.n_rows * self.n_cols * self.dtype.itemsize

    def file_views(self, blocks: tuple[int, int]) -> tuple[int, int]:
        """First and end view of a file that holds these blocks."""
        return blocks[0] * self.view_block, min(blocks[1] * self.view_block, self.n_views)

    def file_name(self, bin_index: int, blocks: tuple[int, int]) -> str:
        """Name of the file of a bin that holds the view blocks ``blocks[0] <= block < blocks[1]``."""
        start, stop = self.file_views(blocks)
        where = f"bin{bin_index:02d}-pos{self.camera_position:02d}-views{start:05d}-{stop - 1:05d}"
        return f"{_FILE_PREFIX[self.kind]}-{where}.parquet"

    def groups_of_rows(self, row_start: int, row_stop: int) -> tuple[int, int]:
        """First and end row group, within a block, that hold these detector rows."""
        return row_start // self.row_group, -(-row_stop // self.row_group)


def projection_layout(
    scan: Scan, *, memory_bytes: int = DEFAULT_MEMORY_BYTES, file_bytes: int = FILE_BYTES
) -> ChunkLayout:
    """Return the layout of a scan's projections for an upload with that much memory [B]."""
    itemsize = np.dtype(scan.pixel_type).itemsize
    view_block = choose_view_block(scan.n_views, len(scan.bins), scan.n_rows, scan.n_cols, itemsize, memory_bytes)
    return _layout("projection", scan, scan.n_views, view_block, file_bytes)


def frames_layout(kind: ChunkKind, scan: Scan, n_frames: int, position: int | None = None) -> ChunkLayout:
    """Return the layout of a bad-pixel mask, or of flat or dark frames: one file for each bin.

    `position` is the camera position whose own frames they are, None where they serve all views.
    """
    return _layout(kind, scan, n_frames, min(n_frames, MAX_VIEW_BLOCK), None, position)


def layout_name(kind: ChunkKind, position: int | None = None) -> str:
    """Return what the layout of a kind is called in the manifest: ``flat``, or ``flat-pos01`` of a camera position."""
    return kind if position is None else f"{kind}-pos{position:02d}"


def _layout(
    kind: ChunkKind, scan: Scan, n_views: int, view_block: int, file_bytes: int | None, position: int | None = None
) -> ChunkLayout:
    """Sizes that follow from the view block."""
    pixel_type = "uint8" if kind == "bad_pixels" else scan.pixel_type
    row_bytes = view_block * scan.n_cols * np.dtype(pixel_type).itemsize
    frames = {"flat": scan.flats, "dark": scan.darks}.get(kind)
    n_blocks = -(-n_views // view_block)
    return ChunkLayout(
        kind=kind,
        pixel_type=pixel_type,
        n_bins=1 if kind == "bad_pixels" else len(scan.bins),
        n_views=n_views,
        n_rows=scan.n_rows,
        n_cols=scan.n_cols,
        camera_position=position if position is not None else 0 if frames is None else frames.camera_position,
        view_block=view_block,
        row_group=choose_row_group(scan.n_rows, row_bytes),
        blocks_per_file=n_blocks if file_bytes is None else min(n_blocks, -(-file_bytes // (row_bytes * scan.n_rows))),
    )
