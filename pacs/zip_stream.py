# SPDX-License-Identifier: Apache-2.0
"""ZIP files without compression, written in one pass to a handle that cannot seek.

Each entry is whole in memory, so its size and CRC stand in its local header: no data descriptors, which some readers
refuse for stored entries, and an entry's bytes are one range of the file.  Timestamps are fixed, so equal entries
make equal files.  The field names are those of APPNOTE.TXT 6.3, section 4.3 and 4.5.3 (ZIP64).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from pacs.errors import PackError

if TYPE_CHECKING:
    from storage.filesystem import Store

_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_END = struct.Struct("<IHHHHIIH")
_END64 = struct.Struct("<IQHHIIQQQQ")
_LOCATOR = struct.Struct("<IIQI")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = 0x04034B50, 0x02014B50, 0x06054B50
_END64_MAGIC, _LOCATOR_MAGIC = 0x06064B50, 0x07064B50
_FULL32, _FULL16 = 0xFFFFFFFF, 0xFFFF
_ZIP64_ID = 1
_VERSION, _VERSION64 = 20, 45
_MADE_BY_UNIX = 3 << 8
#: 1 January 1980, the earliest date a ZIP can hold.
_DOS_TIME, _DOS_DATE = 0, 0x0021
_FILE_MODE = 0o100444 << 16
#: How much of a file's end is read first: enough for the directory of some hundred entries.
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One stored entry: where its own bytes lie in the file."""

    name: str
    header_offset: int
    offset: int
    length: int
    crc32: int


class ZipStreamWriter:
    """Writes entries one after the other; `finish` adds the directory.  The handle stays open.

    Parameters
    ----------
    handle : binary handle that can `write`.
    zip64_from : int
        From which number of bytes on ZIP64 fields are used; tests lower it.
    """

    def __init__(self, handle: BinaryIO, *, zip64_from: int = _FULL32) -> None:
        self._handle = handle
        self._zip64_from = zip64_from
        self._position = 0
        self._entries: dict[str, ZipEntry] = {}
        self._is_finished = False

    def add(self, name: str, content: bytes | memoryview) -> ZipEntry:
        """Write one entry.

        Raises
        ------
        PackError
            If the name is taken or not plain ASCII, or the file is finished already.
        """
        if self._is_finished or name in self._entries:
            reason = "the file is finished" if self._is_finished else "the name is taken"
            raise PackError(f"entry '{name}' cannot be added: {reason}")
        if not name.isascii() or name.startswith("/") or ".." in name or "\\" in name:
            raise PackError(f"entry '{name}' needs a relative name in ASCII")
        encoded_name, crc, length = name.encode("ascii"), zlib.crc32(content), len(content)
        is_big = length >= self._zip64_from
        extra = struct.pack("<HHQQ", _ZIP64_ID, 16, length, length) if is_big else b""
        size = _FULL32 if is_big else length
        header = _LOCAL.pack(
            _LOCAL_MAGIC, _VERSION64 if is_big else _VERSION, 0, 0, _DOS_TIME, _DOS_DATE, crc, size, size,
            len(encoded_name), len(extra),
        )  # fmt: skip
        start = self._position
        self._write(header + encoded_name + extra)
        entry = ZipEntry(name, start, self._position, length, crc)
        self._write(content)
        self._entries[name] = entry
        return entry

    def finish(self) -> int:
        """Write the directory and return the size of the file [B]."""
        start = self._position
        for entry in self._entries.values():
            self._write(self._central_header(entry))
        size, count = self._position - start, len(self._entries)
        if start >= self._zip64_from or size >= self._zip64_from or count >= _FULL16:
            end64 = self._position
            record = _END64.pack(
                _END64_MAGIC, _END64.size - 12, _MADE_BY_UNIX | _VERSION64, _VERSION64, 0, 0, count, count, size, start
            )
            self._write(record + _LOCATOR.pack(_LOCATOR_MAGIC, 0, end64, 1))
            self._write(_END.pack(_END_MAGIC, 0, 0, _FULL16, _FULL16, _FULL32, _FULL32, 0))
        else:
            self._write(_END.pack(_END_MAGIC, 0, 0, count, count, size, start, 0))
        self._is_finished = True
        return self._position

    def _central_header(self, entry: ZipEntry) -> bytes:
        """Directory record of one entry."""
        name = entry.name.encode("ascii")
        is_big, is_far = entry.length >= self._zip64_from, entry.header_offset >= self._zip64_from
        fields = struct.pack("<QQ", entry.length, entry.length) if is_big else b""
        fields += struct.pack("<Q", entry.header_offset) if is_far else b""
        extra = struct.pack("<HH", _ZIP64_ID, len(fields)) + fields if fields else b""
        version = _VERSION64 if fields else _VERSION
        size = _FULL32 if is_big else entry.length
        return (
            _CENTRAL.pack(
                _CENTRAL_MAGIC, _MADE_BY_UNIX | version, version, 0, 0, _DOS_TIME, _DOS_DATE, entry.crc32, size, size,
                len(name), len(extra), 0, 0, 0, _FILE_MODE, _FULL32 if is_far else entry.header_offset,
            )
            + name
            + extra
        )  # fmt: skip

    def _write(self, content: bytes | memoryview) -> None:
        self._handle.write(content)
        self._position += len(content)


