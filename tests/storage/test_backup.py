# SPDX-License-Identifier: Apache-2.0
"""Backup and restore of a database with files: whole, added to, interrupted, damaged, moved to another database."""

from __future__ import annotations

import datetime
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from sqlalchemy import JSON, Boolean, Column, DateTime, Double, ForeignKey, Integer, LargeBinary, MetaData, Table, Text

from storage.backup import Tree, create_backup
from storage.backup_files import list_backups, read_record
from storage.database import Migration, apply_migrations, create_database_engine, read_transaction, write_transaction
from storage.errors import BackupError, ChecksumError, MissingFileError, RestoreRefusedError, StoreFullError
from storage.filesystem import open_store
from storage.publish import publish_bytes
from storage.restore import restore_backup, verify_backup
from tests.support.postgres import new_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

METADATA = MetaData()
BOX = Table("box", METADATA, Column("id", Integer, primary_key=True), Column("label", Text, nullable=False))
THING = Table(
    "thing",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("box", ForeignKey("box.id")),
    Column("path", Text),
    Column("attributes", JSON),
    Column("flag", Boolean),
    Column("number", Double),
    Column("moment", DateTime(timezone=True)),
    Column("content", LargeBinary),
)
MIGRATIONS = (
    Migration("test", 1, "first", lambda connection: METADATA.create_all(connection, checkfirst=False)),
    Migration("test", 2, "second", ("CREATE TABLE later (id INTEGER PRIMARY KEY)",)),
)
ROWS = [
    {
        "id": number, "box": 1, "path": f"packs/run/{number}.zip", "attributes": {"n": number, "ü": ["a", None]},
        "flag": number % 2 == 0, "number": number / 3, "content": bytes([number, 0, 255]),
        "moment": datetime.datetime(2026, 1, 15, 10, 30, number, 123456, tzinfo=datetime.UTC),
    }
    for number in range(1, 6)
] + [
    {
        "id": 9, "box": None, "path": None, "attributes": None, "flag": None, "number": None, "content": None,
        "moment": None,
    }
]  # fmt: skip


def named(table: str, row: Any) -> list[tuple[str, str]]:
    return [("store", row["path"])] if table == "thing" and row["path"] else []


@dataclass
class Archive:
    """A store and a database that names its files."""

    engine: Engine
    folder: Path
    tree: Tree = field(init=False)

    def __post_init__(self) -> None:
        self.tree = Tree("store", open_store(self.folder), ("index.sqlite*", "restoring.json"))

    def put(self, path: str, content: bytes) -> None:
        publish_bytes(self.tree.store, path, content, kind="replace")

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and "sqlite" not in path.name
        }

    def rows(self) -> list[dict[str, Any]]:
        with read_transaction(self.engine) as connection:
            found = [dict(row) for row in connection.execute(sqlalchemy.select(THING).order_by(THING.c.id)).mappings()]
        for row in found:
            if row["moment"] is not None and row["moment"].tzinfo is None:
                row["moment"] = row["moment"].replace(tzinfo=datetime.UTC)
        return found

    def back_up(self, target: Any, **options: Any) -> Any:
        return create_backup(self.engine, [self.tree], target, named_files=named, **{"threads": 2} | options)

    def restore(self, target: Any, **options: Any) -> Any:
        return restore_backup(target, self.engine, MIGRATIONS, {"store": self.tree}, **{"threads": 2} | options)


