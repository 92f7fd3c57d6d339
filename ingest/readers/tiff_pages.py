# SPDX-License-Identifier: Apache-2.0
"""The pages of one TIFF file, read one by one, the file's structure checked before anything is decoded."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from ingest.errors import FrameFormatError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_BYTE_ORDERS = {b"II": "<", b"MM": ">"}
_CLASSIC, _BIG = 42, 43
#: What tifffile raises where the fields of a file contradict each other.
_MALFORMED = (tifffile.TiffFileError, ValueError, TypeError, LookupError, ArithmeticError, struct.error)
#: Bytes of one value by TIFF field type (TIFF 6.0 section 2; 16 to 18 are BigTIFF's).
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF or BigTIFF does; never raises."""
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
    except OSError:
        return False
    order = _BYTE_ORDERS.get(magic[:2])
    return order is not None and len(magic) == 4 and struct.unpack(order + "H", magic[2:])[0] in (_CLASSIC, _BIG)


class TiffPages:
    """An opened TIFF: single page or stack, classic or BigTIFF, any byte order, any lossless compression.

    Attributes
    ----------
    n_frames : int
    shape : (rows, columns)
    dtype : as stored.

    Raises
    ------
    FrameFormatError
        If the file is no TIFF, truncated, or not of grey pictures of one size and type.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._contiguous: NDArray[Any] | None = None
        n_directories = _walk_directories(path)
        try:
            self._tiff = tifffile.TiffFile(path)
        except _MALFORMED as error:
            raise FrameFormatError(f"{path} is not a readable TIFF: {' '.join(str(error).split())}") from error
        try:
            self._check(n_directories)
        except FrameFormatError:
            self._tiff.close()
            raise
        except _MALFORMED as error:
            self._tiff.close()
            raise FrameFormatError(f"{path} is not a readable TIFF: {' '.join(str(error).split())}") from error
        except BaseException:
            self._tiff.close()
            raise

    def read(self, index: int) -> NDArray[Any]:
        """Return one page (row, col) as stored.

        Raises
        ------
        FrameFormatError
            If it cannot be decoded.
        """
        if self._contiguous is not None:
            return np.array(self._contiguous[index])
        try:
            page = np.asarray(self._tiff.pages[index].asarray())
        except (tifffile.TiffFileError, ValueError, RuntimeError, struct.error, OSError) as error:
            raise FrameFormatError(f"{self.path}: page {index} cannot be decoded: {error}") from error
        return page

    def close(self) -> None:
        """Close the file."""
        self._contiguous = None
        self._tiff.close()

    def _check(self, n_directories: int) -> None:
        """Refuse what is not a stack of equal grey pages, wholly in the file."""
        tiff, path = self._tiff, self.path
        first = tiff.pages.first
        if len(first.shape) != 2:
            raise FrameFormatError(f"{path}: page 0 has the shape {first.shape}, expected one grey value a pixel")
        if first.dtype is None or np.dtype(first.dtype).kind not in "iuf":
            kind = first.dtype.name if first.dtype is not None else f"{first.bitspersample} bits"
            raise FrameFormatError(
                f"{path}: page 0 has pixels of {kind}, expected whole or floating point numbers: convert it"
            )
        self.shape: tuple[int, int] = (int(first.shape[0]), int(first.shape[1]))
        self.dtype: np.dtype[Any] = np.dtype(tiff.byteorder + first.dtype.str[1:])
        self.n_frames = n_directories
        n_stacked = _stacked_pages(tiff) if n_directories == 1 else 1
        if n_stacked > 1:
            self._open_contiguous(first, n_stacked)
            return
        if len(tiff.pages) != n_directories:
            raise FrameFormatError(
                f"{path} is malformed: it has {n_directories} pages, of which {len(tiff.pages)} are readable"
            )
        size = path.stat().st_size
        for index in range(n_directories):
            page = tiff.pages[index]
            if page.shape != first.shape or page.dtype != first.dtype:
                raise FrameFormatError(
                    f"{path}: page {index} is {page.shape} {page.dtype}, expected {first.shape} {first.dtype} as page "
                    "0: leave previews and other pictures out of the stack"
                )
            for offset, n_bytes in zip(page.dataoffsets, page.databytecounts, strict=True):
                if offset + n_bytes > size:
                    raise _truncated(path, f"page {index}", offset, n_bytes, size)

    def _open_contiguous(self, first: Any, n_pages: int) -> None:
        """Map an uncompressed stack that has one directory only, that of its first page."""
        if not first.is_contiguous:
            raise FrameFormatError(
                f"{self.path}: a stack of {n_pages} pages with one directory must be uncompressed: save it so, or with "
                "a directory for each page"
            )
        shape, offset = (n_pages, *self.shape), int(first.dataoffsets[0])
        n_bytes = int(np.prod(shape)) * self.dtype.itemsize
        size = self.path.stat().st_size
        if offset + n_bytes > size:
            raise _truncated(self.path, f"the stack of {n_pages} pages", offset, n_bytes, size)
        self.n_frames = n_pages
        self._contiguous = np.memmap(self.path, self.dtype, "r", offset, shape)


def _stacked_pages(tiff: tifffile.TiffFile) -> int:
    """Pages of a file with one directory: ImageJ leaves out those of all pages but the first."""
    if len(tiff.series) == 1 and len(tiff.series[0].shape) == 3:
        return int(tiff.series[0].shape[0])
    # Where such a stack is cut short, tifffile takes its first page for all there is.
    return int((tiff.imagej_metadata or {}).get("images", 1))


def _walk_directories(path: Path) -> int:
    """Count the image file directories; refuse the file if one of them does not lie in it wholly."""
    try:
        with path.open("rb") as stream:
            return _count_directories(path, stream, path.stat().st_size)
    except OSError as error:
        raise FrameFormatError(f"{path} cannot be read: {error.strerror}") from error


def _count_directories(path: Path, stream: Any, size: int) -> int:
    """Follow the chain of directories (TIFF 6.0 section 2; BigTIFF)."""
    header = stream.read(16)
    order = _BYTE_ORDERS.get(header[:2])
    if order is None or len(header) < 8:
        raise FrameFormatError(f"{path} is not a TIFF: it begins with {header[:4].hex(' ') or 'nothing'}")
    version = struct.unpack(order + "H", header[2:4])[0]
    if version not in (_CLASSIC, _BIG) or (version == _BIG and len(header) < 16):
        raise FrameFormatError(f"{path} is not a TIFF: its version is {version}, expected {_CLASSIC} or {_BIG}")
    pointer, count, entry_bytes = ("Q", "Q", 20) if version == _BIG else ("I", "H", 12)
    offset = struct.unpack(order + pointer, header[8:16] if version == _BIG else header[4:8])[0]
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise FrameFormatError(f"{path} is malformed: its pages run in a circle at byte {offset}")
        seen.add(offset)
        count_bytes = struct.calcsize(count)
        if offset + count_bytes > size:
            raise _truncated(path, f"the directory of page {len(seen) - 1}", offset, count_bytes, size)
        stream.seek(offset)
        entries = struct.unpack(order + count, stream.read(count_bytes))[0]
        rest = entries * entry_bytes + struct.calcsize(pointer)
        if offset + count_bytes + rest > size:
            raise _truncated(path, f"the directory of page {len(seen) - 1}", offset, count_bytes + rest, size)
        table = stream.read(rest)
        _check_values(path, table[: entries * entry_bytes], order, pointer, entry_bytes, size)
        offset = struct.unpack(order + pointer, table[entries * entry_bytes :])[0]
    if not seen:
        raise FrameFormatError(f"{path} is a TIFF without pages")
    return len(seen)


def _check_values(path: Path, table: bytes, order: str, pointer: str, entry_bytes: int, size: int) -> None:
    """Refuse a directory with an entry whose value lies beyond the end of the file."""
    inline_bytes = struct.calcsize(pointer)
    for start in range(0, len(table), entry_bytes):
        tag, kind, count = struct.unpack(order + "HH" + pointer, table[start : start + 4 + inline_bytes])
        n_bytes = count * _VALUE_BYTES.get(kind, 0)
        if n_bytes <= inline_bytes:
            continue
        offset = struct.unpack(order + pointer, table[start + entry_bytes - inline_bytes : start + entry_bytes])[0]
        if offset + n_bytes > size:
            raise _truncated(path, f"the value of tag {tag}", offset, n_bytes, size)


def _truncated(path: Path, what: str, offset: int, n_bytes: int, size: int) -> FrameFormatError:
    """An error that says where the file should go on."""
    return FrameFormatError(
        f"{path} is truncated: {what} lies at bytes {offset} to {offset + n_bytes}, but the file has {size}"
    )
