# SPDX-License-Identifier: Apache-2.0
"""What an upload has done so far: ``scans/<scan id>/upload/`` until the manifest is there.

``scan.json`` holds the scan and the layout with which the upload was begun, ``<file>.json`` the record of each
chunk file that is published: its size and digest, and the digests of the source's pixels in it.  A source that
is not the one the upload was begun with is found by these and refused.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ingest.chunk_layout import ChunkLayout
from ingest.chunk_manifest import (
    ChunkFile,
    ScanManifest,
    file_from_json,
    file_to_json,
    manifest_path,
    read_manifest,
    scan_folder,
)
from ingest.chunk_writer import CHUNK_SCHEMA_VERSION, READ_VERSIONS
from ingest.errors import ChunkCorruptError, ScanConflictError
from ingest.manifest import canonical_json, scan_to_json
from ingest.pixel_digests import ALGORITHMS, NEW_ALGORITHM, OLD_ALGORITHM
from storage.errors import MissingFileError, StorageError
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.pixel_digests import DigestAlgorithm
    from ingest.scan import Scan
    from storage.filesystem import Store

_log = logging.getLogger(__name__)

UPLOAD_FOLDER = "upload"
_HEADER_NAME = "scan.json"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A published chunk file, the stored bytes of its row groups, and the digests of the source's pixels in it.

    There is one digest for each view of the file (over all bins), or one for all of a flat, dark or mask array.
    """

    file: ChunkFile
    group_bytes: tuple[int, ...]
    pixel_digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UploadState:
    """Where an upload goes on.

    Attributes
    ----------
    layout : of the projections, as the upload was begun.
    manifest : of the stored scan if the upload was finished before, else None.
    records : by file name, the chunk files that need not be written again.
    schema_version : in which the scan was begun, and goes on.
    algorithm : of the digests of its pixels, likewise.
    header : of an upload that begins now, to be stored by `record_header` before its first file; else None.
    """

    layout: ChunkLayout
    manifest: ScanManifest | None
    records: dict[str, FileRecord]
    schema_version: int
    algorithm: DigestAlgorithm
    header: bytes | None = None


def begin_upload(store: Store, scan: Scan, layout: ChunkLayout, *, restart: bool = False) -> UploadState:
    """Find out what is there of a scan.

    Parameters
    ----------
    layout : of the projections, for an upload that begins now.
    restart : forget an unfinished upload instead of going on with it; a finished one is never touched.

    Raises
    ------
    ScanConflictError
        If another scan is stored under the id, or an upload of another one was begun.
    """
    if store.exists(manifest_path(scan.scan_id)):
        manifest = read_manifest(store, scan.scan_id)
        keys = differing_keys(scan_to_json(scan), scan_to_json(manifest.scan))
        if keys:
            raise ScanConflictError(
                f"scan {scan.scan_id} is in {store.url} already and differs in {', '.join(keys)}: "
                "give this one another id"
            )
        records = dict(_complete_files(store, manifest))
        layout, algorithm = manifest.layouts["projection"], manifest.digests.algorithm
        return UploadState(layout, manifest, records, manifest.schema_version, algorithm)
    folder = scan_folder(scan.scan_id)
    if restart:
        store.delete(folder, recursive=True)
    begun = _read_json(store, f"{folder}/{UPLOAD_FOLDER}/{_HEADER_NAME}")
    if begun is None:
        header = {
            "schema_version": CHUNK_SCHEMA_VERSION,
            "digest_algorithm": NEW_ALGORITHM,
            "scan": scan_to_json(scan),
            "layout": asdict(layout),
        }
        return UploadState(layout, None, {}, CHUNK_SCHEMA_VERSION, NEW_ALGORITHM, canonical_json(header))
    keys = differing_keys(scan_to_json(scan), begun.get("scan", {}))
    if keys or begun.get("schema_version") not in READ_VERSIONS:
        raise ScanConflictError(
            f"an unfinished upload of scan {scan.scan_id} in {store.url} differs in "
            f"{', '.join(keys) or 'its schema version'}: begin anew with restart, or give this one another id"
        )
    try:
        algorithm = begun.get("digest_algorithm", OLD_ALGORITHM)
        if algorithm not in ALGORITHMS:
            raise ValueError(f"digests of the algorithm {algorithm!r}")
        layout, records = ChunkLayout(**begun["layout"]), dict(_recorded_files(store, folder, algorithm))
        return UploadState(layout, None, records, begun["schema_version"], algorithm)
    except (KeyError, TypeError, ValueError) as error:
        raise ChunkCorruptError(
            f"the state of the unfinished upload of scan {scan.scan_id} in {store.url} is malformed ({error!r}); "
            "begin anew with restart"
        ) from error


