# SPDX-License-Identifier: Apache-2.0
"""Plans: slabs, tasks, costs, refusals.  No pixel is computed, no Spark is started."""

import dataclasses
import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.chunks import open_scan_chunks
from ingest.scan import ParallelBeam
from ingest.upload import upload
from pacs.preview import preview_factor
from reconstruction.bad_pixels import CorrectionParameters
from reconstruction.errors import BackendUnavailableError, GeometryError, MemoryBudgetError
from reconstruction.fdk import FdkParameters
from reconstruction.geometry import ConeBeamGeometry, VolumeGrid
from reconstruction.slabs import SLAB_ALIGNMENT, cut_slabs
from spark_jobs.errors import PlanError
from spark_jobs.planning.plan import make_plan, plan_from_bytes, slab_alignment
from spark_jobs.planning.rates import BUILT_IN
from spark_jobs.planning.request import MEBIBYTE, ReconstructionRequest, request_from_json
from spark_jobs.planning.stage_costs import WorkCut, plan_cost
from spark_jobs.tasks.filter_task import filter_rows, filter_tasks
from spark_jobs.tasks.prepare_task import prepare_bin
from spark_jobs.tasks.slab_task import slab_volume
from spark_jobs.tasks.workers import RunPlace, measured
from tests.support.fake_reader import FakeReader
from tests.support.fake_store import FakeStore
from tests.support.planned_scans import orbit, scan_of, stored_of


def plan_of(stored=None, **wanted):
    stored = stored or stored_of()
    return make_plan(stored, ReconstructionRequest(stored.scan.scan_id, **wanted))


@st.composite
def requests(draw):
    cut = draw(st.sampled_from(["memory", "number", "height"]))
    return ReconstructionRequest(
        "scan-1",
        bins=tuple(draw(st.permutations(range(draw(st.integers(0, 2)))))),
        voxel_pitch_mm=draw(st.none() | st.floats(0.2, 2)),
        fdk=FdkParameters(draw(st.sampled_from(["ram-lak", "hann"])), draw(st.floats(0.1, 1)), draw(st.none())),
        correction=CorrectionParameters(bad_pixels=draw(st.sampled_from(["interpolate", "keep"]))),
        mode=draw(st.sampled_from(["auto", "fused", "two_stage"])),
        band_type=draw(st.sampled_from(["float32", "float16"])),
        n_slabs=draw(st.integers(1, 9)) if cut == "number" else None,
        slab_slices=draw(st.integers(1, 99)) if cut == "height" else None,
        four_fold=draw(st.booleans()),
        mu_range=draw(st.none() | st.just((-0.5, 2.0))),
        task_memory_bytes=draw(st.integers(450, 4000)) * MEBIBYTE,
        run_id=draw(st.text(max_size=64)),
    )


@settings(max_examples=25, deadline=None)
@given(request=requests(), n_views=st.sampled_from([40, 61, 120]), memory_bytes=st.sampled_from([10**5, 10**6, 10**9]))
def test_any_plan_covers_the_volume_once_and_survives_its_json(request, n_views, memory_bytes):
    stored = stored_of(scan_of(orbit(n_views)), memory_bytes=memory_bytes)
    made = make_plan(stored, request)
    n_slices = made.grid.shape[0]
    assert made.slabs[0].z_start == 0
    assert made.slabs[-1].z_stop == n_slices
    assert all(a.z_stop == b.z_start and a.z_stop % SLAB_ALIGNMENT == 0 for a, b in itertools.pairwise(made.slabs))
    if request.slab_slices is not None:
        assert all(s.n_slices <= math.ceil(request.slab_slices / SLAB_ALIGNMENT) * SLAB_ALIGNMENT for s in made.slabs)
    if request.n_slabs is not None:
        assert len(made.slabs) == min(request.n_slabs, math.ceil(n_slices / SLAB_ALIGNMENT))
    assert sorted(made.tasks) == [(b, s) for b in sorted(made.bins) for s in range(len(made.slabs))]
    assert sorted(itertools.chain(*made.batches)) == list(range(stored.n_view_blocks))
    assert made.batch_views >= 4
    assert (1 << made.preview_factor.bit_length() - 1) == made.preview_factor
    assert 16 % min(made.preview_factor, 16) == 0
    cost = made.cost
    assert cost.core_seconds > 0
    assert cost.amplification >= 1
    assert cost.task_bytes <= request.task_memory_bytes
    assert cost.updates == len(made.bins) * made.grid.n_voxels * n_views
    again = plan_from_bytes(made.to_bytes(), "plan.json")
    assert again == made
    assert again.run_name == made.run_name
    assert request_from_json(json.loads(json.dumps(request.to_json()))) == request


