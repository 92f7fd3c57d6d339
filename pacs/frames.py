# SPDX-License-Identifier: Apache-2.0
"""Where each frame of an instance lies in its Part 10 bytes, so that a viewer fetches one by a ranged read.

PS3.5 A.4: encapsulated Pixel Data is a Basic Offset Table and then fragments; a frame is one or more of them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pacs.elements import PIXEL_DATA, UNDEFINED, Element, ElementWalker, WalkLimits
from pacs.errors import PackError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pacs.part10 import InstanceHeader


@dataclass(frozen=True, slots=True)
class FrameTable:
    """Frames of one instance; offsets count from the start of the Part 10 bytes.

    ``frames[i]`` lists the (offset, length) ranges that make up frame i joined; native frames have one range each.
    Empty where the instance has no pixels, or frames cannot be told apart without decoding.
    """

    frames: tuple[tuple[tuple[int, int], ...], ...] = ()

    def as_json(self) -> list[list[list[int]]]:
        """Return the table as JSON values."""
        return [[[offset, length] for offset, length in ranges] for ranges in self.frames]

    @classmethod
    def from_json(cls, content: Any) -> FrameTable:
        """Return the table from JSON values."""
        return cls(tuple(tuple((int(offset), int(length)) for offset, length in ranges) for ranges in content))


def frame_table(part10_bytes: bytes, header: InstanceHeader) -> FrameTable:
    """Find the frames of an instance.

    Raises
    ------
    PackError
        If the pixel offset lies outside the file.
    ConformanceError
        If the fragments are malformed.
    """
    if header.pixel_offset < 0:
        return FrameTable()
    if header.pixel_offset > len(part10_bytes):
        raise PackError(
            f"instance {header.sop_instance_uid}: pixel offset {header.pixel_offset} lies outside its "
            f"{len(part10_bytes)} bytes"
        )
    n_frames = max(_number(header.attributes, "NumberOfFrames", 1), 1)
    # The four bytes before the value are its length in every transfer syntax.
    if part10_bytes[header.pixel_offset - 4 : header.pixel_offset] == b"\xff" * 4:
        return _encapsulated(part10_bytes, header, n_frames)
    return _native(part10_bytes, header, n_frames)


def _number(attributes: Mapping[str, str], keyword: str, default: int) -> int:
    """An integer attribute, or the default where it is missing or not a number."""
    try:
        return int(attributes.get(keyword, default))
    except ValueError:
        return default


def _native(part10_bytes: bytes, header: InstanceHeader, n_frames: int) -> FrameTable:
    """Native frames follow each other; none are listed where the sizes do not fit the bytes."""
    attributes = header.attributes
    bits = _number(attributes, "BitsAllocated", 0)
    length = _number(attributes, "Rows", 0) * _number(attributes, "Columns", 0) * bits // 8
    length *= _number(attributes, "SamplesPerPixel", 1)
    # Bits of a 1-bit frame may begin within a byte; YBR_FULL_422 stores fewer samples.
    is_plain = bits % 8 == 0 and attributes.get("PhotometricInterpretation") != "YBR_FULL_422"
    if length <= 0 or not is_plain or header.pixel_offset + n_frames * length > len(part10_bytes):
        return FrameTable()
    return FrameTable(tuple(((header.pixel_offset + i * length, length),) for i in range(n_frames)))


def _encapsulated(part10_bytes: bytes, header: InstanceHeader, n_frames: int) -> FrameTable:
    """Fragments by frame: all of one, one each, or as the Basic Offset Table says."""
    walker = ElementWalker(
        part10_bytes,
        is_explicit=True,
        is_little_endian=True,
        name=f"instance {header.sop_instance_uid}",
        limits=WalkLimits(),
    )
    pixels = Element(PIXEL_DATA, b"OB", header.pixel_offset - 12, header.pixel_offset, UNDEFINED)
    table, *fragments = walker.fragments(pixels) or [(0, 0)]
    if n_frames == 1:
        return FrameTable((tuple(fragments),)) if fragments else FrameTable()
    if len(fragments) == n_frames:
        return FrameTable(tuple((fragment,) for fragment in fragments))
    starts = struct.unpack_from(f"<{table[1] // 4}I", part10_bytes, table[0])
    if len(starts) != n_frames or not fragments:
        return FrameTable()
    # The table's offsets count from the first fragment's item header.
    first = fragments[0][0] - 8
    frames: list[list[tuple[int, int]]] = []
    for offset, length in fragments:
        if offset - 8 - first in starts:
            frames.append([])
        if not frames:
            return FrameTable()
        frames[-1].append((offset, length))
    return FrameTable(tuple(tuple(ranges) for ranges in frames)) if len(frames) == n_frames else FrameTable()
