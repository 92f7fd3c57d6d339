# SPDX-License-Identifier: Apache-2.0
"""A scan of any size for benchmarks: what counts is how much there is, not what it shows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.scan import EnergyBin, FieldFrames, Scan
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Views that differ; the others are these, moved along the axis.
_VIEWS = 8
_COUNTS = 20_000


class NoisyReader:
    """Poisson counts of a bright field behind a cylinder, a full turn; noise moves on from view to view.

    Parameters
    ----------
    scan_id : str
    n_views, n_rows, n_cols, n_bins : int
    sod_mm, sdd_mm, pitch_mm : float
        Distances, and the side of a pixel.
    n_fields : int
        Flat frames, and dark frames.
    """

    def __init__(
        self,
        scan_id: str,
        n_views: int,
        n_rows: int,
        n_cols: int,
        *,
        n_bins: int = 1,
        sod_mm: float = 200.0,
        sdd_mm: float = 300.0,
        pitch_mm: float = 0.11,
        n_fields: int = 10,
    ) -> None:
        self.geometry = ConeBeamGeometry.circular(
            sod_mm=sod_mm, sdd_mm=sdd_mm, angles_rad=np.arange(n_views) * 2 * math.pi / n_views, n_rows=n_rows,
            n_cols=n_cols, pitch_u_mm=pitch_mm, pitch_v_mm=pitch_mm,
        )  # fmt: skip
        self.scan = Scan(
            scan_id=scan_id, source_format="array", content="counts",
            bins=tuple(EnergyBin(i) for i in range(n_bins)), pixel_type="uint16", n_views=n_views, n_rows=n_rows,
            n_cols=n_cols, geometry=self.geometry, flats=FieldFrames(n_fields), darks=FieldFrames(n_fields),
        )  # fmt: skip
        rng = np.random.default_rng(1)
        profile = _COUNTS * np.exp(-2.5 * np.sqrt(np.maximum(0, 1 - np.linspace(-1.2, 1.2, n_cols) ** 2)))
        self._base = rng.poisson(profile, size=(_VIEWS, n_rows, n_cols)).astype("u2")
        self._fields = rng.poisson(_COUNTS, size=(1, n_fields, n_rows, n_cols)).astype("u2")

    def available_views(self) -> int:
        """All views are there."""
        return self.scan.n_views

    def read_views(self, start: int, stop: int) -> NDArray[Any]:
        """Counts of some views, (bin, view, row, col)."""
        return self._of_all_bins(np.stack([np.roll(self._base[v % _VIEWS], v, axis=0) for v in range(start, stop)]))

    def read_flats(self, position: int | None = None) -> NDArray[Any]:
        """Flat frames, (bin, frame, row, col)."""
        return self._of_all_bins(self._fields[0])

    def read_darks(self, position: int | None = None) -> NDArray[Any]:
        """Dark frames, (bin, frame, row, col)."""
        return self.read_flats() // 4000

    def read_bad_pixels(self) -> None:
        """No pixel is known to be bad."""

    def close(self) -> None:
        """Nothing is open."""

    def _of_all_bins(self, frames: NDArray[Any]) -> NDArray[Any]:
        return np.broadcast_to(frames, (self.scan.n_bins, *frames.shape)).copy()
