# SPDX-License-Identifier: Apache-2.0
"""Multi-energy CT Image attributes of calibrated energy bins, and the Real World Value Mapping of every series.

PS3.3 C.8.2.2 (Multi-energy CT Image), C.8.15.3 (its CT macros), C.7.6.16.2.11 (Real World Value Mapping).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pacs.decimal_strings import STORED_MAX, STORED_MIN, ds_text
from pacs.errors import EncodingError

if TYPE_CHECKING:
    from pacs.description import Acquisition, EnergyBinLabel, SeriesSpec

#: Image Type value 4 of a plain energy bin: an own term, the Standard has none (docs/conformance.md).
ENERGY_BIN_TERM = "ENERGY_BIN"
#: Names of filter materials as the Standard spells its defined terms (0018,7050).
_MATERIAL_TERMS = {"AL": "ALUMINUM", "ALUMINIUM": "ALUMINUM", "CU": "COPPER", "SN": "TIN", "MO": "MOLYBDENUM"}
_CS_LENGTH = 16


def add_real_world_values(ds: Dataset, spec: SeriesSpec) -> None:
    """Add the Real World Value Mapping: stored values to HU or to 1/mm, as exact doubles."""
    item = Dataset()
    item.LUTExplanation = "Hounsfield units" if spec.calibrated_hu else "Linear attenuation coefficient"
    item.LUTLabel = "HU" if spec.calibrated_hu else "MU"
    item.add_new("RealWorldValueFirstValueMapped", "SS", STORED_MIN)
    item.add_new("RealWorldValueLastValueMapped", "SS", STORED_MAX)
    item.RealWorldValueIntercept, item.RealWorldValueSlope = float(spec.intercept), float(spec.slope)
    units = ("[hnsf'U]", "Hounsfield unit") if spec.calibrated_hu else ("/mm", "per millimeter")
    item.MeasurementUnitsCodeSequence = Sequence([code_item(units[0], "UCUM", units[1])])
    ds.RealWorldValueMappingSequence = Sequence([item])


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """Return a coded concept (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def add_multi_energy(ds: Dataset, spec: SeriesSpec) -> None:
    """Add the Multi-energy CT Acquisition Sequence: every bin is a detector and a path of its own.

    KVP lives in the sequence; at the top of the data set it has to stay empty.

    Raises
    ------
    EncodingError
        If the exposure or geometry that the Standard requires here is not known.
    """
    known = _require_acquisition(spec)
    ds.MultienergyCTAcquisition = "YES"
    ds.KVP = None
    item = Dataset()
    item.MultienergyAcquisitionDescription = f"photon counting, {len(spec.bins)} energy bins"
    item.MultienergyCTXRaySourceSequence = Sequence([_source(spec)])
    item.MultienergyCTXRayDetectorSequence = Sequence(
        _detector(number, energy_bin, known["kvp"]) for number, energy_bin in enumerate(spec.bins, start=1)
    )
    numbers = range(1, len(spec.bins) + 1)
    item.MultienergyCTPathSequence = Sequence(_path(number) for number in numbers)
    item.CTExposureSequence = Sequence([_exposure(known)])
    item.CTXRayDetailsSequence = Sequence([_x_ray_details(spec.acquisition, known)])
    item.CTAcquisitionDetailsSequence = Sequence(_acquisition_details(number, spec, known) for number in numbers)
    item.CTGeometrySequence = Sequence(_geometry(number, known) for number in numbers)
    ds.MultienergyCTAcquisitionSequence = Sequence([item])


def _require_acquisition(spec: SeriesSpec) -> dict[str, float]:
    """Exposure and geometry by name; all of them have to be known."""
    names = (
        "kvp", "tube_current_ma", "exposure_time_ms", "n_views", "sod_mm", "sdd_mm", "n_rows", "pitch_v_mm",
        "focal_spot_mm",
    )  # fmt: skip
    values = {name: getattr(spec.acquisition, name) for name in names}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise EncodingError(
            f"scan '{spec.study.scan_id}': calibrated energy bins need {', '.join(missing)} of the acquisition in the "
            "header, and the scan does not give it"
        )
    return {name: float(value) for name, value in values.items()}


def _source(spec: SeriesSpec) -> Dataset:
    """The one X-ray source."""
    source = Dataset()
    source.XRaySourceIndex, source.XRaySourceID = 1, "1"
    source.MultienergySourceTechnique = "CONSTANT_SOURCE"
    date = spec.study.acquired_date or spec.content_date
    time = spec.study.acquired_time if spec.study.acquired_date else spec.content_time
    source.SourceStartDateTime = source.SourceEndDateTime = date + time
    return source


def _detector(number: int, energy_bin: EnergyBinLabel, kvp: float) -> Dataset:
    """One bin as a detector of its own; a counter without an upper limit ends at the tube voltage."""
    detector = Dataset()
    detector.XRayDetectorIndex, detector.XRayDetectorID = number, str(number)
    detector.XRayDetectorLabel = energy_bin.label[:16]
    if energy_bin.low_kev is None:
        detector.MultienergyDetectorType = "INTEGRATING"
        return detector
    high = energy_bin.high_kev if energy_bin.kind == "difference" and energy_bin.high_kev is not None else kvp
    detector.MultienergyDetectorType = "PHOTON_COUNTING"
    detector.NominalMaxEnergy, detector.NominalMinEnergy = ds_text(high), ds_text(energy_bin.low_kev)
    return detector


def _path(number: int) -> Dataset:
    """Path of one bin: the source and its detector."""
    path = Dataset()
    path.MultienergyCTPathIndex = number
    path.ReferencedXRaySourceIndex, path.ReferencedXRayDetectorIndex = 1, number
    return path


def _exposure(known: dict[str, float]) -> Dataset:
    """Exposure of the whole image: all views together."""
    exposure = Dataset()
    seconds = known["exposure_time_ms"] * known["n_views"] / 1000
    exposure.ReferencedXRaySourceIndex = 1
    exposure.ExposureTimeInms = seconds * 1000
    exposure.XRayTubeCurrentInmA = known["tube_current_ma"]
    exposure.ExposureInmAs = known["tube_current_ma"] * seconds
    exposure.ExposureModulationType = "NONE"
    return exposure


def _x_ray_details(acquisition: Acquisition, known: dict[str, float]) -> Dataset:
    """Tube voltage and filter."""
    details = Dataset()
    details.KVP = ds_text(known["kvp"])
    details.FocalSpots = [ds_text(known["focal_spot_mm"])]
    details.FilterType = "FLAT" if acquisition.filter_material else "NONE"
    if acquisition.filter_material:
        details.FilterMaterial = filter_term(acquisition.filter_material)
    return details


def filter_term(material: str) -> str:
    """Return the filter material as a code string: the Standard's term where there is one."""
    term = material.upper().replace("-", "_")
    return _MATERIAL_TERMS.get(term, term)[:_CS_LENGTH].strip()


def _acquisition_details(number: int, spec: SeriesSpec, known: dict[str, float]) -> Dataset:
    """Acquisition details of one path; collimation is meant at the rotation axis."""
    _, ny, nx = spec.grid.shape
    _, py, px = spec.grid.voxel_pitch_mm
    details = Dataset()
    details.ReferencedPathIndex = number
    details.RotationDirection = spec.acquisition.rotation_direction
    details.SingleCollimationWidth = known["pitch_v_mm"] * known["sod_mm"] / known["sdd_mm"]
    details.TotalCollimationWidth = known["n_rows"] * details.SingleCollimationWidth
    details.TableHeight = details.GantryDetectorTilt = "0"
    details.DataCollectionDiameter = ds_text(max(nx * px, ny * py))
    return details


def _geometry(number: int, known: dict[str, float]) -> Dataset:
    """Distances of one path."""
    geometry = Dataset()
    geometry.ReferencedPathIndex = number
    geometry.DistanceSourceToDetector = ds_text(known["sdd_mm"])
    geometry.DistanceSourceToDataCollectionCenter = known["sod_mm"]
    return geometry
