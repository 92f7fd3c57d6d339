# SPDX-License-Identifier: Apache-2.0
"""The sweep of packs that no series names, and of what killed submits left."""

import re
from unittest import mock

import pytest

from pacs.index import InstanceRecord, Location
from spark_jobs.errors import SweepRefusedError
from spark_jobs.run_files.packs import pack_path, submit_folder, sweep_packs, sweep_store, sweep_submits
from tests.support.fake_index import FakeIndex
from tests.support.fake_store import FakeStore


def at(time_s, *place):
    with mock.patch("time.time", return_value=time_s):
        return pack_path(*place)


def test_only_old_packs_that_no_row_names_are_swept():
    store, index = FakeStore(), FakeIndex()
    named, orphan, young = at(1000.0, "run-a", 0, 1), at(1000.0, "run-a", 0, 1), at(9000.0, "run-b", 1, 2)
    assert named != orphan
    assert re.fullmatch(r"packs/run-a/bin00-slab0001-3e8-[0-9a-f]{12}\.zip", named)
    others = ["packs/received/2026.zip", "packs/run-a/notes.txt", "packs/loose.zip", "scans/a/manifest.json"]
    temporary = "packs/run-a/.bin00-slab0001-3e8-0123456789ab.zip.3e8-0123456789abcdef.tmp"
    store.files = dict.fromkeys([named, orphan, young, temporary, *others], b"x")
    place = Location(named, 0, 1, "", "")
    index.register([InstanceRecord("1.2", "1", "1", "1", "1", "P", {}, place)], source="test")
    with mock.patch("time.time", return_value=10_000.0):
        assert sweep_packs(store, index, older_than_s=20_000) == []
        assert sorted(sweep_packs(store, index, older_than_s=3600)) == sorted([orphan, temporary])
        assert sweep_packs(store, index, older_than_s=3600) == []
    assert set(store.files) == {named, young, *others}


def test_only_old_submits_are_swept():
    store = FakeStore()
    with mock.patch("time.time", return_value=1000.0):
        old = submit_folder("runs/a")
    with mock.patch("time.time", return_value=9000.0):
        young = submit_folder("runs/a")
    assert re.fullmatch(r"runs/a/submit-3e8-[0-9a-f]{12}", old)
    kept = ["runs/a/plan.json", "runs/a/run.json", "runs/a/other/x", f"{young}/plan.json", "runs/loose"]
    store.files = dict.fromkeys([f"{old}/plan.json", f"{old}/bands/a.band", *kept], b"x")
    with mock.patch("time.time", return_value=10_000.0):
        assert sweep_submits(store, older_than_s=3600) == [old]
    assert sorted(store.files) == sorted(kept)


def test_a_whole_store_is_swept_and_a_dry_run_deletes_nothing():
    store, index = FakeStore(), FakeIndex()
    named, orphan = at(1000.0, "run-a", 0, 1), at(1000.0, "run-a", 0, 1)
    with mock.patch("time.time", return_value=1000.0):
        submit = submit_folder("runs/a")
    temporaries = [
        f"{folder}/.x.3e8-0123456789abcdef.tmp" for folder in ("packs/run-a", "runs/a", "scans/s", "scans/s/upload")
    ]
    kept = [named, "runs/a/plan.json", "scans/s/manifest.json", "scans/s/.x.2328-0123456789abcdef.tmp"]
    store.files = dict.fromkeys([*kept, orphan, f"{submit}/plan.json", *temporaries], b"x")
    index.register([InstanceRecord("1.2", "1", "1", "1", "1", "P", {}, Location(named, 0, 1, "", ""))], source="test")
    with mock.patch("time.time", return_value=10_000.0):
        before = dict(store.files)
        told = sweep_store(store, index, older_than_s=3600, dry_run=True)
        assert store.files == before
        assert sorted(told) == sorted([orphan, submit, *temporaries])
        assert sweep_store(store, index, older_than_s=3600) == told
        assert sweep_store(store, index, older_than_s=3600) == []
    assert sorted(store.files) == sorted(kept)


@pytest.mark.parametrize("dry_run", [True, False])
def test_another_stores_empty_index_sweeps_nothing(dry_run):
    store = FakeStore()
    store.files = {at(1000.0, "run-a", 0, 1): b"x", "scans/s/.x.3e8-0123456789abcdef.tmp": b"x"}
    before = dict(store.files)
    with pytest.raises(SweepRefusedError, match="the index names no instance"):
        sweep_store(store, FakeIndex(), older_than_s=3600, dry_run=dry_run)
    assert store.files == before
