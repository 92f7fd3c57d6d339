# SPDX-License-Identifier: Apache-2.0
"""``conepacs backup``: copies of the archive while it runs, their verification, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import IndexOption, JournalOption, JsonOption, StoreOption
from cli.output import mebibytes, print_json, print_pairs, print_table, stage_progress
from cli.settings import load
from cli.teach import help_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cli.pacs_settings import PacsSettings
    from storage.backup import Tree
    from storage.backup_files import BackupRecord
    from storage.filesystem import Store

app = typer.Typer(help="Back up and restore the archive: index, queue, store and journal.", no_args_is_help=True)

TargetArgument = Annotated[str, typer.Argument(help="Folder or URL that holds backups.", metavar="TARGET")]
BackupOption = Annotated[
    str, typer.Option("--backup", help="Which backup.", metavar="ID", show_default="the newest one")
]
ThreadsOption = Annotated[int, typer.Option("--threads", help="Files at once.", metavar="N", min=1)]

#: What only one machine needs, and what a restore leaves while it goes on.
_LEFT_OUT = ("restoring.json", "doctor-*")


def create(
    target: TargetArgument,
    store: StoreOption = None,
    index: IndexOption = None,
    journal: JournalOption = None,
    threads: ThreadsOption = 4,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Pattern of paths in the store to leave out; repeatable.", metavar="PATTERN"),
    ] = None,
    temporary_folder: Annotated[
        Path | None,
        typer.Option("--temporary-folder", help="Where a SQLite database is copied to first.", metavar="FOLDER"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Back up index, queue, store and received objects while the archive is in use.

    The first backup into a folder copies everything, later ones what is new; interrupted, the same command goes on.
    Exit code 5 if the index names files that are not there: they were lost before this backup.

        conepacs backup create /backup/conepacs
        conepacs backup create s3://backups/pacs --store hdfs://nn:8020/pacs
        conepacs backup create /backup/conepacs --exclude 'runs/*/submit-*'
    """
    from cli.pacs_settings import PacsSettings
    from storage.backup import create_backup
    from storage.database import create_database_engine
    from storage.filesystem import open_store

    settings = load(PacsSettings, store=store, index=index)
    url, trees = _archive(settings, journal, tuple(exclude or ()), must_exist=True)
    engine = create_database_engine(url)
    try:
        with stage_progress(as_json) as show:
            report = create_backup(
                engine, trees.values(), open_store(target), named_files=named_files, threads=threads,
                temporary_folder=temporary_folder, progress=show,
            )  # fmt: skip
    finally:
        engine.dispose()
    record = report.record
    if as_json:
        print_json(_values(record) | {
            "copied_files": report.copied_files, "copied_bytes": report.copied_bytes, "kept_files": report.kept_files,
            "seconds": report.seconds,
        })  # fmt: skip
    else:
        print_pairs(f"backup {record.backup_id} in {target}", [
            *_pairs(record),
            ("copied", f"{report.copied_files} files, {mebibytes(report.copied_bytes)}"),
            ("there already", f"{report.kept_files} files"),
            ("seconds", f"{report.seconds:.1f}"),
        ])  # fmt: skip
    _end_if(record.missing, "the index names files that are not there")


def verify(
    target: TargetArgument, backup: BackupOption = "", threads: ThreadsOption = 4, as_json: JsonOption = False
) -> None:
    """Read every byte of a backup and compare it with what was written.

    Exit code 5 if anything is damaged or gone.

        conepacs backup verify /backup/conepacs
        conepacs backup verify /backup/conepacs --backup 20260115T103000Z
    """
    from storage.filesystem import open_store
    from storage.restore import verify_backup

    with stage_progress(as_json) as show:
        report = verify_backup(open_store(target), backup, threads=threads, progress=show)
    if as_json:
        print_json(_values(report.record) | {
            "read_files": report.n_files, "read_bytes": report.n_bytes, "damaged": list(report.damaged),
            "seconds": report.seconds,
        })  # fmt: skip
    else:
        print_pairs(f"backup {report.record.backup_id} in {target}", [
            *_pairs(report.record),
            ("read", f"{report.n_files} files, {mebibytes(report.n_bytes)}"),
            ("damaged", str(len(report.damaged))),
            ("seconds", f"{report.seconds:.1f}"),
        ])  # fmt: skip
    _end_if(report.damaged, "the backup is damaged")


