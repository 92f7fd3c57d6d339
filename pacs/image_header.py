# SPDX-License-Identifier: Apache-2.0
"""The header that all slices of a series share, module by module of the CT Image IOD (PS3.3 A.3).

`docs/conformance.md`, section Encoding, says what stands where, and why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from pacs.decimal_strings import ds_text
from pacs.description import SERIES_NUMBER_BASE
from pacs.multienergy import ENERGY_BIN_TERM, add_multi_energy, add_real_world_values
from pacs.patient_axes import axes_of, image_orientation
from pacs.provenance import add_provenance
from pacs.subject import PAIRED_BODY_PARTS, add_patient, add_specimen
from pacs.uids import frame_of_reference_uid, series_uid, study_uid

if TYPE_CHECKING:
    from pacs.description import SeriesSpec

#: UTF-8.
CHARACTER_SET = "ISO_IR 192"

#: Convolution kernel of the ramp filter that nothing smooths, which is the default.
PLAIN_RAMP = "ram-lak 1"
#: Characters that an LO holds (PS3.5 6.2).
_LO_LENGTH = 64


def patient_position(spec: SeriesSpec) -> str:
    """Return Patient Position: as told; else HFS for a patient, unknown for a specimen."""
    return spec.study.patient_position or ("" if spec.study.is_specimen else "HFS")


def study_uid_of(spec: SeriesSpec) -> str:
    """Return the order's Study UID, or the one that follows from the scan id."""
    return spec.study.study_uid or study_uid(spec.study.scan_id)


def static_dataset(spec: SeriesSpec) -> Dataset:
    """Return what all instances of a series share, without pixels.

    Raises
    ------
    EncodingError
        If calibrated bins lack what the Standard requires of them.
    """
    ds = Dataset()
    ds.SpecificCharacterSet = CHARACTER_SET
    ds.SOPClassUID = CTImageStorage
    add_patient(ds, spec.study)
    _add_study(ds, spec)
    _add_series(ds, spec)
    _add_acquisition(ds, spec)
    _add_image(ds, spec)
    add_real_world_values(ds, spec)
    if spec.is_multi_energy:
        add_multi_energy(ds, spec)
    if spec.study.is_specimen:
        add_specimen(ds, spec.study)
    add_provenance(ds, spec)
    return ds


def series_description(spec: SeriesSpec) -> str:
    """Name the bin, its kind, the quantity, the product and what is not FDK by the plain ramp, within 64 characters."""
    energy_bin = spec.energy_bin
    kind = "" if energy_bin.kind == "integrating" else f" ({energy_bin.kind})"
    quantity = "HU" if spec.calibrated_hu else "mu 1/mm"
    product = f", preview 1/{spec.preview_factor}" if spec.product == "preview" else ""
    place = spec.bins.index(energy_bin) + 1
    filtered = "" if spec.convolution_kernel == PLAIN_RAMP else spec.convolution_kernel
    method = spec.iterative_method or filtered
    text = f"Bin {place}/{len(spec.bins)}: {energy_bin.label}{kind}, {quantity}{product}"
    return f"{text}, {method}" if method and len(f"{text}, {method}") <= _LO_LENGTH else text


def _add_study(ds: Dataset, spec: SeriesSpec) -> None:
    """General Study (PS3.3 C.7.2.1)."""
    study = spec.study
    ds.StudyInstanceUID = study_uid_of(spec)
    ds.StudyDate, ds.StudyTime = study.study_date, study.study_time
    ds.AccessionNumber, ds.StudyID = study.accession_number, study.study_id
    ds.ReferringPhysicianName = study.referring_physician
    if study.study_description:
        ds.StudyDescription = study.study_description


