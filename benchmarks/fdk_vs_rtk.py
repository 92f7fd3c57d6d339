# SPDX-License-Identifier: Apache-2.0
"""Our FDK against RTK's on RTK's own projections, in one run on the same data; and the whole job against RTK's FDK.

    python benchmarks/fdk_vs_rtk.py [--size 256] [--repeats 3]

Shepp-Logan, 360 views of 384 x 384 to 256^3 (and once 358 views, which have no four-fold symmetry), 2 threads each, RTK
with subsets of 16 projections (its best).  Runs are interleaved; ratios are RTK's median seconds over ours.  The last
line is one JSON object:

- ``rel_rmse``: of ours against RTK inside the field, relative to RTK's root mean square;
- ``full_turn``, ``any_circular``, ``avx2``, ``portable``: ratios of wall seconds (``cpu``: of CPU seconds);
- ``region_error``: largest relative error of the mean of a Shepp-Logan region (``skull_error`` apart: a thin shell);
- ``whole_job``: seconds of ``conepacs reconstruct`` from Parquet to registered DICOM series, Spark's start apart, over
  RTK's seconds for FDK alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import rtk_peer

from reconstruction.backends import list_backends
from reconstruction.fdk import reconstruct
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SOD_MM, SDD_MM, FIELD_MM = 200.0, 280.0, 40.0
THREADS, RTK_SUBSET = 2, 16
WHITE_COUNTS = 20000.0
SKULL = "2.00"


def geometry_of(n_views: int, side: int) -> ConeBeamGeometry:
    """A full turn whose panel just covers the field."""
    half = SDD_MM * math.tan(math.asin(FIELD_MM / 2 / SOD_MM))
    pitch = 2 * half / side * 1.02
    angles = np.arange(n_views) * 2 * math.pi / n_views
    return ConeBeamGeometry.circular(
        sod_mm=SOD_MM, sdd_mm=SDD_MM, angles_rad=angles, n_rows=side, n_cols=side, pitch_u_mm=pitch, pitch_v_mm=pitch
    )


def field_mask(geometry: ConeBeamGeometry, grid: VolumeGrid) -> NDArray[np.bool_]:
    """Voxels of the field that every view sees, a voxel and a pixel away from the edges."""
    orbit = geometry.circular_orbit
    assert orbit is not None
    x0, y0, z0 = grid.origin_mm
    pitch = grid.voxel_pitch_mm[0]
    n = grid.shape[0]
    r = np.hypot(*np.meshgrid(x0 + pitch * np.arange(n), y0 + pitch * np.arange(n)))
    z = np.abs(z0 + pitch * np.arange(n))
    reach = (geometry.n_rows / 2 - 1.5) * orbit.pitch_v_mm * (SOD_MM - r) / SDD_MM
    return (r < FIELD_MM / 2 - pitch)[None] & (z[:, None, None] < reach[None])


def region_errors(volume: NDArray[Any], truth: NDArray[Any], mask: NDArray[np.bool_]) -> dict[str, float]:
    """Relative error of the mean of each density's region: voxels whose 7^3 neighbourhood has that density alone.

    Only a sliver of the skull (2.0) is that thick at this size; it is given apart, beside RTK's figure.
    """
    flat = mask.copy()
    for axis in range(3):
        for step in range(-3, 4):
            flat &= np.roll(truth, step, axis=axis) == truth
    errors = {}
    for density in np.unique(truth):
        region = flat & (truth == density)
        if density > 0.5 and region.sum() > 500:
            errors[f"{density:.2f}"] = round(float(volume[region].mean()) / float(density) - 1, 6)
    return errors


def timed(work: Callable[[], Any]) -> rtk_peer.Timed:
    """Run and time."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    return rtk_peer.Timed(value, time.perf_counter() - wall, time.process_time() - cpu)


