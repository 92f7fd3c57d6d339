# SPDX-License-Identifier: Apache-2.0
"""Slices become CT instances: right values at the right places, the same bytes every time."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from pacs import provenance
from pacs.decimal_strings import ds_text, rescale_for_range
from pacs.encode import SeriesEncoder
from pacs.errors import EncodingError
from pacs.image_header import series_description, static_dataset
from pacs.part10 import describe_instance
from pacs.patient_axes import AXES, axes_of
from pacs.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, RunKey, derive_uid
from reconstruction.geometry import VolumeGrid
from tests.support.series import ACQUISITION, BINS, PARAMETERS, PATIENT, SPECIMEN, series_spec


@pytest.fixture(autouse=True)
def _strict_writing(monkeypatch):
    monkeypatch.setattr(pydicom_config.settings, "writing_validation_mode", pydicom_config.RAISE)
    monkeypatch.setattr(pydicom_config.settings, "reading_validation_mode", pydicom_config.RAISE)


def _values(spec, seed=0):
    generator = np.random.default_rng(seed)
    return generator.uniform(0.0, 0.1, spec.grid.shape).astype(np.float32)


def _read(encoded):
    return pydicom.dcmread(io.BytesIO(encoded.part10_bytes))


def _calibrated(**changes):
    return series_spec(calibrated_hu=True, slope=1.0, intercept=-1024.0, window=(40.0, 400.0), **changes)


SPECS = {
    "specimen": series_spec(),
    "counter": series_spec(bin_index=2),
    "preview": series_spec(product="preview", preview_factor=2),
    "patient": series_spec(study=PATIENT),
    "animal": series_spec(study=replace(SPECIMEN, species="Mus musculus", patient_id="M^1=2")),
    "chest": series_spec(study=replace(PATIENT, body_part="CHEST", sex="", birth_date="")),
    "feet first": series_spec(study=replace(PATIENT, patient_position="FFP")),
    "hounsfield bins": _calibrated(),
    "hounsfield counter": _calibrated(bin_index=2),
    "hounsfield preview": _calibrated(product="preview", preview_factor=3),
    "one bin in HU": _calibrated(bins=BINS[:1]),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_bytes_are_those_that_pydicom_writes(spec):
    values = _values(spec)
    encoded = SeriesEncoder(spec).encode_slice(2, values[2])
    position = _read(encoded).ImagePositionPatient

    ds = Dataset()
    ds.update(static_dataset(spec))
    ds.SOPInstanceUID = encoded.sop_instance_uid
    ds.InstanceNumber = 3
    ds.ImagePositionPatient = [ds_text(coordinate) for coordinate in position]
    ds.SliceLocation = ds_text(spec.grid.origin_mm[2] + 2 * spec.grid.voxel_pitch_mm[0])
    ds.add_new(provenance.private_address(provenance.CLIPPED_VOXELS), "UL", encoded.n_clipped)
    stored = np.clip(np.rint((values[2].astype(np.float64) - spec.intercept) / spec.slope), -32768, 32767)
    ds.add_new("PixelData", "OW", stored.astype("<i2").tobytes())
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = encoded.sop_instance_uid
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    ds.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    expected = io.BytesIO()
    pydicom.dcmwrite(expected, ds, enforce_file_format=True)
    assert encoded.part10_bytes == expected.getvalue()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_header_is_what_a_reader_of_the_file_finds(spec):
    encoded = SeriesEncoder(spec).encode_slice(1, _values(spec)[1])
    assert describe_instance(encoded.part10_bytes) == encoded.header
    ds = _read(encoded)
    assert encoded.part10_bytes[encoded.pixel_offset :] == ds.PixelData
    assert encoded.attributes["SeriesDescription"] == ds.SeriesDescription == series_description(spec)


def test_values_come_back_within_half_a_step():
    spec = series_spec()
    values = _values(spec)
    encoder = SeriesEncoder(spec)
    for z, plane in enumerate(values):
        encoded = encoder.encode_slice(z, plane)
        ds = _read(encoded)
        decoded = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        assert np.abs(decoded - plane.astype(np.float64)).max() <= spec.slope / 2 * (1 + 1e-9)
        assert encoded.n_clipped == 0
        mapping = ds.RealWorldValueMappingSequence[0]
        assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (spec.slope, spec.intercept)
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "/mm"


def test_clipped_voxels_are_counted_in_the_header():
    spec = series_spec()
    values = _values(spec)[0]
    values[0, 0], values[1, 1], values[4, 5] = 1.0, -1.0, 5.0
    encoded = SeriesEncoder(spec).encode_slice(0, values)
    ds = _read(encoded)
    assert encoded.n_clipped == 3
    assert ds[provenance.private_address(provenance.CLIPPED_VOXELS)].value == 3
    assert ds.pixel_array[0, 0] == 32767
    assert ds.pixel_array[1, 1] == -32768


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_refused(bad):
    spec = series_spec()
    values = _values(spec)[0]
    values[3, 2] = bad
    with pytest.raises(EncodingError, match="slice 0 has 1 voxels that are not finite"):
        SeriesEncoder(spec).encode_slice(0, values)


def test_slices_outside_the_grid_or_of_another_shape_are_refused():
    encoder = SeriesEncoder(series_spec())
    with pytest.raises(EncodingError, match="slice 4 is not one of the 4"):
        encoder.encode_slice(4, np.zeros((5, 6), np.float32))
    with pytest.raises(EncodingError, match=r"has the shape \(6, 5\), expected \(5, 6\)"):
        encoder.encode_slice(0, np.zeros((6, 5), np.float32))


@pytest.mark.parametrize("position", AXES)
def test_an_asymmetric_volume_is_not_mirrored(position):
    """A marker's place computed by PS3.3 equation C.7.6.2.1-1 from the files is the one it has in the volume."""
    spec = series_spec(study=replace(PATIENT, patient_position=position))
    marker = (3, 1, 4)
    values = np.zeros(spec.grid.shape, np.float32)
    values[marker] = 0.1
    encoder = SeriesEncoder(spec)
    datasets = [_read(encoder.encode_slice(z, values[z])) for z in range(4)]
    found = [ds for ds in datasets if ds.pixel_array.max() > ds.pixel_array.min()]
    assert len(found) == 1
    ds = found[0]
    row, column = np.unravel_index(np.argmax(ds.pixel_array), ds.pixel_array.shape)
    orientation = np.array(ds.ImageOrientationPatient, float)
    place = (
        np.array(ds.ImagePositionPatient, float)
        + column * float(ds.PixelSpacing[1]) * orientation[:3]
        + row * float(ds.PixelSpacing[0]) * orientation[3:]
    )
    z, y, x = marker
    pz, py, px = spec.grid.voxel_pitch_mm
    ox, oy, oz = spec.grid.origin_mm
    in_volume = np.array([ox + x * px, oy + y * py, oz + z * pz])
    axes = axes_of(position)
    to_patient = np.array([axes.x, axes.y, axes.z], float).T
    assert np.linalg.det(to_patient) == 1
    assert place == pytest.approx(to_patient @ in_volume, abs=1e-12)
    # Rows, columns and rising slices make a right-handed set.
    rising = np.array(datasets[1].ImagePositionPatient, float) - np.array(datasets[0].ImagePositionPatient, float)
    assert np.cross(orientation[:3], orientation[3:]) @ rising == pytest.approx(pz)
    assert ds.PatientPosition == (position or "HFS")


