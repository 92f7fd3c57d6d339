# SPDX-License-Identifier: Apache-2.0
"""Make frozen dataclasses from parsed TOML or JSON, refusing what does not belong.

One place for it, so that ``scan.toml`` and the stored manifest are read equally strictly: an unknown
key, a missing one or a value of the wrong kind is a ScanDescriptionError that names file, table and key.
"""

from __future__ import annotations

import math
import types
from dataclasses import MISSING, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ingest.errors import ScanDescriptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


def make_section(cls: type[T], table: object, where: str) -> T:
    """Make a dataclass from a parsed table.

    Parameters
    ----------
    cls : a dataclass whose fields are str, bool, int, float, a Literal, a tuple of one of them, or None.
    table : the parsed table.
    where : what to call it in a message, for example ``scan.toml: [geometry]``.

    Raises
    ------
    ScanDescriptionError
        If the table is none, has an unknown key, lacks a needed one, or holds a value of the wrong kind.
    """
    mapping = require_table(table, where)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]  # T is a dataclass
    refuse_unknown_keys(mapping, known, where)
    needed = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in needed if name not in mapping]
    if missing:
        raise ScanDescriptionError(f"{where} lacks the key '{missing[0]}'")
    hints = _hints(cls)  # type: ignore[arg-type]  # a class can be hashed
    return cls(**{key: convert(value, hints[key], f"{where} {key}") for key, value in mapping.items()})


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    """Types of the fields; Python reads them from text, which takes a millisecond."""
    return get_type_hints(cls)


def require_table(table: object, where: str) -> Mapping[str, Any]:
    """Return a parsed table, or refuse what is none."""
    if not isinstance(table, dict):
        raise ScanDescriptionError(f"{where} must be a table of keys and values, got {describe(table)}")
    return table


def refuse_unknown_keys(table: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...], where: str) -> None:
    """Refuse keys that nothing reads: most are typing errors."""
    unknown = sorted(set(table) - set(known))
    if unknown:
        what = f"known are {', '.join(sorted(known))}" if known else "none is known here"
        raise ScanDescriptionError(f"{where} has the unknown key '{unknown[0]}': {what}")


def convert(value: object, hint: Any, where: str) -> Any:
    """Return a parsed value as the annotation wants it, or refuse it."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, get_args(hint), where)
    if origin is Literal:
        if value not in get_args(hint) or not isinstance(value, str):
            allowed = ", ".join(f"'{choice}'" for choice in get_args(hint))
            raise ScanDescriptionError(f"{where} must be one of {allowed}, got {describe(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ScanDescriptionError(f"{where} must be a list, got {describe(value)}")
        return tuple(convert(item, get_args(hint)[0], f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float:
        return _convert_number(value, where)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (str, bool) and isinstance(value, hint):
        return value
    kinds = {str: "a text", bool: "true or false", int: "a whole number"}
    raise ScanDescriptionError(f"{where} must be {kinds[hint]}, got {describe(value)}")


def describe(value: object) -> str:
    """A value in a message: short, and with its kind where the value alone would mislead."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _convert_union(value: object, options: tuple[Any, ...], where: str) -> Any:
    """The first alternative that takes the value; the last one's complaint if none does."""
    if value is None and type(None) in options:
        return None
    alternatives = [option for option in options if option is not type(None)]
    for option in alternatives[:-1]:
        try:
            return convert(value, option, where)
        except ScanDescriptionError:
            continue
    return convert(value, alternatives[-1], where)


def _convert_number(value: object, where: str) -> float:
    """A finite float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ScanDescriptionError(f"{where} must be a number, got {describe(value)}")
    if not math.isfinite(value):
        raise ScanDescriptionError(f"{where} must be a finite number, got {value}")
    return float(value)


def number_in(text: str, where: str, *, most_shown: int | None = None) -> float:
    """Return the finite number that a text is; ScanDescriptionError if it is none, with so much of the text."""
    try:
        value = float(text)
    except ValueError:
        raise ScanDescriptionError(f"{where} must be a number, got '{text[:most_shown]}'") from None
    if not math.isfinite(value):
        raise ScanDescriptionError(f"{where} must be a finite number, got '{text[:most_shown]}'")
    return value
