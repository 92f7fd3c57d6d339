# SPDX-License-Identifier: Apache-2.0
"""When views are too few for a field, and what to do then."""

from __future__ import annotations

import math

#: Below this share of the views that sampling asks for, streaks are seen.
ENOUGH = 0.5


def views_wanted(radius_mm: float, voxel_mm: float) -> int:
    """Views after which neighbouring ones are a voxel apart at the rim of the field: pi times its radius in voxels."""
    return math.ceil(math.pi * radius_mm / voxel_mm)


def few_views_note(n_views: int, radius_mm: float, voxel_mm: float) -> str:
    """Return a sentence for an operator where views are too few for the field, else an empty text."""
    wanted = views_wanted(radius_mm, voxel_mm)
    if n_views >= ENOUGH * wanted:
        return ""
    enough_mm = math.pi * radius_mm * ENOUGH / n_views
    return (
        f"{n_views} views are few for a field of {2 * radius_mm / voxel_mm:.0f} voxels: expect streaks; take voxels of "
        f"{enough_mm:.2g} mm or more, a softer filter, a smaller field or the method tv (about {wanted} views would do)"
    )
