# SPDX-License-Identifier: Apache-2.0
"""Read what the index needs from Part 10 files and data sets, without pixels, and write file meta information.

Received bytes are hostile until proven otherwise: lengths, nesting and inflated sizes have limits, UIDs are checked
before anything is named after them.  Nothing is changed: what is stored is what was received.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacs.attributes import ALL_KEYWORDS
from pacs.character_sets import DEFAULT_CODEC, codecs_of, decode_text
from pacs.elements import PIXEL_TAGS, UNDEFINED, Element, ElementWalker, WalkLimits
from pacs.errors import ConformanceError, NoInstanceError
from pacs.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, require_uid

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREAMBLE = b"\0" * 128 + b"DICM"
_IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
#: Syntaxes that deflate the data set itself (PS3.5 A.5, A.7, A.8); the JPIP ones have no pixels in it.
_DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
_CHARACTER_SET = 0x00080005
_MAX_VALUE_BYTES = 65_536
#: Text VRs that Specific Character Set applies to (PS3.5 6.1.2.2).
_CHARSET_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
#: Text VRs that cannot have several values.
_SINGLE_VRS = frozenset({"LT", "ST", "UT", "UR"})
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}


@dataclass(frozen=True, slots=True)
class HeaderLimits:
    """What a received object may have at most."""

    nesting: int = 32
    elements: int = 2_000_000
    inflated_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """What the index keeps of an instance, all but where it lies (`pacs.index.InstanceRecord`).

    ``pixel_offset`` counts from the start of the described bytes to the value of Pixel Data: -1 where there is
    none, or the data set is deflated.  ``dataset_sha256`` digests the data set as encoded, without group 0002.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    attributes: Mapping[str, str] = field(repr=False)
    pixel_offset: int = -1
    dataset_sha256: str = ""


@dataclass(frozen=True, slots=True)
class FileMeta:
    """File meta information (PS3.10 7.1): where the data set begins, and what the file says of itself."""

    dataset_offset: int
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str


def describe_instance(
    part10_bytes: bytes | memoryview, *, name: str = "the file", limits: HeaderLimits | None = None
) -> InstanceHeader:
    """Describe an instance for the index from its Part 10 bytes.

    Parameters
    ----------
    part10_bytes : a whole file: preamble, file meta information, data set.
    name : what to call it in messages (a path, a peer's AE title).
    limits : HeaderLimits, optional

    Raises
    ------
    ConformanceError
        If it is no DICOM file, is a DICOMDIR, breaks a limit, or lacks a UID.
    """
    meta = read_file_meta(part10_bytes, name=name)
    if meta.sop_class_uid == _MEDIA_DIRECTORY:
        raise NoInstanceError(f"{name} is a DICOMDIR, the table of contents of a medium, not an instance to store")
    view = memoryview(part10_bytes)
    return _describe(view, meta.dataset_offset, meta.transfer_syntax_uid, name, limits or HeaderLimits())


def describe_dataset(
    dataset_bytes: bytes | memoryview, transfer_syntax_uid: str, *, name: str = "the data set",
    limits: HeaderLimits | None = None,
) -> InstanceHeader:  # fmt: skip
    """Describe an instance from its data set as received by C-STORE; offsets count from the data set's start.

    Raises
    ------
    ConformanceError
        If it is malformed, breaks a limit, or lacks a UID.
    """
    return _describe(memoryview(dataset_bytes), 0, transfer_syntax_uid, name, limits or HeaderLimits())


def read_file_meta(part10_bytes: bytes | memoryview, *, name: str = "the file") -> FileMeta:
    """Read the file meta information.

    Raises
    ------
    ConformanceError
        If there is no ``DICM`` at byte 128, or group 0002 is malformed or has no transfer syntax.
    """
    view = memoryview(part10_bytes)
    if bytes(view[128:132]) != b"DICM":
        raise NoInstanceError(f"{name} is not a DICOM file: it has no 'DICM' at byte 128 ({len(view)} bytes)")
    walker = ElementWalker(view, is_explicit=True, is_little_endian=True, name=name, limits=WalkLimits(elements=64))
    offset, values = len(_PREAMBLE), {}
    for element in walker.top_level(offset, only_group=2):
        offset = element.value_offset + element.length
        values[element.tag] = bytes(view[element.value_offset : offset])
    texts = {tag: value.rstrip(b"\0 ").decode("ascii", "replace") for tag, value in values.items()}
    transfer_syntax = texts.get(0x00020010, "")
    if not transfer_syntax:
        raise ConformanceError(f"{name} does not say its transfer syntax (0002,0010)")
    require_uid(transfer_syntax, what=f"transfer syntax of {name}")
    return FileMeta(offset, transfer_syntax, texts.get(0x00020002, ""), texts.get(0x00020003, ""))


