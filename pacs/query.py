# SPDX-License-Identifier: Apache-2.0
"""C-FIND identifiers and QIDO-RS parameters to `Query`, and matches back to data sets (border 5).

Hierarchical queries of the Patient Root and Study Root models (PS3.4 C.4.1).  QIDO-RS (PS3.18 10.6) asks the
same `Query`, without the demand for unique keys above the level.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydicom import config
from pydicom.charset import decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import TEXT_VR_DELIMS

from pacs.attributes import INDEXED_KEYWORDS, LEVEL_OF, LEVELS, UNIQUE_KEYS
from pacs.errors import InvalidQueryError
from pacs.index import Match, Query
from pacs.matching import canonical, canonical_range, is_universal, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pacs.index import Level

Model = Literal["PATIENT_ROOT", "STUDY_ROOT"]

#: Computed attributes (PS3.4 C.3.4) and the level that they describe.
COMPUTED_LEVEL: dict[str, Level] = {
    "NumberOfPatientRelatedStudies": "PATIENT",
    "NumberOfPatientRelatedSeries": "PATIENT",
    "NumberOfPatientRelatedInstances": "PATIENT",
    "ModalitiesInStudy": "STUDY",
    "SOPClassesInStudy": "STUDY",
    "NumberOfStudyRelatedSeries": "STUDY",
    "NumberOfStudyRelatedInstances": "STUDY",
    "NumberOfSeriesRelatedInstances": "SERIES",
}
#: Computed attributes that can also be matched.
MATCHED_COMPUTED = ("ModalitiesInStudy", "SOPClassesInStudy")
#: Answered by the service itself, never matched.
_SERVICE_KEYS = ("QueryRetrieveLevel", "SpecificCharacterSet", "RetrieveAETitle", "InstanceAvailability")
#: What QIDO-RS answers without being asked (PS3.18 Table 10.6.3-3 to 5).
_QIDO_DEFAULTS: dict[Level, tuple[str, ...]] = {
    "PATIENT": INDEXED_KEYWORDS["PATIENT"],
    "STUDY": (
        *("StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "ReferringPhysicianName", "StudyID"),
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDescription"),
        *("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"),
    ),
    "SERIES": (
        *("Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber", "NumberOfSeriesRelatedInstances"),
        *("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "StudyInstanceUID"),
    ),
    "IMAGE": (
        *("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames"),
        *("SeriesInstanceUID", "StudyInstanceUID"),
    ),
}
#: Value representations of numbers; stored text that is none is answered empty.
_NUMBERS: dict[str, Callable[[str], float]] = {
    **dict.fromkeys(("US", "SS", "UL", "SL", "US or SS", "IS"), int),
    **dict.fromkeys(("FL", "FD", "DS"), float),
}
_MAX_VALUE_CHARACTERS = 1024
_MAX_UIDS = 10_000
_UID = re.compile(r"[0-9.]{1,64}\Z")
_DATE = re.compile(r"\d{8}\Z")
_TIME = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?\Z")
_DATETIME = re.compile(r"\d{4}(\d{2}){0,5}(\.\d{1,6})?\Z")
_DATETIME_RANGE = re.compile(r"(?P<low>[\d.]*([+-]\d{4}(?=-))?)-(?P<high>[\d.]*([+-]\d{4})?)\Z")


@dataclass(frozen=True, slots=True)
class RetrieveKeys:
    """The unique keys of a C-GET or C-MOVE identifier: what `Index.instances` is asked for."""

    level: Level
    patient_id: str | None = None
    study_uids: tuple[str, ...] = ()
    series_uids: tuple[str, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QidoRequest:
    """A QIDO-RS request; `warnings` are plain sentences for a Warning header."""

    query: Query
    limit: int | None = None
    offset: int = 0
    warnings: tuple[str, ...] = ()


def parse_find(identifier: Dataset, *, model: Model) -> Query:
    """Read a C-FIND identifier.

    Keys below the level, sequences, private and unknown attributes are not matched.

    Raises
    ------
    InvalidQueryError
        If the level is missing or unknown, a unique key above the level is missing, or a value is malformed.
    """
    values = identifier_values(identifier)
    level = _level(values, model)
    _require_unique_keys_above(values, level, model)
    matches: dict[str, Match] = {}
    wanted: list[str] = []
    for keyword, value in values.items():
        if not _is_known(keyword, level):
            continue
        wanted.append(keyword)
        if keyword in COMPUTED_LEVEL and keyword not in MATCHED_COMPUTED:
            continue
        match = parse_match(keyword, value)
        if match is not None:
            matches[keyword] = match
    return Query(level=level, matches=matches, wanted=tuple(wanted))


def parse_retrieve(identifier: Dataset, *, model: Model) -> RetrieveKeys:
    """Read a C-GET or C-MOVE identifier (PS3.4 C.4.2.1.4): unique keys only, lists at the level asked for.

    Raises
    ------
    InvalidQueryError
        If the level or one of the unique keys down to it is missing or malformed.
    """
    values = identifier_values(identifier)
    level = _level(values, model)
    _require_unique_keys_above(values, level, model)
    if not values.get(UNIQUE_KEYS[level], "").strip():
        raise InvalidQueryError(f"A retrieve at {level} level needs {UNIQUE_KEYS[level]}, which is missing or empty.")
    keys = {keyword: parse_match(keyword, values.get(keyword, "")) for keyword in UNIQUE_KEYS.values()}
    exact = {keyword: match.exact if match is not None else () for keyword, match in keys.items()}
    patient = keys["PatientID"]
    if patient is not None and (patient.wildcard or len(patient.exact) != 1):
        raise InvalidQueryError("A retrieve needs one PatientID, without wildcards.")
    return RetrieveKeys(
        level=level,
        patient_id=patient.exact[0] if patient is not None else None,
        study_uids=exact["StudyInstanceUID"],
        series_uids=exact["SeriesInstanceUID"],
        sop_instance_uids=exact["SOPInstanceUID"],
    )


def parse_match(keyword: str, value: str) -> Match | None:
    """One key's value as a `Match`; None if it matches everything.

    Raises
    ------
    InvalidQueryError
        If the value is too long, or not of the form that its value representation asks for.
    """
    text = value.strip()
    kind = kind_of(keyword)
    if not text or text.replace("\\", "").strip() == "" or (kind != "name" and text.strip("*") == ""):
        return None
    if kind == "uid":
        return _uid_match(keyword, text)
    if len(text) > _MAX_VALUE_CHARACTERS:
        raise InvalidQueryError(f"{keyword} has {len(text)} characters, at most {_MAX_VALUE_CHARACTERS} are matched.")
    if kind in ("date", "time", "datetime"):
        return _moment_match(keyword, text)
    if kind not in ("integer", "decimal") and ("*" in text or "?" in text):
        return None if is_universal(text) else Match(wildcard=text)
    return Match(exact=tuple(part.strip() for part in text.split("\\") if part.strip()))


def response_dataset(
    found: Mapping[str, str], identifier: Dataset, level: Level, *, retrieve_ae_title: str
) -> Dataset:  # fmt: skip
    """One pending C-FIND response: every key that was asked for, empty where it is not supported."""
    response = Dataset()
    for tag in identifier.keys():
        keyword = keyword_for_tag(tag)
        if not keyword or tag.group == 0 or keyword in _SERVICE_KEYS:
            continue
        add_text_element(response, keyword, found.get(keyword, ""))
    for above in LEVELS[: LEVELS.index(level) + 1]:
        unique = UNIQUE_KEYS[above]
        if unique in found and unique not in response:
            add_text_element(response, unique, found[unique])
    add_text_element(response, "SpecificCharacterSet", "ISO_IR 192")
    add_text_element(response, "QueryRetrieveLevel", level)
    add_text_element(response, "RetrieveAETitle", retrieve_ae_title)
    add_text_element(response, "InstanceAvailability", "ONLINE")
    return response


def add_text_element(ds: Dataset, keyword: str, value: str) -> None:
    """Add one attribute from its text form (multi-values joined by a backslash), without judging its value."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise InvalidQueryError(f"'{keyword}' is not an attribute of the data dictionary.")
    vr = dictionary_VR(keyword)
    ds.add(DataElement(tag, _single_vr(vr), _typed_value(vr, value), validation_mode=config.IGNORE))


