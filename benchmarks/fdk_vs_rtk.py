# SPDX-License-Identifier: Apache-2.0
"""Our FDK against RTK's and plastimatch's on RTK's own projections, in one run on the same data; and the whole job.

    python benchmarks/fdk_vs_rtk.py [--size 256] [--repeats 3] [--parts full_turn,any_circular,tilted,slab,job]

Shepp-Logan, 360 views of 384 x 384 to 256^3 (once 358 views, which have no four-fold symmetry, and once with a panel
tilted about all three axes), 2 threads each, RTK with subsets of 16 projections (its best).  Runs are interleaved;
ratios are the peer's median seconds over ours.  plastimatch (Debian package of that name) is run where the full turn
is; `--no-plastimatch` does without.  The last line is one JSON object:

- ``full_turn``, ``any_circular``, ``avx2``, ``portable``, ``tilted``: RTK's wall seconds over ours (``cpu``: of CPU
  seconds); ``tilted`` sets the views upright first, against RTK's time on the same tilted views;
- ``plastimatch``: its wall seconds for filter and back-projection, files apart, over ours for the full turn;
- ``rel_rmse``: of ours against RTK inside the field, relative to RTK's root mean square; ``tilted_rmse_ratio``: of our
  root mean square error against the phantom over RTK's, on the tilted views;
- ``region_error``: largest relative error of the mean of a Shepp-Logan region (``skull_error`` apart: a thin shell);
- ``slab_of_whole``: voxel updates a second of the middle 64 slices of 512^3 over those of all of it, 360 views of 768 x
  768, set-up and filter included (``slab_of_whole_cpu``: by CPU seconds);
- ``filter_mb_per_s``: float32 line integrals weighted, filtered and transposed in a second;
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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import plastimatch_peer
import rtk_peer

from reconstruction.backends import list_backends, load_backend
from reconstruction.backends.numba_fdk import NumbaAccumulator
from reconstruction.fdk import FdkParameters, prepare, reconstruct
from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SOD_MM, SDD_MM, FIELD_MM = 200.0, 280.0, 40.0
THREADS, RTK_SUBSET = 2, 16
WHITE_COUNTS = 20000.0
PARTS = ("full_turn", "any_circular", "tilted", "slab", "job")
#: The panel's tilts about its normal, its rows and its columns.
TILTS_DEG = (0.6, 0.8, -0.7)
#: The volume, views and slices of the slab that is compared with the whole.
SLAB_SIZE, SLAB_VIEWS, SLAB_SLICES = 512, 360, 64
SKULL = "2.00"


def geometry_of(n_views: int, side: int) -> ConeBeamGeometry:
    """A full turn whose panel just covers the field."""
    half = SDD_MM * math.tan(math.asin(FIELD_MM / 2 / SOD_MM))
    pitch = 2 * half / side * 1.02
    angles = np.arange(n_views) * 2 * math.pi / n_views
    return ConeBeamGeometry.circular(
        sod_mm=SOD_MM, sdd_mm=SDD_MM, angles_rad=angles, n_rows=side, n_cols=side, pitch_u_mm=pitch, pitch_v_mm=pitch
    )


def tilted_geometry(n_views: int, side: int) -> ConeBeamGeometry:
    """The same turn with the panel tilted about its middle in all three ways, and as much wider."""
    flat = geometry_of(n_views, side)
    poses = flat.poses.copy()
    u, v = poses[:, 6:9] * 1.03, poses[:, 9:12] * 1.03
    normal = np.cross(u, v) / np.linalg.norm(u, axis=1, keepdims=True)
    roll, pitch, yaw = (math.radians(angle) for angle in TILTS_DEG)
    u, v = u * math.cos(roll) + v * math.sin(roll), v * math.cos(roll) - u * math.sin(roll)
    v, normal = v * math.cos(pitch) + normal * math.sin(pitch), normal * math.cos(pitch) - v * math.sin(pitch)
    poses[:, 6:9], poses[:, 9:12] = u * math.cos(yaw) + normal * math.sin(yaw), v
    return ConeBeamGeometry(poses, side, side)


def field_mask(geometry: ConeBeamGeometry, grid: VolumeGrid) -> NDArray[np.bool_]:
    """Voxels of the field that every view sees, a voxel and a pixel (tilted: as far as it tilts) from the edges."""
    x0, y0, z0 = grid.origin_mm
    pitch = grid.voxel_pitch_mm[0]
    n = grid.shape[0]
    r = np.hypot(*np.meshgrid(x0 + pitch * np.arange(n), y0 + pitch * np.arange(n)))
    z = np.abs(z0 + pitch * np.arange(n))
    margin = 1.5 if geometry.circular_orbit is not None else geometry.n_rows * 0.03
    reach = (geometry.n_rows / 2 - margin) * geometry.pitch_mm[0] * (SOD_MM - r) / SDD_MM
    return np.asarray((r < FIELD_MM / 2 - pitch)[None] & (z[:, None, None] < reach[None]), dtype=np.bool_)


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


def compare(
    geometry: ConeBeamGeometry, size: int, repeats: int, ours: dict[str, dict[str, Any]], *, plastimatch: bool = False
) -> dict[str, Any]:
    """Interleave the peers and ours; medians, ratios and errors."""
    grid, n_views = VolumeGrid.cubic(size, FIELD_MM / size), geometry.n_views
    projections, truth = rtk_peer.shepp_logan(geometry, grid, FIELD_MM * 0.475)
    for settings in ours.values():  # compile, or load from the cache
        reconstruct(projections, geometry, grid, threads=THREADS, **settings)
    files = plastimatch_peer.PlastimatchViews(projections, geometry) if plastimatch else None
    times: dict[str, list[rtk_peer.Timed]] = {}
    for repeat in range(repeats):
        results = {"rtk": rtk_peer.fdk(projections, geometry, grid, threads=THREADS, subset=RTK_SUBSET)}
        if files is not None:
            results["plastimatch"] = rtk_peer.Timed(*files.fdk(grid, threads=THREADS))
        for name, settings in ours.items():
            results[name] = timed(partial(reconstruct, projections, geometry, grid, threads=THREADS, **settings))
        for name, result in results.items():
            times.setdefault(name, []).append(result)
        load = os.getloadavg()[0]
        seconds = ", ".join(f"{name} {found.wall_s:.2f} s ({found.cpu_s:.2f} CPU)" for name, found in results.items())
        print(f"{n_views} views, run {repeat + 1} of {repeats}, load {load:.1f}: {seconds}", flush=True)
    if files is not None:
        files.close()
    mask = field_mask(geometry, grid)
    volumes = {name: found[-1].value for name, found in times.items()}
    errors = {name: _rms(volume[mask], truth[mask]) for name, volume in volumes.items()}
    rtk = volumes["rtk"][mask]
    walls = {name: statistics.median(found.wall_s for found in all_of) for name, all_of in times.items()}
    cpus = {name: statistics.median(found.cpu_s for found in all_of) for name, all_of in times.items()}
    return {
        "ratio": {name: walls["rtk"] / walls[name] for name in ours},
        "cpu": {name: cpus["rtk"] / cpus[name] for name in ours},
        "rel_rmse": {name: _rms(volumes[name][mask], rtk) / _rms(rtk, np.zeros(1)) for name in ours},
        "rmse_ratio": {name: errors[name] / errors["rtk"] for name in ours},
        "regions": {name: region_errors(volumes[name], truth, mask) for name in ("rtk", *ours)},
        "seconds": walls,
        "cpu_seconds": cpus,
        "gups": {name: grid.n_voxels * n_views / seconds / 1e9 for name, seconds in walls.items()},
    }


def _rms(values: NDArray[Any], others: NDArray[Any]) -> float:
    """Root mean square of a difference."""
    return float(np.sqrt(np.mean((values.astype(np.float64) - others) ** 2)))


def slab_and_filter(repeats: int) -> dict[str, float]:
    """Rate of a slab over that of the whole volume, and of the filter, on noise."""
    side = SLAB_SIZE * 3 // 2
    geometry, grid = geometry_of(SLAB_VIEWS, side), VolumeGrid.cubic(SLAB_SIZE, FIELD_MM / SLAB_SIZE)
    noise = np.random.default_rng(0).random((SLAB_VIEWS, side, side), dtype=np.float32)
    first = (SLAB_SIZE - SLAB_SLICES) // 2
    slabs = {"whole": Slab(0, SLAB_SIZE), "slab": Slab(first, first + SLAB_SLICES)}
    walls: dict[str, list[float]] = {name: [] for name in (*slabs, "filter")}
    cpus: dict[str, list[float]] = {name: [] for name in slabs}
    small = geometry_of(SLAB_VIEWS, 384)
    setup = prepare(small, VolumeGrid.cubic(256, FIELD_MM / 256), FdkParameters())
    views = np.arange(SLAB_VIEWS)
    lines = np.ascontiguousarray(noise[:, :384, :384])
    accumulator = load_backend("numba").start(setup, threads=THREADS)
    assert isinstance(accumulator, NumbaAccumulator)
    accumulator.filtered_views(lines, views)  # compile, and take the memory
    for repeat in range(repeats):
        for name, slab in slabs.items():
            found = timed(partial(reconstruct, noise, geometry, grid, slab=slab, threads=THREADS))
            walls[name].append(found.wall_s / slab.n_slices)
            cpus[name].append(found.cpu_s / slab.n_slices)
        walls["filter"].append(timed(partial(accumulator.filtered_views, lines, views)).wall_s)
        rates = {name: SLAB_SIZE**2 * SLAB_VIEWS / walls[name][-1] / 1e9 for name in slabs}
        print(
            f"{SLAB_SIZE}^3, run {repeat + 1} of {repeats}, load {os.getloadavg()[0]:.1f}: whole {rates['whole']:.2f} "
            f"GUPS, slab {rates['slab']:.2f} GUPS, filter {lines.nbytes / walls['filter'][-1] / 1e6:.0f} MB/s",
            flush=True,
        )
    medians = {name: statistics.median(values) for name, values in walls.items()}
    return {
        "slab_of_whole": medians["whole"] / medians["slab"],
        "slab_of_whole_cpu": statistics.median(cpus["whole"]) / statistics.median(cpus["slab"]),
        "gups_512": SLAB_SIZE**2 * SLAB_VIEWS / medians["whole"] / 1e9,
        "filter_mb_per_s": lines.nbytes / medians["filter"] / 1e6,
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


def summarize(turns: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The keys of the comparisons with RTK."""
    merged: dict[str, dict[str, float]] = {
        key: {name: value for turn in turns.values() for name, value in turn[key].items() if name != "rtk"}
        for key in ("ratio", "cpu", "rel_rmse", "rmse_ratio", "gups")
    }
    upright = [value for name, value in merged["rel_rmse"].items() if name != "tilted"]
    summary: dict[str, Any] = {name: round(value, 2) for name, value in merged["ratio"].items()}
    summary["cpu"] = {name: round(value, 2) for name, value in merged["cpu"].items()}
    if upright:
        summary["rel_rmse"] = max(upright)
    if "tilted" in turns:
        summary["tilted_rmse_ratio"] = round(merged["rmse_ratio"]["tilted"], 4)
    if "full_turn" in turns:
        turn = turns["full_turn"]
        summary["region_error"] = max(abs(e) for k, e in turn["regions"]["full_turn"].items() if k != SKULL)
        summary["skull_error"] = {name: turn["regions"][name].get(SKULL) for name in ("full_turn", "rtk")}
        summary["regions"] = turn["regions"]["full_turn"]
        if "plastimatch" in turn["seconds"]:
            for key, seconds in (("plastimatch", turn["seconds"]), ("plastimatch_cpu", turn["cpu_seconds"])):
                summary[key] = round(seconds["plastimatch"] / seconds["full_turn"], 2)
    summary["rtk_seconds"] = {name: round(turn["seconds"]["rtk"], 2) for name, turn in turns.items()}
    summary["gups"] = {name: round(value, 3) for name, value in merged["gups"].items()}
    return summary


