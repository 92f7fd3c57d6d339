# SPDX-License-Identifier: Apache-2.0
"""The DICOM JSON Model (PS3.18 Annex F) of answers and headers, and the service's own small messages."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydicom.dataelem import DataElement

    from pacs.index import InstanceRecord, Level

#: Longer binary values of the top level are told by address instead of in line [B].
INLINE_BYTES = 1024


#: Elements that are described once for a series: how many, and how long at most [B].
_MAX_KNOWN = 4096
_MAX_KNOWN_BYTES = 16 << 10
_INTEGER_VRS = ("IS", "SL", "SS", "UL", "US")
_DECIMAL_VRS = ("DS", "FD", "FL")
#: Values that a backslash does not part (PS3.5 6.2).
_SINGLE_VRS = ("LT", "ST", "UR", "UT")

#: JSON of elements by what it follows from.
KnownElements = dict[tuple[object, ...], dict[str, Any]]


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


def header_json(
    header: Dataset, instance_url: str, pixels: tuple[str, str] | None = None, *, known: KnownElements | None = None
) -> dict[str, Any]:  # fmt: skip
    """A header as DICOM JSON (PS3.18 10.4.1.1.3); long binary values are told by address.

    Parameters
    ----------
    header : the data set without Pixel Data.
    instance_url : address of the instance.
    pixels : what `pixel_element` says; None if the instance has no Pixel Data.
    known : optional
        Elements that were described already, by what they are made of: those that instances of a series share are
        described once.  It is added to.
    """
    known = {} if known is None else known
    character_set = str(header.get("SpecificCharacterSet", ""))
    described: dict[str, Any] = {}
    for tag in header.keys():
        if tag.group == 2:
            continue
        raw = header.get_item(tag)
        key = _key_of(raw, character_set)
        if key is None or (element := known.get(key)) is None:
            element = _described(header[tag], instance_url)
            if key is not None and "BulkDataURI" not in element and len(known) < _MAX_KNOWN:
                known[key] = element
        described[f"{int(tag):08X}"] = element
    if character_set:
        # Of the JSON text; the values were decoded.
        described["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    if pixels is not None:
        tag_text, vr = pixels
        described[tag_text] = {"vr": vr, "BulkDataURI": f"{instance_url}/bulkdata/{tag_text}"}
    return dict(sorted(described.items()))


def pixel_element(header: Dataset) -> tuple[str, str]:
    """Tag and value representation of an instance's pixels (PS3.3 C.7.6.3, C.7.6.24, C.7.6.25)."""
    bits = int(header.get("BitsAllocated", 8) or 8)
    # Float and Double Float Pixel Data have no Pixel Representation.
    if "PixelRepresentation" not in header and bits in (32, 64):
        return ("7FE00008", "OF") if bits == 32 else ("7FE00009", "OD")
    return "7FE00010", "OW" if bits > 8 else "OB"


def _key_of(raw: object, character_set: str) -> tuple[object, ...] | None:
    """What the JSON of an element follows from; None where it follows from other elements too, or is long."""
    if not isinstance(raw, RawDataElement) or raw.VR in (None, "UN") or len(raw.value or b"") > _MAX_KNOWN_BYTES:
        return None
    return raw.tag, raw.VR, raw.value, raw.is_little_endian, raw.is_implicit_VR, character_set


def _described(element: DataElement, instance_url: str) -> dict[str, Any]:
    """One element as DICOM JSON."""
    tag = f"{int(element.tag):08X}"
    if is_bulk(element):
        return {"vr": str(element.VR), "BulkDataURI": f"{instance_url}/bulkdata/{tag}"}
    alone = Dataset()
    alone.add(element)
    # A value that its VR does not allow is left out.
    found: dict[str, Any] = alone.to_json_dict(suppress_invalid_tags=True).get(tag, {"vr": str(element.VR)})
    return found


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
