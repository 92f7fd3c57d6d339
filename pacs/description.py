# SPDX-License-Identifier: Apache-2.0
"""What a series is made of besides its voxels: study, equipment, exposure, energy bins, product, run.

Every text is checked here, once, against its value representation (PS3.5 6.2), so that a plan with a value that
DICOM cannot hold is refused before anything is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydicom import config as pydicom_config
from pydicom.valuerep import validate_value

from pacs.decimal_strings import ds_text
from pacs.errors import EncodingError
from pacs.patient_axes import axes_of
from pacs.provenance import parameters_sha256
from pacs.subject import PAIRED_BODY_PARTS
from pacs.uids import RunKey, require_uid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconstruction.geometry import VolumeGrid

BinKind = Literal["counter", "difference", "integrating"]
#: volume: the reconstruction.  preview: block averages of it.
Product = Literal["volume", "preview"]
#: Series numbers of a product begin after this.
SERIES_NUMBER_BASE: dict[str, int] = {"volume": 0, "preview": 1000}
#: Rows and Columns are 16-bit (PS3.3 C.7.6.3).
MAX_IMAGE_SIDE = 65535


def require_text(value: str, vr: str, *, what: str) -> None:
    """Refuse a text that the value representation cannot hold.

    Raises
    ------
    EncodingError
        Names what it is, and why.
    """
    if "\\" in value or any(ord(character) < 32 for character in value):
        raise EncodingError(f"{what} must not have a backslash or control characters, got {value!r}")
    if vr in ("DA", "TM") and not value.replace(".", "").isdigit() and value:
        raise EncodingError(f"{what} must be one date or time of digits, got {value!r}")
    try:
        validate_value(vr, value, pydicom_config.RAISE)
    except ValueError as error:
        raise EncodingError(f"{what} does not fit a DICOM value of type {vr}: {error}") from error


@dataclass(frozen=True, slots=True)
class StudyContext:
    """Subject and order of a scan.

    A specimen has no patient: its identifier (or else the scan id) stands in as Patient ID and names the
    specimen; `patient_position` "" means HFS for a patient and unknown for a specimen.  Dates are YYYYMMDD,
    times HHMMSS[.ffffff], "" where not known.
    """

    scan_id: str
    study_uid: str = ""
    study_date: str = ""
    study_time: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_description: str = ""
    referring_physician: str = ""
    patient_id: str = ""
    patient_name: str = ""
    birth_date: str = ""
    sex: Literal["", "M", "F", "O"] = ""
    is_specimen: bool = True
    species: str = ""
    specimen_description: str = ""
    body_part: str = ""
    laterality: Literal["", "L", "R"] = ""
    patient_position: str = ""
    acquired_date: str = ""
    acquired_time: str = ""

    def __post_init__(self) -> None:
        if not self.scan_id:
            raise EncodingError("a study needs the id of its scan")
        if not self.is_specimen and not self.patient_id:
            raise EncodingError(f"scan '{self.scan_id}': a patient needs a patient id")
        if self.study_uid:
            require_uid(self.study_uid, what=f"study_uid of scan '{self.scan_id}'")
        for name, vr in _STUDY_TEXTS.items():
            require_text(getattr(self, name), vr, what=f"{name} of scan '{self.scan_id}'")
        for name, terms in {"sex": ("", "M", "F", "O"), "laterality": ("", "L", "R")}.items():
            if getattr(self, name) not in terms:
                got = getattr(self, name)
                raise EncodingError(f"scan '{self.scan_id}': {name} must be one of {', '.join(terms)}, got '{got}'")
        if self.laterality and self.body_part not in PAIRED_BODY_PARTS:
            raise EncodingError(
                f"scan '{self.scan_id}': laterality {self.laterality} needs a paired body part, not '{self.body_part}'"
            )
        axes_of(self.patient_position)


_STUDY_TEXTS = {
    "scan_id": "LO", "study_date": "DA", "study_time": "TM", "accession_number": "SH", "study_id": "SH",
    "study_description": "LO", "referring_physician": "PN", "patient_id": "LO", "patient_name": "PN",
    "birth_date": "DA", "sex": "CS", "species": "LO", "specimen_description": "LO", "body_part": "CS",
    "laterality": "CS", "acquired_date": "DA", "acquired_time": "TM",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Equipment:
    """The scanner, and the software that reconstructed."""

    manufacturer: str = ""
    model: str = ""
    station: str = ""
    software_version: str = ""

    def __post_init__(self) -> None:
        for name, vr in {"manufacturer": "LO", "model": "LO", "station": "SH", "software_version": "LO"}.items():
            require_text(getattr(self, name), vr, what=f"{name} of the equipment")


@dataclass(frozen=True, slots=True)
class Acquisition:
    """How the projections were taken; None where the scanner did not say.

    ``exposure_time_ms`` is that of one view; `n_views` views make the exposure of the image.  ``n_rows`` and
    ``pitch_v_mm`` are the detector's; ``rotation_direction`` is how the source turns about the sample, seen from +z.
    """

    kvp: float | None = None
    tube_current_ma: float | None = None
    exposure_time_ms: float | None = None
    n_views: int | None = None
    filter_material: str = ""
    filter_thickness_mm: float | None = None
    sod_mm: float | None = None
    sdd_mm: float | None = None
    n_rows: int | None = None
    pitch_v_mm: float | None = None
    focal_spot_mm: float | None = None
    rotation_direction: Literal["CW", "CC"] = "CC"

    def __post_init__(self) -> None:
        for name in _ACQUISITION_NUMBERS:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise EncodingError(f"{name} must be a finite number of at least 0, got {value}")
        require_text(self.filter_material, "LO", what="filter_material")


_ACQUISITION_NUMBERS = (
    "kvp", "tube_current_ma", "exposure_time_ms", "n_views", "filter_thickness_mm", "sod_mm", "sdd_mm", "n_rows",
    "pitch_v_mm", "focal_spot_mm",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EnergyBinLabel:
    """One energy bin of the scan; energies in keV, None where there is no such limit."""

    index: int
    kind: BinKind = "integrating"
    low_kev: float | None = None
    high_kev: float | None = None

    def __post_init__(self) -> None:
        if self.kind == "difference" and (self.low_kev is None or self.high_kev is None):
            raise EncodingError(f"bin {self.index} is a difference of counters and needs both energies [keV]")
        if self.kind == "counter" and self.low_kev is None:
            raise EncodingError(f"bin {self.index} is a counter and needs its threshold [keV]")
        for value in (self.low_kev, self.high_kev):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise EncodingError(f"bin {self.index} needs finite energies of at least 0 keV, got {value}")

    @property
    def label(self) -> str:
        """Short text for people: ``30-45 keV``, ``>30 keV`` or ``all energies``."""
        if self.low_kev is None:
            return "all energies"
        if self.high_kev is None or self.kind == "counter":
            return f">{self.low_kev:g} keV"
        return f"{self.low_kev:g}-{self.high_kev:g} keV"


@dataclass(frozen=True, slots=True)
class SeriesSpec:
    """One series: one product of one energy bin of one run, all its slices.

    Attributes
    ----------
    study, equipment, acquisition : see there.
    bins : all bins of the scan, by rising index.
    bin_index : the bin of this series.
    product : what it is; `preview_factor` says how many voxels a side of a preview's block averages.
    grid : the whole volume of this series (not one slab's); slices are numbered by it.
    slope, intercept : ``output = slope * stored + intercept``, fixed in the plan (`rescale_for_range`).
    key : what the UIDs derive from; ``key.parameters_sha256`` must be that of `parameters`.
    parameters : every parameter of the run as JSON values, kept in the header of each instance.
    content_date, content_time : YYYYMMDD and HHMMSS, fixed when the run was first submitted.
    calibrated_hu : the values are HU; otherwise mu [1/mm].
    window : centre and width to show it with at first, in output units.
    convolution_kernel : ramp filter's name and cut-off, e.g. ``hann 1.0``.
    kernel_version : version of the back end's kernel.
    """

    study: StudyContext
    equipment: Equipment
    acquisition: Acquisition
    bins: tuple[EnergyBinLabel, ...]
    bin_index: int
    product: Product
    grid: VolumeGrid
    slope: float
    intercept: float
    key: RunKey
    parameters: Mapping[str, Any] = field(repr=False)
    content_date: str
    content_time: str
    window: tuple[float, float]
    calibrated_hu: bool = False
    convolution_kernel: str = ""
    kernel_version: str = ""
    preview_factor: int = 1

    def __post_init__(self) -> None:
        scan = f"scan '{self.study.scan_id}'"
        indices = [energy_bin.index for energy_bin in self.bins]
        if indices != sorted(set(indices)) or self.bin_index not in indices:
            raise EncodingError(f"{scan}: bin {self.bin_index} is not one of the bins {indices}")
        if self.product not in SERIES_NUMBER_BASE:
            raise EncodingError(f"{scan}: unknown product '{self.product}', expected {', '.join(SERIES_NUMBER_BASE)}")
        if max(self.grid.shape[1:]) > MAX_IMAGE_SIDE or 2 * self.grid.shape[1] * self.grid.shape[2] >= 2**32 - 2:
            raise EncodingError(f"{scan}: a slice of {self.grid.shape[1:]} voxels does not fit a DICOM image")
        for name, value in (("slope", self.slope), ("intercept", self.intercept)):
            if float(ds_text(value)) != value:
                raise EncodingError(f"{scan}: {name} {value!r} is not exact in the 16 characters of a decimal string")
        if not self.slope > 0 or not self.window[1] > 0:
            raise EncodingError(f"{scan}: slope and window width must be positive, got {self.slope}, {self.window[1]}")
        if self.key.parameters_sha256 != parameters_sha256(self.parameters):
            raise EncodingError(f"{scan}: the run key's parameters_sha256 is not that of the parameters")
        require_text(self.content_date, "DA", what=f"content_date of {scan}")
        require_text(self.content_time, "TM", what=f"content_time of {scan}")
        if not self.content_date or not self.content_time:
            raise EncodingError(f"{scan}: content date and time must be given, they are fixed at the first submit")
        require_text(self.convolution_kernel.upper(), "SH", what=f"convolution_kernel of {scan}")
        require_text(self.kernel_version, "LO", what=f"kernel_version of {scan}")

    @property
    def energy_bin(self) -> EnergyBinLabel:
        """The bin of this series."""
        return next(energy_bin for energy_bin in self.bins if energy_bin.index == self.bin_index)

    @property
    def iterative_method(self) -> str | None:
        """Name of the iterative method that made the volume; None for FDK."""
        iterative = self.parameters.get("request", {}).get("iterative")
        return None if iterative is None else str(iterative["method"])

    @property
    def is_multi_energy(self) -> bool:
        """Whether the Multi-energy CT attributes are written: calibrated bins of a spectral scan."""
        return self.calibrated_hu and len(self.bins) > 1
