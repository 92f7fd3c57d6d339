# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share, and readers of their texts."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

StoreOption = Annotated[
    str | None,
    typer.Option("--store", "-s", help="Folder or URL of the store (file:, hdfs:, webhdfs:, memory:).", metavar="URL"),
]
IndexOption = Annotated[
    str | None,
    typer.Option("--index", help="Database of the index: a file or an SQLAlchemy URL.", metavar="URL"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

_SIZE = re.compile(r"([0-9]*\.?[0-9]+)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Read a size such as ``2G``, ``512 MiB`` or ``1000000``."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"a size is a number with k, M, G or T, got '{text}'")
    power = " kmgt".index(match[2].lower() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def parse_triple(text: str | None, name: str) -> tuple[float, float, float] | None:
    """Read three numbers separated by commas or x."""
    if text is None:
        return None
    parts = re.split(r"[,x]", text)
    try:
        a, b, c = (float(part) for part in parts)
    except ValueError as error:
        raise typer.BadParameter(f"{name} needs three numbers separated by commas, got '{text}'") from error
    return a, b, c


def parse_pair(text: str | None, name: str) -> tuple[float, float] | None:
    """Read two numbers separated by a comma."""
    if text is None:
        return None
    try:
        a, b = (float(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{name} needs two numbers separated by a comma, got '{text}'") from error
    return a, b


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """Read ``key=value`` texts; values that look like numbers or true/false become such."""
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"--set needs key=value, got '{text}'")
        settings[key.strip()] = _value(value.strip())
    return settings


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
