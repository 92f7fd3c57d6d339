# SPDX-License-Identifier: Apache-2.0
"""``scans/<scan id>/manifest.json``: the last file of an upload; a scan without it does not exist.

It holds the scan, a digest of every view's pixels, the layout and the list of the chunk files.  Nothing in it
depends on the time, the machine or on how often an upload was interrupted.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ingest.chunk_layout import ChunkKind, ChunkLayout, layout_name
from ingest.chunk_writer import CHUNK_SCHEMA_VERSION, READ_VERSIONS
from ingest.errors import ChunkCorruptError, IngestError, ScanDescriptionError, UnknownScanError
from ingest.manifest import canonical_json, scan_from_json, scan_to_json
from ingest.pixel_digests import ALGORITHMS, NEW_ALGORITHM, OLD_ALGORITHM, DigestAlgorithm
from ingest.scan import check_scan_id
from storage.errors import MissingFileError

if TYPE_CHECKING:
    from ingest.scan import FieldFrames, Scan
    from storage.filesystem import Store

SCANS_FOLDER = "scans"
MANIFEST_NAME = "manifest.json"

#: Of one set of flat or dark frames, of each camera position's, or of none.
FieldDigests: TypeAlias = str | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class ChunkFile:
    """A published chunk file: name in the scan's folder, what it holds, its size [B], and the digest of its bytes."""

    name: str
    kind: ChunkKind
    bin_index: int
    blocks: tuple[int, int]
    bytes: int
    digest: str
    algorithm: DigestAlgorithm = NEW_ALGORITHM


@dataclass(frozen=True, slots=True)
class PixelDigests:
    """Digests of the source's pixels, little-endian, C order: (bin, row, col) of each view; whole arrays else.

    Flat and dark frames of camera positions have one digest for each position.
    """

    views: tuple[str, ...]
    flats: FieldDigests = None
    darks: FieldDigests = None
    bad_pixels: str | None = None
    algorithm: DigestAlgorithm = OLD_ALGORITHM

    def of(self, kind: ChunkKind, position: int | None = None) -> str | None:
        """Digest of the flat or dark frames (of a camera position) or of the mask; None where there are none."""
        found = {"flat": self.flats, "dark": self.darks}.get(kind, self.bad_pixels)
        if isinstance(found, tuple):
            return found[position] if position is not None and position < len(found) else None
        return found if position is None else None


@dataclass(frozen=True, slots=True)
class ScanManifest:
    """What ``manifest.json`` says.

    `layouts` are named by `layout_name`.  `group_bytes` are the projections' stored bytes for each bin and row group,
    summed over the view blocks: what a plan needs to know what a band of rows costs.  `schema_version` is that of the
    chunk files too.
    """

    scan: Scan
    digests: PixelDigests
    layouts: dict[str, ChunkLayout]
    files: tuple[ChunkFile, ...]
    group_bytes: tuple[tuple[int, ...], ...]
    schema_version: int = CHUNK_SCHEMA_VERSION

    @property
    def sha256(self) -> str:
        """Identity of the scan: sha256 over its description and the digests of its pixels, in hexadecimal.

        It does not depend on how the pixels are cut into files or compressed, so the same scan uploaded with
        other settings has the same one, and one that is there keeps it.
        """
        identity = {"scan": scan_to_json(self.scan), "pixels": _digests_to_json(self.digests)}
        return hashlib.sha256(canonical_json(identity)).hexdigest()

    @property
    def stored_bytes(self) -> int:
        """Size of all chunk files [B]."""
        return sum(file.bytes for file in self.files)

    def layout_of(self, kind: ChunkKind, position: int | None = None) -> ChunkLayout | None:
        """How the frames of a kind are cut up that serve a camera position's views; None where there are none."""
        own = self.layouts.get(layout_name(kind, position))
        return self.layouts.get(kind) if own is None else own

    def field_layouts(self, kind: ChunkKind) -> tuple[ChunkLayout, ...]:
        """How all frames of a kind are cut up, by camera position; () where there are none."""
        return tuple(layout for layout in self.layouts.values() if layout.kind == kind)

    def to_bytes(self) -> bytes:
        """Return the manifest as canonical JSON."""
        values = {
            "schema_version": self.schema_version,
            "manifest_sha256": self.sha256,
            "scan": scan_to_json(self.scan),
            "pixels": _digests_to_json(self.digests),
            "layouts": {name: asdict(layout) for name, layout in self.layouts.items()},
            "files": [file_to_json(file) for file in self.files],
            "row_group_bytes": [list(sizes) for sizes in self.group_bytes],
            "totals": {
                "files": len(self.files),
                "stored_bytes": self.stored_bytes,
                "pixel_bytes": sum(layout.pixel_bytes for layout in self.layouts.values()),
            },
        }
        return canonical_json(values)


def scan_folder(scan_id: str) -> str:
    """Path of a scan's folder in the store; ScanDescriptionError if the id cannot name one."""
    return f"{SCANS_FOLDER}/{check_scan_id(scan_id)}"


def manifest_path(scan_id: str) -> str:
    """Path of a scan's manifest in the store."""
    return f"{scan_folder(scan_id)}/{MANIFEST_NAME}"


def list_scans(store: Store) -> list[str]:
    """Return the ids of the scans in a store, in order; unfinished uploads are not among them."""
    folders = [entry.path.rsplit("/", 1)[-1] for entry in store.list_folder(SCANS_FOLDER) if entry.is_folder]
    return sorted(name for name in folders if store.exists(f"{SCANS_FOLDER}/{name}/{MANIFEST_NAME}"))


