# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share, and readers of their texts."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any

import typer

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", "-s", help="Folder, or URL of scheme file, hdfs, webhdfs, swebhdfs or s3.", metavar="URL",
        show_default="conepacs-store",
    ),
]  # fmt: skip
IndexOption = Annotated[
    str | None,
    typer.Option(
        "--index", help="Database of the index: a file or an SQLAlchemy URL.", metavar="URL",
        show_default="index.sqlite in a local store",
    ),
]  # fmt: skip
JournalOption = Annotated[
    str | None,
    typer.Option(
        "--journal", help="Folder for received objects.", metavar="FOLDER", show_default="journal/ in a local store"
    ),
]
MasterOption = Annotated[
    str | None,
    typer.Option(
        "--master", help=r"Spark master: local\[2], spark://host:port, yarn, k8s://...", metavar="URL",
        show_default="local[*], or as conepacs.toml says",
    ),
]  # fmt: skip
SparkLogOption = Annotated[
    Path | None,
    typer.Option(
        "--spark-log", help="Where Spark's own log goes.", metavar="FILE", show_default="in the temporary folder"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

_SIZE = re.compile(r"([0-9]*\.?[0-9]+)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h|d)")


def parse_bytes(text: str) -> int:
    """Read a size such as ``2G``, ``512 MiB`` or ``1000000``."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"a size is a number with k, M, G or T, such as 512MiB or 2GB, got '{text}'")
    power = " kmgt".index(match[2].lower() or " ")
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** power)
    if size < 1:
        raise typer.BadParameter(f"a size must be at least one byte, got '{text}'")
    return size


def parse_duration_s(text: str) -> float:
    """Read a duration such as ``24h``, ``90min``, ``7d`` or ``30s`` as seconds."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"a duration is a number with s, min, h or d, such as 24h or 7d, got '{text}'")
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600, "d": 86_400}[match[2]]


def _parse_numbers(text: str, n: int, option: str, words: str) -> tuple[float, ...]:
    """Read so many finite numbers separated by commas."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{option} needs {words}, got '{text}'") from error
    if len(numbers) != n or not all(map(math.isfinite, numbers)):
        raise typer.BadParameter(f"{option} needs {words}, got '{text}'")
    return numbers


def parse_triple(text: str | None, option: str) -> tuple[float, float, float] | None:
    """Read three numbers separated by commas."""
    if text is None:
        return None
    a, b, c = _parse_numbers(text, 3, option, "three numbers separated by commas")
    return a, b, c


def parse_shape(text: str | None, option: str) -> tuple[int, int, int] | None:
    """Read three whole numbers above 0, separated by commas."""
    words = "three whole numbers above 0, separated by commas"
    if text is None:
        return None
    numbers = _parse_numbers(text, 3, option, words)
    if any(number < 1 or number != int(number) for number in numbers):
        raise typer.BadParameter(f"{option} needs {words}, got '{text}'")
    nz, ny, nx = (int(number) for number in numbers)
    return nz, ny, nx


def parse_pair(text: str | None, option: str) -> tuple[float, float] | None:
    """Read two numbers separated by a comma."""
    if text is None:
        return None
    a, b = _parse_numbers(text, 2, option, "two numbers separated by a comma")
    return a, b


def parse_pitch(text: str | None, option: str) -> float | tuple[float, float, float] | None:
    """Read the side of a cube, or three sides separated by commas."""
    if text is None or "," in text:
        return parse_triple(text, option)
    (side,) = _parse_numbers(text, 1, option, "a length, or three separated by commas")
    return side


def parse_settings(texts: list[str], option: str = "--set") -> dict[str, Any]:
    """Read ``key=value`` texts of an option; values that look like numbers or true/false become such."""
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{option} needs KEY=VALUE, got '{text}'")
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