@settings(max_examples=10, deadline=None)
@given(memory=st.integers(450, 3000), mode=st.sampled_from(["auto", "fused", "two_stage"]))
def test_identity_does_not_hang_on_memory_where_the_slabs_are_the_same(memory, mode):
    stored = stored_of(scan_of(orbit(n_rows=200, n_cols=200)))
    wide = plan_of(stored, mode=mode)
    narrow = plan_of(stored, mode=mode, task_memory_bytes=memory * MEBIBYTE)
    assert (narrow.run_name == wide.run_name) == (narrow.slabs == wide.slabs)


def test_identity_follows_what_shapes_the_result_and_nothing_else():
    stored = stored_of(memory_bytes=2 * 64 * 80 * 2 * 10)
    plain = plan_of(stored)
    assert plain.run_name.startswith("scan-1-")
    same = [
        {"bins": (1,)},
        {"n_slabs": len(plain.slabs)},
        {"mode": "fused"},
        {"band_type": "float16"},
        {"backend": plain.backend},
    ]
    for wanted in same:
        assert plan_of(stored, **wanted).run_name == plain.run_name, wanted
    other = [
        {"run_id": "second"}, {"n_slabs": 3}, {"mode": "two_stage"}, {"backend": "numba-portable"},
        {"voxel_pitch_mm": 0.4}, {"fdk": FdkParameters("hann")}, {"mu_range": (0.0, 1.0)}, {"four_fold": False},
        {"correction": CorrectionParameters(bad_pixels="keep")}, {"mode": "two_stage", "band_type": "float16"},
        {"center_mm": (0.0, 0.0, 1.0)},
    ]  # fmt: skip
    names = [plan_of(stored, **wanted).run_name for wanted in other]
    assert len({plain.run_name, *names}) == 1 + len(other)


def test_a_plan_of_another_schema_version_is_refused():
    content = plan_of().to_bytes().replace(b'"schema_version": 3', b'"schema_version": 9')
    with pytest.raises(PlanError, match=r"runs/x/plan\.json has plan schema version 9, expected 3"):
        plan_from_bytes(content, "runs/x/plan.json")


@pytest.mark.parametrize(
    ("scan", "wanted", "error", "words"),
    [
        (scan_of(geometry=None), {"bins": (2,)}, PlanError, "scan scan-1 has the bins 0 to 1, asked for bin 2"),
        (scan_of(), {"bins": (-1,)}, PlanError, "asked for bin -1"),
        (dataclasses.replace(scan_of(), geometry=None), {}, PlanError, "scan scan-1 has no geometry: add a scan.toml"),
        (
            dataclasses.replace(scan_of(), geometry=None, parallel=ParallelBeam((0.0,) * 120, 0.1)), {}, PlanError,
            "scan scan-1 is a parallel-beam scan; only cone-beam",
        ),
        (scan_of(flats=None), {}, PlanError, "scan scan-1 holds raw counts and needs flat fields, but has none"),
        (scan_of(orbit(arc=math.pi / 6)), {}, GeometryError, "cover an arc of 30 degrees"),
        (scan_of(), {"backend": "gpu"}, BackendUnavailableError, "unknown back end 'gpu': expected one of numpy_refer"),
        (
            scan_of(), {"task_memory_bytes": 100 * MEBIBYTE}, MemoryBudgetError,
            "of scan scan-1 needs 3[0-9][0-9] MiB in one task, but 100 MiB are allowed: take thinner slabs",
        ),
        (
            scan_of(), {"shape": (2000, 2000, 2000), "voxel_pitch_mm": 0.01, "n_slabs": 1}, MemoryBudgetError,
            "slab 0:2000 of scan scan-1 needs",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused_in_one_sentence(scan, wanted, error, words):
    with pytest.raises(error, match=words) as caught:
        plan_of(stored_of(scan), **wanted)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"mode": "quick"}, "unknown mode 'quick': expected one of auto, fused, two_stage"),
        ({"band_type": "int8"}, "unknown band type 'int8': expected one of float32, float16"),
        ({"n_slabs": 2, "slab_slices": 16}, "not both"),
        ({"mu_range": (1.0, 1.0)}, "the mu range needs low < high, got 1.0 to 1.0"),
        ({"mu_range": (0.0, math.inf)}, "the mu range needs finite numbers, got 0.0 to inf"),
        ({"bins": (0, 1, 0)}, "each bin can be asked for once, got 0, 1, 0"),
        ({"run_id": "x" * 65}, "at most 64 characters, got 65"),
    ],
)
def test_a_crooked_request_is_refused(wanted, words):
    with pytest.raises(PlanError, match=words):
        ReconstructionRequest("scan-1", **wanted)


