# SPDX-License-Identifier: Apache-2.0
"""Walk the elements of an encoded data set without decoding them (PS3.5 7), with limits against hostile input."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pacs.errors import ConformanceError

if TYPE_CHECKING:
    from collections.abc import Iterator

UNDEFINED = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010
#: Elements that hold pixels: integer, float, double (PS3.3 C.7.6.24, C.7.6.25).
PIXEL_TAGS = frozenset({PIXEL_DATA, 0x7FE00008, 0x7FE00009})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
#: Value representations with a 32-bit length (PS3.5 7.1.2).
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
     b"ST", b"TM", b"UI", b"UL", b"US"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class WalkLimits:
    """What a data set may have at most."""

    nesting: int = 32
    elements: int = 2_000_000


@dataclass(frozen=True, slots=True)
class Element:
    """Where one element lies in the buffer; `vr` is b"" in implicit VR, `length` may be `UNDEFINED`."""

    tag: int
    vr: bytes
    offset: int
    value_offset: int
    length: int


class ElementWalker:
    """Reads element headers from a buffer; every length is checked against what is there.

    Parameters
    ----------
    buffer : the bytes that hold the data set.
    is_explicit, is_little_endian : its transfer syntax.
    name : what to call it in messages.
    limits : WalkLimits
    """

    def __init__(
        self, buffer: bytes | memoryview, *, is_explicit: bool, is_little_endian: bool, name: str, limits: WalkLimits
    ) -> None:
        self._buffer = memoryview(buffer)
        self._is_explicit = is_explicit
        order = "<" if is_little_endian else ">"
        self._tag_and_length = struct.Struct(order + "HHI")
        self._short = struct.Struct(order + "H")
        self._long = struct.Struct(order + "I")
        self._name = name
        self._limits = limits
        self._n_elements = 0

    def top_level(self, start: int, *, only_group: int | None = None) -> Iterator[Element]:
        """Yield the elements of the data set itself by rising tag; what is within sequences is passed over.

        The last one is the first that holds pixels, if there is any: nothing behind it is read.  With `only_group`
        it is the last of that group, whatever the encoding of what follows.

        Raises
        ------
        ConformanceError
            If the data set is truncated, out of order, nested too deeply or otherwise malformed.
        """
        offset, last_tag = start, -1
        while offset < len(self._buffer):
            if only_group is not None and self._buffer[offset : offset + 2] != self._short.pack(only_group):
                return
            element = self._header(offset, is_explicit=self._is_explicit)
            if element.tag <= last_tag:
                raise self._broken(f"element {_tag_text(element.tag)} stands after {_tag_text(last_tag)}", offset)
            last_tag = element.tag
            yield element
            if element.tag in PIXEL_TAGS:
                if element.length != UNDEFINED:
                    self._end(element)
                return
            offset = self._skip(element, depth=0, is_explicit=self._is_explicit)

    def fragments(self, pixel_data: Element) -> list[tuple[int, int]]:
        """Return (offset, length) of the items of encapsulated Pixel Data, the Basic Offset Table first."""
        items: list[tuple[int, int]] = []
        offset = pixel_data.value_offset
        while True:
            item = self._item(offset)
            if item.tag == _SEQUENCE_END:
                return items
            if item.tag != _ITEM or item.length == UNDEFINED:
                raise self._broken(f"expected a fragment, got {_tag_text(item.tag)}", offset)
            items.append((item.value_offset, item.length))
            offset = self._end(item)

    def _header(self, offset: int, *, is_explicit: bool) -> Element:
        """Header of the element at an offset."""
        self._count(offset)
        if offset + 8 > len(self._buffer):
            raise self._broken("it ends within an element's header", offset)
        group, number, length = self._tag_and_length.unpack_from(self._buffer, offset)
        tag = group << 16 | number
        if not is_explicit or group == 0xFFFE:
            return Element(tag, b"", offset, offset + 8, length)
        vr = bytes(self._buffer[offset + 4 : offset + 6])
        if vr in _SHORT_VRS:
            return Element(tag, vr, offset, offset + 8, self._short.unpack_from(self._buffer, offset + 6)[0])
        if vr not in _LONG_VRS:
            raise self._broken(f"element {_tag_text(tag)} has the unknown value representation {vr!r}", offset)
        if offset + 12 > len(self._buffer):
            raise self._broken("it ends within an element's header", offset)
        return Element(tag, vr, offset, offset + 12, self._long.unpack_from(self._buffer, offset + 8)[0])

    def _item(self, offset: int) -> Element:
        """Header of a sequence item or delimiter: a tag and a 32-bit length whatever the transfer syntax."""
        return self._header(offset, is_explicit=False)

    def _end(self, element: Element) -> int:
        """Offset behind an element of defined length."""
        end = element.value_offset + element.length
        if end > len(self._buffer):
            missing = end - len(self._buffer)
            raise self._broken(
                f"element {_tag_text(element.tag)} is {missing} bytes longer than the data", element.offset
            )
        return end

    def _skip(self, element: Element, *, depth: int, is_explicit: bool) -> int:
        """Offset behind an element; the content of sequences of undefined length is walked through."""
        if element.length != UNDEFINED:
            return self._end(element)
        if is_explicit and element.vr not in (b"SQ", b"UN", b"OB", b"OW"):
            raise self._broken(f"element {_tag_text(element.tag)} has an undefined length", element.offset)
        # PS3.5 6.2.2: an UN of undefined length is a sequence in implicit VR.
        inner_explicit = is_explicit and element.vr != b"UN"
        offset = element.value_offset
        while True:
            item = self._item(offset)
            if item.tag == _SEQUENCE_END:
                return item.value_offset
            if item.tag != _ITEM:
                raise self._broken(f"expected a sequence item, got {_tag_text(item.tag)}", offset)
            if item.length != UNDEFINED:
                offset = self._end(item)
            else:
                offset = self._skip_item(item.value_offset, depth=depth + 1, is_explicit=inner_explicit)

    def _skip_item(self, offset: int, *, depth: int, is_explicit: bool) -> int:
        """Offset behind an item of undefined length that begins at `offset`."""
        if depth > self._limits.nesting:
            raise self._broken(f"sequences are nested more than {self._limits.nesting} deep", offset)
        while True:
            element = self._header(offset, is_explicit=is_explicit)
            if element.tag == _ITEM_END:
                return element.value_offset
            offset = self._skip(element, depth=depth, is_explicit=is_explicit)

    def _count(self, offset: int) -> None:
        self._n_elements += 1
        if self._n_elements > self._limits.elements:
            raise self._broken(f"it has more than {self._limits.elements} elements", offset)

    def _broken(self, reason: str, offset: int) -> ConformanceError:
        return ConformanceError(f"{self._name} is not a readable DICOM data set: {reason} (at byte {offset})")


def _tag_text(tag: int) -> str:
    """Return a tag as the Standard writes it."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})" if tag >= 0 else "(none)"
