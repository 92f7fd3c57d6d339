# SPDX-License-Identifier: Apache-2.0
"""Measure the rates that a plan's expected time goes by: reading, correcting, filtering, back-projecting, encoding.

``python benchmarks/plan_rates.py`` works on one core, in a folder of its own, with files in the system's cache.  The
last line is one JSON object; `spark_jobs/planning/rates.py` holds the figures of one such run, ``docs/planning.md``
explains them.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.noisy_reader import NoisyReader
from ingest.chunks import open_scan_chunks
from ingest.panel import turn_panel
from ingest.upload import upload
from reconstruction.backends import list_backends, load_backend
from reconstruction.bad_pixels import CorrectionParameters
from reconstruction.fdk import FdkParameters, prepare
from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid
from reconstruction.slabs import view_batches
from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.planning.series import RunRecord
from spark_jobs.run_files.bands import BandFile, read_band, write_band
from spark_jobs.tasks.corrected_rows import RowCorrector, find_mask
from spark_jobs.tasks.prepare_task import prepare_bin
from spark_jobs.tasks.slab_task import reconstruct_slab
from spark_jobs.tasks.workers import RunPlace
from storage.filesystem import open_store
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.chunks import StoredScan
    from reconstruction.fdk import SlabSetup
    from storage.filesystem import Store

N_VIEWS, N_ROWS, N_COLS = 128, 384, 512
SIDE, HEIGHT = 384, 64
_TRIES = 3


def seconds(work: Callable[[], object]) -> float:
    """Median wall seconds of some runs, after one to warm up."""
    work()
    times = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return sorted(times)[_TRIES // 2]


def row_rates(stored: StoredScan, store: Store) -> dict[str, float]:
    """Rates of what is done to detector rows."""
    mask, _ = find_mask(stored, 0, CorrectionParameters())
    corrector = RowCorrector(stored, 0, mask, CorrectionParameters(), 0, N_ROWS)
    n_bytes = 2 * stored.layout.view_block * N_ROWS * N_COLS
    raw = corrector.read_block(0)
    lines, views = corrector.line_integrals([raw], 0, len(raw.counts))
    setup = setup_of(stored.scan.geometry, four_fold=False)
    backend = load_backend("numba")
    filtered = backend.filter_rows(setup, lines, views, row_start=0, threads=1)
    band = BandFile("bands/a.band", 0, N_ROWS, len(filtered), filtered.shape[2], "float32")
    return {
        "read_bytes_per_s": n_bytes / seconds(lambda: corrector.read_block(0)),
        "correct_pixels_per_s": lines.size / seconds(lambda: corrector.line_integrals([raw], 0, len(raw.counts))),
        "filter_pixels_per_s": (lines.size + filtered.size) / 2
        / seconds(lambda: backend.filter_rows(setup, lines, views, row_start=0, threads=1)),
        "store_bytes_per_s": filtered.nbytes / seconds(lambda: write_band(store, band, filtered)),
        "band_bytes_per_s": filtered.nbytes / seconds(lambda: read_band(store, band, 0, N_ROWS)),
    }  # fmt: skip


def resample_rate() -> dict[str, float]:
    """Pixels of views that are resampled a second: of tilted panels, and of two camera positions that are merged."""
    angles = np.arange(N_VIEWS) * 2 * np.pi / N_VIEWS
    distances = {"sod_mm": 200.0, "sdd_mm": 300.0, "n_rows": N_ROWS, "pitch_u_mm": 0.11, "pitch_v_mm": 0.11}
    whole = ConeBeamGeometry.circular(angles_rad=angles, n_cols=N_COLS, **distances)
    n_cols = N_COLS // 2 + 10
    sides = [
        ConeBeamGeometry.circular(angles_rad=angles, n_cols=n_cols, offset_u_mm=side * N_COLS / 4 * 0.11, **distances)
        for side in (-1, 1)
    ]
    merged = ConeBeamGeometry(np.concatenate([side.poses for side in sides]), N_ROWS, n_cols)
    return {
        "resample_pixels_per_s": _resampled_per_s(turn_panel(whole, math.radians(2.0))),
        "merge_pixels_per_s": _resampled_per_s(merged),
    }


def _resampled_per_s(geometry: ConeBeamGeometry) -> float:
    """Pixels of views that one thread makes of their frames in a second, times the frames of a view."""
    setup = setup_of(geometry, four_fold=False)
    assert setup.virtual is not None
    views = np.arange(32)
    frame = np.ones((geometry.n_rows, geometry.n_cols), dtype=np.float32)
    frames = [[frame] * setup.virtual.n_slots for _ in views]
    backend = load_backend("numba")
    spent = seconds(
        lambda: backend.resample(
            setup, frames, views, frame_row_start=0, row_start=0, row_stop=setup.geometry.n_rows, threads=1
        )
    )
    return len(views) * setup.virtual.n_slots * setup.geometry.n_rows * setup.geometry.n_cols / spent


def setup_of(
    geometry: ConeBeamGeometry | None, *, four_fold: bool, side: int = SIDE, height: int = HEIGHT
) -> SlabSetup:
    """A slab in the middle of a volume."""
    assert geometry is not None
    pitch = 0.9 * 0.11 * N_COLS * 200 / 300 / side
    grid = VolumeGrid((height, side, side), (pitch, pitch, pitch))
    return prepare(geometry, grid, FdkParameters(), Slab(0, height), four_fold=four_fold)


def update_rates(geometry: ConeBeamGeometry) -> dict[str, float]:
    """Voxel updates per second of every kernel that this processor runs."""
    rates = {}
    for name, lacking in list_backends().items():
        if lacking or name == "numba":
            continue
        for kernel in ("four_fold", "upright", "any_pose"):
            slow = name == "numpy_reference" or kernel == "any_pose"
            if name == "numpy_reference" and kernel != "any_pose":
                continue
            setup = setup_of(
                geometry, four_fold=kernel == "four_fold", side=96 if slow else SIDE, height=16 if slow else HEIGHT
            )
            setup = replace(setup, force_general=kernel == "any_pose")
            views = view_batches(N_VIEWS, setup.quarter, 8 if slow else 64)[0]
            rows = np.ones((len(views), setup.band.n_rows, setup.ramp.n_out), dtype=np.float32)
            accumulator = load_backend(name).start(setup, threads=1)
            spent = seconds(lambda: accumulator.add_filtered(rows, views))  # noqa: B023 - called here
            rates[f"{name}/{kernel}"] = setup.grid.n_voxels * len(views) / spent
    return rates


def encode_rate(stored: StoredScan, store: Store) -> float:
    """Voxels per second from the accumulator to a published pack."""
    request = ReconstructionRequest("rates", shape=(HEIGHT, SIDE, SIDE), n_slabs=1, mu_range=(-0.1, 0.4), mode="fused")
    plan = make_plan(stored, request)
    place = RunPlace(store.url, f"runs/{plan.run_name}", 1)
    run = RunRecord("20260101", "120000", {0: (-0.1, 0.4)}, {0: ""}, "rates")
    publish_bytes(store, f"{place.folder}/plan.json", plan.to_bytes(), kind="replace")
    publish_bytes(store, f"{place.folder}/run.json", run.to_bytes(), kind="replace")
    prepare_bin(place, 0)
    spent = sorted(reconstruct_slab(place, 0)["encode_s"] for _ in range(_TRIES))
    return plan.grid.n_voxels / spent[_TRIES // 2]


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="conepacs-rates-") as folder:
        store = open_store(Path(folder).as_uri())
        reader = NoisyReader("rates", N_VIEWS, N_ROWS, N_COLS)
        upload(reader, store)
        stored = open_scan_chunks(store, "rates")
        rates = row_rates(stored, store) | resample_rate() | {"encode_voxels_per_s": encode_rate(stored, store)}
        updates = update_rates(reader.geometry)
    for name, rate in (rates | updates).items():
        print(f"{name:28} {rate / 1e6:10.1f} M")
    told = {"benchmark": "plan_rates", "machine": platform.machine(), "load": os.getloadavg()[0]}
    print(
        json.dumps(
            told
            | {k: round(v) for k, v in rates.items()}
            | {"updates_per_s": {k: round(v) for k, v in updates.items()}}
        )
    )


if __name__ == "__main__":
    main()
