# SPDX-License-Identifier: Apache-2.0
"""Iterative methods against FDK on few noisy views of analytic phantoms, their cost, the halo of slabs, and RTK.

``python -m benchmarks.iterative`` prints lines as it goes and one JSON object last; ``--picture FILE`` writes a PNG of
the middle slice by every method.  Under two minutes on two cores.  ``--sheet`` does the default settings of ``tv`` and
``os-sart`` on all phantoms, doses and sizes instead (minutes), ``--only-peer`` the comparison with RTK's projectors.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import rtk_iterative_peer
from reconstruction.fdk import reconstruct
from reconstruction.forbild import PaintedPhantom, forbild
from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid
from reconstruction.iterative.parameters import IterativeParameters, Method
from reconstruction.iterative.projectors import empty_volume, open_pair, pad_volume
from reconstruction.iterative.reconstruct import reconstruct_iterative
from reconstruction.iterative.region import make_region
from reconstruction.phantom import Ellipsoid, Phantom, rotation_about, sample, shepp_logan_3d
from reconstruction.projector import forward_project
from reconstruction.slabs import RowBand

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Volume = NDArray[np.float32]

METHODS: tuple[Method, ...] = ("sirt", "os-sart", "tv")
SHEET_METHODS: tuple[Method, ...] = ("os-sart", "tv")
#: Shepp-Logan with high contrast, FORBILD's head and thorax, discs across the axis, a ball of thirty random ellipsoids.
PHANTOMS = ("head", "forbild", "thorax", "discs", "ellipsoids")
SHEET_PHOTONS = (2e3, 1e4, 5e4, math.inf)
SHEET_SIDES = (40, 64, 96)


def phantom_of(name: str) -> Phantom | PaintedPhantom:
    """One of `PHANTOMS`, within 24 mm of the axis."""
    if name == "head":
        return shepp_logan_3d(24.0, contrast="high", scale=0.02)
    if name == "forbild":
        return forbild("head", scale=0.19, water_per_mm=0.02)
    if name == "thorax":
        return forbild("thorax", scale=0.11, water_per_mm=0.02)
    if name == "discs":
        return Phantom(tuple(Ellipsoid((0.0, 0.0, z), (20.0, 20.0, 2.0), 0.02) for z in (-16.0, -8.0, 0.0, 8.0, 16.0)))
    rng = np.random.default_rng(5)
    shapes = [Ellipsoid((0.0, 0.0, 0.0), (23.0, 23.0, 22.0), 0.015)]
    for _ in range(30):
        center, axes = rng.uniform(-13, 13, 3), rng.uniform(1, 5, 3)
        density, turn = float(rng.uniform(-0.012, 0.02)), rotation_about((0.0, 0.0, 1.0), float(rng.uniform(0, 3)))
        shapes.append(Ellipsoid(tuple(center), tuple(axes), density, turn))
    return Phantom(tuple(shapes))


def few_views_case(
    side: int, n_views: int, photons: float, name: str = "head"
) -> tuple[ConeBeamGeometry, VolumeGrid, Volume, Volume]:
    """Geometry, grid, noisy line integrals (view, row, col) and truth (z, y, x) of a phantom."""
    n_pixels = side * 3 // 2
    geometry = ConeBeamGeometry.circular(
        sod_mm=200.0, sdd_mm=300.0, angles_rad=np.arange(n_views) * 2 * math.pi / n_views, n_rows=n_pixels,
        n_cols=n_pixels, pitch_u_mm=76.8 / n_pixels, pitch_v_mm=76.8 / n_pixels,
    )  # fmt: skip
    grid = VolumeGrid.cubic(side, 50.0 / side)
    phantom = phantom_of(name)
    if isinstance(phantom, Phantom):
        lines, truth = forward_project(phantom, geometry, supersample=2), sample(phantom, grid, supersample=3)
    else:
        lines, truth = phantom.line_integrals(geometry, supersample=2), phantom.sample(grid, supersample=3)
    if math.isfinite(photons):
        counts = np.random.default_rng(1).poisson(photons * np.exp(-lines))
        lines = -np.log(np.maximum(counts, 1) / photons)
    return geometry, grid, lines.astype(np.float32), truth


def region_of_judgement(grid: VolumeGrid) -> NDArray[np.bool_]:
    """Voxels that every view sees, within the head's radius."""
    z, y, x = (
        origin + pitch * np.arange(n)
        for n, pitch, origin in zip(grid.shape, grid.voxel_pitch_mm, grid.origin_mm[::-1], strict=True)
    )
    return np.asarray((np.hypot(y[:, None], x[None]) < 24)[None] & (np.abs(z) < 20)[:, None, None])


