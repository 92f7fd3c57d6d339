# SPDX-License-Identifier: Apache-2.0
"""Patient and Specimen modules (PS3.3 C.7.1.1, C.7.6.22): who or what was scanned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pacs.uids import specimen_uid

if TYPE_CHECKING:
    from pacs.description import StudyContext

_HUMAN = ("human", "homo sapiens")
#: Body parts of which there are two (PS3.16 annex L): Laterality has to be there, and only there.
PAIRED_BODY_PARTS = frozenset(
    {"ANKLE", "ARM", "AXILLA", "BREAST", "CALCANEUS", "CALF", "CLAVICLE", "EAR", "ELBOW", "EXTREMITY", "EYE", "FEMUR",
     "FINGER", "FOOT", "FOREARM", "HAND", "HIP", "HUMERUS", "KIDNEY", "KNEE", "LEG", "PATELLA", "RADIUS", "SCAPULA",
     "SHOULDER", "THIGH", "THUMB", "TIBIA", "TOE", "ULNA", "WRIST", "ZYGOMA"}
)  # fmt: skip


def patient_id(study: StudyContext) -> str:
    """Return Patient ID: the patient's, the specimen's identifier, or else the scan id."""
    return study.patient_id or study.scan_id


def patient_name(study: StudyContext) -> str:
    """Return Patient's Name; a specimen without a name is called ``<identifier>^Specimen``."""
    if study.patient_name or not study.is_specimen:
        return study.patient_name
    return f"{name_component(patient_id(study))[:_PN_COMPONENT]}^Specimen"


#: A component group has at most 64 characters (PS3.5 6.2, PN); ``^Specimen`` takes nine.
_PN_COMPONENT = 55


def name_component(text: str) -> str:
    """Return a text without the characters that separate parts of a person name."""
    return text.translate({ord(separator): "-" for separator in "^="})


def add_patient(ds: Dataset, study: StudyContext) -> None:
    """Add the Patient module; an animal's breed and owner are there, empty, as the Standard asks (Type 2C)."""
    ds.PatientID, ds.PatientName = patient_id(study), patient_name(study)
    ds.PatientBirthDate, ds.PatientSex = study.birth_date, study.sex
    if study.species:
        ds.PatientSpeciesDescription = study.species
    if study.species and study.species.lower() not in _HUMAN:
        ds.PatientBreedDescription = ""
        ds.PatientBreedCodeSequence = Sequence([])
        ds.BreedRegistrationSequence = Sequence([])
        ds.PatientSexNeutered = ""
        ds.ResponsiblePerson = ds.ResponsibleOrganization = ""


def add_specimen(ds: Dataset, study: StudyContext) -> None:
    """Add the Specimen module: one specimen in a container of the same identifier."""
    identifier = patient_id(study)
    ds.ContainerIdentifier = identifier
    ds.IssuerOfTheContainerIdentifierSequence = Sequence([])
    ds.ContainerTypeCodeSequence = Sequence([])
    item = Dataset()
    item.SpecimenIdentifier = identifier
    item.IssuerOfTheSpecimenIdentifierSequence = Sequence([])
    item.SpecimenUID = specimen_uid(identifier)
    if study.specimen_description:
        item.SpecimenShortDescription = study.specimen_description
    item.SpecimenPreparationSequence = Sequence([])
    ds.SpecimenDescriptionSequence = Sequence([item])
