# SPDX-License-Identifier: Apache-2.0
"""What a reconstruction does with a scan, in plain sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconstruction.geometry import ConeBeamGeometry
    from reconstruction.redundancy import Redundancy
    from reconstruction.virtual_views import VirtualViews

_KERNELS = {
    "four_fold": "The kernel for full turns of quarter turns runs (four_fold).",
    "upright": "The kernel for upright panels runs (upright).",
    "any_pose": "The kernel for any pose runs (any_pose).",
}
_WEIGHTS = {
    "none": "Every ray counts the same.",
    "auto": "Rays that are measured more than once share smoothly (Noo et al. 2002).",
    "parker": "Rays of the arc are weighted after Parker (1982).",
    "wang": "Rays of the offset panel are weighted after Wang (2002).",
}


def describe(
    geometry: ConeBeamGeometry, redundancy: Redundancy, virtual: VirtualViews | None, kernel: str
) -> tuple[str, ...]:
    """Say what the orbit is, how rays and slices are weighted, how frames become views, and which kernel runs."""
    orbits = redundancy.orbits
    shape = f"{geometry.n_views} views"
    if orbits.kind == "circle":
        shape += f" over {math.degrees(geometry.arc_rad):.4g} degrees of a circle"
    elif orbits.kind == "stack":
        shape += f" on {len(orbits.ring_heights_mm)} circles along the axis, which share the slices smoothly"
    elif orbits.kind == "helix":
        shape += f" on a helix of {_turns(redundancy):.3g} turns, which share the slices smoothly"
    positions = orbits.n_positions
    if positions > 1:
        shape += (
            f", from {positions} camera positions at angles of their own: each is filtered and back-projected over the "
            f"full width, {positions} times the work of one wide panel"
        )
    said = [shape + "."]
    bridged = sum(track.bridged for track in orbits.tracks)
    if bridged:
        said.append(f"{bridged} gaps between views are shared by the views beside them.")
    if virtual is not None and virtual.merged:
        said.append(f"{virtual.n_slots} camera positions at the same angle are merged into one wide view.")
    if virtual is not None and not (virtual.merged or virtual.rectified):
        said.append("Camera positions that hardly overlap are resampled onto columns that continue each other's.")
    if virtual is not None and virtual.rectified:
        said.append("Tilted panels are resampled onto an upright one.")
    said.append(_WEIGHTS[redundancy.method])
    said.append(_KERNELS[kernel])
    return tuple(said)


def _turns(redundancy: Redundancy) -> float:
    """Turns of a helix."""
    track = redundancy.orbits.tracks[0]
    return (track.runs[-1][1] - track.runs[0][0]) / (2 * math.pi)
