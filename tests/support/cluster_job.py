# SPDX-License-Identifier: Apache-2.0
"""The main job on the local cluster, its driver a process of its own, so that anything may be killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_cluster.spark import application_environment
from pacs.index import Query
from spark_jobs.planning.request import ReconstructionRequest
from storage.filesystem import open_store
from storage.publish import publish_bytes
from tests.support.command_line import Outcome, start_conepacs
from tests.support.index_engine import sqlite_index
from tests.support.local_run import store_sample
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import subprocess

    from local_cluster.local_cluster import LocalCluster

#: Eighteen slab tasks of three bins, in two stages so that filtered rows lie on the store as well.
REQUEST = ("--mode", "two_stage", "--slabs", "6", "--voxel", "0.2")


@dataclass
class ClusterJob:
    """One submit of a reconstruction: `start` it, harm something, `result` waits for its end.

    The folder holds the driver's settings and logs, and the index.  `settings` are of the section spark, `spark` are
    properties of Spark itself.
    """

    cluster: LocalCluster
    store_url: str
    folder: Path
    scan_id: str = "sample-marker"
    arguments: tuple[str, ...] = REQUEST
    spark: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    @property
    def index(self) -> Path:
        """The SQLite file of the index."""
        return self.folder / "index.sqlite"

    @cached_property
    def store(self) -> Any:
        """The store, for looking at what the job does."""
        return open_store(self.store_url)

    def write_settings(self, **sections: dict[str, Any]) -> None:
        """Write ``conepacs.toml`` where the driver starts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = ["[spark]", f'master = "{self.cluster.spark_master}"']
        lines += [f"{key} = {json.dumps(value)}" for key, value in self.settings.items()]
        lines += ["[spark.extra]"]
        lines += [f'"{key}" = "{value}"' for key, value in self.spark.items()]
        for name, values in sections.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        (self.folder / "conepacs.toml").write_text("\n".join(lines) + "\n")

    def start(self, *more: str) -> ClusterJob:
        """Start the driver."""
        self.write_settings()
        self.process = start_conepacs(
            "reconstruct", self.scan_id, "--store", self.store_url, "--index", self.index, *self.arguments,
            "--spark-log", self.folder / "spark.log", "--json", *more,
            folder=self.folder, variables=application_environment(self.cluster.options), start_new_session=True,
        )  # fmt: skip
        return self

    def result(self, timeout_s: float = 240.0) -> dict[str, Any]:
        """Wait for the driver's end and return its result as JSON values."""
        outcome = self.outcome(timeout_s)
        assert outcome.code == 0, f"{outcome.err}\n{self.log_tail()}"
        values: dict[str, Any] = json.loads(outcome.out)[0]
        return values

    def outcome(self, timeout_s: float = 240.0) -> Outcome:
        """Wait for the driver's end."""
        assert self.process is not None
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except BaseException:
            self.kill()
            raise
        return Outcome(self.process.returncode, out, err)

    def kill(self) -> None:
        """Kill the driver and its JVM without a warning."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def log_tail(self) -> str:
        """The end of Spark's own log."""
        log = self.folder / "spark.log"
        return log.read_text(errors="replace")[-3000:] if log.exists() else "no log of Spark"

    def finished_slabs(self) -> list[str]:
        """Paths of the records of finished slabs, of any run in the store."""
        return [
            record.path
            for run in self.store.list_folder("runs")
            for record in self.store.list_folder(f"{run.path}/done")
        ]

    def wait_for_slabs(self, count: int, timeout_s: float = 240.0) -> int:
        """Wait until so many slabs are finished, and return how many are."""
        assert self.process is not None

        def look() -> int:
            assert self.process is not None
            if self.process.poll() is not None:
                out, err = self.process.communicate()
                raise AssertionError(f"the driver ended before {count} slabs were there: {out}{err}")
            return len(self.finished_slabs())

        return wait_until(f"{count} finished slabs", look, lambda seen: seen >= count, timeout_s=timeout_s)


