# SPDX-License-Identifier: Apache-2.0
"""Discrete-event simulation of a job's stages on a machine: seeded, deterministic, without any Spark.

Each slot runs one task at a time through its phases: a wait, then reading, computing and writing, some at once.
Bandwidth is shared fairly (`traffic`), computing is the slot's own.  The state of all slots is kept in arrays, and an
event moves all slots that it concerns together.  Stages of very many tasks are handed out in bundles that get smaller
towards the end, so that a stage of a million tasks takes thousands of events and still ends task by task.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from spark_jobs.simulation.errors import SimulationError
from spark_jobs.simulation.machine import even_placement
from spark_jobs.simulation.traffic import fair_rates, loads_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from spark_jobs.simulation.machine import Machine, Placement

#: Stages with more tasks than this are handed out in bundles.
BUNDLED_TASKS = 3000
#: In stages with more tasks than this, events so near to each other [share of a task's time] are taken together.
EXACT_TASKS = 200
_NEARNESS = 0.01
_TINY_S = 1e-9


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a task: seconds of a slot, and bytes read or written meanwhile."""

    cpu_s: float = 0.0
    read_bytes: float = 0.0
    write_bytes: float = 0.0

    def __post_init__(self) -> None:
        if min(self.cpu_s, self.read_bytes, self.write_bytes) < 0 or (self.read_bytes and self.write_bytes):
            raise SimulationError(f"a phase computes, and reads or writes, got {self}")

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.cpu_s or self.read_bytes or self.write_bytes)


@dataclass(frozen=True, slots=True)
class StageDemand:
    """Equal tasks of one stage: what each asks of the machine.

    Attributes
    ----------
    name : of the stage
    n_tasks : of which each runs in one slot; 0 for work of the driver alone
    phases : of each task, one after the other
    overhead_s : before its first phase
    driver_s : of the driver alone, before the first task
    scan_input : whether the input lies where the scan's blocks do; else it is spread evenly
    """

    name: str
    n_tasks: int
    phases: tuple[Phase, ...] = ()
    overhead_s: float = 0.0
    driver_s: float = 0.0
    scan_input: bool = True


@dataclass(frozen=True, slots=True)
class Conditions:
    """What happens to a run besides its work.

    Attributes
    ----------
    seed : of everything random
    task_sigma : of the logarithm of a task's computing time; its mean stays what it is
    slow_node_share, slow_node_speed : nodes that are slow
    speculation : tasks that take long are started once more elsewhere
    speculation_multiple, speculation_quantile : of the median time of the tasks that are done, once so many are
    lost_node_at_s : when a node is lost
    stored_bytes : what all nodes hold of files, copies counted, when it is lost; this is copied again
    """

    seed: int = 0
    task_sigma: float = 0.0
    slow_node_share: float = 0.0
    slow_node_speed: float = 1.0
    speculation: bool = False
    speculation_multiple: float = 3.0
    speculation_quantile: float = 0.9
    lost_node_at_s: float | None = None
    stored_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """How one stage went: when, and the share of its time that each resource was in use (of the busiest node)."""

    name: str
    start_s: float
    end_s: float
    use: dict[str, float]

    @property
    def seconds(self) -> float:
        """Wall seconds."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job went.

    Attributes
    ----------
    seconds : from its first to its last event
    stages : one for each stage
    disk_read_bytes, disk_write_bytes, network_bytes : of all nodes, of tasks
    recopied_bytes : copied again after a node was lost
    n_rerun, n_speculative : tasks run again since their node was lost, or since they took long
    """

    seconds: float
    stages: tuple[StageOutcome, ...]
    disk_read_bytes: float
    disk_write_bytes: float
    network_bytes: float
    recopied_bytes: float
    n_rerun: int
    n_speculative: int


