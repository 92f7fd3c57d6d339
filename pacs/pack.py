# SPDX-License-Identifier: Apache-2.0
"""Packs: many instances in one write-once file of the store, each one ranged read away.

A pack is a ZIP without compression (`pacs.zip_stream`): Part 10 files named by SOP Instance UID, one table of frame
offsets, and last the manifest, from which the index can be rebuilt row by row.  Ordinary tools open it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from pacs.errors import PackError
from pacs.frames import FrameTable, frame_table
from pacs.index import InstanceRecord, Location
from pacs.part10 import InstanceHeader
from pacs.uids import require_uid
from pacs.zip_stream import ZipStreamWriter, read_directory_tail
from storage.errors import ChecksumError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.filesystem import Store
    from storage.range_cache import RangeCache

#: Version of manifest and frame table; another one is refused.
SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
FRAMES_NAME = "frames.json"


@dataclass(frozen=True, slots=True)
class PackEntry:
    """One instance of a pack: its header, and where its Part 10 bytes lie in the file."""

    name: str
    header: InstanceHeader
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PackManifest:
    """What a pack holds.

    Attributes
    ----------
    source : who made it: a run, or the AE title of a peer.
    sequence : its place among the packs of that source.
    receipt : what was acknowledged or registered with it, JSON values; also whatever the maker adds.
    entries : the instances in the order of the file.
    """

    source: str
    sequence: int
    receipt: Mapping[str, Any]
    entries: tuple[PackEntry, ...] = field(repr=False)


class PackWriter:
    """Writes a pack in one pass to a handle that need not seek, inside `storage.publish.publish`.

    Parameters
    ----------
    handle : binary handle that can `write`; it stays open.
    source, sequence, receipt : see `PackManifest`.
    zip64_from : int, optional
        From which number of bytes on ZIP64 fields are used; tests lower it.
    """

    def __init__(
        self, handle: BinaryIO, *, source: str, sequence: int = 0, receipt: Mapping[str, Any] | None = None,
        zip64_from: int | None = None,
    ) -> None:  # fmt: skip
        self._zip = ZipStreamWriter(handle) if zip64_from is None else ZipStreamWriter(handle, zip64_from=zip64_from)
        self._source, self._sequence, self._receipt = source, sequence, dict(receipt or {})
        self._entries: list[PackEntry] = []
        self._frames: dict[str, FrameTable] = {}

    def add(self, part10_bytes: bytes, header: InstanceHeader) -> PackEntry:
        """Write one instance.

        A UID that is in the pack already (another version of an instance) gets a numbered name.

        Parameters
        ----------
        part10_bytes : the whole file.
        header : `pacs.part10.describe_instance` of the same bytes, or an `EncodedSlice`'s.

        Raises
        ------
        ConformanceError
            If the SOP Instance UID is none.
        PackError
            If the pack is finished, or the header's pixel offset lies outside the file.
        """
        uid = require_uid(header.sop_instance_uid, what="SOP Instance UID of a pack's entry")
        name = f"{uid}.dcm"
        version = 1
        while name in self._frames:
            version += 1
            name = f"{uid}-{version}.dcm"
        self._frames[name] = frame_table(part10_bytes, header)
        placed = self._zip.add(name, part10_bytes)
        entry = PackEntry(name, header, placed.offset, placed.length, hashlib.sha256(part10_bytes).hexdigest())
        self._entries.append(entry)
        return entry

    def finish(self) -> PackManifest:
        """Write frame table, manifest and directory; nothing can be added any more."""
        frames = {name: table.as_json() for name, table in self._frames.items()}
        self._zip.add(FRAMES_NAME, _json_bytes({"schema_version": SCHEMA_VERSION, "frames": frames}))
        manifest = PackManifest(self._source, self._sequence, self._receipt, tuple(self._entries))
        self._zip.add(MANIFEST_NAME, _json_bytes(_manifest_json(manifest)))
        self._zip.finish()
        return manifest


def records_of(manifest: PackManifest, path: str) -> list[InstanceRecord]:
    """Return the index records of all instances of a pack that lies at `path` in the store."""
    return [
        InstanceRecord(
            sop_instance_uid=entry.header.sop_instance_uid,
            sop_class_uid=entry.header.sop_class_uid,
            transfer_syntax_uid=entry.header.transfer_syntax_uid,
            study_uid=entry.header.study_uid,
            series_uid=entry.header.series_uid,
            patient_id=entry.header.patient_id,
            attributes=entry.header.attributes,
            location=Location(
                path=path,
                offset=entry.offset,
                length=entry.length,
                sha256=entry.sha256,
                dataset_sha256=entry.header.dataset_sha256,
                pixel_offset=entry.header.pixel_offset,
            ),
        )
        for entry in manifest.entries
    ]


def read_pack_manifest(store: Store, path: str) -> PackManifest:
    """Read a pack's manifest from the end of the file, by two or three ranged reads.

    Raises
    ------
    PackError
        If the file is no pack, truncated, damaged, or of another schema version.
    """
    content = _read_json(store, path, MANIFEST_NAME)
    try:
        return PackManifest(
            source=str(content["source"]),
            sequence=int(content["sequence"]),
            receipt=dict(content["receipt"]),
            entries=tuple(_entry_from_json(entry) for entry in content["instances"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PackError(f"{path} has a manifest that lacks or misspells {error}") from error


def read_frame_tables(store: Store, path: str) -> dict[str, FrameTable]:
    """Read the frame tables of a pack by entry name; PackError as for `read_pack_manifest`."""
    content = _read_json(store, path, FRAMES_NAME)
    try:
        return {name: FrameTable.from_json(table) for name, table in content["frames"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise PackError(f"{path} has a frame table that lacks or misspells {error}") from error


def read_entry(store: Store | RangeCache, location: Location) -> bytes:
    """Read one instance's Part 10 bytes by one ranged read, and check their digest.

    Raises
    ------
    ChecksumError
        If the bytes are not those that were recorded.
    """
    part10_bytes = store.read_range(location.path, location.offset, location.length)
    digest = hashlib.sha256(part10_bytes).hexdigest()
    if digest != location.sha256:
        raise ChecksumError(
            f"{location.path}, bytes {location.offset} to {location.offset + location.length}: "
            f"sha256 is {digest}, expected {location.sha256}"
        )
    return part10_bytes


def _manifest_json(manifest: PackManifest) -> dict[str, Any]:
    """The manifest as JSON values."""
    instances = [
        {
            "name": entry.name,
            "offset": entry.offset,
            "length": entry.length,
            "sha256": entry.sha256,
            "sop_instance_uid": entry.header.sop_instance_uid,
            "sop_class_uid": entry.header.sop_class_uid,
            "transfer_syntax_uid": entry.header.transfer_syntax_uid,
            "study_uid": entry.header.study_uid,
            "series_uid": entry.header.series_uid,
            "patient_id": entry.header.patient_id,
            "pixel_offset": entry.header.pixel_offset,
            "dataset_sha256": entry.header.dataset_sha256,
            "attributes": dict(entry.header.attributes),
        }
        for entry in manifest.entries
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "source": manifest.source,
        "sequence": manifest.sequence,
        "receipt": dict(manifest.receipt),
        "instances": instances,
    }


def _entry_from_json(entry: Mapping[str, Any]) -> PackEntry:
    """One entry of the manifest."""
    header = InstanceHeader(
        sop_instance_uid=entry["sop_instance_uid"],
        sop_class_uid=entry["sop_class_uid"],
        transfer_syntax_uid=entry["transfer_syntax_uid"],
        study_uid=entry["study_uid"],
        series_uid=entry["series_uid"],
        patient_id=entry["patient_id"],
        attributes=dict(entry["attributes"]),
        pixel_offset=entry["pixel_offset"],
        dataset_sha256=entry["dataset_sha256"],
    )
    return PackEntry(entry["name"], header, entry["offset"], entry["length"], entry["sha256"])


def _read_json(store: Store, path: str, name: str) -> dict[str, Any]:
    """Read and check one JSON entry of a pack."""
    directory = read_directory_tail(store, path)
    if name not in directory:
        raise PackError(f"{path} is not a pack: it has no entry '{name}'")
    entry = directory[name]
    content = store.read_range(path, entry.offset, entry.length)
    if zlib.crc32(content) != entry.crc32:
        raise PackError(f"{path} has a damaged entry '{name}': its CRC differs")
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise PackError(f"{path} has an entry '{name}' that is not JSON: {error}") from error
    version = parsed.get("schema_version") if isinstance(parsed, dict) else None
    if version != SCHEMA_VERSION:
        raise PackError(f"{path} has the schema version {version} in '{name}', expected {SCHEMA_VERSION}")
    return dict(parsed)


def _json_bytes(content: Mapping[str, Any]) -> bytes:
    """Return the same bytes for equal content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode(
        "ascii"
    )
