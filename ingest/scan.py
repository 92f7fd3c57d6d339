# SPDX-License-Identifier: Apache-2.0
"""The scan manifest: what a scanner hands over besides its frames (border 1, scanner to ingest).

A `Scan` is what every reader produces and what ``scans/<scan id>/manifest.json`` holds.
Arrays follow the project's axes: projections ``(bin, view, row, col)``, row 0 the lowest v.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from reconstruction.geometry import ConeBeamGeometry

SCHEMA_VERSION = 1

#: counts: raw, need flat (and dark) fields.  normalized: flat-corrected, white is `Scan.white_level`.
#: line_integrals: after -log already.
Content = Literal["counts", "normalized", "line_integrals"]
#: counter: everything above the threshold.  difference: between two thresholds.  integrating: no threshold.
BinKind = Literal["counter", "difference", "integrating"]
PixelType = Literal["uint8", "uint16", "uint32", "float32"]


@dataclass(frozen=True, slots=True)
class EnergyBin:
    """One energy bin or counter of the detector; energies in keV, None where there is no such limit."""

    index: int
    kind: BinKind = "integrating"
    low_kev: float | None = None
    high_kev: float | None = None

    @property
    def label(self) -> str:
        """Short text for people: ``30-45 keV``, ``>30 keV`` or ``all energies``."""
        if self.low_kev is None:
            return "all energies"
        if self.high_kev is None:
            return f">{self.low_kev:g} keV"
        return f"{self.low_kev:g}-{self.high_kev:g} keV"


@dataclass(frozen=True, slots=True)
class ParallelBeam:
    """Geometry of a parallel-beam scan: read and inspected, not reconstructed."""

    angles_rad: tuple[float, ...]
    pitch_u_mm: float | None = None
    pitch_v_mm: float | None = None


@dataclass(frozen=True, slots=True)
class Exposure:
    """How the tube was run; None where the scanner did not say."""

    kvp: float | None = None
    tube_current_ma: float | None = None
    exposure_time_ms: float | None = None
    filter_material: str | None = None
    filter_thickness_mm: float | None = None


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


@dataclass(frozen=True, slots=True)
class Order:
    """The imaging order that the scan belongs to; an empty Study UID is derived from the scan id."""

    study_uid: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_description: str = ""
    referring_physician: str = ""


@dataclass(frozen=True, slots=True)
class FieldFrames:
    """Flat or dark frames: how many, when taken [s after the start of the scan], at which camera position."""

    count: int
    times_s: tuple[float, ...] | None = None
    camera_position: int = 0


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
    flats, darks : counts per energy bin; None where there are none.
    acquired : ISO 8601 local date and time of the first frame, or "".
    manufacturer, model, station : the scanner.
    notes : plain sentences on what the reader assumed or found (kept in the manifest and the report).
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
    acquired: str = ""
    manufacturer: str = ""
    model: str = ""
    station: str = ""
    exposure: Exposure = field(default_factory=Exposure)
    subject: Subject = field(default_factory=Subject)
    order: Order = field(default_factory=Order)
    notes: tuple[str, ...] = ()