def query_from_qido(params: Iterable[tuple[str, str]], level: Level) -> QidoRequest:
    """Read the parameters of a QIDO-RS search (PS3.18 8.3.4), in the order given.

    Keys are keywords or GGGGEEEE.  Keys of the path (``/studies/{uid}/series``) are passed like parameters.
    ``fuzzymatching=true`` and attributes that the index does not hold are answered with a warning.

    Raises
    ------
    InvalidQueryError
        If a parameter is unknown, or its value malformed.
    """
    matches: dict[str, Match] = {}
    wanted: dict[str, None] = dict.fromkeys(_QIDO_DEFAULTS[level])
    warnings: list[str] = []
    numbers: dict[str, int] = {}
    for name, value in params:
        if name in ("limit", "offset"):
            numbers[name] = _natural(name, value)
        elif name == "fuzzymatching":
            if value.lower() != "false":
                warnings.append("fuzzymatching is not supported; names were matched literally.")
        elif name == "includefield":
            _include(value, level, wanted, warnings)
        else:
            keyword = _qido_keyword(name)
            if not _is_known(keyword, level) or (keyword in COMPUTED_LEVEL and keyword not in MATCHED_COMPUTED):
                warnings.append(f"{keyword} is not matched at this level.")
                continue
            wanted[keyword] = None
            separated = value.replace(",", "\\") if kind_of(keyword) == "uid" else value
            match = parse_match(keyword, separated)
            if match is not None:
                matches[keyword] = match
    _want_unique_keys(level, wanted)
    query = Query(level=level, matches=matches, wanted=tuple(wanted))
    return QidoRequest(query, numbers.get("limit"), numbers.get("offset", 0), tuple(warnings))


