# SPDX-License-Identifier: Apache-2.0
"""The real radiogram of a tensile bar, 2 x 2 binned: upload, Spark, DICOM, measures and pictures (docs/real-data.md).

    python benchmarks/nikon.py [--data FOLDER] [--bin-pixels 2] [--pictures FOLDER]

The data folder holds radiogram.xtekct and its TIFF.  The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.nikon_job import (
    SOURCE_NAME,
    air_counts,
    find_axis,
    read_radiogram,
    run_job,
    slab_with_axis,
    write_description,
)
from benchmarks.nikon_measures import chord_ratio, measure_bar, measure_surface
from spark_jobs.running.session import create_session
from spark_jobs.running.settings import SparkSettings

if TYPE_CHECKING:
    from benchmarks.nikon_job import NikonRun, Radiogram
    from benchmarks.nikon_measures import Bar
    from reconstruction.rotation_axis import AxisLine

THREADS = 2
BESIDE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared" / "data" / "nikon_radiogram"


def main() -> int:
    """Run the job, measure it, draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=BESIDE_CHECKOUT, help="folder of the radiogram")
    parser.add_argument("--bin-pixels", type=int, default=2)
    parser.add_argument("--pictures", type=Path, help="folder for PNGs")
    parser.add_argument("--upright", action="store_true", help="leave the axis' lean out of the poses: the fast kernel")
    parser.add_argument("--ends", action="store_true", help="also measure both ends with and without the lean")
    arguments = parser.parse_args()
    radiogram = read_radiogram(arguments.data)
    started = time.perf_counter()
    axes = find_axis(radiogram)
    axis_s = time.perf_counter() - started
    print(f"axis by symmetry {axes[0]}\naxis by edges    {axes[1]}", flush=True)
    with tempfile.TemporaryDirectory(prefix="conepacs-nikon-") as name:
        run = _run(arguments, radiogram, axes[0], Path(name))
        bar = measure_bar(run.volume)
        summary = _summary(run, bar, radiogram, axes) | {
            "bin_pixels": arguments.bin_pixels, "upright": arguments.upright, "axis_s": round(axis_s, 2),
        }  # fmt: skip
        if arguments.ends:
            summary |= _leaning_ends(run, bar, radiogram, axes[0], arguments.bin_pixels)
        if arguments.pictures:
            from benchmarks.nikon_pictures import draw

            for path in draw(arguments.pictures, run.volume, bar, radiogram, axes):
                print(f"wrote {path}")
    print(json.dumps(summary))
    return 0


def _run(arguments: argparse.Namespace, radiogram: Radiogram, axis: AxisLine, folder: Path) -> NikonRun:
    """The job, its session started apart."""
    started = time.perf_counter()
    settings = SparkSettings(master=f"local[{THREADS}]")
    spark = create_session(settings, app_name="nikon", log_file=folder / "spark.log")
    session_s = time.perf_counter() - started
    geometry = radiogram.scan.geometry
    assert geometry is not None
    roll_rad = 0.0 if arguments.upright else axis.roll_rad(geometry.pitch_mm)
    description = write_description(folder / "scan.toml", radiogram.scan, axis.center_col, roll_rad=roll_rad)
    source = arguments.data / SOURCE_NAME
    run = run_job(source, description, folder, bin_pixels=arguments.bin_pixels, session=lambda: spark)
    run.seconds["session"] = session_s
    spark.stop()
    return run


def _summary(run: NikonRun, bar: Bar, radiogram: Radiogram, axes: tuple[AxisLine, AxisLine]) -> dict[str, Any]:
    """Every figure of the page."""
    symmetry, edges = axes
    straight = bar.is_straight
    widths = [surface.edge_10_90 for surface in bar.surfaces]
    report = run.result.report
    return {
        "shape": list(run.volume.mu.shape),
        "voxel_mm": round(run.volume.voxel_mm, 6),
        "white_level": radiogram.scan.white_level,
        "air_counts": air_counts(radiogram.counts),
        "axis_col": [round(symmetry.center_col, 3), round(edges.center_col, 3)],
        "axis_difference_px": round(abs(symmetry.center_col - edges.center_col), 3),
        "axis_slope": [round(symmetry.slope, 6), round(edges.slope, 6)],
        "radius_mm": round(bar.radius_mm, 4),
        "radius_rms_voxels": round(max(surface.radius_rms for surface in bar.surfaces), 4),
        "edge_voxels": {"median": round(float(np.median(widths)), 2), "max": round(max(widths), 2)},
        "straight_slices": int(straight.sum()),
        "mu_per_mm": {
            name: round(float(values[straight].mean()), 5)
            for name, values in (("core", bar.core_mu), ("wall", bar.wall_mu), ("center", bar.center_mu))
        },
        "core_spread": round(bar.spread(bar.core_mu), 4),
        "wall_spread": round(bar.spread(bar.wall_mu), 4),
        "chord_ratio": round(chord_ratio(run.volume, bar, radiogram, symmetry), 4),
        "seconds": {name: round(value, 2) for name, value in run.seconds.items()},
        "stage_seconds": report["seconds"],
        "gups": report["gups"],
        "peak_memory_mib": report["peak_memory_mib"],
        "this_process_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
    }


def _leaning_ends(run: NikonRun, bar: Bar, radiogram: Radiogram, axis: AxisLine, bin_pixels: int) -> dict[str, Any]:
    """The edge at both ends of the bar with the axis upright, as in the job, and with its lean taken into the poses."""
    found: dict[str, Any] = {}
    for name, z_mm in (("low", run.volume.z_mm[0]), ("high", run.volume.z_mm[-1])):
        for how, slope in (("upright", 0.0), ("lean", axis.slope)):
            slab = slab_with_axis(radiogram, bin_pixels, axis.center_col, float(z_mm), slope=slope)
            found[f"{name}_{how}"] = round(measure_surface(slab, 8, bar.radius_mm).edge_10_90, 2)
    return {"edge_voxels_at_ends": found}


if __name__ == "__main__":
    sys.exit(main())
