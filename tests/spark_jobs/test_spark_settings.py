# SPDX-License-Identifier: Apache-2.0
"""What Spark is told: bounded memory and threads, speculation, GPUs, and what executors get of the environment."""

import os
import re
import sys
import types
from types import SimpleNamespace

import pyarrow as pa
import pytest

from spark_jobs.errors import SessionError, SparkJobError
from spark_jobs.running.settings import SparkSettings
from spark_jobs.tasks.worker_environment import prepare_worker, store_variables


def test_a_local_session_is_as_it_was():
    properties = SparkSettings(master="local[2]", task_tries=3).properties()
    assert properties["spark.master"] == "local[2,3]"
    assert properties["spark.speculation"] == "false"
    assert properties["spark.executorEnv.OMP_NUM_THREADS"] == "1"
    assert not [name for name in properties if name.startswith(("spark.excludeOnFailure", "spark.executor.memory"))]


def test_an_executor_of_a_cluster_is_bounded():
    settings = SparkSettings(
        master="spark://head:7077", task_threads=2, executor_cores=8, task_memory_mib=1500, executor_memory="400m"
    )
    properties = settings.properties()
    assert properties["spark.executor.cores"] == 8
    assert properties["spark.task.cpus"] == 2
    assert properties["spark.executor.memory"] == "400m"
    assert properties["spark.executor.memoryOverhead"] == f"{4 * 1500 + 384}m"
    pools = {name: value for name, value in properties.items() if name.endswith("_THREADS")}
    assert set(pools.values()) == {"2"}
    assert {"spark.executorEnv.NUMBA_NUM_THREADS", "spark.executorEnv.TOKIO_WORKER_THREADS"} <= set(pools)
    assert properties["spark.decommission.enabled"] == "true"
    assert properties["spark.storage.decommission.enabled"] == "false"
    assert "spark.executor.cores" not in SparkSettings(master="yarn").properties()


def test_speculation_is_on_where_several_machines_work_and_can_be_told():
    cluster = SparkSettings(master="spark://head:7077", speculation_min_s=2.5).properties()
    assert cluster["spark.speculation"] == "true"
    assert cluster["spark.speculation.minTaskRuntime"] == "2500ms"
    assert SparkSettings(master="yarn", speculation=False).properties()["spark.speculation"] == "false"
    assert SparkSettings(speculation=True).properties()["spark.speculation"] == "true"


def test_what_is_given_as_it_is_wins():
    extra = {"spark.executor.memory": "2g", "spark.executorEnv.OMP_NUM_THREADS": "7"}
    properties = SparkSettings(master="yarn", extra=extra).properties()
    assert properties["spark.executor.memory"] == "2g"
    assert properties["spark.executorEnv.OMP_NUM_THREADS"] == "7"


def test_gpus_are_asked_for_and_workers_are_not_used_again():
    settings = SparkSettings(
        master="spark://h:1", gpus_per_executor=2, gpus_per_task=0.5, gpu_discovery_script="/opt/gpus.sh"
    )
    properties = settings.properties()
    assert properties["spark.executor.resource.gpu.amount"] == 2
    assert properties["spark.task.resource.gpu.amount"] == "0.5"
    assert properties["spark.executor.resource.gpu.discoveryScript"] == "/opt/gpus.sh"
    assert properties["spark.python.worker.reuse"] == "false"
    assert SparkSettings(master="spark://h:1").properties()["spark.python.worker.reuse"] == "true"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"task_tries": 0}, "at least 1, got 0"),
        ({"executor_cores": 2, "task_threads": 4}, "an executor of 2 cores cannot run a task of 4 threads"),
        ({"task_memory_mib": 0}, "task_memory_mib must be at least 1, got 0"),
        ({"publishers_per_node": -1}, "cannot be negative, got -1"),
        ({"gpus_per_task": 1}, "got 1 and 0"),
        ({"gpus_per_executor": 1}, "got 0 and 1"),
        ({"gpus_per_executor": 1, "gpus_per_task": 2}, "got 2 and 1"),
        ({"speculation_quantile": 0}, "got 0, 3 and 60 s"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, words):
    with pytest.raises(SessionError, match=re.escape(words)):
        SparkSettings(**wrong)


def test_executors_get_what_the_store_needs_and_no_more():
    given = {
        "HADOOP_CONF_DIR": "/etc/hadoop", "HADOOP_USER_NAME": "pacs", "AWS_SECRET_ACCESS_KEY": "s", "HOME": "/root",
        "CONEPACS_INDEX": "postgresql://u:p@h/d", "CONEPACS_S3_ENDPOINT": "http://s3", "PATH": "/bin",
    }  # fmt: skip
    wanted = {"HADOOP_CONF_DIR", "HADOOP_USER_NAME", "AWS_SECRET_ACCESS_KEY", "CONEPACS_S3_ENDPOINT"}
    assert set(store_variables(given)) == wanted


def test_secrets_are_redacted_by_their_names():
    form = re.compile(SparkSettings().properties()["spark.redaction.regex"])
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"):
        assert form.search(f"spark.executorEnv.{name}")
    assert not form.search("spark.executorEnv.HADOOP_USER_NAME")


@pytest.fixture
def task_of(monkeypatch):
    """Puts this process into a task that has some GPUs."""

    def give(*addresses):
        resources = {"gpu": SimpleNamespace(addresses=list(addresses))} if addresses else {}
        context = SimpleNamespace(resources=lambda: resources)
        monkeypatch.setattr("pyspark.TaskContext.get", lambda: context)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pools = pa.cpu_count(), pa.io_thread_count()
    yield give
    pa.set_cpu_count(pools[0])
    pa.set_io_thread_count(pools[1])


def test_a_task_sees_its_gpus_alone_and_its_cores(monkeypatch, task_of):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "all")  # monkeypatch puts back what was there
    for library in ("cupy", "astra"):  # other tests of this process may have loaded them
        monkeypatch.delitem(sys.modules, library, raising=False)
    task_of("3", "1")
    prepare_worker(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,1"
    assert (pa.cpu_count(), pa.io_thread_count()) == (2, 2)
    task_of()
    prepare_worker(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,1"


def test_a_worker_that_runs_on_another_gpu_already_is_refused(monkeypatch, task_of):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    task_of("0")
    prepare_worker(1)
    task_of("1")
    with pytest.raises(SparkJobError, match="was given GPU 1, but its worker runs cupy on GPU 0 already"):
        prepare_worker(1)


@pytest.mark.parametrize("tries", [1, 2, 4])
def test_a_node_is_excluded_before_the_task_fails_for_good(tries):
    """Otherwise Spark answers no offer and the job waits for ever."""
    properties = SparkSettings(master="spark://head:7077", task_tries=tries).properties()
    excluded = properties["spark.excludeOnFailure.enabled"] == "true"
    assert excluded == (tries > 1)
    if excluded:
        assert properties["spark.excludeOnFailure.task.maxTaskAttemptsPerNode"] < properties["spark.task.maxFailures"]
