# SPDX-License-Identifier: Apache-2.0
"""Writes chunk files: Parquet with one row for each detector row and view block (border 2, ingest to store).

The same pixels and layout give the same bytes, as long as pyarrow is the same: nothing of the time or the
machine goes into a file.

Pixels are stored as planes of bytes: the lowest bytes of a cell's pixels in one column, the next ones in another.  The
low bytes of counts are noise, which no code makes smaller and each costs time, while the high ones shrink to a few
percent; mixed, both are in each other's way.  (Parquet's own BYTE_STREAM_SPLIT does so for cells of one pixel only.)
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.errors import IngestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ingest.chunk_layout import ChunkLayout

#: Version of the schema of chunk files and of the scan's manifest.json, and those that are read.
CHUNK_SCHEMA_VERSION = 2
READ_VERSIONS = (1, 2)

KEY_COLUMNS = ("bin", "camera_position", "view_block", "detector_row")
CHECKSUM_COLUMN = "crc32"
METADATA_KEY = "conepacs.chunks"
#: A column is compressed if that saves an eighth of it or more, as seen on so many detector rows of its first block.
SAMPLE_ROWS = 8
_LEAST_SAVING = 1 / 8
_LEVEL = 1


def pixel_columns(layout: ChunkLayout, schema_version: int) -> tuple[str, ...]:
    """Return the names of the columns of pixels: a plane for each byte of a pixel, the lowest first; version 1 has one.

    Cells of version 1 hold whole pixels.
    """
    return ("pixels",) if schema_version == 1 else tuple(f"byte{i}" for i in range(layout.dtype.itemsize))


def chunk_schema(layout: ChunkLayout, schema_version: int = CHUNK_SCHEMA_VERSION) -> Any:
    """Return the Arrow schema of a chunk file; checksum and pixels lie side by side: they are one ranged read."""
    return pa.schema(
        [
            *(pa.field(name, pa.int32(), nullable=False) for name in KEY_COLUMNS),
            pa.field(CHECKSUM_COLUMN, pa.int64(), nullable=False),
            *(pa.field(name, pa.binary(), nullable=False) for name in pixel_columns(layout, schema_version)),
        ]
    )


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
        self._schema = chunk_schema(layout, schema_version)
        self._about = chunk_metadata(scan_id, layout, bin_index, blocks, schema_version)
        self._metadata: list[Any] = []
        self._writer: Any = None

    def abandon(self) -> None:
        """Give an unfinished file up: write nothing more to the handle."""
        if self._writer is not None:
            self._writer.is_open = False

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
        if block_index != self._next_block or block_index >= self._blocks[1]:
            raise IngestError(f"expected view block {self._next_block} of {self._blocks}, got {block_index}")
        start, stop = layout.view_blocks[block_index]
        expected = (stop - start, layout.n_rows, layout.n_cols)
        if frames.shape != expected or frames.dtype.newbyteorder("<") != layout.dtype:
            raise IngestError(
                f"view block {block_index} must be {expected} {layout.pixel_type}, got {frames.shape} {frames.dtype}"
            )
        if self._writer is None:
            self._writer = self._open(frames)
        for row_start, row_stop in layout.row_groups:
            self._write_row_group(block_index, row_start, frames[:, row_start:row_stop])
        self._next_block += 1

    def close(self) -> list[int]:
        """Finish the file; return the stored bytes of each row group of a block, summed over the blocks."""
        if self._next_block != self._blocks[1]:
            self.abandon()
            raise IngestError(f"the file lacks the view blocks {self._next_block} to {self._blocks[1] - 1}")
        self._writer.close()
        metadata = self._metadata[0]
        sizes = [stored_group_bytes(metadata.row_group(i)) for i in range(metadata.num_row_groups)]
        return [int(x) for x in np.reshape(sizes, (-1, len(self._layout.row_groups))).sum(axis=0)]

    def _open(self, frames: NDArray[Any]) -> Any:
        """The Parquet writer: which columns it compresses, the first view block tells."""
        pixels = pixel_columns(self._layout, self._version)
        packed = set(pixels)
        if self._version > 1:
            rows = np.unique((2 * np.arange(SAMPLE_ROWS) + 1) * frames.shape[1] // (2 * SAMPLE_ROWS))
            packed = {name for name, plane in zip(pixels, self._planes(frames[:, rows]), strict=True) if _pays(plane)}
        writer = pq.ParquetWriter(
            self._handle,
            self._schema,
            compression={name: "zstd" if name in packed else "none" for name in self._schema.names},
            compression_level=dict.fromkeys(sorted(packed), _LEVEL) or None,
            use_dictionary=False,
            write_statistics=list(KEY_COLUMNS),
            # One page for each row group: it is read as a whole anyway, and `chunk_files` counts on it.
            data_page_size=2**30,
            store_schema=False,
            metadata_collector=self._metadata,
        )
        writer.add_key_value_metadata({METADATA_KEY: json.dumps(self._about, sort_keys=True)})
        return writer

    def _write_row_group(self, block_index: int, row_start: int, frames: NDArray[Any]) -> None:
        """One row group: cells as bytes, with their checksums."""
        n_rows = frames.shape[1]
        planes = self._planes(frames)
        offsets = np.arange(n_rows + 1, dtype=np.int32) * np.int32(planes[0].shape[1])
        columns = [
            pa.array(np.full(n_rows, self._bin_index, dtype=np.int32)),
            pa.array(np.full(n_rows, self._layout.camera_position, dtype=np.int32)),
            pa.array(np.full(n_rows, block_index, dtype=np.int32)),
            pa.array(np.arange(row_start, row_start + n_rows, dtype=np.int32)),
            pa.array(np.fromiter((cell_crc32(cells) for cells in zip(*planes, strict=True)), np.int64, n_rows)),
            *(
                pa.Array.from_buffers(pa.binary(), n_rows, [None, pa.py_buffer(offsets), pa.py_buffer(plane)])
                for plane in planes
            ),
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema), row_group_size=n_rows)

    def _planes(self, frames: NDArray[Any]) -> list[NDArray[np.uint8]]:
        """The columns of pixels of some rows, (row, byte) each, of frames (view, row, col)."""
        dtype = self._layout.dtype
        cells = np.array(frames.transpose(1, 0, 2), dtype=dtype, order="C").reshape(frames.shape[1], -1)
        if self._version == 1 or dtype.itemsize == 1:
            return [cells.view(np.uint8)]
        words = cells.view(f"<u{dtype.itemsize}")
        planes = [words.astype(np.uint8)]
        for _ in range(1, dtype.itemsize):
            words >>= np.uint8(8)
            planes.append(words.astype(np.uint8))
        return planes


def cell_crc32(cells: Iterable[NDArray[np.uint8]]) -> int:
    """CRC-32 of one detector row: of the bytes of its cells, one after the other."""
    value = 0
    for cell in cells:
        value = zlib.crc32(cell.data, value)
    return value


def _pays(plane: NDArray[np.uint8]) -> bool:
    """Whether a plane is worth compressing, judged by a sample of it."""
    packed = pa.Codec("zstd", compression_level=_LEVEL).compress(plane)
    return len(packed) <= (1 - _LEAST_SAVING) * plane.nbytes


def stored_group_bytes(row_group: Any) -> int:
    """Bytes that one row group takes in the file: a ranged read of it fetches about as many."""
    columns = (row_group.column(i) for i in range(row_group.num_columns))
    return sum(int(column.total_compressed_size) for column in columns)
