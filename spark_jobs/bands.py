# SPDX-License-Identifier: Apache-2.0
"""Filtered rows in the store, between the two stages: one file for each bin, view block and run of rows.

A file is one record for each detector row, so that the rows of a slab are one ranged read: a float32 scale (1 for
float32), a CRC-32 of all else that the reader goes by, and the row's values (view, filtered col).
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

_SCHEMA_VERSION = 1
#: Scale and checksum before the values of a row.
ROW_HEAD_BYTES = 8


@dataclass(frozen=True, slots=True)
class BandFile:
    """Where a run of filtered rows lies, and its size."""

    path: str
    row_start: int
    row_stop: int
    n_views: int
    n_cols: int
    dtype: str

    @property
    def record(self) -> np.dtype[np.void]:
        """One row as stored."""
        cells = (np.dtype(self.dtype).newbyteorder("<"), (self.n_views, self.n_cols))
        return np.dtype([("scale", "<f4"), ("crc32", "<u4"), ("cells", *cells)])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all views."""
        return ROW_HEAD_BYTES + self.n_views * self.n_cols * np.dtype(self.dtype).itemsize

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.row_stop - self.row_start

    def checksum(self, row: int, scale: bytes, cells: bytes | memoryview) -> int:
        """CRC-32 of a row: also of its place and form, so that another row or shape never passes for it."""
        form = json.dumps([_SCHEMA_VERSION, row, self.n_views, self.n_cols, self.dtype]).encode()
        return zlib.crc32(cells, zlib.crc32(form + scale))


def band_path(stem: str, bin_index: int, block_index: int, row_start: int) -> str:
    """Name of a band file; each bin has a folder of its own, whose name begins with the stem."""
    return f"{stem}-bin{bin_index:02d}/block{block_index:04d}-row{row_start:06d}.band"


def write_band(store: Store, band: BandFile, filtered: NDArray[np.float32]) -> int:
    """Publish filtered rows (view, row, col) float32, in the band's dtype; return the bytes written.

    float16 keeps 11 bits of each value relative to its row's largest one.
    """

    def produce(handle: BinaryIO) -> int:
        for index in range(band.n_rows):
            handle.write(_row_record(band, band.row_start + index, filtered[:, index]))
        return band.n_rows * band.row_bytes

    return publish(store, band.path, produce, kind="replace")


def _row_record(band: BandFile, row: int, values: NDArray[np.float32]) -> bytes:
    """One row (view, col) as it is stored."""
    scale = np.float32(1.0)
    if band.dtype == "float16":
        scale = np.abs(values).max() or scale
        values = values / scale
    record = np.empty((), dtype=band.record)
    record["scale"], record["cells"] = scale, values
    record["crc32"] = band.checksum(row, record["scale"].tobytes(), record["cells"].tobytes())
    return record.tobytes()


def read_band(
    store: Store, band: BandFile, row_start: int, row_stop: int, *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Read the rows ``row_start <= row < row_stop`` of a band file by one ranged read.

    Parameters
    ----------
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
    if out is None:
        out = np.empty((band.n_views, row_stop - row_start, band.n_cols), dtype=np.float32)
    offset, length = (row_start - band.row_start) * band.row_bytes, (row_stop - row_start) * band.row_bytes
    try:
        body = store.read_range(band.path, offset, length)
    except StorageError as error:
        if isinstance(error, MissingFileError):
            raise
        size = store.info(band.path).size
        if size < offset + length:
            raise BandCorruptError(f"{band.path} has {size} B, expected {band.n_rows * band.row_bytes} B") from error
        raise
    for index, record in enumerate(np.frombuffer(body, dtype=band.record)):
        expected = band.checksum(row_start + index, record["scale"].tobytes(), record["cells"].tobytes())
        if record["crc32"] != expected:
            raise BandCorruptError(f"{band.path}: row {row_start + index} does not have its checksum")
        out[:, index] = record["cells"]
        if band.dtype == "float16":
            out[:, index] *= record["scale"]
    return out
