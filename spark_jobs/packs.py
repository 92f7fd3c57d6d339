# SPDX-License-Identifier: Apache-2.0
"""Names of what only one attempt or submit uses, and the sweep of what killed ones left.

Every attempt of a slab task writes a pack of its own, and every submit has a folder for its plan and filtered rows.
What a killed job, a repeated task or a rerun leaves behind is in no index row; the name tells its age, whatever the
store keeps of times.
"""

from __future__ import annotations

import logging
import math
import re
import secrets
import time
from typing import TYPE_CHECKING

from pacs.index import Query
from spark_jobs.errors import SweepRefusedError
from storage.publish import sweep_temporaries

if TYPE_CHECKING:
    from pacs.index import Index
    from storage.filesystem import Store

RUNS_FOLDER = "runs"
_FOLDER = "packs"
_SCANS_FOLDER = "scans"
# `binNN-slabNNNN-<start in seconds, hex>-<random>.zip`; packs of other makers have other names.
_PACK = re.compile(r"bin[0-9]{2,}-slab[0-9]{4,}-([0-9a-f]+)-[0-9a-f]{12}\.zip")

# `submit-<start in seconds, hex>-<random>`
_SUBMIT = re.compile(r"submit-([0-9a-f]+)-[0-9a-f]{12}")

_log = logging.getLogger(__name__)


def pack_path(run_name: str, bin_index: int, slab_index: int) -> str:
    """Return a new name for the pack of one attempt at a slab."""
    return f"{_FOLDER}/{run_name}/bin{bin_index:02d}-slab{slab_index:04d}-{_moment()}.zip"


def submit_folder(run_folder: str) -> str:
    """Return a new name for the folder of one submit of a run."""
    return f"{run_folder}/submit-{_moment()}"


def _moment() -> str:
    """Now in seconds, and something that no other name has."""
    return f"{int(time.time()):x}-{secrets.token_hex(6)}"


def sweep_store(store: Store, index: Index, *, older_than_s: float, dry_run: bool = False) -> list[str]:
    """Delete all that killed jobs and uploads left: packs, folders of submits, temporary files.

    Parameters
    ----------
    older_than_s : grace time [s]; it must exceed the longest job, and how far clocks differ.
    dry_run : delete nothing, only say what would be deleted.

    Returns
    -------
    The deleted paths.

    Raises
    ------
    SweepRefusedError
        If packs would be deleted but the index names no instance at all: it is hardly this store's.
    IndexUnavailableError
        If the index does not answer.
    """
    packs = sweep_packs(store, index, older_than_s=older_than_s, dry_run=True)
    some = index.find(Query("STUDY", {}, ("StudyInstanceUID",)), limit=1)
    if not some and any(_PACK.fullmatch(path.rpartition("/")[2]) for path in packs):
        raise SweepRefusedError(
            f"{store.url}: nothing is swept, since the index names no instance, so that every pack would go; "
            "give the index of this store"
        )
    if not dry_run:
        packs = sweep_packs(store, index, older_than_s=older_than_s)
    submits = sweep_submits(store, older_than_s=older_than_s, dry_run=dry_run)
    temporaries: list[str] = []
    for top in (RUNS_FOLDER, _SCANS_FOLDER):
        for entry in store.list_folder(top):
            # An upload keeps its records in a folder of its own until it is done.
            for folder in (entry.path, f"{entry.path}/upload") if entry.is_folder else ():
                temporaries += sweep_temporaries(store, folder, older_than_s, dry_run=dry_run)
    return [*packs, *submits, *temporaries]


def sweep_packs(store: Store, index: Index, *, older_than_s: float, dry_run: bool = False) -> list[str]:
    """Delete packs of slab tasks that no row of the index names, and temporary files beside them.

    Parameters
    ----------
    older_than_s : grace time [s]; it must exceed the longest job, whose packs are registered at its end, and how far
        clocks differ.
    dry_run : delete nothing, only say what would be deleted.

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
        old = [entry.path for entry in store.list_folder(run.path) if _age_s(entry.path, _PACK) > older_than_s]
        named = index.located(old) if old else set()
        for path in old:
            if path not in named:
                if not dry_run:
                    store.delete(path)
                deleted.append(path)
        deleted += sweep_temporaries(store, run.path, older_than_s, dry_run=dry_run)
    if deleted and not dry_run:
        _log.info("swept %d packs that no series names", len(deleted))
    return deleted


def sweep_submits(store: Store, *, older_than_s: float, dry_run: bool = False) -> list[str]:
    """Delete folders of submits that were killed; one that ends well deletes its own.

    Parameters
    ----------
    older_than_s : grace time [s]; it must exceed the longest job, and how far clocks differ.
    dry_run : delete nothing, only say what would be deleted.

    Returns
    -------
    The deleted folders.
    """
    deleted = []
    for run in store.list_folder(RUNS_FOLDER):
        for entry in store.list_folder(run.path) if run.is_folder else []:
            if entry.is_folder and _age_s(entry.path, _SUBMIT) > older_than_s:
                if not dry_run:
                    store.delete(entry.path, recursive=True)
                deleted.append(entry.path)
    return deleted


def _age_s(path: str, form: re.Pattern[str]) -> float:
    """Seconds since a file or folder of this form was named; never old for any other."""
    match = form.fullmatch(path.rpartition("/")[2])
    return time.time() - int(match[1], 16) if match else -math.inf
