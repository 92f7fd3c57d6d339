# SPDX-License-Identifier: Apache-2.0
"""A store with a sample scan, an index, and the Spark that works on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pacs.pack import read_entry
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.running.reconstruct_scan import RunResult, reconstruct_scan
from storage.filesystem import Store, open_store

if TYPE_CHECKING:
    from pathlib import Path

    from pacs.sql_index import SqlIndex

SCAN_ID = "sample-marker"
#: What a request of the tests asks for, besides the scan: six slabs of two bins.
WANTED = {"slab_slices": 16}


@dataclass
class Archive:
    """A store, an index and the Spark that works on them."""

    folder: Path
    store: Store
    index: SqlIndex
    spark: object

    def reconstruct(self, *, again=False, slab_work=None, scan_id=SCAN_ID, options=None, **wanted) -> RunResult:
        more: dict[str, Any] = {} if slab_work is None else {"slab_work": slab_work}
        more = {"session": lambda: self.spark} | more | (options or {})
        request = ReconstructionRequest(scan_id, **(WANTED | wanted))
        return reconstruct_scan(self.store, self.index, request, again=again, **more)

    def part10(self, result):
        """Part 10 bytes of all instances of a run by SOP Instance UID, their digests checked."""
        records = self.index.instances(series_uids=[series.series_uid for series in result.series])
        return {record.sop_instance_uid: read_entry(self.store, record.location) for record in records}

    def packs(self):
        """Paths of all packs."""
        return [p.path for run in self.store.list_folder("packs") for p in self.store.list_folder(run.path)]


def archive_at(folder, index, spark) -> Archive:
    """The archive in a folder."""
    return Archive(folder, open_store((folder / "store").as_uri()), index, spark)