def main() -> int:
    """Run everything and print one JSON object last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--no-plastimatch", action="store_true", help="do without the second peer")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"unknown parts {', '.join(unknown)}: expected some of {', '.join(PARTS)}")
    second = "full_turn" in parts and not arguments.no_plastimatch
    if second and not plastimatch_peer.available():
        parser.error(plastimatch_peer.MISSING)
    size, repeats, side = arguments.size, arguments.repeats, arguments.size * 3 // 2
    usable = {name for name, lacking in list_backends().items() if not lacking}
    paths = {"full_turn": "numba", "avx2": "numba-avx2", "portable": "numba-portable"}
    turns: dict[str, dict[str, Any]] = {}
    if "full_turn" in parts:
        ours = {name: {"backend": backend} for name, backend in paths.items() if backend in usable}
        turns["full_turn"] = compare(geometry_of(360, side), size, repeats, ours, plastimatch=second)
    if "any_circular" in parts:
        turns["any_circular"] = compare(geometry_of(358, side), size, repeats, {"any_circular": {"backend": "numba"}})
    if "tilted" in parts:
        turns["tilted"] = compare(tilted_geometry(360, side), size, repeats, {"tilted": {"backend": "numba"}})
    summary = summarize(turns) | {"load": os.getloadavg()[0], "cores": os.cpu_count()}
    if "slab" in parts:
        summary |= {name: round(value, 3) for name, value in slab_and_filter(repeats).items()}
    if "job" in parts and "full_turn" in turns:
        job = whole_job(size, turns["full_turn"]["seconds"]["rtk"], repeats)
        summary |= {name: round(value, 3) for name, value in job.items()}
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
