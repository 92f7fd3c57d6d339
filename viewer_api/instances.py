# SPDX-License-Identifier: Apache-2.0
"""Instances of the archive: their records, headers and frames, each by as few and small reads as it takes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from pacs.frames import frame_table
from pacs.part10 import InstanceHeader
from storage.errors import ChecksumError
from viewer_api.errors import NotAcceptableError, RenderError, UnknownResourceError
from viewer_api.media_types import EXPLICIT_LITTLE_ENDIAN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import FileDataset

    from pacs.index import Index, InstanceRecord, Location
    from pacs.retrieve import InstanceReader

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
#: Syntaxes whose pixels stand in the file as they are in memory.
PLAIN_SYNTAXES = (EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN)
#: Instances up to this size are sent only after their digest was checked; longer ones while it is [B].
CHECKED_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it is stored."""

    pixels: bytes
    transfer_syntax_uid: str


def find_instances(
    index: Index, study_uid: str, series_uid: str | None = None, sop_instance_uid: str | None = None
) -> list[InstanceRecord]:
    """Return the instances below a path, ordered by series and instance number.

    Raises
    ------
    UnknownResourceError
        If there are none.
    """
    found = index.instances(
        study_uids=[study_uid],
        series_uids=[series_uid] if series_uid is not None else [],
        sop_instance_uids=[sop_instance_uid] if sop_instance_uid is not None else [],
    )
    if not found:
        path = f"study {study_uid}"
        path += f", series {series_uid}" if series_uid is not None else ""
        path += f", instance {sop_instance_uid}" if sop_instance_uid is not None else ""
        raise UnknownResourceError(f"The archive has no {path}.")
    return found


def read_header(reader: InstanceReader, record: InstanceRecord) -> FileDataset:
    """Read the data set without Pixel Data: only the bytes before it are fetched where the index knows them."""
    location = record.location
    if location.pixel_offset > 0:
        return parse(reader.read_range(location, 0, location.pixel_offset), record, pixels=False)
    return parse(reader.open_bytes(location), record, pixels=False)


def parse(part10_bytes: bytes, record: InstanceRecord, *, pixels: bool) -> FileDataset:
    """Parse Part 10 bytes.

    Raises
    ------
    RenderError
        If they are no DICOM file.
    """
    try:
        return dcmread(BytesIO(part10_bytes), stop_before_pixels=not pixels)
    except (InvalidDicomError, EOFError, ValueError) as error:
        raise RenderError(f"Instance {record.sop_instance_uid} cannot be parsed.") from error


def instance_pieces(reader: InstanceReader, location: Location) -> Iterator[bytes]:
    """Part 10 bytes in pieces of bounded size.

    Raises
    ------
    ChecksumError
        If the digest differs; of a long instance this shows with the last piece, which is held back.
    """
    if location.length <= CHECKED_BYTES:
        yield reader.open_bytes(location)
        return
    digest = hashlib.sha256()
    for start in range(0, location.length, CHECKED_BYTES):
        piece = reader.read_range(location, start, min(CHECKED_BYTES, location.length - start))
        digest.update(piece)
        if start + len(piece) == location.length and digest.hexdigest() != location.sha256:
            raise ChecksumError(f"{location.path} at {location.offset}: sha256 is not {location.sha256}")
        yield piece


