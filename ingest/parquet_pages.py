# SPDX-License-Identifier: Apache-2.0
"""Writes Parquet files whose pages are at hand already: one for each column and row group, values PLAIN.

pyarrow's writer copies each cell three times on its way into a file.  Chunk files need little of the format: columns of
required int32, int64 and byte arrays, no dictionary, no nesting.  Heads and footer are Thrift structures in the compact
protocol; field numbers are those of ``parquet.thrift`` of the Apache Parquet format 2.10.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_MAGIC = b"PAR1"
_CREATED_BY = "conepacs version 3"
# Types of the compact protocol.
_I16, _I32, _I64, _BINARY, _LIST, _STRUCT = 4, 5, 6, 8, 9, 12
# Enumerations of the format.
_TYPES = {"int32": 1, "int64": 2, "binary": 6}
_CODECS = {"none": 0, "gzip": 2, "zstd": 6}
PageCodec = Literal["none", "gzip", "zstd"]
#: Before each value of a binary column stands its length.
LENGTH_BYTES = 4
#: zlib's word for gzip's head and tail around deflate with a window of 32 KB.
GZIP_WINDOW_BITS = 16 + 15
_PLAIN, _RLE = 0, 3
_STOP = b"\0"
_BYTES = [bytes([value]) for value in range(256)]
# Heads that are kept: most row groups of a file have pages of the same few sizes.
_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class PageColumn:
    """A required column: name, type of its values, and how its pages are packed."""

    name: str
    kind: Literal["int32", "int64", "binary"]
    codec: PageCodec = "none"


@dataclass(frozen=True, slots=True)
class Page:
    """What a page holds: bytes in the file and unpacked, least and greatest value (encoded) where they are kept."""

    stored_bytes: int
    plain_bytes: int
    limits: tuple[bytes, bytes] | None = None


class ParquetFooter:
    """Heads of pages, and the footer that grows with them.

    Parameters
    ----------
    columns : of the file.
    metadata : keys and values of the file.
    """

    def __init__(self, columns: Sequence[PageColumn], metadata: Mapping[str, str]) -> None:
        self._columns = columns
        self._metadata = metadata
        self._n_rows = 0
        self._groups: list[bytes] = []
        self._about = [_about(column) for column in columns]

    def page_head(self, page: Page, n_values: int) -> bytes:
        """Return the bytes that stand before a page."""
        return _page_head(page.plain_bytes, page.stored_bytes, n_values)

    def add_group(self, offset: int, n_rows: int, pages: Sequence[Page]) -> list[int]:
        """Note a row group that begins at `offset`, its pages side by side; return the stored bytes of its columns."""
        start, chunks, plain_bytes, stored = offset, [], 0, []
        for about, page in zip(self._about, pages, strict=True):
            head_bytes = len(self.page_head(page, n_rows))
            n_plain, n_stored = head_bytes + page.plain_bytes, head_bytes + page.stored_bytes
            values = about + _chunk_sizes(n_rows, n_plain, n_stored) + _field(9, 7, _I64, _int(offset))
            if page.limits is not None:
                least, greatest = page.limits
                limits = _field(5, 0, _BINARY, _binary(greatest)) + _field(6, 5, _BINARY, _binary(least))
                values += _field(12, 9, _STRUCT, limits + _STOP)
            # The metadata of a column stand in the footer alone; its file offset is that of its first page.
            chunks.append(_field(2, 0, _I64, _int(offset)) + _field(3, 2, _STRUCT, values + _STOP) + _STOP)
            offset += n_stored
            plain_bytes += n_plain
            stored.append(n_stored)
        self._groups.append(
            _field(1, 0, _LIST, _list(_STRUCT, chunks)) + _plain_long(plain_bytes) + _plain_long(n_rows)
            + _field(5, 3, _I64, _int(start)) + _plain_long(offset - start)
            + _field(7, 6, _I16, _int(len(self._groups) & 0x7FFF)) + _STOP
        )  # fmt: skip
        self._n_rows += n_rows
        return stored

    def to_bytes(self) -> bytes:
        """Return the end of the file: footer, its length, magic number."""
        root = _field(4, 0, _BINARY, _binary(b"schema")) + _field(5, 4, _I32, _int(len(self._columns))) + _STOP
        schema = [root, *(
            _field(1, 0, _I32, _int(_TYPES[column.kind])) + _field(3, 1, _I32, _int(0))
            + _field(4, 3, _BINARY, _binary(column.name.encode())) + _STOP
            for column in self._columns
        )]  # fmt: skip
        pairs = [
            _field(1, 0, _BINARY, _binary(key.encode())) + _field(2, 1, _BINARY, _binary(value.encode())) + _STOP
            for key, value in self._metadata.items()
        ]
        # The order of a column's values is that of its type; else readers do not trust limits.
        orders = [_field(1, 0, _STRUCT, _STOP) + _STOP for _ in self._columns]
        footer = b"".join([
            _field(1, 0, _I32, _int(2)),
            _field(2, 1, _LIST, _list(_STRUCT, schema)),
            _field(3, 2, _I64, _int(self._n_rows)),
            _field(4, 3, _LIST, _list(_STRUCT, self._groups)),
            _field(5, 4, _LIST, _list(_STRUCT, pairs)),
            _field(6, 5, _BINARY, _binary(_CREATED_BY.encode())),
            _field(7, 6, _LIST, _list(_STRUCT, orders)),
            _STOP,
        ])  # fmt: skip
        return footer + len(footer).to_bytes(4, "little") + _MAGIC

    @staticmethod
    def magic() -> bytes:
        """Return the first bytes of a file."""
        return _MAGIC


@lru_cache(maxsize=_REMEMBERED)
def _page_head(plain_bytes: int, stored_bytes: int, n_values: int) -> bytes:
    """Bytes that stand before a page."""
    about = _field(1, 0, _I32, _int(n_values)) + _plain_int(_PLAIN) + _plain_int(_RLE) + _plain_int(_RLE) + _STOP
    sizes = _plain_int(plain_bytes) + _plain_int(stored_bytes)
    return _field(1, 0, _I32, _int(0)) + sizes + _field(5, 3, _STRUCT, about) + _STOP


@lru_cache(maxsize=_REMEMBERED)
def _chunk_sizes(n_rows: int, n_plain: int, n_stored: int) -> bytes:
    """Fields 5 to 7 of a column's metadata."""
    return _field(5, 4, _I64, _int(n_rows)) + _plain_long(n_plain) + _plain_long(n_stored)


