# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from pacs.errors import PackError
from pacs.pack import PackWriter
from pacs.part10 import describe_instance
from pacs.register import register_packs
from pacs.retrieve import InstanceReader
from storage.filesystem import open_store
from tests.support.dicom_objects import make_ct, part10
from tests.support.index_engine import sqlite_index


def write_pack(store, path, numbers):
    with store.open_write(path) as handle:
        writer = PackWriter(handle, source="run-1")
        for number in numbers:
            sent = part10(make_ct(number))
            writer.add(sent, describe_instance(sent))
        writer.finish()


def test_a_series_is_registered_from_its_packs_once(tmp_path):
    store = open_store(str(tmp_path / "store"))
    write_pack(store, "packs/run-1/slab-0.zip", range(1, 4))
    write_pack(store, "packs/run-1/slab-1.zip", range(4, 6))
    paths = ["packs/run-1/slab-0.zip", "packs/run-1/slab-1.zip"]
    with sqlite_index(tmp_path / "index.sqlite") as index:
        assert register_packs(index, store, paths, source="run-1") == {"added": 5, "identical": 0, "version": 0}
        assert register_packs(index, store, paths, source="run-1") == {"added": 0, "identical": 5, "version": 0}
        records = index.instances(patient_id="P1")
        assert [InstanceReader(store).open_bytes(one.location) for one in records] == [
            part10(make_ct(number)) for number in range(1, 6)
        ]


def test_a_broken_pack_registers_nothing(tmp_path):
    store = open_store(str(tmp_path / "store"))
    write_pack(store, "packs/whole.zip", [1])
    with store.open_write("packs/broken.zip") as handle:
        handle.write(b"PK")
    with sqlite_index(tmp_path / "index.sqlite") as index:
        with pytest.raises(PackError):
            register_packs(index, store, ["packs/whole.zip", "packs/broken.zip"], source="run-1")
        assert index.located(["packs/whole.zip"]) == set()