def identifier_values(identifier: Dataset) -> dict[str, str]:
    """Values by keyword as Unicode text, multi-values joined by a backslash; sequences and private ones left out.

    Raises
    ------
    InvalidQueryError
        If the character set is not known, or a value is not in it.
    """
    encodings = _encodings(identifier)
    values: dict[str, str] = {}
    for tag in identifier.keys():
        keyword = keyword_for_tag(tag)
        if keyword and tag.group != 0 and dictionary_VR(keyword) not in ("SQ", "OB", "OW", "UN"):
            values[keyword] = _element_text(identifier, tag, keyword, encodings)
    return values


def _element_text(ds: Dataset, tag: BaseTag, keyword: str, encodings: list[str]) -> str:
    """The value of one element, raw or not, as text."""
    element: Any = ds.get_item(tag)
    value = element.value if element is not None else None
    if value is None:
        return ""
    if isinstance(element, RawDataElement):
        if dictionary_VR(keyword) in ("US", "UL", "SS", "SL", "US or SS"):
            number = int.from_bytes(value, "little" if element.is_little_endian else "big")
            return str(number) if value else ""
        try:
            # Without code extensions pydicom would only warn of bytes that are not in the character set.
            text = value.decode(encodings[0]) if len(encodings) == 1 else decode_bytes(value, encodings, TEXT_VR_DELIMS)
        except (UnicodeError, LookupError) as error:
            raise InvalidQueryError(f"{keyword} is not in the character set that the request names.") from error
        return text.strip(" \0")
    if isinstance(value, (str, int, float)) or not hasattr(value, "__iter__") or hasattr(value, "components"):
        return str(value)
    return "\\".join(str(part) for part in value)


def _encodings(identifier: Dataset) -> list[str]:
    """Python's codecs for Specific Character Set (0008,0005)."""
    tag = Tag(0x0008, 0x0005)
    if tag not in identifier:
        return ["iso8859"]
    names = _element_text(identifier, tag, "SpecificCharacterSet", ["iso8859"]).split("\\")
    unknown = [name for name in names if name.strip() not in python_encoding]
    if unknown:
        raise InvalidQueryError(f"SpecificCharacterSet '{unknown[0]}' is not known.")
    return [python_encoding[name.strip()] for name in names]


def _level(values: Mapping[str, str], model: Model) -> Level:
    """The level asked for, if the model has it."""
    text = values.get("QueryRetrieveLevel", "").strip()
    allowed = LEVELS if model == "PATIENT_ROOT" else LEVELS[1:]
    for level in allowed:
        if level == text:
            return level
    names = ", ".join(allowed)
    if not text:
        raise InvalidQueryError(f"QueryRetrieveLevel is missing, expected one of {names}.")
    raise InvalidQueryError(f"QueryRetrieveLevel is '{text}', expected one of {names}.")


def _require_unique_keys_above(values: Mapping[str, str], level: Level, model: Model) -> None:
    """Refuse a hierarchical request that does not say under which patient, study or series (PS3.4 C.4.1.2.1)."""
    first = 0 if model == "PATIENT_ROOT" else 1
    for above in LEVELS[first : LEVELS.index(level)]:
        keyword = UNIQUE_KEYS[above]
        value = values.get(keyword, "").strip()
        if not value or "*" in value or "?" in value:
            raise InvalidQueryError(f"{level} level needs {keyword} as a single value, got '{value}'.")


def _is_known(keyword: str, level: Level) -> bool:
    """Whether the index holds or computes the attribute at this level or above."""
    of = LEVEL_OF.get(keyword) or COMPUTED_LEVEL.get(keyword)
    return of is not None and LEVELS.index(of) <= LEVELS.index(level)


