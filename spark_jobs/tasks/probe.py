# SPDX-License-Identifier: Apache-2.0
"""A look at a few coarse slices before the job: which range of mu has to be stored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.backends import load_backend
from spark_jobs.planning.coarse_looks import coarse_looks
from spark_jobs.tasks.corrected_rows import RowCorrector
from spark_jobs.tasks.view_lines import view_lines

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.backends import Backend
    from reconstruction.geometry import ConeBeamGeometry
    from spark_jobs.planning.coarse_looks import CoarseLook
    from spark_jobs.tasks.workers import OpenRun

#: The stored range in units of the largest value seen: noise and small dense parts need room.
_LOW, _HIGH = -1.0, 4.0
#: Views that are corrected together.
_BATCH_VIEWS = 32


def probe_mu_range(
    run: OpenRun, geometry: ConeBeamGeometry, bin_index: int, mask: NDArray[np.bool_]
) -> tuple[float, float]:
    """Return (low, high) of mu [1/mm] to store one bin with, from five coarse slices; the same on every run.

    It holds the value of voxels outside the field.
    """
    plan, backend = run.plan, load_backend(run.plan.backend)
    fdk = plan.request.fdk
    looks = coarse_looks(run.stored, geometry, plan.grid, fdk, plan.radius_mm)
    values = [_coarse_slice(run, look, bin_index, mask, backend) for look in looks]
    top = float(np.quantile(np.concatenate([np.abs(v).ravel() for v in values]), 0.9999))
    # Two significant digits: the range then does not hang on the last bit of a coarse voxel.
    top = max(top, 1e-6)
    step = 10.0 ** (math.floor(math.log10(top)) - 1)
    top = math.ceil(top / step) * step
    return min(_LOW * top, fdk.outside_value), max(_HIGH * top, fdk.outside_value)


def _coarse_slice(
    run: OpenRun, look: CoarseLook, bin_index: int, mask: NDArray[np.bool_], backend: Backend
) -> NDArray[np.float32]:
    """Reconstruct one coarse slice."""
    setup = look.setup
    accumulator = backend.start(setup, threads=1)
    corrector = RowCorrector(
        run.stored, bin_index, mask, run.plan.request.correction, *look.rows, folder=run.place.own_folder
    )
    for step in look.steps:
        blocks = {block: corrector.read_block(block) for block in step.blocks}
        for views in step.batches(_BATCH_VIEWS):
            band = setup.band_of(views)
            if setup.virtual is None:
                lines = corrector.lines_of_frames(blocks.values(), look.frames[views])
                lines = lines[:, band.row_start - look.rows[0] : band.row_stop - look.rows[0]]
            else:
                lines = view_lines(setup, corrector, blocks, views, band, backend=backend, threads=1)
            accumulator.add(lines, views)
    return accumulator.read_slices(0, 1)
