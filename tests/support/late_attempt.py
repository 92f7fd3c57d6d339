# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.support.late_attempt [PLACE, TASK]``: an attempt at a slab that is done after another one was.

It began when the slab was not recorded yet, computes it, and waits until it is before it tells of its pack.  Then it
notes in the run's folder (``late/TASK``) which pack it made and which one counts.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from unittest import mock

from spark_jobs.tasks import checkpoints
from spark_jobs.tasks.slab_task import reconstruct_slab
from spark_jobs.tasks.workers import RunPlace
from storage.filesystem import open_store
from storage.publish import publish_bytes
from tests.support.waiting import wait_until


def main() -> None:
    values, task = json.loads(sys.argv[1])
    place = RunPlace(**values)
    store = open_store(place.store_url)
    record, own = checkpoints._record, []

    def late_record(store: Any, path: str, result: dict[str, Any]) -> dict[str, Any]:
        own.append(result["pack"])
        wait_until("another attempt is recorded", lambda: store.exists(path), timeout_s=300)
        return record(store, path, result)

    with mock.patch.object(checkpoints, "_record", late_record):
        counted = reconstruct_slab(place, task)["pack"]
    publish_bytes(store, f"{place.folder}/late/{task}", json.dumps([*own, counted]).encode(), kind="replace")


if __name__ == "__main__":
    main()
