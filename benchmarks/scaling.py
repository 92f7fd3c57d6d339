# SPDX-License-Identifier: Apache-2.0
"""From one Spark worker to two, against what two independent processes reach in the same run.

    python benchmarks/scaling.py [--size 512] [--repeats 3]

Sixteen equal slab tasks on a standalone Spark with one-core workers, and the same tasks in plain processes, each
pinned to a core: one that does all of them, then two that do half of them at the same time.  What two processes gain
over one is what this machine can give (its cores share caches and memory); ``of_ideal`` is the gain of two workers over
that, in the seconds that a task computes (the median of all tasks and repeats).  Runs are interleaved, the first of
each session warms up.  The last line is one JSON object:

- ``of_ideal``: gain of two workers, over the gain of two pinned processes
- ``gain``, ``ideal_gain``: the two by themselves
- ``whole_job``: seconds of the whole job on one worker over those on two, Spark's start apart
- ``task_overhead_s``: seconds of a worker for each task, above those that the task itself measures
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.noisy_reader import NoisyReader
from ingest.chunks import open_scan_chunks
from ingest.upload import upload
from local_cluster.local_cluster import LocalCluster
from local_cluster.options import ClusterOptions
from spark_jobs.planning.request import ReconstructionRequest
from storage.filesystem import open_store

N_TASKS = 16
SCAN_ID = "scaling"


def request_of(size: int) -> ReconstructionRequest:
    """All slabs of the same height; the range is given, so that no time goes into looking for it."""
    voxel = 0.1 * 400 / 560
    return ReconstructionRequest(
        SCAN_ID, shape=(size, size, size), voxel_pitch_mm=voxel, center_mm=(0.0, 0.0, 0.0), n_slabs=N_TASKS,
        mode="fused", mu_range=(-0.05, 0.2),
    )  # fmt: skip


def pinned(core: int, url: str, run: str, tasks: list[int]) -> None:
    """Do some slab tasks in this process, on one core, after one to warm up; print their seconds as JSON."""
    from spark_jobs.tasks.prepare_task import prepare_bin
    from spark_jobs.tasks.slab_task import reconstruct_slab
    from spark_jobs.tasks.workers import RunPlace, measured

    os.sched_setaffinity(0, {core})
    place = RunPlace(url, f"runs/{run}", 1)
    prepare_bin(place, 0)  # what it leaves for the slabs went when the series was registered
    measured(place, tasks[0], reconstruct_slab)
    print("ready", flush=True)
    sys.stdin.readline()
    results = [measured(place, task, reconstruct_slab) for task in tasks]
    failed = [result["error"] for result in results if "error" in result]
    if failed:
        sys.exit(failed[0])
    print(json.dumps([result["wall_s"] for result in results]))


def run_pinned(url: str, run: str, n_processes: int) -> list[float]:
    """Seconds of each task, when `n_processes` share them."""
    cores = sorted(os.sched_getaffinity(0))
    shares = [list(range(first, N_TASKS, n_processes)) for first in range(n_processes)]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--pinned", json.dumps([cores[place], url, run, share])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for place, share in enumerate(shares)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            sys.exit("a pinned process failed")
    for process in processes:  # all at once
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [wall_s for process in processes for wall_s in json.loads(process.communicate()[0])]


def drive(values: dict[str, Any]) -> None:
    """Run the job twice in a Spark session of its own, and print what the second one took as JSON."""
    from cli.archive import open_index
    from spark_jobs.running.reconstruct_scan import reconstruct_scan
    from spark_jobs.running.session import create_session
    from spark_jobs.running.settings import SparkSettings

    workers = values["workers"]
    settings = SparkSettings(
        master=values["master"], extra={"spark.cores.max": str(workers), "spark.executor.cores": "1"}
    )
    store = open_store(values["url"])
    session = create_session(settings, app_name="scaling", log_file=Path(values["folder"], f"spark-{workers}.log"))
    for _ in range(2):
        index = open_index(store, str(Path(values["folder"], f"index-{time.time_ns()}.sqlite")))
        started = time.perf_counter()
        result = reconstruct_scan(store, index, request_of(values["size"]), session=lambda: session, again=True)
        whole_s = time.perf_counter() - started
    session.stop()
    walls = [task["wall_s"] for task in result.report["tasks"]]
    print(json.dumps({
        "run": result.run_name, "walls": walls, "compute_s": sum(walls) / workers, "whole_s": whole_s,
        "stage_s": result.report["seconds"]["stage reconstruct"],
    }))  # fmt: skip


def run_spark(values: dict[str, Any]) -> dict[str, Any]:
    """`drive` in a process of its own: a process has one session."""
    done = subprocess.run(
        [sys.executable, __file__, "--drive", json.dumps(values)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def main() -> int:
    """Run everything and print one JSON object last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--views", type=int, default=360)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pinned", help=argparse.SUPPRESS)
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pinned:
        pinned(*json.loads(arguments.pinned))
        return 0
    if arguments.drive:
        drive(json.loads(arguments.drive))
        return 0
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two cores are needed to compare one worker with two")
    with tempfile.TemporaryDirectory(prefix="conepacs-scaling-") as name:
        folder = Path(name)
        store = open_store(folder / "store")
        side = arguments.size * 9 // 8
        reader = NoisyReader(SCAN_ID, arguments.views, side, side, sod_mm=400.0, sdd_mm=560.0, pitch_mm=0.1, n_fields=4)
        upload(reader, store)
        n_rows = open_scan_chunks(store, SCAN_ID).scan.n_rows
        print(f"{N_TASKS} tasks: {arguments.size}^3 from {arguments.views} views of {n_rows}^2", flush=True)
        options = ClusterOptions(folder / "cluster", data_nodes=1, replication=1, workers=2, worker_cores=1)
        with LocalCluster.start(options) as cluster:
            summary = measure(cluster, store.url, folder, arguments)
    print(json.dumps(summary))
    return 0


