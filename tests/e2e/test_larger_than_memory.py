# SPDX-License-Identifier: Apache-2.0
"""A scan and volumes each four times as large as all executors' memory together run through: `make campaign`.

It takes 10 to 20 minutes and about 40 GB of disk.
"""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest

from ingest.scan import EnergyBin, FieldFrames
from ingest.upload import upload
from local_cluster.local_cluster import LocalCluster
from local_cluster.options import ClusterOptions
from reconstruction.geometry import ConeBeamGeometry
from reconstruction.phantom import Cylinder, Phantom
from reconstruction.projector import forward_project
from storage.filesystem import open_store
from tests.support.cluster_job import ClusterJob, children_of, registered
from tests.support.scans import make_scan

pytestmark = [pytest.mark.hdfs, pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(3600)]

MEBIBYTE = 1 << 20
SIDE, VIEWS, BINS, VOXELS = 2048, 612, 2, 1088
#: Memory of an executor's JVM and of its one Python task [MiB]; there are two executors.
HEAP, TASK, EXECUTORS = 450, 768, 2
MU, RADIUS = 0.02, 45.0
WHITE = 20_000


class LargeScan:
    """Counts behind a cylinder on the axis: all views alike but for their noise, which is rolled along the rows."""

    def __init__(self) -> None:
        geometry = ConeBeamGeometry.circular(
            sod_mm=1000.0, sdd_mm=1400.0, angles_rad=2 * math.pi * np.arange(VIEWS) / VIEWS, n_rows=SIDE, n_cols=SIDE,
            pitch_u_mm=0.1, pitch_v_mm=0.1,
        )  # fmt: skip
        self.scan = make_scan(
            scan_id="large", n_views=VIEWS, n_rows=SIDE, n_cols=SIDE, geometry=geometry, content="counts",
            pixel_type="uint16", bins=tuple(EnergyBin(b) for b in range(BINS)), flats=FieldFrames(4),
            darks=FieldFrames(4),
        )  # fmt: skip
        shape = Cylinder(center_mm=(0.0, 0.0, 0.0), half_axes_mm=(RADIUS, RADIUS, 200.0), density=MU)
        line_integrals = forward_project(Phantom((shape,)), geometry, [0])[0]
        rng = np.random.default_rng(5)
        self.mean = (WHITE * np.exp(-line_integrals)).astype("f4")
        self.noise = rng.normal(size=(4, SIDE, SIDE)).astype("f4") * np.sqrt(self.mean)
        self.fields = rng.poisson(WHITE, size=(1, 4, SIDE, SIDE)).astype("u2").repeat(BINS, axis=0)

    def available_views(self):
        return VIEWS

    def read_views(self, start, stop):
        views = [self.mean + np.roll(self.noise[v % 4], 7 * v, axis=0) for v in range(start, stop)]
        return np.stack([np.stack(views).astype("u2")] * BINS)

    def read_flats(self):
        return self.fields

    def read_darks(self):
        return np.zeros_like(self.fields)

    def read_bad_pixels(self):
        return None

    def close(self):
        pass


class ResidentMemory:
    """The most that executors and their Python processes hold together, looked at every half second."""

    def __init__(self, workers):
        self.workers, self.peak_bytes = workers, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _look(self):
        while not self._stop.wait(0.5):
            pids = [pid for worker in self.workers for pid in children_of(worker)]
            self.peak_bytes = max(self.peak_bytes, sum(own_bytes(pid) for pid in pids))


def own_bytes(pid):
    """Memory of a process that it shares with no file [B]; 0 for one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))


def test_scan_and_volumes_of_four_times_the_memory(tmp_path):
    allowed = EXECUTORS * (HEAP + TASK) * MEBIBYTE
    assert BINS * VIEWS * SIDE * SIDE * 2 >= 4 * allowed
    assert BINS * VOXELS**3 * 4 >= 4 * allowed
    options = ClusterOptions(
        tmp_path / "cluster", data_nodes=1, replication=1, workers=EXECUTORS, worker_cores=1, worker_memory=f"{HEAP}m"
    )
    with LocalCluster.start(options) as cluster:
        url = f"{cluster.hdfs_url}/large"
        upload(LargeScan(), open_store(url), memory_bytes=256 * MEBIBYTE, spool_folder=tmp_path)
        job = ClusterJob(
            cluster, url, tmp_path / "driver", scan_id="large",
            arguments=(
                "--shape", f"{VOXELS},{VOXELS},{VOXELS}", "--voxel", "0.12", "--mu-range", "-0.05,0.1",
                "--band-type", "float16", "--task-memory", f"{TASK}MiB",
            ),
            settings={"executor_memory": f"{HEAP}m", "task_memory_mib": TASK},
        ).start()  # fmt: skip
        pids = [daemon.pid for daemon in cluster.status().daemons if daemon.name.startswith("worker")]
        with ResidentMemory(pids) as resident:
            report = job.result(timeout_s=3000)["report"]
        series = registered(job.index)
    peaks = report["peak_memory_mib"]
    print(json.dumps({"resident_mib": resident.peak_bytes >> 20, "allowed_mib": allowed >> 20, **peaks}))
    assert report["over_memory"] == []
    assert max(peaks[stage["name"]] for stage in report["stages"]) <= peaks["planned"] <= TASK
    assert resident.peak_bytes <= 1.15 * allowed, "the JVM has its own memory beside its heap"
    assert len(series) == 2 * BINS
    assert max(map(len, series.values())) == VOXELS
    assert report["spark"]["executor_run_s"] > 0
    assert report["shuffle_bytes"] < 1_000_000
