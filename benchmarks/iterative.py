# SPDX-License-Identifier: Apache-2.0
"""Iterative methods against FDK on few noisy views of an analytic head, what they cost, and the halo of slabs.

``python -m benchmarks.iterative`` prints lines as it goes and one JSON object last; ``--picture FILE`` writes
a PNG of the middle slice by every method.  Under two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.fdk import reconstruct
from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid
from reconstruction.iterative.parameters import IterativeParameters
from reconstruction.iterative.projectors import empty_volume, open_pair
from reconstruction.iterative.reconstruct import reconstruct_iterative
from reconstruction.iterative.region import make_region
from reconstruction.phantom import sample, shepp_logan_3d
from reconstruction.projector import forward_project

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Volume = NDArray[np.float32]

METHODS = ("sirt", "os-sart", "tv")


def few_views_case(side: int, n_views: int, photons: float) -> tuple[ConeBeamGeometry, VolumeGrid, Volume, Volume]:
    """Geometry, grid, noisy line integrals (view, row, col) and truth (z, y, x) of the head."""
    n_pixels = side * 3 // 2
    geometry = ConeBeamGeometry.circular(
        sod_mm=200.0, sdd_mm=300.0, angles_rad=np.arange(n_views) * 2 * math.pi / n_views, n_rows=n_pixels,
        n_cols=n_pixels, pitch_u_mm=76.8 / n_pixels, pitch_v_mm=76.8 / n_pixels,
    )  # fmt: skip
    grid = VolumeGrid.cubic(side, 50.0 / side)
    head = shepp_logan_3d(24.0, contrast="high", scale=0.02)
    lines = forward_project(head, geometry, supersample=2)
    counts = np.random.default_rng(1).poisson(photons * np.exp(-lines))
    noisy = -np.log(np.maximum(counts, 1) / photons).astype(np.float32)
    return geometry, grid, noisy, sample(head, grid, supersample=3)


def region_of_judgement(grid: VolumeGrid) -> NDArray[np.bool_]:
    """Voxels that every view sees, within the head's radius."""
    z, y, x = (
        origin + pitch * np.arange(n)
        for n, pitch, origin in zip(grid.shape, grid.voxel_pitch_mm, grid.origin_mm[::-1], strict=True)
    )
    return (np.hypot(y[:, None], x[None]) < 24)[None] & (np.abs(z) < 20)[:, None, None]


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
    arguments = parser.parse_args()
    found, volumes = accuracy(arguments.side, arguments.views, arguments.photons)
    if arguments.picture:
        write_picture(arguments.picture, volumes)
    guards = (0, 2, 4, 8, 12)
    found["slab_difference_by_guard_slices"] = {
        "os-sart, 10 passes": halo("os-sart", 10, guards),
        "tv, 20 passes": halo("tv", 20, guards),
    }
    found |= rates(arguments.side, arguments.views)
    found["load"] = os.getloadavg()[0]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
