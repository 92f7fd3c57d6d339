# SPDX-License-Identifier: Apache-2.0
"""Filtered rows in the store, between the two stages: one file for each bin, view block and run of rows.

A file is the array (row, view, filtered col), rows outermost, so that the rows of a slab are one ranged read.  Before
it stands a JSON header of fixed size; behind it for each row one float32 scale (1 for float32) and one CRC-32.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_jobs.errors import BandCorruptError
from storage.publish import publish

if TYPE_CHECKING:
    from typing import BinaryIO

    from numpy.typing import NDArray

    from storage.filesystem import Store

HEADER_BYTES = 512
_SCHEMA_VERSION = 1


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
    def row_bytes(self) -> int:
        """Bytes of one row of all views."""
        return self.n_views * self.n_cols * np.dtype(self.dtype).itemsize

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.row_stop - self.row_start


def band_path(run_folder: str, bin_index: int, block_index: int, row_start: int) -> str:
    """Name of a band file."""
    return f"{run_folder}/bands/bin{bin_index:02d}-block{block_index:04d}-row{row_start:06d}.band"


def write_band(store: Store, band: BandFile, filtered: NDArray[np.float32]) -> int:
    """Publish filtered rows (view, row, col) float32, in the band's dtype; return the bytes written.

    float16 keeps 11 bits of each value relative to its row's largest one.
    """
    rows: NDArray[Any] = np.ascontiguousarray(filtered.transpose(1, 0, 2))
    scales = np.ones(band.n_rows, dtype="<f4")
    if band.dtype == "float16":
        largest = np.abs(rows).max(axis=(1, 2))
        scales = np.where(largest > 0, largest, 1.0).astype("<f4")
        rows = rows / scales[:, None, None]
    stored = rows.astype(np.dtype(band.dtype).newbyteorder("<"))
    checksums = np.array([zlib.crc32(row.tobytes()) for row in stored], dtype="<u4")
    header = {"schema_version": _SCHEMA_VERSION, "shape": list(stored.shape), "dtype": band.dtype}

    def produce(handle: BinaryIO) -> int:
        handle.write(json.dumps(header).encode().ljust(HEADER_BYTES))
        for row in stored:
            handle.write(row.tobytes())
        handle.write(scales.tobytes())
        handle.write(checksums.tobytes())
        return HEADER_BYTES + stored.nbytes + scales.nbytes + checksums.nbytes

    return publish(store, band.path, produce, kind="replace")


def read_band(store: Store, band: BandFile, row_start: int, row_stop: int) -> NDArray[np.float32]:
    """Read the rows ``row_start <= row < row_stop`` of a band file as (view, row, col) float32.

    Raises
    ------
    BandCorruptError
        If the file has another shape, or a row another checksum.
    """
    header: dict[str, Any] = json.loads(store.read_range(band.path, 0, HEADER_BYTES))
    expected = {
        "schema_version": _SCHEMA_VERSION, "shape": [band.n_rows, band.n_views, band.n_cols], "dtype": band.dtype,
    }  # fmt: skip
    if header != expected:
        raise BandCorruptError(f"{band.path} is {header}, expected {expected}")
    first, count = row_start - band.row_start, row_stop - row_start
    body = store.read_range(band.path, HEADER_BYTES + first * band.row_bytes, count * band.row_bytes)
    tail_at = HEADER_BYTES + band.n_rows * band.row_bytes
    tail = store.read_range(band.path, tail_at, 8 * band.n_rows)
    scales = np.frombuffer(tail, dtype="<f4", count=band.n_rows)[first : first + count]
    checksums = np.frombuffer(tail, dtype="<u4", offset=4 * band.n_rows)[first : first + count]
    for index in range(count):
        if zlib.crc32(body[index * band.row_bytes : (index + 1) * band.row_bytes]) != checksums[index]:
            raise BandCorruptError(f"{band.path}: row {row_start + index} does not have its checksum")
    stored = np.frombuffer(body, dtype=np.dtype(band.dtype).newbyteorder("<"))
    rows = stored.reshape(count, band.n_views, band.n_cols).astype(np.float32)
    if band.dtype == "float16":
        rows *= scales[:, None, None]
    return np.ascontiguousarray(rows.transpose(1, 0, 2))
