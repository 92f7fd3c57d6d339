# SPDX-License-Identifier: Apache-2.0
"""How large the packs of a plan will be: instances are not compressed, so that it is known before."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pacs.encode import SeriesEncoder
from pacs.pack import PackWriter
from reconstruction.geometry import VolumeGrid
from spark_jobs.planning.series import RunRecord, series_spec

if TYPE_CHECKING:
    from ingest.scan import Scan
    from pacs.description import Product
    from spark_jobs.planning.plan_record import ReconstructionPlan

#: A range with as many digits as the look at coarse slices gives.
_SOME_RANGE = (-0.25, 1.0)


@dataclass(frozen=True, slots=True)
class PackSizes:
    """Bytes of a pack besides its pixels: of the pack, of each slice, of each slice of the preview."""

    pack: int = 0
    slice: int = 0
    preview_slice: int = 0

    def bytes_of(self, grid: VolumeGrid, n_slices: int, factor: int) -> int:
        """Size of the pack of a slab of so many slices [B]."""
        _, ny, nx = grid.shape
        previews, small = -(-n_slices // factor), (-(-ny // factor)) * (-(-nx // factor))
        return self.pack + n_slices * (self.slice + 2 * ny * nx) + previews * (self.preview_slice + 2 * small)


def pack_sizes(scan: Scan, plan: ReconstructionPlan) -> PackSizes:
    """Measure what a pack takes besides pixels, by packs of slices of one voxel."""
    run = RunRecord("20260101", "120000", dict.fromkeys(plan.bins, _SOME_RANGE), dict.fromkeys(plan.bins, ""), "0.0.0")
    empty = _pack_bytes(scan, plan, run, "volume", 0)
    one_slice = _pack_bytes(scan, plan, run, "volume", 1) - empty
    return PackSizes(empty, one_slice - 2, _pack_bytes(scan, plan, run, "preview", 1) - empty - 2)


def _pack_bytes(scan: Scan, plan: ReconstructionPlan, run: RunRecord, product: Product, n_slices: int) -> int:
    """Size of a pack with so many slices of one voxel."""
    handle = io.BytesIO()
    writer = PackWriter(handle, source=f"reconstruction {plan.run_name}")
    if n_slices:
        spec = series_spec(scan, plan, run, plan.bins[0], product)
        grid = VolumeGrid((n_slices, 1, 1), spec.grid.voxel_pitch_mm, spec.grid.center_mm)
        encoder = SeriesEncoder(dataclasses.replace(spec, grid=grid))
        for index in range(n_slices):
            encoded = encoder.encode_slice(index, np.zeros((1, 1), dtype=np.float32))
            writer.add(encoded.part10_bytes, encoded.header)
    writer.finish()
    return handle.getbuffer().nbytes
