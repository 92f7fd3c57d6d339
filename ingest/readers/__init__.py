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

from ingest.config import describe_intake
from ingest.errors import FrameFormatError, ScanDescriptionError
from ingest.readers.binned import BinnedReader
from ingest.readers.unread import refuse_unread

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

    from ingest.scan import Scan

#: Reader name -> module; the order is the order in which `detect` asks them.
READERS: dict[str, str] = {
    "nikon": "ingest.readers.nikon",
    "skyscan": "ingest.readers.skyscan",
    "zeiss": "ingest.readers.zeiss",
    "varian": "ingest.readers.varian",
    "elekta": "ingest.readers.elekta",
    "pixet": "ingest.readers.pixet",
    "merlin": "ingest.readers.merlin",
    "dicom": "ingest.readers.dicom",
    "exchange": "ingest.readers.exchange",
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

    def read_flats(self, position: int | None = None) -> NDArray[Any] | None:
        """Flat frames (bin, frame, row, col), or None: all, or those of one camera position (`Scan.flats`)."""

    def read_darks(self, position: int | None = None) -> NDArray[Any] | None:
        """Dark frames (bin, frame, row, col), or None: all, or those of one camera position (`Scan.darks`)."""

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
    refuse_unread(source)
    raise FrameFormatError(
        f"{source}: not recognised as any of {', '.join(READERS)}: name its format (--format, or format in [scan] of a "
        "scan.toml)"
    )


def open_source(source: Path, *, source_format: str | None = None, options: SourceOptions | None = None) -> ScanReader:
    """Open a source with the named reader, with the one its description names, or with one that recognises it.

    Raises
    ------
    FrameFormatError
        If the source does not exist, is not recognised, or its files are not what they should be.
    ScanDescriptionError
        If the description is malformed or contradicts the files.
    IncompleteScanError
        If views, flat or dark frames are missing.
    """
    if not source.exists():
        raise FrameFormatError(f"{source} does not exist: give the file or the folder of a scan")
    options = options or SourceOptions()
    said = describe_intake(source, options)
    name = source_format or said.format or detect(source)
    reader = cast("ScanReader", load_reader(name).open_source(source, options))
    try:
        if said.repeat_views is not None and reader.scan.n_views != said.repeat_views:
            raise ScanDescriptionError(
                f"{source}: repeat_views {said.repeat_views} needs a source with one view, "
                f"but the {name} reader finds {reader.scan.n_views}: leave repeat_views out"
            )
        bin_pixels = said.bin_pixels or 1
        repeated = said.repeat_views is not None
        return BinnedReader.wrap(reader, bin_pixels, repeated=repeated) if bin_pixels > 1 else reader
    except ScanDescriptionError:
        reader.close()
        raise