def simulate(
    stages: Sequence[StageDemand],
    machine: Machine,
    conditions: Conditions | None = None,
    *,
    scan_placement: Placement | None = None,
) -> Outcome:
    """Run stages one after the other, each to its end, as the driver does.

    Raises
    ------
    SimulationError
        If the only node is to be lost.
    """
    conditions = conditions or Conditions()
    if conditions.lost_node_at_s is not None and machine.n_nodes < 2:
        raise SimulationError("a cluster of one node cannot lose one and go on")
    run = _Run(machine, conditions, scan_placement or even_placement(machine.n_nodes, machine.copies))
    return run.outcome(tuple(run.stage(stage) for stage in stages))


@dataclass(slots=True)
class _Totals:
    """Integrals over time, by node or of all."""

    n_nodes: int
    disk_read: NDArray[np.float64] = field(init=False)
    disk_write: NDArray[np.float64] = field(init=False)
    network_in: NDArray[np.float64] = field(init=False)
    network_out: NDArray[np.float64] = field(init=False)
    switch: float = 0.0
    busy_slot_s: float = 0.0
    computing_slot_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("disk_read", "disk_write", "network_in", "network_out"):
            setattr(self, name, np.zeros(self.n_nodes))


class _Run:
    """State of a simulated job."""

    def __init__(self, machine: Machine, conditions: Conditions, scan_placement: Placement) -> None:
        self.machine, self.conditions = machine, conditions
        self.rng = np.random.default_rng(conditions.seed)
        self.scan_placement = scan_placement
        self.even = even_placement(machine.n_nodes, machine.copies)
        # By rank, then node: the first tasks of a stage go to different nodes.
        ranks = np.concatenate([np.arange(n) for n in machine.slots])
        nodes = np.repeat(np.arange(machine.n_nodes), machine.slots)
        self.node = nodes[np.lexsort((nodes, ranks))]
        n_slow = round(conditions.slow_node_share * machine.n_nodes)
        speed = machine.speed.astype(np.float64).copy()
        speed[self.rng.permutation(machine.n_nodes)[:n_slow]] *= conditions.slow_node_speed
        self.speed = speed
        self.alive = np.ones(machine.n_nodes)
        n = len(self.node)
        self.size = np.zeros(n, dtype=np.int64)  # tasks of the bundle; 0: idle
        self.step = np.zeros(n, dtype=np.int64)  # phases done; 0 is the wait
        self.first = np.zeros(n, dtype=np.int64)  # phase that the bundle began with
        self.factor = np.ones(n)
        self.cpu = np.zeros(n)
        self.io = np.zeros(n)
        self.way = np.zeros(n, dtype=np.int64)  # 1 reads, 2 writes
        self.started = np.zeros(n)
        self.twin = np.full(n, -1, dtype=np.int64)
        self.now = self.driver_free = 0.0
        self.pending = 0
        self.returning: list[tuple[float, int]] = []
        self.recopy: tuple[float, float] | None = None  # from, until
        self.lost_at = conditions.lost_node_at_s
        self.n_rerun = self.n_speculative = 0
        self.written = 0.0
        self.totals = _Totals(machine.n_nodes)

    def outcome(self, stages: tuple[StageOutcome, ...]) -> Outcome:
        """Sum up."""
        totals = self.totals
        return Outcome(
            seconds=float(self.now), stages=stages, disk_read_bytes=float(totals.disk_read.sum()),
            disk_write_bytes=float(totals.disk_write.sum()), network_bytes=float(totals.switch),
            recopied_bytes=self._recopied(), n_rerun=self.n_rerun, n_speculative=self.n_speculative,
        )  # fmt: skip

    def stage(self, stage: StageDemand) -> StageOutcome:
        """Run one stage to its end."""
        start, before = self.now, _copy(self.totals)
        self._idle_until(self.now + stage.driver_s)
        self.now = max(self.now, start + stage.driver_s)
        self.driver_free = self.now
        self.work = _StageState(stage, self.machine)
        self.pending = stage.n_tasks
        while self.pending or self.returning or self.size.any():
            self._hand_out()
            self._duplicate()
            self._advance()
        return StageOutcome(stage.name, start, self.now, self._use(before, self.now - start))

    def _idle_until(self, until: float) -> None:
        """What happens while the driver alone works."""
        while (event := self._next_event()) <= until:
            self.now = max(self.now, event)
            self._happen()

    def _use(self, before: _Totals, seconds: float) -> dict[str, float]:
        """Share of the time that each resource was in use."""
        if seconds <= 0:
            return {}
        now, machine = self.totals, self.machine
        disk = (now.disk_read + now.disk_write - before.disk_read - before.disk_write) / machine.disk
        inward = (now.network_in - before.network_in) / machine.network
        outward = (now.network_out - before.network_out) / machine.network
        return {
            "slots": float(now.busy_slot_s - before.busy_slot_s) / machine.n_slots / seconds,
            "cores": float(now.computing_slot_s - before.computing_slot_s) / machine.n_slots / seconds,
            "disks": float(disk.max()) / seconds,
            "network": float(max(inward.max(), outward.max())) / seconds,
            "switch": float(now.switch - before.switch) / machine.switch / seconds,
        }

    # -- tasks to slots

    def _hand_out(self) -> None:
        """Give pending tasks to idle slots."""
        if not self.pending:
            return
        idle = np.flatnonzero((self.size == 0) & (self.alive[self.node] > 0))
        if not len(idle):
            return
        bundle = max(1, self.pending // (2 * self.machine.n_slots)) if self.work.bundled else 1
        slots = idle[: -(-self.pending // bundle)]
        sizes = np.full(len(slots), bundle)
        sizes[-1] = min(bundle, self.pending - bundle * (len(slots) - 1))
        self.pending -= int(sizes.sum())
        self._start(slots, sizes)

    def _start(self, slots: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """Start bundles of tasks, one after the other as the driver launches them."""
        work, sigma = self.work, self.conditions.task_sigma
        waits = max(0.0, self.driver_free - self.now) + np.cumsum(sizes) / self.machine.launches_per_s
        self.driver_free = self.now + float(waits[-1])
        self.size[slots], self.step[slots], self.started[slots] = sizes, 0, self.now
        self.twin[slots], self.way[slots], self.io[slots] = -1, 0, 0.0
        # Bundles begin anywhere in the cycle of their tasks' phases: long after the start tasks are out of step.
        begin = self.rng.integers(0, len(work.cpu), len(slots)) if work.bundled and len(work.cpu) else 0
        self.first[slots] = np.where(sizes > 1, begin, 0)
        if sigma:
            # A sum of log-normal times is about log-normal, with the sum of the variances (Fenton 1960).
            spread = np.sqrt(np.log1p(np.expm1(sigma**2) / sizes))
            self.factor[slots] = np.exp(spread * self.rng.standard_normal(len(slots)) - spread**2 / 2)
        overhead = work.stage.overhead_s * sizes * self.factor[slots] / self.speed[self.node[slots]]
        self.cpu[slots] = waits + overhead

    def _duplicate(self) -> None:
        """Start tasks that take long once more, where nothing else is to be done."""
        wanted, work = self.conditions, self.work
        if not wanted.speculation or self.pending or work.n_done < wanted.speculation_quantile * work.stage.n_tasks:
            return
        limit = wanted.speculation_multiple * work.median_s()
        late = np.flatnonzero((self.size == 1) & (self.twin < 0) & (self.now - self.started > limit))
        if not len(late):
            return
        idle = np.flatnonzero((self.size == 0) & (self.alive[self.node] > 0))
        for slot in late:
            elsewhere = idle[self.node[idle] != self.node[slot]]
            if not len(elsewhere):
                return
            copy = elsewhere[:1]
            idle = idle[idle != copy[0]]
            self._start(copy, np.ones(1, dtype=np.int64))
            self.twin[copy[0]], self.twin[slot] = slot, copy[0]
            self.n_speculative += 1

    # -- time

    def _advance(self) -> None:
        """Go on to the next event."""
        work, machine = self.work, self.machine
        busy = np.flatnonzero(self.size)
        event = self._next_event() - self.now
        if not len(busy):
            self.now += event
            self._happen()
            return
        nodes, way = self.node[busy], np.where(self.io[busy] > 0, self.way[busy], 0)
        n = machine.n_nodes
        reading = np.bincount(nodes[way == 1], minlength=n).astype(np.float64)
        writing = np.bincount(nodes[way == 2], minlength=n).astype(np.float64)
        placement = self.scan_placement if work.stage.scan_input else self.even
        spare = self._recopying() * self.alive
        read, write = fair_rates(reading, writing, machine, placement, self.alive, spare)
        rate = np.where(way == 1, read[nodes], np.where(way == 2, write[nodes], np.inf))
        io_s = np.where(way > 0, self.io[busy] / rate, 0.0)
        cpu_s = self.cpu[busy]
        times = np.where(way > 0, io_s, cpu_s)
        step = min(float(times.min()), event)
        self.now += step
        self._integrate(step, reading * read, writing * write, placement, len(busy), int((cpu_s > 0).sum()))
        near = step * (1 + _TINY_S) + max(_TINY_S, work.nearness_s if step < event else 0.0)
        self.io[busy] = np.where(io_s <= near, 0.0, self.io[busy] - np.where(way > 0, rate, 0.0) * step)
        self.cpu[busy] = np.where(cpu_s <= near, 0.0, cpu_s - step)
        self._next_phase(busy[(self.io[busy] <= 0) & (self.cpu[busy] <= 0)])
        if step == event:
            self._happen()

    def _integrate(
        self,
        seconds: float,
        reading: NDArray[np.float64],
        writing: NDArray[np.float64],
        placement: Placement,
        busy: int,
        computing: int,
    ) -> None:
        """Add what flows during a step to the totals."""
        loads, totals = loads_of(reading, writing, self.machine, placement, self.alive), self.totals
        totals.disk_read += loads.disk_read * seconds
        totals.disk_write += loads.disk_write * seconds
        totals.network_in += loads.network_in * seconds
        totals.network_out += loads.network_out * seconds
        totals.switch += loads.switch * seconds
        totals.busy_slot_s += busy * seconds
        totals.computing_slot_s += computing * seconds
        self.written += float(loads.disk_write.sum()) * seconds

    def _next_phase(self, slots: NDArray[np.int64]) -> None:
        """Let tasks that are through a phase begin the next, and bundles that are through all of them end."""
        work = self.work
        ended = slots[self.step[slots] == len(work.cpu)]
        on = slots[self.step[slots] < len(work.cpu)]
        if len(on):
            phase = (self.first[on] + self.step[on]) % len(work.cpu)
            self.step[on] += 1
            scale = self.size[on]
            self.cpu[on] = work.cpu[phase] * scale * self.factor[on] / self.speed[self.node[on]]
            self.io[on] = work.io[phase] * scale
            self.way[on] = work.way[phase]
        if len(ended):
            self._end(ended)

    def _end(self, slots: NDArray[np.int64]) -> None:
        """Count tasks that are done, and stop their copies."""
        work = self.work
        twins = self.twin[slots]
        # Of a task and its copy that end together one counts.
        slots = slots[(twins < 0) | ~np.isin(twins, slots) | (slots < twins)]
        twins = self.twin[slots]
        work.finished(self.now - self.started[slots], self.size[slots])
        copies = twins[twins >= 0]
        for idle in (slots, copies):
            self.size[idle], self.twin[idle], self.io[idle], self.cpu[idle] = 0, -1, 0.0, 0.0

    # -- a lost node

    def _next_event(self) -> float:
        """When the next thing happens that no task does."""
        times = [when for when, _ in self.returning]
        if self.lost_at is not None:
            times.append(self.lost_at)
        if self.recopy is not None:
            times += [when for when in self.recopy if when > self.now]
        return max(self.now, min(times)) if times else np.inf

    def _happen(self) -> None:
        """Let what is due happen."""
        due = [count for when, count in self.returning if when <= self.now + _TINY_S]
        self.pending += sum(due)
        self.returning = [(when, count) for when, count in self.returning if when > self.now + _TINY_S]
        if self.lost_at is not None and self.lost_at <= self.now + _TINY_S:
            self.lost_at = None
            self._lose(self.machine.n_nodes - 1)

    def _lose(self, node: int) -> None:
        """Lose a node: its tasks run again, and what it held is copied again."""
        self.alive[node] = 0.0
        hit = np.flatnonzero((self.node == node) & (self.size > 0))
        alone = hit[self.twin[hit] < 0]
        left = np.ceil(self.size[alone] * (1 - self._share_done(alone))).astype(np.int64)
        self.work.n_done += int((self.size[alone] - left).sum())
        others = self.twin[hit[self.twin[hit] >= 0]]
        self.twin[others] = -1
        self.size[hit], self.twin[hit] = 0, -1
        self.n_rerun += len(alone)
        if len(alone):
            self.returning.append((self.now + self.machine.executor_lost_after_s, int(left.sum())))
        self.scan_placement, self.even = self.scan_placement.without(node), self.even.without(node)
        held = (self.conditions.stored_bytes + self.written) / self.machine.n_nodes
        if self.machine.copies > 1:
            begins = self.now + self.machine.dead_after_s
            self.recopy = (begins, begins + float(held / (self.machine.recopy * self.alive.sum())))

    def _share_done(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far bundles are, by the time that their phases take when all slots of a node share its disks."""
        work = self.work
        if not len(work.cpu):
            return np.zeros(len(slots))
        expected = work.expected
        order = (self.first[slots, None] + np.arange(len(work.cpu))) % len(work.cpu)
        behind = np.cumsum(expected[order], axis=1)
        done = np.where(self.step[slots] > 1, behind[np.arange(len(slots)), np.maximum(0, self.step[slots] - 2)], 0.0)
        return np.asarray(done / max(_TINY_S, float(expected.sum())))

    def _recopied(self) -> float:
        """Bytes copied again until now."""
        if self.recopy is None:
            return 0.0
        begins, ends = self.recopy
        return float(self.machine.recopy * self.alive.sum() * max(0.0, min(self.now, ends) - begins))

    def _recopying(self) -> float:
        """What each node gives to copying lost blocks again at this time [B/s]."""
        if self.recopy is None or not self.recopy[0] <= self.now < self.recopy[1]:
            return 0.0
        return self.machine.recopy


class _StageState:
    """What a stage is, in arrays, and how far it is."""

    def __init__(self, stage: StageDemand, machine: Machine) -> None:
        phases = [phase for phase in stage.phases if not phase.is_empty]
        self.stage = stage
        self.cpu = np.array([phase.cpu_s for phase in phases], dtype=np.float64)
        self.io = np.array([phase.read_bytes + phase.write_bytes for phase in phases], dtype=np.float64)
        self.way = np.array([2 if phase.write_bytes else 1 if phase.read_bytes else 0 for phase in phases], dtype=int)
        self.bundled = stage.n_tasks > max(BUNDLED_TASKS, 4 * machine.n_slots)
        # What each phase takes when all slots of a node share its disks.
        share = float(np.median(machine.disk)) / max(1.0, float(np.median(machine.slots)))
        self.expected = np.maximum(self.cpu, self.io / share)
        large = stage.n_tasks > EXACT_TASKS
        self.nearness_s = _NEARNESS * (stage.overhead_s + float(self.expected.sum())) if large else 0.0
        self.n_done = 0
        self._single: list[NDArray[np.float64]] = []
        self._median: tuple[int, float] = (0, np.inf)

    def finished(self, seconds: NDArray[np.float64], sizes: NDArray[np.int64]) -> None:
        """Count tasks that are done."""
        self.n_done += int(sizes.sum())
        self._single.append(seconds / sizes)

    def median_s(self) -> float:
        """Median seconds of the tasks that are done, not older than a tenth of them."""
        count = sum(len(part) for part in self._single)
        if count > 1.1 * self._median[0]:
            self._median = (count, float(np.median(np.concatenate(self._single))))
        return self._median[1]


def _copy(totals: _Totals) -> _Totals:
    """The totals as they are now."""
    made = _Totals(totals.n_nodes)
    for name in ("disk_read", "disk_write", "network_in", "network_out"):
        setattr(made, name, getattr(totals, name).copy())
    made.switch, made.busy_slot_s, made.computing_slot_s = totals.switch, totals.busy_slot_s, totals.computing_slot_s
    return made
