# SPDX-License-Identifier: Apache-2.0
"""Instance records for tests of the index."""

from __future__ import annotations

import hashlib

from pacs.index import InstanceRecord, Location


def make_record(
    patient: int = 1,
    study: int = 1,
    series: int = 1,
    number: int = 1,
    *,
    content: str = "",
    uid: str = "",
    **attributes: str,
) -> InstanceRecord:
    """A record; UIDs follow from the numbers, the digest from the UID and `content`."""
    study_uid = f"1.2.{patient}.{study}"
    series_uid = f"{study_uid}.{series}"
    sop_uid = uid or f"{series_uid}.{number}"
    merged = {
        "PatientID": f"P{patient}",
        "PatientName": f"Name{patient}^Given",
        "StudyInstanceUID": study_uid,
        "SeriesInstanceUID": series_uid,
        "SOPInstanceUID": sop_uid,
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "Modality": "CT",
        "InstanceNumber": str(number),
        **attributes,
    }
    digest = hashlib.sha256(f"{sop_uid} {study_uid} {series_uid} {content}".encode()).hexdigest()
    return InstanceRecord(
        sop_instance_uid=sop_uid,
        sop_class_uid=merged["SOPClassUID"],
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        study_uid=study_uid,
        series_uid=series_uid,
        patient_id=merged["PatientID"],
        attributes={keyword: value for keyword, value in merged.items() if value},
        location=Location(f"packs/{digest[:8]}.zip", 100, 2000, digest, digest, 512),
    )