def test_head_first_supine_is_the_volume_frame_itself():
    spec = series_spec(study=PATIENT)
    ds = _read(SeriesEncoder(spec).encode_slice(0, _values(spec)[0]))
    assert list(ds.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert [float(value) for value in ds.ImagePositionPatient] == pytest.approx(spec.grid.origin_mm, abs=1e-12)
    assert (ds.PatientPosition, ds.PatientID, str(ds.PatientName)) == ("HFS", "P-17", "Müller^Jörg")


def test_positions_have_all_the_digits_that_a_decimal_string_holds():
    pitch = 1 / 30
    spec = series_spec(grid=VolumeGrid((3000, 1, 1), (pitch, pitch, pitch), (0.0, 0.0, 0.0)))
    encoder = SeriesEncoder(spec)
    for z in (0, 1, 1499, 1500, 2999):
        ds = _read(encoder.encode_slice(z, np.zeros((1, 1), np.float32)))
        expected = (z - 2999 / 2) * pitch
        assert float(ds.ImagePositionPatient[2]) == pytest.approx(expected, abs=1e-11)
        assert ds.InstanceNumber == z + 1


def test_same_input_gives_the_same_bytes_in_any_order():
    spec = series_spec()
    values = _values(spec)
    first = [SeriesEncoder(spec).encode_slice(z, values[z]) for z in range(4)]
    again = SeriesEncoder(series_spec())
    second = {z: again.encode_slice(z, values[z].copy()) for z in (3, 1, 0, 2)}
    assert first == [second[z] for z in range(4)]


def test_uids_follow_the_run_and_nothing_else():
    spec = series_spec()
    plane = _values(spec)[0]

    def uids(**changes):
        ds = _read(SeriesEncoder(series_spec(**changes)).encode_slice(0, plane))
        return ds.StudyInstanceUID, ds.FrameOfReferenceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID

    study, frame, series, instance = uids()
    for changes in (
        {"bin_index": 1},
        {"product": "preview"},
        {"parameters": {**PARAMETERS, "backend": "cupy"}},
        {"key": RunKey("a" * 64, spec.key.parameters_sha256, "second")},
    ):
        other = uids(**changes)
        assert other[:2] == (study, frame)
        assert other[2] != series
        assert other[3] != instance
    assert uids(content_time="090000") == (study, frame, series, instance)
    other_scan = uids(key=RunKey("b" * 64, spec.key.parameters_sha256))
    assert other_scan[0] == study
    assert len({frame, series, instance} | set(other_scan[1:])) == 6
    ordered = uids(study=replace(SPECIMEN, study_uid="1.2.3"))
    assert ordered == ("1.2.3", frame, series, instance)


def test_derived_uids_never_change():
    """What was written once has to be found again by the same names in any later version."""
    assert derive_uid("study", "stone-07") == STONE_STUDY_UID
    assert derive_uid("a", "b") != derive_uid("ab")


STONE_STUDY_UID = "2.25.4651283966921696429307424798766002887"


def test_provenance_is_in_every_header():
    spec = series_spec(bin_index=2)
    ds = _read(SeriesEncoder(spec).encode_slice(0, _values(spec)[0]))
    block = ds.private_block(0x0021, "CONEPACS 1.0")
    assert block[provenance.PARAMETERS_JSON].value == provenance.canonical_json(PARAMETERS)
    assert block[provenance.PARAMETERS_SHA256].value == spec.key.parameters_sha256
    assert block[provenance.SCAN_SHA256].value == "a" * 64
    assert (block[provenance.BIN_INDEX].value, block[provenance.BIN_KIND].value) == (2, "COUNTER")
    assert block[provenance.BIN_LOW_KEV].value == 70.0
    assert provenance.BIN_HIGH_KEV not in block
    assert "everything above its threshold" in ds.DerivationDescription
    assert ds.SeriesDescription == "Bin 3/3: >70 keV (counter), mu 1/mm, hann 0.9"
    assert ds.ContributingEquipmentSequence[0].SoftwareVersions == "ConePACS 0.1.0"
    assert ds.ConvolutionKernel == "HANN 0.9"


def test_a_filter_other_than_the_plain_ramp_is_named_in_the_list_of_series():
    for kernel, text in (("ram-lak 1", ""), ("", ""), ("ram-lak 0.8", ", ram-lak 0.8"), ("hann 1", ", hann 1")):
        spec = series_spec(bin_index=2, convolution_kernel=kernel)
        assert series_description(spec) == f"Bin 3/3: >70 keV (counter), mu 1/mm{text}"


def test_a_method_other_than_fdk_is_named_in_the_list_of_series():
    for method in ("sirt", "os-sart", "tv"):
        spec = series_spec(parameters=PARAMETERS | {"request": {"iterative": {"method": method}}}, bin_index=2)
        assert series_description(spec) == f"Bin 3/3: >70 keV (counter), mu 1/mm, {method}"
        many = replace(spec, bins=tuple(replace(BINS[1], index=k, low_kev=100.25, high_kev=120.5) for k in range(12)))
        assert len(series_description(replace(many, product="preview", preview_factor=16))) <= 64


def test_uncalibrated_series_claims_no_hounsfield_units():
    spec = series_spec()
    ds = _read(SeriesEncoder(spec).encode_slice(0, _values(spec)[0]))
    assert list(ds.ImageType) == ["DERIVED", "PRIMARY", "AXIAL"]
    assert ds.RescaleType == "US"
    assert "MultienergyCTAcquisition" not in ds
    assert float(ds.KVP) == 120


def test_calibrated_bins_list_all_paths():
    spec = _calibrated(bin_index=1)
    ds = _read(SeriesEncoder(spec).encode_slice(0, _values(spec)[0]))
    assert list(ds.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL", "ENERGY_BIN"]
    assert ds.RescaleType == "HU"
    assert ds.MultienergyCTAcquisition == "YES"
    acquisition = ds.MultienergyCTAcquisitionSequence[0]
    assert len(acquisition.MultienergyCTPathSequence) == len(acquisition.MultienergyCTXRayDetectorSequence) == 3
    assert ds.KVP is None


def test_calibrated_bins_without_exposure_are_refused():
    with pytest.raises(EncodingError, match="need kvp, n_views of the acquisition"):
        SeriesEncoder(_calibrated(acquisition=replace(ACQUISITION, kvp=None, n_views=None)))


def test_a_specimen_stands_in_for_a_patient():
    ds = static_dataset(series_spec())
    assert (ds.PatientID, str(ds.PatientName), ds.PatientSex) == ("stone-07", "stone-07^Specimen", "")
    assert ds.PatientPosition == ""
    assert ds.SpecimenDescriptionSequence[0].SpecimenIdentifier == "stone-07"
    animal = static_dataset(SPECS["animal"])
    assert str(animal.PatientName) == "M-1-2^Specimen"
    assert animal.PatientSpeciesDescription == "Mus musculus"
    assert "ResponsiblePerson" in animal


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bin_index": 7}, "bin 7 is not one of the bins"),
        ({"slope": 1 / 3}, "slope 0.3333333333333333 is not exact"),
        ({"slope": -1.0}, "slope and window width must be positive"),
        ({"content_date": ""}, "content date and time must be given"),
        ({"content_date": "2026-01-06"}, "content_date .* must be one date or time of digits"),
        ({"key": RunKey("a" * 64, "b" * 64)}, "parameters_sha256 is not that of the parameters"),
        ({"parameters": {"x": float("nan")}}, "cannot be written as JSON"),
        ({"grid": VolumeGrid((1, 70000, 2), (1, 1, 1))}, "does not fit a DICOM image"),
    ],
)
def test_a_series_that_cannot_be_written_is_refused_before_work(changes, message):
    with pytest.raises(EncodingError, match=message):
        series_spec(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study_description": "x" * 65}, "study_description of scan 'stone-07' does not fit"),
        ({"patient_id": "a\\b"}, "must not have a backslash"),
        ({"study_uid": "../etc"}, "must be a UID"),
        ({"sex": "X"}, "sex must be one of"),
        ({"laterality": "L"}, "laterality L needs a paired body part"),
        ({"study_date": "20260105-20260106"}, "study_date of scan"),
        ({"patient_position": "UPSIDE"}, "unknown patient position 'UPSIDE'"),
        ({"is_specimen": False}, "a patient needs a patient id"),
    ],
)
def test_a_study_that_dicom_cannot_hold_is_refused(changes, message):
    with pytest.raises((EncodingError, ValueError), match=message):
        replace(SPECIMEN, **changes)


@given(st.floats(-1e99, 1e99))
def test_decimal_strings_are_short_and_close(value):
    text = ds_text(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, rel=1e-8, abs=1e-90)
    if len(repr(value)) <= 16:
        assert float(text) == value


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e7))
def test_rescale_covers_the_range_and_survives_its_text(low, width):
    high = low + width
    if not low < high or max(abs(low), abs(high)) > 1e4 * (high - low):
        return
    slope, intercept = rescale_for_range(low, high)
    assert float(ds_text(slope)) == slope
    assert float(ds_text(intercept)) == intercept
    assert -32768 <= np.rint((low - intercept) / slope)
    assert np.rint((high - intercept) / slope) <= 32767
    assert slope <= 1.0002 * width / 65533
    if low <= 0 <= high:
        assert abs(-intercept / slope - round(-intercept / slope)) < 1e-6