@pytest.mark.parametrize("sense", [1, -1])
def test_view_blocks_of_a_batch_lie_a_quarter_turn_apart(sense):
    scan = scan_of(orbit(angles_rad=sense * np.arange(120) * math.pi / 60))
    stored = stored_of(scan, memory_bytes=2 * 64 * 80 * 2 * 10)
    made = plan_of(stored)
    assert stored.layout.view_block == 10
    assert made.four_fold
    assert [len(batch) for batch in made.batches] == [4, 4, 4]
    angles = scan.geometry.circular_orbit.angles_rad
    for batch in made.batches:
        first = np.array([angles[stored.view_blocks[block][0]] for block in batch])
        assert np.allclose(np.exp(1j * (first - first[0])), [1, 1j, -1, -1j])


def test_blocks_that_do_not_line_up_take_the_other_kernel_and_say_so():
    stored = stored_of(memory_bytes=2 * 64 * 80 * 2 * 7)  # 30 views a quarter, 7 fit: blocks of 6 do line up
    assert plan_of(stored).four_fold
    odd = plan_of(stored_of(scan_of(orbit(118))))
    assert not odd.four_fold
    assert any("no four-fold symmetry" in note for note in odd.notes)
    reference = plan_of(stored, backend="numpy_reference")
    assert not reference.four_fold  # it adds view by view, so that batches do not shape its result


def tilted_orbit():
    """A panel that leans 3 degrees sideways."""
    poses = orbit().poses.copy()
    u, v = poses[:, 6:9].copy(), poses[:, 9:12].copy()
    cos, sin = math.cos(math.radians(3)), math.sin(math.radians(3))
    poses[:, 6:9], poses[:, 9:12] = cos * u + sin * v, cos * v - sin * u
    return ConeBeamGeometry(poses, 64, 80)


def test_notes_tell_what_an_operator_should_know():
    notes = " ".join(plan_of(stored_of(scan_of(orbit(20))), shape=(90, 60, 60)).notes)
    assert "slices have voxels that some views do not see" in notes
    assert "20 views are few" in notes
    tilted = stored_of(scan_of(tilted_orbit()))
    assert "the kernel for any pose runs" in " ".join(plan_of(tilted, fdk=FdkParameters(tilted="general")).notes)
    assert "Tilted panels are resampled onto an upright one." in plan_of(tilted).path
    assert "ring on view 3" in plan_of(stored_of(scan_of(notes=("ring on view 3",)))).notes


