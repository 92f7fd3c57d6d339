# SPDX-License-Identifier: Apache-2.0
"""Records of finished slabs: of all attempts exactly one counts.  No Spark is started."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest import mock

import pytest

from spark_jobs.errors import PlanError
from spark_jobs.planning.series import RunRecord, fix_bin, fix_run, read_run
from spark_jobs.planning.view_groups import ViewGroup
from spark_jobs.run_files.packs import (
    pack_path,
    stopped_marks,
    submit_folder,
    sweep_packs,
    sweep_runs,
    sweep_store,
    sweep_submits,
)
from spark_jobs.tasks.checkpoints import (
    bands_folder,
    bands_stem,
    finish_once,
    finished_results,
    forget_packs,
    leave_mark,
)
from storage.errors import StoreUnavailableError
from storage.filesystem import open_store
from tests.support.fake_index import FakeIndex
from tests.support.fake_store import FakeStore

DONE = "runs/run-a/done"
NAME = "bin00-slab0001"
RECORD = f"{DONE}/{NAME}.json"


def attempt(store, content=b"same bytes", **more):
    """One attempt at a slab: writes a pack of its own and tells of it."""

    def work():
        path = pack_path("run-a", 0, 1)
        store.files[path] = content
        return {"pack": path, "pack_bytes": len(content), "slab": 1, **more}

    return work


def packs(store):
    return sorted(path for path in store.files if path.startswith("packs/"))


def test_the_first_attempt_counts_and_a_second_one_is_not_made():
    store = FakeStore()
    first = finish_once(store, DONE, NAME, attempt(store))
    assert {"wall_s", "cpu_s", "peak_bytes", "slab"} <= set(first)
    assert finish_once(store, DONE, NAME, lambda: pytest.fail("it is finished")) == first
    assert packs(store) == [first["pack"]]


def test_a_late_attempt_gives_up_its_own_pack():
    """It began before the record was there, as beside a speculative copy or on an executor given up for lost."""
    store = FakeStore()
    winners = []

    def late():
        winners.append(finish_once(store, DONE, NAME, attempt(store)))
        return attempt(store)()

    assert finish_once(store, DONE, NAME, late) == winners[0]
    assert packs(store) == [winners[0]["pack"]]


def test_a_record_of_a_lost_pack_is_written_anew():
    store = FakeStore()
    lost = finish_once(store, DONE, NAME, attempt(store))
    del store.files[lost["pack"]]
    second = finish_once(store, DONE, NAME, attempt(store))
    assert second["pack"] != lost["pack"]
    store.files[second["pack"]] = b"short"
    third = finish_once(store, DONE, NAME, attempt(store))
    assert json.loads(store.files[RECORD]) == {"schema_version": 1} | third


def test_an_attempt_whose_rows_are_gone_takes_what_another_one_finished():
    store = FakeStore()
    winners = []

    def late():
        winners.append(finish_once(store, DONE, NAME, attempt(store)))
        raise StoreUnavailableError("the filtered rows are gone")

    assert finish_once(store, DONE, NAME, late) == winners[0]
    with pytest.raises(StoreUnavailableError):
        finish_once(store, DONE, "bin00-slab0002", mock.Mock(side_effect=StoreUnavailableError("no")))


def test_without_a_folder_nothing_is_recorded():
    store = FakeStore()
    finish_once(store, "", NAME, attempt(store))
    finish_once(store, "", NAME, attempt(store))
    assert len(packs(store)) == len(store.files) == 2


def test_a_submit_finds_what_is_whole_and_deletes_the_other_records():
    store = FakeStore()
    results = [finish_once(store, DONE, f"s{i}", attempt(store)) for i in range(5)]
    del store.files[results[1]["pack"]]
    store.files[results[2]["pack"]] = b"short"
    store.files[f"{DONE}/s3.json"] = b"{"
    store.files[f"{DONE}/s5.json"] = b"[]"
    found = finished_results(store, DONE, "run-a", ["s0", "s1", "s2", "s3", "s5", "s9"])
    assert found == {"s0": results[0]}
    assert sorted(path for path in store.files if path.startswith(DONE)) == [f"{DONE}/s0.json", f"{DONE}/s4.json"]
    forget_packs(store, DONE, [results[4]["pack"]])
    assert finished_results(store, DONE, "run-a", ["s0", "s4"]) == {"s0": results[0]}


def test_filtered_rows_of_other_memory_or_another_upload_lie_elsewhere():
    def stem(filter_rows=8, blocks=((0, 4), (4, 8))):
        groups = tuple(ViewGroup(start, stop, (index,)) for index, (start, stop) in enumerate(blocks))
        plan = SimpleNamespace(
            rows=(0, 40), filter_rows=filter_rows, request=SimpleNamespace(band_type="float32"), groups=groups
        )
        return bands_stem("runs/r", plan)

    assert stem() == stem()
    assert len({stem(), stem(filter_rows=9), stem(blocks=((0, 8),))}) == 3


def at(time_s, name, *place):
    with mock.patch("time.time", return_value=time_s):
        return name(*place)


def test_the_sweep_leaves_a_run_that_somebody_may_go_on_with():
    store, index = FakeStore(), FakeIndex()
    with mock.patch("time.time", return_value=1000.0):
        result = finish_once(store, DONE, NAME, attempt(store))
        killed = submit_folder("runs/run-a")
    with mock.patch("time.time", return_value=4000.0):
        leave_mark(store, "runs/run-a", "stopped")
    bands = f"{bands_folder('runs/run-a/bands-0123456789ab', 0)}/block0000-row000000.band"
    store.files |= {f"{killed}/plan.json": b"x", bands: b"x", "runs/run-a/run.json": b"x"}
    mark = stopped_marks(store, "runs/run-a")[0]
    with mock.patch("time.time", return_value=5000.0):
        assert sweep_packs(store, index, older_than_s=2000) == []
        assert sweep_runs(store, older_than_s=2000) == []
        assert sweep_submits(store, older_than_s=2000) == [killed]
    with mock.patch("time.time", return_value=6500.0):
        before = dict(store.files)
        swept = [RECORD, "runs/run-a/bands-0123456789ab-bin00"]
        assert sweep_runs(store, older_than_s=2000, dry_run=True) == swept
        assert store.files == before
        assert sweep_runs(store, older_than_s=2000) == swept
        assert sweep_packs(store, index, older_than_s=2000) == [result["pack"]]
        assert sweep_submits(store, older_than_s=2000) == [mark]
    assert list(store.files) == ["runs/run-a/run.json"]


def test_records_of_old_packs_are_swept_and_those_of_young_ones_stay():
    store, index = FakeStore(), FakeIndex()
    with mock.patch("time.time", return_value=1000.0):
        finish_once(store, DONE, "old", attempt(store))
    with mock.patch("time.time", return_value=9000.0):
        young = finish_once(store, DONE, "young", attempt(store))
        store.files[f"{DONE}/broken.json"] = b"[]"
        index.find = mock.Mock(return_value=[{"StudyInstanceUID": "1"}])
        swept = sweep_store(store, index, older_than_s=3600)
    assert f"{DONE}/old.json" in swept
    assert sorted(store.files) == sorted([f"{DONE}/young.json", young["pack"]])


def test_of_submits_at_once_one_decides_and_no_bin_is_lost(tmp_path):
    store = open_store(tmp_path)

    def submit(number):
        bins = [(number, 0), (number, 1 + number % 3)]
        fix_run(store, "runs/r", RunRecord("20260101", f"1200{number:02d}", {}, {}, "1"))
        return [fix_bin(store, "runs/r", b, (float(n), n + 1.0), f"found by {n}") for n, b in bins]

    with ThreadPoolExecutor(12) as pool:
        told = list(pool.map(submit, range(12)))
    run = read_run(store, "runs/r", range(4))
    assert {(pair[0], pair[1]) for pair, *_ in told} == {(run.mu_ranges[0], run.bad_pixels[0])}
    for number, pairs in enumerate(told):
        assert pairs[1] == (run.mu_ranges[1 + number % 3], run.bad_pixels[1 + number % 3])
    assert read_run(store, "runs/r", [4]) is None
    assert read_run(store, "runs/other", []) is None


def test_a_run_record_of_before_still_rules():
    """Ranges used to lie in run.json."""
    store = FakeStore()
    store.files["runs/r/run.json"] = RunRecord("20260101", "120000", {0: (-1.0, 2.0)}, {0: "none"}, "1").to_bytes()
    fix_bin(store, "runs/r", 0, (-3.0, 4.0), "some")
    fix_bin(store, "runs/r", 1, (-5.0, 6.0), "more")
    run = read_run(store, "runs/r", [0, 1])
    assert run.mu_ranges == {0: (-1.0, 2.0), 1: (-5.0, 6.0)}
    store.files["runs/r/run-bin01.json"] = b'{"schema_version": 9}'
    with pytest.raises(PlanError, match=r"run-bin01.json has run schema version 9, expected 1"):
        read_run(store, "runs/r", [1])
