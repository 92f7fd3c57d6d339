# SPDX-License-Identifier: Apache-2.0
"""The scan manifest: what a scanner hands over besides its frames (border 1, scanner to ingest).

A `Scan` is what every reader produces and what ``scans/<scan id>/manifest.json`` holds.
Arrays follow the project's axes: projections ``(bin, view, row, col)``, row 0 the lowest v.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Literal, get_args

from ingest.errors import ScanDescriptionError

if TYPE_CHECKING:
    from reconstruction.geometry import ConeBeamGeometry

SCHEMA_VERSION = 1

#: counts: raw, need flat (and dark) fields.  normalized: flat-corrected, white is `Scan.white_level`.
#: line_integrals: after -log already.
Content = Literal["counts", "normalized", "line_integrals"]
#: counter: everything above the threshold.  difference: between two thresholds.  integrating: no threshold.
BinKind = Literal["counter", "difference", "integrating"]
PixelType = Literal["uint8", "uint16", "uint32", "float32"]

SCAN_ID_PATTERN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_UID_PATTERN = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")


@dataclass(frozen=True, slots=True)
class EnergyBin:
    """One energy bin or counter of the detector; energies in keV, None where there is no such limit."""

    index: int
    kind: BinKind = "integrating"
    low_kev: float | None = None
    high_kev: float | None = None

    def __post_init__(self) -> None:
        where = f"energy bin {self.index}"
        _require_choice(self.kind, get_args(BinKind), f"the kind of {where}")
        if self.index < 0:
            raise ScanDescriptionError(f"an energy bin's index must not be negative, got {self.index}")
        for name, limit in (("low_kev", self.low_kev), ("high_kev", self.high_kev)):
            _require_positive(limit, f"{name} of {where}", zero_allowed=True)
        if self.kind == "difference" and (self.low_kev is None or self.high_kev is None):
            raise ScanDescriptionError(f"{where} is a difference of two counters and needs low_kev and high_kev")
        if self.kind == "counter" and self.high_kev is not None:
            raise ScanDescriptionError(f"{where} is a counter, open above, but has high_kev {self.high_kev:g}")
        if self.high_kev is not None and self.high_kev <= (self.low_kev or 0.0):
            raise ScanDescriptionError(
                f"{where} must end above where it begins, got {self.low_kev}-{self.high_kev} keV"
            )

    @property
    def label(self) -> str:
        """Short text for people: ``30-45 keV``, ``>30 keV``, ``<45 keV`` or ``all energies``."""
        if self.low_kev is None:
            return "all energies" if self.high_kev is None else f"<{self.high_kev:g} keV"
        if self.high_kev is None:
            return f">{self.low_kev:g} keV"
        return f"{self.low_kev:g}-{self.high_kev:g} keV"


@dataclass(frozen=True, slots=True)
class ParallelBeam:
    """Geometry of a parallel-beam scan: read and inspected, not reconstructed."""

    angles_rad: tuple[float, ...]
    pitch_u_mm: float | None = None
    pitch_v_mm: float | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(angle) for angle in self.angles_rad):
            raise ScanDescriptionError("the angles of a parallel beam must be finite numbers")
        _require_positive(self.pitch_u_mm, "pitch_u_mm")
        _require_positive(self.pitch_v_mm, "pitch_v_mm")


@dataclass(frozen=True, slots=True)
class Exposure:
    """How the tube was run; None where the scanner did not say."""

    kvp: float | None = None
    tube_current_ma: float | None = None
    exposure_time_ms: float | None = None
    filter_material: str | None = None
    filter_thickness_mm: float | None = None

    def __post_init__(self) -> None:
        _require_positive(self.kvp, "kvp")
        _require_positive(self.tube_current_ma, "tube_current_ma")
        _require_positive(self.exposure_time_ms, "exposure_time_ms")
        _require_positive(self.filter_thickness_mm, "filter_thickness_mm", zero_allowed=True)


@dataclass(frozen=True, slots=True)
class Subject:
    """Who or what was scanned.  A specimen has no patient: its identifier stands in (docs/conformance.md)."""

    kind: Literal["specimen", "patient"] = "specimen"
    identifier: str = ""
    name: str = ""
    birth_date: str = ""
    sex: Literal["", "M", "F", "O"] = ""
    species: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        _require_choice(self.kind, ("specimen", "patient"), "the subject's kind")
        _require_choice(self.sex, ("", "M", "F", "O"), "the subject's sex")
        if self.birth_date:
            try:
                date.fromisoformat(self.birth_date)
            except ValueError:
                # The date itself is personal: it stays out of the message.
                raise ScanDescriptionError("the subject's birth_date must be an ISO 8601 date YYYY-MM-DD") from None


@dataclass(frozen=True, slots=True)
class Order:
    """The imaging order that the scan belongs to; an empty Study UID is derived from the scan id."""

    study_uid: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_description: str = ""
    referring_physician: str = ""

    def __post_init__(self) -> None:
        if self.study_uid and not (len(self.study_uid) <= 64 and _UID_PATTERN.fullmatch(self.study_uid)):
            raise ScanDescriptionError(
                f"study_uid must be a DICOM UID (digits and dots, at most 64), got '{self.study_uid}'"
            )


@dataclass(frozen=True, slots=True)
class FieldFrames:
    """Flat or dark frames of each energy bin: one set for all views, or one for each camera position.

    Attributes
    ----------
    count : frames of all sets together.
    times_s : when each was taken [s after the start of the scan], None where the scanner did not say.
    camera_position : where the camera stood for the one set.
    position_counts : frames of each camera position's own set, which lie one set behind the other; () for one set.
    """

    count: int
    times_s: tuple[float, ...] | None = None
    camera_position: int = 0
    position_counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ScanDescriptionError(f"flat or dark frames need a count of at least 1, got {self.count}")
        if self.camera_position < 0:
            raise ScanDescriptionError(f"a camera position must not be negative, got {self.camera_position}")
        self._check_positions()
        if self.times_s is None:
            return
        if len(self.times_s) != self.count:
            raise ScanDescriptionError(f"got {len(self.times_s)} times for {self.count} flat or dark frames")
        if not all(math.isfinite(time) for time in self.times_s):
            raise ScanDescriptionError("the times of flat or dark frames must be finite numbers")

    @property
    def by_position(self) -> bool:
        """Whether each camera position has a set of its own."""
        return bool(self.position_counts)

    @property
    def positions(self) -> tuple[int | None, ...]:
        """Camera positions with a set of their own; (None,) for the one set of all."""
        return tuple(range(len(self.position_counts))) if self.position_counts else (None,)

    def frames_at(self, position: int | None) -> tuple[int, int]:
        """First and end frame of a camera position's set; of all frames without one, or where all views share a set.

        Raises
        ------
        ScanDescriptionError
            If there is no such position.
        """
        if position is None or not self.position_counts:
            return 0, self.count
        if not 0 <= position < len(self.position_counts):
            raise ScanDescriptionError(
                f"there are flat or dark frames of the camera positions 0 to {len(self.position_counts) - 1}, "
                f"asked for those of position {position}"
            )
        first = sum(self.position_counts[:position])
        return first, first + self.position_counts[position]

    def _check_positions(self) -> None:
        """Every camera position has frames, and together they are all."""
        if not self.position_counts:
            return
        for position, count in enumerate(self.position_counts):
            if count < 1:
                raise ScanDescriptionError(
                    f"camera position {position} has no flat or dark frames, while others have them: "
                    "name some for each position, or one set for all"
                )
        if sum(self.position_counts) != self.count:
            raise ScanDescriptionError(
                f"the camera positions have {sum(self.position_counts)} flat or dark frames together, "
                f"expected {self.count}"
            )
        if self.camera_position:
            raise ScanDescriptionError("flat or dark frames are of one camera position, or of each, not both")


@dataclass(frozen=True, slots=True)
class Scan:
    """Everything about a scan except its pixels.

    Attributes
    ----------
    scan_id : str
        Name in the store: letters, digits, ``-``, ``_`` and ``.`` only, at most 64.
    source_format : str
        Name of the reader.
    content : Content
    bins : one entry for each energy bin, in the order of the frames' bin axis.
    pixel_type : dtype of the stored frames, little-endian.
    n_views, n_rows, n_cols : int
    geometry : cone-beam poses, or None (parallel beam, or not given: `reconstruct` then refuses).
    parallel : geometry of a parallel beam, or None.
    white_level : count of an unattenuated pixel where content is ``normalized``.
    flats, darks : the field frames of each energy bin; None where there are none.
    camera_positions : of each view where the camera stood, from 0; () where all views share the field frames.
    acquired : ISO 8601 local date and time of the first frame, or "".
    manufacturer, model, station : the scanner.
    notes : plain sentences on what the reader assumed or found (kept in the manifest and the report).

    Raises
    ------
    ScanDescriptionError
        If a value is malformed, or two of them contradict each other.
    """

    scan_id: str
    source_format: str
    content: Content
    bins: tuple[EnergyBin, ...]
    pixel_type: PixelType
    n_views: int
    n_rows: int
    n_cols: int
    geometry: ConeBeamGeometry | None = None
    parallel: ParallelBeam | None = None
    white_level: float | None = None
    flats: FieldFrames | None = None
    darks: FieldFrames | None = None
    camera_positions: tuple[int, ...] = ()
    acquired: str = ""
    manufacturer: str = ""
    model: str = ""
    station: str = ""
    exposure: Exposure = field(default_factory=Exposure)
    subject: Subject = field(default_factory=Subject)
    order: Order = field(default_factory=Order)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_scan_id(self.scan_id)
        _require_choice(self.content, get_args(Content), f"scan {self.scan_id}: content")
        _require_choice(self.pixel_type, get_args(PixelType), f"scan {self.scan_id}: pixel_type")
        for name in ("n_views", "n_rows", "n_cols"):
            if getattr(self, name) < 1:
                raise self._error(f"{name} must be at least 1, got {getattr(self, name)}")
        indices = [energy_bin.index for energy_bin in self.bins]
        if not indices or indices != list(range(len(indices))):
            raise self._error(f"energy bins must be numbered 0, 1, 2, ... in order, got {indices}")
        self._check_content()
        self._check_geometry()
        self._check_positions()
        if self.acquired:
            try:
                datetime.fromisoformat(self.acquired)
            except ValueError:
                raise self._error(f"acquired must be an ISO 8601 date and time, got '{self.acquired}'") from None

    @property
    def n_bins(self) -> int:
        """Number of energy bins."""
        return len(self.bins)

    @property
    def n_positions(self) -> int:
        """Number of camera positions that are told apart; 1 where they are not."""
        return max(self.camera_positions, default=0) + 1

    @property
    def field_positions(self) -> tuple[int | None, ...]:
        """Camera positions whose views are corrected by fields of their own; (None,) where all are by the same."""
        fields = (self.flats, self.darks)
        apart = any(frames is not None and frames.by_position for frames in fields)
        return tuple(range(self.n_positions)) if apart else (None,)

    def _check_content(self) -> None:
        """Pixel type and white level must suit the content."""
        if self.content == "line_integrals" and self.pixel_type != "float32":
            raise self._error(f"line integrals need the pixel type float32, got {self.pixel_type}")
        if self.content == "normalized":
            if self.white_level is None:
                raise self._error("normalized frames need a white_level, the count of an unattenuated pixel")
            _require_positive(self.white_level, f"scan {self.scan_id}: white_level")
        elif self.white_level is not None:
            raise self._error(
                f"white_level {self.white_level:g} is for normalized frames, but these are {self.content}"
            )

    def _check_geometry(self) -> None:
        """The geometry must be that of these views and this panel."""
        if self.geometry is not None:
            if self.parallel is not None:
                raise self._error("a scan has a cone-beam or a parallel-beam geometry, not both")
            if self.geometry.n_views != self.n_views:
                raise self._error(f"the geometry has {self.geometry.n_views} poses for {self.n_views} views")
            panel = (self.geometry.n_rows, self.geometry.n_cols)
            if panel != (self.n_rows, self.n_cols):
                raise self._error(
                    f"the geometry is for a panel of {panel[0]} rows x {panel[1]} columns, "
                    f"but the frames have {self.n_rows} x {self.n_cols}"
                )
        if self.parallel is not None and len(self.parallel.angles_rad) != self.n_views:
            raise self._error(f"the geometry has {len(self.parallel.angles_rad)} angles for {self.n_views} views")

    def _check_positions(self) -> None:
        """Each view stands at one camera position, and a kind of field frames serves all of them or each."""
        if self.camera_positions:
            if len(self.camera_positions) != self.n_views:
                raise self._error(f"got camera positions for {len(self.camera_positions)} of {self.n_views} views")
            absent = set(range(self.n_positions)) - set(self.camera_positions)
            if absent or min(self.camera_positions) < 0:
                raise self._error(
                    f"camera positions must be numbered 0, 1, 2, ... and each have views, got "
                    f"{', '.join(map(str, sorted(set(self.camera_positions))))}"
                )
        for kind, frames in (("flat", self.flats), ("dark", self.darks)):
            if frames is None or not frames.by_position:
                continue
            if not self.camera_positions:
                raise self._error(
                    f"there are {kind} frames of {len(frames.position_counts)} camera positions, but it is not said at "
                    "which position each view was taken"
                )
            if len(frames.position_counts) != self.n_positions:
                raise self._error(
                    f"there are {kind} frames of {len(frames.position_counts)} camera positions, but the views were "
                    f"taken at {self.n_positions}: give {kind} frames of each position, or one set for all"
                )

    def _error(self, sentence: str) -> ScanDescriptionError:
        """Return an error that names the scan."""
        return ScanDescriptionError(f"scan {self.scan_id}: {sentence}")


def check_scan_id(scan_id: str) -> str:
    """Return a scan id if it can name a folder in the store; ScanDescriptionError if not."""
    if not SCAN_ID_PATTERN.fullmatch(scan_id):
        raise ScanDescriptionError(
            f"a scan id has 1 to 64 letters, digits, '-', '_' and '.' and does not begin with a dot, got '{scan_id}'"
        )
    return scan_id


def _require_choice(value: str, choices: tuple[str, ...], what: str) -> None:
    """Refuse a word that is not one of the choices."""
    if value not in choices:
        allowed = ", ".join(f"'{choice}'" for choice in choices)
        raise ScanDescriptionError(f"{what} must be one of {allowed}, got '{value}'")


def _require_positive(value: float | None, what: str, *, zero_allowed: bool = False) -> None:
    """Refuse a number that is not finite or not positive; None means not given."""
    if value is None:
        return
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero_allowed):
        raise ScanDescriptionError(f"{what} must be a positive number, got {value}")