def record_header(store: Store, scan_id: str, header: bytes) -> None:
    """Note that an upload is begun."""
    publish_bytes(store, f"{scan_folder(scan_id)}/{UPLOAD_FOLDER}/{_HEADER_NAME}", header, kind="replace")


def record_file(store: Store, scan_id: str, record: FileRecord, algorithm: DigestAlgorithm) -> None:
    """Note that a chunk file is published."""
    values = {
        "file": file_to_json(record.file),
        "group_bytes": list(record.group_bytes),
        f"pixels_{algorithm}": list(record.pixel_digests),
    }
    path = f"{scan_folder(scan_id)}/{UPLOAD_FOLDER}/{record.file.name}.json"
    publish_bytes(store, path, canonical_json(values), kind="replace")


def sweep_upload(store: Store, manifest: ScanManifest) -> None:
    """Delete what a finished upload leaves: its state, and temporary files of tries that were killed."""
    folder = scan_folder(manifest.scan.scan_id)
    kept = {manifest_path(manifest.scan.scan_id), *(f"{folder}/{file.name}" for file in manifest.files)}
    try:
        for entry in store.list_folder(folder):
            if entry.path not in kept:
                store.delete(entry.path, recursive=entry.is_folder)
    except StorageError as error:
        # The scan is whole: what is left over is swept by the next upload of it.
        _log.warning("scan %s: files of its upload are left over: %s", manifest.scan.scan_id, error)


def require_same_pixels(scan: Scan, state: UploadState, what: str, digest: str, recorded: str | None) -> None:
    """Refuse a source whose pixels are not those that were uploaded before."""
    if digest == recorded:
        return
    if state.manifest is not None:
        raise ScanConflictError(
            f"scan {scan.scan_id} is stored already with other pixels: {what} differs; give this one another id"
        )
    raise ScanConflictError(
        f"the source of scan {scan.scan_id} changed since its upload was begun: {what} differs from what was "
        "uploaded; begin anew with restart"
    )


def differing_keys(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Names of the top-level values that differ."""
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))


def _complete_files(store: Store, manifest: ScanManifest) -> Iterator[tuple[str, FileRecord]]:
    """The files of a finished upload that are there with their size; lost ones are then written again."""
    digests = manifest.digests
    whole: dict[str, str | None] = {}
    for name, layout in manifest.layouts.items():
        position = None if name == layout.kind else layout.camera_position
        for index in range(layout.n_bins):
            whole[layout.file_name(index, (0, layout.n_view_blocks))] = digests.of(layout.kind, position)
    for file in manifest.files:
        if file.kind == "projection":
            start, stop = manifest.layouts["projection"].file_views(file.blocks)
            pixels = digests.views[start:stop]
        else:
            pixels = (whole[file.name] or "",)
        if _is_complete(store, scan_folder(manifest.scan.scan_id), file):
            yield file.name, FileRecord(file, (), pixels)


def _recorded_files(store: Store, folder: str, algorithm: DigestAlgorithm) -> Iterator[tuple[str, FileRecord]]:
    """The files of an unfinished upload that are recorded and there with their size."""
    for entry in store.list_folder(f"{folder}/{UPLOAD_FOLDER}"):
        name = entry.path.rsplit("/", 1)[-1]
        if name == _HEADER_NAME or not name.endswith(".parquet.json"):
            continue
        values = _read_json(store, entry.path)
        if values is None:
            continue
        record = FileRecord(
            file_from_json(values["file"]), tuple(values["group_bytes"]), tuple(values[f"pixels_{algorithm}"])
        )
        if _is_complete(store, folder, record.file):
            yield record.file.name, record


def _is_complete(store: Store, folder: str, file: ChunkFile) -> bool:
    """Whether a file is there with the size it was published with."""
    try:
        return store.info(f"{folder}/{file.name}").size == file.bytes
    except MissingFileError:
        return False


def _read_json(store: Store, path: str) -> dict[str, Any] | None:
    """A JSON object of the store, None if there is no such file."""
    try:
        content = store.read_bytes(path)
    except MissingFileError:
        return None
    try:
        values = json.loads(content)
    except ValueError as error:
        raise ChunkCorruptError(f"{path} in {store.url} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ChunkCorruptError(f"{path} in {store.url} is not a JSON object")
    return values
