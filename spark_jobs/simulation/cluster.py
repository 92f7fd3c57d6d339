# SPDX-License-Identifier: Apache-2.0
"""The description of a cluster: its nodes, network, file system and rates, as ``conf/clusters/*.toml`` hold them.

Sizes carry their units in their names; MB are 10^6 bytes, GiB 2^30.  Every rate says whether it was measured, and
where it comes from.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from spark_jobs.simulation.errors import DescriptionError

GIBIBYTE = 1 << 30
MEGABYTE = 1_000_000
_BUILT_IN = "benchmarks/plan_rates.py on one core of a 2023 Xeon with AVX-512 (docs/planning.md)"
_FITTED = "benchmarks/simulator.py on two cores of such a machine, local folder, SQLite"
_FORBID = {"extra": "forbid"}


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise DescriptionError(sentence)


@dataclass(frozen=True, slots=True)
class Rate:
    """One figure of how fast something is: its value, whether it was measured, and where it comes from."""

    value: float
    basis: Literal["measured", "assumed"]
    source: str

    __pydantic_config__ = _FORBID

    def __post_init__(self) -> None:
        _require(math.isfinite(self.value) and self.value >= 0, f"a rate must not be negative, got {self.value:g}")
        _require(bool(self.source.strip()), f"the rate {self.value:g} needs a source: where was it {self.basis}")


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast one core, one GPU, one stream and the driver are.

    Attributes
    ----------
    cpu_gups : 10^9 voxel updates of the four-fold kernel a second and core; other kernels in their known ratio.
    gpu_gups : the same of one GPU.
    row_mpixels_per_s : pixels that a core unpacks, corrects and filters [10^6/s].
    band_mvalues_per_s : filtered values that a core reads back from the store and lays out for adding [10^6/s].
    gpu_row_mpixels_per_s : pixels that a GPU corrects and filters [10^6/s].
    encode_mvoxels_per_s : voxels that a core makes into DICOM slices [10^6/s].
    stream_read_mb_per_s, stream_write_mb_per_s : what one task's client of the store moves at most [MB/s].
    task_overhead_s : of Spark, opening the run and making weights, for each task.
    stage_overhead_s : of the driver, for each stage.
    launches_per_s : tasks that the driver starts a second.
    registrations_per_s : instances that go into the index a second.
    """

    cpu_gups: Rate = Rate(4.0, "measured", _BUILT_IN)
    gpu_gups: Rate = Rate(200.0, "assumed", "a card of 2012 made 83 (Zinsser and Keck 2013); newer ones make more")
    row_mpixels_per_s: Rate = Rate(55.8, "measured", _BUILT_IN)
    band_mvalues_per_s: Rate = Rate(54.0, "measured", _FITTED)
    gpu_row_mpixels_per_s: Rate = Rate(2000.0, "assumed", "bound by the memory of the card; not measured here")
    encode_mvoxels_per_s: Rate = Rate(38.0, "measured", _BUILT_IN)
    stream_read_mb_per_s: Rate = Rate(140.0, "measured", "hdfs-native on one machine, replication 2")
    stream_write_mb_per_s: Rate = Rate(60.0, "measured", "hdfs-native on one machine, replication 2: 22 to 67 seen")
    task_overhead_s: Rate = Rate(0.25, "measured", "reports of runs that compute next to nothing")
    stage_overhead_s: Rate = Rate(0.7, "measured", _FITTED)
    launches_per_s: Rate = Rate(500.0, "assumed", "some hundred tasks a second are commonly reported of Spark")
    registrations_per_s: Rate = Rate(3700.0, "measured", _FITTED)

    __pydantic_config__ = _FORBID

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            rate: Rate = getattr(self, name)
            if not name.endswith("overhead_s"):
                _require(rate.value > 0, f"the rate {name} must be above 0, got {rate.value:g}")


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes of one kind.

    Attributes
    ----------
    count, cores, memory_gib : of nodes; of one node.
    disks, disk_mb_per_s, disk_tb : data disks of a node, what one moves, reading and writing together, and holds.
    network_mb_per_s : of a node, each way.
    gpus, gpu, gpu_memory_gib : number in a node, their name, memory of one.
    price_per_hour : of one node.
    speed : of its cores against those that the rates were measured on.
    """

    count: int
    cores: int
    memory_gib: float
    disks: int
    disk_mb_per_s: float
    network_mb_per_s: float
    disk_tb: float = 8.0
    gpus: int = 0
    gpu: str = ""
    gpu_memory_gib: float = 0.0
    price_per_hour: float = 0.0
    speed: float = 1.0

    __pydantic_config__ = _FORBID

    def __post_init__(self) -> None:
        for name in ("count", "cores", "disks"):
            _require(getattr(self, name) >= 1, f"nodes need {name} of at least 1, got {getattr(self, name)}")
        for name in ("memory_gib", "disk_mb_per_s", "network_mb_per_s", "disk_tb", "speed"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value > 0, f"nodes need {name} above 0, got {value:g}")
        for name in ("gpus", "gpu_memory_gib", "price_per_hour"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, f"{name} of nodes must not be negative, got {value:g}")
        _require(
            self.gpus == 0 or self.gpu_memory_gib > 0,
            f"nodes with {self.gpus} GPUs need gpu_memory_gib, the memory of one of them",
        )
        _require(self.gpus <= self.cores, f"each GPU needs a core, got {self.gpus} GPUs and {self.cores} cores")


@dataclass(frozen=True, slots=True)
class Network:
    """What joins the nodes: all traffic together may be that of all nodes over the oversubscription."""

    oversubscription: float = 1.0

    __pydantic_config__ = _FORBID

    def __post_init__(self) -> None:
        _require(
            math.isfinite(self.oversubscription) and self.oversubscription >= 1,
            f"the oversubscription of the network must be at least 1, got {self.oversubscription:g}",
        )


@dataclass(frozen=True, slots=True)
class Hdfs:
    """The file system: copies of a block, their size, and what is done when a node is lost.

    Attributes
    ----------
    replication : copies of a block; never more than there are nodes.
    block_mib : size of a block.
    dead_after_s : silence after which a DataNode's blocks are copied again.
    recopy_mb_per_s : what a node gives to that.
    """

    replication: int = 3
    block_mib: int = 256
    dead_after_s: float = 630.0
    recopy_mb_per_s: float = 100.0

    __pydantic_config__ = _FORBID

    def __post_init__(self) -> None:
        _require(self.replication >= 1, f"the replication must be at least 1, got {self.replication}")
        _require(self.block_mib >= 1, f"a block must have at least 1 MiB, got {self.block_mib}")
        _require(self.dead_after_s >= 0, f"dead_after_s must not be negative, got {self.dead_after_s:g}")
        _require(self.recopy_mb_per_s > 0, f"recopy_mb_per_s must be above 0, got {self.recopy_mb_per_s:g}")


@dataclass(frozen=True, slots=True)
class Spark:
    """How tasks are run: cores of a task, the share of a node's memory for tasks, when an executor counts as lost."""

    task_cores: int = 1
    memory_share: float = 0.8
    executor_lost_after_s: float = 120.0
    speculation: bool = True

    __pydantic_config__ = _FORBID

    def __post_init__(self) -> None:
        _require(self.task_cores >= 1, f"task_cores must be at least 1, got {self.task_cores}")
        _require(0 < self.memory_share <= 1, f"memory_share must be above 0, at most 1, got {self.memory_share:g}")
        _require(
            self.executor_lost_after_s >= 0,
            f"executor_lost_after_s must not be negative, got {self.executor_lost_after_s:g}",
        )


