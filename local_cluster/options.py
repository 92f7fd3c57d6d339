# SPDX-License-Identifier: Apache-2.0
"""What a local cluster is made of."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from local_cluster.errors import ClusterOptionsError
from local_cluster.ports import PORT_SPAN

# A data node takes its folder as a list of URLs, and a percent sign in it as a format.
_FOLDER = re.compile(r"[A-Za-z0-9/._~+@=-]+")
_MEMORY = re.compile(r"[1-9][0-9]*[mg]")
#: Bytes under one checksum of HDFS; a block is a multiple of it.
_CHECKSUM_BYTES = 512
_SMALLEST_BLOCK = 64 << 10


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What is started, where, and how large.

    Attributes
    ----------
    folder : data, logs, configuration and state of the cluster.
    bind : IPv4 address of this machine that every daemon listens on.
    data_nodes, replication, block_bytes : of HDFS.
    workers, worker_cores, worker_memory : of Spark; memory as Spark writes it (``512m``, ``2g``).
    gpus_per_worker : GPUs a worker offers; worker i has the GPUs from i * `gpus_per_worker` on.
    gpu_discovery_script : program that prints Spark's JSON of the worker's GPUs, instead of that rule.
    spark, yarn : whether a standalone Spark and a YARN are started beside HDFS.
    daemon_memory : heap of each daemon at most.
    port_base : first port of the fixed layout (see `ports.ports_at`); None: free ports.
    """

    folder: Path
    bind: str = "127.0.0.1"
    data_nodes: int = 3
    replication: int = 2
    workers: int = 2
    worker_cores: int = 1
    worker_memory: str = "1g"
    block_bytes: int = 64 << 20
    gpus_per_worker: int = 0
    gpu_discovery_script: Path | None = None
    spark: bool = True
    yarn: bool = False
    daemon_memory: str = "160m"
    port_base: int | None = None

    def __post_init__(self) -> None:
        _require_address(self.bind)
        for name, least in (("data_nodes", 1), ("replication", 1), ("worker_cores", 1), ("gpus_per_worker", 0)):
            _require_at_least(name, getattr(self, name), least)
        _require_at_least("workers", self.workers, 0)
        if self.replication > self.data_nodes:
            raise ClusterOptionsError(
                f"{self.data_nodes} data nodes cannot hold {self.replication} copies of a block: expected a "
                "replication of at most the number of data nodes"
            )
        for name in ("worker_memory", "daemon_memory"):
            value = getattr(self, name)
            if not _MEMORY.fullmatch(value):
                raise ClusterOptionsError(f"{name} is '{value}', expected a whole number with m or g, such as 512m")
        if self.block_bytes < _SMALLEST_BLOCK or self.block_bytes % _CHECKSUM_BYTES:
            raise ClusterOptionsError(
                f"block_bytes is {self.block_bytes}, expected a multiple of {_CHECKSUM_BYTES} of at least "
                f"{_SMALLEST_BLOCK}"
            )
        if self.port_base is not None and not 1024 <= self.port_base <= 65_536 - PORT_SPAN:
            raise ClusterOptionsError(
                f"port_base is {self.port_base}, expected a port from 1024 to {65_536 - PORT_SPAN}: the {PORT_SPAN} "
                "from it on are used"
            )
        object.__setattr__(self, "folder", self.folder.expanduser().resolve())
        if not _FOLDER.fullmatch(str(self.folder)):
            raise ClusterOptionsError(
                f"the folder is '{self.folder}', only letters, digits and . _ ~ + @ = -: HDFS takes no others"
            )
        if self.gpu_discovery_script is not None:
            object.__setattr__(self, "gpu_discovery_script", self.gpu_discovery_script.expanduser().resolve())

    def as_json(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ClusterOptions:
        """Read what `as_json` gave; values of a later version that this one does not know are left out."""
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        known["folder"] = Path(known["folder"])
        script = known.get("gpu_discovery_script")
        known["gpu_discovery_script"] = Path(script) if script else None
        return cls(**known)


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ClusterOptionsError(f"{name} is {value}, expected at least {least}")


def _require_address(bind: str) -> None:
    """One IPv4 address: it becomes part of the URLs that clients use."""
    try:
        address = ipaddress.IPv4Address(bind)
    except ValueError as error:
        raise ClusterOptionsError(
            f"the address to bind is '{bind}', expected an IPv4 address such as 10.0.0.5"
        ) from error
    if address.is_unspecified or address.is_multicast:
        raise ClusterOptionsError(f"the address to bind is {bind}, expected one address of this machine")
    if address.is_loopback and bind != "127.0.0.1":
        # The NameNode takes a data node's address from its connections, and those come from 127.0.0.1.
        raise ClusterOptionsError(f"the address to bind is {bind}, expected 127.0.0.1 or one of a network")