def read_manifest(store: Store, scan_id: str) -> ScanManifest:
    """Read and check a scan's manifest.

    Raises
    ------
    UnknownScanError
        If there is no such scan; it names those with similar ids.
    ChunkCorruptError
        If the manifest is malformed, of another version, or not what its own digest says.
    """
    try:
        content = store.read_bytes(manifest_path(scan_id))
    except (MissingFileError, ScanDescriptionError) as error:
        raise UnknownScanError(_unknown_scan(store, scan_id)) from error
    return manifest_from_bytes(content, f"{store.url.rstrip('/')}/{manifest_path(scan_id)}")


def manifest_from_bytes(content: bytes, source: str) -> ScanManifest:
    """Return the manifest that `ScanManifest.to_bytes` wrote; ChunkCorruptError names `source` if it is none."""
    try:
        values = json.loads(content)
        version = values["schema_version"]
        if version not in READ_VERSIONS:
            known = " or ".join(map(str, READ_VERSIONS))
            raise ChunkCorruptError(f"{source} has schema version {version!r}, expected {known}")
        pixels = values["pixels"]
        manifest = ScanManifest(
            scan=scan_from_json(values["scan"], source),
            digests=PixelDigests(
                views=tuple(pixels["views"]),
                flats=_field_digests(pixels["flats"]),
                darks=_field_digests(pixels["darks"]),
                bad_pixels=pixels["bad_pixels"],
                algorithm=_require_algorithm(pixels.get("algorithm", OLD_ALGORITHM), source),
            ),
            layouts={name: ChunkLayout(**layout) for name, layout in sorted(values["layouts"].items())},
            files=tuple(file_from_json(file) for file in values["files"]),
            group_bytes=tuple(tuple(sizes) for sizes in values["row_group_bytes"]),
            schema_version=version,
        )
        recorded = values["manifest_sha256"]
    except (ValueError, KeyError, TypeError, AttributeError, IngestError) as error:
        if isinstance(error, ChunkCorruptError):
            raise
        raise ChunkCorruptError(f"{source} is not a scan's manifest: {error!r}") from error
    if manifest.sha256 != recorded:
        raise ChunkCorruptError(f"{source} was altered: its digest is {manifest.sha256}, but it says {recorded}")
    layout = manifest.layouts.get("projection")
    if layout is None or [len(sizes) for sizes in manifest.group_bytes] != [len(layout.row_groups)] * layout.n_bins:
        raise ChunkCorruptError(f"{source} does not describe the projections and the sizes of their row groups")
    _require_fields(manifest, source)
    return manifest


def file_to_json(file: ChunkFile) -> dict[str, Any]:
    """Return a chunk file's record as plain JSON values; its digest is named by the algorithm."""
    values = asdict(file)
    algorithm, digest = values.pop("algorithm"), values.pop("digest")
    return {**values, algorithm: digest}


def file_from_json(values: dict[str, Any]) -> ChunkFile:
    """Return the record that `file_to_json` wrote."""
    first, end = values["blocks"]
    algorithm = next((name for name in ALGORITHMS if name in values), NEW_ALGORITHM)
    others = {key: value for key, value in values.items() if key != algorithm}
    return ChunkFile(**{**others, "blocks": (first, end)}, digest=values[algorithm], algorithm=algorithm)


def _digests_to_json(digests: PixelDigests) -> dict[str, Any]:
    """Digests as plain JSON values; those of former versions name no algorithm, and keep their bytes."""
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(digests).items()}
    if digests.algorithm == OLD_ALGORITHM:
        del values["algorithm"]
    return values


def _require_algorithm(name: Any, source: str) -> DigestAlgorithm:
    """The algorithm of digests, if it is known here."""
    for algorithm in ALGORITHMS:
        if name == algorithm:
            return algorithm
    known = " or ".join(ALGORITHMS)
    raise ChunkCorruptError(f"{source} has digests of its pixels by {name!r}, expected {known}: update this program")


def _field_digests(value: Any) -> FieldDigests:
    """Digests of flat or dark frames as they were written."""
    return tuple(value) if isinstance(value, list) else value


def _require_fields(manifest: ScanManifest, source: str) -> None:
    """Refuse a manifest whose flat or dark frames are not where the scan says."""
    kinds: tuple[tuple[ChunkKind, FieldFrames | None], ...] = (
        ("flat", manifest.scan.flats), ("dark", manifest.scan.darks),
    )  # fmt: skip
    for kind, frames in kinds:
        expected = {} if frames is None else {
            layout_name(kind, position): frames.frames_at(position) for position in frames.positions
        }  # fmt: skip
        found = {name: layout.n_views for name, layout in manifest.layouts.items() if layout.kind == kind}
        if found != {name: end - first for name, (first, end) in expected.items()}:
            raise ChunkCorruptError(f"{source} does not describe the {kind} frames that the scan has")


def _unknown_scan(store: Store, scan_id: str) -> str:
    """One sentence on an id that is not there."""
    known = list_scans(store)
    near = difflib.get_close_matches(scan_id, known, n=3, cutoff=0.5)
    message = f"no scan '{scan_id}' in {store.url}"
    if near:
        return f"{message}; did you mean {' or '.join(repr(name) for name in near)}?"
    if not known:
        return f"{message}, which holds no scan yet"
    shown = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
    return f"{message}, which holds {shown}"
