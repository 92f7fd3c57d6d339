# SPDX-License-Identifier: Apache-2.0
"""What Spark counted is added up; a driver whose listeners lag behind loses counts, never a job."""

from types import SimpleNamespace

from py4j.protocol import Py4JJavaError

from spark_jobs.running.spark_metrics import SparkMetrics, job_group_metrics


class LateError(Py4JJavaError):
    """An error of the JVM without a JVM."""

    def __init__(self):
        Exception.__init__(self)

    def __str__(self):
        return "java.util.concurrent.TimeoutException"


def late(*_):
    raise LateError


def context_of(wait, stage_of):
    """A context of one group with one job of two stages."""
    summary = SimpleNamespace(isDefined=lambda: True, get=lambda: SimpleNamespace(numTasks=lambda: 1))
    status = SimpleNamespace(lastStageAttempt=stage_of, speculationSummary=lambda *_: summary)
    scala = SimpleNamespace(listenerBus=lambda: SimpleNamespace(waitUntilEmpty=wait), statusStore=lambda: status)
    tracker = SimpleNamespace(
        getJobIdsForGroup=lambda group: [7], getJobInfo=lambda job: SimpleNamespace(stageIds=[3, 4]),
        getStageInfo=lambda stage: SimpleNamespace(),
    )  # fmt: skip
    return SimpleNamespace(_jsc=SimpleNamespace(sc=lambda: scala), statusTracker=lambda: tracker)


def attempt(stage):
    counts = {
        "attemptId": 0, "shuffleReadBytes": 10, "shuffleWriteBytes": 20, "executorRunTime": 1500, "numFailedTasks": 2,
        "numKilledTasks": 1,
    }  # fmt: skip
    return SimpleNamespace(**{name: lambda value=value: value for name, value in counts.items()})


def test_the_stages_of_a_group_are_added_up():
    metrics = job_group_metrics(context_of(lambda ms: None, attempt), "group")
    assert metrics == SparkMetrics(20, 40, 3.0, 4, 2, 2)
    assert metrics.shuffle_bytes == 60


def test_listeners_that_lag_behind_fail_no_job(caplog):
    assert job_group_metrics(context_of(late, late), "group") == SparkMetrics()
    assert "Spark's listeners lag behind" in caplog.text
    assert "no counts of stage 4" in caplog.text
