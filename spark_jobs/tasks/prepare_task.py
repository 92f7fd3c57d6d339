# SPDX-License-Identifier: Apache-2.0
"""Task of the first stage: bad pixels, and the range of mu to store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spark_jobs.planning.plan import geometry_of
from spark_jobs.planning.series import fix_bin
from spark_jobs.tasks.corrected_rows import find_mask, mask_bytes, publish_white
from spark_jobs.tasks.probe import probe_mu_range
from spark_jobs.tasks.workers import open_run
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from spark_jobs.tasks.workers import RunPlace


def mask_path(folder: str, bin_index: int) -> str:
    """Where the bad pixels of a bin lie."""
    return f"{folder}/bad-pixels-bin{bin_index:02d}.npz"


def prepare_bin(place: RunPlace, task: int) -> dict[str, Any]:
    """Task of the first stage, one for each bin: find bad pixels, and the range of mu to store."""
    run = open_run(place)
    plan, bin_index = run.plan, run.plan.bins[task]
    mask, words = find_mask(run.stored, bin_index, plan.request.correction)
    # The mask comes last: where it is, white and dark are.
    publish_white(run.stored, place.own_folder, bin_index, mask, plan.request.correction)
    publish_bytes(run.store, mask_path(place.folder, bin_index), mask_bytes(mask), kind="replace")
    mu_range = plan.request.mu_range
    if mu_range is None:
        mu_range = probe_mu_range(run, geometry_of(run.stored), bin_index, mask)
    mu_range, words = fix_bin(run.store, place.folder, bin_index, mu_range, words)
    return {"bin": bin_index, "bad_pixels": words, "mu_range": list(mu_range)} | run.store_counts()