def restore(
    target: TargetArgument,
    store: StoreOption = None,
    index: IndexOption = None,
    journal: JournalOption = None,
    backup: BackupOption = "",
    force: Annotated[bool, typer.Option("--force", help="Replace what is in the database and in the store.")] = False,
    threads: ThreadsOption = 4,
    as_json: JsonOption = False,
) -> None:
    """Restore a backup into an empty store and an empty database, then bring its schema up to date.

    The database may be of another kind than the one that was backed up.  Stop servers and runners first.  Interrupted,
    the same command goes on.

        conepacs backup restore /backup/conepacs --store /data/pacs
        conepacs backup restore /backup/pacs --store hdfs://nn:8020/pacs
    """
    from cli.pacs_settings import PacsSettings
    from jobs.tables import MIGRATIONS as QUEUE_MIGRATIONS
    from pacs.tables import MIGRATIONS as INDEX_MIGRATIONS
    from storage.database import create_database_engine
    from storage.filesystem import open_store
    from storage.restore import restore_backup

    settings = load(PacsSettings, store=store, index=index)
    url, trees = _archive(settings, journal, (), must_exist=False)
    engine = create_database_engine(url)
    try:
        with stage_progress(as_json) as show:
            report = restore_backup(
                open_store(target), engine, (*INDEX_MIGRATIONS, *QUEUE_MIGRATIONS), trees, backup_id=backup,
                force=force, threads=threads, progress=show,
            )  # fmt: skip
    finally:
        engine.dispose()
    if as_json:
        print_json(_values(report.record) | {
            "written_files": report.written_files, "written_bytes": report.written_bytes,
            "kept_files": report.kept_files, "restored_rows": report.rows, "seconds": report.seconds,
        })  # fmt: skip
        return
    print_pairs(f"restored {report.record.backup_id} from {target}", [
        ("store", settings.store),
        ("written", f"{report.written_files} files, {mebibytes(report.written_bytes)}"),
        ("there already", f"{report.kept_files} files"),
        ("rows", str(report.rows)),
        ("seconds", f"{report.seconds:.1f}"),
    ])  # fmt: skip
    typer.echo("next: conepacs doctor, then start servers and runners")


def list_all(target: TargetArgument, as_json: JsonOption = False) -> None:
    """List the backups in a folder, oldest first.

    Each is whole: later ones share the files that earlier ones brought.

        conepacs backup list /backup/conepacs
    """
    from storage.backup_files import list_backups, read_record
    from storage.filesystem import open_store

    opened = open_store(target)
    records = [read_record(opened, name) for name in list_backups(opened)]
    if as_json:
        print_json([_values(record) for record in records])
        return
    print_table(f"backups in {target}", ["backup", "files", "size", "rows", "lost before"], [
        [
            record.backup_id, str(record.n_files), mebibytes(record.n_bytes),
            str(sum(table.rows for table in record.tables)), str(len(record.missing)),
        ]
        for record in records
    ])  # fmt: skip


app.command("create", help=help_of(create))(create)
app.command("verify", help=help_of(verify))(verify)
app.command("restore", help=help_of(restore))(restore)
app.command("list", help=help_of(list_all))(list_all)


def named_files(table: str, row: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Say which file of which tree a row of the index names."""
    from pacs.journal import PREFIX

    if table not in ("instance", "instance_version"):
        return ()
    path = str(row["path"])
    return [("journal", path.removeprefix(PREFIX)) if path.startswith(PREFIX) else ("store", path)]


def _archive(
    settings: PacsSettings, journal: str | None, exclude: tuple[str, ...], *, must_exist: bool
) -> tuple[str, dict[str, Tree]]:
    """URL of the archive's database, and its trees of files by name."""
    from cli.archive import JOURNAL_NAME, database_url, open_existing_store
    from storage.backup import Tree
    from storage.filesystem import local_path, open_store

    store = open_existing_store(settings.store) if must_exist else open_store(settings.store)
    url = database_url(store, settings.index)
    _require_database(url, must_exist)
    folder = settings.journal.folder if journal is None else journal
    kept = Path(folder) if folder else local_path(store, JOURNAL_NAME)
    inside = [*exclude, *_LEFT_OUT]
    if (database := _below(store, _sqlite_file(url))) is not None:
        inside += [database, f"{database}-wal", f"{database}-shm", f"{database}-journal"]
    if (received := _below(store, kept)) is not None:
        inside += [received]
    trees = {"store": Tree("store", store, tuple(inside))}
    if kept is not None:
        trees["journal"] = Tree("journal", open_store(kept), ("*.part", ".checked-*", *_LEFT_OUT))
    return url, trees


def _require_database(url: str, must_exist: bool) -> None:
    """Refuse to back up a SQLite file that is not there: opening it would make an empty one."""
    from storage.errors import DatabaseError

    file = _sqlite_file(url)
    if must_exist and file is not None and not file.is_file():
        raise DatabaseError(f"there is no index {file}: give --index FILE or URL")


def _sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database; None for a server."""
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def _below(store: Store, path: Path | None) -> str | None:
    """Path within a local store of a file or folder that lies in it."""
    from storage.filesystem import local_path

    root = local_path(store, "")
    if root is None or path is None or not path.absolute().is_relative_to(root):
        return None
    return path.absolute().relative_to(root).as_posix()


def _values(record: BackupRecord) -> dict[str, Any]:
    """A backup as JSON values."""
    return {
        "backup_id": record.backup_id,
        "software": record.software,
        "database": record.database,
        "rows": {table.name: table.rows for table in record.tables},
        "files": record.n_files,
        "bytes": record.n_bytes,
        "missing": list(record.missing),
    }


def _pairs(record: BackupRecord) -> list[tuple[str, str]]:
    """A backup as labels and texts."""
    rows = ", ".join(f"{table.rows} {table.name}" for table in record.tables if table.rows)
    return [("rows", rows or "none"), ("files", f"{record.n_files}, {mebibytes(record.n_bytes)}")]


def _end_if(faults: tuple[str, ...], words: str) -> None:
    """End with the exit code of damaged data if there are faults."""
    from cli.errors import CORRUPT
    from storage.restore import told

    if faults:
        typer.echo(f"conepacs: {words}:", err=True)
        for fault in told(faults):
            typer.echo(f"  {fault}", err=True)
        raise typer.Exit(CORRUPT)