def measure(cluster: LocalCluster, url: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Interleave workers and pinned processes."""
    values = {"master": cluster.spark_master, "url": url, "folder": str(folder), "size": arguments.size}
    spark: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    plain: dict[int, list[list[float]]] = {1: [], 2: []}
    for repeat in range(arguments.repeats):
        for workers in (1, 2):
            spark[workers].append(run_spark(values | {"workers": workers}))
            plain[workers].append(run_pinned(url, spark[workers][-1]["run"], workers))
            last = spark[workers][-1]
            print(
                f"run {repeat + 1} of {arguments.repeats}, {workers} worker(s): compute {last['compute_s']:.2f} s, "
                f"stage {last['stage_s']:.2f} s, job {last['whole_s']:.2f} s; "
                f"pinned {sum(plain[workers][-1]) / workers:.2f} s, "
                f"load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    medians = {
        key: {w: statistics.median(run[key] for run in spark[w]) for w in spark}
        for key in ("compute_s", "stage_s", "whole_s")
    }
    # Tasks are equal: their median is what one takes, whatever else the machine did to some of them.
    task_s = {w: statistics.median(wall for run in spark[w] for wall in run["walls"]) for w in spark}
    pinned_s = {w: statistics.median(wall for walls in plain[w] for wall in walls) for w in plain}
    ideal = 2 * pinned_s[1] / pinned_s[2]
    gain = 2 * task_s[1] / task_s[2]
    overhead = statistics.median(
        (run["stage_s"] - run["compute_s"]) * workers / N_TASKS for workers, runs in spark.items() for run in runs
    )
    return {
        "of_ideal": round(gain / ideal, 3),
        "gain": round(gain, 3),
        "ideal_gain": round(ideal, 3),
        "whole_job": round(medians["whole_s"][1] / medians["whole_s"][2], 3),
        "task_overhead_s": round(overhead, 3),
        "task_s": {str(w): round(seconds, 3) for w, seconds in task_s.items()},
        "pinned_task_s": {str(w): round(seconds, 3) for w, seconds in pinned_s.items()},
        "seconds": {key: {str(w): round(s, 2) for w, s in each.items()} for key, each in medians.items()},
        "tasks": N_TASKS,
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    sys.exit(main())
