# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.support.reconstruct_alone FOLDER MASTER WORK KEYWORDS``: the main job in a process of its own.

KEYWORDS is a JSON object: ``request``, and if wanted ``again``, ``store`` (a URL; by default a folder beside the index)
and ``settings`` (of `spark_jobs.running.settings.SparkSettings`).  WORK is a function of `tests.support.spark_session`;
its executors import it too, also those of a cluster.

Prints one JSON line: the outcomes, the series, the digest of each volume, and the report.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.running.reconstruct_scan import reconstruct_scan
from storage.filesystem import open_store
from tests.support import spark_session
from tests.support.index_engine import sqlite_index
from tests.support.peers import REPOSITORY


def start_alone(folder: Path, master: str, work: str, **keywords) -> subprocess.Popen[str]:
    """Start the job; what it says goes to ``alone.log`` in the folder."""
    command = [sys.executable, "-m", "tests.support.reconstruct_alone", str(folder), master, work, json.dumps(keywords)]
    with (folder / "alone.log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            start_new_session=True, env={"SPARK_LOCAL_IP": "127.0.0.1", **os.environ},
        )  # fmt: skip


def main() -> None:
    folder, master, work, keywords = Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
    store = open_store(keywords.get("store") or (folder / "store").as_uri())
    settings = keywords.get("settings", {})
    with sqlite_index(folder / "index.sqlite") as index:
        result = reconstruct_scan(
            store, index, ReconstructionRequest(**keywords["request"]),
            session=lambda: spark_session.start_spark(master, folder / "alone", **settings),
            publishers=settings.get("publishers_per_node", 0), again=keywords.get("again", False),
            slab_work=getattr(spark_session, work),
        )  # fmt: skip
    told = {
        "outcomes": result.outcomes,
        "study_uid": result.study_uid,
        "volumes": [s.volume_sha256 for s in result.series],
        "series": [dataclasses.asdict(s) for s in result.series],
        "report": result.report,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
