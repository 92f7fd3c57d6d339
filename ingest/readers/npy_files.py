# SPDX-License-Identifier: Apache-2.0
"""Frames in NumPy files: .npy memory-mapped, members of .npz streamed one frame at a time."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ingest.errors import FrameFormatError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from ingest.readers.series import FrameFile

_LOCAL_HEADER_BYTES = 30


class NpyFile:
    """Frames (row, col), (frame, row, col) or (bin, frame, row, col) of a .npy file, memory-mapped.

    Attributes
    ----------
    n_bins, n_frames : int
    shape : (rows, columns)
    dtype : as stored.

    Raises
    ------
    FrameFormatError
        If the file is no .npy array of frames, or truncated.
    """

    def __init__(self, path: Path, bin_index: int = 0) -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                shape, fortran_order, self.dtype = _read_header(stream, str(path))
                offset = stream.tell()
        except OSError as error:
            raise FrameFormatError(f"{path} cannot be read: {error.strerror}") from error
        self.n_bins, self.n_frames, self.shape = _split_shape(shape, str(path))
        self._frames: NDArray[Any] | None = _map(path, self.dtype, shape, offset, fortran_order)[bin_index]

    def read(self, index: int) -> NDArray[Any]:
        """Return one frame (row, col) as stored."""
        assert self._frames is not None, "read after close"
        return np.array(self._frames[index])

    def close(self) -> None:
        """Let go of the mapping."""
        self._frames = None


class NpzMember:
    """Frames of one array in a .npz: mapped where it is stored plainly, decompressed as a stream where not.

    Reading frames in rising order costs one pass; going back starts over.
    """

    def __init__(self, path: Path, key: str, bin_index: int = 0) -> None:
        self.path, self.key, self._bin_index = path, key, bin_index
        self._what = f"{path}: array '{key}'"
        self._stream: IO[bytes] | None = None
        self._frames: NDArray[Any] | None = None
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise FrameFormatError(f"{path} is truncated or not a .npz file: {error}") from error
        try:
            self._member = self._archive.getinfo(f"{key}.npy")
            with self._archive.open(self._member) as stream:
                shape, fortran_order, self.dtype = _read_header(stream, self._what)
                self._header_bytes = stream.tell()
            self.n_bins, self.n_frames, self.shape = _split_shape(shape, self._what)
            n_bytes = self._header_bytes + int(np.prod(shape)) * self.dtype.itemsize
            if self._member.file_size != n_bytes:
                raise FrameFormatError(f"{self._what} is truncated: {self._member.file_size} bytes, expected {n_bytes}")
            if self._member.compress_type == zipfile.ZIP_STORED:
                offset = _payload_offset(path, self._member) + self._header_bytes
                self._frames = _map(path, self.dtype, shape, offset, fortran_order)[bin_index]
            elif fortran_order:
                raise FrameFormatError(
                    f"{self._what} is compressed in Fortran order, expected C order: save it as "
                    "np.ascontiguousarray gives it, or uncompressed"
                )
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError, RuntimeError) as error:
            # RuntimeError: encrypted, or compressed in a way that is not known here.
            self._archive.close()
            raise FrameFormatError(f"{self._what} cannot be read: {error}") from error
        except FrameFormatError:
            self._archive.close()
            raise

    def read(self, index: int) -> NDArray[Any]:
        """Return one frame (row, col) as stored.

        Raises
        ------
        FrameFormatError
            If the compressed bytes are damaged.
        """
        if self._frames is not None:
            return np.array(self._frames[index])
        frame_bytes = self.shape[0] * self.shape[1] * self.dtype.itemsize
        position = self._header_bytes + (self._bin_index * self.n_frames + index) * frame_bytes
        try:
            if self._stream is None:
                self._stream = self._archive.open(self._member)
            self._stream.seek(position)
            content = self._stream.read(frame_bytes)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise FrameFormatError(f"{self._what}: frame {index} is damaged: {error}") from error
        if len(content) != frame_bytes:
            raise FrameFormatError(
                f"{self._what} is truncated in frame {index}: {len(content)} bytes, expected {frame_bytes}"
            )
        return np.frombuffer(content, dtype=self.dtype).reshape(self.shape)

    def close(self) -> None:
        """Close the archive."""
        if self._stream is not None:
            self._stream.close()
        self._frames = None
        self._archive.close()


def npz_keys(path: Path) -> tuple[str, ...]:
    """Names of the arrays in a .npz; FrameFormatError if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))
    except (zipfile.BadZipFile, OSError) as error:
        raise FrameFormatError(f"{path} is truncated or not a .npz file: {error}") from error


def open_mask(path: Path, shape: tuple[int, int], open_other: Callable[[Path], FrameFile]) -> FrameFile:
    """Open a mask of bad pixels (not zero is bad): a .npy, or a file of the reader's own kind.

    Raises
    ------
    FrameFormatError
        If it is not one frame of the panel's size.
    """
    mask = NpyFile(path) if path.suffix.lower() == ".npy" else open_other(path)
    if mask.shape != shape or mask.n_frames != 1:
        mask.close()
        raise FrameFormatError(
            f"{path}: bad pixels need one frame of {shape[0]} rows x {shape[1]} columns, "
            f"got {mask.n_frames} of {mask.shape[0]} x {mask.shape[1]}"
        )
    return mask


def _read_header(stream: IO[bytes], what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type from the header of a .npy."""
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise FrameFormatError(f"{what} is a .npy of version {version[0]}.{version[1]}, expected 1.0 or 2.0")
        shape, fortran_order, dtype = read(stream)
    except (ValueError, TypeError, EOFError, struct.error, SyntaxError, tokenize.TokenError) as error:
        if isinstance(error, FrameFormatError):
            raise
        raise FrameFormatError(f"{what} is not a NumPy array: {error}") from error
    if dtype.hasobject:
        raise FrameFormatError(f"{what} holds pickled objects, which are never read: save it as numbers")
    return shape, fortran_order, dtype


def _split_shape(shape: tuple[int, ...], what: str) -> tuple[int, int, tuple[int, int]]:
    """Bins, frames and (rows, columns) of a shape."""
    if not 2 <= len(shape) <= 4 or min(shape) < 1:
        raise FrameFormatError(f"{what} has the shape {shape}, expected ([[bin,] view,] row, col)")
    n_bins = shape[-4] if len(shape) > 3 else 1
    n_frames = shape[-3] if len(shape) > 2 else 1
    return n_bins, n_frames, (shape[-2], shape[-1])


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int, fortran_order: bool) -> NDArray[Any]:
    """Map an array as (bin, frame, row, col)."""
    n_bytes, size = int(np.prod(shape)) * dtype.itemsize, path.stat().st_size
    if offset + n_bytes > size:
        raise FrameFormatError(
            f"{path} is truncated: frames of shape {shape} {dtype} lie at bytes {offset} to {offset + n_bytes}, "
            f"but the file has {size}"
        )
    mapped = np.memmap(path, dtype, "r", offset, shape, "F" if fortran_order else "C")
    return np.asarray(mapped)[(None,) * (4 - len(shape))]


def _payload_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: behind its local header, whose extra field is its own."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL_HEADER_BYTES)
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
    return int(member.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes)
