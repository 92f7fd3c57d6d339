# SPDX-License-Identifier: Apache-2.0
"""The chunk store (border 2, ingest to store): what other packages use of it.

``chunk_layout`` says where pixels lie, ``chunk_writer`` writes files, ``chunk_manifest`` lists them,
``chunk_reader`` reads them back; `ingest.upload` publishes them.  ``docs/storage-layout.md`` is the manual page.
"""

from __future__ import annotations

from ingest.chunk_layout import (
    DEFAULT_MEMORY_BYTES,
    FILE_BYTES,
    ChunkLayout,
    frames_layout,
    projection_layout,
)
from ingest.chunk_manifest import (
    ChunkFile,
    PixelDigests,
    ScanManifest,
    list_scans,
    manifest_path,
    read_manifest,
    scan_folder,
)
from ingest.chunk_reader import RangedReads, StoredScan, open_scan_chunks
from ingest.chunk_writer import CHUNK_SCHEMA_VERSION, ChunkFileWriter

__all__ = [
    "CHUNK_SCHEMA_VERSION",
    "DEFAULT_MEMORY_BYTES",
    "FILE_BYTES",
    "ChunkFile",
    "ChunkFileWriter",
    "ChunkLayout",
    "PixelDigests",
    "RangedReads",
    "ScanManifest",
    "StoredScan",
    "frames_layout",
    "list_scans",
    "manifest_path",
    "open_scan_chunks",
    "projection_layout",
    "read_manifest",
    "scan_folder",
]