@contextmanager
def empty(folder: Path, url: str = "") -> Iterator[Archive]:
    """An archive without files and tables."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = create_database_engine(url or str(folder / "index.sqlite"))
    try:
        yield Archive(engine, folder)
    finally:
        engine.dispose()


def fill(archive: Archive) -> None:
    """Five packs, a scan, a run; rows that name the packs."""
    apply_migrations(archive.engine, MIGRATIONS)
    for number in range(1, 6):
        archive.put(f"packs/run/{number}.zip", bytes([number]) * (1000 + number))
    archive.put("scans/stone/projections-bin00.parquet", b"counts")
    archive.put("scans/stone/manifest.json", b'{"scan": 1}')
    archive.put("runs/run/plan.json", b"{}")
    with write_transaction(archive.engine) as connection:
        connection.execute(BOX.insert(), {"id": 1, "label": "Ä"})
        connection.execute(THING.insert().values(attributes=sqlalchemy.null()), [{**row} for row in ROWS[-1:]])
        connection.execute(THING.insert(), ROWS[:-1])


@pytest.fixture
def archive(tmp_path):
    with empty(tmp_path / "archive") as made:
        fill(made)
        yield made


@pytest.fixture(params=["folder", "memory"])
def target(request, tmp_path):
    """Where backups go."""
    return open_store(tmp_path / "backup" if request.param == "folder" else f"memory://backup-{tmp_path.name}")


def test_what_is_restored_is_what_was_there(archive, target, tmp_path):
    report = archive.back_up(target)
    assert (report.record.n_files, report.copied_files, report.kept_files) == (8, 8, 0)
    assert report.record.missing == ()
    assert verify_backup(target).damaged == ()
    with empty(tmp_path / "new") as new:
        done = new.restore(target)
        assert (done.written_files, done.kept_files, done.rows) == (8, 0, 7)
        assert new.files() == archive.files()
        assert new.rows() == archive.rows() == ROWS
        with write_transaction(new.engine) as connection:
            assert connection.execute(BOX.insert().returning(BOX.c.id), {"label": "next"}).scalar_one() == 2


@pytest.mark.postgresql
def test_a_database_moves_from_sqlite_to_postgresql_and_back(archive, postgresql_url, tmp_path):
    first, second = open_store(tmp_path / "first"), open_store(tmp_path / "second")
    archive.back_up(first)
    with new_database(postgresql_url) as url, empty(tmp_path / "other", url) as other:
        other.restore(first)
        assert other.rows() == ROWS
        with write_transaction(other.engine) as connection:
            assert connection.execute(BOX.insert().returning(BOX.c.id), {"label": "next"}).scalar_one() == 2
        assert other.back_up(second).record.database == "postgresql"
        with pytest.raises(RestoreRefusedError, match="not empty"):
            other.restore(second)
        other.restore(second, force=True)
        assert other.rows() == ROWS
    with empty(tmp_path / "back") as back:
        back.restore(second)
        assert back.rows() == ROWS
        assert back.files() == archive.files()


def test_a_backup_lies_on_s3(archive, s3_server, tmp_path):
    target = open_store(s3_server.make_bucket())
    archive.back_up(target)
    archive.put("runs/run/plan.json", b"[]")
    assert archive.back_up(target).copied_files == 1
    assert verify_backup(target).damaged == ()
    with empty(tmp_path / "new") as new:
        new.restore(target)
        assert (new.files(), new.rows()) == (archive.files(), ROWS)


@pytest.mark.hdfs
def test_a_store_on_hdfs_comes_back_to_a_folder_and_to_hdfs(archive, hdfs_daemons, tmp_path):
    folders = [open_store(f"{hdfs_daemons.hdfs_url}/backup-{tmp_path.name}-{name}") for name in ("old", "new")]
    first, second = open_store(tmp_path / "first"), open_store(tmp_path / "second")
    archive.back_up(first)
    with empty(tmp_path / "b") as other:
        other.tree = Tree("store", folders[0])
        other.restore(first)
        assert other.back_up(second).record.missing == ()
    with empty(tmp_path / "c") as other:
        other.restore(second)
        assert (other.files(), other.rows()) == (archive.files(), ROWS)
    with empty(tmp_path / "d") as other:
        other.tree = Tree("store", folders[1])
        other.restore(second)
        assert folders[1].read_bytes("packs/run/3.zip") == archive.files()["packs/run/3.zip"]


def test_later_backups_copy_what_is_new_and_each_can_be_restored(archive, target, tmp_path):
    first = archive.back_up(target).record.backup_id
    archive.put("packs/run/6.zip", b"new")
    archive.put("runs/run/plan.json", b"[]")
    before = archive.files()
    report = archive.back_up(target)
    assert (report.copied_files, report.kept_files) == (2, 7)
    assert list_backups(target) == [first, report.record.backup_id]
    for each in list_backups(target):
        assert verify_backup(target, each).damaged == ()
    with empty(tmp_path / "old") as old, empty(tmp_path / "new") as new:
        old.restore(target, backup_id=first)
        new.restore(target)
        assert old.files() == {path: content for path, content in before.items() if path != "packs/run/6.zip"} | {
            "runs/run/plan.json": b"{}"
        }
        assert new.files() == before


def test_a_scan_that_came_again_under_its_name_is_read_again(archive, target, tmp_path):
    first = archive.back_up(target).record.backup_id
    archive.put("scans/stone/projections-bin00.parquet", b"COUNTS")  # as long as before
    archive.put("scans/stone/manifest.json", b'{"scan": 2}')
    archive.back_up(target)
    for each in list_backups(target):
        assert verify_backup(target, each).damaged == ()
    with empty(tmp_path / "old") as old, empty(tmp_path / "new") as new:
        new.restore(target)
        assert new.files()["scans/stone/projections-bin00.parquet"] == b"COUNTS"
        old.restore(target, backup_id=first)
        assert old.files()["scans/stone/projections-bin00.parquet"] == b"counts"


def test_a_manifest_that_comes_while_files_are_listed_waits_for_the_next_backup(archive, target):
    list_folder, listed = archive.tree.store.list_folder, []

    def late(path: str) -> Any:
        found = list_folder(path)
        if path == "scans/stone":
            listed.append(path)
            archive.put("scans/stone/late.json", b"{}")
        return found

    archive.tree.store.list_folder = late
    assert archive.back_up(target).record.n_files == 8
    assert len(listed) == 2


@pytest.mark.parametrize("victim", ["files/store/packs/run/3.zip", "database/thing", "files.jsonl", "Z/backup.json"])
def test_a_flipped_byte_is_found_and_not_restored(victim, archive, tmp_path):
    folder = tmp_path / "backup"
    target = open_store(folder)
    archive.back_up(target)
    (path,) = [path for path in folder.rglob("*") if victim in str(path) and path.is_file()]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with empty(tmp_path / "new") as new:
        if victim == "Z/backup.json":
            for act in (lambda: verify_backup(target), lambda: new.restore(target)):
                with pytest.raises(BackupError):
                    act()
            return
        (fault,) = verify_backup(target).damaged
        assert path.name in fault
        with pytest.raises(ChecksumError, match=path.name):
            new.restore(target)
        assert "packs/run/3.zip" not in new.files() or victim != "files/store/packs/run/3.zip"
        apply_migrations(new.engine, MIGRATIONS)
        assert new.rows() == []


def test_a_file_that_is_gone_from_the_backup_is_found(archive, tmp_path):
    target = open_store(tmp_path / "backup")
    archive.back_up(target)
    target.delete("files/store/packs/run/2.zip")
    assert verify_backup(target).damaged == ("files/store/packs/run/2.zip is gone",)


class Breaking:
    """A store that fails at a write, some writes from now."""

    def __init__(self, store: Any, writes: int) -> None:
        self._store, self.writes = store, writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def open_write(self, path: str) -> Any:
        self.writes -= 1
        if self.writes < 0:
            raise StoreFullError(f"{path}: no space left")
        return self._store.open_write(path)


@pytest.mark.parametrize(("writes", "copied"), [(1, 0), (4, 0), (6, 2), (9, 4)])
def test_an_interrupted_backup_does_not_exist_and_the_next_goes_on(writes, copied, archive, target, tmp_path):
    with pytest.raises(StoreFullError):
        archive.back_up(Breaking(target, writes), threads=1)
    assert list_backups(target) == []
    with pytest.raises(BackupError, match="no finished backup"):
        verify_backup(target)
    report = archive.back_up(target)
    assert (report.copied_files, report.kept_files) == (8 - copied, copied)
    assert verify_backup(target).damaged == ()
    assert target.list_folder("unfinished") == []
    with empty(tmp_path / "new") as new:
        new.restore(target)
        assert new.files() == archive.files()


def test_an_interrupted_restore_goes_on(archive, tmp_path):
    target = open_store(tmp_path / "backup")
    archive.back_up(target)
    with empty(tmp_path / "new") as new:
        whole = new.tree
        new.tree = Tree("store", Breaking(whole.store, 5), whole.leave_out)
        with pytest.raises(StoreFullError):
            new.restore(target, threads=1)
        new.tree = whole
        report = new.restore(target)
        assert (report.written_files, report.kept_files) == (4, 4)
        assert new.files() == archive.files()
        assert new.rows() == ROWS


def test_what_is_not_empty_is_refused_unless_forced(archive, tmp_path):
    target = open_store(tmp_path / "backup")
    archive.back_up(target)
    with pytest.raises(RestoreRefusedError, match="database"):
        archive.restore(target)
    with empty(tmp_path / "new") as new:
        new.put("packs/other.zip", b"other")
        with pytest.raises(RestoreRefusedError, match="packs"):
            new.restore(target)
        assert new.files() == {"packs/other.zip": b"other"}
        new.restore(target, force=True)
        assert new.files() == {"packs/other.zip": b"other"} | archive.files()
    archive.put("packs/run/1.zip", b"damaged")
    report = archive.restore(target, force=True)
    assert (report.written_files, report.kept_files) == (1, 7)
    assert archive.rows() == ROWS


def test_files_that_rows_name_and_that_are_gone_are_told(archive, target):
    archive.tree.store.delete("packs/run/4.zip")
    assert archive.back_up(target).record.missing == ("store/packs/run/4.zip",)


def test_a_file_that_vanishes_meanwhile_is_left_out(archive, target):
    open_read = archive.tree.store.open_read

    def swept(path: str) -> Any:
        if path.endswith("run/plan.json"):
            raise MissingFileError(path)
        return open_read(path)

    archive.tree.store.open_read = swept
    report = archive.back_up(target)
    assert (report.record.n_files, report.record.missing) == (7, ())


def test_a_backup_of_an_older_schema_is_brought_up_to_date_and_a_newer_one_refused(archive, tmp_path):
    target = open_store(tmp_path / "backup")
    archive.back_up(target)
    with empty(tmp_path / "new") as new:
        with pytest.raises(BackupError, match="use a newer program"):
            restore_backup(target, new.engine, MIGRATIONS[:1], {"store": new.tree})
    newer = (*MIGRATIONS, Migration("test", 3, "third", ("ALTER TABLE box ADD COLUMN colour TEXT",)))
    with empty(tmp_path / "newer") as new:
        restore_backup(target, new.engine, newer, {"store": new.tree})
        with read_transaction(new.engine) as connection:
            assert connection.exec_driver_sql("SELECT label, colour FROM box").all() == [("Ä", None)]


def test_other_folders_and_backups_that_are_not_there_are_refused(archive, tmp_path):
    with pytest.raises(BackupError, match="holds other files"):
        archive.back_up(archive.tree.store)
    target = open_store(tmp_path / "backup")
    with pytest.raises(BackupError, match="no finished backup"):
        verify_backup(target)
    name = archive.back_up(target).record.backup_id
    with pytest.raises(BackupError, match=f"has no backup 2026: expected one of {name}"):
        verify_backup(target, "2026")
    assert read_record(target, name).backup_id == name
