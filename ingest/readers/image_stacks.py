# SPDX-License-Identifier: Apache-2.0
"""Stacks of pictures in one file with spacing and origin: MetaImage (.mha, .mhd) and NIfTI-1 (.nii), memory-mapped.

The first axis of such an image is the detector's column, the second its row, the third the view; spacing and origin
along the first two are what RTK takes as pixel pitch and as the place of pixel (0, 0).  Images that are turned are
refused.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ingest.errors import FrameFormatError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SUFFIXES: Final = (".mha", ".mhd", ".nii")

_META_TYPES: Final = {
    "MET_UCHAR": "u1", "MET_CHAR": "i1", "MET_USHORT": "u2", "MET_SHORT": "i2", "MET_UINT": "u4", "MET_INT": "i4",
    "MET_ULONG": "u4", "MET_LONG": "i4", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_NIFTI_TYPES: Final = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
_NIFTI_HEADER_BYTES: Final = 348
#: A MetaImage header is text of a few lines; more than this is something else.
_MAX_HEADER_BYTES: Final = 65_536
_DIRECTION_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class StackHeader:
    """What the header of a stack says; sizes, spacing and origin along columns, rows, views."""

    data_path: Path
    offset: int
    sizes: tuple[int, int, int]
    dtype: np.dtype[Any]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    slope: float = 1.0
    intercept: float = 0.0


class ImageStack:
    """Frames (row, col) of a .mha, .mhd or .nii file.

    Attributes
    ----------
    header : spacing and origin.
    n_frames, shape, dtype : as of any frame file.

    Raises
    ------
    FrameFormatError
        If the file is none, is truncated, compressed, turned, or of a kind that is not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_stack_header(path)
        columns, rows, self.n_frames = self.header.sizes
        self.shape = (rows, columns)
        scaled = (self.header.slope, self.header.intercept) != (1.0, 0.0)
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if scaled else self.header.dtype
        self._scaled = scaled
        n_bytes = columns * rows * self.n_frames * self.header.dtype.itemsize
        size = self.header.data_path.stat().st_size
        if self.header.offset + n_bytes > size:
            raise FrameFormatError(
                f"{self.header.data_path} is truncated: frames lie at bytes {self.header.offset} to "
                f"{self.header.offset + n_bytes}, but the file has {size}"
            )
        shape = (self.n_frames, rows, columns)
        mapped = np.memmap(self.header.data_path, self.header.dtype, "r", self.header.offset, shape)
        self._frames: NDArray[Any] | None = np.asarray(mapped)

    def read(self, index: int) -> NDArray[Any]:
        """Return one frame (row, col), scaled as the header says."""
        assert self._frames is not None, "read after close"
        frame = np.array(self._frames[index])
        if not self._scaled:
            return frame
        return (frame * self.header.slope + self.header.intercept).astype(np.float32)

    def close(self) -> None:
        """Let go of the mapping."""
        self._frames = None