@pytest.mark.parametrize(("band_type", "slices"), [("float32", 16), ("float16", 16), ("float32", 160)])
def test_left_to_the_plan_the_quicker_of_both_modes_runs(band_type, slices):
    """Thin slabs of a steep cone need each detector row many times, thick ones about once."""
    steep = orbit(n_views=360, sod_mm=40.0, sdd_mm=80.0, n_rows=800, n_cols=200, pitch_u_mm=0.2, pitch_v_mm=0.2)
    stored = stored_of(scan_of(steep, n_bins=1))
    made = {
        mode: plan_of(stored, slab_slices=slices, mode=mode, band_type=band_type)
        for mode in ("auto", "fused", "two_stage")
    }
    assert (made["auto"].cost.amplification > 4) == (slices == 16)
    assert made["auto"].cost.core_seconds == min(plan.cost.core_seconds for plan in made.values())
    assert made["fused"].cost.read_bytes > made["two_stage"].cost.read_bytes


def counted_reads(store):
    """Number and bytes of the reads of projections (footers aside) and of filtered rows."""
    kinds = Counter()
    for path, offset, length in store.reads:
        name = path.rpartition("/")[2]
        if name.endswith(".band"):
            kinds["bands"] += 1
        elif name.startswith("projections-") and offset + length < len(store.files[path]):
            kinds["projections"] += 1
            kinds["stored bytes"] += length
    return kinds


@pytest.mark.parametrize(
    ("mode", "band_type"), [("fused", "float32"), ("two_stage", "float32"), ("two_stage", "float16")]
)
def test_reads_and_bytes_are_what_the_tasks_really_do(mode, band_type, monkeypatch):
    store = FakeStore()
    scan = scan_of(orbit(24, 64, 24, pitch_u_mm=2.0, pitch_v_mm=2.0))
    rng = np.random.default_rng(2)
    frames = rng.poisson(90, size=(2, 24, 64, 24)).astype("u2")
    flats, darks = (rng.poisson(m, size=(2, 5, 64, 24)).astype("u2") for m in (400, 2))
    upload(FakeReader(scan, frames, flats=flats, darks=darks), store, memory_bytes=4 * 64 * 24 * 6)
    stored = open_scan_chunks(store, "scan-1")
    made = plan_of(
        stored, mode=mode, band_type=band_type, n_slabs=3, mu_range=(-1.0, 2.0),
        correction=CorrectionParameters(bad_pixels="keep"),
    )  # fmt: skip
    assert len(made.slabs) == 3
    if mode == "two_stage":
        # As if memory were short.
        setups = tuple(made.setup(scan.geometry, index) for index in range(3))
        work = WorkCut(
            stored, made.bins, setups, made.backend, two_stage=True, band_item_bytes=int(band_type[-2:]) // 8,
            filter_rows=17, groups=made.groups, batches=made.batches,
        )  # fmt: skip
        cost = plan_cost(work, BUILT_IN)
        made = dataclasses.replace(made, filter_rows=17, cost=cost)
    store.files["runs/r/plan.json"] = made.to_bytes()
    monkeypatch.setattr("spark_jobs.tasks.workers.open_store", lambda url, **options: store)
    place = RunPlace(store.url, "runs/r", 1)
    for task in range(2):
        measured(place, task, prepare_bin)
    store.reads.clear()
    results = []
    if mode == "two_stage":
        n_tasks = len(filter_tasks(made))
        results = [measured(place, task, filter_rows) for task in range(n_tasks)]
        assert n_tasks + 6 == made.cost.n_tasks
    for task in range(6):
        slab_volume(place, task)
    counted = counted_reads(store)
    assert counted["projections"] + counted["bands"] == made.cost.ranged_reads
    assert counted["bands"] == 0 or mode == "two_stage"
    assert sum(r["written_bytes"] for r in results) == made.cost.band_bytes
    # The plan counts whole row groups; their small columns of keys are not read, which only tiny cells show.
    assert 0.9 * made.cost.stored_read_bytes < counted["stored bytes"] <= made.cost.stored_read_bytes


def test_slab_borders_fall_on_preview_blocks_of_the_largest_volumes_too():
    grid = VolumeGrid((96, 9000, 9000), (1.0, 1.0, 1.0))
    assert slab_alignment(grid) == preview_factor(grid.shape) == 32
    assert [slab.z_start for slab in cut_slabs(grid.shape[0], 3, slab_alignment(grid))] == [0, 32, 64]
    assert slab_alignment(VolumeGrid.cubic(256, 1.0)) == SLAB_ALIGNMENT