@dataclass(frozen=True, slots=True)
class Troubles:
    """What goes wrong on an ordinary day.

    Attributes
    ----------
    task_sigma : of the logarithm of a task's time.
    slow_node_share, slow_node_speed : nodes that are slow, and how fast they are against the others.
    """

    task_sigma: float = 0.15
    slow_node_share: float = 0.03
    slow_node_speed: float = 0.6

    __pydantic_config__ = _FORBID

    def __post_init__(self) -> None:
        _require(0 <= self.task_sigma <= 2, f"task_sigma must be 0 to 2, got {self.task_sigma:g}")
        _require(0 <= self.slow_node_share <= 1, f"slow_node_share must be 0 to 1, got {self.slow_node_share:g}")
        _require(
            0 < self.slow_node_speed <= 1, f"slow_node_speed must be above 0, at most 1, got {self.slow_node_speed:g}"
        )


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster as its description tells of it."""

    name: str
    nodes: tuple[NodeGroup, ...]
    network: Network = field(default_factory=Network)
    hdfs: Hdfs = field(default_factory=Hdfs)
    spark: Spark = field(default_factory=Spark)
    rates: Rates = field(default_factory=Rates)
    troubles: Troubles = field(default_factory=Troubles)
    currency: str = "EUR"

    __pydantic_config__ = _FORBID

    def __post_init__(self) -> None:
        _require(bool(self.nodes), f"the cluster {self.name} needs at least one [[nodes]] section")
        for group in self.nodes:
            _require(
                self.spark.task_cores <= group.cores,
                f"a task takes {self.spark.task_cores} cores, but nodes of {self.name} have {group.cores}",
            )
        with_gpus = {group.gpus > 0 for group in self.nodes}
        _require(
            len(with_gpus) == 1,
            f"either all nodes of {self.name} have GPUs or none: tasks that need one run only where one is",
        )

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return sum(group.count for group in self.nodes)

    @property
    def has_gpus(self) -> bool:
        """Whether tasks run on GPUs."""
        return self.nodes[0].gpus > 0

    @property
    def copies(self) -> int:
        """Copies of a block that there is room for."""
        return min(self.hdfs.replication, self.n_nodes)

    @property
    def price_per_hour(self) -> float:
        """Price of all nodes for an hour."""
        return sum(group.count * group.price_per_hour for group in self.nodes)

    @property
    def disk_bytes(self) -> float:
        """What all disks hold [B]."""
        return sum(group.count * group.disks * group.disk_tb * 1e12 for group in self.nodes)

    def task_slots(self, group: NodeGroup) -> int:
        """Tasks that the cores or GPUs of a node take at once."""
        return group.gpus or group.cores // self.spark.task_cores

    def task_cores(self, group: NodeGroup) -> int:
        """Cores of one task."""
        return group.cores // group.gpus if group.gpus else self.spark.task_cores

    def with_nodes(self, count: int) -> Cluster:
        """Return the same cluster with another number of nodes (of one group only)."""
        _require(
            len(self.nodes) == 1,
            f"only a cluster of one kind of nodes can be resized, {self.name} has {len(self.nodes)}",
        )
        return replace(self, nodes=(replace(self.nodes[0], count=count),))


def read_cluster(path: Path | str) -> Cluster:
    """Read the description of a cluster.

    Raises
    ------
    DescriptionError
        If the file is not there, is no TOML, or has an unknown, missing or impossible value.
    """
    return cluster_from(read_toml(path), str(path))


def read_toml(path: Path | str) -> dict[str, Any]:
    """Read a TOML file as values; DescriptionError with one sentence if that is impossible."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DescriptionError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DescriptionError(f"{path} is no TOML: {error}") from error


def cluster_from(values: dict[str, Any], source: str) -> Cluster:
    """Make a cluster of the values of its file; DescriptionError names the file and the value that is wrong."""
    made: Cluster = validated(Cluster, values, source)
    return made


def validated(kind: Any, values: dict[str, Any], source: str) -> Any:
    """Build a dataclass of values out of a file; DescriptionError with the file and the first thing that is wrong."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(values)
    except DescriptionError as error:
        raise DescriptionError(f"{source}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        words = {"unexpected_keyword_argument": "is unknown", "missing": "is missing", "extra_forbidden": "is unknown"}
        said = str(first["msg"]).removeprefix("Value error, ")
        what = words.get(first["type"]) or f"is wrong: {said[:1].lower()}{said[1:]}"
        raise DescriptionError(f"{source}: '{where}' {what}") from error
