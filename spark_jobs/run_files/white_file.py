# SPDX-License-Identifier: Apache-2.0
"""White and dark of a bin, averaged once by the first stage: what later tasks read in place of all frames.

There is one file, or one for each camera position with field frames of its own.  A file is one record for each
detector row: a CRC-32 of all else that the reader goes by, the row's white (dark taken off, 1 in bad pixels) and, where
the scan has dark frames, its dark, as float32.
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
    from collections.abc import Callable
    from typing import BinaryIO

    from numpy.typing import NDArray

    from reconstruction.correction import FieldCorrection
    from storage.filesystem import Store

    Float32Array = NDArray[np.float32]

_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class WhiteFile:
    """Where white and dark of a bin (and a camera position) lie: n_rows x n_cols pixels, with dark or without."""

    path: str
    n_rows: int
    n_cols: int
    with_dark: bool
    position: int | None = None

    @property
    def record(self) -> np.dtype[np.void]:
        """One row as stored."""
        return np.dtype([("crc32", "<u4"), ("fields", "<f4", (1 + self.with_dark, self.n_cols))])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return 4 + 4 * self.n_cols * (1 + self.with_dark)

    def checksum(self, row: int, fields: bytes) -> int:
        """CRC-32 of a row: also of its place and form."""
        place = [] if self.position is None else [self.position]
        form = [_SCHEMA_VERSION, row, self.n_rows, self.n_cols, self.with_dark, *place]
        return zlib.crc32(fields, zlib.crc32(json.dumps(form).encode()))


def white_path(folder: str, bin_index: int, position: int | None = None) -> str:
    """Where white and dark of a bin lie, of all views or of those of one camera position."""
    of_position = "" if position is None else f"-pos{position:02d}"
    return f"{folder}/white-bin{bin_index:02d}{of_position}.rows"


def write_white(
    store: Store, file: WhiteFile, correction_of: Callable[[int, int], FieldCorrection], *, band_rows: int
) -> int:
    """Publish white and dark, `band_rows` rows of the panel at a time; return the bytes written."""

    def produce(handle: BinaryIO) -> int:
        for start in range(0, file.n_rows, band_rows):
            band = correction_of(start, min(start + band_rows, file.n_rows))
            dark = np.zeros_like(band.white) if band.dark is None else band.dark
            for offset in range(band.n_rows):
                record = np.empty((), dtype=file.record)
                record["fields"] = np.stack([band.white[offset], dark[offset]][: 1 + file.with_dark])
                record["crc32"] = file.checksum(start + offset, record["fields"].tobytes())
                handle.write(record.tobytes())
        return file.n_rows * file.row_bytes

    return publish(store, file.path, produce, kind="replace")


def read_white(
    store: Store, file: WhiteFile, row_start: int, row_stop: int
) -> tuple[Float32Array, Float32Array | None]:
    """Read white and dark (None without dark frames) of some rows by one ranged read, (row, col) float32 each.

    Raises
    ------
    BandCorruptError
        If the file is too short, or a row has another checksum, place or shape.
    MissingFileError, StoreUnavailableError
        If the file is gone or cannot be read.
    """
    offset, length = row_start * file.row_bytes, (row_stop - row_start) * file.row_bytes
    try:
        body = store.read_range(file.path, offset, length)
    except StorageError as error:
        if isinstance(error, MissingFileError):
            raise
        size = store.info(file.path).size
        if size < offset + length:
            raise BandCorruptError(f"{file.path} has {size} B, expected {file.n_rows * file.row_bytes} B") from error
        raise
    records = np.frombuffer(body, dtype=file.record)
    for index, record in enumerate(records):
        if record["crc32"] != file.checksum(row_start + index, record["fields"].tobytes()):
            raise BandCorruptError(f"{file.path}: row {row_start + index} does not have its checksum")
    fields = records["fields"].astype(np.float32)
    return np.ascontiguousarray(fields[:, 0]), np.ascontiguousarray(fields[:, 1]) if file.with_dark else None
