# SPDX-License-Identifier: Apache-2.0
"""Merlin readout of Medipix3 chips: ``.mib`` files, with or without their ``.hdr``.

The source is a .mib file, a .hdr file (then the .mib files of that name), or a folder with the files of one
acquisition.  `mib_frames` decodes a frame and says how it lies, `mib_files` puts the frames in order.
Counters become energy bins in the order of their thresholds.  Geometry comes from scan.toml.

Settings (``[settings]`` of scan.toml):

``bins``
    ``"counter"`` (default): everything above a threshold.  ``"difference"``: a counter less the next higher
    one, the highest counter as it is.  Where the higher counter has more counts, the difference is stored as 0
    (the store holds unsigned counts) and counted in `MerlinReader.clamped_differences`.
``counters``
    The counters to take, by number, for example ``[1, 3, 5, 7]``: in colour mode with charge summing only
    some of the eight are summed, and only those make sensible differences among each other.
``alternating``
    ``true``: the two counters took turns (continuous read-write), each frame is a view of one bin.  The .hdr
    file says so too.

``[scan] n_views`` says how many views there will be where the scanner still writes, ``[files] missing_views``
which sequence numbers do not exist.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ingest.config import load_description
from ingest.describe import describe_scan
from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.fields import convert
from ingest.frames import orient_frames
from ingest.readers.frame_reader import require_view_range
from ingest.readers.masks import read_mask
from ingest.readers.mib_files import (
    FrameTable,
    arrange,
    index_files,
    is_mib,
    mib_paths,
    read_acquisition_header,
    require_same_kind,
)
from ingest.readers.mib_frames import decode_frame, frame_layout, gap_mask
from ingest.scan import EnergyBin, Exposure, FieldFrames

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from ingest.config import FieldKind, ScanDescription
    from ingest.readers import SourceOptions
    from ingest.readers.mib_files import MibFrame
    from ingest.scan import Scan

BinMode = Literal["counter", "difference"]
_SETTINGS: dict[str, Any] = {
    "bins": BinMode,
    "counters": tuple[int, ...],
    "alternating": bool,
}


def looks_like(source: Path) -> bool:
    """Whether a source is a .mib file, a .hdr file with .mib files, or a folder that holds .mib files."""
    try:
        if source.is_file() and source.suffix.lower() not in (".mib", ".hdr"):
            return False
        paths = mib_paths(source)
    except OSError:
        return False
    return bool(paths) and is_mib(paths[0])


def open_source(source: Path, options: SourceOptions) -> MerlinReader:
    """Open a Merlin acquisition: all frame headers are read, no pixels.

    Raises
    ------
    FrameFormatError
        If a file is cut short, a header is malformed or contradicts the others, or two acquisitions are mixed.
    IncompleteScanError
        If sequence numbers or counters are missing, or fewer frames are there than the .hdr file promises.
    ScanDescriptionError
        If the description or a setting contradicts the frames.
    """
    return MerlinReader(source, options)


class MerlinReader:
    """An opened Merlin acquisition.

    Attributes
    ----------
    clamped_differences : int
        Pixels read so far whose counter difference was negative and became 0.
    """

    def __init__(self, source: Path, options: SourceOptions) -> None:
        description = load_description(source, options, known_settings=tuple(_SETTINGS))
        self._source = source
        self._description = description
        self._settings = _checked_settings(description)
        self._open_file: tuple[Path, BinaryIO] | None = None
        self.clamped_differences = 0

        acquisition = read_acquisition_header(source, self._paths())
        said_alternating = acquisition.get("Active Counters", "").lower() == "alternating"
        self._alternating: bool = self._settings.get("alternating", said_alternating)
        self._table = self._index()
        self._first = self._table.views[0][0]
        self._layout = frame_layout(self._first.header, self._first.where)
        self._order, self._bins, self._difference = _choose_counters(description, self._settings, self._table)
        self._flats = self._fields("flats")
        self._darks = self._fields("darks")
        self._check_number(acquisition)
        header = self._first.header
        self._scan = describe_scan(
            description,
            source,
            source_format="merlin",
            pixel_type=self._layout.stored_type,
            n_views=description.scan.n_views or len(self._table.views),
            n_rows=self._layout.n_rows,
            n_cols=self._layout.n_cols,
            n_bins=len(self._order),
            bins=self._bins,
            left_out=self._table.left_out,
            flats=self._field_frames("flats", self._flats),
            darks=self._field_frames("darks", self._darks),
            acquired=header.acquired if _time(header.acquired) else "",
            manufacturer="Quantum Detectors",
            model=acquisition.get("Readout System", "Merlin"),
            exposure=Exposure(exposure_time_ms=1000 * header.exposure_s or None),
            notes=self._notes(acquisition),
        )

    @property
    def scan(self) -> Scan:
        """The manifest."""
        return self._scan

    def available_views(self) -> int:
        """How many leading views are whole; looks again while the scanner still writes."""
        if len(self._table.views) < self._scan.n_views:
            self._table = self._index()
        return min(len(self._table.views), self._scan.n_views)

    def read_views(self, start: int, stop: int) -> NDArray[Any]:
        """Views as (bin, view, row, col).

        Raises
        ------
        FrameFormatError
            If a file was cut short since it was opened.
        IncompleteScanError
            If a view is not there (yet).
        """
        require_view_range(start, stop, self._scan)
        if stop > self.available_views():
            raise IncompleteScanError(
                f"scan {self._scan.scan_id}: views up to {stop - 1} were asked for, "
                f"but {self._source} holds {len(self._table.views)} so far"
            )
        return self._read(self._table.views[start:stop])

    def read_flats(self, position: int | None = None) -> NDArray[Any] | None:
        """Flat frames (bin, frame, row, col), all or those of one camera position, or None."""
        return self._read_field(self._flats, self._scan.flats, position)

    def read_darks(self, position: int | None = None) -> NDArray[Any] | None:
        """Dark frames (bin, frame, row, col), all or those of one camera position, or None."""
        return self._read_field(self._darks, self._scan.darks, position)

    def read_bad_pixels(self) -> NDArray[Any] | None:
        """(row, col) bool: pixels inserted in gaps between chips, and those the description names; or None."""
        mask = gap_mask(self._layout)
        if mask is not None:
            mask = orient_frames(mask, self._description.rows, self._description.cols)
        named = read_mask(self._description, (self._layout.n_rows, self._layout.n_cols))
        if named is not None:
            mask = named if mask is None else mask | named
        return None if mask is None else np.ascontiguousarray(mask)

    def close(self) -> None:
        """Close the file that is open."""
        if self._open_file is not None:
            self._open_file[1].close()
            self._open_file = None

    def _paths(self) -> list[Path]:
        """The .mib files with projections."""
        pattern = self._description.files.projections
        fields = (*self._description.field_patterns("flats"), *self._description.field_patterns("darks"))
        others = {p for name in fields for p in self._named_paths(name)}
        paths = mib_paths(self._source) if pattern is None else self._named_paths(pattern)
        return [p for p in paths if p.absolute() not in others]

    def _named_paths(self, pattern: str | None) -> list[Path]:
        """The .mib files that a name, glob pattern or folder of the description means."""
        if pattern is None:
            return []
        base = self._description.file("")
        found = sorted(p.absolute() for p in base.glob(pattern))
        paths = [p for match in found for p in (mib_paths(match) if match.is_dir() else [match])]
        if not paths:
            raise FrameFormatError(
                f"{self._description.name}: no .mib file matches '{pattern}': give a name or pattern as seen from its "
                "folder"
            )
        return paths

    def _index(self) -> FrameTable:
        """Frames into views; those that the scanner has not finished are left out if more are expected."""
        growing = self._description.scan.n_views is not None
        paths = self._paths()
        frames = index_files(paths, growing=growing)
        if not frames:
            raise FrameFormatError(f"{self._source}: no Merlin frame found, expected .mib files with frames")
        missing = self._description.files.missing_views
        return arrange(frames, missing=missing, alternating=self._alternating, growing=growing)

    def _check_number(self, acquisition: dict[str, str]) -> None:
        """Refuse fewer frames than the .hdr file promises, and more views than the description says."""
        n_views, said = len(self._table.views), self._description.scan.n_views
        if said is not None:
            if n_views > said:
                raise ScanDescriptionError(
                    f"{self._source} holds {n_views} views, expected {said} as n_views says: correct n_views"
                )
            return
        promised = acquisition.get("Frames in Acquisition (Number)", "")
        found = (n_views + len(self._table.left_out)) * len(self._table.counters)
        if promised.isdigit() and found < int(promised):
            raise IncompleteScanError(
                f"{self._source}: found {found} frames, the header file promises {promised}; "
                f"the frames from number {found + 1} on are missing"
            )

    def _fields(self, kind: FieldKind) -> tuple[FrameTable, ...]:
        """Flat or dark frames that the description names: one set, or one for each camera position."""
        return tuple(self._field_set(kind, pattern) for pattern in self._description.field_patterns(kind))

    def _field_set(self, kind: FieldKind, pattern: str) -> FrameTable:
        """One set of flat or dark frames."""
        frames = index_files(self._named_paths(pattern))
        require_same_kind(frames[0], self._first)
        table = arrange(frames, alternating=self._alternating)
        if table.counters != self._table.counters:
            raise FrameFormatError(
                f"{frames[0].path}: the {kind} have the counters {_listed(table.counters)}, "
                f"expected {_listed(self._table.counters)} as in the projections"
            )
        return table

    def _field_frames(self, kind: FieldKind, tables: tuple[FrameTable, ...]) -> FieldFrames | None:
        """How many flat or dark frames, at which camera position, and when."""
        if not tables:
            return None
        begin = _time(self._first.header.acquired)
        times = [_time(view[0].header.acquired) for table in tables for view in table.views]
        known = begin is not None and all(time is not None for time in times)
        seconds = tuple((t - begin).total_seconds() for t in times if t and begin) if known else None
        counts = tuple(len(table.views) for table in tables)
        by_position = self._description.by_position(kind)
        return FieldFrames(len(times), seconds, position_counts=counts if by_position else ())

    def _read_field(
        self, tables: tuple[FrameTable, ...], described: FieldFrames | None, position: int | None
    ) -> NDArray[Any] | None:
        """Flat or dark frames (bin, frame, row, col), or None."""
        if described is None:
            return None
        first, end = described.frames_at(position)
        return self._read([view for table in tables for view in table.views][first:end])

    def _notes(self, acquisition: dict[str, str]) -> tuple[str, ...]:
        """What a reader of the manifest should know."""
        notes = ["Row 0 of the Merlin image is taken as the lowest row, as its test pattern reads."]
        mode = acquisition.get("Chip Mode (SPM, CSM, CM, CSCM)")
        if mode:
            notes.append(f"Chip mode {mode}.")
        if self._alternating:
            notes.append("The two counters took turns: each frame is one view.")
        if self._difference:
            notes.append("Energy bins are counter differences; a negative difference is stored as 0.")
        if "ScanX" in acquisition and "ScanY" in acquisition:
            notes.append(
                f"The header file gives a raster of {acquisition['ScanX']} x {acquisition['ScanY']} frames; "
                "they are read as views in the order of their numbers."
            )
        return tuple(notes)

    def _read(self, views: Sequence[tuple[MibFrame, ...]]) -> NDArray[Any]:
        """Views as (bin, view, row, col)."""
        layout = self._layout
        counts = np.empty((len(self._order), len(views), layout.n_rows, layout.n_cols), dtype=layout.stored_type)
        for view, frames in enumerate(views):
            for energy_bin, position in enumerate(self._order):
                counts[energy_bin, view] = decode_frame(self._payload(frames[position]), layout)
        if self._difference:
            self.clamped_differences += _subtract_next(counts)
        return np.ascontiguousarray(orient_frames(counts, self._description.rows, self._description.cols))

    def _payload(self, frame: MibFrame) -> bytes:
        """The bytes of a frame after its header."""
        if self._open_file is None or self._open_file[0] != frame.path:
            self.close()
            self._open_file = (frame.path, frame.path.open("rb"))
        stream = self._open_file[1]
        stream.seek(frame.offset + frame.header.header_bytes)
        payload = stream.read(self._layout.payload_bytes)
        if len(payload) != self._layout.payload_bytes:
            raise FrameFormatError(
                f"{frame.where}: the frame is cut short: got {len(payload)} bytes of pixels, "
                f"expected {self._layout.payload_bytes}"
            )
        return payload


def _checked_settings(description: ScanDescription) -> dict[str, Any]:
    """The settings, each of the kind that it must be."""
    return {
        name: convert(value, _SETTINGS[name], f"{description.name}: setting {name}")
        for name, value in description.settings.items()
    }


def _choose_counters(
    description: ScanDescription, settings: dict[str, Any], table: FrameTable
) -> tuple[list[int], tuple[EnergyBin, ...], bool]:
    """Which frame of a view makes which bin, the bins, and whether they are differences."""
    thresholds = table.views[0][0].header.thresholds_kev
    wanted = settings.get("counters", table.counters)
    absent = sorted(set(wanted) - set(table.counters))
    if absent or len(set(wanted)) != len(wanted) or not wanted:
        raise ScanDescriptionError(
            f"{description.name}: counters must name some of {_listed(table.counters)} once, got {_listed(wanted)}"
        )
    kev = {c: thresholds[c] if c < len(thresholds) and thresholds[c] > 0 else None for c in wanted}
    order = sorted(wanted, key=lambda counter: (kev[counter] or 0.0, counter))
    low = [kev[counter] for counter in order]
    difference = settings.get("bins", "counter") == "difference"
    if difference and (None in low or len(set(low)) != len(low) or len(low) < 2):
        got = ", ".join("unknown" if value is None else f"{value:g} keV" for value in low)
        raise ScanDescriptionError(
            f"{description.name}: bins = 'difference' needs two counters or more with different thresholds, got {got}"
        )
    bins = []
    for i, threshold in enumerate(low):
        high = low[i + 1] if difference and i + 1 < len(low) else None
        bins.append(EnergyBin(i, "counter" if high is None else "difference", threshold, high))
    _require_same_kinds(description, bins)
    return [table.counters.index(counter) for counter in order], tuple(bins), difference


def _require_same_kinds(description: ScanDescription, bins: Sequence[EnergyBin]) -> None:
    """Refuse ``[[bins]]`` that call a counter a difference, or the other way round."""
    for said, found in zip(description.bins, bins, strict=False):
        if said.kind != found.kind and "integrating" not in (said.kind, found.kind):
            raise ScanDescriptionError(
                f"{description.name}: energy bin {found.index} is described as a {said.kind}, but is read as a "
                f"{found.kind}; [settings] bins chooses between 'counter' and 'difference'"
            )


def _subtract_next(counts: NDArray[Any]) -> int:
    """Make counters (bin, ...) into differences in place; return how many were negative and became 0."""
    clamped = 0
    for i in range(counts.shape[0] - 1):
        negative = counts[i + 1] > counts[i]
        clamped += int(np.count_nonzero(negative))
        counts[i] = np.where(negative, 0, counts[i] - counts[i + 1])
    return clamped


def _time(text: str) -> datetime | None:
    """An ISO 8601 date and time, or None."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _listed(numbers: Sequence[int]) -> str:
    """Numbers in a message."""
    return ", ".join(str(number) for number in numbers)
