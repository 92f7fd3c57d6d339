# SPDX-License-Identifier: Apache-2.0
"""The journal of received objects: a local folder in which an object is durable before it is acknowledged.

One Part 10 file for each object under a name that the journal makes up: nothing from the wire becomes part of a path.
A file has its final name only when its bytes are on disk; `pacs.receive` then adds the row to the index.  A crash
between the two leaves a file that no row names: `recover` finds it.
"""

from __future__ import annotations

import errno
import os
import re
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar

from storage.errors import MissingFileError, StoreFullError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: Begins every `Location.path` that lies in the journal; all others lie in the store.
PREFIX = "journal:"
_NAME = re.compile(r"\d{8}/[0-9a-f]{32}\.dcm\Z")
_DAY = re.compile(r"\d{8}\Z")
_CHECKED = "checked"
#: A half-written file of that age belongs to no living writer.
_ABANDONED_S = 3600.0


@dataclass(frozen=True, slots=True)
class JournalConfig:
    """Where received objects are kept; empty: ``journal`` in the store's own folder, if that is local."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    folder: str = ""


class Journal:
    """Files below one local folder, in a folder for each day; several processes may write to it.

    Parameters
    ----------
    folder : Path
        Made with the first object.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def append(self, pieces: Sequence[bytes | memoryview]) -> str:
        """Write one object, given in pieces, and return its `Location.path`; then it is on disk.

        Raises
        ------
        StoreFullError
            If there is no space left; nothing of the object stays.
        StoreUnavailableError
            If the folder cannot be written; nothing of the object stays.
        """
        name = f"{self._day()}/{uuid.uuid4().hex}.dcm"
        target = self.folder / name
        part = target.with_suffix(".part")
        try:
            self._make_day_folder(target.parent)
            try:
                with part.open("xb") as handle:
                    for piece in pieces:
                        handle.write(piece)
                    handle.flush()
                    os.fsync(handle.fileno())
                part.replace(target)
                _sync_folder(target.parent)
            except BaseException:
                for path in (part, target):
                    with suppress(OSError):
                        path.unlink(missing_ok=True)
                raise
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            kind = StoreFullError if full else StoreUnavailableError
            raise kind(f"the journal {self.folder} cannot take an object: {error.strerror}") from error
        return PREFIX + name

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes from `offset` of an object.

        Raises
        ------
        MissingFileError
            If the journal has no such object.
        StoreUnavailableError
            If it cannot be read, or is shorter.
        """
        try:
            with self._file(path).open("rb") as handle:
                handle.seek(offset)
                found = handle.read(length)
        except FileNotFoundError as error:
            raise MissingFileError(f"{path} is not in the journal {self.folder}") from error
        except OSError as error:
            raise StoreUnavailableError(f"{path} of the journal cannot be read: {error.strerror}") from error
        if len(found) != length:
            raise StoreUnavailableError(f"{path} of the journal has {len(found)} bytes at {offset}, expected {length}")
        return found

    def read_all(self, path: str) -> bytes:
        """Read a whole object; raises like `read`."""
        try:
            size = self._file(path).stat().st_size
        except FileNotFoundError as error:
            raise MissingFileError(f"{path} is not in the journal {self.folder}") from error
        return self.read(path, 0, size)

    def remove(self, path: str) -> None:
        """Remove an object that no row of the index names; a missing one is not an error."""
        self._file(path).unlink(missing_ok=True)

    def unchecked(self) -> Iterator[list[str]]:
        """Paths of the objects that came since `mark_checked`, a day at a time; abandoned halves are removed."""
        since = self._checked_day()
        for day in self._days():
            if day < since:
                continue
            names = []
            for entry in sorted(os.listdir(self.folder / day)):
                if entry.endswith(".part"):
                    self._remove_if_abandoned(self.folder / day / entry)
                elif _NAME.match(f"{day}/{entry}"):
                    names.append(f"{PREFIX}{day}/{entry}")
            yield names

    def mark_checked(self) -> None:
        """Remember that every object before today is in the index."""
        days = self._days()
        if days:
            part = self.folder / f".{_CHECKED}-{uuid.uuid4().hex}"
            part.write_text(days[-1], encoding="ascii")
            part.replace(self.folder / _CHECKED)

    def _file(self, path: str) -> Path:
        """The file of a location; only names that the journal makes are followed."""
        name = path.removeprefix(PREFIX)
        if name == path or not _NAME.match(name):
            raise MissingFileError(f"'{path}' is not the name of an object in the journal")
        return self.folder / name

    def _day(self) -> str:
        """Today's folder; never one before the newest, so that a clock set back hides nothing from `unchecked`."""
        today = datetime.now(UTC).strftime("%Y%m%d")
        return max([today, *self._days()[-1:]])

    def _days(self) -> list[str]:
        """Folders of days, oldest first."""
        with suppress(FileNotFoundError):
            return sorted(name for name in os.listdir(self.folder) if _DAY.match(name))
        return []

    def _checked_day(self) -> str:
        """The day up to which everything is in the index."""
        with suppress(FileNotFoundError):
            return (self.folder / _CHECKED).read_text(encoding="ascii").strip()
        return ""

    def _make_day_folder(self, folder: Path) -> None:
        """Make a day's folder durable before its first object."""
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _sync_folder(self.folder)
            _sync_folder(self.folder.parent)

    def _remove_if_abandoned(self, part: Path) -> None:
        """Remove what a dead writer left half-written."""
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _ABANDONED_S:
                part.unlink()


def _sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk (POSIX; elsewhere a rename is durable by itself)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
