# SPDX-License-Identifier: Apache-2.0
"""Spark: whether its master answers and has cores free; with a real job, whether its workers can do ours."""

from __future__ import annotations

import importlib.util
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cli.checks.check import Check, answers, ask_json, host_and_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spark_jobs.running.settings import SparkSettings
    from spark_jobs.tasks.worker_check import WorkerFindings

_MASTER_PORT = 7077
_UI_PORT = 8080
_MOST_SKEW_S = 60.0
_LOW_MEMORY_BYTES = 1 << 30


def check_spark(settings: SparkSettings, store_url: str, *, ui: str = "", deep: bool = False) -> Iterator[Check]:
    """Look at the master of the settings; with `deep` run a small job on it."""
    if importlib.util.find_spec("pyspark") is None:
        return
    master = settings.master
    if master.startswith("spark://"):
        yield from _standalone(master, ui)
    elif master == "yarn":
        named = os.environ.get("YARN_CONF_DIR") or os.environ.get("HADOOP_CONF_DIR")
        if named and (Path(named) / "yarn-site.xml").is_file():
            yield Check("Spark master", "ok", f"yarn, configured in {named}")
        else:
            yield Check(
                "Spark master",
                "wrong",
                "yarn, but no yarn-site.xml in YARN_CONF_DIR or HADOOP_CONF_DIR",
                "let HADOOP_CONF_DIR name the folder with the cluster's files",
            )
    elif master.startswith("k8s://"):
        url = urlsplit(master.removeprefix("k8s://"))
        host, port = host_and_port(url.netloc or url.path, 443)
        why = answers(host, port)
        yield Check(
            "Spark master",
            "wrong" if why else "ok",
            f"{master}: {why or 'the API server answers'}",
            "start the cluster, or correct [spark] master" if why else "",
        )
    else:
        yield Check("Spark master", "ok", f"{master}: in this process, {os.cpu_count()} cores")
    if deep:
        yield from _deep(settings, store_url)


def _standalone(master: str, ui: str) -> Iterator[Check]:
    """A master of Spark's own, which may be several: spark://a:7077,b:7077."""
    hosts = [host_and_port(each, _MASTER_PORT) for each in master.removeprefix("spark://").split(",")]
    faults = {f"{host} port {port}": why for host, port in hosts if (why := answers(host, port))}
    if len(faults) == len(hosts):
        told = "; ".join(f"nobody answers on {where}: {why}" for where, why in faults.items())
        yield Check("Spark master", "wrong", told, "start the master, or correct [spark] master")
        return
    yield Check("Spark master", "ok", f"{master} answers")
    pages = [ui] if ui else [f"{host}:{_UI_PORT}" for host, _ in hosts]
    for address in pages:
        try:
            state = ask_json(f"http://{address.removeprefix('http://').rstrip('/')}/json/").content
            alive, cores, used = int(state["aliveworkers"]), int(state["cores"]), int(state["coresused"])
            memory_mib, memory_used = int(state["memory"]), int(state["memoryused"])
        except (OSError, KeyError, TypeError, ValueError):
            continue
        found = (
            f"{alive} alive, {cores - used} of {cores} cores and {memory_mib - memory_used} of {memory_mib} MiB free"
        )
        if alive == 0:
            yield Check("Spark workers", "wrong", found, f"start workers for {master}")
        elif used >= cores:
            yield Check("Spark workers", "wrong", found, "wait for other programs to end, or give them fewer cores")
        else:
            yield Check("Spark workers", "ok", found)
        return
    yield Check(
        "Spark workers",
        "missing",
        f"the master's pages do not answer at {', '.join(pages)}",
        "give --master-ui HOST:PORT, or --deep to run a small job",
    )


def _deep(settings: SparkSettings, store_url: str) -> Iterator[Check]:
    """A small job, and what its workers found."""
    from spark_jobs.errors import SessionError, TaskFailedError
    from spark_jobs.running.session import create_session
    from spark_jobs.tasks.worker_check import check_workers
    from storage.filesystem import open_store

    log_file = Path(tempfile.mkdtemp(prefix="conepacs-doctor-")) / "spark.log"
    started = time.perf_counter()
    try:
        spark = create_session(settings, app_name="conepacs doctor", log_file=log_file)
    except SessionError as error:
        yield Check("Spark job", "wrong", str(error), "read that log; is the address of this machine reachable?")
        return
    try:
        n_tasks = max(2, int(spark.sparkContext.defaultParallelism))
        found = check_workers(spark, open_store(store_url).url, n_tasks)
    except TaskFailedError as error:
        yield Check("Spark job", "wrong", str(error), f"read {log_file} and the workers' logs")
        return
    yield Check(
        "Spark job",
        "ok",
        f"{n_tasks} tasks on {len({one.host for one in found})} hosts in "
        f"{time.perf_counter() - started:.0f} s, Spark's start counted",
    )
    for one in found:
        yield judge_worker(one)


def judge_worker(one: WorkerFindings) -> Check:
    """What a worker's findings mean for a reconstruction."""
    name = f"worker {one.host}"
    own = platform.python_version_tuple()[:2]
    if tuple(one.python.split(".")[:2]) != own:
        return Check(
            name,
            "wrong",
            f"its Python is {one.python}, the driver's {platform.python_version()}",
            f"install Python {'.'.join(own)} there and name it by PYSPARK_PYTHON",
        )
    if one.package_fault:
        return Check(
            name,
            "wrong",
            f"it cannot import {one.package_fault}",
            "install conepacs[spark] there, or submit it with the job (see the manual, 'Clusters')",
        )
    if one.store_fault:
        return Check(
            name,
            "wrong",
            f"it cannot use the store: {one.store_fault}",
            "give a store that all nodes reach: hdfs:, s3:, or a shared folder",
        )
    skew = one.clock_s - time.time()
    if abs(skew) > _MOST_SKEW_S:
        return Check(
            name, "wrong", f"its clock is {skew:+.0f} s from the driver's", "let both follow the same NTP servers"
        )
    if 0 < one.memory_bytes < _LOW_MEMORY_BYTES:
        return Check(
            name, "wrong", f"{one.memory_bytes >> 20} MiB of memory are free", "give tasks less, or end others"
        )
    return Check(
        name,
        "ok",
        f"Python {one.python}, packages and store are there, {one.memory_bytes >> 20} MiB of memory "
        f"and {one.temporary_bytes >> 20} MiB for temporary files free",
    )
