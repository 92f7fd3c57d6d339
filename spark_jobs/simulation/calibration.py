# SPDX-License-Identifier: Apache-2.0
"""Rates from reports of real runs: the few figures that a simulation needs, fitted to what was measured."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import nnls

from spark_jobs.planning.rates import BUILT_IN
from spark_jobs.simulation.cluster import Rate, Rates
from spark_jobs.simulation.errors import SimulationError
from spark_jobs.simulation.workload import built_in_row_mpixels_per_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spark_jobs.simulation.assessment import Job


@dataclass(frozen=True, slots=True)
class Observation:
    """A run that was measured: its job, its report, and the tasks that ran at once."""

    job: Job
    report: dict[str, Any]
    slots: int

    @property
    def measured_s(self) -> float:
        """Wall seconds of all stages and of registering."""
        seconds = self.report["seconds"]
        return float(sum(seconds[f"stage {work.name}"] for work in self.job.works) + seconds["register"])

    @property
    def slowness(self) -> float:
        """Wall seconds of the slab tasks over their CPU seconds: above 1 where other programs use the machine."""
        tasks = self.report["tasks"]
        wall_s, cpu_s = (float(sum(task[name] for task in tasks)) for name in ("wall_s", "cpu_s"))
        return max(1.0, wall_s / max(1e-9, cpu_s))


def fit_rates(observations: Sequence[Observation], source: str) -> Rates:
    """Fit the rates of one core, and the overheads, to runs whose files lie in the system's cache.

    All wall seconds are divided by the run's slowness: the rates are those of a core that a task has to itself.

    Back-projection, row work and reading rows back (of runs in two stages) are told apart by runs that have them in
    different shares; encoding, task overhead and
    registering are in the reports one by one.  Reading and writing are part of the row and the encoding rate, so that
    the streams of a task are as good as endless.

    Parameters
    ----------
    observations : two runs or more
    source : what to say of where the rates come from

    Raises
    ------
    SimulationError
        If the runs do not tell back-projection and row work apart.
    """
    adding, rows, bands = _split(observations)
    overhead_s, stage_s = _overheads(observations)
    encode_s = sum(task["encode_s"] / run.slowness for run in observations for task in run.report["tasks"])
    encode = sum(work.encode_s for run in observations for work in run.job.works) / max(1e-9, encode_s)
    register_s = sum(run.report["seconds"]["register"] / run.slowness for run in observations)
    instances = sum(run.job.instances for run in observations)

    def measured(value: float) -> Rate:
        return Rate(float(value), "measured", source)

    return replace(
        Rates(),
        cpu_gups=measured(1e-9 / adding),
        row_mpixels_per_s=measured(built_in_row_mpixels_per_s() / rows),
        band_mvalues_per_s=measured(BUILT_IN.band_bytes_per_s / 4e6 / bands) if bands else Rates().band_mvalues_per_s,
        encode_mvoxels_per_s=measured(BUILT_IN.encode_voxels_per_s * encode / 1e6),
        task_overhead_s=measured(overhead_s),
        stage_overhead_s=measured(stage_s),
        registrations_per_s=measured(instances / max(1e-3, register_s)),
        stream_read_mb_per_s=measured(1e6),
        stream_write_mb_per_s=measured(1e6),
    )


def _split(observations: Sequence[Observation]) -> tuple[float, float, float]:
    """Seconds of an update; seconds of row work, and of reading rows back, over those at the built-in rates."""
    parts, spent = [], []
    for run in observations:
        for work in run.job.works:
            if work.name == "reconstruct":
                seconds = sum(task["reconstruct_s"] for task in run.report["tasks"]) / run.slowness
            elif work.name == "filter":
                seconds = run.report["cpu_seconds"]["filter"]
            else:
                continue
            # Each measured figure counts the same, whatever its size.
            parts.append([work.updates / seconds, (work.row_s + work.filter_s) / seconds, work.band_s / seconds])
            spent.append(1.0)
    matrix = np.array(parts)
    scale = np.maximum(matrix.max(axis=0), 1e-30)
    (adding, rows, bands), _ = nnls(matrix / scale, np.array(spent))
    if adding <= 0 or rows <= 0:
        raise SimulationError(
            "the measured runs do not tell back-projection and row work apart: take runs with other numbers of voxels "
            "for the same pixels"
        )
    return float(adding / scale[0]), float(rows / scale[1]), float(bands / scale[2])


def _overheads(observations: Sequence[Observation]) -> tuple[float, float]:
    """Seconds that each slab task spends on neither rows nor voxels, and those that a stage takes besides its tasks."""
    of_tasks, of_stages = [], []
    for run in observations:
        tasks = run.report["tasks"]
        inside = [task["wall_s"] - task["reconstruct_s"] - task["encode_s"] for task in tasks]
        of_tasks += [seconds / run.slowness for seconds in inside]
        spent = makespan([task["wall_s"] for task in tasks], run.slots)
        of_stages.append((run.report["seconds"]["stage reconstruct"] - spent) / run.slowness)
    return max(0.0, float(np.mean(of_tasks))), max(0.0, float(np.mean(of_stages)))


def makespan(seconds: Sequence[float], slots: int) -> float:
    """Wall seconds of tasks that are taken in their order by the next free slot."""
    free = [0.0] * slots
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)
