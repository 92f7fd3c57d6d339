# SPDX-License-Identifier: Apache-2.0
"""One projection of a Varian imager a file: ``.xim`` (TrueBeam, ProBeam), ``.hnd`` and ``.hnc`` (On-Board Imager).

XIM and HND store the first row and one pixel more as 32-bit numbers; every further pixel is what its left, upper and
upper left neighbours predict plus a difference of 1, 2 or 4 bytes, as many as a table of 2-bit codes says.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import FrameFormatError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

XIM_MAGIC = b"VMS.XI"
_WIDTHS = np.array([1, 2, 4, 0], dtype=np.int64)
_MOST_PIXELS = 1 << 28
_SIZES = f", expected 1 to {_MOST_PIXELS} pixels: the header is damaged"
#: Fields of the header of .hnd and .hnc files that are read: name -> (offset, struct format).
_OBI_FIELDS = {
    "n_cols": (120, "<I"),
    "n_rows": (124, "<I"),
    "sod_mm": (176, "<d"),
    "sdd_mm": (184, "<d"),
    "detector_long_mm": (280, "<d"),
    "detector_lat_mm": (288, "<d"),
    "pitch_u_mm": (352, "<d"),
    "pitch_v_mm": (360, "<d"),
    "kvp": (400, "<d"),
    "tube_current_ma": (408, "<d"),
    "angle_deg": (432, "<d"),
    "norm_chamber": (440, "<d"),
}
_OBI_HEADER = 512
_HND_PIXELS = 1024


class XimFile:
    """An opened ``.xim`` file: one frame and its properties.

    Attributes
    ----------
    n_frames, shape, dtype : 1, (rows, columns), and the type of the pixels.
    properties : number or text by name, as the file has them (lengths in cm, angles in degrees, Varian's scale).
    has_pixels : some files of a scan hold properties only.
    """

    n_frames = 1

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = _Cursor(path)
        cursor = self._bytes
        magic = cursor.take(8, "the header")
        if not magic.startswith(XIM_MAGIC):
            raise FrameFormatError(f"{path} is not a .xim file: it begins with {magic!r}, expected {XIM_MAGIC!r}")
        cursor.numbers("<i", 1, "the version")
        n_cols, n_rows, _, bytes_per_pixel, compressed = cursor.numbers("<i", 5, "the header").tolist()
        self.has_pixels = n_cols * n_rows > 0
        if n_cols < 0 or n_rows < 0 or n_cols * n_rows > _MOST_PIXELS:
            raise FrameFormatError(f"{path}: {n_rows} rows x {n_cols} columns are no frame{_SIZES}")
        if bytes_per_pixel not in (1, 2, 4):
            raise FrameFormatError(f"{path}: pixels of {bytes_per_pixel} bytes are not read, expected 1, 2 or 4")
        self.shape = (n_rows, n_cols)
        self.dtype: np.dtype[Any] = np.dtype(f"<i{4 if compressed else bytes_per_pixel}")
        self._compressed = bool(compressed)
        if compressed:
            self._table = cursor.skip(cursor.count("the lookup table"), "the lookup table")
            self._pixels = cursor.skip(cursor.count("the pixels"), "the pixels")
            cursor.count("the size of the frame")
        else:
            self._pixels = cursor.skip(cursor.count("the pixels"), "the pixels")
        cursor.skip(4 * cursor.count("the histogram"), "the histogram")
        self.properties = self._read_properties()

    def read(self, index: int) -> NDArray[Any]:
        """Return the frame (row, col) as stored.

        Raises
        ------
        FrameFormatError
            If the pixels do not fill the frame.
        """
        if not self._compressed:
            return _plain_frame(self.path, self._bytes.at(*self._pixels), self.dtype, self.shape)
        table = np.frombuffer(self._bytes.at(*self._table), dtype=np.uint8)
        return decompress(self.path, table, self._bytes.at(*self._pixels), self.shape)

    def close(self) -> None:
        """Nothing stays open between reads."""

    def _read_properties(self) -> dict[str, float | str]:
        """Numbers and texts of the list of properties; lists are passed over."""
        cursor = self._bytes
        properties: dict[str, float | str] = {}
        for _ in range(cursor.count("the number of properties")):
            name = cursor.take(cursor.count("a property's name"), "a property's name").decode("latin-1").strip("\0")
            kind = int(cursor.numbers("<i", 1, f"property {name}")[0])
            if kind == 0:
                properties[name] = float(cursor.numbers("<i", 1, f"property {name}")[0])
            elif kind == 1:
                properties[name] = float(cursor.numbers("<d", 1, f"property {name}")[0])
            elif kind in (2, 4, 5):
                value = cursor.take(cursor.count(f"property {name}"), f"property {name}")
                if kind == 2:
                    properties[name] = value.decode("latin-1").strip("\0 ")
            else:
                raise FrameFormatError(f"{self.path}: property {name} is of the unknown kind {kind}")
        return properties


class ObiFile:
    """An opened ``.hnd`` (compressed) or ``.hnc`` (plain, 16 bit) file.

    Attributes
    ----------
    n_frames, shape, dtype : 1, (rows, columns), and the type of the pixels.
    fields : the numbers of its header, by the names of the project.
    """

    n_frames = 1

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = _Cursor(path)
        header = self._bytes.take(_OBI_HEADER, "the header")
        fields = {name: struct.unpack_from(form, header, at)[0] for name, (at, form) in _OBI_FIELDS.items()}
        self.fields: dict[str, float] = fields
        n_rows, n_cols = int(self.fields["n_rows"]), int(self.fields["n_cols"])
        if not 0 < n_rows * n_cols <= _MOST_PIXELS:
            raise FrameFormatError(f"{path}: {n_rows} rows x {n_cols} columns are no frame{_SIZES}")
        self.shape = (n_rows, n_cols)
        self._compressed = path.suffix.lower() == ".hnd"
        self.dtype: np.dtype[Any] = np.dtype("<i4" if self._compressed else "<u2")
        if self._compressed:
            self._bytes.take(_HND_PIXELS - _OBI_HEADER, "the header")
            self._table = self._bytes.skip((n_rows - 1) * n_cols // 4, "the lookup table")
            self._pixels = (_HND_PIXELS + self._table[1], self._bytes.size - _HND_PIXELS - self._table[1])
        else:
            self._pixels = self._bytes.skip(2 * n_rows * n_cols, "the pixels")

    def read(self, index: int) -> NDArray[Any]:
        """Return the frame (row, col) as stored; FrameFormatError if the pixels do not fill it."""
        content = self._bytes.at(*self._pixels)
        if not self._compressed:
            return _plain_frame(self.path, content, self.dtype, self.shape)
        table = np.frombuffer(self._bytes.at(*self._table), dtype=np.uint8)
        return decompress(self.path, table, content, self.shape)

    def close(self) -> None:
        """Nothing stays open between reads."""


def decompress(path: Path, table: NDArray[np.uint8], content: bytes, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Undo the prediction of a compressed frame.

    Parameters
    ----------
    path : for messages.
    table : (code byte,) uint8
        Four 2-bit codes a byte, the lowest bits first: 0, 1 and 2 for differences of 1, 2 and 4 bytes.
    content : the first row and one pixel as 32-bit numbers, then the differences.
    shape : (rows, columns)

    Returns
    -------
    (row, col) int32

    Raises
    ------
    FrameFormatError
        If the table or the pixels are too short, or a code is unknown.
    """
    n_rows, n_cols = shape
    n_first = n_cols + 1 if n_rows > 1 else n_cols
    n_left = n_rows * n_cols - n_first
    if len(content) < 4 * n_first:
        raise FrameFormatError(f"{path} is truncated: the first row needs {4 * n_first} bytes, got {len(content)}")
    codes = (table[:, None] >> np.array([0, 2, 4, 6], dtype=np.uint8) & 3).ravel()[:n_left]
    if codes.size < n_left:
        raise FrameFormatError(f"{path} is truncated: its lookup table has {codes.size} codes, expected {n_left}")
    if (codes == 3).any():
        raise FrameFormatError(f"{path}: its lookup table has the unknown code 3 at pixel {int((codes == 3).argmax())}")
    widths = _WIDTHS[codes]
    ends = np.cumsum(widths)
    packed = np.frombuffer(content, dtype=np.uint8, offset=4 * n_first)
    if n_left and packed.size < ends[-1]:
        raise FrameFormatError(f"{path} is truncated: its differences need {ends[-1]} bytes, got {packed.size}")
    differences = np.zeros(n_left, dtype=np.int64)
    for width, kind in ((1, "<i1"), (2, "<i2"), (4, "<i4")):
        where = np.flatnonzero(widths == width)
        starts = (ends - widths)[where]
        parts = packed[starts[:, None] + np.arange(width)]
        differences[where] = np.ascontiguousarray(parts).view(kind).ravel()
    first = np.frombuffer(content, dtype="<i4", count=n_first).astype(np.int64)
    return _predict(first, differences, shape)


def _predict(first: NDArray[np.int64], differences: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Sum the differences up: p[k] = d[k] + p[k-1] + p[k-n] - p[k-n-1] in raster order, n the columns."""
    n_rows, n_cols = shape
    # The steps q[k] = p[k] - p[k-1] follow q[k] = d[k] + q[k-n]: a running sum over each n-th of them.
    steps = np.zeros(n_rows * n_cols, dtype=np.int64)
    steps[: first.size - 1] = np.diff(first)
    steps[first.size - 1 : first.size - 1 + differences.size] = differences
    steps = np.cumsum(steps.reshape(n_rows, n_cols), axis=0).ravel()
    pixels = np.empty(n_rows * n_cols, dtype=np.int64)
    pixels[0] = first[0]
    pixels[1:] = first[0] + np.cumsum(steps[:-1])
    return pixels.astype(np.int32).reshape(shape)


def _plain_frame(path: Path, content: bytes, dtype: np.dtype[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """A frame that is not compressed."""
    expected = shape[0] * shape[1] * dtype.itemsize
    if len(content) < expected:
        raise FrameFormatError(
            f"{path} is truncated: its pixels have {len(content)} bytes, expected {expected} for "
            f"{shape[0]} rows x {shape[1]} columns"
        )
    return np.frombuffer(content[:expected], dtype=dtype).reshape(shape)


class _Cursor:
    """Reads on in a file, naming what is cut short and where."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        try:
            self.size = path.stat().st_size
            with path.open("rb") as stream:
                self._start = stream.read(1 << 16)
        except OSError as error:
            raise FrameFormatError(f"{path} cannot be read: {error.strerror}") from error

    def take(self, n_bytes: int, what: str) -> bytes:
        """The next bytes."""
        start, _ = self.skip(n_bytes, what)
        if start + n_bytes <= len(self._start):
            return self._start[start : start + n_bytes]
        return self.at(start, n_bytes)

    def skip(self, n_bytes: int, what: str) -> tuple[int, int]:
        """Pass over bytes that must be there; returns where they lie and how many they are."""
        start = self.position
        if n_bytes < 0 or start + n_bytes > self.size:
            raise FrameFormatError(
                f"{self.path} is truncated: {what} lies at bytes {start} to {start + n_bytes}, "
                f"but the file has {self.size}"
            )
        self.position += n_bytes
        return start, n_bytes

    def numbers(self, kind: str, count: int, what: str) -> NDArray[Any]:
        """The next numbers."""
        return np.frombuffer(self.take(np.dtype(kind).itemsize * count, what), dtype=kind)

    def count(self, what: str) -> int:
        """A length: a 32-bit number that is not negative."""
        value = int(self.numbers("<i", 1, what)[0])
        if value < 0:
            raise FrameFormatError(f"{self.path}: the length of {what} is {value}, expected 0 or more")
        return value

    def at(self, start: int, n_bytes: int) -> bytes:
        """Bytes anywhere in the file."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(start)
                content = stream.read(n_bytes)
                size = stream.seek(0, 2)
        except OSError as error:
            raise FrameFormatError(f"{self.path} cannot be read: {error.strerror}") from error
        if len(content) < n_bytes:
            raise FrameFormatError(
                f"{self.path} is truncated: it ends at byte {size}, but had {self.size} bytes when it was opened"
            )
        return content