def compare(size: int, n_views: int, repeats: int, ours: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Interleave RTK and ours; medians, ratios and errors."""
    side = size * 3 // 2
    geometry, grid = geometry_of(n_views, side), VolumeGrid.cubic(size, FIELD_MM / size)
    projections, truth = rtk_peer.shepp_logan(geometry, grid, FIELD_MM * 0.475)
    for settings in ours.values():  # compile, or load from the cache
        reconstruct(projections, geometry, grid, threads=THREADS, **settings)
    walls: dict[str, list[float]] = {name: [] for name in ("rtk", *ours)}
    cpus: dict[str, list[float]] = {name: [] for name in ("rtk", *ours)}
    volumes: dict[str, NDArray[Any]] = {}
    for repeat in range(repeats):
        peer = rtk_peer.fdk(projections, geometry, grid, threads=THREADS, subset=RTK_SUBSET)
        results = {"rtk": peer}
        for name, settings in ours.items():
            results[name] = timed(
                lambda chosen=settings: reconstruct(projections, geometry, grid, threads=THREADS, **chosen)
            )
        for name, result in results.items():
            walls[name].append(result.wall_s)
            cpus[name].append(result.cpu_s)
            volumes[name] = result.value
        load = os.getloadavg()[0]
        seconds = ", ".join(f"{name} {walls[name][-1]:.2f} s ({cpus[name][-1]:.2f} CPU)" for name in walls)
        print(f"{n_views} views, run {repeat + 1} of {repeats}, load {load:.1f}: {seconds}", flush=True)
    mask = field_mask(geometry, grid)
    rtk = volumes["rtk"][mask]
    scale = float(np.sqrt(np.mean(rtk.astype(np.float64) ** 2)))
    medians = {name: statistics.median(values) for name, values in walls.items()}
    cpu_medians = {name: statistics.median(values) for name, values in cpus.items()}
    return {
        "ratio": {name: medians["rtk"] / medians[name] for name in ours},
        "cpu": {name: cpu_medians["rtk"] / cpu_medians[name] for name in ours},
        "rel_rmse": {
            name: float(np.sqrt(np.mean((volumes[name][mask].astype(np.float64) - rtk) ** 2))) / scale for name in ours
        },
        "regions": {name: region_errors(volumes[name], truth, mask) for name in ("rtk", *ours)},
        "rtk_seconds": medians["rtk"],
        "gups": {name: grid.n_voxels * n_views / medians[name] / 1e9 for name in walls},
    }


def whole_job(size: int, rtk_seconds: float, repeats: int) -> dict[str, float]:
    """`conepacs reconstruct` from Parquet counts to registered series, caches warm, Spark's start apart."""
    from cli.archive import open_index
    from data_samples.counts import write_count_scan
    from ingest.readers import open_source
    from ingest.upload import upload
    from reconstruction.phantom import shepp_logan_3d
    from reconstruction.projector import forward_project
    from spark_jobs.planning.request import ReconstructionRequest
    from spark_jobs.running.reconstruct_scan import reconstruct_scan
    from spark_jobs.running.session import create_session
    from spark_jobs.running.settings import SparkSettings
    from storage.filesystem import open_store

    geometry = geometry_of(360, size * 3 // 2)
    phantom = shepp_logan_3d(FIELD_MM * 0.475, contrast="original", scale=0.01)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = forward_project(phantom, geometry)
        write_count_scan(folder / "scan", lines, geometry, scan_id="whole-job", white_counts=WHITE_COUNTS)
        store = open_store(folder / "store")
        reader = open_source(folder / "scan")
        upload(reader, store)
        reader.close()
        settings = SparkSettings(master=f"local[{THREADS}]")
        started = time.perf_counter()
        spark = create_session(settings, app_name="fdk_vs_rtk", log_file=folder / "spark.log")
        session_s = time.perf_counter() - started
        pitch = FIELD_MM / size
        request = ReconstructionRequest("whole-job", voxel_pitch_mm=pitch, shape=(size, size, size))
        seconds = []
        for repeat in range(repeats + 1):  # the first run warms caches and workers
            index = open_index(store, str(folder / f"index-{repeat}.sqlite"))
            started = time.perf_counter()
            result = reconstruct_scan(store, index, request, session=lambda: spark, again=True)
            seconds.append(time.perf_counter() - started)
            stages = {k: round(v, 2) for k, v in result.report["seconds"].items()}
            print(f"whole job, run {repeat}: {seconds[-1]:.2f} s {stages}, load {os.getloadavg()[0]:.1f}", flush=True)
        spark.stop()
    median = statistics.median(seconds[1:])
    return {"whole_job": median / rtk_seconds, "whole_job_seconds": median, "session_seconds": session_s}


def main() -> int:
    """Run everything and print one JSON object last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-job", action="store_true", help="leave the whole job out")
    arguments = parser.parse_args()
    usable = {name for name, lacking in list_backends().items() if not lacking}
    paths = {
        "full_turn": {"backend": "numba"},
        "avx2": {"backend": "numba-avx2"},
        "portable": {"backend": "numba-portable"},
    }
    paths = {name: settings for name, settings in paths.items() if settings["backend"] in usable}
    turn = compare(arguments.size, 360, arguments.repeats, paths)
    any_circular = compare(arguments.size, 358, arguments.repeats, {"any_circular": {"backend": "numba"}})
    summary: dict[str, Any] = {
        **{name: round(value, 2) for name, value in (turn["ratio"] | any_circular["ratio"]).items()},
        "cpu": {name: round(value, 2) for name, value in (turn["cpu"] | any_circular["cpu"]).items()},
        "rel_rmse": max((turn["rel_rmse"] | any_circular["rel_rmse"]).values()),
        "region_error": max(abs(e) for k, e in turn["regions"]["full_turn"].items() if k != SKULL),
        "skull_error": {name: turn["regions"][name].get(SKULL) for name in ("full_turn", "rtk")},
        "regions": turn["regions"]["full_turn"],
        "rtk_seconds": round(turn["rtk_seconds"], 2),
        "gups": {name: round(value, 3) for name, value in (turn["gups"] | any_circular["gups"]).items()},
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
    }
    if not arguments.no_job:
        summary |= {
            k: round(v, 3) for k, v in whole_job(arguments.size, turn["rtk_seconds"], arguments.repeats).items()
        }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
