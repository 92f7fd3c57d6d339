# SPDX-License-Identifier: Apache-2.0
"""Images and values in the OLE compound document that Zeiss (Xradia) microscopes write: ``.txrm`` and ``.xrm``."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import olefile

from ingest.errors import FrameFormatError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: ``ImageInfo/DataType`` -> type of the pixels, always little-endian.
DATA_TYPES = {3: "<u1", 5: "<u2", 6: "<i4", 7: "<u4", 10: "<f4"}
#: So many images lie in each of the storages ``ImageData1``, ``ImageData2``, ...
_IMAGES_PER_STORAGE = 100
_OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
#: Entries of the allocation table from here on are no sectors: end of a chain, free, and so on.
_SPECIAL_SECTORS = 0xFFFFFFFA


class OleImages:
    """An opened compound document with images of one size and type.

    Attributes
    ----------
    n_frames : images that were taken.
    n_planned : images that were to be taken.
    shape : (rows, columns)
    dtype : as stored.

    Raises
    ------
    FrameFormatError
        If the file is no such document, truncated, or its images are not of the size that it says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _require_magic(path)
        try:
            self._ole = olefile.OleFileIO(str(path))
        except (OSError, ValueError, IndexError, KeyError, struct.error) as error:
            raise FrameFormatError(f"{path} is truncated or not an OLE compound document: {error}") from error
        try:
            self._require_whole()
            self._check()
        except BaseException:
            self._ole.close()
            raise

    def read(self, index: int) -> NDArray[Any]:
        """Return one image (row, col) as stored.

        Raises
        ------
        FrameFormatError
            If it cannot be read wholly.
        """
        name = f"ImageData{index // _IMAGES_PER_STORAGE + 1}/Image{index + 1}"
        return self._image(name, self.dtype, f"image {index + 1}")

    def close(self) -> None:
        """Close the file."""
        self._ole.close()

    def has(self, name: str) -> bool:
        """Whether there is a stream of that name; letters' case does not matter."""
        return bool(self._ole.get_type(name) == olefile.STGTY_STREAM)

    def values(self, name: str, kind: str) -> NDArray[Any] | None:
        """All values of a stream as a NumPy type, or None if there is no such stream."""
        if not self.has(name):
            return None
        content = self._content(name)
        item = np.dtype(kind).itemsize
        return np.frombuffer(content[: len(content) // item * item], dtype=kind)

    def value(self, name: str, kind: str) -> Any:
        """The first value of a stream, or None."""
        found = self.values(name, kind)
        return None if found is None or found.size == 0 else found[0].item()

    def text(self, name: str) -> str:
        """The text of a stream up to its first zero byte, or ""."""
        if not self.has(name):
            return ""
        return self._content(name).split(b"\0", 1)[0].decode("latin-1").strip()

    def references(self) -> list[str]:
        """Names of the streams with reference images: one, or a set of them."""
        if self.has("ReferenceData/Image"):
            return ["ReferenceData/Image"]
        names: list[str] = []
        while self.has(f"MultiReferenceData/Image{len(names) + 1}"):
            names.append(f"MultiReferenceData/Image{len(names) + 1}")
        return names

    def reference_dtype(self) -> np.dtype[Any]:
        """Type of the reference images."""
        for storage in ("ReferenceData", "MultiReferenceData"):
            code = self.value(f"{storage}/DataType", "<i4")
            if code is not None:
                return self._dtype_of(code)
        return self.dtype

    def read_reference(self, name: str) -> NDArray[Any]:
        """Return one reference image (row, col) as stored."""
        return self._image(name, self.reference_dtype(), "the reference image")

    def _require_whole(self) -> None:
        """Refuse a document whose chains of sectors go on beyond the end of the file ([MS-CFB] 2.3)."""
        ole: Any = self._ole
        used = np.asarray(ole.fat, dtype=np.uint32)
        chained = used[used < _SPECIAL_SECTORS]
        if not chained.size:
            return
        # A chain's last sector may be filled in part only, so it need just begin within the file.
        last, size = (int(chained.max()) + 1) * ole.sectorsize, self.path.stat().st_size
        if last >= size:
            raise FrameFormatError(f"{self.path} is truncated: its data go on at byte {last}, but the file has {size}")

    def _check(self) -> None:
        """Take size, type and number of the images, and see that each is there and as long as it must be."""
        numbers = {}
        for key, name in (("rows", "ImageHeight"), ("columns", "ImageWidth"), ("images", "NoOfImages")):
            value = self.value(f"ImageInfo/{name}", "<i4")
            if value is None or value < 1:
                raise FrameFormatError(f"{self.path}: ImageInfo/{name} is {value}, expected the number of {key}")
            numbers[key] = int(value)
        self.shape = (numbers["rows"], numbers["columns"])
        self.dtype = self._dtype_of(self.value("ImageInfo/DataType", "<i4"))
        self.n_planned = numbers["images"]
        taken = self.value("ImageInfo/ImagesTaken", "<i4")
        self.n_frames = self.n_planned if taken is None else min(int(taken), self.n_planned)
        expected = self.shape[0] * self.shape[1] * self.dtype.itemsize
        for index in range(self.n_frames):
            name = f"ImageData{index // _IMAGES_PER_STORAGE + 1}/Image{index + 1}"
            if not self.has(name):
                raise FrameFormatError(f"{self.path}: image {index + 1} of {self.n_frames} is missing ({name})")
            if self._ole.get_size(name) != expected:
                raise FrameFormatError(
                    f"{self.path}: {name} has {self._ole.get_size(name)} bytes, expected {expected} for "
                    f"{self.shape[0]} rows x {self.shape[1]} columns of {self.dtype.name}"
                )

    def _dtype_of(self, code: int | None) -> np.dtype[Any]:
        """Type of the pixels by its number in the file."""
        if code not in DATA_TYPES:
            known = ", ".join(str(number) for number in DATA_TYPES)
            raise FrameFormatError(f"{self.path}: pixels of data type {code} are not read, expected one of {known}")
        return np.dtype(DATA_TYPES[code])

    def _image(self, name: str, dtype: np.dtype[Any], what: str) -> NDArray[Any]:
        """One image of a stream."""
        content = self._content(name)
        expected = self.shape[0] * self.shape[1] * dtype.itemsize
        if len(content) != expected:
            raise FrameFormatError(
                f"{self.path}: {what} ({name}) has {len(content)} bytes, expected {expected} for "
                f"{self.shape[0]} rows x {self.shape[1]} columns of {dtype.name}"
            )
        return np.frombuffer(content, dtype=dtype).reshape(self.shape)

    def _content(self, name: str) -> bytes:
        """All bytes of a stream."""
        try:
            with self._ole.openstream(name) as stream:
                return bytes(stream.read())
        except (OSError, ValueError, IndexError) as error:
            raise FrameFormatError(f"{self.path}: {name} cannot be read: {error}") from error


def is_ole(path: Path) -> bool:
    """Whether a file begins as an OLE compound document does."""
    with path.open("rb") as stream:
        return stream.read(len(_OLE_MAGIC)) == _OLE_MAGIC


def _require_magic(path: Path) -> None:
    """Refuse what does not begin as an OLE compound document does."""
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_OLE_MAGIC))
    except OSError as error:
        raise FrameFormatError(f"{path} cannot be read: {error.strerror}") from error
    if start != _OLE_MAGIC:
        raise FrameFormatError(
            f"{path} is not an OLE compound document: it begins with {start.hex(' ') or 'nothing'}, "
            f"expected {_OLE_MAGIC.hex(' ')}"
        )
