# SPDX-License-Identifier: Apache-2.0
"""Names of the packs that slab tasks write, and the sweep of those that no series came to name.

Every attempt of a task writes a pack of its own.  What a killed job, a repeated task or a rerun leaves behind is in no
index row; the name tells its age, whatever the store keeps of times.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import TYPE_CHECKING

from storage.publish import sweep_temporaries

if TYPE_CHECKING:
    from pacs.index import Index
    from storage.filesystem import Store

_FOLDER = "packs"
# `binNN-slabNNNN-<start in seconds, hex>-<random>.zip`; packs of other makers have other names.
_PACK = re.compile(r"bin[0-9]{2,}-slab[0-9]{4,}-([0-9a-f]+)-[0-9a-f]{12}\.zip")

_log = logging.getLogger(__name__)


def pack_path(run_name: str, bin_index: int, slab_index: int) -> str:
    """Return a new name for the pack of one attempt at a slab."""
    attempt = f"{int(time.time()):x}-{secrets.token_hex(6)}"
    return f"{_FOLDER}/{run_name}/bin{bin_index:02d}-slab{slab_index:04d}-{attempt}.zip"


def sweep_packs(store: Store, index: Index, *, older_than_s: float) -> list[str]:
    """Delete packs of slab tasks that no row of the index names, and temporary files beside them.

    Parameters
    ----------
    older_than_s : grace time [s]; it must exceed the longest job, whose packs are registered at its end, and how far
        clocks differ.

    Returns
    -------
    The deleted paths.

    Raises
    ------
    IndexUnavailableError
        If the index does not answer; nothing of that run is deleted then.
    """
    deleted = []
    for run in store.list_folder(_FOLDER):
        if not run.is_folder:
            continue
        old = [entry.path for entry in store.list_folder(run.path) if _age_s(entry.path) > older_than_s]
        named = index.located(old) if old else set()
        for path in old:
            if path not in named:
                store.delete(path)
                deleted.append(path)
        deleted += sweep_temporaries(store, run.path, older_than_s)
    if deleted:
        _log.info("swept %d packs that no series names", len(deleted))
    return deleted


def _age_s(path: str) -> float:
    """Seconds since the attempt that wrote a pack began; below 0 for any other file."""
    match = _PACK.fullmatch(path.rpartition("/")[2])
    return time.time() - int(match[1], 16) if match else -1.0