def rmse(volume: Volume, truth: Volume, inside: NDArray[np.bool_]) -> float:
    return float(np.sqrt(np.mean((volume - truth)[inside].astype(np.float64) ** 2)))


def accuracy(side: int, n_views: int, photons: float) -> tuple[dict[str, Any], list[Volume]]:
    """RMSE of each method over FDK's, and CPU seconds."""
    geometry, grid, lines, truth = few_views_case(side, n_views, photons)
    inside = region_of_judgement(grid)
    started = time.process_time()
    volumes = [truth, reconstruct(lines, geometry, grid)]
    found: dict[str, Any] = {
        "views": n_views, "side": side, "photons": photons, "fdk_rmse_per_mm": rmse(volumes[1], truth, inside),
        "fdk_cpu_s": time.process_time() - started,
    }  # fmt: skip
    for method in METHODS:
        started = time.process_time()
        result = reconstruct_iterative(lines, geometry, grid, IterativeParameters(method))
        found[f"{method}_over_fdk"] = rmse(result.volume, truth, inside) / found["fdk_rmse_per_mm"]
        found[f"{method}_cpu_s"] = time.process_time() - started
        volumes.append(result.volume)
        print(f"{photons:g} photons, {method}: RMSE {found[f'{method}_over_fdk']:.3f} of FDK's")
    return found, volumes


def sheet(n_views: int) -> list[dict[str, Any]]:
    """RMSE over FDK's of ``tv`` and ``os-sart`` by default, on every phantom, dose and size."""
    rows = []
    for side in SHEET_SIDES:
        for name in PHANTOMS:
            for photons in SHEET_PHOTONS:
                geometry, grid, lines, truth = few_views_case(side, n_views, photons, name)
                inside = region_of_judgement(grid)
                fdk = rmse(reconstruct(lines, geometry, grid), truth, inside)
                row: dict[str, Any] = {
                    "side": side, "phantom": name, "photons": photons if math.isfinite(photons) else None,
                    "fdk_rmse_over_mu": fdk / float(np.quantile(truth, 0.995)),
                }  # fmt: skip
                for method in SHEET_METHODS:
                    parameters = IterativeParameters(method)
                    result = reconstruct_iterative(lines, geometry, grid, parameters)
                    row[f"{method}_over_fdk"] = rmse(result.volume, truth, inside) / fdk
                    row[f"{method}_passes"] = len(result.residuals)
                print(json.dumps(row), flush=True)
                rows.append(row)
    return rows


def against_rtk(side: int, n_views: int, repeats: int = 3, threads: int = 2) -> dict[str, float]:
    """RTK's seconds over ours for one projection and one back-projection of all views: medians, interleaved."""
    geometry, grid, _, truth = few_views_case(side, n_views, math.inf)
    pair = open_pair("numba", geometry, grid, RowBand(0, geometry.n_rows), threads=threads)
    volume, views, out = pad_volume(truth), np.arange(n_views), empty_volume(grid.shape)
    lines = pair.project(volume, views)
    pair.back_project(lines[:1], views[:1], out)
    rows = np.ascontiguousarray(lines.transpose(0, 2, 1))
    peers, ours = [], []
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in range(repeats):
            given = truth, rows, geometry, grid, threads
            peers.append(pool.submit(rtk_iterative_peer.joseph_pair_seconds, *given).result())
            seconds: list[float] = []
            for step in (lambda: pair.project(volume, views), lambda: pair.back_project(lines, views, out)):
                wall, cpu = time.perf_counter(), time.process_time()
                step()
                seconds += [time.perf_counter() - wall, time.process_time() - cpu]
            ours.append(tuple(seconds))
    peer, mine = np.median(peers, axis=0), np.median(ours, axis=0)
    found = {
        "rtk_pair": (peer[0] + peer[2]) / (mine[0] + mine[2]),
        "rtk_pair_cpu": (peer[1] + peer[3]) / (mine[1] + mine[3]),
        "rtk_project": peer[0] / mine[0], "rtk_back_project": peer[2] / mine[2],
        "rtk_pair_s": peer[0] + peer[2], "our_pair_s": mine[0] + mine[2],
    }  # fmt: skip
    print(f"{side}^3, {n_views} views, {threads} threads, RTK's Joseph over ours: {found}")
    return {name: float(value) for name, value in found.items()}


