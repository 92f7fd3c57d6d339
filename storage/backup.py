# SPDX-License-Identifier: Apache-2.0
"""Backup of a running archive: the database first, then the files that it names, the record last.

Files are written once and deleted only when no row names them, so those that the database names at one moment are
there afterwards.  What the target has already is not copied again; an interrupted backup goes on where it was.
"""

from __future__ import annotations

import datetime
import logging
import secrets
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from storage.backup_database import dump_tables, read_migrations, snapshot
from storage.backup_files import (
    FILES,
    BackupRecord,
    StoredFile,
    folder_of,
    list_backups,
    mark_target,
    read_files,
    read_record,
    read_unfinished,
    write_lines,
    write_record,
    write_unfinished,
)
from storage.checksum import PIECE_BYTES, HashingWriter, sha256_of_file
from storage.errors import BackupError, MissingFileError
from storage.paths import parent_of
from storage.publish import is_temporary, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from sqlalchemy import Engine

    from storage.backup_database import NamedFiles
    from storage.filesystem import Store

#: Names of files that are written once: packs, chunks, received objects.  All others may be replaced.
WRITE_ONCE = (".zip", ".parquet", ".dcm")
_REMEMBER_FILES, _REMEMBER_S = 200, 10.0
#: How often a file may be replaced while it is copied.
_CHANGES = 10
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tree:
    """Files to back up.

    Attributes
    ----------
    name : ``store`` or ``journal``
    store : where they are
    leave_out : patterns (as of a shell, over whole paths) of what is not copied
    """

    name: str
    store: Store
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup did.

    Attributes
    ----------
    record : of the backup
    copied_files, copied_bytes : the target did not have them
    kept_files : the target had them
    seconds : wall time [s]
    """

    record: BackupRecord
    copied_files: int
    copied_bytes: int
    kept_files: int
    seconds: float


def create_backup(
    engine: Engine,
    trees: Iterable[Tree],
    target: Store,
    *,
    named_files: NamedFiles,
    threads: int = 4,
    temporary_folder: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> BackupReport:
    """Back up a database and the files that belong to it, while they are in use.

    Parameters
    ----------
    engine : the database
    trees : the files
    target : an empty folder, or one with earlier backups: these are added to
    named_files : the files that a row names
    threads : files copied at once
    temporary_folder : for a copy of a SQLite database; the system's by default
    progress : called with what is done, files done, files in all

    Raises
    ------
    BackupError
        If the target holds other things, or backups of a newer version.
    DatabaseError, StorageError
        If something does not answer.  The same call then goes on where it was.
    """
    started = time.perf_counter()
    mark_target(target)
    trees = tuple(trees)
    # A file that may be replaced, such as a manifest, is taken only if it was there before what it tells of is listed.
    before = {tree.name: {path for path, _ in _walk(tree)} for tree in trees}
    unfinished, copied_before = read_unfinished(target)
    backup_id = _new_id(target)
    with snapshot(engine, temporary_folder) as connection:
        migrations = read_migrations(connection)
        tables, named = dump_tables(connection, target, backup_id, named_files)
    copying = _Copying(target, _earlier(target, copied_before), unfinished)
    for tree in trees:
        listed = [(path, size) for path, size in _walk(tree) if _is_write_once(path) or path in before[tree.name]]
        copying.copy_tree(tree, listed, threads, progress)
    missing = named - {(file.tree, file.path) for file in copying.files}
    files_sha256, n_files = write_lines(
        target, f"{folder_of(backup_id)}/files.jsonl.gz", [asdict(file) for file in copying.files]
    )
    record = BackupRecord(
        backup_id, _software(), engine.dialect.name, migrations, tables, files_sha256, n_files,
        sum(file.size for file in copying.files), tuple(sorted(f"{tree}/{path}" for tree, path in missing)),
    )  # fmt: skip
    write_record(target, record)
    copying.forget_unfinished()
    if missing:
        _log.error("backup %s: %d files that the database names are not there", backup_id, len(missing))
    seconds = time.perf_counter() - started
    return BackupReport(record, copying.copied_files, copying.copied_bytes, copying.kept_files, seconds)


class _ChangedError(Exception):
    """A file was replaced while it was copied."""


class _Copying:
    """Copies files that the target lacks, and remembers what it has copied."""

    def __init__(self, target: Store, earlier: Mapping[tuple[str, str], StoredFile], unfinished: Iterable[str]) -> None:
        self._target, self._earlier = target, earlier
        self._remembered = list(unfinished)
        self._name = f"{int(time.time()):x}-{secrets.token_hex(4)}"
        self._present: dict[str, dict[str, int]] = {}
        self.files: list[StoredFile] = []
        self.copied_files = self.copied_bytes = self.kept_files = 0

    def copy_tree(
        self, tree: Tree, listed: list[tuple[str, int]], threads: int, progress: Callable[[str, int, int], None] | None
    ) -> None:
        """Copy what the target lacks: first what may be replaced, as it tells whether its folder is still the same."""
        changed: dict[str, bool] = defaultdict(bool)
        fresh: list[StoredFile] = []
        done, remembered_at = 0, time.monotonic()
        for write_once in (False, True):
            some = [(path, size) for path, size in listed if _is_write_once(path) == write_once]
            with ThreadPoolExecutor(threads, thread_name_prefix="backup") as pool:
                waiting = [pool.submit(self._take, tree, path, size, changed[parent_of(path)]) for path, size in some]
                try:
                    for future in as_completed(waiting):
                        file, was_copied = future.result()
                        done += 1
                        if file is not None:
                            self.files.append(file)
                            self._count(file, was_copied)
                            fresh += [file] if was_copied else []
                            known = self._earlier.get((file.tree, file.path))
                            if not write_once and known is not None and known.sha256 != file.sha256:
                                changed[parent_of(file.path)] = True
                        if len(fresh) >= _REMEMBER_FILES or time.monotonic() - remembered_at > _REMEMBER_S:
                            fresh, remembered_at = self._remember(fresh), time.monotonic()
                        if progress is not None:
                            progress(tree.name, done, len(listed))
                except BaseException:
                    for future in waiting:
                        future.cancel()
                    raise
                finally:
                    fresh = self._remember(fresh)

    def forget_unfinished(self) -> None:
        """Delete the records of interrupted backups: all of them are in a finished one now."""
        for path in self._remembered:
            self._target.delete(path)

    def _take(self, tree: Tree, path: str, size: int, reread: bool) -> tuple[StoredFile | None, bool]:
        """One file, copied unless the target has it; None if it has vanished meanwhile."""
        known = self._earlier.get((tree.name, path))
        if known is not None and known.size == size and _is_write_once(path) and not reread and self._has(known):
            return known, False
        try:
            if _is_write_once(path) and self._size_of(f"{FILES}/{tree.name}/{path}") is None:
                return self._copy(tree, path, f"{FILES}/{tree.name}/{path}"), True
            return self._copy_by_digest(tree, path)
        except MissingFileError:
            # Unnamed files may be swept at any time; one that a row names is told as missing in the end.
            return None, False

    def _copy_by_digest(self, tree: Tree, path: str) -> tuple[StoredFile, bool]:
        """Copy a file whose name says nothing of its content, under a name that does; unless it is there."""
        plain = f"{FILES}/{tree.name}/{path}"
        for _ in range(_CHANGES):
            sha256, size = sha256_of_file(tree.store, path)
            if self._size_of(plain) == size and sha256_of_file(self._target, plain)[0] == sha256:
                return StoredFile(tree.name, path, size, sha256, plain), False
            there = StoredFile(tree.name, path, size, sha256, f"{plain}@{sha256[:16]}")
            if self._has(there):
                return there, False
            with suppress(_ChangedError):
                return self._copy(tree, path, there.stored_as, sha256), True
        raise BackupError(f"{tree.store.url}/{path}: it changes faster than it can be copied")

    def _copy(self, tree: Tree, path: str, stored_as: str, sha256: str = "") -> StoredFile:
        """Copy one file; its digest is of what was written, and the one that is expected if any is."""

        def produce(handle: BinaryIO) -> tuple[str, int]:
            writer = HashingWriter(handle)
            with tree.store.open_read(path) as source:
                while piece := source.read(PIECE_BYTES):
                    writer.write(piece)
            if sha256 and writer.sha256 != sha256:
                raise _ChangedError
            return writer.sha256, writer.n_bytes

        written_sha256, size = publish(self._target, stored_as, produce, kind="replace")
        return StoredFile(tree.name, path, size, written_sha256, stored_as)

    def _has(self, file: StoredFile) -> bool:
        """Whether the target has the bytes of a file, as far as their number tells."""
        return self._size_of(file.stored_as) == file.size

    def _size_of(self, stored_as: str) -> int | None:
        """Size of a file of the target; each of its folders is listed once."""
        folder = parent_of(stored_as)
        if folder not in self._present:
            self._present[folder] = {
                entry.path: entry.size for entry in self._target.list_folder(folder) if not entry.is_folder
            }
        return self._present[folder].get(stored_as)

    def _count(self, file: StoredFile, was_copied: bool) -> None:
        self.copied_files += was_copied
        self.copied_bytes += file.size if was_copied else 0
        self.kept_files += not was_copied

    def _remember(self, fresh: list[StoredFile]) -> list[StoredFile]:
        """Write down what was copied since the last time; return the empty list that goes on."""
        if fresh:
            name = f"{self._name}-{len(self._remembered):06d}"
            self._remembered.append(write_unfinished(self._target, name, fresh))
        return []


def _earlier(target: Store, unfinished: Iterable[StoredFile]) -> dict[tuple[str, str], StoredFile]:
    """What the newest backup and interrupted ones have, by tree and path."""
    finished = list_backups(target)
    files = read_files(target, read_record(target, finished[-1])) if finished else []
    return {(file.tree, file.path): file for file in (*files, *unfinished)}


def _walk(tree: Tree) -> Iterator[tuple[str, int]]:
    """Path and size of every file of a tree, but temporary ones and those that are left out."""
    folders = [""]
    while folders:
        for entry in tree.store.list_folder(folders.pop()):
            if is_temporary(entry.path) or any(fnmatch(entry.path, pattern) for pattern in tree.leave_out):
                continue
            if entry.is_folder:
                folders.append(entry.path)
            else:
                yield entry.path, entry.size


def _is_write_once(path: str) -> bool:
    """Whether a file of that name is never replaced."""
    return path.endswith(WRITE_ONCE)


def _new_id(target: Store) -> str:
    """A name that no other backup has: this moment."""
    moment = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    number, name = 1, moment
    while target.list_folder(folder_of(name)):
        number, name = number + 1, f"{moment}-{number}"
    return name


def _software() -> str:
    """Version of this software."""
    try:
        return version("conepacs")
    except PackageNotFoundError:
        return "unknown"