def read_stack_header(path: Path) -> StackHeader:
    """Read the header of a .mha, .mhd or .nii file; FrameFormatError if it is none that is read."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_MAX_HEADER_BYTES)
    except OSError as error:
        raise FrameFormatError(f"{path} cannot be read: {error.strerror}") from error
    header = _read_nifti(path, head) if path.suffix.lower() == ".nii" else _read_meta(path, head)
    if min(header.sizes) < 1:
        raise FrameFormatError(f"{path} has the sizes {header.sizes}, expected columns, rows and views of at least 1")
    if not np.isfinite([*header.spacing_mm, *header.origin_mm]).all() or min(header.spacing_mm[:2]) <= 0:
        raise FrameFormatError(f"{path} has the spacing {header.spacing_mm}, expected positive lengths")
    if not header.data_path.is_file():
        raise FrameFormatError(
            f"{path}: its pixels should be in {header.data_path.name}, which is not there: put both into one folder"
        )
    return header


def meta_header(
    sizes: tuple[int, int, int], dtype: np.dtype[Any], spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
) -> bytes:  # fmt: skip
    """Return the header of a .mha file that its pixels (view, row, col), little-endian, follow.

    Raises
    ------
    FrameFormatError
        If MetaImage has no such type.
    """
    code = dtype.newbyteorder("<").str[1:]
    names = [name for name, known in _META_TYPES.items() if known == code]
    if not names:
        raise FrameFormatError(f"a .mha file cannot hold pixels of type {dtype}")
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": " ".join(repr(float(x)) for x in origin),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": " ".join(repr(float(x)) for x in spacing),
        "DimSize": " ".join(str(n) for n in sizes),
        "ElementType": names[0],
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items()).encode()


def _read_meta(path: Path, head: bytes) -> StackHeader:
    """The header of a MetaImage."""
    fields: dict[str, str] = {}
    offset = 0
    for line in head.splitlines(keepends=True):
        offset += len(line)
        key, equals, value = line.decode("latin-1").partition("=")
        if not equals:
            break
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    if "ElementDataFile" not in fields:
        raise FrameFormatError(f"{path} is not a MetaImage: its header does not end in ElementDataFile")
    if fields.get("CompressedData", "False").lower() == "true":
        raise FrameFormatError(f"{path} is compressed: write it without compression")
    kind, channels = fields.get("ElementType", ""), fields.get("ElementNumberOfChannels", "1")
    if kind not in _META_TYPES or channels != "1":
        raise FrameFormatError(
            f"{path} has pixels of type {kind or 'none'} x {channels}, expected one number each, of "
            f"{', '.join(_META_TYPES)}"
        )
    sizes = _numbers(path, fields, ("DimSize",), None)
    if len(sizes) not in (2, 3):
        raise FrameFormatError(f"{path} has {len(sizes)} axes, expected columns, rows and views")
    identity = np.eye(len(sizes)).ravel().tolist()
    matrix = _numbers(path, fields, ("TransformMatrix", "Rotation", "Orientation"), identity)
    if len(matrix) != len(identity) or np.abs(np.subtract(matrix, identity)).max() > _DIRECTION_TOLERANCE:
        raise FrameFormatError(
            f"{path} is turned (TransformMatrix), expected columns, rows and views along its axes: write it unturned"
        )
    spacing = _numbers(path, fields, ("ElementSpacing", "ElementSize"), [1.0] * len(sizes))
    origin = _numbers(path, fields, ("Offset", "Position", "Origin"), [0.0] * len(sizes))
    big = any(fields.get(key, "").lower() == "true" for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
    name = fields["ElementDataFile"]
    local = name.upper() == "LOCAL"
    data_path = path if local else path.parent / name
    if not local:
        offset = int(_numbers(path, fields, ("HeaderSize",), [0.0])[0])
        if offset < 0:
            raise FrameFormatError(f"{path} has the HeaderSize {offset}, expected 0 or more")
    dtype = np.dtype((">" if big else "<") + _META_TYPES[kind])
    return StackHeader(data_path, offset, _three(sizes), dtype, _lengths(spacing), _lengths(origin, 0.0))


def _read_nifti(path: Path, head: bytes) -> StackHeader:
    """The header of a NIfTI-1 file; its axes point to the right, the front and the head, ITK's to the left and back."""
    if len(head) < _NIFTI_HEADER_BYTES:
        raise FrameFormatError(f"{path} is truncated: a NIfTI header has {_NIFTI_HEADER_BYTES} bytes, got {len(head)}")
    order = "<" if struct.unpack("<i", head[:4])[0] == _NIFTI_HEADER_BYTES else ">"
    if struct.unpack(order + "i", head[:4])[0] != _NIFTI_HEADER_BYTES or head[344:348] != b"n+1\0":
        raise FrameFormatError(
            f"{path} is not a NIfTI-1 file with its pixels in it: write header and pixels into one .nii"
        )
    dim = struct.unpack(order + "8h", head[40:56])
    if dim[0] not in (2, 3) and not (dim[0] > 3 and set(dim[4 : dim[0] + 1]) == {1}):
        raise FrameFormatError(f"{path} has {dim[0]} axes, expected columns, rows and views")
    sizes = [float(n) for n in dim[1 : 1 + min(dim[0], 3)]]
    code = struct.unpack(order + "h", head[70:72])[0]
    if code not in _NIFTI_TYPES:
        known = ", ".join(str(number) for number in _NIFTI_TYPES)
        raise FrameFormatError(f"{path} has pixels of NIfTI type {code}, which is not read: write one of {known}")
    pixdim = struct.unpack(order + "8f", head[76:108])
    offset, slope, intercept = struct.unpack(order + "3f", head[108:120])
    if not 0 <= offset < math.inf:
        raise FrameFormatError(f"{path} has its pixels at byte {offset:g}, expected 0 or more")
    affine = _nifti_affine(order, head, pixdim)
    affine[:2] *= -1  # to ITK's axes, in which RTK's spacing and origin are meant
    spacing = np.linalg.norm(affine[:, :3], axis=0)
    if np.abs(affine[:, :3] - np.diag(spacing)).max() > _DIRECTION_TOLERANCE * spacing.max():
        raise FrameFormatError(
            f"{path} is turned (its sform or qform), expected columns, rows and views along its axes: write it unturned"
        )
    scale = (float(slope), float(intercept)) if slope not in (0.0, 1.0) or intercept else (1.0, 0.0)
    dtype = np.dtype(order + _NIFTI_TYPES[code])
    return StackHeader(
        path,
        int(offset),
        _three(sizes),
        dtype,
        _lengths(spacing.tolist()),
        _lengths(affine[:, 3].tolist(), 0.0),
        *scale,
    )


