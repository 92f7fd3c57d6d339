# SPDX-License-Identifier: Apache-2.0
"""A scan source in memory, and small scans for tests."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ingest.errors import IncompleteScanError
from ingest.scan import EnergyBin, FieldFrames, Scan
from reconstruction.geometry import ConeBeamGeometry


def small_scan(
    *, n_views=8, n_bins=2, n_rows=6, n_cols=5, pixel_type="uint16", scan_id="stone-1", content="counts", **changes
) -> Scan:
    """A full turn about a small panel."""
    geometry = ConeBeamGeometry.circular(
        sod_mm=200.0,
        sdd_mm=300.0,
        angles_rad=2 * math.pi * np.arange(n_views) / n_views,
        n_rows=n_rows,
        n_cols=n_cols,
        pitch_u_mm=0.11,
        pitch_v_mm=0.11,
    )
    description = {
        "scan_id": scan_id,
        "source_format": "array",
        "content": content,
        "bins": tuple(EnergyBin(i, "counter", 20.0 + 10 * i) for i in range(n_bins)),
        "pixel_type": pixel_type,
        "n_views": n_views,
        "n_rows": n_rows,
        "n_cols": n_cols,
        "geometry": geometry,
    }
    return Scan(**(description | changes))


class FakeReader:
    """Frames in memory; `limit` is what a scanner that still writes has written so far."""

    def __init__(self, scan: Scan, frames: np.ndarray, *, flats=None, darks=None, bad_pixels=None) -> None:
        changes = {}
        if flats is not None and scan.flats is None:
            changes["flats"] = FieldFrames(flats.shape[1])
        if darks is not None and scan.darks is None:
            changes["darks"] = FieldFrames(darks.shape[1])
        self.scan = replace(scan, **changes) if changes else scan
        self.frames = frames
        self.flats, self.darks, self.bad_pixels = flats, darks, bad_pixels
        self.limit = frames.shape[1]
        self.largest_read = 0
        self.n_reads = 0

    def available_views(self) -> int:
        return self.limit

    def read_views(self, start: int, stop: int) -> np.ndarray:
        if start == self.limit:
            raise IncompleteScanError(f"v_{start:04}.tif: view {start} is missing")
        assert stop <= self.limit, "read beyond what the scanner has written"
        views = self.frames[:, start:stop].copy()
        self.largest_read = max(self.largest_read, views.nbytes)
        self.n_reads += 1
        return views

    def read_flats(self, position=None):
        return self._at(self.flats, self.scan.flats, position)

    def read_darks(self, position=None):
        return self._at(self.darks, self.scan.darks, position)

    def _at(self, frames, described, position):
        return frames if position is None or frames is None else frames[:, slice(*described.frames_at(position))]

    def read_bad_pixels(self):
        return self.bad_pixels

    def close(self) -> None:
        pass


def random_reader(seed=0, *, fields=True, **sizes) -> FakeReader:
    """A reader with Poisson counts, and flats, darks and a mask if asked for."""
    rng = np.random.default_rng(seed)
    scan = small_scan(**sizes)
    dtype = np.dtype(scan.pixel_type)
    panel = (scan.n_rows, scan.n_cols)

    def counts(n_frames, mean):
        return rng.poisson(mean, size=(scan.n_bins, n_frames, *panel)).astype(dtype)

    frames = counts(scan.n_views, 100)
    if not fields:
        return FakeReader(scan, frames)
    mask = rng.random(panel) < 0.05
    return FakeReader(scan, frames, flats=counts(3, 200), darks=counts(2, 3), bad_pixels=mask)