def file_meta_bytes(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return preamble, prefix and file meta information (PS3.10 7.1) that go before a data set."""
    elements = b"".join(
        (
            struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1",
            _meta_element(2, b"UI", sop_class_uid, b"\0"),
            _meta_element(3, b"UI", sop_instance_uid, b"\0"),
            _meta_element(0x10, b"UI", transfer_syntax_uid, b"\0"),
            _meta_element(0x12, b"UI", IMPLEMENTATION_CLASS_UID, b"\0"),
            _meta_element(0x13, b"SH", IMPLEMENTATION_VERSION_NAME, b" "),
        )
    )
    return _PREAMBLE + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements)) + elements


def _meta_element(number: int, vr: bytes, text: str, pad: bytes) -> bytes:
    """One element of group 0002."""
    value = text.encode("ascii")
    value += pad * (len(value) % 2)
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


def _describe(view: memoryview, start: int, transfer_syntax: str, name: str, limits: HeaderLimits) -> InstanceHeader:
    """Walk the data set from `start`, pick the indexed values, check the UIDs."""
    is_deflated = transfer_syntax in _DEFLATED
    encoded, begin = (memoryview(_inflate(view[start:], name, limits)), 0) if is_deflated else (view, start)
    is_little_endian = transfer_syntax != _BIG_ENDIAN
    walker = ElementWalker(
        encoded,
        is_explicit=transfer_syntax != _IMPLICIT_LITTLE_ENDIAN,
        is_little_endian=is_little_endian,
        name=name,
        limits=WalkLimits(limits.nesting, limits.elements),
    )
    pixel_offset = -1
    attributes: dict[str, str] = {}
    codecs: tuple[str, ...] = (DEFAULT_CODEC,)
    for element in walker.top_level(begin):
        if element.tag in PIXEL_TAGS:
            pixel_offset = element.value_offset
            if element.length == UNDEFINED:
                walker.fragments(element)
        elif element.tag == _CHARACTER_SET:
            codecs = codecs_of(_value(encoded, element, name))
        elif (keyword := _KEYWORD_OF.get(element.tag)) is not None:
            text = _text(_value(encoded, element, name), _VR_OF[keyword], codecs, is_little_endian=is_little_endian)
            if text:
                attributes[keyword] = text
    uids = {
        keyword: require_uid(attributes.get(keyword, ""), what=f"{keyword} of {name}")
        for keyword in ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID")
    }
    return InstanceHeader(
        sop_instance_uid=uids["SOPInstanceUID"],
        sop_class_uid=uids["SOPClassUID"],
        transfer_syntax_uid=str(transfer_syntax),
        study_uid=uids["StudyInstanceUID"],
        series_uid=uids["SeriesInstanceUID"],
        patient_id=attributes.get("PatientID", ""),
        attributes=attributes,
        pixel_offset=-1 if is_deflated else pixel_offset,
        dataset_sha256=hashlib.sha256(view[start:]).hexdigest(),
    )


def _inflate(deflated: memoryview, name: str, limits: HeaderLimits) -> bytes:
    """Inflate a deflated data set (PS3.5 A.5), up to the limit."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(deflated, limits.inflated_bytes)
    except zlib.error as error:
        raise ConformanceError(f"{name} has a deflated data set that cannot be inflated: {error}") from error
    if inflater.unconsumed_tail:
        raise ConformanceError(f"{name} inflates to more than {limits.inflated_bytes} bytes and is refused")
    if not inflater.eof:
        raise ConformanceError(f"{name} has a deflated data set that ends too early")
    return inflated


def _value(encoded: memoryview, element: Element, name: str) -> bytes:
    """Raw value of an indexed element."""
    if element.length == UNDEFINED or element.length > _MAX_VALUE_BYTES:
        raise ConformanceError(
            f"{name} has a value of {element.length} bytes in ({element.tag >> 16:04X},{element.tag & 0xFFFF:04X}), "
            f"expected at most {_MAX_VALUE_BYTES}"
        )
    end = element.value_offset + element.length
    if end > len(encoded):
        raise ConformanceError(f"{name} ends within element ({element.tag >> 16:04X},{element.tag & 0xFFFF:04X})")
    return bytes(encoded[element.value_offset : end])


def _text(value: bytes, vr: str, codecs: tuple[str, ...], *, is_little_endian: bool) -> str:
    """Value as text: numbers in decimal, multi-values joined by a backslash, padding removed."""
    if vr in _NUMBERS:
        code = ("<" if is_little_endian else ">") + _NUMBERS[vr]
        size = struct.calcsize(code)
        return "\\".join(str(number) for (number,) in struct.iter_unpack(code, value[: len(value) // size * size]))
    if vr not in _CHARSET_VRS:
        text = value.decode("ascii", "replace")
    else:
        text = decode_text(value, codecs, is_name=vr == "PN")
    if vr in _SINGLE_VRS:
        return text.rstrip(" \0")
    return "\\".join(part.strip(" \0") for part in text.split("\\")).rstrip("\\")


_TAG_OF = {keyword: int(tag) for keyword in ALL_KEYWORDS if (tag := tag_for_keyword(keyword)) is not None}
_KEYWORD_OF = {tag: keyword for keyword, tag in _TAG_OF.items()}
_VR_OF = {keyword: dictionary_VR(tag) for keyword, tag in _TAG_OF.items()}
