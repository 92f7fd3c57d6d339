# SPDX-License-Identifier: Apache-2.0
"""``conepacs cluster up | status | add | drain | down``: a real HDFS and Spark on this machine."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.options import JsonOption, parse_bytes, parse_duration_s
from cli.output import console, print_json, print_pairs, print_table
from cli.teach import help_of

if TYPE_CHECKING:
    from local_cluster.local_cluster import LocalCluster
    from local_cluster.status import ClusterStatus

app = typer.Typer(help="Run a real HDFS and Spark on this machine, to work or to try things on.", no_args_is_help=True)

FOLDER_VARIABLE = "CONEPACS_CLUSTER"
DEFAULT_FOLDER = "conepacs-cluster"

FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--folder", "-f", help=f"Folder of the cluster; {FOLDER_VARIABLE} names it too.", show_default=DEFAULT_FOLDER
    ),
]


def up(
    folder: FolderOption = None,
    bind: Annotated[str, typer.Option(help="IPv4 address of this machine to listen on.")] = "127.0.0.1",
    data_nodes: Annotated[int, typer.Option(help="Data nodes of HDFS.")] = 3,
    replication: Annotated[int, typer.Option(help="Copies of each block.")] = 2,
    block_size: Annotated[str, typer.Option(help="Size of a block of HDFS.")] = "64MiB",
    workers: Annotated[int, typer.Option(help="Workers of Spark.")] = 2,
    worker_cores: Annotated[int, typer.Option(help="Cores that a worker offers.")] = 1,
    worker_memory: Annotated[str, typer.Option(help="Memory that a worker offers, as Spark writes it.")] = "1g",
    gpus_per_worker: Annotated[int, typer.Option(help="GPUs that a worker offers; no two have the same.")] = 0,
    gpu_script: Annotated[Path | None, typer.Option(help="Program that prints Spark's JSON of the GPUs.")] = None,
    daemon_memory: Annotated[str, typer.Option(help="Heap of each daemon at most.")] = "160m",
    spark: Annotated[bool, typer.Option("--spark/--no-spark", help="Start Spark beside HDFS.")] = True,
    yarn: Annotated[bool, typer.Option("--yarn", help="Start YARN too.")] = False,
    port_base: Annotated[int | None, typer.Option(help="First of fixed ports.", show_default="free ports")] = None,
    as_json: JsonOption = False,
) -> None:
    """Start HDFS and Spark, each daemon a process of its own, and say how to use them.

    It needs Java and pyspark; one more jar is fetched by Maven the first time.  What the folder holds from an earlier
    start is served again.  Where the cluster runs already, only what is dead is started again.  There is no
    authentication: bind to an address that only those reach who may read everything.

        conepacs cluster up
        conepacs cluster up --worker-cores 8 --worker-memory 16g --port-base 9000
        . conepacs-cluster/env.sh && conepacs upload scans/stone && conepacs reconstruct stone
    """
    from local_cluster.errors import ClusterRunningError
    from local_cluster.local_cluster import LocalCluster
    from local_cluster.options import ClusterOptions

    options = ClusterOptions(
        folder=_folder(folder), bind=bind, data_nodes=data_nodes, replication=replication, workers=workers,
        worker_cores=worker_cores, worker_memory=worker_memory, block_bytes=parse_bytes(block_size),
        gpus_per_worker=gpus_per_worker, gpu_discovery_script=gpu_script, spark=spark, yarn=yarn,
        daemon_memory=daemon_memory, port_base=port_base,
    )  # fmt: skip
    started = time.monotonic()
    revived: tuple[str, ...] = ()
    try:
        cluster = LocalCluster.start(options)
        news = f"ready after {time.monotonic() - started:.0f} s"
    except ClusterRunningError:
        cluster = LocalCluster.open(options.folder)
        revived = cluster.revive()
        news = f"runs already; started again: {', '.join(revived)}" if revived else "runs already"
    if as_json:
        print_json({"news": news, "started_again": list(revived), **_addresses(cluster)})
        return
    console().print(f"The cluster in {cluster.folder} {news}.")
    _print_use(cluster)


def status(folder: FolderOption = None, as_json: JsonOption = False) -> None:
    """Show every daemon, and how HDFS and Spark are.  Exit code 4 if a daemon is dead or a block lacks a copy.

    conepacs cluster status
    conepacs cluster status --json
    """
    from local_cluster.local_cluster import LocalCluster

    seen = LocalCluster.open(_folder(folder)).status()
    if as_json:
        print_json(seen.as_json())
    else:
        _print_status(seen)
    if not seen.healthy:
        raise typer.Exit(4)


def add(
    kind: Annotated[Literal["datanode", "worker"], typer.Argument(help="What to add.")],
    count: Annotated[int, typer.Option("--count", "-n", help="How many.")] = 1,
    folder: FolderOption = None,
) -> None:
    """Start further data nodes or workers; running jobs use them.

    conepacs cluster add worker --count 2
    """
    from local_cluster.local_cluster import LocalCluster

    names = LocalCluster.open(_folder(folder)).add(kind, count)
    console().print(f"added: {', '.join(names)}")


def drain(
    name: Annotated[str, typer.Argument(help="Name of a data node or worker, as status shows it.")],
    timeout: Annotated[str, typer.Option(help="How long to wait for its work to end.")] = "5min",
    folder: FolderOption = None,
) -> None:
    """Take a data node or worker out of service without losing anything, then stop it.

    The blocks of a data node are copied to the others first.  A worker takes no new tasks and ends when those it runs
    have.  Exit code 6 if that takes longer than the time given; draining it again waits on.

        conepacs cluster drain datanode1
        conepacs cluster drain worker0 --timeout 1h
    """
    from local_cluster.local_cluster import LocalCluster

    LocalCluster.open(_folder(folder)).drain(name, parse_duration_s(timeout))
    console().print(f"{name} is drained and stopped")


def down(
    folder: FolderOption = None,
    wipe: Annotated[bool, typer.Option("--wipe", help="Delete the data and the index too; logs stay.")] = False,
) -> None:
    """End all daemons and what they started; data and logs stay, and `up` serves the data again.

    conepacs cluster down
    conepacs cluster down --wipe
    """
    from local_cluster.errors import NotRunningError
    from local_cluster.local_cluster import LocalCluster
    from local_cluster.state import read_state

    cluster = LocalCluster(_folder(folder))
    state = read_state(cluster.folder)
    if state is None:
        raise NotRunningError(f"{cluster.folder} has no cluster: give the folder of one by --folder")
    n_running = len(state.running())
    cluster.stop()
    if wipe:
        cluster.wipe()
    ended = f"{n_running} daemons of {cluster.folder} ended" if n_running else f"no daemon of {cluster.folder} ran"
    console().print(f"{ended}; {'its data are deleted' if wipe else 'its data stay'}, logs are in "
                    f"{cluster.folder / 'logs'}")  # fmt: skip


for _verb in (up, status, add, drain, down):
    app.command(help=help_of(_verb))(_verb)


def _folder(given: Path | None) -> Path:
    return given if given is not None else Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)


def _addresses(cluster: LocalCluster) -> dict[str, str]:
    """Say where everything is."""
    from local_cluster.operator_files import ENVIRONMENT_FILE, SETTINGS_FILE, STORE_PATH

    spark = {"spark_master": cluster.spark_master, "spark_page": cluster.spark_ui_url} if cluster.options.spark else {}
    return {
        "store": f"{cluster.hdfs_url}/{STORE_PATH}",
        "webhdfs": cluster.webhdfs_url,
        "hadoop_conf_dir": str(cluster.conf_folder),
        "namenode_metrics": f"http://{cluster.web_address}/jmx",
        **spark,
        "environment": str(cluster.folder / ENVIRONMENT_FILE),
        "settings": str(cluster.folder / SETTINGS_FILE),
        "logs": str(cluster.folder / "logs"),
    }


def _print_use(cluster: LocalCluster) -> None:
    places = _addresses(cluster)
    rows = [("--store", places["store"]), ("over HTTP", places["webhdfs"])]
    if "spark_master" in places:
        rows += [("--master", places["spark_master"]), ("Spark's page", places["spark_page"])]
    rows += [
        ("HADOOP_CONF_DIR", places["hadoop_conf_dir"]), ("HDFS metrics", places["namenode_metrics"]),
        ("logs", places["logs"]), ("to use it", f". {places['environment']}"),
    ]  # fmt: skip
    print_pairs("How to use it", rows)


def _print_status(seen: ClusterStatus) -> None:
    hdfs = seen.hdfs
    rows = [("HDFS", f"{hdfs.url}, {'safe mode' if hdfs.safe_mode else 'open'}" if hdfs.reachable else "no answer")]
    rows += [
        ("data nodes", f"{hdfs.live_data_nodes} live"),
        ("blocks", f"{hdfs.under_replicated_blocks} lack a copy, {hdfs.missing_blocks} are missing"),
    ]
    if seen.spark is not None:
        rows += [
            ("Spark", seen.spark.master if seen.spark.reachable else f"{seen.spark.master} does not answer"),
            ("cores", f"{seen.spark.cores_used} of {seen.spark.cores} used"),
            ("applications", ", ".join(seen.spark.running_apps) or "none"),
        ]
    if seen.yarn is not None:
        rows += [("YARN", f"{seen.yarn.resource_manager}, {seen.yarn.nodes} nodes")]
    print_pairs(str(seen.folder), rows)
    columns = ["daemon", "state", "pid", "address", "web", "log"]
    daemons = [
        [each.name, each.state, str(each.pid or ""), each.address, each.web_address, str(each.log)]
        for each in seen.daemons
    ]
    print_table("Daemons", columns, daemons)