def _uid_match(keyword: str, text: str) -> Match:
    """A UID or list of UIDs (PS3.4 C.2.2.2.2)."""
    uids = tuple(dict.fromkeys(part.strip(" \0") for part in text.split("\\") if part.strip(" \0")))
    if len(uids) > _MAX_UIDS:
        raise InvalidQueryError(f"{keyword} lists {len(uids)} UIDs, at most {_MAX_UIDS} are matched.")
    for uid in uids:
        if not _UID.match(uid):
            raise InvalidQueryError(f"{keyword} is not a UID: '{uid[:64]}'.")
    return Match(exact=uids)


def _moment_match(keyword: str, text: str) -> Match:
    """A date, time or both: single value or range (PS3.4 C.2.2.2.5); a shortened time means all that it covers."""
    kind = kind_of(keyword)
    if kind == "datetime":
        found = _DATETIME_RANGE.match(text)
        low, high = (found["low"], found["high"]) if found else (text, text)
        is_range = found is not None
    else:
        first, dash, second = text.partition("-")
        low, high = (first.strip(), second.strip()) if dash else (text, text)
        is_range = bool(dash)
    if is_range and not low and not high:
        raise InvalidQueryError(f"{keyword} is '{text}', a range without ends.")
    form = {"date": _DATE, "time": _TIME, "datetime": _DATETIME}[kind]
    expected = {"date": "YYYYMMDD", "time": "HHMMSS", "datetime": "YYYYMMDDHHMMSS"}[kind]
    plain = [re.sub(r"[+-]\d{4}\Z", "", end) if kind == "datetime" else end for end in (low, high)]
    plain = [end.replace(".", "") if kind == "date" else end.replace(":", "") for end in plain]
    for end in plain:
        if end and not form.match(end):
            raise InvalidQueryError(f"{keyword} is '{text}', expected {expected} or a range of two.")
    if kind == "date" and not is_range:
        return Match(exact=(canonical(keyword, low),))
    return Match(range=canonical_range(keyword, low, high))


def _typed_value(vr: str, value: str) -> object:
    """A text value as pydicom wants it for a value representation."""
    if vr == "SQ":
        return []
    convert = _NUMBERS.get(vr)
    parts: list[Any] = value.split("\\")
    if convert is not None:
        try:
            numbers = [convert(part) for part in parts]
        except ValueError:
            return None
        # IS and DS keep their digits as text.
        parts = parts if vr in ("IS", "DS") else numbers
    return parts[0] if len(parts) == 1 else parts


def _single_vr(vr: str) -> str:
    """One value representation where the dictionary leaves a choice."""
    return vr.split(" or ", maxsplit=1)[0]


def _natural(name: str, value: str) -> int:
    """A non-negative integer parameter."""
    if not value.isascii() or not value.isdigit() or len(value) > 12:
        raise InvalidQueryError(f"{name} is '{value[:32]}', expected a whole number of 0 or more.")
    return int(value)


def _include(value: str, level: Level, wanted: dict[str, None], warnings: list[str]) -> None:
    """Add the attributes of one includefield parameter."""
    for name in value.split(","):
        if name == "all":
            at_or_above = LEVELS[: LEVELS.index(level) + 1]
            wanted.update(dict.fromkeys(keyword for above in at_or_above for keyword in INDEXED_KEYWORDS[above]))
            wanted.update(dict.fromkeys(keyword for keyword, of in COMPUTED_LEVEL.items() if of in at_or_above))
            continue
        keyword = _qido_keyword(name)
        if _is_known(keyword, level):
            wanted[keyword] = None
        else:
            warnings.append(f"{keyword} is not held by the index.")


def _qido_keyword(name: str) -> str:
    """Keyword of a parameter given as keyword or GGGGEEEE; of a path into a sequence, its first part."""
    first = name.split(".", maxsplit=1)[0]
    keyword = keyword_for_tag(int(first, 16)) if re.fullmatch(r"[0-9A-Fa-f]{8}", first) else first
    if not keyword or tag_for_keyword(keyword) is None:
        raise InvalidQueryError(f"'{name[:64]}' is not an attribute, expected a keyword or GGGGEEEE.")
    return keyword


def _want_unique_keys(level: Level, wanted: dict[str, None]) -> None:
    """Every answer names its parents."""
    for above in LEVELS[1 : LEVELS.index(level) + 1]:
        wanted[UNIQUE_KEYS[above]] = None
