# SPDX-License-Identifier: Apache-2.0
"""Frames that Pixet or Pixelman wrote: ``.txt``, ``.pbf`` and ``.pmf`` with their ``.dsc`` and ``.idx``.

The description begins with ``A`` (numbers as text) or ``B`` (binary) and the number of frames; each frame then has
``[F0]`` and ``Type=i16 matrix width=256 height=256``.  Sparse frames list index and value (``[X,C]``), or column, row
and value (``[X,Y,C]``).  The index holds for every frame but the first three 64-bit numbers: where its description,
its data and its sub-frames begin.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import FrameFormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TYPES = {"i16": "<i2", "u16": "<u2", "u32": "<u4", "i32": "<i4", "u64": "<u8", "double": "<f8", "byte": "<u1"}
_LAYOUTS = ("matrix", "[X,C]", "[X,Y,C]")
_FRAME = re.compile(r"^\[F(\d+)\]\s*^Type=(\S+)\s+(\S+)\s+width=(\d+)\s+height=(\d+)", re.MULTILINE)
_ITEM = re.compile(r'^"([^"]*)"\s*\("[^"]*"\):\s*^\w+\[\d+\]\s*^(.*)$', re.MULTILINE)
_INDEX_ITEM = np.dtype([("description", "<i8"), ("data", "<i8"), ("sub_frames", "<i8")])
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class PixetDescription:
    """What a ``.dsc`` file says.

    Attributes
    ----------
    binary : whether the frames are binary, not text.
    n_frames, shape, dtype : frames, (rows, columns), and the type of the pixels.
    layout : ``matrix``, ``[X,C]`` or ``[X,Y,C]``.
    items : the first frame's metadata, texts by name.
    """

    binary: bool
    n_frames: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    layout: str
    items: dict[str, str]


def read_pixet_description(path: Path) -> PixetDescription:
    """Read a ``.dsc`` file.

    Raises
    ------
    FrameFormatError
        If it is none, is cut short, or its frames are not all of one size and kind.
    """
    try:
        content = path.read_bytes().decode("latin-1").replace("\r\n", "\n")
    except OSError as error:
        raise FrameFormatError(f"{path} cannot be read: {error.strerror}") from error
    head = re.match(r"([AB])(\d+)\n", content)
    if head is None:
        raise FrameFormatError(f"{path} is not a Pixet description: it begins with {content[:12]!r}")
    frames = _FRAME.findall(content)
    if len(frames) != int(head.group(2)) or [int(f[0]) for f in frames] != list(range(len(frames))) or not frames:
        raise FrameFormatError(
            f"{path} announces {int(head.group(2))} frames, but describes {len(frames)}: it is truncated or malformed"
        )
    kinds = {frame[1:] for frame in frames}
    if len(kinds) > 1:
        two = " and ".join(" ".join(found) for found in sorted(kinds)[:2])
        raise FrameFormatError(f"{path} describes frames of several kinds: {two} (type, layout, columns, rows)")
    kind, layout, width, height = frames[0][1:]
    if kind not in _TYPES or layout not in _LAYOUTS:
        raise FrameFormatError(
            f"{path}: frames of type '{kind} {layout}' are not read, expected one of {', '.join(_TYPES)} "
            f"and one of {', '.join(_LAYOUTS)}"
        )
    if not int(width) * int(height):
        raise FrameFormatError(f"{path}: {height} rows x {width} columns are no frame")
    first = content.split("\n[F1]\n", 1)[0]
    return PixetDescription(
        binary=head.group(1) == "B",
        n_frames=len(frames),
        shape=(int(height), int(width)),
        dtype=np.dtype(_TYPES[kind]),
        layout=layout,
        items={name: value.strip() for name, value in _ITEM.findall(first)},
    )


class PixetFile:
    """An opened file of Pixet frames; a text matrix may lack its description.

    Attributes
    ----------
    n_frames, shape, dtype : frames, (rows, columns), and the type of the pixels.
    description : what the .dsc says, or None.

    Raises
    ------
    FrameFormatError
        If the files are truncated, contradict each other, or a part that is needed is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        beside = Path(f"{path}.dsc")
        try:
            self._size = path.stat().st_size
        except OSError as error:
            raise FrameFormatError(f"{path} cannot be read: {error.strerror}") from error
        self.description = read_pixet_description(beside) if beside.is_file() else None
        if self.description is None:
            self._take_bare_matrix()
            return
        self.n_frames, self.shape, self.dtype = (
            self.description.n_frames,
            self.description.shape,
            self.description.dtype,
        )
        self._starts = self._find_frames(self.description)

    def read(self, index: int) -> NDArray[Any]:
        """Return one frame (row, col) as stored.

        Raises
        ------
        FrameFormatError
            If it is cut short, or holds what is no pixel of it.
        """
        start, stop = self._starts[index], self._starts[index + 1]
        with self.path.open("rb") as stream:
            stream.seek(start)
            content = stream.read(stop - start)
        where = f"{self.path}: frame {index} at bytes {start} to {stop}"
        binary = self.description is not None and self.description.binary
        layout = "matrix" if self.description is None else self.description.layout
        if layout == "matrix":
            return self._binary_matrix(content, where) if binary else self._text_matrix(content, where)
        return self._sparse(content, layout, where, binary=binary)

    def close(self) -> None:
        """Nothing stays open between reads."""

    def _take_bare_matrix(self) -> None:
        """One frame of text, its size as counted."""
        if self.path.suffix.lower() != ".txt":
            raise FrameFormatError(f"{self.path} has no description {self.path.name}.dsc beside it, which is needed")
        rows = [line.split() for line in self.path.read_bytes().splitlines() if line.strip()]
        widths = {len(row) for row in rows}
        if len(widths) != 1 or widths == {0}:
            raise FrameFormatError(f"{self.path} is not a matrix of text: its rows have {sorted(widths)[:4]} numbers")
        floating = any(b"." in cell or b"e" in cell.lower() for row in rows for cell in row)
        self.n_frames, self.shape = 1, (len(rows), len(rows[0]))
        self.dtype = np.dtype("<f8" if floating else "<i8")
        self._starts = [0, self._size]

    def _find_frames(self, description: PixetDescription) -> list[int]:
        """Where each frame begins, and the end of the last."""
        if description.binary and description.layout == "matrix":
            step = description.shape[0] * description.shape[1] * description.dtype.itemsize
            self._require_size(description.n_frames * step)
            return [index * step for index in range(description.n_frames + 1)]
        if not description.binary:
            self._require_last_line()
        if description.n_frames == 1:
            return [0, self._size]
        index_path = Path(f"{self.path}.idx")
        if index_path.is_file():
            return self._from_index(index_path, description.n_frames)
        if description.binary:
            raise FrameFormatError(
                f"{self.path} holds {description.n_frames} sparse binary frames, which need {index_path.name} beside it"
            )
        return self._from_text(description)

    def _from_index(self, path: Path, n_frames: int) -> list[int]:
        """Where the frames begin as the index says; the first may be in it or not."""
        content = path.read_bytes()
        items = np.frombuffer(content[: len(content) // _INDEX_ITEM.itemsize * _INDEX_ITEM.itemsize], dtype=_INDEX_ITEM)
        starts = items["data"].tolist()
        if len(starts) == n_frames and starts[0] == 0:
            starts = starts[1:]
        if len(starts) != n_frames - 1 or len(content) % _INDEX_ITEM.itemsize:
            expected = (n_frames - 1) * _INDEX_ITEM.itemsize
            raise FrameFormatError(f"{path} has {len(content)} bytes, expected {expected} for {n_frames} frames")
        starts = [0, *starts]
        if any(later < earlier for earlier, later in pairwise(starts)):
            raise FrameFormatError(f"{path}: the frames do not follow each other")
        if starts[-1] > self._size:
            raise FrameFormatError(
                f"{self.path} is truncated: its last frame begins at byte {starts[-1]}, but the file has {self._size}"
            )
        return [*starts, self._size]

    def _from_text(self, description: PixetDescription) -> list[int]:
        """Where the frames begin, found by their rows or by the ``#`` between sparse frames."""
        mark = b"\n" if description.layout == "matrix" else b"#"
        every = description.shape[0] if description.layout == "matrix" else 1
        starts, count, position = [0], 0, 0
        with self.path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                marks = np.flatnonzero(np.frombuffer(chunk, np.uint8) == mark[0])
                # The ends of whole frames among the marks of this chunk.
                ends = marks[(np.arange(marks.size) + count + 1) % every == 0]
                starts.extend((position + ends + (1 if mark == b"\n" else 0)).tolist())
                count += marks.size
                position += len(chunk)
        starts = starts[: description.n_frames] if starts[-1] >= self._size else starts
        if len(starts) != description.n_frames:
            raise FrameFormatError(
                f"{self.path} is truncated: it has {len(starts)} frames up to byte {self._size}, "
                f"its description says {description.n_frames}"
            )
        return [*starts, self._size]

    def _require_last_line(self) -> None:
        """Text is written line by line: one that does not end is cut short."""
        with self.path.open("rb") as stream:
            stream.seek(max(self._size - 1, 0))
            if self._size and stream.read(1) != b"\n":
                raise FrameFormatError(f"{self.path} is truncated: its last line does not end, at byte {self._size}")

    def _require_size(self, expected: int) -> None:
        """The pixels must fill the file exactly."""
        if self._size != expected:
            what = "is truncated" if self._size < expected else "goes on behind its frames"
            raise FrameFormatError(f"{self.path} {what}: it has {self._size} bytes, its description says {expected}")

    def _binary_matrix(self, content: bytes, where: str) -> NDArray[Any]:
        """All pixels, row by row."""
        expected = self.shape[0] * self.shape[1] * self.dtype.itemsize
        if len(content) != expected:
            raise FrameFormatError(f"{where} is truncated: got {len(content)} bytes, expected {expected}")
        return np.frombuffer(content, dtype=self.dtype).reshape(self.shape)

    def _text_matrix(self, content: bytes, where: str) -> NDArray[Any]:
        """All pixels, row by row, as text."""
        cells = content.split()
        expected = self.shape[0] * self.shape[1]
        if len(cells) != expected:
            raise FrameFormatError(f"{where} is truncated or malformed: got {len(cells)} numbers, expected {expected}")
        return _numbers(cells, self.dtype, where).reshape(self.shape)

    def _sparse(self, content: bytes, layout: str, where: str, *, binary: bool) -> NDArray[Any]:
        """The pixels that are not zero."""
        n_places = 1 if layout == "[X,C]" else 2
        if binary:
            item = np.dtype([*((f"place{i}", "<u4") for i in range(n_places)), ("value", self.dtype)])
            if len(content) % item.itemsize:
                raise FrameFormatError(
                    f"{where} is truncated: {len(content)} bytes are no whole pixels of {item.itemsize} each"
                )
            items = np.frombuffer(content, dtype=item)
            places = [items[f"place{i}"].astype(np.int64) for i in range(n_places)]
            values = items["value"]
        else:
            cells = content.replace(b"#", b" ").split()
            if len(cells) % (n_places + 1):
                raise FrameFormatError(
                    f"{where} is truncated: {len(cells)} numbers are no whole pixels of {n_places + 1} each"
                )
            places = [_numbers(cells[i :: n_places + 1], np.dtype("<i8"), where) for i in range(n_places)]
            values = _numbers(cells[n_places :: n_places + 1], self.dtype, where)
        n_rows, n_cols = self.shape
        flat = places[0] if n_places == 1 else places[0] + n_cols * places[1]
        outside = (flat < 0) | (flat >= n_rows * n_cols) | (places[0] >= (n_cols if n_places == 2 else n_rows * n_cols))
        if outside.any():
            raise FrameFormatError(f"{where} has a pixel outside of its {n_rows} rows x {n_cols} columns")
        frame = np.zeros(n_rows * n_cols, dtype=self.dtype)
        frame[flat] = values
        return frame.reshape(self.shape)


def pixet_time(items: dict[str, str]) -> str:
    """Local date and time of the first frame in ISO 8601, or ""."""
    text = items.get("Start time (string)", "")
    try:
        return datetime.strptime(" ".join(text.split()), "%a %b %d %H:%M:%S.%f %Y").isoformat()
    except ValueError:
        return ""


def _numbers(cells: list[bytes], dtype: np.dtype[Any], where: str) -> NDArray[Any]:
    """Texts as numbers of a type."""
    try:
        if dtype.kind == "f":
            return np.array(cells, dtype="S").astype(dtype)
        wide = np.array(cells, dtype="S").astype(np.uint64 if dtype == np.dtype("<u8") else np.int64)
    except (ValueError, OverflowError):
        raise FrameFormatError(f"{where} holds what is no number") from None
    if wide.size and dtype.itemsize < 8:
        limits = np.iinfo(dtype)
        if int(wide.min()) < limits.min or int(wide.max()) > limits.max:
            raise FrameFormatError(f"{where} holds a number that its type {dtype.name} does not")
    return wide.astype(dtype)
