# SPDX-License-Identifier: Apache-2.0
"""The attributes that the index keeps, by level of the Query/Retrieve models (PS3.4 C.6).

`InstanceRecord.attributes` holds these keywords and no others; a keyword that an instance does not have, or
has empty, is left out.  Values are text, decoded to Unicode, multi-values joined by a backslash.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pacs.index import Level

#: The levels from the top down.
LEVELS: tuple[Level, ...] = ("PATIENT", "STUDY", "SERIES", "IMAGE")

#: Unique key of each level.
UNIQUE_KEYS: Mapping[Level, str] = MappingProxyType(
    {
        "PATIENT": "PatientID",
        "STUDY": "StudyInstanceUID",
        "SERIES": "SeriesInstanceUID",
        "IMAGE": "SOPInstanceUID",
    }
)

#: What is kept at each level, its unique key first.
INDEXED_KEYWORDS: Mapping[Level, tuple[str, ...]] = MappingProxyType(
    {
        "PATIENT": (
            "PatientID",
            "PatientName",
            "IssuerOfPatientID",
            "PatientBirthDate",
            "PatientBirthTime",
            "PatientSex",
            "PatientSpeciesDescription",
            "PatientComments",
        ),
        "STUDY": (
            "StudyInstanceUID",
            "StudyDate",
            "StudyTime",
            "AccessionNumber",
            "StudyID",
            "StudyDescription",
            "ReferringPhysicianName",
            "PatientAge",
            "PatientSize",
            "PatientWeight",
            "AdditionalPatientHistory",
        ),
        "SERIES": (
            "SeriesInstanceUID",
            "Modality",
            "SeriesNumber",
            "SeriesDescription",
            "SeriesDate",
            "SeriesTime",
            "BodyPartExamined",
            "ProtocolName",
            "PatientPosition",
            "Laterality",
            "FrameOfReferenceUID",
            "Manufacturer",
            "ManufacturerModelName",
            "StationName",
            "InstitutionName",
            "PerformedProcedureStepStartDate",
            "PerformedProcedureStepStartTime",
            "OperatorsName",
            "PerformingPhysicianName",
        ),
        "IMAGE": (
            "SOPInstanceUID",
            "SOPClassUID",
            "InstanceNumber",
            "ImageType",
            "AcquisitionNumber",
            "AcquisitionDate",
            "AcquisitionTime",
            "ContentDate",
            "ContentTime",
            "Rows",
            "Columns",
            "NumberOfFrames",
            "SamplesPerPixel",
            "PhotometricInterpretation",
            "BitsAllocated",
            "BitsStored",
            "PixelRepresentation",
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "SliceThickness",
            "SliceLocation",
            "RescaleSlope",
            "RescaleIntercept",
            "RescaleType",
            "WindowCenter",
            "WindowWidth",
            "LossyImageCompression",
        ),
    }
)

#: All of them, top down.
ALL_KEYWORDS: tuple[str, ...] = tuple(keyword for level in LEVELS for keyword in INDEXED_KEYWORDS[level])

#: The level that each keyword belongs to.
LEVEL_OF: Mapping[str, Level] = MappingProxyType(
    {keyword: level for level in LEVELS for keyword in INDEXED_KEYWORDS[level]}
)
