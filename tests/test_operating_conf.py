# SPDX-License-Identifier: Apache-2.0
"""The files of conf/ for Prometheus and Grafana load, and name only metrics that the programs tell."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from jobs.queue import open_queue
from pacs.counters import DicomCounters
from pacs.journal import Journal
from pacs.retrieve import InstanceReader
from spark_jobs.running.metrics import RunnerMetrics
from storage.filesystem import open_store
from tests.support.fake_index import FakeIndex
from tests.support.http_archive import AppClient
from tests.support.peers import REPOSITORY
from viewer_api.app import create_app

CONF = REPOSITORY / "conf"
MANUAL = (REPOSITORY / "docs" / "operating.md").read_text(encoding="utf-8")
_NAME = re.compile(r"\bconepacs_[a-z0-9_]+")


def exposed() -> dict[str, set[str]]:
    """Names of all samples and families that the archive and a runner tell, with their labels."""
    metrics = RunnerMetrics()
    metrics.job_started()
    metrics.job_ended("reconstruct", "finish", 1.0, {})
    return _names(generate_latest(metrics.registry).decode())


def _names(text: str) -> dict[str, set[str]]:
    names: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
        names.setdefault(f"{family.name}_total" if family.type == "counter" else family.name, set())
    return names


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> dict[str, set[str]]:
    """Names of all samples of both programs."""
    folder = tmp_path_factory.mktemp("metrics")
    counters = DicomCounters()
    with counters.operation("C-ECHO"):
        pass
    with open_queue(str(folder / "index.sqlite"), {}) as queue:
        reader = InstanceReader(open_store(folder), Journal(folder))
        client = AppClient(create_app(FakeIndex(), reader, dicom=counters.counts, queue=queue))
        client.get("/health")
        archive = _names(client.get("/metrics").text)
    return archive | exposed()


def alerts():
    return [
        rule
        for group in yaml.safe_load((CONF / "prometheus-alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    ]


def expressions():
    board = json.loads((CONF / "grafana-dashboard.json").read_text())
    return [rule["expr"] for rule in alerts()] + [
        target["expr"] for panel in board["panels"] for target in panel["targets"]
    ]


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_that_is_asked_for_exists(expression, known):
    names = _NAME.findall(expression)
    assert names or "up{" in expression
    for name in names:
        assert name in known, f"{name} is told by no program"


def test_prometheus_scrapes_both_programs_and_loads_the_rules():
    values = yaml.safe_load((CONF / "prometheus.yml").read_text())
    assert values["rule_files"] == ["prometheus-alerts.yml"]
    assert [one["job_name"] for one in values["scrape_configs"]] == ["conepacs-archive", "conepacs-runner"]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_says_what_and_the_manual_what_to_do(rule):
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"]
    assert f"`{rule['alert']}`" in MANUAL


def test_the_manual_names_every_metric_and_no_other(known):
    parts = re.compile(r"_(bucket|sum|count|created)$")  # of histograms and summaries
    told = {name for name in known if name.startswith("conepacs_") and not parts.search(name)}
    named = set(_NAME.findall(MANUAL))
    assert told <= named, f"not in docs/operating.md: {sorted(told - named)}"
    assert named <= set(known), f"told by no program: {sorted(named - set(known))}"


def test_labels_are_few_and_of_no_patient_scan_or_peer(known):
    labels = set().union(*(of for name, of in known.items() if name.startswith("conepacs_")))
    assert labels <= {
        "method", "route", "status", "service", "outcome", "kind", "state", "level", "version", "result", "le",
    }  # fmt: skip
