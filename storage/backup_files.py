# SPDX-License-Identifier: Apache-2.0
"""What a backup consists of, as values and as files.

::

    conepacs-backup.json               says that this folder holds backups
    files/store/packs/...              bytes of write-once files, under their own names
    files/store/runs/.../plan.json@... bytes of files that may be replaced, under their name and digest
    files/journal/...
    backups/20260115T103000Z/
        database/instance.jsonl.gz     rows of each table
        files.jsonl.gz                 every file: tree, path, size, sha256, where its bytes are
        backup.json                    written last: a backup without it does not exist
    unfinished/...                     what an interrupted backup had copied already
"""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from storage.checksum import HashingWriter, require_sha256, sha256_of_bytes, sha256_of_file
from storage.errors import BackupError, ChecksumError, MissingFileError
from storage.publish import publish, publish_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from storage.filesystem import Store

BACKUP_SCHEMA_VERSION = 1
MARK = "conepacs-backup.json"
BACKUPS, FILES, UNFINISHED = "backups", "files", "unfinished"
_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z(-[0-9]+)?")
_LEVEL = 6


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a backup.

    Attributes
    ----------
    tree : ``store`` or ``journal``
    path : there
    size, sha256 : of its bytes [B]
    stored_as : where they are in the backup's store
    """

    tree: str
    path: str
    size: int
    sha256: str
    stored_as: str


@dataclass(frozen=True, slots=True)
class StoredTable:
    """One table of a backup: rows as JSON lines, the first one naming the columns; sha256 of the packed file."""

    name: str
    path: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BackupRecord:
    """A finished backup.

    Attributes
    ----------
    backup_id : moment at which the database was read, UTC
    software : version that wrote it
    database : kind of the database that it was read from
    migrations : (package, number, name) of the schema, in the order in which they were applied
    tables : rows of the database
    files_sha256, n_files, n_bytes : of the list of files, and their sum [B]
    missing : files that the database named and that were not there, as ``tree/path``
    """

    backup_id: str
    software: str
    database: str
    migrations: tuple[tuple[str, int, str], ...]
    tables: tuple[StoredTable, ...]
    files_sha256: str
    n_files: int
    n_bytes: int
    missing: tuple[str, ...] = ()


def folder_of(backup_id: str) -> str:
    """Folder of one backup."""
    return f"{BACKUPS}/{backup_id}"


def list_backups(target: Store) -> list[str]:
    """Names of the finished backups, oldest first."""
    names = [entry.path.rpartition("/")[2] for entry in target.list_folder(BACKUPS) if entry.is_folder]
    return sorted(name for name in names if _ID.fullmatch(name) and target.exists(f"{folder_of(name)}/backup.json"))


def newest_backup(target: Store, backup_id: str = "") -> str:
    """Name of the newest finished backup, or the given one if it is there.

    Raises
    ------
    BackupError
        If there is none.
    """
    found = list_backups(target)
    if backup_id and backup_id not in found:
        raise BackupError(f"{target.url} has no backup {backup_id}: expected one of {', '.join(found) or 'none'}")
    if not found:
        raise BackupError(f"{target.url} holds no finished backup")
    return backup_id or found[-1]


def mark_target(target: Store) -> None:
    """Say that the folder holds backups.

    Raises
    ------
    BackupError
        If something else is in it, or backups of a newer version.
    """
    if target.exists(MARK):
        found = json.loads(target.read_bytes(MARK)).get("schema_version")
        if found != BACKUP_SCHEMA_VERSION:
            raise BackupError(
                f"{target.url}: its backups are of version {found}, this program knows {BACKUP_SCHEMA_VERSION}"
            )
        return
    if target.list_folder(""):
        raise BackupError(f"{target.url} holds other files: give an empty or a new folder for backups")
    publish_bytes(target, MARK, json.dumps({"schema_version": BACKUP_SCHEMA_VERSION}).encode(), kind="replace")


def write_record(target: Store, record: BackupRecord) -> None:
    """Publish ``backup.json``, which makes the backup exist; its last key digests the others."""
    values = asdict(record)
    values["digest"] = _digest(values)
    publish_bytes(
        target, f"{folder_of(record.backup_id)}/backup.json", json.dumps(values, indent=1).encode(), kind="write_once"
    )


def read_record(target: Store, backup_id: str) -> BackupRecord:
    """Read ``backup.json``.

    Raises
    ------
    BackupError
        If it is no such record, or was changed.
    """
    path = f"{folder_of(backup_id)}/backup.json"
    try:
        values = json.loads(target.read_bytes(path))
        digest = values.pop("digest")
        record = BackupRecord(
            **{
                **values,
                "migrations": tuple((str(p), int(n), str(t)) for p, n, t in values["migrations"]),
                "tables": tuple(StoredTable(**table) for table in values["tables"]),
                "missing": tuple(values["missing"]),
            }
        )
    except (ValueError, KeyError, TypeError, MissingFileError) as error:
        raise BackupError(f"{target.url}/{path}: not the record of a backup ({type(error).__name__})") from error
    if digest != _digest(values):
        raise BackupError(f"{target.url}/{path}: its content is not what was written")
    return record


def write_lines(target: Store, path: str, lines: Iterable[dict[str, Any]]) -> tuple[str, int]:
    """Publish JSON lines, packed; return the sha256 of the packed file and how many lines there are.

    `lines` must be able to be gone through again, should the store fail.
    """

    def produce(handle: BinaryIO) -> tuple[str, int]:
        writer, count = HashingWriter(handle), 0
        with gzip.GzipFile(fileobj=writer, mode="wb", compresslevel=_LEVEL, mtime=0) as packed:
            for line in lines:
                packed.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
                count += 1
        return writer.sha256, count

    return publish(target, path, produce, kind="replace")


def read_lines(target: Store, path: str, sha256: str = "") -> Iterator[dict[str, Any]]:
    """Yield JSON lines of a packed file, whose digest was compared before, if one is given.

    Raises
    ------
    ChecksumError
        If the file is not what was written.
    """
    if sha256:
        found, _ = sha256_of_file(target, path)
        if found != sha256:
            raise ChecksumError(f"{target.url}/{path}: its sha256 is {found}, recorded was {sha256}")
    with target.open_read(path) as handle, gzip.GzipFile(fileobj=handle, mode="rb") as packed:
        for line in packed:
            yield json.loads(line)


def read_files(target: Store, record: BackupRecord) -> list[StoredFile]:
    """Every file of a backup.

    Raises
    ------
    ChecksumError
        If the list is not what was written.
    """
    path = f"{folder_of(record.backup_id)}/files.jsonl.gz"
    return [StoredFile(**line) for line in read_lines(target, path, record.files_sha256)]


def read_unfinished(target: Store) -> tuple[list[str], list[StoredFile]]:
    """What interrupted backups had copied: their records' paths, and the files; a damaged record is passed over."""
    paths = [entry.path for entry in target.list_folder(UNFINISHED) if entry.path.endswith(".json")]
    files: list[StoredFile] = []
    for path in paths:
        try:
            content = json.loads(target.read_bytes(path))
            data = json.dumps(content["files"]).encode()
            require_sha256(data, content["sha256"], path)
            files += [StoredFile(**line) for line in content["files"]]
        except (ChecksumError, MissingFileError, ValueError, KeyError, TypeError):
            continue
    return paths, files


def write_unfinished(target: Store, name: str, files: list[StoredFile]) -> str:
    """Remember what was copied, for the next try should this one be interrupted; return the record's path."""
    lines = [asdict(file) for file in files]
    content = {"sha256": sha256_of_bytes(json.dumps(lines).encode()), "files": lines}
    path = f"{UNFINISHED}/{name}.json"
    publish_bytes(target, path, json.dumps(content).encode(), kind="replace")
    return path


def _digest(values: dict[str, Any]) -> str:
    """Digest of a record's values, whatever their order; tuples count as lists."""
    return sha256_of_bytes(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())