def explicit_little_endian(part10_bytes: bytes, record: InstanceRecord) -> bytes:
    """Return an instance in Explicit VR Little Endian, the default of application/dicom (PS3.18 8.7.3.5.2).

    Raises
    ------
    NotAcceptableError
        If its transfer syntax cannot be decoded here.
    """
    if record.transfer_syntax_uid == EXPLICIT_LITTLE_ENDIAN:
        return part10_bytes
    name = UID(record.transfer_syntax_uid).name
    refusal = (
        f"Instance {record.sop_instance_uid} is stored as {name} and cannot be sent as Explicit VR Little Endian; "
        "accept transfer-syntax=* to get it as it is."
    )
    if record.transfer_syntax_uid == _BIG_ENDIAN:
        raise NotAcceptableError(refusal)
    ds = parse(part10_bytes, record, pixels=True)
    try:
        if UID(record.transfer_syntax_uid).is_encapsulated:
            ds.decompress(generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = UID(EXPLICIT_LITTLE_ENDIAN)
        buffer = BytesIO()
        ds.save_as(buffer, implicit_vr=False, little_endian=True, enforce_file_format=True)
    except (ValueError, RuntimeError, AttributeError, NotImplementedError, KeyError) as error:
        raise NotAcceptableError(refusal) from error
    return buffer.getvalue()


def n_frames(record: InstanceRecord) -> int:
    """Number of frames; 1 where the header says nothing."""
    return max(_number(record, "NumberOfFrames", 1), 1)


def read_frames(reader: InstanceReader, record: InstanceRecord, numbers: list[int]) -> Iterator[Frame]:
    """Read frames as they are stored, one in memory; native ones by one ranged read each.

    Parameters
    ----------
    numbers : of the frames, from 1.

    Raises
    ------
    UnknownResourceError
        If the instance has no such frame.
    RenderError
        If its frames cannot be told apart.
    """
    total = n_frames(record)
    for number in numbers:
        if not 1 <= number <= total:
            raise UnknownResourceError(f"Instance {record.sop_instance_uid} has no frame {number} of its {total}.")
    if record.location.pixel_offset < 0:
        raise UnknownResourceError(f"Instance {record.sop_instance_uid} has no Pixel Data that is stored as frames.")
    ranges = _native_ranges(record, numbers) or _encapsulated_ranges(reader, record, numbers)
    for pieces in ranges:
        pixels = b"".join(reader.read_range(record.location, offset, length) for offset, length in pieces)
        yield Frame(pixels, record.transfer_syntax_uid)


def frame_length(record: InstanceRecord) -> int:
    """Length of a native frame [B]; 0 where it is not a whole number of bytes a sample."""
    bits = _number(record, "BitsAllocated", 0)
    if bits % 8 or record.attributes.get("PhotometricInterpretation") == "YBR_FULL_422":
        return 0
    samples = _number(record, "SamplesPerPixel", 1)
    return _number(record, "Rows", 0) * _number(record, "Columns", 0) * samples * bits // 8


def _native_ranges(record: InstanceRecord, numbers: list[int]) -> list[list[tuple[int, int]]]:
    """Ranges of native frames, from the index alone; none for encapsulated ones."""
    if record.transfer_syntax_uid not in (*PLAIN_SYNTAXES, _BIG_ENDIAN):
        return []
    length = frame_length(record)
    start = record.location.pixel_offset
    if length <= 0 or start + n_frames(record) * length > record.location.length:
        raise RenderError(f"Instance {record.sop_instance_uid} has Pixel Data that does not fit its rows and columns.")
    return [[(start + (number - 1) * length, length)] for number in numbers]


def _encapsulated_ranges(
    reader: InstanceReader, record: InstanceRecord, numbers: list[int]
) -> list[list[tuple[int, int]]]:
    """Ranges of encapsulated frames, found by walking the fragments."""
    header = InstanceHeader(
        sop_instance_uid=record.sop_instance_uid,
        sop_class_uid=record.sop_class_uid,
        transfer_syntax_uid=record.transfer_syntax_uid,
        study_uid=record.study_uid,
        series_uid=record.series_uid,
        patient_id=record.patient_id,
        attributes=record.attributes,
        pixel_offset=record.location.pixel_offset,
    )
    table = frame_table(reader.open_bytes(record.location), header).frames
    if len(table) < max(numbers):
        raise RenderError(f"Instance {record.sop_instance_uid} has frames that cannot be told apart.")
    return [list(table[number - 1]) for number in numbers]


def _number(record: InstanceRecord, keyword: str, default: int) -> int:
    """An integer of the record, or the default where it is missing or not one."""
    try:
        return int(record.attributes.get(keyword, default))
    except ValueError:
        return default
