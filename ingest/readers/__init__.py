# SPDX-License-Identifier: Apache-2.0
"""Readers of detector and vendor files, one module each, loaded on use and chosen by name or by look.

A reader module offers two functions::

    def looks_like(source: Path) -> bool          # cheap: names and magic numbers only, never raises
    def open_source(source: Path, options: SourceOptions) -> ScanReader

``source`` is the file or folder that the user named.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from ingest.errors import FrameFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

    from ingest.scan import Scan

#: Reader name -> module; the order is the order in which `detect` asks them.
READERS: dict[str, str] = {
    "nikon": "ingest.readers.nikon",
    "merlin": "ingest.readers.merlin",
    "nxtomo": "ingest.readers.nxtomo",
    "dataexchange": "ingest.readers.dataexchange",
    "htc": "ingest.readers.htc",
    "tiff": "ingest.readers.tiff",
    "array": "ingest.readers.array",
}


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What the user adds to a source; it wins over the source's ``scan.toml``.

    Attributes
    ----------
    scan_id : name in the store.
    settings : ``white_level``, ``repeat_views``, ``bin_pixels`` and the settings of the reader.
    description : a scan.toml or scan.json that does not lie in or beside the source.
    """

    scan_id: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    description: Path | None = None


class ScanReader(Protocol):
    """An opened source.  Opening reads headers only; frames are read when asked for."""

    @property
    def scan(self) -> Scan:
        """The manifest, complete and validated."""

    def available_views(self) -> int:
        """How many leading views can be read now (all of them unless the scanner still writes)."""

    def read_views(self, start: int, stop: int) -> NDArray[Any]:
        """Views ``start <= view < stop`` as (bin, view, row, col) in `Scan.pixel_type`, row 0 the lowest v."""

    def read_flats(self) -> NDArray[Any] | None:
        """Flat frames (bin, frame, row, col), or None."""

    def read_darks(self) -> NDArray[Any] | None:
        """Dark frames (bin, frame, row, col), or None."""

    def read_bad_pixels(self) -> NDArray[Any] | None:
        """Pixels known to be bad (row, col) bool, or None."""

    def close(self) -> None:
        """Close the files."""


def load_reader(name: str) -> ModuleType:
    """Import a reader by name; FrameFormatError lists the known ones if there is none of that name."""
    if name not in READERS:
        raise FrameFormatError(f"unknown source format '{name}': expected one of {', '.join(READERS)}")
    return importlib.import_module(READERS[name])


def detect(source: Path) -> str:
    """Return the name of the reader that knows the source by its look."""
    for name in READERS:
        if load_reader(name).looks_like(source):
            return name
    raise FrameFormatError(f"{source}: not recognised as any of {', '.join(READERS)}")


def open_source(source: Path, *, source_format: str | None = None, options: SourceOptions | None = None) -> ScanReader:
    """Open a source with the named reader, or with the one that recognises it."""
    module = load_reader(source_format or detect(source))
    return cast("ScanReader", module.open_source(source, options or SourceOptions()))
