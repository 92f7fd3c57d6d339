# SPDX-License-Identifier: Apache-2.0
"""Small CT objects for tests of the archive."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CT = "1.2.840.10008.5.1.4.1.1.2"


def make_ct(number: int = 1, *, study: int = 1, patient: int = 1, size: int = 16, **values: object) -> Dataset:
    """A small CT data set; its pixels follow from `number`."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = CT
    ds.SOPInstanceUID = f"1.2.826.{patient}.{study}.1.{number}"
    ds.StudyInstanceUID = f"1.2.826.{patient}.{study}"
    ds.SeriesInstanceUID = f"1.2.826.{patient}.{study}.1"
    ds.PatientID = f"P{patient}"
    ds.PatientName = "Müller^Anna=山田^太郎"
    ds.StudyDate = "20260102"
    ds.StudyTime = "093000"
    ds.Modality = "CT"
    ds.SeriesNumber = 1
    ds.InstanceNumber = number
    ds.Rows = ds.Columns = size
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 1
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    pixels = np.random.default_rng(number).integers(-1000, 3000, (size, size), dtype=np.int16)
    ds.PixelData = pixels.tobytes()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def part10(ds: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    """A data set as a Part 10 file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CT)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()
