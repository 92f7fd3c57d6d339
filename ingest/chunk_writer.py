# SPDX-License-Identifier: Apache-2.0
"""Writes chunk files: Parquet with one row for each detector row and view block (border 2, ingest to store).

The same pixels and layout give the same bytes, as long as the zstd in pyarrow and ISA-L are the same: nothing of the
time goes into a file.

Pixels are stored as planes of bytes: the lowest bytes of a cell's pixels in one column, the next ones in another.  The
low bytes of counts are noise, which no code makes smaller and each costs time, while the high ones shrink to a few
percent; mixed, both are in each other's way.  (Parquet's own BYTE_STREAM_SPLIT does so for cells of one pixel only.)
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
from isal import isal_zlib

from ingest.block_planes import BlockPlanes
from ingest.errors import IngestError
from ingest.parquet_pages import GZIP_WINDOW_BITS, LENGTH_BYTES, Page, PageColumn, ParquetFooter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ingest.chunk_layout import ChunkLayout
    from ingest.parquet_pages import PageCodec

#: Version of the schema of chunk files and of the scan's manifest.json, and those that are read.  Files of 2 and 3 are
#: alike; since 3 the manifest names the algorithm of its digests, since 4 columns may have deflate.
CHUNK_SCHEMA_VERSION = 4
READ_VERSIONS = (1, 2, 3, 4)
_DEFLATE_SINCE = 4

KEY_COLUMNS = ("bin", "camera_position", "view_block", "detector_row")
CHECKSUM_COLUMN = "crc32"
METADATA_KEY = "conepacs.chunks"
#: A column is compressed if that saves an eighth of it or more, as seen on so many detector rows of its first block.
SAMPLE_ROWS = 8
_LEAST_SAVING = 1 / 8
# What shrinks to this share or less has few values: ISA-L's deflate packs it more quickly than zstd, to nearly the same
# size.  Of what shrinks less, zstd is the quicker.
_DEFLATE_SHARE = 1 / 2
_LEVEL = 1
_FLUSHED_BYTES = 16


def pixel_columns(layout: ChunkLayout, schema_version: int) -> tuple[str, ...]:
    """Return the names of the columns of pixels: a plane for each byte of a pixel, the lowest first; version 1 has one.

    Cells of version 1 hold whole pixels.
    """
    return ("pixels",) if schema_version == 1 else tuple(f"byte{i}" for i in range(layout.dtype.itemsize))


def chunk_metadata(
    scan_id: str,
    layout: ChunkLayout,
    bin_index: int,
    blocks: tuple[int, int],
    schema_version: int = CHUNK_SCHEMA_VERSION,
) -> dict[str, Any]:
    """Return what a chunk file says about itself in its schema metadata."""
    views = layout.file_views(blocks)
    return {
        "schema_version": schema_version,
        "scan_id": scan_id,
        "kind": layout.kind,
        "dtype": layout.dtype.str if layout.dtype.itemsize > 1 else "|u1",
        "cell_order": "view, col",
        "bin": bin_index,
        "camera_position": layout.camera_position,
        "n_rows": layout.n_rows,
        "n_cols": layout.n_cols,
        "row_group": layout.row_group,
        "view_start": views[0],
        "view_stop": views[1],
        "view_blocks": [[block, *layout.view_blocks[block]] for block in range(*blocks)],
    }


class ChunkFileWriter:
    """Writes one chunk file, view block by view block.

    Parameters
    ----------
    handle : open for writing in binary mode; it stays open.
    scan_id, layout, bin_index : what is written.
    blocks : first and end view block of the file.
    schema_version : 1 to go on with a scan that was begun so.
    """

    def __init__(
        self,
        handle: BinaryIO,
        *,
        scan_id: str,
        layout: ChunkLayout,
        bin_index: int,
        blocks: tuple[int, int],
        schema_version: int = CHUNK_SCHEMA_VERSION,
    ) -> None:
        self._handle = handle
        self._layout = layout
        self._bin_index = bin_index
        self._blocks = blocks
        self._next_block = blocks[0]
        self._version = schema_version
        self._about = chunk_metadata(scan_id, layout, bin_index, blocks, schema_version)
        self._columns: list[PageColumn] = []
        self._footer: ParquetFooter | None = None
        self._codec = pa.Codec("zstd", compression_level=_LEVEL)
        self._n_bytes = 0
        self._group_bytes = np.zeros(len(layout.row_groups), dtype=np.int64)

    def write_block(self, block_index: int, frames: NDArray[Any]) -> None:
        """Append one view block.

        Parameters
        ----------
        block_index : int
            The blocks of the file come in order.
        frames : (view, row, col) `ChunkLayout.pixel_type`
            The views of the block.

        Raises
        ------
        IngestError
            If it is not the turn of the block, or the array does not fit the layout.
        """
        layout = self._layout
        self._require_turn(block_index)
        start, stop = layout.view_blocks[block_index]
        expected = (stop - start, layout.n_rows, layout.n_cols)
        if frames.shape != expected or frames.dtype.newbyteorder("<") != layout.dtype:
            raise IngestError(
                f"view block {block_index} must be {expected} {layout.pixel_type}, got {frames.shape} {frames.dtype}"
            )
        planes = BlockPlanes(layout, len(pixel_columns(layout, self._version)))
        planes.put_views(frames)
        self.write_planes(block_index, planes)

    def write_planes(self, block_index: int, planes: BlockPlanes) -> None:
        """Append one view block, all of whose views are in `planes`; IngestError if it is not its turn."""
        self._require_turn(block_index)
        if self._footer is None:
            self._footer = self._begin(planes.pages)
        for group, (row_start, row_stop) in enumerate(self._layout.row_groups):
            pages = [page[row_start:row_stop] for page in planes.pages]
            self._group_bytes[group] += self._write_row_group(self._footer, block_index, row_start, pages)
        self._next_block += 1

    def close(self) -> list[int]:
        """Finish the file; return the stored bytes of each row group of a block, summed over the blocks."""
        if self._footer is None or self._next_block != self._blocks[1]:
            raise IngestError(f"the file lacks the view blocks {self._next_block} to {self._blocks[1] - 1}")
        self._handle.write(self._footer.to_bytes())
        return [int(size) for size in self._group_bytes]

    def _require_turn(self, block_index: int) -> None:
        """Refuse a block whose turn it is not."""
        if block_index != self._next_block or block_index >= self._blocks[1]:
            raise IngestError(f"expected view block {self._next_block} of {self._blocks}, got {block_index}")

    def _begin(self, pages: list[NDArray[np.uint8]]) -> ParquetFooter:
        """Begin the file: which columns are compressed, the first view block tells."""
        pixels = pixel_columns(self._layout, self._version)
        n_rows = self._layout.n_rows
        rows = np.unique((2 * np.arange(SAMPLE_ROWS) + 1) * n_rows // (2 * SAMPLE_ROWS))
        codecs = [self._choose_codec(np.ascontiguousarray(page[rows, LENGTH_BYTES:])) for page in pages]
        self._columns = [
            *(PageColumn(name, "int32") for name in KEY_COLUMNS),
            PageColumn(CHECKSUM_COLUMN, "int64"),
            *(PageColumn(name, "binary", codec) for name, codec in zip(pixels, codecs, strict=True)),
        ]
        self._write(ParquetFooter.magic())
        return ParquetFooter(self._columns, {METADATA_KEY: json.dumps(self._about, sort_keys=True)})

    def _write_row_group(
        self, footer: ParquetFooter, block_index: int, row_start: int, pixels: list[NDArray[np.uint8]]
    ) -> int:
        """One row group: keys, checksums, cells; return its stored bytes."""
        n_rows, offset = len(pixels[0]), self._n_bytes
        keys = np.empty((len(KEY_COLUMNS), n_rows), dtype="<i4")
        keys[:3] = [[self._bin_index], [self._layout.camera_position], [block_index]]
        keys[3] = np.arange(row_start, row_start + n_rows)
        cells = [page[:, LENGTH_BYTES:] for page in pixels]
        checksums = rows_crc32(cells)
        pages: list[Page] = []
        small = []
        for values in (*keys, checksums):
            limits = None if values is checksums else (values[:1].tobytes(), values[-1:].tobytes())
            pages.append(Page(values.nbytes, values.nbytes, limits))
            small += [footer.page_head(pages[-1], n_rows), values.tobytes()]
        self._write(b"".join(small))
        for column, page in zip(self._columns[len(pages) :], pixels, strict=True):
            content = page.data.cast("B")
            stored = self._packed(content, column.codec)
            pages.append(Page(len(stored), len(content)))
            self._write(footer.page_head(pages[-1], n_rows))
            self._write(stored)
        return sum(footer.add_group(offset, n_rows, pages))

    def _choose_codec(self, cells: NDArray[np.uint8]) -> PageCodec:
        """How a plane is compressed, judged by a sample of it."""
        if self._version == 1:
            return "zstd"
        share = len(self._codec.compress(cells)) / cells.nbytes
        if share > 1 - _LEAST_SAVING:
            return "none"
        return "gzip" if share <= _DEFLATE_SHARE and self._version >= _DEFLATE_SINCE else "zstd"

    def _packed(self, content: memoryview, codec: PageCodec) -> bytes | memoryview:
        """The bytes of a page as they are stored."""
        if codec == "gzip":
            return deflated(content)
        return self._codec.compress(content, asbytes=True) if codec == "zstd" else content

    def _write(self, content: bytes | memoryview) -> None:
        """The next bytes of the file."""
        self._handle.write(content)
        self._n_bytes += len(content)


def deflated(content: memoryview) -> bytes:
    """A page as gzip keeps it, the same bytes in every process and thread.

    ISA-L (2.32.1) looks up the third byte of what its quick loop begins with by a register that nobody has set, which
    holds an address: some pages would come out otherwise elsewhere.  The first bytes, flushed, do not go that way.
    """
    packer = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, GZIP_WINDOW_BITS)
    first, rest = content[:_FLUSHED_BYTES], content[_FLUSHED_BYTES:]
    parts = (packer.compress(first), packer.flush(isal_zlib.Z_SYNC_FLUSH), packer.compress(rest), packer.flush())
    return b"".join(parts)


def rows_crc32(planes: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """CRC-32 of each detector row: of its cells in planes (row, byte), one after the other (zlib's values, by ISA-L).

    The loops over rows are in C: a statement of Python for each cell takes as long as its checksum.
    """
    values = [0] * len(planes[0])
    for plane in planes:
        values = list(map(isal_zlib.crc32, plane, values))
    return np.array(values, dtype="<i8")
