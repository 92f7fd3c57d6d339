# SPDX-License-Identifier: Apache-2.0
"""At which camera position each view was taken: as ``[[camera_positions]]`` say, or as the poses show.

A narrow camera that steps sideways sees another part of the beam at each step, so flat and dark frames belong to a
position.  Positions are numbered from 0 in the order of their tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ingest.errors import ScanDescriptionError
from reconstruction.geometry import ConeBeamGeometry
from reconstruction.orbits import camera_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ingest.config import ScanDescription
    from ingest.scan import ParallelBeam

#: How many views a message names before it says how many more there are.
_NAMED = 8


def described_positions(description: ScanDescription, n_views: int) -> NDArray[np.int64] | None:
    """Return the camera position (view,) int64 of each view of the series, as `views` of the tables say.

    Parameters
    ----------
    description : ScanDescription
    n_views : int
        Views of the series, those that do not exist included.

    Returns
    -------
    (view,) int64
        None where there are no tables, or none of them names views.

    Raises
    ------
    ScanDescriptionError
        If only some tables name views, or a view is not there, in two positions or in none.
    """
    tables = description.camera_positions
    named = [table.views is not None for table in tables]
    if not any(named):
        return None
    where = f"{description.name}: [[camera_positions]]"
    if not all(named):
        raise ScanDescriptionError(
            f"{where} {named.index(False)} names no views, while others do: name them for each position, or for none, "
            "and they follow from the poses"
        )
    positions = np.full(n_views, -1, dtype=np.int64)
    for position, table in enumerate(tables):
        views = parse_views(table.views or "", n_views, f"{where} {position} views")
        taken = views[positions[views] >= 0]
        if taken.size:
            raise ScanDescriptionError(
                f"{where}: view {taken[0]} is in the positions {positions[taken[0]]} and {position}: give it to one"
            )
        positions[views] = position
    left = np.flatnonzero(positions < 0)
    if left.size:
        raise ScanDescriptionError(
            f"{where}: {left.size} of {n_views} views are at no position ({_listed(left)}): name each view once"
        )
    return positions


def view_positions(
    description: ScanDescription,
    n_views: int,
    left_out: tuple[int, ...],
    geometry: ConeBeamGeometry | ParallelBeam | None,
) -> tuple[int, ...]:
    """Return the camera position of each view that exists; () where the description has no ``[[camera_positions]]``.

    Where its tables name no views, the positions are those that the poses show, in the order in which the scan comes
    to them.

    Parameters
    ----------
    left_out : positions, in the series, of the views that do not exist.
    geometry : of the views that exist.

    Raises
    ------
    ScanDescriptionError
        As `described_positions` does, or if the poses show another number of positions.
    """
    if not description.camera_positions:
        return ()
    said = described_positions(description, n_views + len(left_out))
    if said is not None:
        kept = np.delete(said, left_out)
        empty = sorted(set(range(len(description.camera_positions))) - set(kept.tolist()))
        if empty:
            raise ScanDescriptionError(
                f"{description.name}: [[camera_positions]] {empty[0]} has no view that exists: leave that table out"
            )
        return tuple(kept.tolist())
    where = f"{description.name}: [[camera_positions]]"
    if not isinstance(geometry, ConeBeamGeometry):
        raise ScanDescriptionError(
            f"{where} must name the views of each position: no poses show where the camera stood"
        )
    found = camera_positions(geometry)
    _, firsts, numbers = np.unique(found, return_index=True, return_inverse=True)
    if len(firsts) != len(description.camera_positions):
        raise ScanDescriptionError(
            f"{where} has {len(description.camera_positions)} tables, but the poses show {len(firsts)} camera "
            "positions: name the views of each"
        )
    order = np.argsort(np.argsort(firsts))
    return tuple(int(order[number]) for number in numbers)


def parse_views(said: str | tuple[int, ...], n_views: int, where: str, *, what: str = "view") -> NDArray[np.int64]:
    """Return the numbers of views that a list or a text such as ``0:120``, ``1::3`` or ``0:10, 20:30, 45`` names.

    `what` they are called in messages, should they be frames of another kind.

    Raises
    ------
    ScanDescriptionError
        If it is none, names a view twice, or one that is not there.
    """
    if isinstance(said, str):
        parts = [_parse_part(part.strip(), n_views, where) for part in said.split(",")]
        views = np.concatenate(parts)
    else:
        views = np.array(said, dtype=np.int64)
    if not views.size:
        raise ScanDescriptionError(f"{where} must name {what}s, got none")
    outside = views[(views < 0) | (views >= n_views)]
    if outside.size:
        raise ScanDescriptionError(f"{where} names {what} {outside[0]}, but the {what}s are 0 to {n_views - 1}")
    values, counts = np.unique(views, return_counts=True)
    if counts.max() > 1:
        raise ScanDescriptionError(f"{where} names {what} {values[counts.argmax()]} twice: name each once")
    return views


def _parse_part(part: str, n_views: int, where: str) -> NDArray[np.int64]:
    """One number, or ``first:end`` or ``first:end:step``, each with a default; `end` is left out."""
    words = part.split(":")
    if len(words) > 3 or not all(word.strip().isdecimal() or (not word.strip() and len(words) > 1) for word in words):
        raise ScanDescriptionError(f"{where} must be numbers and first:end[:step], separated by commas, got '{part}'")
    if len(words) == 1:
        return np.array([int(part)], dtype=np.int64)
    first, end, step = (
        int(word) if word.strip() else default for word, default in zip([*words, ""][:3], (0, n_views, 1), strict=True)
    )
    if end > n_views:
        raise ScanDescriptionError(f"{where} ends at {end}, but there are {n_views} of them")
    if step < 1:
        raise ScanDescriptionError(f"{where} needs a step of at least 1, got '{part}'")
    return np.arange(first, end, step, dtype=np.int64)


def _listed(views: NDArray[np.int64]) -> str:
    """Some numbers in a message."""
    more = f" and {views.size - _NAMED} more" if views.size > _NAMED else ""
    return ", ".join(str(view) for view in views[:_NAMED]) + more
