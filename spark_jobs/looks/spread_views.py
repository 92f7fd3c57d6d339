# SPDX-License-Identifier: Apache-2.0
"""Which views a look is made of: evenly spread ones of each turn, so that a slice has them from all sides."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.orbits import find_orbits
from reconstruction.rectify import virtual_views

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry
    from reconstruction.orbits import Track

_TWO_PI = 2 * math.pi


def spread_views(geometry: ConeBeamGeometry, most: int) -> NDArray[np.int64]:
    """Return frames of at most so many directions of each turn, evenly spread, ascending.

    A turn is that of a circle, of each circle of a stack, of a helix, or of one camera position; an arc counts as one.
    Frames of camera positions that are merged stay together.
    """
    made = virtual_views(geometry, rectify=False)
    panels = geometry if made is None else made[0]
    views = np.concatenate(
        [track.views[:: _step(_views_per_turn(track), most)] for track in find_orbits(panels).tracks]
    )
    if made is None:
        return np.sort(views)
    frames = np.unique(made[1].frame_indices[views])
    return frames[frames >= 0]


def _views_per_turn(track: Track) -> int:
    """Directions of one turn of a helix, or of a circle or arc."""
    angles = track.angles_rad
    if angles[-1] - angles[0] < _TWO_PI:
        return int(angles.size)
    return round(_TWO_PI / track.step_rad)


def _step(n_views: int, most: int) -> int:
    """Every how many views: a number that divides the turn where there is one not much larger than needed."""
    step = -(-n_views // most)
    return next((candidate for candidate in range(step, 2 * step) if n_views % candidate == 0), step)