def halo(method: str, iterations: int, guards: tuple[int, ...]) -> dict[str, float]:
    """Largest difference of a slab from the whole by guard slices, over the largest mu."""
    geometry = ConeBeamGeometry.circular(
        sod_mm=120.0, sdd_mm=180.0, angles_rad=np.arange(24) * 2 * math.pi / 24, n_rows=64, n_cols=24, pitch_u_mm=3.0,
        pitch_v_mm=1.2,
    )  # fmt: skip
    grid = VolumeGrid((48, 14, 14), (0.8, 2.8, 2.8))
    lines = forward_project(shepp_logan_3d(19.0, contrast="high", scale=0.02), geometry)
    parameters, slab = IterativeParameters(method, iterations=iterations), Slab(20, 28)  # type: ignore[arg-type]
    whole = reconstruct_iterative(lines, geometry, grid, parameters, guard_slices=20).volume
    found = {}
    for guard in guards:
        part = reconstruct_iterative(lines, geometry, grid, parameters, slab=slab, guard_slices=guard).volume
        found[str(guard)] = float(np.abs(part - whole[slab.z_start : slab.z_stop]).max() / whole.max())
    print(f"halo of {method} after {iterations} passes: {found}")
    return found


def rates(side: int, n_views: int) -> dict[str, float]:
    """Voxel x view updates per CPU second of the projector and its transpose, and denoised voxels."""
    geometry, grid, _, _ = few_views_case(side, n_views, 1e4)
    region = make_region(geometry, grid, guard_slices=4)
    pair = open_pair("numba", geometry, region.grid, region.band, threads=1)
    volume, views = empty_volume(region.grid.shape) + np.float32(1), np.arange(n_views)
    lines, updates = pair.project(volume, views), region.grid.n_voxels * n_views
    found = {}
    started = time.process_time()
    pair.project(volume, views)
    found["project_updates_per_s"] = updates / (time.process_time() - started)
    pair.back_project(lines[:1], views[:1], volume)
    started = time.process_time()
    pair.back_project(lines, views, volume)
    found["transpose_updates_per_s"] = updates / (time.process_time() - started)
    dual, inside = np.zeros((3, *volume.shape), dtype=np.float32), np.ones(volume.shape[:2], dtype=np.bool_)
    slopes, out = np.ones(3, dtype=np.float32), np.zeros_like(volume)
    pair.denoise(volume, dual, 0.1, slopes, inside, 0.0, 1, out)
    started = time.process_time()
    pair.denoise(volume, dual, 0.1, slopes, inside, 0.0, 10, out)
    found["denoise_voxel_steps_per_s"] = 10 * region.grid.n_voxels / (time.process_time() - started)
    return found


def write_picture(path: str, volumes: list[Volume]) -> None:
    """Middle slices side by side: truth, FDK, SIRT, OS-SART, TV."""
    import imagecodecs

    middle = len(volumes[0]) // 2
    row = np.hstack([np.vstack([v[middle], v[:, :, v.shape[2] // 2]]) for v in volumes])
    grey = np.clip(row / 0.008 * 255, 0, 255).astype(np.uint8)
    with open(path, "wb") as handle:
        handle.write(imagecodecs.png_encode(np.kron(grey, np.ones((2, 2), dtype=np.uint8))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=64, help="voxels of a side")
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--photons", type=float, default=1e4, help="of a pixel in air")
    parser.add_argument("--picture", help="write a PNG of the middle slices")
    parser.add_argument("--sheet", action="store_true", help="all phantoms, doses and sizes by default settings")
    parser.add_argument("--only-peer", action="store_true", help="only the comparison with RTK's projectors")
    arguments = parser.parse_args()
    if arguments.sheet or arguments.only_peer:
        few: dict[str, Any] = {"load": os.getloadavg()[0]}
        few |= {"sheet": sheet(arguments.views)} if arguments.sheet else against_rtk(128, arguments.views)
        print(json.dumps(few))
        return
    found, volumes = accuracy(arguments.side, arguments.views, arguments.photons)
    if arguments.picture:
        write_picture(arguments.picture, volumes)
    guards = (0, 2, 4, 8, 12, 16)
    found["slab_difference_by_guard_slices"] = {
        "os-sart, 10 passes": halo("os-sart", 10, guards),
        "tv, 20 passes": halo("tv", 20, guards),
    }
    found |= rates(arguments.side, arguments.views) | against_rtk(128, arguments.views)
    found["load"] = os.getloadavg()[0]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
