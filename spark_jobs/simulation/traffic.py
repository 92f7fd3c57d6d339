# SPDX-License-Identifier: Apache-2.0
"""How flows share disks, network cards and the switch: fair shares, found by scaling flows down at what is overloaded.

A task reads from many files, so its bytes come from all nodes that hold copies, in the placement's proportion, the
local share from its own disks.  A task writes to its own disks, and on by a pipeline to as many others as there are
further copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spark_jobs.simulation.machine import Machine, Placement

    FloatArray = NDArray[np.float64]

_ROUNDS = 4
#: A bandwidth that is none [B/s].
_ENDLESS = 1e15


@dataclass(frozen=True, slots=True)
class Loads:
    """What goes through each resource [B/s]: disks (read and write), network in and out, by node; switch."""

    disk_read: FloatArray
    disk_write: FloatArray
    network_in: FloatArray
    network_out: FloatArray
    switch: float


def loads_of(
    readers: FloatArray, writers: FloatArray, machine: Machine, placement: Placement, alive: FloatArray
) -> Loads:
    """Return the loads that reading and writing tasks cause.

    Parameters
    ----------
    readers, writers : (node,) float64
        Bytes that the tasks of each node read and write a second.
    alive : (node,) float64
        1 for nodes that are there, 0 for those that are lost.
    """
    remote = readers * (1 - placement.local)
    n_alive = alive.sum()
    further = min(machine.copies, int(n_alive)) - 1
    total_written = writers.sum()
    others = (total_written - writers) / max(1.0, n_alive - 1) * alive * further
    # A reader has no remote source in its own node.
    served = placement.source * (remote.sum() - remote) / np.maximum(1e-12, 1 - placement.source.mean())
    if served.sum() > 0:
        served *= remote.sum() / served.sum()
    # The first of the pipeline is sent by the writer, the others by those that hold it already.
    forwarded = others * (further - 1) / further if further else others
    sent = writers * alive if further else np.zeros_like(writers)
    return Loads(
        disk_read=readers * placement.local + served,
        disk_write=writers + others,
        network_in=remote + others,
        network_out=served + sent + forwarded,
        switch=float(remote.sum() + total_written * further),
    )


def fair_rates(
    n_reading: FloatArray,
    n_writing: FloatArray,
    machine: Machine,
    placement: Placement,
    alive: FloatArray,
    spare: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Return the bytes a second of each reading and of each writing task, by the node that it runs on.

    Parameters
    ----------
    n_reading, n_writing : (node,) float64
        Tasks that read and write.
    alive : (node,) float64
        1 for nodes that are there.
    spare : (node,) float64
        What copying lost blocks again takes of each node's disks and network [B/s].
    """
    disk = np.maximum(machine.disk - spare, machine.disk * 0.05)
    network = np.maximum(machine.network - spare, machine.network * 0.05)
    read_cap, write_cap = min(machine.stream_read, _ENDLESS), min(machine.stream_write, _ENDLESS)
    read = np.where(n_reading > 0, read_cap, 0.0)
    write = np.where(n_writing > 0, write_cap, 0.0)
    for turn in range(_ROUNDS):
        loads = loads_of(n_reading * read, n_writing * write, machine, placement, alive)
        on_disk = (loads.disk_read + loads.disk_write) / disk
        inward, outward = loads.network_in / network, loads.network_out / network
        across = loads.switch / machine.switch
        sources = placement.source > 0
        any_source = max(float(np.max(np.maximum(on_disk, outward), where=sources, initial=0.0)), across)
        own_read = np.where(placement.local > 0, on_disk, 0.0)
        goes_out = placement.local < 1
        read_load = np.maximum(own_read, np.where(goes_out, np.maximum(inward, any_source), 0.0))
        others = max(float(np.max(np.maximum(on_disk, inward), where=alive > 0, initial=0.0)), across)
        write_load = np.maximum(on_disk, np.maximum(outward, others) if machine.copies > 1 else 0.0)
        # The last turn only takes back what is too much.
        floor = 1.0 if turn == _ROUNDS - 1 else 1e-9
        read = np.minimum(read_cap, read / np.maximum(floor, read_load)) * (n_reading > 0)
        write = np.minimum(write_cap, write / np.maximum(floor, write_load)) * (n_writing > 0)
    return read, write
