# SPDX-License-Identifier: Apache-2.0
"""``conepacs pacs import | find | send | get | echo | sweep``: the archive and its peers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cli.archive import open_existing_store, open_index, open_journal
from cli.errors import NotImportedError
from cli.options import IndexOption, JournalOption, JsonOption, StoreOption, parse_duration_s
from cli.output import print_json, print_pairs, print_table, stage_progress
from cli.settings import load
from cli.teach import help_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pacs.index import Index, Level
    from pacs.journal import Journal
    from pacs.query import Model
    from pacs.scu import Peer
    from storage.filesystem import Store

app = typer.Typer(help="Import DICOM files, query the archive, and speak to other DICOM nodes.", no_args_is_help=True)

PeerArgument = Annotated[str, typer.Argument(help="AE title, host and port of the other node.", metavar="AE@HOST:PORT")]
KeysOption = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        "-k",
        help="What to match (* and ? as wildcards, a-b as range), or a keyword alone to show; repeatable.",
        metavar="KEYWORD=VALUE",
    ),
]
_SHOWN = {
    "PATIENT": ("PatientID", "PatientName", "NumberOfPatientRelatedStudies"),
    "STUDY": ("PatientID", "StudyDate", "StudyDescription", "NumberOfStudyRelatedInstances", "StudyInstanceUID"),
    "SERIES": ("Modality", "SeriesNumber", "SeriesDescription", "NumberOfSeriesRelatedInstances", "SeriesInstanceUID"),
    "IMAGE": ("InstanceNumber", "SOPInstanceUID"),
}


def parse_peer(text: str, calling_ae_title: str = "CONEPACS") -> Peer:
    """Read ``AE@HOST:PORT``."""
    from pacs.scu import Peer

    ae_title, at, address = text.partition("@")
    host, colon, port = address.rpartition(":")
    if not (ae_title and at and host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise typer.BadParameter(f"a peer is AE@HOST:PORT, such as ORTHANC@localhost:4242, got '{text}'")
    if len(ae_title) > 16:
        raise typer.BadParameter(f"an AE title has at most 16 characters, got '{ae_title}'")
    return Peer(host.strip("[]"), int(port), ae_title, calling_ae_title)


def parse_keys(texts: list[str]) -> dict[str, str]:
    """Read ``KEYWORD=VALUE`` and ``KEYWORD`` texts."""
    from pydicom.datadict import tag_for_keyword

    keys = {}
    for text in texts:
        keyword, _, value = text.partition("=")
        if tag_for_keyword(keyword.strip()) is None:
            raise typer.BadParameter(f"--key needs a keyword of the DICOM data dictionary, got '{keyword.strip()}'")
        keys[keyword.strip()] = value
    return keys


def _command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a verb; its docstring is its help."""
    return lambda verb: app.command(name, help=help_of(verb))(verb)


def _archive(
    store: str | None, index: str | None, journal: str | None = None, *, new: bool = False
) -> tuple[Store, Index, Callable[[], Journal]]:
    """Open store and index, and what opens the journal where it is needed; only with `new` is a store made."""
    from cli.pacs_settings import PacsSettings
    from storage.filesystem import open_store

    settings = load(PacsSettings, store=store, index=index)
    opened = open_store(settings.store) if new else open_existing_store(settings.store)
    folder = journal or settings.journal.folder
    return opened, open_index(opened, settings.index), lambda: open_journal(opened, folder)


