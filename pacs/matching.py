# SPDX-License-Identifier: Apache-2.0
"""When a stored value matches a key (PS3.4 C.2.2.2): pure functions, shared by every index.

Both sides are brought into one form first: dates as YYYYMMDD, times as HHMMSS.FFFFFF, names folded to lower
case, integers without leading zeros.  Only names are compared regardless of case.
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from typing import TYPE_CHECKING, Literal

from pydicom.datadict import dictionary_VM, dictionary_VR

if TYPE_CHECKING:
    from pacs.index import Match

Kind = Literal["uid", "date", "time", "datetime", "name", "integer", "decimal", "text"]

_KINDS: dict[str, Kind] = {
    "UI": "uid",
    "DA": "date",
    "TM": "time",
    "DT": "datetime",
    "PN": "name",
    **dict.fromkeys(("IS", "US", "SS", "UL", "SL", "UV", "SV", "US or SS"), "integer"),
    **dict.fromkeys(("DS", "FL", "FD"), "decimal"),
}
_INTEGER = re.compile(r"[+-]?\d+\Z")
_OFFSET = re.compile(r"[+-]\d{4}\Z")


def kind_of(keyword: str) -> Kind:
    """How values of this attribute are compared; from its value representation."""
    return _KINDS.get(dictionary_VR(keyword), "text")


def is_multi_valued(keyword: str) -> bool:
    """Whether the attribute may hold several values."""
    return dictionary_VM(keyword) != "1"


def canonical(keyword: str, value: str) -> str:
    """Bring a value (or values joined by a backslash) into the form in which it is compared."""
    kind = kind_of(keyword)
    if "\\" in value:
        return "\\".join(_canonical_value(kind, part) for part in value.split("\\"))
    return _canonical_value(kind, value)


def canonical_range(keyword: str, low: str, high: str) -> tuple[str, str]:
    """Both ends of a range in comparable form: a shortened upper end reaches to the end of what it names."""
    kind = kind_of(keyword)
    upper = _digits(kind, high)
    if upper and kind in ("time", "datetime"):
        upper = _pad(kind, upper, last=True)
    return (_canonical_value(kind, low) if low else ""), upper


def name_groups(value: str) -> tuple[str, str, str]:
    """The alphabetic, ideographic and phonetic group of a person name, folded; missing ones are empty."""
    groups = [_fold(group) for group in value.split("=")[:3]]
    groups += [""] * (3 - len(groups))
    return groups[0], groups[1], groups[2]


def matches(keyword: str, match: Match, stored: str) -> bool:
    """Whether a stored value (or one of several) matches; an empty stored value matches nothing."""
    if not stored:
        return False
    if kind_of(keyword) == "name":
        groups = name_groups(stored)
        wanted = match.exact or tuple(match.wildcard.split("\\"))
        return any(_name_matches(name, groups) for name in wanted)
    values = canonical(keyword, stored).split("\\")
    if match.range is not None:
        low, high = canonical_range(keyword, *match.range)
        return any((not low or low <= value) and (not high or value <= high) for value in values)
    if match.exact:
        wanted_values = {canonical(keyword, one) for one in match.exact}
        return any(value in wanted_values for value in values)
    patterns = [_pattern(one) for one in match.wildcard.split("\\")]
    return any(pattern.fullmatch(value) for pattern in patterns for value in values)


def is_universal(wildcard: str) -> bool:
    """Whether a pattern asks for nothing in particular."""
    return any(one.strip("*") == "" for one in wildcard.split("\\"))


def _name_matches(wanted: str, groups: tuple[str, str, str]) -> bool:
    """Group by group if the key has groups, otherwise against any of them."""
    if "=" in wanted:
        keys = name_groups(wanted)
        return all(not key or _pattern(key).fullmatch(group) for key, group in zip(keys, groups, strict=True))
    pattern = _pattern(_fold(wanted))
    return any(group and pattern.fullmatch(group) for group in groups)


def _pattern(wildcard: str) -> re.Pattern[str]:
    """A key with * and ? as a regular expression; fnmatch's never backtracks over more than one *."""
    return re.compile(fnmatch.translate(wildcard.replace("[", "[[]")))


def _canonical_value(kind: Kind, value: str) -> str:
    """One value in comparable form."""
    if kind == "name":
        return "=".join(name_groups(value)).rstrip("=")
    if kind in ("date", "time", "datetime"):
        digits = _digits(kind, value)
        return digits if kind == "date" or not digits else _pad(kind, digits, last=False)
    stripped = value.strip(" \0") if kind != "text" else value.strip()
    if kind == "integer" and _INTEGER.match(stripped):
        return str(int(stripped))
    return stripped


def _digits(kind: Kind, value: str) -> str:
    """A date or time without the separators of older forms and without an offset from UTC."""
    stripped = value.strip()
    if kind == "date":
        return stripped.replace(".", "").replace("-", "")
    if kind == "time":
        return stripped.replace(":", "")
    return _OFFSET.sub("", stripped) if kind == "datetime" else stripped


def _pad(kind: Kind, digits: str, *, last: bool) -> str:
    """Fill up a shortened time to microseconds, at its first or last moment."""
    whole, _, fraction = digits.partition(".")
    template = "235959" if kind == "time" else "99991231235959"
    first = "000000" if kind == "time" else "00010101000000"
    return f"{whole}{(template if last else first)[len(whole) :]}.{fraction:{'9' if last else '0'}<6}"


def _fold(group: str) -> str:
    """One group of a name: composed, lower case, without trailing delimiters."""
    return unicodedata.normalize("NFC", group).casefold().strip().rstrip("^ ")
