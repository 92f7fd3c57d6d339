# SPDX-License-Identifier: Apache-2.0
"""Simulate stone, artery, thorax and body on 1 to 1,000 nodes: ``python benchmarks/scaling_curves.py --write``.

Each point is the best of several plans of the real planner, simulated without and with troubles.  With ``--write`` the
pictures and tables of ``docs/scaling.md`` are made anew; without it only a few numbers of nodes are gone through.  The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.pages import write_blocks
from cli.plan_cluster import duration
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.simulation.cluster import Cluster, read_cluster
from spark_jobs.simulation.curves import NODE_COUNTS, Point, Way, point_of, usual_requests, ways_of
from spark_jobs.simulation.proposals import cluster_gpu_memory, cluster_task_memory
from spark_jobs.simulation.scans import NAMED_SIZES, described_scan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spark_jobs.simulation.assessment import Job

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scaling.md"
IMAGES = ROOT / "docs" / "images"
FEW_NODES = (1, 16, 1000)
#: Numbers of nodes that have a line in the table.
TOLD = (1, 4, 16, 64, 256, 1000)
CLUSTERS = {"CPU": "cloud-32", "GPU": "gpu-8"}
#: Bad days that are simulated for each point.
SEEDS = (0,)
COLOURS = ("#1f5fa8", "#2a7a35", "#b07a10", "#b3261e", "#6a3d9a", "#444444")


@dataclass(frozen=True)
class Subject:
    """A curve.

    Attributes
    ----------
    scan, voxel_mm : a named scan in voxels of a size (None: the panel's)
    heights : of slabs; None by memory
    bricks : sides and heights of bricks to compare; none: slabs
    """

    label: str
    scan: str
    voxel_mm: float | None
    heights: tuple[int | None, ...]
    bricks: tuple[tuple[int, int], ...] = ()


THORAX_BRICKS = ((1024, 512), (1024, 128), (512, 128))
SUBJECTS = (
    Subject("stone, 12 GB, 21 µm", "stone", None, (None, 16, 32, 64)),
    Subject("artery, 60 GB, 16 µm", "artery", None, (None, 16, 32)),
    Subject("thorax, 2.5 TB, 50 µm", "thorax-360", 0.05, (None,), bricks=THORAX_BRICKS),
    Subject("thorax, 5 TB, 50 µm", "thorax-720", 0.05, (None,), bricks=THORAX_BRICKS),
    Subject("body, 150 TB, 200 µm", "body", 0.2, (None,), bricks=((640, 640), (640, 192), (320, 192))),
)
#: How rows are kept between filter and back-projection, and what names of ways begin with.
MODES = {
    "fused": ("fused",), "stored as float32": ("two stages, float32", "bricks, float32"),
    "stored as float16": ("two stages, float16", "bricks, float16"),
}  # fmt: skip
#: Range of mu to store [1/mm]: given, so that no coarse look is needed.
MU_RANGE = (-0.02, 0.2)


@dataclass(frozen=True)
class Curve:
    """All points of a subject on a kind of cluster, those of each precision at a number of nodes, and refusals."""

    subject: Subject
    kind: str
    points: tuple[Point, ...]
    precisions: dict[str, Point]
    refusals: tuple[str, ...]


def curve_of(subject: Subject, kind: str, counts: Sequence[int]) -> Curve:
    """Plan a subject for a kind of node, and simulate the best plan for each number of nodes."""
    started = time.perf_counter()
    cluster = read_cluster(ROOT / "conf" / "clusters" / f"{CLUSTERS[kind]}.toml")
    stored = described_scan(NAMED_SIZES[subject.scan])
    request = ReconstructionRequest(
        subject.scan, voxel_pitch_mm=subject.voxel_mm, task_memory_bytes=cluster_task_memory(cluster),
        mu_range=MU_RANGE, gpu_memory_bytes=cluster_gpu_memory(cluster),
    )  # fmt: skip
    wanted = brick_requests(request, subject) if subject.bricks else usual_requests(request, subject.heights)
    ways, refusals = ways_of(stored, wanted)
    if subject.bricks:
        ways = tuple(Way(way.name, without_search(way.job)) for way in ways)
    points = [point for count in counts if (point := point_of(ways, cluster.with_nodes(count), SEEDS))]
    precisions = _precisions(ways, cluster.with_nodes(32))
    print(f"{subject.label} on {kind}: {len(ways)} ways, {len(points)} points, {time.perf_counter() - started:.0f} s",
          flush=True)  # fmt: skip
    return Curve(subject, kind, tuple(points), precisions, refusals)


def brick_requests(request: ReconstructionRequest, subject: Subject) -> list[tuple[str, ReconstructionRequest]]:
    """Bricks of a size, of pixels averaged to the voxels, in both precisions; their memory is looked at afterwards."""
    plain = replace(request, cut="bricks", task_memory_bytes=1 << 42, detector_binning="auto")
    return [
        (f"bricks, {kind}, {side} x {side} x {height}",
         replace(plain, band_type=kind, brick_voxels=(side, side), slab_slices=height))
        for side, height in subject.bricks
        for kind in ("float32", "float16")
    ]  # fmt: skip


def without_search(job: Job) -> Job:
    """A job whose search for bad pixels and filter tasks are cut as small as its bricks.

    The planner does so with filter tasks where it is told of less memory; the search keeps 56 B for each pixel of the
    panel, which only a panel of some thousand columns bears.
    """
    bricks = next(work.task_bytes for work in job.works if work.name == "bricks")
    return replace(job, works=tuple(replace(work, task_bytes=min(work.task_bytes, bricks)) for work in job.works))


def _precisions(ways: Sequence[Way], cluster: Cluster) -> dict[str, Point]:
    """The best plan of each mode and precision on one cluster."""
    found = {}
    for mode in MODES:
        point = point_of([way for way in ways if way.name.startswith(MODES[mode])], cluster, seeds=())
        if point is not None:
            found[mode] = point
    return found


def draw(curves: Sequence[Curve], name: str, label: str, value: Callable[[Curve, Point], float], band: bool) -> None:
    """Draw one figure: CPU nodes left, GPU nodes right."""
    mpl.use("svg")
    plt.rcParams.update({"svg.hashsalt": "conepacs", "svg.fonttype": "path", "font.size": 10})
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    for axis, kind in zip(axes, CLUSTERS, strict=True):
        for curve, colour in zip((c for c in curves if c.kind == kind), COLOURS, strict=False):
            _draw_curve(axis, curve, colour, value, band)
        axis.set(xscale="log", yscale="log", xlabel="nodes", title=f"{kind} nodes")
        axis.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
        axis.grid(which="major", color="#dddddd", lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(label)
    if name == "scaling-time":
        axes[0].set_yticks([10, 60, 600, 3600, 36_000], ["10 s", "1 min", "10 min", "1 h", "10 h"])
    if name == "scaling-speed-up":
        for axis in axes:
            axis.plot([1, 1000], [1, 1000], color="#aaaaaa", lw=0.8, ls="--")
    _legend(figure, axes[0])
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def _draw_curve(axis: Axes, curve: Curve, colour: str, value: Callable[[Curve, Point], float], band: bool) -> None:
    """One subject: a line for good days, a band up to a lost node."""
    nodes = [point.nodes for point in curve.points]
    axis.plot(nodes, [value(curve, p) for p in curve.points], color=colour, lw=1.6, marker="o", ms=3,
              label=curve.subject.label)  # fmt: skip
    if band:
        low = [min(point.seconds, point.troubled[0]) for point in curve.points]
        high = [point.troubled[1] for point in curve.points]
        worst = [max(point.troubled[1], (point.lost_node or point.troubled)[1]) for point in curve.points]
        axis.fill_between(nodes, low, high, color=colour, alpha=0.3, lw=0)
        axis.fill_between(nodes, high, worst, color=colour, alpha=0.12, lw=0)


def _legend(figure: Figure, axis: Axes) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


def speed_up(curve: Curve, point: Point) -> float:
    """Over the fewest nodes that hold the scan, taken as fully used."""
    first = curve.points[0]
    return first.seconds / point.seconds * first.nodes


def curve_table(curves: Sequence[Curve]) -> str:
    """Time, speed-up, limit and price at some numbers of nodes."""
    lines = ["| scan | nodes | plan | time | uneven tasks, slow nodes | a node lost | speed-up | limited by | price |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for curve in curves:
        for point in curve.points:
            if point.nodes not in TOLD and point is not curve.points[0]:
                continue
            lost = span(point.lost_node) if point.lost_node else ""
            lines.append(
                f"| {curve.subject.label} | {point.nodes:,} {curve.kind} | {point.way} | {duration(point.seconds)} | "
                f"{span(point.troubled)} | {lost} | "
                f"{speed_up(curve, point):.3g} | {point.limit} | {point.price:,.2f} |"
            )
        if not curve.points:
            lines.append(f"| {curve.subject.label} | {curve.kind} | fits no number of nodes | | | | | | |")
    return "\n".join(lines)


def span(seconds: tuple[float, float]) -> str:
    """Write the least and the most time of some days."""
    low, high = (duration(each) for each in seconds)
    return low if low == high else f"{low} to {high}"


def precision_table(curves: Sequence[Curve]) -> str:
    """The best plan of each mode and precision on 32 nodes."""
    lines = ["| scan, on 32 nodes | " + " | ".join(MODES) + " |", "|---|---|---|---|"]
    for curve in curves:
        cells = [
            f"{duration(curve.precisions[mode].seconds)} ({curve.precisions[mode].limit})"
            if mode in curve.precisions else "" for mode in MODES
        ]  # fmt: skip
        lines.append(f"| {curve.subject.label}, {curve.kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def assumption_table() -> str:
    """Nodes and rates of both kinds of cluster."""
    clusters = {kind: read_cluster(ROOT / "conf" / "clusters" / f"{name}.toml") for kind, name in CLUSTERS.items()}
    lines = ["| what | CPU node | GPU node | basis |", "|---|---|---|---|"]
    for name in ("cores", "memory_gib", "disks", "disk_mb_per_s", "disk_tb", "network_mb_per_s", "gpus",
                 "gpu_memory_gib", "price_per_hour"):  # fmt: skip
        values = [f"{getattr(cluster.nodes[0], name):g}" for cluster in clusters.values()]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(values)} | assumed |")
    for label, get in (
        ("oversubscription", lambda c: c.network.oversubscription), ("replication", lambda c: c.hdfs.replication),
        ("DataNode counts as dead after [s]", lambda c: c.hdfs.dead_after_s),
        ("executor counts as lost after [s]", lambda c: c.spark.executor_lost_after_s),
        ("sigma of the logarithm of a task's time", lambda c: c.troubles.task_sigma),
        ("share of slow nodes", lambda c: c.troubles.slow_node_share),
        ("speed of slow nodes", lambda c: c.troubles.slow_node_speed),
    ):  # fmt: skip
        lines.append(f"| {label} | {' | '.join(f'{get(cluster):g}' for cluster in clusters.values())} | assumed |")
    for field in fields(clusters["CPU"].rates):
        rates = [getattr(cluster.rates, field.name) for cluster in clusters.values()]
        values = [f"{rate.value:g}" for rate in rates]
        lines.append(f"| {field.name.replace('_', ' ')} | {' | '.join(values)} | {rates[1].basis}: {rates[1].source} |")
    return "\n".join(lines)


def main() -> int:
    """Simulate, print, and with --write draw and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="make docs/scaling.md and its pictures anew")
    parser.add_argument("--nodes", type=int, nargs="+", help="numbers of nodes; 1, 2, 4, ... 1000 unless given")
    parser.add_argument("--processes", type=int, default=2, help="simulations at once")
    wanted = parser.parse_args()
    started = time.perf_counter()
    counts = tuple(wanted.nodes or (NODE_COUNTS if wanted.write else FEW_NODES))
    wished = [(subject, kind, counts) for subject in SUBJECTS for kind in CLUSTERS]
    # The largest first: they take longest.
    with ProcessPoolExecutor(max_workers=wanted.processes) as pool:
        made = list(pool.map(curve_of, *zip(*reversed(wished), strict=True)))
    curves = made[::-1]
    blocks = {"curves": curve_table(curves), "precision": precision_table(curves), "assumptions": assumption_table()}
    print(blocks["curves"])
    print(blocks["precision"])
    for refusal in sorted({refusal for curve in curves for refusal in curve.refusals}):
        print(refusal)
    if wanted.write:
        draw(curves, "scaling-time", "time from scan to series", lambda _, point: point.seconds, band=True)
        draw(curves, "scaling-speed-up", "speed-up", speed_up, band=False)
        draw(curves, "scaling-price", "price of a scan [EUR]", lambda _, point: max(point.price, 1e-3), band=False)
        write_blocks(PAGE, blocks)
    told: dict[str, Any] = {"benchmark": "scaling_curves", "seconds": round(time.perf_counter() - started, 1)}
    for curve in curves:
        told[f"{curve.subject.scan} {curve.kind}"] = {
            str(point.nodes): [round(point.seconds, 1), point.limit, round(point.price, 2)] for point in curve.points
        }
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
