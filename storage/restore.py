# SPDX-License-Identifier: Apache-2.0
"""Verifying a backup, and restoring it: the files first, then the rows that name them."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from storage.backup_database import require_empty_database, restore_tables
from storage.backup_files import newest_backup, read_files, read_record
from storage.checksum import PIECE_BYTES, HashingWriter, sha256_of_file
from storage.errors import BackupError, ChecksumError, MissingFileError, RestoreRefusedError
from storage.publish import publish, publish_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import BinaryIO

    from sqlalchemy import Engine

    from storage.backup import Tree
    from storage.backup_files import BackupRecord, StoredFile
    from storage.database import Migration
    from storage.filesystem import Store

#: In the root of a store: a restore of this backup was begun and is not done.
RESTORING = "restoring.json"
_MOST_TOLD = 20


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What came of reading a backup again.

    Attributes
    ----------
    record : of the backup
    n_files, n_bytes : read, tables included [B]
    damaged : a sentence for each file that is not what was written, or is gone
    seconds : wall time [s]
    """

    record: BackupRecord
    n_files: int
    n_bytes: int
    damaged: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restore did: files written and found there already, bytes written [B], rows, wall time [s]."""

    record: BackupRecord
    written_files: int
    written_bytes: int
    kept_files: int
    rows: int
    seconds: float


def verify_backup(
    target: Store,
    backup_id: str = "",
    *,
    threads: int = 4,
    progress: Callable[[str, int, int], None] | None = None,
) -> VerifyReport:
    """Read every byte of a backup and compare digests.

    Parameters
    ----------
    target : where backups are
    backup_id : the newest by default
    threads, progress : as for `storage.backup.create_backup`

    Raises
    ------
    BackupError
        If there is no such backup, or its record was changed.
    """
    started = time.perf_counter()
    record = read_record(target, newest_backup(target, backup_id))
    wanted = [(table.path, -1, table.sha256) for table in record.tables]
    damaged = []
    try:
        files = read_files(target, record)
    except (ChecksumError, MissingFileError) as error:
        files, damaged = [], [str(error)]
    wanted += [(file.stored_as, file.size, file.sha256) for file in files]
    n_bytes = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        waiting = [pool.submit(_check, target, *one) for one in wanted]
        for done, future in enumerate(as_completed(waiting), 1):
            size, fault = future.result()
            n_bytes += size
            damaged += [fault] if fault else []
            if progress is not None:
                progress("verify", done, len(wanted))
    return VerifyReport(record, len(wanted), n_bytes, tuple(sorted(damaged)), time.perf_counter() - started)


def restore_backup(
    target: Store,
    engine: Engine,
    migrations: Sequence[Migration],
    trees: Mapping[str, Tree],
    *,
    backup_id: str = "",
    force: bool = False,
    threads: int = 4,
    progress: Callable[[str, int, int], None] | None = None,
) -> RestoreReport:
    """Put a backup back: files, then rows, then the schema is brought up to date.

    Parameters
    ----------
    target : where backups are
    engine : an empty database, of any kind
    migrations : of all packages of this program
    trees : empty stores to restore into, by name; what a tree leaves out may be there
    backup_id : the newest by default
    force : replace what is there; files that the backup does not have stay
    threads, progress : as for `storage.backup.create_backup`

    An interrupted restore goes on where it was when it is called again.

    Raises
    ------
    RestoreRefusedError
        If the database or a tree is not empty, without `force`.
    BackupError
        If there is no such backup, it is of a newer version, or has files for a tree that is not given.
    ChecksumError
        If a file is not what was written; the database is not touched then.
    """
    started = time.perf_counter()
    record = read_record(target, newest_backup(target, backup_id))
    files = read_files(target, record)
    if lacking := {file.tree for file in files} - trees.keys():
        raise BackupError(f"backup {record.backup_id} has files of the {min(lacking)}: say where they go")
    if not force:
        require_empty_database(engine)
    for tree in trees.values():
        _begin(tree, record.backup_id, force=force)
    written = written_bytes = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="restore") as pool:
        waiting = {pool.submit(_put, target, file, trees[file.tree].store): file for file in files}
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                if future.result():
                    written += 1
                    written_bytes += waiting[future].size
                if progress is not None:
                    progress("restore", done, len(files))
        except BaseException:
            for future in waiting:
                future.cancel()
            raise
    rows = restore_tables(engine, migrations, target, record, force=force)
    for tree in trees.values():
        tree.store.delete(RESTORING)
    return RestoreReport(
        record, written, written_bytes, len(files) - written, rows, time.perf_counter() - started
    )  # fmt: skip


def told(faults: Iterable[str]) -> list[str]:
    """The first faults, and how many more there are."""
    listed = list(faults)
    more = [f"and {len(listed) - _MOST_TOLD} more"] if len(listed) > _MOST_TOLD else []
    return listed[:_MOST_TOLD] + more


def _check(target: Store, path: str, size: int, sha256: str) -> tuple[int, str]:
    """Bytes of a file, and what is wrong with it if anything; a size of -1 is not compared."""
    try:
        found, length = sha256_of_file(target, path)
    except MissingFileError:
        return 0, f"{path} is gone"
    if size not in (-1, length):
        return length, f"{path} has {length} bytes, recorded were {size}"
    return length, "" if found == sha256 else f"{path} has the sha256 {found}, recorded was {sha256}"


def _begin(tree: Tree, backup_id: str, *, force: bool) -> None:
    """Mark a tree as being restored; refuse one with other files."""
    store = tree.store
    if store.exists(RESTORING):
        begun = json.loads(store.read_bytes(RESTORING)).get("backup_id")
        if begun != backup_id and not force:
            raise RestoreRefusedError(
                f"{store.url}: a restore of backup {begun} was begun there; go on with that one, or give --force"
            )
    elif not force:
        for entry in store.list_folder(""):
            if not any(fnmatch(entry.path, pattern) for pattern in tree.leave_out):
                raise RestoreRefusedError(
                    f"{store.url} is not empty (it has {entry.path}): give a new one, or --force to put the backup "
                    "over it"
                )
    publish_bytes(store, RESTORING, json.dumps({"backup_id": backup_id}).encode(), kind="replace")


def _put(target: Store, file: StoredFile, store: Store) -> bool:
    """Restore one file; whether it had to be written."""
    try:
        if store.info(file.path).size == file.size and sha256_of_file(store, file.path)[0] == file.sha256:
            return False
    except MissingFileError:
        pass

    def produce(handle: BinaryIO) -> None:
        writer = HashingWriter(handle)
        with target.open_read(file.stored_as) as source:
            while piece := source.read(PIECE_BYTES):
                writer.write(piece)
        if writer.sha256 != file.sha256:
            raise ChecksumError(
                f"{target.url}/{file.stored_as}: its sha256 is {writer.sha256}, recorded was {file.sha256}"
            )

    publish(store, file.path, produce, kind="replace")
    return True
