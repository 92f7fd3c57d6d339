# SPDX-License-Identifier: Apache-2.0
"""Make the accuracy sheet: ``python benchmarks/accuracy.py --write`` (docs/accuracy.md and its pictures).

Without ``--write`` it goes through the same cases and prints their tables; ``--small`` takes small volumes, as the
tests do.  The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import accuracy_cases as cases
from benchmarks.pages import write_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.accuracy_cases import Size

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "accuracy.md"
IMAGES = ROOT / "docs" / "images"
#: What mu of a cylinder must keep to [%], FORBILD's and Shepp-Logan's plain regions too.
ALLOWED_PERCENT = 0.5
ALLOWED_REGION_PERCENT = 1.0
LABELS = {
    "views": "views", "pitch_mm": "pixel pitch [mm]", "voxel_mm": "voxel pitch [mm]",
    "offset": "offset of the panel [share of its width]",
}  # fmt: skip


def mu_table(found: dict[str, list[dict[str, float]]]) -> str:
    """One line for each parameter."""
    lines = ["| along | error of mu at each value |", "|---|---|"]
    for name, points in found.items():
        values = ", ".join(f"{point['at']:.4g}: {point['error_percent']:+.3f} %" for point in points)
        lines.append(f"| {LABELS[name]} | {values} |")
    return "\n".join(lines)


def arc_table(found: list[dict[str, Any]]) -> str:
    """Arcs down, offsets across."""
    offsets = sorted({case["offset"] for case in found})
    lines = [
        "| arc | " + " | ".join(f"offset {100 * offset:.0f} %" for offset in offsets) + " |",
        "|---|" + "---|" * len(offsets),
    ]
    for arc in dict.fromkeys(case["arc_deg"] for case in found):
        row = [next(c for c in found if c["arc_deg"] == arc and c["offset"] == offset) for offset in offsets]
        cells = [f"{c['error_percent']:+.3f} %" if "error_percent" in c else "refused" for c in row]
        lines.append(f"| {arc:g}° | {' | '.join(cells)} |")
    refusals = dict.fromkeys(c["refused"] for c in found if "refused" in c)
    examples = [next(iter(refusals))] if refusals else []
    return "\n".join(lines + [f'\nOne of the refusals: "{sentence}"' for sentence in examples])


def phantom_table(found: dict[str, dict[str, Any]]) -> str:
    """One line for each phantom."""
    lines = [
        "| phantom | RMSE [of water] | SSIM | error of each plain region's mean [% of water] |",
        "|---|---|---|---|",
    ]
    for name, case in found.items():
        regions = ", ".join(f"{density}: {error:+.3f}" for density, error in case["regions"].items())
        lines.append(f"| {name} | {case['rmse_of_water']:.4f} | {case['ssim']:.4f} | {regions} |")
    return "\n".join(lines)


def defrise_table(found: list[dict[str, float]]) -> str:
    """Cone angles across."""
    return "\n".join(
        [
            "| cone angle | " + " | ".join(f"{case['cone_angle_deg']:.1f}°" for case in found) + " |",
            "|---|" + "---|" * len(found),
            "| mu of the disc | " + " | ".join(f"{case['disc_of_mu']:.2f}" for case in found) + " |",
            "| disc less gap | " + " | ".join(f"{case['contrast']:.2f}" for case in found) + " |",
        ]
    )


def sharpness_table(found: dict[str, dict[str, Any]]) -> str:
    """Windows down."""
    sides = next(iter(found.values()))["sides"]
    lines = [
        "| window | MTF 50 % [1/voxel] | MTF 10 % [1/voxel] | noise [% of mu] | "
        + " | ".join(f"{side}²" for side in sides) + " |",
        "|---|---|---|---|" + "---|" * len(sides),
    ]  # fmt: skip
    for window, case in found.items():
        contrasts = " | ".join(f"{value:.2f}" for value in case["contrast_percent"])
        lines.append(
            f"| {window} | {case['mtf50_per_voxel']:.3f} | {case['mtf10_per_voxel']:.3f} | "
            f"{case['noise_percent']:.2f} | {contrasts} |"
        )
    return "\n".join(lines)


def sameness_table(found: dict[str, float]) -> str:
    """What is compared, and by how much it differs."""
    labels = {
        "slabs": "cut into slabs", "second_run": "a second run, other threads",
        "float16_rows": "filtered rows kept as float16", "reference": "numpy_reference against numba",
    }  # fmt: skip
    lines = ["| | largest difference, of the largest value |", "|---|---|"]
    return "\n".join(lines + [f"| {labels[name]} | {value:.1e} |" for name, value in found.items()])


def worst_of(results: dict[str, Any]) -> dict[str, float]:
    """The largest error of each kind."""
    mu = [abs(p["error_percent"]) for points in results["mu"].values() for p in points]
    arcs = [abs(c["error_percent"]) for c in results["arcs"] if "error_percent" in c]
    regions = [abs(e) for case in results["phantoms"].values() for e in case["regions"].values()]
    return {
        "mu_percent": round(max(mu), 4),
        "arc_percent": round(max(arcs), 4),
        "region_percent": round(max(regions), 4),
        "refused": sum(1 for c in results["arcs"] if "refused" in c),
        **{name: float(f"{value:.3g}") for name, value in results["sameness"].items()},
    }


def run_cases(size: Size) -> tuple[dict[str, Any], dict[str, tuple[NDArray[Any], NDArray[Any]]]]:
    """Go through all cases."""
    phantoms, pictures = cases.phantom_cases(size)
    results = {
        "mu": cases.mu_of_a_cylinder(size),
        "arcs": cases.offset_by_arc(size),
        "phantoms": phantoms,
        "defrise": cases.defrise(size),
        "sharpness": cases.sharpness_and_noise(size),
        "sameness": cases.sameness(size),
    }
    return results, pictures


def main() -> int:
    """Go through all cases, print their tables, and with --write make the page and its pictures anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="make docs/accuracy.md and its pictures anew")
    parser.add_argument("--small", action="store_true", help="small volumes")
    wanted = parser.parse_args()
    started = time.perf_counter()
    size = cases.SMALL if wanted.small else cases.FULL
    results, pictures = run_cases(size)
    blocks = {
        "mu": mu_table(results["mu"]),
        "arcs": arc_table(results["arcs"]),
        "phantoms": phantom_table(results["phantoms"]),
        "defrise": defrise_table(results["defrise"]),
        "sharpness": sharpness_table(results["sharpness"]),
        "sameness": sameness_table(results["sameness"]),
    }
    for block in blocks.values():
        print(block, end="\n\n")
    if wanted.write:
        from benchmarks import accuracy_plots

        accuracy_plots.draw_all(results, pictures, IMAGES)
        sizes = (
            f"{size.voxels} voxels across a field of {cases.FIELD_MM:g} mm, {size.views} views unless said otherwise"
        )
        write_blocks(PAGE, blocks | {"size": f"Made with {sizes}."})
    worst = worst_of(results)
    held = max(worst["mu_percent"], worst["arc_percent"]) < ALLOWED_PERCENT
    held = held and worst["region_percent"] < ALLOWED_REGION_PERCENT and math.isfinite(worst["mu_percent"])
    told = {"benchmark": "accuracy", "small": wanted.small, **worst, "held": held}
    print(json.dumps(told | {"seconds": round(time.perf_counter() - started, 1)}))
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