def _about(column: PageColumn) -> bytes:
    """Fields 1 to 4 of a column's metadata: type, encodings, path, codec; the same in all row groups."""
    return (
        _field(1, 0, _I32, _int(_TYPES[column.kind])) + _field(2, 1, _LIST, _list(_I32, [_int(_PLAIN), _int(_RLE)]))
        + _field(3, 2, _LIST, _list(_BINARY, [_binary(column.name.encode())]))
        + _field(4, 3, _I32, _int(_CODECS[column.codec]))
    )  # fmt: skip


def _field(number: int, former: int, kind: int, value: bytes) -> bytes:
    """A field of a structure, after the one with the number `former`."""
    return _BYTES[(number - former) << 4 | kind] + value


def _plain_int(value: int) -> bytes:
    """The next field, an i32."""
    return _BYTES[1 << 4 | _I32] + _int(value)


def _plain_long(value: int) -> bytes:
    """The next field, an i64."""
    return _BYTES[1 << 4 | _I64] + _int(value)


def _int(value: int) -> bytes:
    """A number that is not negative, as a zigzag varint."""
    return _varint(2 * value)


def _varint(value: int) -> bytes:
    """Seven bits in each byte, the lowest first."""
    if value <= 0x7F:
        return _BYTES[value]
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    content.append(value)
    return bytes(content)


def _binary(content: bytes) -> bytes:
    """Bytes behind their number."""
    return _varint(len(content)) + content


def _list(kind: int, values: Iterable[bytes]) -> bytes:
    """Values of one type behind their number."""
    values = list(values)
    head = bytes([len(values) << 4 | kind]) if len(values) < 15 else bytes([0xF0 | kind]) + _varint(len(values))
    return head + b"".join(values)