def read_directory_tail(store: Store, path: str) -> dict[str, ZipEntry]:
    """Read the directory of a ZIP in a store from its end, in one or two ranged reads.

    ``offset`` of an entry is right for files that `ZipStreamWriter` wrote (the local header's extra field is there
    exactly where the directory says so by its sizes).

    Raises
    ------
    PackError
        If the file does not end like a ZIP, or its directory is damaged.
    """
    size = store.info(path).size
    tail_start = max(size - _TAIL_BYTES, 0)
    tail = store.read_range(path, tail_start, size - tail_start)
    count, length, start = _read_end(store, path, tail, tail_start)
    if start + length > size:
        raise PackError(f"{path} is not a whole pack: its directory should lie at byte {start}, it has {size} bytes")
    if start >= tail_start:
        directory = tail[start - tail_start : start - tail_start + length]
    else:
        directory = store.read_range(path, start, length)
    entries = _parse_directory(directory, path)
    if len(entries) != count:
        raise PackError(f"{path} has a damaged directory: {len(entries)} entries, expected {count}")
    return entries


def _read_end(store: Store, path: str, tail: bytes, tail_start: int) -> tuple[int, int, int]:
    """Number of entries, size and start of the directory."""
    if len(tail) < _END.size or _END.unpack_from(tail, len(tail) - _END.size)[0] != _END_MAGIC:
        raise PackError(f"{path} does not end like a pack: it is truncated or no pack at all")
    *_, count, length, start, _ = _END.unpack_from(tail, len(tail) - _END.size)
    if start != _FULL32 and count != _FULL16:
        return count, length, start
    locator_at = len(tail) - _END.size - _LOCATOR.size
    if locator_at < 0 or _LOCATOR.unpack_from(tail, locator_at)[0] != _LOCATOR_MAGIC:
        return count, length, start
    end64 = _LOCATOR.unpack_from(tail, locator_at)[2]
    at = end64 - tail_start
    if not 0 <= at <= locator_at - _END64.size or _END64.unpack_from(tail, at)[0] != _END64_MAGIC:
        raise PackError(f"{path} has a damaged ZIP64 end record")
    record = _END64.unpack_from(tail, at)
    return record[7], record[8], record[9]


def _parse_directory(directory: bytes, path: str) -> dict[str, ZipEntry]:
    """Directory records to entries."""
    entries: dict[str, ZipEntry] = {}
    at = 0
    while at < len(directory):
        if at + _CENTRAL.size > len(directory) or _CENTRAL.unpack_from(directory, at)[0] != _CENTRAL_MAGIC:
            raise PackError(f"{path} has a damaged directory at its byte {at}")
        record = _CENTRAL.unpack_from(directory, at)
        crc, length, n_name, n_extra, n_comment, header_offset = record[7], record[9], *record[10:13], record[16]
        begin = at + _CENTRAL.size
        name = directory[begin : begin + n_name].decode("ascii", "replace")
        extra = directory[begin + n_name : begin + n_name + n_extra]
        is_big = length == _FULL32
        if extra and struct.unpack_from("<HH", extra)[0] == _ZIP64_ID:
            values = [value for (value,) in struct.iter_unpack("<Q", extra[4 : 4 + (len(extra) - 4) // 8 * 8])]
            if is_big and len(values) >= 2:
                length, values = values[0], values[2:]
            if header_offset == _FULL32 and values:
                header_offset = values[0]
        local_extra = 20 if is_big else 0
        entries[name] = ZipEntry(name, header_offset, header_offset + _LOCAL.size + n_name + local_extra, length, crc)
        at = begin + n_name + n_extra + n_comment
    return entries
