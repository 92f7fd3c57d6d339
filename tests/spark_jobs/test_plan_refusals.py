# SPDX-License-Identifier: Apache-2.0
"""What plans, looks and tasks refuse says what to do instead; no pixel is computed, no Spark is started."""

import dataclasses
import json

import numpy as np
import pytest

from ingest.scan import FieldFrames, ParallelBeam
from reconstruction.bad_pixels import BadPixelCounts, CorrectionParameters
from reconstruction.errors import CalibrationError, MemoryBudgetError
from spark_jobs.errors import PlanError, SparkJobError
from spark_jobs.looks.parameters import PreviewParameters
from spark_jobs.looks.preview import look_grid, preview
from spark_jobs.planning.plan import make_plan, plan_from_bytes
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.planning.series import bin_path, read_run, run_from_bytes, run_path
from spark_jobs.planning.tuning import load_rates, tuning_path
from spark_jobs.tasks import corrected_rows, slab_task
from spark_jobs.tasks.corrected_rows import RowCorrector, find_mask
from spark_jobs.tasks.workers import OpenRun, RunPlace
from storage.publish import publish_bytes
from tests.support.fake_store import FakeStore
from tests.support.planned_scans import scan_of, stored_of, thorax

NAME_THE_FLATS = (
    r"scan scan-1 holds raw counts and needs flat fields, but has none: name them as \[files\] flats of its scan\.toml"
)


def planned(scan):
    return make_plan(stored_of(scan), ReconstructionRequest(scan.scan_id))


def test_counts_without_flats_are_refused_wherever_they_are_met():
    scan = scan_of(flats=None)
    with pytest.raises(PlanError, match=NAME_THE_FLATS + r', .* \(content = "normalized" or "line_integrals"\)'):
        planned(scan)
    with pytest.raises(CalibrationError, match=NAME_THE_FLATS + " and upload it again"):
        find_mask(stored_of(scan), 0, CorrectionParameters())
    good = np.zeros((scan.n_rows, scan.n_cols), dtype=np.bool_)
    with pytest.raises(CalibrationError, match=NAME_THE_FLATS):
        RowCorrector(stored_of(scan), 0, good, CorrectionParameters(), 0, 8)


def test_positions_that_spoil_the_panel_together_are_refused(monkeypatch):
    """Each position may have its share of bad pixels; their union is what the views lack."""
    scan = scan_of(flats=FieldFrames(4, position_counts=(2, 2)), darks=None, camera_positions=(0, 1) * 60)

    def found_at(read_rows, shape, known, parameters, **how):
        bad = np.zeros(shape, dtype=np.bool_)
        bad[:, slice(0, 40) if read_rows.args[2] else slice(40, 70)] = True
        return bad, BadPixelCounts(known=0, dead=int(bad.sum()), hot=0, bright=0, unstable=0)

    monkeypatch.setattr(corrected_rows, "find_bad_pixels_by_rows", found_at)
    said = r"scan scan-1: 87\.5% of the panel's pixels are bad at one of 2 camera positions or another, at most 20%"
    with pytest.raises(CalibrationError, match=said):
        find_mask(stored_of(scan), 0, CorrectionParameters(max_bad_share=0.2))


def test_a_parallel_beam_is_told_where_its_distances_belong():
    scan = dataclasses.replace(scan_of(), geometry=None, parallel=ParallelBeam((0.0,) * 120, 0.1))
    with pytest.raises(PlanError, match=r"if it was a cone beam, give them in \[geometry\] of its scan\.toml"):
        planned(scan)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"cut": "cubes"}, "unknown cut 'cubes': expected one of auto, slabs, bricks"),
        ({"detector_binning": 3}, "detector_binning must be auto, 1, 2 or 4, got 3"),
        ({"cut": "bricks", "mode": "fused"}, "take the mode two_stage or auto"),
        (
            {"brick_voxels": (8, 8, 8)},
            r"a brick's size needs the cut 'bricks' and sides of at least 1, got \(8, 8, 8\)",
        ),
        ({"mu_range": (0.1, 0.5)}, r"outside the field, 0 /mm, is not in .* 0\.1 to 0\.5: give a range that holds it"),
    ],
)
def test_requests_that_contradict_themselves_are_refused(wanted, words):
    with pytest.raises(PlanError, match=words):
        ReconstructionRequest("scan-1", **wanted)


def test_a_stage_that_a_plan_has_not_is_refused_with_those_it_has():
    plan = make_plan(stored_of(), ReconstructionRequest("scan-1", mode="fused"))
    with pytest.raises(PlanError, match="the plan has no stage 'bricks': its stages are prepare, reconstruct"):
        plan.cost.stage("bricks")


def test_what_another_release_left_says_how_to_go_on():
    store, old = FakeStore(), b'{"schema_version": 99}'
    with pytest.raises(PlanError, match="expected 3: it was planned by another release, submit the job again"):
        plan_from_bytes(old, "runs/x/plan.json")
    with pytest.raises(PlanError, match=r"runs/x/run .* submit the job with a run id of its own"):
        run_from_bytes(old, "runs/x/run")
    dates = {
        "schema_version": 1,
        "content_date": "20260101",
        "content_time": "000000",
        "mu_ranges": {},
        "bad_pixels": {},
        "software_version": "1",
    }
    publish_bytes(store, run_path("runs/x"), json.dumps(dates).encode(), kind="write_once")
    publish_bytes(store, bin_path("runs/x", 0), old, kind="write_once")
    with pytest.raises(PlanError, match=r"runs/x/run-bin00\.json .* submit the job with a run id of its own"):
        read_run(store, "runs/x", (0,))
    publish_bytes(store, tuning_path("mine"), old, kind="write_once")
    with pytest.raises(PlanError, match="make it anew with `conepacs plan SCAN_ID --probe --tuning mine`"):
        load_rates(store, "mine")


def test_a_slice_outside_of_what_is_seen_is_told_the_heights_to_choose_from():
    with pytest.raises(
        PlanError, match=r"at 500 mm lies outside .* -\d+\.?\d* to \d+\.?\d* mm: give a height between these"
    ):
        look_grid(stored_of(), PreviewParameters("scan-1", z_mm=500.0))


def test_a_look_that_does_not_fit_its_memory_is_refused_before_anything_is_read():
    wanted = PreviewParameters("scan-1", coarse=True, views=720, voxels=64, memory_bytes=1 << 20)
    with pytest.raises(
        MemoryBudgetError, match=r"needs \d+ MiB of line integrals, but 1 MiB are allowed: take fewer views"
    ):
        preview(thorax(), wanted)


def test_a_slab_of_a_run_without_dates_is_refused():
    stored = stored_of()
    plan = make_plan(stored, ReconstructionRequest("scan-1"))
    run = OpenRun(FakeStore(), plan, stored, RunPlace("fake://store", "runs/x", 1))
    with pytest.raises(SparkJobError, match="runs/x has no dates, or no range of bin 0: submit the job again"):
        slab_task._publish_slab(run, 0, 0, lambda start, stop: pytest.fail("no slice is read"))