@_command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.", metavar="PATH")],
    store: StoreOption = None,
    index: IndexOption = None,
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import DICOM files into the archive.

    Whole folders may be given: what is no DICOM instance (a text, a DICOMDIR) is skipped with a sentence.  Each file
    is on disk and in the index before the next one is read, so an import that was stopped is simply run again.  Exit
    code 3 if a file was damaged, or nothing was imported.

        conepacs pacs import slice.dcm
        conepacs pacs import /media/cdrom/ --store /data/pacs
    """
    from pacs.importer import import_files

    n_files = len(_files(paths))
    _, opened_index, journal_opener = _archive(store, index, journal, new=True)
    opened_journal = journal_opener()
    n_done = 0
    with stage_progress(as_json) as show:

        def tell(path: Path) -> None:
            nonlocal n_done
            n_done += 1
            show("files", n_done, max(n_done, n_files), path.name)

        report = import_files(paths, index=opened_index, journal=opened_journal, on_file=tell)
    n_taken = report.added + report.identical + report.version
    if as_json:
        print_json(dataclasses.asdict(report))
    elif n_taken:
        rows = [("new", report.added), ("already there", report.identical), ("other versions", report.version)]
        print_pairs("imported", [(label, str(n)) for label, n in rows])
    if not as_json:
        for sentence in report.skipped[: None if n_taken else 0]:
            typer.echo(f"skipped: {sentence}")
    if report.damaged or not n_taken:
        reasons = report.damaged or report.skipped or ("there is no file in it",)
        raise NotImportedError(f"not imported: {reasons[0]}{_and_more(reasons)}")


@_command("find")
def find(
    level: Annotated[str, typer.Argument(help="patient, study, series or image.", metavar="LEVEL")] = "study",
    keys: KeysOption = None,
    peer: Annotated[
        str | None, typer.Option("--peer", help="Ask another node instead of the own archive.", metavar="AE@HOST:PORT")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="Matches at most.", metavar="N", min=1)] = 100,
    store: StoreOption = None,
    index: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Query the archive, or another node by C-FIND.

    conepacs pacs find
    conepacs pacs find study -k PatientID='STONE*' -k StudyDate=20260101-
    conepacs pacs find series -k StudyInstanceUID=1.2.3 -k KVP
    conepacs pacs find study --peer ORTHANC@localhost:4242
    """
    wanted = level.upper()
    if wanted not in _SHOWN:
        raise typer.BadParameter(f"level is patient, study, series or image, got '{level}'")
    chosen = cast("Level", wanted)
    given = parse_keys(keys or [])
    shown = tuple(dict.fromkeys([*_SHOWN[wanted], *given]))
    if peer is not None:
        from pacs.scu import find as ask

        model: Model = "PATIENT_ROOT" if wanted == "PATIENT" else "STUDY_ROOT"
        rows = ask(parse_peer(peer), chosen, dict.fromkeys(shown, "") | given, model=model)[:limit]
    else:
        from pacs.index import Query
        from pacs.query import parse_match

        _, opened_index, _ = _archive(store, index)
        matches = {keyword: match for keyword, text in given.items() if (match := parse_match(keyword, text))}
        rows = opened_index.find(Query(chosen, matches, shown), limit=limit)
    if as_json:
        print_json(rows)
        return
    if not rows:
        where = "the archive" if peer is None else str(parse_peer(peer))
        typer.echo(f"no {wanted.lower()} matches in {where}" if given else f"there is no {wanted.lower()} in {where}")
        return
    print_table(
        "1 match" if len(rows) == 1 else f"{len(rows)} matches",
        list(shown),
        [[row.get(keyword, "") for keyword in shown] for row in rows],
    )


@_command("send")
def send(
    peer: PeerArgument,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="DICOM files or folders; none with --study or --series.", metavar="PATH"),
    ] = None,
    study: Annotated[
        list[str] | None, typer.Option("--study", help="Study of the archive; repeatable.", metavar="UID")
    ] = None,
    series: Annotated[
        list[str] | None, typer.Option("--series", help="Series of the archive; repeatable.", metavar="UID")
    ] = None,
    store: StoreOption = None,
    index: IndexOption = None,
) -> None:
    """Send files, or studies and series of the archive, to another node by C-STORE.

    conepacs pacs send ORTHANC@localhost:4242 --study 2.25.123
    conepacs pacs send ORTHANC@localhost:4242 slices/
    """
    from pacs.errors import ConformanceError, InstanceNotFoundError, PeerError
    from pacs.journal import PREFIX
    from pacs.retrieve import InstanceReader
    from pacs.scu import send as send_objects

    node = parse_peer(peer)
    if study or series:
        opened, opened_index, journal_opener = _archive(store, index)
        records = opened_index.instances(study_uids=study or (), series_uids=series or ())
        if not records:
            raise InstanceNotFoundError(f"the archive has nothing under {', '.join([*(study or []), *(series or [])])}")
        received = any(record.location.path.startswith(PREFIX) for record in records)
        reader = InstanceReader(opened, journal_opener() if received else None)
        kinds = sorted({(r.sop_class_uid, r.transfer_syntax_uid) for r in records})
        report = send_objects(node, ((r.sop_instance_uid, reader.open_bytes(r.location)) for r in records), kinds)
        refused: list[str] = []
    else:
        good, kinds, refused = _kinds_of_files(_files(paths or []))
        if not good:
            raise ConformanceError(
                f"not sent: {refused[0]}{_and_more(refused)}" if refused else "there is no file to send"
            )
        report = send_objects(node, ((str(p), p.read_bytes()) for p in good), kinds)
    typer.echo(f"{report.n_sent} instance(s) sent to {node}")
    problems = [*refused, *report.failures]
    for sentence in problems:
        typer.echo(f"not sent: {sentence}")
    if report.failures:
        raise PeerError(f"not sent: {report.failures[0]}{_and_more(report.failures)}")


