# SPDX-License-Identifier: Apache-2.0
"""What a runner tells Prometheus."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from spark_jobs.errors import RunnerError
from spark_jobs.running.metrics import RunnerMetrics, run_figures

REPORT = {
    "seconds": {"stage reconstruct": 2.0},
    "gups": {"stage": 0.5},
    "bytes": {"read_by_tasks": 1000, "bands_written": 20, "packs_written": 300},
    "spark": {"failed_tasks": 1},
    "tasks": [{"wall_s": 1.5}, {"wall_s": 0.5, "reused": False}, {"wall_s": 9.0, "reused": True}],
}


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return families, {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_figures_count_what_was_computed_here():
    assert run_figures({}) == {}
    assert run_figures(REPORT) == {
        "tasks": 2, "task_s": 2.0, "failed_tasks": 1, "gups": 0.5, "updates": 1e9, "read_bytes": 1000,
        "written_bytes": 320,
    }  # fmt: skip


def test_jobs_and_their_work_are_told():
    metrics = RunnerMetrics()
    for _ in range(4):
        metrics.job_started()
    metrics.job_ended("reconstruct", "finish", 12.0, {"figures": run_figures(REPORT)})
    metrics.job_ended("reconstruct", "fail", 1.0, {})
    metrics.job_ended("plan", "nothing", 1.0, {})
    with metrics.served(0) as port:
        families, found = scrape(port)
    for family in families:
        if family.name.startswith("conepacs"):
            assert family.documentation.endswith(".")
            assert {label for sample in family.samples for label in sample.labels} <= {"kind", "result", "le"}
    assert found["conepacs_runner_jobs_running", ()] == 1
    assert found["conepacs_runner_jobs_total", (("kind", "reconstruct"), ("result", "done"))] == 1
    assert found["conepacs_runner_jobs_total", (("kind", "reconstruct"), ("result", "failed"))] == 1
    assert found["conepacs_runner_leases_lost_total", ()] == 1
    assert found["conepacs_runner_job_duration_seconds_count", (("kind", "reconstruct"),)] == 2
    assert found["conepacs_runner_tasks_total", ()] == 2
    assert found["conepacs_runner_task_failures_total", ()] == 1
    assert found["conepacs_runner_voxel_updates_total", ()] == 1e9
    assert found["conepacs_runner_voxel_updates_per_second", ()] == 5e8
    assert found["conepacs_runner_written_bytes_total", ()] == 320


def test_a_port_that_is_taken_is_told():
    with RunnerMetrics().served(0) as port, pytest.raises(RunnerError, match=f"port {port}"):
        with RunnerMetrics().served(port):
            pass
