# SPDX-License-Identifier: Apache-2.0
"""Writes chunk files: Parquet with one row for each detector row and view block (border 2, ingest to store).

The same pixels and layout give the same bytes, as long as pyarrow is the same: nothing of the time or the
machine goes into a file.
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
    from numpy.typing import NDArray

    from ingest.chunk_layout import ChunkLayout

#: Version of the schema of chunk files and of the scan's manifest.json.
CHUNK_SCHEMA_VERSION = 1

PIXEL_COLUMN = "pixels"
CHECKSUM_COLUMN = "crc32"
CHUNK_SCHEMA = pa.schema(
    [
        pa.field("bin", pa.int32(), nullable=False),
        pa.field("camera_position", pa.int32(), nullable=False),
        pa.field("view_block", pa.int32(), nullable=False),
        pa.field("detector_row", pa.int32(), nullable=False),
        # Next to each other, so that both are one ranged read.
        pa.field(CHECKSUM_COLUMN, pa.int64(), nullable=False),
        pa.field(PIXEL_COLUMN, pa.binary(), nullable=False),
    ]
)
_KEY_COLUMNS = ["bin", "camera_position", "view_block", "detector_row"]
METADATA_KEY = "conepacs.chunks"


def chunk_metadata(scan_id: str, layout: ChunkLayout, bin_index: int, blocks: tuple[int, int]) -> dict[str, Any]:
    """Return what a chunk file says about itself in its schema metadata."""
    views = layout.file_views(blocks)
    return {
        "schema_version": CHUNK_SCHEMA_VERSION,
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
    """

    def __init__(
        self, handle: BinaryIO, *, scan_id: str, layout: ChunkLayout, bin_index: int, blocks: tuple[int, int]
    ) -> None:
        self._layout = layout
        self._bin_index = bin_index
        self._blocks = blocks
        self._next_block = blocks[0]
        self._metadata: list[Any] = []
        self._writer = pq.ParquetWriter(
            handle,
            CHUNK_SCHEMA,
            compression={name: "zstd" if name == PIXEL_COLUMN else "none" for name in CHUNK_SCHEMA.names},
            compression_level={PIXEL_COLUMN: 1},
            use_dictionary=False,
            write_statistics=_KEY_COLUMNS,
            # One page for each row group: it is read as a whole anyway.
            data_page_size=2**30,
            store_schema=False,
            metadata_collector=self._metadata,
        )
        metadata = chunk_metadata(scan_id, layout, bin_index, blocks)
        self._writer.add_key_value_metadata({METADATA_KEY: json.dumps(metadata, sort_keys=True)})

    def abandon(self) -> None:
        """Give an unfinished file up: write nothing more to the handle."""
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

    def _write_row_group(self, block_index: int, row_start: int, frames: NDArray[Any]) -> None:
        """One row group: cells (row, view, col) as bytes, with their checksums."""
        n_rows = frames.shape[1]
        cells = np.ascontiguousarray(frames.transpose(1, 0, 2), dtype=self._layout.dtype).reshape(n_rows, -1)
        offsets = np.arange(n_rows + 1, dtype=np.int32) * np.int32(cells.shape[1] * cells.itemsize)
        columns = [
            pa.array(np.full(n_rows, self._bin_index, dtype=np.int32)),
            pa.array(np.full(n_rows, self._layout.camera_position, dtype=np.int32)),
            pa.array(np.full(n_rows, block_index, dtype=np.int32)),
            pa.array(np.arange(row_start, row_start + n_rows, dtype=np.int32)),
            pa.array(np.fromiter((zlib.crc32(cell.data) for cell in cells), dtype=np.int64, count=n_rows)),
            pa.Array.from_buffers(pa.binary(), n_rows, [None, pa.py_buffer(offsets), pa.py_buffer(cells)]),
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=CHUNK_SCHEMA), row_group_size=n_rows)


def stored_group_bytes(row_group: Any) -> int:
    """Bytes that one row group takes in the file: a ranged read of it fetches about as many."""
    columns = (row_group.column(i) for i in range(row_group.num_columns))
    return sum(int(column.total_compressed_size) for column in columns)
