# SPDX-License-Identifier: Apache-2.0
"""A scan of a narrow camera that steps sideways, through a beam whose profile is another one at each position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.projector import forward_project
from tests.support.orbits import pillars, stepped

if TYPE_CHECKING:
    from pathlib import Path

    from reconstruction.geometry import ConeBeamGeometry

OFFSETS_MM = (-13.0, 13.0)
PANEL = {"n_rows": 8, "n_cols": 40, "pitch_u_mm": 0.8, "pitch_v_mm": 0.8}
#: Counts of the white at the first and last column of each position, and of its dark: the heel effect, and drift.
WHITES = ((40000.0, 30000.0), (22000.0, 9000.0))
DARKS = (20, 400)
N_FLATS, N_DARKS = (4, 5), (4, 4)
#: A pixel (row, col) that is dead, in all frames of both positions.
DEAD = (3, 17)


@dataclass(frozen=True)
class SteppedScan:
    """What was written: poses and line integrals (view, row, col), position by position."""

    geometry: ConeBeamGeometry
    lines: np.ndarray
    whites: np.ndarray


def white_of(position: int) -> np.ndarray:
    """White without dark (row, col) at a camera position."""
    first, last = WHITES[position]
    return np.broadcast_to(np.linspace(first, last, PANEL["n_cols"]), (PANEL["n_rows"], PANEL["n_cols"]))


def write_stepped_scan(
    folder: Path,
    *,
    scan_id: str = "stepped",
    turned: tuple[float, float] = (0.0, 0.0),
    n_views: int = 90,
    interleaved: bool = False,
    common_flats: bool = False,
) -> SteppedScan:
    """Write counts, flats and darks with a scan.toml, as the ``array`` reader takes them.

    Parameters
    ----------
    turned : by how many steps the angles of each position are turned.
    n_views : at each position.
    interleaved : the camera takes both positions at each angle; else it goes round once at each.
    common_flats : name only the fields of position 0, for all views: what gives wrong numbers.
    """
    folder.mkdir(parents=True)
    geometry = stepped(OFFSETS_MM, turned, n_views, **PANEL)
    position = np.repeat([0, 1], n_views)
    angles = np.concatenate([(np.arange(n_views) + t) * 360 / n_views for t in turned])
    if interleaved:
        order = np.arange(2 * n_views).reshape(2, n_views).T.ravel()
        geometry, position, angles = geometry.select(order), position[order], angles[order]
    lines = forward_project(pillars(), geometry)
    whites = np.stack([white_of(p) for p in range(2)])
    dark = np.array(DARKS)[position][:, None, None]
    counts = np.rint(whites[position] * np.exp(-lines)) + dark
    counts[:, *DEAD] = dark[:, 0, 0]
    np.save(folder / "projections.npy", counts.astype("<u2"))
    for p in range(2):
        flats = np.repeat((np.rint(whites[p]) + DARKS[p])[None], N_FLATS[p], axis=0)
        flats[:, *DEAD] = DARKS[p]
        np.save(folder / f"flats{p}.npy", flats.astype("<u2"))
        np.save(folder / f"darks{p}.npy", np.full((N_DARKS[p], *whites[p].shape), DARKS[p], dtype="<u2"))
    files = '\nflats = "flats0.npy"\ndarks = "darks0.npy"' if common_flats else ""
    steps = "" if any(turned) else "arc_deg = 360.0\n"
    if any(turned):
        steps = f"angles_deg = [{', '.join(map(repr, angles.tolist()))}]\n"
    tables = ""
    for p, offset in enumerate(OFFSETS_MM):
        views = f"{p}::2" if interleaved else f"{p * n_views}:{(p + 1) * n_views}"
        tables += f'\n[[camera_positions]]\nviews = "{views}"\noffset_u_mm = {offset}\n'
        tables += "" if common_flats else f'flats = "flats{p}.npy"\ndarks = "darks{p}.npy"\n'
    (folder / "scan.toml").write_text(
        f'[scan]\nid = "{scan_id}"\n[files]\nprojections = "projections.npy"{files}\n[geometry]\nkind = "circular"\n'
        f"sod_mm = 100.0\nsdd_mm = 160.0\npitch_mm = 0.8\n{steps}{tables}",
        encoding="utf-8",
    )
    return SteppedScan(geometry, lines, whites)
