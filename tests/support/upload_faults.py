# SPDX-License-Identifier: Apache-2.0
"""An upload that something happens to, and the count of its bytes afterwards: none lost, none doubled.

Run as a program it uploads into the store that it is given, says what is sent, and goes on when it may::

    python -m tests.support.upload_faults URL
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from ingest.chunks import read_manifest
from ingest.upload import upload
from storage.filesystem import open_store
from storage.publish import is_temporary, sweep_temporaries
from tests.support.fake_reader import random_reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.filesystem import Store

#: 3 bins of 24 views, six files of about 1.5 MB each.
SCAN = {"n_bins": 3, "n_views": 24, "n_rows": 256, "n_cols": 300}
SIZES = {"memory_bytes": 3 * 6 * 256 * 300 * 2, "file_bytes": 12 * 256 * 300 * 2, "streams": 3}
N_FILES = 6


def run_upload(store: Store, progress: Callable[[Any], None] | None = None) -> Any:
    """Upload the scan of this module."""
    return upload(random_reader(fields=False, **SCAN), store, progress=progress, **SIZES)


def require_whole(store: Store, whole: Store) -> None:
    """The scan is in `store`, file by file the same as in `whole`, once, and nothing else but what a sweep takes."""
    sweep_temporaries(store, "scans/stone-1", -1.0)
    manifests = [read_manifest(each, "stone-1") for each in (store, whole)]
    assert manifests[0] == manifests[1]
    left = sorted(entry.path for entry in store.list_folder("scans/stone-1"))
    assert left == sorted(f"scans/stone-1/{name}" for name in ["manifest.json", *(f.name for f in manifests[0].files)])
    for file in manifests[0].files:
        content = store.read_bytes(f"scans/stone-1/{file.name}")
        assert len(content) == file.bytes
        assert blake3(content).hexdigest() == file.digest
    assert len(manifests[0].files) == N_FILES


def temporaries(store: Store) -> list[str]:
    """Temporary files of the scan."""
    return [entry.path for entry in store.list_folder("scans/stone-1") if is_temporary(entry.path)]


def main() -> None:
    """Upload slowly enough that something can happen in the middle."""

    def slowly(progress: Any) -> None:
        print(progress.files_written, progress.sent_bytes, flush=True)
        time.sleep(0.02)

    report = run_upload(open_store(sys.argv[1]), slowly)
    print("done", report.stored_bytes, flush=True)


if __name__ == "__main__":
    main()
