# SPDX-License-Identifier: Apache-2.0
"""Measured rates: kept, read by plans, and nothing else left behind."""

import dataclasses
import json

import pytest

from ingest.chunks import open_scan_chunks
from spark_jobs.errors import PlanError
from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.rates import BUILT_IN, Rates
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.planning.tuning import load_rates, save_rates, tuning_path
from spark_jobs.tasks.rate_probe import HEIGHTS, probe_task
from spark_jobs.tasks.workers import measured
from storage.filesystem import open_store
from tests.support.fake_store import FakeStore
from tests.support.local_run import LocalRun, store_sample
from tests.support.planned_scans import stone

SCAN_ID = "sample-marker"


def test_a_probe_measures_rates_that_later_plans_read(tmp_path):
    store_sample(tmp_path / "source", (tmp_path / "store").as_uri())
    store = open_store((tmp_path / "store").as_uri())
    request = ReconstructionRequest(SCAN_ID, bins=(0,))
    stored = open_scan_chunks(store, SCAN_ID)
    before = make_plan(stored, request)
    assert before.cost.rates == "built-in"
    found = measured(LocalRun(store, request).place, 0, probe_task)
    assert store.list_folder("tuning") == []
    rates = Rates(**json.loads(json.dumps(found["rates"])))
    assert set(rates.height_factors) == set(map(str, HEIGHTS))
    assert rates.updates_per_s[f"{before.backend}/four_fold"] != BUILT_IN.updates_per_s.get(
        f"{before.backend}/four_fold"
    )
    assert rates.read_bytes_per_s > 1e5
    assert rates.filter_pixels_per_s > 1e5
    assert save_rates(store, rates) == "tuning/default.json"
    after = make_plan(stored, request)
    assert after.cost.rates == "default"
    assert after.cost.core_seconds != before.cost.core_seconds
    plain = make_plan(stored, dataclasses.replace(request, tuning="built-in"))
    assert plain.cost.core_seconds == pytest.approx(before.cost.core_seconds)
    if (after.slabs, after.two_stage) == (before.slabs, before.two_stage):
        assert after.run_name == before.run_name


def test_rates_shape_the_choice():
    """A store that writes slowly, and a kernel that likes high slabs."""
    slow = dataclasses.replace(BUILT_IN, store_bytes_per_s=20e6, band_bytes_per_s=40e6)
    request = ReconstructionRequest("scan-1")
    assert make_plan(stone(), request).two_stage
    assert not make_plan(stone(), request, slow).two_stage
    steep = dataclasses.replace(BUILT_IN, height_factors={"16": 0.3, "64": 0.5, "128": 1.0})
    assert steep.height_factor(15) == 0.3
    assert steep.height_factor(100) == 0.5
    assert steep.height_factor(500) == 1.0
    assert BUILT_IN.height_factor(64) == 1.0


def test_names_and_versions_are_checked():
    store = FakeStore()
    assert load_rates(store, "built-in") == load_rates(store, "default") == BUILT_IN
    with pytest.raises(PlanError, match=r"has no tuning 'ward': make it with .* SCAN_ID --probe --tuning ward"):
        load_rates(store, "ward")
    with pytest.raises(PlanError, match="a tuning's name is letters"):
        tuning_path("../x")
    save_rates(store, dataclasses.replace(BUILT_IN, name="ward"))
    assert load_rates(store, "ward").name == "ward"
    store.files["tuning/ward.json"] = store.files["tuning/ward.json"].replace(b'_version": 1', b'_version": 9')
    with pytest.raises(PlanError, match="schema version 9, expected 1"):
        load_rates(store, "ward")
