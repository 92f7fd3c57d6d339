# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.support.reconstruct_alone FOLDER MASTER WORK KEYWORDS``: the main job in a process of its own.

Prints one JSON line: the outcomes, and the digest of each volume.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from spark_jobs.reconstruct_scan import reconstruct_scan
from spark_jobs.request import ReconstructionRequest
from storage.filesystem import open_store
from tests.support import spark_session
from tests.support.index_engine import sqlite_index


def main() -> None:
    folder, master, work, keywords = Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
    with sqlite_index(folder / "index.sqlite") as index:
        result = reconstruct_scan(
            open_store((folder / "store").as_uri()), index, ReconstructionRequest(**keywords["request"]),
            session=lambda: spark_session.start_spark(master, folder / "alone"),
            slab_work=getattr(spark_session, work), again=keywords["again"],
        )  # fmt: skip
    print(json.dumps({"outcomes": result.outcomes, "volumes": [s.volume_sha256 for s in result.series]}))


if __name__ == "__main__":
    main()