def _add_series(ds: Dataset, spec: SeriesSpec) -> None:
    """General Series, Frame of Reference and General Equipment (PS3.3 C.7.3.1, C.7.4.1, C.7.5.1)."""
    equipment = spec.equipment
    ds.Modality = "CT"
    ds.SeriesInstanceUID = series_uid(spec.key, spec.product, spec.bin_index)
    ds.SeriesNumber = SERIES_NUMBER_BASE[spec.product] + spec.bins.index(spec.energy_bin) + 1
    ds.SeriesDescription = series_description(spec)
    ds.SeriesDate, ds.SeriesTime = spec.content_date, spec.content_time
    ds.BodyPartExamined = spec.study.body_part
    # Of a patient whose body part is not known it is not known either whether it is a paired one.
    if spec.study.body_part in PAIRED_BODY_PARTS or not (spec.study.body_part or spec.study.is_specimen):
        ds.Laterality = spec.study.laterality
    ds.PatientPosition = patient_position(spec)
    ds.FrameOfReferenceUID = frame_of_reference_uid(spec.key.scan_sha256)
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer = equipment.manufacturer
    if equipment.model:
        ds.ManufacturerModelName = equipment.model
    if equipment.station:
        ds.StationName = equipment.station
    if equipment.software_version:
        ds.SoftwareVersions = equipment.software_version


def _add_acquisition(ds: Dataset, spec: SeriesSpec) -> None:
    """Exposure and geometry of CT Image (PS3.3 C.8.2.1); what is not known is left out or empty."""
    acquisition = spec.acquisition
    ds.AcquisitionNumber = 1
    if spec.study.acquired_date:
        ds.AcquisitionDate, ds.AcquisitionTime = spec.study.acquired_date, spec.study.acquired_time
    ds.KVP = None if acquisition.kvp is None else ds_text(acquisition.kvp)
    if acquisition.sdd_mm is not None:
        ds.DistanceSourceToDetector = ds_text(acquisition.sdd_mm)
    if acquisition.sod_mm is not None:
        ds.DistanceSourceToPatient = ds_text(acquisition.sod_mm)
    if acquisition.filter_material:
        ds.FilterType = "FLAT"
    current, time, n_views = acquisition.tube_current_ma, acquisition.exposure_time_ms, acquisition.n_views
    if current is not None and current >= 1:
        ds.XRayTubeCurrent = round(current)
    if time is not None and n_views is not None:
        ds.ExposureTime = round(time * n_views)
        if current is not None:
            # mA times ms are uAs.
            ds.Exposure = round(current * time * n_views / 1000)
            ds.ExposureInuAs = round(current * time * n_views)
    if spec.convolution_kernel:
        ds.ConvolutionKernel = spec.convolution_kernel.upper()
    _, ny, nx = spec.grid.shape
    pz, py, px = spec.grid.voxel_pitch_mm
    ds.ReconstructionDiameter = ds_text(max(nx * px, ny * py))
    ds.SliceThickness = ds_text(pz)


def _image_type(spec: SeriesSpec) -> list[str]:
    """Image Type (PS3.3 C.8.2.1.1.1): original only where CT allows it, calibrated to HU and not averaged."""
    is_original = spec.calibrated_hu and spec.product == "volume"
    second = "PRIMARY" if spec.product == "volume" else "SECONDARY"
    term = [ENERGY_BIN_TERM] if spec.is_multi_energy else []
    return ["ORIGINAL" if is_original else "DERIVED", second, "AXIAL", *term]


def _add_image(ds: Dataset, spec: SeriesSpec) -> None:
    """General Image, Image Plane, Image Pixel, CT Image and VOI LUT (PS3.3 C.7.6.1, .2, .3, C.8.2.1, C.11.2)."""
    _, n_rows, n_cols = spec.grid.shape
    _, py, px = spec.grid.voxel_pitch_mm
    ds.ImageType = _image_type(spec)
    ds.ContentDate, ds.ContentTime = spec.content_date, spec.content_time
    ds.ImageOrientationPatient = [str(cosine) for cosine in image_orientation(axes_of(patient_position(spec)))]
    # Spacing of rows (along y) comes first (PS3.3 10.7.1.3).
    ds.PixelSpacing = [ds_text(py), ds_text(px)]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = n_rows, n_cols
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept = ds_text(spec.slope), ds_text(spec.intercept)
    ds.RescaleType = "HU" if spec.calibrated_hu else "US"
    ds.WindowCenter, ds.WindowWidth = ds_text(spec.window[0]), ds_text(spec.window[1])
    if not spec.calibrated_hu:
        # Windows in 1/mm are narrower than 1, for which the default function is not defined (C.11.2.1.2.1, .3.2).
        ds.VOILUTFunction = "LINEAR_EXACT"
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