@dataclass
class Undisturbed:
    """A run that nobody disturbed: what every other must come to."""

    cluster: LocalCluster
    job: ClusterJob
    result: dict[str, Any]
    folder: Path

    def again(self, name: str, **changes: Any) -> ClusterJob:
        """The same job on a store of its own, with the dates and ranges of the undisturbed one."""
        url = f"{self.cluster.hdfs_url}/{self.folder.name}/{name}"
        copy_scan(self.job.store_url, url, self.result["run_name"])
        return ClusterJob(self.cluster, url, self.folder / name, **changes)

    def require_same(self, job: ClusterJob, result: dict[str, Any]) -> None:
        """Voxels, every data set, and each series once."""
        assert volumes(result) == volumes(self.result)
        self.require_same_series(job)

    def require_same_series(self, job: ClusterJob) -> None:
        """Every data set, and each series once."""
        assert registered(job.index) == registered(self.job.index)


def run_undisturbed(cluster: LocalCluster, folder: Path) -> Undisturbed:
    """Store the sample scan on the cluster's HDFS and reconstruct it."""
    url = f"{cluster.hdfs_url}/{folder.name}/undisturbed"
    store_sample(folder / "source", url)
    job = ClusterJob(cluster, url, folder / "undisturbed").start()
    result = job.result()
    assert result["outcomes"]["added"] > 0
    return Undisturbed(cluster, job, result, folder)


def request_of() -> ReconstructionRequest:
    """`REQUEST` as the job takes it."""
    return ReconstructionRequest("sample-marker", mode="two_stage", n_slabs=6, voxel_pitch_mm=0.2)


def copy_scan(source_url: str, target_url: str, run_name: str) -> None:
    """Copy the scans of a store, and what the first submit of a run decided: its dates and ranges."""
    source, target = open_store(source_url), open_store(target_url)
    folders = ["scans"]
    while folders:
        for entry in source.list_folder(folders.pop()):
            if entry.is_folder:
                folders.append(entry.path)
            else:
                publish_bytes(target, entry.path, source.read_bytes(entry.path), kind="replace")
    for entry in source.list_folder(f"runs/{run_name}"):
        if not entry.is_folder and entry.path.rpartition("/")[2].startswith("run"):
            publish_bytes(target, entry.path, source.read_bytes(entry.path), kind="replace")


def registered(index: Path) -> dict[str, dict[str, str]]:
    """Every series of an index: its instances' UIDs and the digests of their data sets."""
    found: dict[str, dict[str, str]] = {}
    with sqlite_index(index) as opened:
        for row in opened.find(Query("SERIES", {}, ("SeriesInstanceUID",)), limit=1000):
            uid = str(row["SeriesInstanceUID"])
            records = opened.instances(series_uids=[uid])
            found[uid] = {r.sop_instance_uid: r.location.dataset_sha256 for r in records}
    return found


def volumes(result: dict[str, Any]) -> dict[str, str]:
    """Digest of the voxels of each volume series."""
    return {s["series_uid"]: s["volume_sha256"] for s in result["series"] if s["volume_sha256"]}


def children_of(pid: int) -> list[int]:
    """All processes below one, nearest first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = parents.get(waiting.pop(0), [])
        found += below
        waiting += below
    return found


def python_workers(spark_worker: int, *, with_daemons: bool = False) -> list[int]:
    """Python workers of the executors below one Spark worker; the daemons that fork them too if asked for."""
    python = [pid for pid in children_of(spark_worker) if b"pyspark.daemon" in _command(pid)]
    if with_daemons:
        return python
    parents = set(python)
    return [pid for pid in python if _parent(pid) in parents]


def executors(spark_worker: int) -> list[int]:
    """The executors below one Spark worker and all of their Python processes."""
    return children_of(spark_worker)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
