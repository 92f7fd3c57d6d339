# SPDX-License-Identifier: Apache-2.0
"""Writes small OLE compound documents ([MS-CFB] version 3), for the tests of the Zeiss reader."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

SECTOR, MINI_SECTOR, MINI_CUTOFF = 512, 64, 4096
END, FREE, FAT_SECTOR, NO_ENTRY = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD, 0xFFFFFFFF
STORAGE, STREAM, ROOT = 1, 2, 5


@dataclass
class _Entry:
    name: str
    kind: int
    content: bytes = b""
    children: dict[str, _Entry] = field(default_factory=dict)
    start: int = END
    size: int = 0
    child: int = NO_ENTRY
    right: int = NO_ENTRY


def write_ole(path: Path, streams: dict[str, bytes]) -> Path:
    """A compound document with streams by their names, ``Storage/Stream``."""
    root = _Entry("Root Entry", ROOT)
    for name, content in streams.items():
        *storages, last = name.split("/")
        place = root
        for storage in storages:
            place = place.children.setdefault(storage, _Entry(storage, STORAGE))
        place.children[last] = _Entry(last, STREAM, content, size=len(content))
    entries = _listed(root)
    mini_stream, mini_table = _mini_streams(entries)
    root.size = len(mini_stream)
    big = [e for e in entries if e.kind == STREAM and e.size >= MINI_CUTOFF]
    directory_bytes = -(-len(entries) * 128 // SECTOR) * SECTOR
    parts = [b"\0" * directory_bytes, struct.pack(f"<{len(mini_table)}I", *mini_table), mini_stream]
    parts += [entry.content for entry in big]
    counts = [-(-len(part) // SECTOR) for part in parts]
    n_fat = 1
    while n_fat * (SECTOR // 4) < sum(counts) + n_fat:
        n_fat += 1
    assert n_fat <= 109
    table, starts = [FAT_SECTOR] * n_fat, []
    for count in counts:
        starts.append(len(table) if count else END)
        table += [len(table) + i + 1 for i in range(count - 1)] + [END] * (count > 0)
    table += [FREE] * (n_fat * (SECTOR // 4) - len(table))
    root.start = starts[2]
    for entry, start in zip(big, starts[3:], strict=True):
        entry.start = start
    parts[0] = b"".join(map(_directory_entry, entries)).ljust(directory_bytes, b"\0")
    header = struct.pack(
        "<8s16s5H6s9I", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"", 0x3E, 3, 0xFFFE, 9, 6, b"", 0, n_fat, starts[0], 0,
        MINI_CUTOFF, starts[1], counts[1], END, 0,
    )  # fmt: skip
    header += struct.pack("<109I", *(list(range(n_fat)) + [FREE] * (109 - n_fat)))
    body = b"".join(part.ljust(count * SECTOR, b"\0") for part, count in zip(parts, counts, strict=True))
    path.write_bytes(header + struct.pack(f"<{len(table)}I", *table) + body)
    return path


def write_txrm(path: Path, images: np.ndarray, angles_deg: np.ndarray, **changes: object) -> Path:
    """A Zeiss scan; `changes` replaces streams by name (``/`` as ``__``) with bytes, numbers, arrays; None drops."""
    n, n_rows, n_cols = images.shape
    code = {"uint8": 3, "uint16": 5, "float32": 10}[images.dtype.name]
    streams: dict[str, object] = {
        "Version": np.float32(3.0),
        "ImageInfo/NoOfImages": n,
        "ImageInfo/ImagesTaken": n,
        "ImageInfo/ImageWidth": n_cols,
        "ImageInfo/ImageHeight": n_rows,
        "ImageInfo/DataType": code,
        "ImageInfo/AcquisitionMode": 0,
        "ImageInfo/XrayGeometry": 1,
        "ImageInfo/Angles": np.float32(angles_deg),
        "ImageInfo/StoRADistance": np.float32([-25.0] * n),
        "ImageInfo/DtoRADistance": np.float32([75.0] * n),
        "ImageInfo/PixelSize": np.float32(25.0),
        "ImageInfo/ExpTimes": np.float32([2.5] * n),
        "ImageInfo/Voltage": np.float32(80.0),
        "ImageInfo/Current": np.float32(87.5),
        "ImageInfo/Date": b"03/27/2019 12:34:56.789\0\0".ljust(40, b"\0") * n,
    }
    for index, image in enumerate(images):
        streams[f"ImageData{index // 100 + 1}/Image{index + 1}"] = image.astype(image.dtype.newbyteorder("<")).tobytes()
    for name, value in changes.items():
        streams[name.replace("__", "/").replace("Shifts", "-Shifts")] = value
    return write_ole(path, {name: _bytes(value) for name, value in streams.items() if value is not None})


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        return struct.pack("<i", value)
    array = np.asarray(value)
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def _listed(root: _Entry) -> list[_Entry]:
    """All entries, each folder's children linked in the order of the format."""
    entries = [root]
    for place in entries:
        ordered = sorted(place.children.values(), key=lambda entry: (len(entry.name), entry.name.upper()))
        numbers = list(range(len(entries), len(entries) + len(ordered)))
        entries += ordered
        if numbers:
            place.child = numbers[0]
        for entry, following in zip(ordered, numbers[1:], strict=False):
            entry.right = following
    return entries


def _mini_streams(entries: list[_Entry]) -> tuple[bytes, list[int]]:
    """Small streams in sectors of 64 bytes."""
    stream, table = b"", []
    for entry in entries:
        if entry.kind == STREAM and 0 < entry.size < MINI_CUTOFF:
            count = -(-entry.size // MINI_SECTOR)
            entry.start = len(table)
            table += [len(table) + i + 1 for i in range(count - 1)] + [END]
            stream += entry.content.ljust(count * MINI_SECTOR, b"\0")
    table += [FREE] * (-len(table) % (SECTOR // 4))
    return stream, table


def _directory_entry(entry: _Entry) -> bytes:
    name = entry.name.encode("utf-16-le") + b"\0\0"
    return struct.pack(
        "<64sHBB3I16sIQQIQ",
        name, len(name), entry.kind, 1, NO_ENTRY, entry.right, entry.child, b"", 0, 0, 0, entry.start, entry.size,
    )  # fmt: skip
