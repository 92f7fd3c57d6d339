# SPDX-License-Identifier: Apache-2.0
"""Calibrate the cluster simulation on real runs and judge it on another: ``python benchmarks/simulator.py``.

The main job runs on two one-core workers of this machine.  Two runs of two shapes give the rates; the third has other
voxels, views, panel, slabs and precision, and is predicted from its plan alone.  All are run twice, the third between
the others, since a machine that others use is not always equally fast.  The last line is one JSON object:
`measured_over_predicted` of the third run is to be within 0.8 to 1.2; `work_over_predicted` is the same with each run's
slowness taken out (wall over CPU seconds of its tasks), for machines that are never quiet.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.noisy_reader import NoisyReader
from ingest.chunks import open_scan_chunks
from ingest.upload import upload
from pacs.sql_index import SqlIndex
from pacs.tables import MIGRATIONS
from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.running.reconstruct_scan import reconstruct_scan
from spark_jobs.running.session import create_session
from spark_jobs.running.settings import SparkSettings
from spark_jobs.simulation.assessment import assess, job_of_plan
from spark_jobs.simulation.calibration import Observation, fit_rates
from spark_jobs.simulation.cluster import Cluster, Hdfs, NodeGroup, Rates
from storage.database import apply_migrations, create_database_engine, sqlite_url
from storage.filesystem import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

    from storage.filesystem import Store

WORKERS = 2
ALLOWED = 0.2


@dataclass(frozen=True)
class Shape:
    """A scan and how it is reconstructed."""

    name: str
    n_bins: int
    n_views: int
    n_rows: int
    n_cols: int
    shape: tuple[int, int, int]
    n_slabs: int
    mode: str
    band_type: str = "float32"

    def request(self, run_id: str) -> ReconstructionRequest:
        """The volume fills the panel's middle, whatever its number of voxels."""
        covered = 0.8 * 0.11 * 200 / 300 * min(self.n_cols, 1.1 * self.n_rows)
        pitch = covered / max(self.shape)
        return ReconstructionRequest(
            self.name, shape=self.shape, voxel_pitch_mm=pitch, n_slabs=self.n_slabs, mode=self.mode,
            band_type=self.band_type, mu_range=(-0.1, 0.4), run_id=run_id,
        )  # type: ignore[arg-type]  # fmt: skip


WARM_UP = Shape("warm-up", 1, 48, 64, 96, (32, 48, 48), 2, "two_stage")
#: Much back-projection for few pixels, and fused; much row work for few voxels, in two stages.
CALIBRATED_ON = (
    Shape("voxels", 1, 360, 416, 448, (512, 512, 512), 8, "fused"),
    Shape("rows", 2, 480, 480, 640, (192, 320, 320), 6, "two_stage"),
)
JUDGED_ON = Shape("judged", 2, 240, 384, 512, (320, 448, 448), 10, "two_stage", "float16")


@dataclass
class Bench:
    """Store, index and session of all runs."""

    store: Store
    index: SqlIndex
    session: Callable[[], SparkSession]
    count: int = 0

    def run(self, shape: Shape) -> Observation:
        """Run one shape and take what was measured."""
        self.count += 1
        request = shape.request(f"run {self.count}")
        stored = open_scan_chunks(self.store, shape.name)
        plan = make_plan(stored, request)
        result = reconstruct_scan(self.store, self.index, request, session=self.session)
        return Observation(job_of_plan(plan, stored), result.report, WORKERS)


def here(rates: Rates) -> Cluster:
    """Describe this machine as a cluster: two one-core workers, files in the system's cache."""
    node = NodeGroup(
        count=1, cores=WORKERS, memory_gib=64, disks=1, disk_mb_per_s=1e6, network_mb_per_s=1e6, disk_tb=1000
    )
    return Cluster("two workers", (node,), hdfs=Hdfs(replication=1), rates=rates)


def main() -> int:
    """Run, fit, predict, print."""
    with tempfile.TemporaryDirectory(prefix="conepacs-simulator-") as name:
        folder = Path(name)
        store = open_store((folder / "store").as_uri())
        engine = create_database_engine(sqlite_url(folder / "index.sqlite"))
        apply_migrations(engine, MIGRATIONS)
        settings = SparkSettings(master=f"local[{WORKERS}]")
        spark = create_session(settings, app_name="simulator", log_file=folder / "spark.log")
        bench = Bench(store, SqlIndex(engine), lambda: spark)
        for shape in (WARM_UP, *CALIBRATED_ON, JUDGED_ON):
            upload(NoisyReader(shape.name, shape.n_views, shape.n_rows, shape.n_cols, n_bins=shape.n_bins), store)
        bench.run(WARM_UP)
        started = time.perf_counter()
        before = [bench.run(shape) for shape in CALIBRATED_ON]
        judged = [bench.run(JUDGED_ON), bench.run(JUDGED_ON)]
        after = [bench.run(shape) for shape in reversed(CALIBRATED_ON)]
        spent = time.perf_counter() - started
        spark.stop()
        engine.dispose()
    told = {
        "benchmark": "simulator",
        "machine": platform.machine(),
        "load": os.getloadavg()[0],
        "runs_s": round(spent, 1),
    }
    told |= judge([*before, *after], judged)
    print(json.dumps(told))
    return 0 if told["within_20_percent"] else 1


def judge(observed: list[Observation], judged: list[Observation]) -> dict[str, Any]:
    """Fit the rates to some runs and compare the prediction of another with what was measured."""
    rates = fit_rates(observed, "benchmarks/simulator.py")
    cluster = here(rates)
    fitted = {name: round(getattr(rates, name).value, 4) for name in
              ("cpu_gups", "row_mpixels_per_s", "band_mvalues_per_s", "encode_mvoxels_per_s", "task_overhead_s",
               "stage_overhead_s", "registrations_per_s")}  # fmt: skip
    print("fitted", fitted)
    slowness = float(np.mean([run.slowness for run in observed]))
    ratios = []
    for run in (*observed, *judged):
        alone = assess(run.job, cluster, troubles=False)
        predicted_s = alone.seconds * slowness
        ratios.append(run.measured_s / predicted_s)
        print(
            f"{run.report['scan_id']:8} measured {run.measured_s:7.2f} s, predicted {predicted_s:7.2f} s, "
            f"ratio {ratios[-1]:.3f}, slowness {run.slowness:.2f}"
        )
        for stage in alone.stages:
            key = "register" if stage.name == "register" else f"stage {stage.name}"
            measured = run.report["seconds"][key]
            print(f"    {stage.name:12} measured {measured:7.2f} s, predicted {stage.seconds * slowness:7.2f} s")
        tasks = run.report["tasks"]
        inside = {name: sum(task[name] for task in tasks) / run.slowness for name in ("reconstruct_s", "encode_s")}
        print(f"    of slab tasks' CPU: adding {inside['reconstruct_s']:.2f} s, encoding {inside['encode_s']:.2f} s")
    measured_s = float(np.mean([run.measured_s for run in judged]))
    work = float(np.mean([run.measured_s / run.slowness for run in judged])) / alone.seconds
    ratio = measured_s / predicted_s
    return {
        "rates": fitted,
        "slowness": [round(run.slowness, 2) for run in (*observed, *judged)],
        "calibrated_on": [round(each, 3) for each in ratios[: len(observed)]],
        "measured_s": round(measured_s, 2),
        "predicted_s": round(predicted_s, 2),
        "measured_over_predicted": round(ratio, 3),
        "work_over_predicted": round(work, 3),
        "within_20_percent": abs(1 - ratio) <= ALLOWED,
    }


if __name__ == "__main__":
    raise SystemExit(main())
