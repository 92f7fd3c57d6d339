# SPDX-License-Identifier: Apache-2.0
"""Task of the brick stage: one brick of one bin, from filtered rows to voxels in the store.  And slabs made of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.backends import load_backend
from reconstruction.slabs import grouped_batches
from spark_jobs.planning.brick_cut import brick_windows_of
from spark_jobs.planning.plan import working_geometry
from spark_jobs.run_files.brick_files import BrickFile, brick_path, read_brick, slices_of_a_read, write_brick
from spark_jobs.tasks.filtered_rows import read_window, views_of_group
from spark_jobs.tasks.workers import open_run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spark_jobs.tasks.workers import OpenRun, RunPlace


def brick_file(run: OpenRun, bin_index: int, brick_index: int) -> BrickFile:
    """Return where a brick lies."""
    assert run.plan.bricks is not None
    brick = run.plan.bricks.brick(brick_index)
    shape = (run.plan.slabs[brick.slab_index].n_slices, *brick.area.shape)
    return BrickFile(brick_path(run.place.bands_stem, bin_index, brick_index), shape)


def back_project_brick(place: RunPlace, task: int) -> dict[str, Any]:
    """Task of the brick stage: back-project one brick of one bin, and publish its voxels."""
    run = open_run(place)
    plan = run.plan
    bin_index, brick_index = plan.brick_tasks[task]
    started = time.perf_counter()
    setup = plan.brick_setup(working_geometry(run.stored, plan), brick_index)
    accumulator = load_backend(plan.backend).start(setup, threads=place.threads)
    read_bytes = 0
    for place_of_group, views, window in brick_windows_of(setup, plan.groups):
        filtered, n_bytes = read_window(run, bin_index, place_of_group, window, setup.ramp.n_out)
        read_bytes += n_bytes
        for some in grouped_batches(views, plan.batch_views):
            accumulator.add_filtered(views_of_group(filtered, plan.groups[place_of_group], some), some, window)
        # Not while the next group is read: the plan counts one.
        del filtered
    with run.publishing():
        written = write_brick(run.store, brick_file(run, bin_index, brick_index), accumulator.read_slices)
    n_voxels = setup.slab.n_slices * setup.made_area.shape[0] * setup.made_area.shape[1]
    return {
        "bin": bin_index,
        "brick": brick_index,
        "read_bytes": read_bytes,
        "written_bytes": written,
        "updates": n_voxels * setup.views.size,
        "reconstruct_s": time.perf_counter() - started,
    } | run.store_counts()


class BrickSlices:
    """Slices of a slab put together from its bricks; voxels that no brick holds lie outside the field and are 0."""

    def __init__(self, run: OpenRun, bin_index: int, slab_index: int) -> None:
        assert run.plan.bricks is not None
        areas = run.plan.bricks.areas
        self._run, self._bin_index = run, bin_index
        self._bricks = [(slab_index * len(areas) + place, area) for place, area in enumerate(areas)]
        self.read_bytes = 0

    def read_slices(self, start: int, stop: int) -> NDArray[np.float32]:
        """Slices of the slab as (z, y, x) float32, counted from the slab's first one."""
        out = np.zeros((stop - start, *self._run.plan.grid.shape[1:]), dtype=np.float32)
        for index, area in self._bricks:
            file = brick_file(self._run, self._bin_index, index)
            part = out[:, area.y_start : area.y_stop, area.x_start : area.x_stop]
            step = slices_of_a_read(*area.shape)
            for first in range(start, stop, step):
                last = min(first + step, stop)
                self.read_bytes += read_brick(
                    self._run.store, file, first, last, out=part[first - start : last - start]
                )
        return out
