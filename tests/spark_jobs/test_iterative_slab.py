# SPDX-License-Identifier: Apache-2.0
"""Iterative methods in the job: right voxels, equal slabs, a plan that tells memory and work, refusals that help."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from ingest.chunks import open_scan_chunks
from jobs.kinds import read_parameters
from pacs.provenance import derivation_text
from reconstruction.errors import MemoryBudgetError, ParameterError
from reconstruction.iterative.parameters import IterativeParameters
from spark_jobs.errors import PlanError
from spark_jobs.planning.plan import make_plan, plan_from_bytes
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.planning.series import series_spec
from spark_jobs.running.kinds import SPARK_KINDS, PlanParameters, request_of, values_of
from storage.filesystem import open_store
from tests.support.local_run import LocalRun, store_sample
from tests.support.peers import REPOSITORY

TV = IterativeParameters("tv", iterations=4, subsets=6)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("iterative")
    url = f"file://{folder}/store"
    truth = store_sample(folder / "sample", url, n_views=24, n_rows=40, n_cols=40)
    store = open_store(url)
    return store, truth


def request_for(truth, **changes):
    values = {"scan_id": truth.scan_id, "bins": (0,), "iterative": TV} | changes
    return ReconstructionRequest(**values)


def planned(stored, **changes):
    store, truth = stored
    return make_plan(open_scan_chunks(store, truth.scan_id), request_for(truth, **changes))


def test_slabs_make_one_volume_with_the_mu_of_fdk(stored):
    store, truth = stored
    whole = LocalRun(store, request_for(truth, n_slabs=1)).volume()
    cut = LocalRun(store, request_for(truth, n_slabs=2)).volume()
    fdk = LocalRun(store, request_for(truth, iterative=None)).volume()
    assert whole.shape == fdk.shape
    assert np.abs(cut - whole).max() < 1e-4 * whole.max()
    nz, ny, nx = whole.shape
    core = (slice(nz // 4, -nz // 4), slice(ny // 3, -ny // 3), slice(nx // 3, -nx // 3))
    assert whole[core].mean() == pytest.approx(fdk[core].mean(), rel=0.01)
    assert whole[core].std() < fdk[core].std()


def test_sirt_runs_on_averaged_pixels(stored):
    store, truth = stored
    request = request_for(truth, iterative=IterativeParameters("sirt", iterations=3), detector_binning=2)
    run = LocalRun(store, request)
    volume = run.volume()
    assert volume.shape == run.plan.grid.shape
    assert volume.min() >= 0.0
    assert 0 < volume.max() < 10


_ONE_TASK = """
import json, sys
from spark_jobs.tasks.slab_task import reconstruct_slab
from spark_jobs.tasks.workers import RunPlace, measured
print(json.dumps(measured(RunPlace(sys.argv[1], sys.argv[2], 1), 0, reconstruct_slab)))
"""


def test_a_task_reports_its_residuals_and_work(stored):
    store, truth = stored
    run = LocalRun(store, request_for(truth, n_slabs=1))
    # A process of its own: this one's memory is that of all tests before.
    done = subprocess.run(
        [sys.executable, "-c", _ONE_TASK, run.place.store_url, run.place.folder], cwd=REPOSITORY, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert "error" not in result
    assert len(result["residuals"]) == 4
    assert result["residuals"][-1] < result["residuals"][0]
    assert result["tv_weight"] > 0
    assert result["updates"] == run.plan.cost.updates
    assert result["peak_bytes"] < 1.15 * run.plan.cost.stage("reconstruct").task_bytes


def test_the_plan_tells_memory_halo_and_work(stored):
    plan = planned(stored, n_slabs=2)
    fdk = planned(stored, n_slabs=2, iterative=None)
    assert plan.cost.updates > 8 * fdk.cost.updates
    assert plan.cost.task_bytes > fdk.cost.task_bytes - (64 << 20)
    assert plan.cost.stage("reconstruct").core_seconds > fdk.cost.stage("reconstruct").core_seconds
    assert "iterates on whole slabs" in plan.cost.why
    assert any("tv: 4 passes over 24 views in 6 subset(s)" in note and "slices of halo" in note for note in plan.notes)
    assert plan_from_bytes(plan.to_bytes(), "here") == plan
    assert plan.run_name != fdk.run_name
    assert "iterative" not in fdk.identity()["request"]
    assert plan.run_name != planned(stored, n_slabs=2, iterative=dataclasses.replace(TV, iterations=5)).run_name


def test_slabs_follow_from_memory_and_halo(stored):
    free = planned(stored)
    assert free.cost.task_bytes <= free.request.task_memory_bytes
    wide = planned(stored, slab_slices=16)
    assert [slab.n_slices for slab in wide.slabs[:-1]] == [16] * (len(wide.slabs) - 1)
    assert wide.cost.updates > free.cost.updates  # more slabs, more halo


def test_too_little_memory_is_refused_with_what_to_do(stored):
    with pytest.raises(MemoryBudgetError, match=r"needs \d+ MiB.*but 371 MiB are allowed"):
        planned(stored, task_memory_bytes=371 << 20)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mode": "two_stage"}, "the mode two_stage was asked for: leave cut and mode at auto"),
        ({"cut": "bricks"}, "bricks was asked for"),
        ({"backend": "astra"}, "no projectors on the back end 'astra'"),
    ],
)
def test_what_only_fdk_does_is_refused(stored, changes, told):
    with pytest.raises(PlanError, match=told):
        planned(stored, **changes)


def test_images_name_the_method(stored):
    store, truth = stored
    run = LocalRun(store, request_for(truth))
    _ = run.place
    from spark_jobs.planning.series import read_run
    from spark_jobs.running.submit import run_folder

    record = read_run(store, run_folder(run.plan), (0,))
    scan = open_scan_chunks(store, truth.scan_id).scan
    spec = series_spec(scan, run.plan, record, 0, "volume")
    assert derivation_text(spec).startswith("Iterative cone-beam reconstruction, method tv")
    assert spec.convolution_kernel == ""


def test_parameters_of_a_job_name_the_method():
    parameters = PlanParameters("s", method="tv", iterations=7, tv_strength=0.5)
    assert request_of(parameters).iterative == IterativeParameters("tv", iterations=7, tv_strength=0.5)
    assert values_of(request_of(parameters))["method"] == "tv"
    again = read_parameters(SPARK_KINDS["plan"], values_of(request_of(parameters)))
    assert request_of(again) == request_of(parameters)
    assert request_of(PlanParameters("s")).iterative is None
    with pytest.raises(ParameterError, match="expected one of fdk, sirt, os-sart, tv"):
        PlanParameters("s", method="magic")
    with pytest.raises(ParameterError, match="iterations do not go with the method fdk"):
        PlanParameters("s", iterations=3)
    with pytest.raises(ParameterError, match="tv_strength goes with the method tv"):
        PlanParameters("s", method="sirt", tv_strength=1.0)
