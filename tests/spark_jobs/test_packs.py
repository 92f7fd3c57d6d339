# SPDX-License-Identifier: Apache-2.0
"""The sweep of packs that no series names, and of what killed submits left."""

import re
from unittest import mock

from pacs.index import InstanceRecord, Location
from spark_jobs.packs import pack_path, submit_folder, sweep_packs, sweep_submits
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
