# SPDX-License-Identifier: Apache-2.0
"""Filtered rows in the store, between the two stages: one file for each bin, view block and run of rows.

A file is one record for each detector row, so that the rows of a slab are one ranged read: a float32 scale (1 for
float32), a CRC-32 of all else that the reader goes by, and the row's values (view, filtered col).  For bricks the rows
are cut into tiles of columns: the records of all rows of the first tile, then those of the next, so that a brick's rows
are one ranged read for each tile that it needs.  A row's scale is that of the whole row whatever the tiles.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spark_jobs.errors import BandCorruptError
from storage.errors import MissingFileError, StorageError
from storage.publish import publish

if TYPE_CHECKING:
    from typing import BinaryIO

    from numpy.typing import NDArray

    from storage.filesystem import Store

_SCHEMA_VERSION = 2
#: Scale and checksum before the values of a row.
ROW_HEAD_BYTES = 8


@dataclass(frozen=True, slots=True)
class BandFile:
    """Where a run of filtered rows lies, and its size; `tile_cols` columns a tile, 0 for one tile of all columns."""

    path: str
    row_start: int
    row_stop: int
    n_views: int
    n_cols: int
    dtype: str
    tile_cols: int = 0

    @property
    def tiles(self) -> tuple[tuple[int, int], ...]:
        """First and end column of each tile."""
        return tile_borders(self.n_cols, self.tile_cols)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all views, over all tiles."""
        return sum(self.record_bytes(tile) for tile in self.tiles)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.row_stop - self.row_start

    def record(self, tile: tuple[int, int]) -> np.dtype[np.void]:
        """One row of a tile as stored."""
        cells = (np.dtype(self.dtype).newbyteorder("<"), (self.n_views, tile[1] - tile[0]))
        return np.dtype([("scale", "<f4"), ("crc32", "<u4"), ("cells", *cells)])

    def record_bytes(self, tile: tuple[int, int]) -> int:
        """Bytes of one row of a tile."""
        return ROW_HEAD_BYTES + self.n_views * (tile[1] - tile[0]) * np.dtype(self.dtype).itemsize

    def bytes_of_columns(self, start: int, stop: int) -> int:
        """Bytes of one row of the tiles that hold the columns ``start <= col < stop``."""
        return sum(self.record_bytes(tile) for tile in self.tiles if tile[0] < stop and tile[1] > start)

    def offset(self, tile: tuple[int, int], row: int) -> int:
        """Where a row of a tile begins in the file."""
        before = sum(self.record_bytes(other) for other in self.tiles if other[0] < tile[0])
        return self.n_rows * before + (row - self.row_start) * self.record_bytes(tile)

    def checksum(self, row: int, tile: tuple[int, int], scale: bytes, cells: bytes | memoryview) -> int:
        """CRC-32 of a row of a tile: also of its place and form, so that another row or shape never passes for it."""
        form = json.dumps([_SCHEMA_VERSION, row, self.n_views, self.n_cols, *tile, self.dtype]).encode()
        return zlib.crc32(cells, zlib.crc32(form + scale))


def tile_borders(n_cols: int, tile_cols: int) -> tuple[tuple[int, int], ...]:
    """First and end column of each tile of so many columns; one tile for 0."""
    step = tile_cols or n_cols
    return tuple((start, min(start + step, n_cols)) for start in range(0, n_cols, step))


def band_path(stem: str, bin_index: int, block_index: int, row_start: int) -> str:
    """Name of a band file; each bin has a folder of its own, whose name begins with the stem."""
    return f"{stem}-bin{bin_index:02d}/block{block_index:04d}-row{row_start:06d}.band"


def write_band(store: Store, band: BandFile, filtered: NDArray[np.float32]) -> int:
    """Publish filtered rows (view, row, col) float32, in the band's dtype; return the bytes written.

    float16 keeps 11 bits of each value relative to its row's largest one.
    """

    def produce(handle: BinaryIO) -> int:
        scales = [_row_scale(band, filtered[:, index]) for index in range(band.n_rows)]
        for tile in band.tiles:
            for index, scale in enumerate(scales):
                values = filtered[:, index, tile[0] : tile[1]]
                handle.write(_row_record(band, band.row_start + index, tile, scale, values))
        return band.n_rows * band.row_bytes

    return publish(store, band.path, produce, kind="replace")


def _row_scale(band: BandFile, values: NDArray[np.float32]) -> np.float32:
    """What the values of a row (view, col) are divided by before they are stored."""
    one = np.float32(1.0)
    return one if band.dtype == "float32" else np.abs(values).max() or one


def _row_record(
    band: BandFile, row: int, tile: tuple[int, int], scale: np.float32, values: NDArray[np.float32]
) -> bytes:
    """One row of a tile (view, col) as it is stored."""
    record = np.empty((), dtype=band.record(tile))
    record["scale"], record["cells"] = scale, values / scale if band.dtype == "float16" else values
    record["crc32"] = band.checksum(row, tile, record["scale"].tobytes(), record["cells"].tobytes())
    return record.tobytes()


def read_band(
    store: Store,
    band: BandFile,
    row_start: int,
    row_stop: int,
    *,
    cols: tuple[int, int] | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Read the rows ``row_start <= row < row_stop`` of a band file by one ranged read for each tile.

    Parameters
    ----------
    cols : (start, stop), optional
        Columns wanted; all by default.  Whole tiles are read.
    out : (view, row, col) float32, optional
        Written to and returned.

    Returns
    -------
    (view, row, col) float32

    Raises
    ------
    BandCorruptError
        If the file is too short, or a row has another checksum, place or shape.
    MissingFileError, StoreUnavailableError
        If the file is gone or cannot be read.
    """
    start, stop = cols or (0, band.n_cols)
    if out is None:
        out = np.empty((band.n_views, row_stop - row_start, stop - start), dtype=np.float32)
    for tile in band.tiles:
        low, high = max(start, tile[0]), min(stop, tile[1])
        if low >= high:
            continue
        body = _read_tile(store, band, tile, row_start, row_stop)
        for index, record in enumerate(np.frombuffer(body, dtype=band.record(tile))):
            expected = band.checksum(row_start + index, tile, record["scale"].tobytes(), record["cells"].tobytes())
            if record["crc32"] != expected:
                raise BandCorruptError(f"{band.path}: row {row_start + index} does not have its checksum")
            into = out[:, index, low - start : high - start]
            into[...] = record["cells"][:, low - tile[0] : high - tile[0]]
            if band.dtype == "float16":
                into *= record["scale"]
    return out


def _read_tile(store: Store, band: BandFile, tile: tuple[int, int], row_start: int, row_stop: int) -> bytes:
    """Stored records of some rows of a tile."""
    offset, length = band.offset(tile, row_start), (row_stop - row_start) * band.record_bytes(tile)
    try:
        return store.read_range(band.path, offset, length)
    except StorageError as error:
        if isinstance(error, MissingFileError):
            raise
        size = store.info(band.path).size
        if size < offset + length:
            raise BandCorruptError(f"{band.path} has {size} B, expected {band.n_rows * band.row_bytes} B") from error
        raise
