# SPDX-License-Identifier: Apache-2.0
"""Finished bricks in the store, between the brick tasks and the slabs that are put together of them.

A file is one record for each slice: a CRC-32 of all else that the reader goes by, and the brick's voxels (y, x) as
float32.  Neighbouring slices are one ranged read.
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

    from storage.filesystem import Store

_SCHEMA_VERSION = 1
#: Checksum before the voxels of a slice.
SLICE_HEAD_BYTES = 4
#: Voxels of one ranged read [B], unless a slice has more.
MAX_READ_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class BrickFile:
    """Where a brick lies, and its voxels (z, y, x)."""

    path: str
    shape: tuple[int, int, int]

    @property
    def record(self) -> np.dtype[np.void]:
        """One slice as stored."""
        return np.dtype([("crc32", "<u4"), ("cells", "<f4", self.shape[1:])])

    @property
    def slice_bytes(self) -> int:
        """Bytes of one slice."""
        return SLICE_HEAD_BYTES + 4 * self.shape[1] * self.shape[2]

    @property
    def file_bytes(self) -> int:
        """Bytes of the file."""
        return self.shape[0] * self.slice_bytes

    def checksum(self, z: int, cells: bytes) -> int:
        """CRC-32 of a slice: also of its place and form."""
        return zlib.crc32(cells, zlib.crc32(json.dumps([_SCHEMA_VERSION, z, *self.shape]).encode()))


def slices_of_a_read(n_y: int, n_x: int) -> int:
    """Return how many slices of a brick one ranged read takes while slabs are put together."""
    return max(1, MAX_READ_BYTES // (4 * n_y * n_x))


def brick_path(stem: str, bin_index: int, brick_index: int) -> str:
    """Name of a brick's file, beside the filtered rows of its bin."""
    return f"{stem}-bin{bin_index:02d}/brick{brick_index:06d}.voxels"


def write_brick(
    store: Store, brick: BrickFile, read_slices: Callable[[int, int], NDArray[np.float32]], *, step: int = 16
) -> int:
    """Publish a brick, taking `step` slices (z, y, x) at a time; return the bytes written."""

    def produce(handle: BinaryIO) -> int:
        for start in range(0, brick.shape[0], step):
            for offset, values in enumerate(read_slices(start, min(start + step, brick.shape[0]))):
                record = np.empty((), dtype=brick.record)
                record["cells"] = values
                record["crc32"] = brick.checksum(start + offset, record["cells"].tobytes())
                handle.write(record.tobytes())
        return brick.file_bytes

    return publish(store, brick.path, produce, kind="replace")


def read_brick(store: Store, brick: BrickFile, start: int, stop: int, *, out: NDArray[np.float32]) -> int:
    """Read the slices ``start <= z < stop`` of a brick into `out` (z, y, x) by one ranged read; return its bytes.

    Raises
    ------
    BandCorruptError
        If the file is too short, or a slice has another checksum, place or shape.
    MissingFileError, StoreUnavailableError
        If the file is gone or cannot be read.
    """
    length = (stop - start) * brick.slice_bytes
    try:
        body = store.read_range(brick.path, start * brick.slice_bytes, length)
    except StorageError as error:
        if isinstance(error, MissingFileError):
            raise
        size = store.info(brick.path).size
        if size != brick.file_bytes:
            raise BandCorruptError(f"{brick.path} has {size} B, expected {brick.file_bytes} B") from error
        raise
    for index, record in enumerate(np.frombuffer(body, dtype=brick.record)):
        if record["crc32"] != brick.checksum(start + index, record["cells"].tobytes()):
            raise BandCorruptError(f"{brick.path}: slice {start + index} does not have its checksum")
        out[index] = record["cells"]
    return length
