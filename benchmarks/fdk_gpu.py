# SPDX-License-Identifier: Apache-2.0
"""Our FDK on a GPU against RTK's CUDA and ASTRA's FDK on the same card, on the same projections.

    python benchmarks/fdk_gpu.py [--size 512] [--views 720] [--repeats 3]

Shepp-Logan, views of 1.5 x size pixels a side to size^3, from line integrals in memory to a volume in memory: copies,
filter and back-projection, each program as it comes.  Ours runs with both ways of reading the views and both ways of
storing them; RTK needs a package ``itk-rtk-cuda...``, ASTRA ``astra-toolbox``; a peer that is not there is named with
the reason.  Runs are interleaved, after one run of each that is not counted.  Without a GPU that CuPy can use there is
one sentence and the exit code 3.  The last line is one JSON object:

- ``device``: the GPU's name; ``size``, ``views``, ``repeats``, ``load``;
- ``seconds``: median wall seconds of each; ``gups``: 10^9 voxel updates of the whole grid a second;
- ``peer_over_ours``: each peer's median seconds over those of ``cupy-linear`` or ``cupy-layered``, whichever is less;
- ``rel_rmse``: of each inside the field against our CPU back end, relative to its root mean square;
- ``missing``: peers that could not run, with the reason.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import rtk_peer

from reconstruction.backends import list_backends
from reconstruction.backends.cupy_fdk import missing, open_backend
from reconstruction.fdk import FdkParameters, prepare, reconstruct
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.phantom import shepp_logan_3d
from reconstruction.projector import forward_project

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Run = Callable[[], NDArray[np.float32]]

SOD_MM, SDD_MM, FIELD_MM = 200.0, 280.0, 40.0
OURS = ("cupy-linear", "cupy-layered", "cupy-float16-linear", "cupy-float16-layered")
#: Exit code where there is no GPU.
NO_GPU = 3
_BATCH_VIEWS = 128


def geometry_of(n_views: int, side: int) -> ConeBeamGeometry:
    """A full turn whose panel just covers the field."""
    half = SDD_MM * math.tan(math.asin(FIELD_MM / 2 / SOD_MM))
    pitch = 2 * half / side * 1.02
    angles = np.arange(n_views) * 2 * math.pi / n_views
    return ConeBeamGeometry.circular(
        sod_mm=SOD_MM, sdd_mm=SDD_MM, angles_rad=angles, n_rows=side, n_cols=side, pitch_u_mm=pitch, pitch_v_mm=pitch
    )


def on_gpu(name: str, lines: NDArray[np.float32], geometry: ConeBeamGeometry, grid: VolumeGrid) -> Run:
    """A run of one of our variants; kernels are compiled once."""
    setup = prepare(geometry, grid, FdkParameters(), four_fold=False)
    backend = open_backend(name)

    def run() -> NDArray[np.float32]:
        accumulator = backend.start(setup)
        for views in setup.batches(_BATCH_VIEWS):
            band = setup.band_of(views)
            accumulator.add([lines[view, band.row_start : band.row_stop] for view in views], views)
        return accumulator.read_slices(0, setup.slab.n_slices)

    return run


def rtk_on_gpu(lines: NDArray[np.float32], geometry: ConeBeamGeometry, grid: VolumeGrid) -> tuple[Run | None, str]:
    """A run of RTK's CUDA FDK, or the reason why there is none."""
    try:
        import itk
        from itk import RTK as rtk
    except ImportError as error:
        return None, f"RTK cannot be imported ({error})"
    if not hasattr(rtk, "CudaFDKConeBeamReconstructionFilter"):
        return None, "this RTK was built without CUDA: install an itk-rtk-cuda package"

    def run() -> NDArray[np.float32]:
        image = rtk_peer.projection_image(lines, geometry)
        recon = rtk.CudaFDKConeBeamReconstructionFilter.New()
        recon.SetInput(0, itk.cuda_image_from_image(rtk_peer.volume_image(grid)))
        recon.SetInput(1, itk.cuda_image_from_image(image))
        recon.SetGeometry(rtk_peer.rtk_geometry(geometry))
        recon.GetRampFilter().SetTruncationCorrection(0.0)
        recon.GetRampFilter().SetHannCutFrequency(0.0)
        recon.Update()
        return rtk_peer.to_zyx(itk.array_from_image(recon.GetOutput()))

    return run, ""


def interleaved(runs: dict[str, Run], repeats: int) -> tuple[dict[str, list[float]], dict[str, NDArray[np.float32]]]:
    """Seconds of each run, in turns, and what each made; the first turn is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    made: dict[str, NDArray[np.float32]] = {}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            made[name] = run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds, made


def compare(size: int, n_views: int, repeats: int) -> dict[str, Any]:
    """Run everything, and sum it up."""
    geometry, grid = geometry_of(n_views, size * 3 // 2), VolumeGrid.cubic(size, FIELD_MM / size)
    lines = forward_project(shepp_logan_3d(FIELD_MM * 0.475), geometry).astype(np.float32)
    lacking: dict[str, str] = {}
    runs: dict[str, Run] = {name: on_gpu(name, lines, geometry, grid) for name in OURS}
    rtk, lacking["rtk-cuda"] = rtk_on_gpu(lines, geometry, grid)
    if rtk is not None:
        runs["rtk-cuda"] = rtk
    lacking["astra"] = list_backends()["astra"]
    if not lacking["astra"]:
        runs["astra"] = lambda: reconstruct(lines, geometry, grid, backend="astra")
    seconds, made = interleaved(runs, repeats)
    expected = reconstruct(lines, geometry, grid, backend="numba")
    inside = expected != 0
    scale = math.sqrt(float(np.mean(np.square(expected[inside], dtype=np.float64))))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(medians["cupy-linear"], medians["cupy-layered"])
    return {
        "size": size,
        "views": n_views,
        "repeats": repeats,
        "load": os.getloadavg()[0],
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "gups": {name: round(size**3 * n_views / value / 1e9, 2) for name, value in medians.items()},
        "peer_over_ours": {
            name: round(value / best, 2) for name, value in medians.items() if not name.startswith("cupy")
        },
        "rel_rmse": {
            name: float(np.sqrt(np.mean(np.square(volume[inside] - expected[inside], dtype=np.float64))) / scale)
            for name, volume in made.items()
        },
        "missing": {name: reason for name, reason in lacking.items() if reason},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--views", type=int, default=720)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    lacking = missing("cupy")
    if lacking:
        print(f"No figure without a GPU: {lacking}.", file=sys.stderr)
        return NO_GPU
    device = open_backend("cupy").device.name
    print(json.dumps({"device": device} | compare(options.size, options.views, options.repeats)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
