# SPDX-License-Identifier: Apache-2.0
"""Matches (PS3.4 C.2.2.2) as SQL conditions over the index tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, exists, false, func, or_, select

from pacs.attributes import LEVEL_OF
from pacs.matching import canonical, canonical_range, is_multi_valued, is_universal, kind_of, name_groups
from pacs.tables import instance, patient, series, storable, study

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement, Table

    from pacs.index import Level, Match

LEVEL_TABLES: Mapping[Level, Table] = {"PATIENT": patient, "STUDY": study, "SERIES": series, "IMAGE": instance}

#: Keys with a column of their own; all others are matched in the JSON of their level.
KEY_COLUMNS: Mapping[str, ColumnElement[str]] = {
    "PatientID": patient.c.patient_id,
    "PatientBirthDate": patient.c.birth_date,
    "StudyInstanceUID": study.c.study_uid,
    "StudyDate": study.c.study_date,
    "AccessionNumber": study.c.accession_number,
    "StudyID": study.c.study_id,
    "SeriesInstanceUID": series.c.series_uid,
    "Modality": series.c.modality,
    "SOPInstanceUID": instance.c.sop_instance_uid,
    "SOPClassUID": instance.c.sop_class_uid,
}
_NAME_COLUMNS = (patient.c.name_alphabetic, patient.c.name_ideographic, patient.c.name_phonetic)


def condition(keyword: str, match: Match, level: Level, *, glob: bool) -> ColumnElement[bool] | None:
    """The SQL condition of one key in a query at `level`; None if it cannot narrow anything.

    Parameters
    ----------
    glob : bool
        Whether the database has SQLite's case-sensitive GLOB (others: LIKE, which is case-sensitive there).
    """
    if match.wildcard and is_universal(match.wildcard):
        return None
    if keyword == "PatientName":
        found = _patient_name(match, glob=glob)
        # As a list of patients: the alternatives within would keep SQLite from starting at the patients.
        return found if level == "PATIENT" else study.c.patient.in_(select(patient.c.id).where(found).correlate(None))
    if keyword == "ModalitiesInStudy":
        found = _compare("Modality", series.c.modality, match, glob=glob)
        return exists(select(series.c.id).where(series.c.study == study.c.id, found).correlate(study))
    if keyword == "SOPClassesInStudy":
        found = _compare("SOPClassUID", instance.c.sop_class_uid, match, glob=glob)
        inner = select(instance.c.id).select_from(series.join(instance)).where(series.c.study == study.c.id, found)
        return exists(inner.correlate(study))
    if keyword in KEY_COLUMNS:
        return _compare(keyword, KEY_COLUMNS[keyword], match, glob=glob)
    if keyword not in LEVEL_OF:
        return None
    attributes = LEVEL_TABLES[LEVEL_OF[keyword]].c.attributes
    stored = func.coalesce(attributes["~" + keyword].as_string(), attributes[keyword].as_string())
    # Elsewhere byte by byte, as the key columns are.
    return _compare(keyword, stored if glob else stored.collate("C"), match, glob=glob)


def is_selective(keyword: str, match: Match) -> bool:
    """Whether an SQL index narrows this key: a key column with a value, a range, or a prefix."""
    starts = not match.wildcard or all(one and one[0] not in "*?=" for one in match.wildcard.split("\\"))
    return starts and (keyword in KEY_COLUMNS or keyword == "PatientName")


def _compare(keyword: str, stored: ColumnElement[Any], match: Match, *, glob: bool) -> ColumnElement[bool]:
    """A stored value in comparable form against one match."""
    if match.range is not None:
        low, high = (storable(end) for end in canonical_range(keyword, *match.range))
        ends = [stored != "", *([stored >= low] if low else []), *([stored <= high] if high else [])]
        return and_(*ends)
    is_name = kind_of(keyword) == "name"
    wanted = [canonical(keyword, one) for one in match.exact] or [
        canonical(keyword, one) if is_name else one for one in match.wildcard.split("\\")
    ]
    wanted = [storable(one) for one in wanted]
    if is_multi_valued(keyword):
        return or_(*(_like("\\" + stored + "\\", f"*\\{one}\\*", bool(match.wildcard), glob=glob) for one in wanted))
    if match.exact:
        return stored.in_(wanted) if len(wanted) > 1 else stored == wanted[0]
    return or_(*(_like(stored, one, True, glob=glob) for one in wanted))


def _patient_name(match: Match, *, glob: bool) -> ColumnElement[bool]:
    """A patient's name: group by group if the key has groups, otherwise any group (PS3.5 6.2.1.1)."""
    choices: list[ColumnElement[bool]] = []
    for name in match.exact or tuple(match.wildcard.split("\\")):
        groups = [storable(group) for group in name_groups(name)]
        if "=" not in name:
            choices += [_one_name(column, groups[0], glob=glob) for column in _NAME_COLUMNS]
            continue
        pairs = zip(_NAME_COLUMNS, groups, strict=True)
        choices.append(and_(*(_one_name(column, group, glob=glob) for column, group in pairs if group)))
    return or_(*choices) if choices else false()


def _one_name(column: ColumnElement[Any], group: str, *, glob: bool) -> ColumnElement[bool]:
    """One group of a name, with or without wildcards; an empty group matches nothing."""
    if "*" in group or "?" in group:
        return and_(column != "", _like(column, group, True, glob=glob))
    return column == group


def _like(stored: ColumnElement[Any], pattern: str, wild: bool, *, glob: bool) -> ColumnElement[bool]:
    """A pattern with * and ? ; if not `wild`, only the first and last * are meant as such."""
    body = pattern if wild else pattern[1:-1]
    if glob:
        escaped = body.replace("[", "[[]")
        if not wild:
            escaped = "*" + escaped.replace("*", "[*]").replace("?", "[?]") + "*"
        found = stored.op("GLOB", is_comparison=True)(escaped)
    else:
        escaped = body.replace("!", "!!").replace("%", "!%").replace("_", "!_")
        escaped = escaped.replace("*", "%").replace("?", "_") if wild else f"%{escaped}%"
        found = stored.like(escaped, escape="!")
    prefix = re.split(r"[*?]", body, maxsplit=1)[0] if wild else ""
    # An SQL index serves a prefix only when it is seen as a range: the pattern itself is a parameter.
    return and_(stored >= prefix, stored < prefix + chr(0x10FFFF), found) if prefix else found
