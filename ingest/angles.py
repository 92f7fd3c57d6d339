# SPDX-License-Identifier: Apache-2.0
"""Small tables of numbers beside the frames: view angles and poses in text or NumPy files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from ingest.errors import ScanDescriptionError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_SEPARATORS = re.compile(r"[\s,;:]+")


def read_numbers(path: Path) -> NDArray[np.float64]:
    """Read a table of numbers.

    Parameters
    ----------
    path : a .npy array, or text with numbers separated by spaces, tabs, commas or semicolons, a row a line;
        empty lines and what follows a ``#`` are passed over, and so is one line of words on top.

    Returns
    -------
    float64
        (row, column), or as the .npy has it.

    Raises
    ------
    ScanDescriptionError
        If the file is not there, not a table, or a number is not finite.
    """
    try:
        table = _read_npy(path) if path.suffix.lower() == ".npy" else _read_text(path)
    except OSError as error:
        raise ScanDescriptionError(f"{path} cannot be read: {error.strerror or error}") from error
    if table.size == 0:
        raise ScanDescriptionError(f"{path} holds no numbers")
    if not np.isfinite(table).all():
        raise ScanDescriptionError(f"{path} holds a number that is not finite")
    return table


def read_angles_deg(path: Path) -> NDArray[np.float64]:
    """Read one angle for each view [deg].

    A table with one column, or with a view number before the angle: Nikon's ``.ang`` and ``_ctdata.txt`` are of
    that kind.  View numbers must rise by one, so that a missing line is noticed.

    Returns
    -------
    (view,) float64

    Raises
    ------
    ScanDescriptionError
        If the file is not such a table.
    """
    table = read_numbers(path)
    if table.ndim == 1 or table.shape[1] == 1:
        return table.ravel()
    if table.ndim != 2:
        raise ScanDescriptionError(
            f"{path}: angles need one column, or view numbers and angles, got an array of shape {table.shape}"
        )
    if table.shape[0] == 1 and table.shape[1] > 3:
        return table.ravel()
    jumps = np.flatnonzero(np.diff(table[:, 0]) != 1)
    if jumps.size:
        after = table[jumps[0], 0]
        raise ScanDescriptionError(f"{path}: the view numbers in the first column do not go on by one after {after:g}")
    return np.ascontiguousarray(table[:, 1])


def _read_npy(path: Path) -> NDArray[np.float64]:
    """A NumPy array of numbers, never of pickled objects."""
    try:
        array = np.load(path, allow_pickle=False)
        return np.asarray(array, dtype=np.float64)
    except (ValueError, TypeError, EOFError) as error:
        raise ScanDescriptionError(f"{path} is not a NumPy array of numbers: {error}") from error


def _read_text(path: Path) -> NDArray[np.float64]:
    """Rows of numbers; the words of a heading are passed over until the first row."""
    rows: list[list[float]] = []
    content = path.read_bytes().decode("utf-8", errors="replace")
    for number, line in enumerate(content.splitlines(), start=1):
        cells = [cell for cell in _SEPARATORS.split(line.partition("#")[0]) if cell]
        if not cells:
            continue
        try:
            row = [float(cell) for cell in cells]
        except ValueError:
            if rows or number > 3:
                raise ScanDescriptionError(f"{path}, line {number}: '{line.strip()[:40]}' is not numbers") from None
            continue
        if rows and len(row) != len(rows[0]):
            raise ScanDescriptionError(f"{path}, line {number}: got {len(row)} numbers, expected {len(rows[0])}")
        rows.append(row)
    return np.array(rows, dtype=np.float64)