def _nifti_affine(order: str, head: bytes, pixdim: tuple[float, ...]) -> NDArray[np.float64]:
    """Index to position (3, 4): by the sform, else the qform, else the spacing alone."""
    qform, sform = struct.unpack(order + "2h", head[252:256])
    if sform > 0:
        return np.array(struct.unpack(order + "12f", head[280:328]), dtype=np.float64).reshape(3, 4)
    affine = np.zeros((3, 4))
    if qform > 0:
        b, c, d, *shift = struct.unpack(order + "6f", head[256:280])
        a = max(0.0, 1.0 - (b * b + c * c + d * d)) ** 0.5
        affine[:, :3] = [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
        affine[:, :3] *= [pixdim[1], pixdim[2], pixdim[3] * (-1.0 if pixdim[0] < 0 else 1.0)]
        affine[:, 3] = shift
        return affine
    affine[:, :3] = np.diag([-pixdim[1], -pixdim[2], pixdim[3]])
    return affine


def _numbers(path: Path, fields: dict[str, str], keys: tuple[str, ...], default: list[float] | None) -> list[float]:
    """The numbers of the first key that is there."""
    for key in keys:
        if key in fields:
            try:
                numbers = [float(word) for word in fields[key].split()]
            except ValueError as error:
                raise FrameFormatError(f"{path}: {key} should hold numbers: {error}") from error
            if not numbers or not np.isfinite(numbers).all():
                raise FrameFormatError(f"{path}: {key} should hold finite numbers, got '{fields[key][:40]}'")
            return numbers
    if default is None:
        raise FrameFormatError(f"{path} lacks the field {keys[0]}")
    return default


def _three(sizes: list[float]) -> tuple[int, int, int]:
    """Columns, rows, views; a picture alone is one view."""
    padded = [*sizes, 1.0][:3]
    return int(padded[0]), int(padded[1]), int(padded[2])


def _lengths(values: list[float], missing: float = 1.0) -> tuple[float, float, float]:
    """Three numbers."""
    padded = [*values, missing, missing, missing][:3]
    return float(padded[0]), float(padded[1]), float(padded[2])