def _and_more(sentences: Sequence[str]) -> str:
    """How many sentences there are after the first."""
    return f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""


def _kinds_of_files(files: list[Path]) -> tuple[list[Path], list[tuple[str, str]], list[str]]:
    """The files that are instances, their (SOP class, transfer syntax) pairs, a sentence for each other file."""
    from pacs.errors import ConformanceError
    from pacs.scu import kinds_of

    good, kinds, refused = [], dict[tuple[str, str], None](), []
    for path in files:
        try:
            found, sentences = kinds_of([(str(path), path.read_bytes())])
        except OSError as error:
            raise ConformanceError(f"{path} cannot be read: {error.strerror}") from error
        kinds |= dict.fromkeys(found)
        refused += sentences
        if found:
            good.append(path)
    return good, list(kinds), refused


def _files(paths: list[Path]) -> list[Path]:
    """All files under the paths."""
    if not paths:
        raise typer.BadParameter("give files or folders, or --study or --series")
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise typer.BadParameter(f"{path} does not exist")
        found += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return found


@_command("get")
def get(
    peer: PeerArgument,
    folder: Annotated[Path, typer.Argument(help="Where the files go; made if need be.", metavar="FOLDER")],
    study: Annotated[str, typer.Option("--study", help="Study to fetch.", metavar="UID")],
    series: Annotated[
        str | None, typer.Option("--series", help="One series of it.", metavar="UID", show_default="all")
    ] = None,
) -> None:
    """Fetch a study or series from another node by C-GET.

    conepacs pacs get ORTHANC@localhost:4242 fetched/ --study 1.2.3
    """
    from pacs.errors import InstanceNotFoundError, PeerError
    from pacs.part10 import describe_instance
    from pacs.scu import get as fetch

    node = parse_peer(peer)
    folder.mkdir(parents=True, exist_ok=True)
    keys = {"StudyInstanceUID": study} | ({"SeriesInstanceUID": series} if series else {})

    def keep(part10_bytes: bytes) -> None:
        uid = describe_instance(part10_bytes, name="received instance").sop_instance_uid
        (folder / f"{uid}.dcm").write_bytes(part10_bytes)

    report = fetch(node, "SERIES" if series else "STUDY", keys, keep)
    if not report.n_received and not report.n_failed:
        raise InstanceNotFoundError(f"{node} has nothing under {series or study}")
    typer.echo(f"{report.n_received} instance(s) received, {report.n_failed} failed; they are in {folder}")
    if report.n_failed:
        raise PeerError(f"{node} did not send {report.n_failed} of {report.n_received + report.n_failed} instances")


@_command("echo")
def echo(peer: PeerArgument) -> None:
    """Verify that another node answers (C-ECHO).

    conepacs pacs echo ORTHANC@localhost:4242
    """
    from pacs.scu import echo as verify

    node = parse_peer(peer)
    verify(node)
    typer.echo(f"{node} answers")


@_command("sweep")
def sweep(
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than", help="Grace time, longer than the longest job: 30min, 24h, 7d.", metavar="DURATION"
        ),
    ] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    store: StoreOption = None,
    index: IndexOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete what killed jobs and uploads left in the store.

    These are packs of slices that no series names, folders of submits that did not end, and temporary files.  What the
    index names stays, and so does everything younger than the grace time.

        conepacs pacs sweep --dry-run
        conepacs pacs sweep --older-than 7d --store /data/pacs
    """
    from spark_jobs.run_files.packs import sweep_store

    older_than_s = parse_duration_s(older_than)
    opened, opened_index, _ = _archive(store, index)
    swept = sweep_store(opened, opened_index, older_than_s=older_than_s, dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "deleted": [] if dry_run else swept, "would_delete": swept if dry_run else []})
        return
    for path in swept:
        typer.echo(f"{'would delete' if dry_run else 'deleted'} {path}")
    if not swept:
        typer.echo(f"nothing to sweep that is older than {older_than}")
