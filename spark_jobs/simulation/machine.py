# SPDX-License-Identifier: Apache-2.0
"""What the simulation runs on: nodes as arrays of slots and bandwidths, and where the blocks of files lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spark_jobs.simulation.errors import SimulationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]
    IntArray = NDArray[np.int64]

#: Blocks beyond this are placed by their expected shares: so many differ little from them.
_MOST_PLACED_BLOCKS = 200_000


@dataclass(frozen=True, slots=True)
class Machine:
    """Nodes, and what they share.

    Attributes
    ----------
    slots : (node,) int64, tasks at once
    disk : (node,) float64, bandwidth of all disks of a node [B/s]
    network : (node,) float64, each way [B/s]
    speed : (node,) float64, of the cores against the rates
    switch : all traffic between nodes together [B/s]
    copies : of a block that is written; at most the number of nodes
    stream_read, stream_write : of one task at most [B/s]
    launches_per_s : tasks that the driver starts a second
    recopy : what a node gives to copying lost blocks again [B/s]
    dead_after_s : after which it begins
    executor_lost_after_s : after which tasks of a lost node run elsewhere
    """

    slots: IntArray
    disk: FloatArray
    network: FloatArray
    speed: FloatArray
    switch: float = np.inf
    copies: int = 1
    stream_read: float = np.inf
    stream_write: float = np.inf
    launches_per_s: float = np.inf
    recopy: float = 100e6
    dead_after_s: float = 630.0
    executor_lost_after_s: float = 120.0

    def __post_init__(self) -> None:
        if not 1 <= self.copies <= self.n_nodes:
            raise SimulationError(f"{self.copies} copies of a block need as many nodes, got {self.n_nodes}")
        if self.slots.min() < 0 or self.slots.sum() < 1:
            raise SimulationError("a simulated cluster needs at least one slot for tasks")

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.slots)

    @property
    def n_slots(self) -> int:
        """Number of tasks at once."""
        return int(self.slots.sum())


def uniform_machine(
    n_nodes: int,
    slots: int,
    *,
    disk: float = np.inf,
    network: float = np.inf,
    copies: int = 1,
    switch: float = np.inf,
    stream_read: float = np.inf,
    stream_write: float = np.inf,
) -> Machine:
    """Return a machine of equal nodes; bandwidths [B/s]."""
    ones = np.ones(n_nodes)
    return Machine(
        slots=np.full(n_nodes, slots), disk=disk * ones, network=network * ones, speed=ones, switch=switch,
        copies=min(copies, n_nodes), stream_read=stream_read, stream_write=stream_write,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the bytes of a set of files lie.

    Attributes
    ----------
    local : (node,) float64, share of the bytes that have a copy on the node
    source : (node,) float64, share of all copies; sums to 1
    """

    local: FloatArray
    source: FloatArray

    def without(self, node: int) -> Placement:
        """Return the placement after a node is gone; its copies are read elsewhere."""
        local, source = self.local.copy(), self.source.copy()
        local[node] = source[node] = 0.0
        return Placement(local, source / source.sum() if source.sum() else source)


def place_blocks(n_nodes: int, n_blocks: int, copies: int, rng: np.random.Generator) -> Placement:
    """Put blocks on nodes at random, the copies of a block on different ones."""
    copies = min(copies, n_nodes)
    if n_blocks > _MOST_PLACED_BLOCKS or copies == n_nodes:
        return even_placement(n_nodes, copies)
    places = rng.integers(0, n_nodes, (max(1, n_blocks), copies))
    while True:
        ordered = np.sort(places, axis=1)
        clashing = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if not len(clashing):
            break
        places[clashing] = rng.integers(0, n_nodes, (len(clashing), copies))
    counts = np.bincount(places.ravel(), minlength=n_nodes).astype(np.float64)
    return Placement(local=counts / len(places), source=counts / counts.sum())


def even_placement(n_nodes: int, copies: int) -> Placement:
    """Return the placement of very many blocks."""
    return Placement(np.full(n_nodes, min(1.0, copies / n_nodes)), np.full(n_nodes, 1 / n_nodes))
