# SPDX-License-Identifier: Apache-2.0
"""The DICOM JSON Model (PS3.18 Annex F) of answers and headers, and the service's own small messages."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydicom.dataelem import DataElement

    from pacs.index import InstanceRecord, Level

#: Longer binary values of the top level are told by address instead of in line [B].
INLINE_BYTES = 1024


_INTEGER_VRS = ("IS", "SL", "SS", "UL", "US")
_DECIMAL_VRS = ("DS", "FD", "FL")
#: Values that a backslash does not part (PS3.5 6.2).
_SINGLE_VRS = ("LT", "ST", "UR", "UT")


class Health(BaseModel):
    """Answer of ``/health``."""

    status: str
    version: str


def search_answer(found: Mapping[str, str], level: Level, base_url: str) -> dict[str, Any]:
    """One match of a search as DICOM JSON, with where to retrieve it (PS3.18 10.6.3.3).

    Parameters
    ----------
    found : values by keyword, as `pacs.index.Index.find` gives them.
    base_url : address of the DICOMweb service.
    """
    values = {
        **found,
        "SpecificCharacterSet": "ISO_IR 192",
        "InstanceAvailability": "ONLINE",
        "RetrieveURL": base_url + resource_path(found, level),
    }
    return dict(sorted(_json_element(keyword, value) for keyword, value in values.items()))


def resource_path(found: Mapping[str, str], level: Level) -> str:
    """Path of a study, series or instance below the base."""
    path = f"/studies/{found['StudyInstanceUID']}"
    if level in ("SERIES", "IMAGE"):
        path += f"/series/{found['SeriesInstanceUID']}"
    if level == "IMAGE":
        path += f"/instances/{found['SOPInstanceUID']}"
    return path


def record_path(record: InstanceRecord) -> str:
    """Path of an instance below the base."""
    return f"/studies/{record.study_uid}/series/{record.series_uid}/instances/{record.sop_instance_uid}"


def header_json(header: Dataset, instance_url: str, pixel_vr: str = "") -> dict[str, Any]:
    """A header as DICOM JSON (PS3.18 10.4.1.1.3); long binary values are told by address.

    Parameters
    ----------
    header : the data set without Pixel Data.
    instance_url : address of the instance.
    pixel_vr : value representation of Pixel Data; empty if the instance has none.
    """
    bulk = [element.tag for element in header if is_bulk(element)]
    inline = Dataset()
    for element in header:
        if element.tag.group != 2 and element.tag not in bulk:
            inline.add(element)
    if "SpecificCharacterSet" in inline:
        # Of the JSON text; the values were decoded.
        inline.SpecificCharacterSet = "ISO_IR 192"
    described: dict[str, Any] = inline.to_json_dict(suppress_invalid_tags=True)
    bulk_vrs = {f"{int(tag):08X}": str(header[tag].VR) for tag in bulk}
    if pixel_vr:
        bulk_vrs["7FE00010"] = pixel_vr
    for tag, vr in bulk_vrs.items():
        described[tag] = {"vr": vr, "BulkDataURI": f"{instance_url}/bulkdata/{tag}"}
    return dict(sorted(described.items()))


def is_bulk(element: DataElement) -> bool:
    """Whether a value is long and binary."""
    return isinstance(element.value, bytes) and len(element.value) > INLINE_BYTES


def _json_element(keyword: str, text: str) -> tuple[str, dict[str, Any]]:
    """Tag and JSON of one attribute from its text; a value that its VR does not allow is left empty."""
    vr = dictionary_VR(keyword).split(" or ", maxsplit=1)[0]
    parts = [text] if vr in _SINGLE_VRS else text.split("\\")
    element: dict[str, Any] = {"vr": vr}
    values = [_json_value(vr, part) for part in parts]
    if any(value is not None for value in values):
        element["Value"] = values
    return f"{tag_for_keyword(keyword) or 0:08X}", element


def _json_value(vr: str, text: str) -> Any:
    """One value; None for an empty one."""
    if not text:
        return None
    if vr == "PN":
        names = zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False)
        return {kind: name for kind, name in names if name} or None
    if vr in _INTEGER_VRS or vr in _DECIMAL_VRS:
        try:
            number = int(text) if vr in _INTEGER_VRS else float(text)
        except ValueError:
            return None
        return number if math.isfinite(number) else None
    return text
