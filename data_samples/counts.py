# SPDX-License-Identifier: Apache-2.0
"""Write line integrals as a scan of raw counts with flat and dark fields, for tests and benchmarks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry

DARK_COUNTS = 20
_N_FLATS = 4


def write_count_scan(
    folder: Path,
    line_integrals: NDArray[np.float32],
    geometry: ConeBeamGeometry,
    *,
    scan_id: str,
    white_counts: float = 20000.0,
    seed: int | None = None,
) -> None:
    """Write a scan in the form of the ``array`` reader whose correction gives the line integrals back.

    Parameters
    ----------
    folder : made if need be
    line_integrals : (view, row, col) float32
    geometry : of a circular orbit
    scan_id : str
    white_counts : counts without the sample, at most 60000; pixels differ by a few per cent
    seed : of Poisson noise; None rounds to whole counts without noise
    """
    orbit = geometry.circular_orbit
    assert orbit is not None
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0 if seed is None else seed)
    gain = 1 + 0.02 * np.sin(np.arange(geometry.n_cols) / 7)[None] * np.cos(np.arange(geometry.n_rows) / 5)[:, None]
    white = white_counts * gain
    counts = np.lib.format.open_memmap(
        folder / "projections.npy", mode="w+", dtype="<u2", shape=(1, *line_integrals.shape)
    )
    for view, lines in enumerate(line_integrals):
        expected = white * np.exp(-lines.astype(np.float64)) + DARK_COUNTS
        counts[0, view] = np.rint(expected) if seed is None else np.minimum(rng.poisson(expected), 65535)
    counts.flush()
    panel = (geometry.n_rows, geometry.n_cols)
    flats = np.broadcast_to(np.rint(white + DARK_COUNTS).astype("<u2"), (1, _N_FLATS, *panel))
    np.save(folder / "flats.npy", flats)
    np.save(folder / "darks.npy", np.full((1, _N_FLATS, *panel), DARK_COUNTS, dtype="<u2"))
    degrees = ", ".join(f"{math.degrees(float(a)):.12g}" for a in orbit.angles_rad)
    offset_u = ((geometry.n_cols - 1) / 2 - orbit.center_col) * orbit.pitch_u_mm
    offset_v = ((geometry.n_rows - 1) / 2 - orbit.center_row) * orbit.pitch_v_mm
    (folder / "scan.toml").write_text(
        f'[scan]\nid = "{scan_id}"\nformat = "array"\ncontent = "counts"\nacquired = "2026-01-15T10:30:00"\n\n'
        '[files]\nprojections = "projections.npy"\nflats = "flats.npy"\ndarks = "darks.npy"\n\n'
        f'[geometry]\nkind = "circular"\nsod_mm = {orbit.sod_mm!r}\nsdd_mm = {orbit.sdd_mm!r}\n'
        f"pitch_u_mm = {orbit.pitch_u_mm!r}\npitch_v_mm = {orbit.pitch_v_mm!r}\n"
        f"offset_u_mm = {offset_u!r}\noffset_v_mm = {offset_v!r}\nangles_deg = [{degrees}]\n"
        'sense = "counter-clockwise"\n',
        encoding="utf-8",
    )
