# SPDX-License-Identifier: Apache-2.0
"""Import of Part 10 files from disk: into the journal, as if they had been received."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pacs.errors import ConformanceError, NoInstanceError, PacsError
from pacs.receive import receive_part10

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pacs.index import Index, Outcome
    from pacs.journal import Journal

_PREAMBLE_BYTES = 132


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What came of an import.

    Attributes
    ----------
    added, identical, version : files by outcome.
    skipped : a plain sentence for each file that was not taken.
    damaged : those of them on files that should have been: broken DICOM, or unreadable.
    """

    added: int = 0
    identical: int = 0
    version: int = 0
    skipped: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


def import_files(
    paths: Iterable[Path], *, index: Index, journal: Journal, source: str = "import",
    on_file: Callable[[Path], None] | None = None,
) -> ImportReport:  # fmt: skip
    """Import files and whole folders; what is no DICOM instance (a DICOMDIR, a text) is skipped with a sentence.

    Each file is durable and indexed before the next one is read: an import that was stopped is simply run again.

    Parameters
    ----------
    on_file : called after each file, to show progress.

    Raises
    ------
    PacsError
        If a path does not exist.
    StoreFullError, StoreUnavailableError, IndexUnavailableError
        If the archive cannot keep it; what was imported before stays.
    """
    counts: dict[Outcome, int] = {"added": 0, "identical": 0, "version": 0}
    skipped, damaged = [], []
    for path in _files(paths):
        try:
            part10_bytes = _read_dicom(path)
            outcome = receive_part10(part10_bytes, index=index, journal=journal, source=source, name=str(path))
            counts[outcome] += 1
        except ConformanceError as error:
            skipped.append(str(error))
            if not isinstance(error, NoInstanceError):
                damaged.append(str(error))
        except OSError as error:
            skipped.append(f"{path} cannot be read: {error.strerror}")
            damaged.append(skipped[-1])
        if on_file is not None:
            on_file(path)
    return ImportReport(counts["added"], counts["identical"], counts["version"], tuple(skipped), tuple(damaged))


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """Files, and the files of folders in the order of their names; links to folders are not followed."""
    for path in paths:
        if path.is_dir():
            for folder, folders, names in os.walk(path):
                folders.sort()
                for name in sorted(names):
                    yield path.__class__(folder) / name
        elif path.exists():
            yield path
        else:
            raise PacsError(f"{path} does not exist")


def _read_dicom(path: Path) -> bytes:
    """A file's bytes; of one that is not DICOM only the head is read."""
    if not path.is_file():
        raise NoInstanceError(f"{path} is not a regular file")
    with path.open("rb") as handle:
        head = handle.read(_PREAMBLE_BYTES)
        if head[128:] != b"DICM":
            raise NoInstanceError(f"{path} is not a DICOM file: it has no 'DICM' at byte 128")
        return head + handle.read()
