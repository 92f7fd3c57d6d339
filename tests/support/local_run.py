# SPDX-License-Identifier: Apache-2.0
"""A stored sample scan, and a run of its tasks in this process: what Spark would do, one task after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from data_samples.make_sample import make_sample
from ingest.chunks import open_scan_chunks
from ingest.readers import open_source
from ingest.upload import upload
from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.series import RunRecord
from spark_jobs.running.submit import run_folder
from spark_jobs.tasks.brick_task import back_project_brick
from spark_jobs.tasks.filter_task import filter_rows, filter_tasks
from spark_jobs.tasks.prepare_task import prepare_bin
from spark_jobs.tasks.slab_task import slab_volume
from spark_jobs.tasks.workers import RunPlace, measured
from storage.filesystem import open_store
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from data_samples.make_sample import SampleTruth
    from spark_jobs.planning.plan import ReconstructionPlan
    from spark_jobs.planning.request import ReconstructionRequest
    from storage.filesystem import Store

#: Memory of an upload that cuts the small sample into eight view blocks, so that four of them make a batch.
SMALL_UPLOAD_BYTES = 80_000


def store_sample(folder: Path, url: str, *, memory_bytes: int = SMALL_UPLOAD_BYTES, **sizes) -> SampleTruth:
    """Make a sample scan and upload it; 48 views of 48 x 64 pixels, unless told otherwise."""
    truth = make_sample(folder, **({"n_views": 48, "n_rows": 48, "n_cols": 64} | sizes))
    reader = open_source(folder)
    try:
        upload(reader, open_store(url), memory_bytes=memory_bytes)
    finally:
        reader.close()
    return truth


@dataclass
class LocalRun:
    """One plan and its tasks; the stages before the slabs run when first needed."""

    store: Store
    request: ReconstructionRequest

    @cached_property
    def plan(self) -> ReconstructionPlan:
        return make_plan(open_scan_chunks(self.store, self.request.scan_id), self.request)

    @cached_property
    def place(self) -> RunPlace:
        """Where tasks find the run, once plan and run record are there."""
        plan, folder = self.plan, run_folder(self.plan)
        place = RunPlace(self.store.url, folder, 1)
        publish_bytes(self.store, f"{folder}/plan.json", plan.to_bytes(), kind="replace")
        found = [measured(place, task, prepare_bin) for task in range(len(plan.bins))]
        assert not [r["error"] for r in found if "error" in r]
        ranges = {r["bin"]: tuple(r["mu_range"]) for r in found}
        run = RunRecord("20260115", "103000", ranges, {r["bin"]: r["bad_pixels"] for r in found}, "1")
        publish_bytes(self.store, f"{folder}/run.json", run.to_bytes(), kind="replace")
        self.prepared = found
        self.filtered = []
        if plan.two_stage:
            n_tasks = len(filter_tasks(plan))
            self.filtered = [measured(place, task, filter_rows) for task in range(n_tasks)]
            assert not [r["error"] for r in self.filtered if "error" in r]
        self.bricks = [measured(place, task, back_project_brick) for task in range(len(plan.brick_tasks))]
        assert not [r["error"] for r in self.bricks if "error" in r]
        return place

    def volume(self, bin_index: int = 0) -> np.ndarray:
        """All slabs of a bin, (z, y, x) float32."""
        tasks = [task for task, (each, _) in enumerate(self.plan.tasks) if each == bin_index]
        return np.concatenate([slab_volume(self.place, task) for task in tasks])
