# SPDX-License-Identifier: Apache-2.0
"""From a `Location` to bytes, wherever they lie: packs in the store, or the journal of received objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pacs.journal import PREFIX
from pacs.pack import read_entry
from storage.checksum import require_sha256
from storage.errors import MissingFileError

if TYPE_CHECKING:
    from pacs.index import Location
    from pacs.journal import Journal
    from storage.filesystem import Store
    from storage.range_cache import RangeCache


@dataclass(frozen=True, slots=True)
class InstanceReader:
    """Reads instances; `journal` is None where nothing is ever received.

    With a `cache` of the store, packs are read through it: a server's many small reads of the same series.
    """

    store: Store
    journal: Journal | None = None
    cache: RangeCache | None = None

    def open_bytes(self, location: Location) -> bytes:
        """Part 10 bytes of an instance, by one ranged read, with their digest checked.

        Raises
        ------
        ChecksumError
            If the bytes are not those that were registered.
        MissingFileError, StoreUnavailableError
            If the file is gone or cannot be read.
        """
        if not location.path.startswith(PREFIX):
            return read_entry(self.cache or self.store, location)
        part10_bytes = self._journal(location).read(location.path, location.offset, location.length)
        return require_sha256(part10_bytes, location.sha256, location.path)

    def read_range(self, location: Location, start: int, length: int) -> bytes:
        """Some bytes of an instance, `start` counted from its first Part 10 byte (e.g. one frame); not checked.

        Raises
        ------
        ValueError
            If the range lies outside the instance.
        MissingFileError, StoreUnavailableError
            If the file is gone or cannot be read.
        """
        if start < 0 or length < 0 or start + length > location.length:
            raise ValueError(f"bytes {start} to {start + length} lie outside an instance of {location.length} bytes")
        if location.path.startswith(PREFIX):
            return self._journal(location).read(location.path, location.offset + start, length)
        return (self.cache or self.store).read_range(location.path, location.offset + start, length)

    def _journal(self, location: Location) -> Journal:
        """The journal, if there is one."""
        if self.journal is None:
            raise MissingFileError(f"{location.path} lies in a journal, and none is configured")
        return self.journal
