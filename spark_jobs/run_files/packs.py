# SPDX-License-Identifier: Apache-2.0
"""Names of what only one attempt or submit uses, and the sweep of what killed ones left.

Every attempt of a slab task writes a pack of its own, and every submit has a folder for its plan.  What a killed job, a
repeated task or a rerun leaves behind is in no index row; the name tells its age, whatever the store keeps of times.

A job that was stopped or killed goes on from its finished work (`spark_jobs.tasks.checkpoints`).  So nothing of a run
is swept while it has a young mark: the folder of a submit, or the file that one left that ended without a registration.
"""

from __future__ import annotations

import json
import logging
import math
import re
import secrets
import time
from typing import TYPE_CHECKING

from pacs.index import Query
from spark_jobs.errors import SweepRefusedError
from storage.errors import MissingFileError
from storage.publish import sweep_temporaries

if TYPE_CHECKING:
    from pacs.index import Index
    from storage.filesystem import Store

RUNS_FOLDER = "runs"
PACKS_FOLDER = "packs"
_SCANS_FOLDER = "scans"
# `binNN-slabNNNN-<start in seconds, hex>-<random>.zip`; packs of other makers have other names.
_PACK = re.compile(r"bin[0-9]{2,}-slab[0-9]{4,}-([0-9a-f]+)-[0-9a-f]{12}\.zip")

# `submit-<start in seconds, hex>-<random>`
_SUBMIT = re.compile(r"submit-([0-9a-f]+)-[0-9a-f]{12}")
# `stopped-<end in seconds, hex>-<random>.json`
_STOPPED = re.compile(r"stopped-([0-9a-f]+)-[0-9a-f]{12}\.json")
# `white-binNN.rows`
_WHITE = re.compile(r"white-bin[0-9]{2,}\.rows")
# `bands-<what shapes them>-binNN`
_BANDS = re.compile(r"bands-[0-9a-f]{12}-bin[0-9]{2,}")
DONE_FOLDER = "done"

_log = logging.getLogger(__name__)


def pack_path(run_name: str, bin_index: int, slab_index: int) -> str:
    """Return a new name for the pack of one attempt at a slab."""
    return f"{PACKS_FOLDER}/{run_name}/bin{bin_index:02d}-slab{slab_index:04d}-{_moment()}.zip"


def submit_folder(run_folder: str) -> str:
    """Return a new name for the folder of one submit of a run."""
    return f"{run_folder}/submit-{_moment()}"


def stopped_mark(run_folder: str) -> str:
    """Return a new name for the file that a submit leaves when it ends without a registration."""
    return f"{run_folder}/stopped-{_moment()}.json"


def stopped_marks(store: Store, run_folder: str) -> list[str]:
    """Return the files that ended submits left in a run's folder."""
    return [e.path for e in store.list_folder(run_folder) if _STOPPED.fullmatch(e.path.rpartition("/")[2])]


def _moment() -> str:
    """Now in seconds, and something that no other name has."""
    return f"{int(time.time()):x}-{secrets.token_hex(6)}"


def sweep_store(store: Store, index: Index, *, older_than_s: float, dry_run: bool = False) -> list[str]:
    """Delete all that killed jobs and uploads left: packs, what their runs had finished, temporary files.

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
    # Records before their packs, and marks last of all.
    runs = sweep_runs(store, older_than_s=older_than_s, dry_run=dry_run)
    if not dry_run:
        packs = sweep_packs(store, index, older_than_s=older_than_s)
    submits = sweep_submits(store, older_than_s=older_than_s, dry_run=dry_run)
    temporaries: list[str] = []
    for top in (RUNS_FOLDER, _SCANS_FOLDER):
        for entry in store.list_folder(top):
            # An upload keeps its records in a folder of its own until it is done.
            for folder in (entry.path, f"{entry.path}/upload") if entry.is_folder else ():
                temporaries += sweep_temporaries(store, folder, older_than_s, dry_run=dry_run)
    return [*packs, *runs, *submits, *temporaries]


def sweep_packs(store: Store, index: Index, *, older_than_s: float, dry_run: bool = False) -> list[str]:
    """Delete packs of slab tasks that no row of the index names, and temporary files beside them.

    Packs of a run with a young mark stay: a submit may go on from them.

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
    for run in store.list_folder(PACKS_FOLDER):
        if not run.is_folder or _is_marked(store, f"{RUNS_FOLDER}/{run.path.rpartition('/')[2]}", older_than_s):
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
    """Delete the marks of submits that were killed or stopped: their folders, and what they left in the run's.

    Parameters
    ----------
    older_than_s : grace time [s]; it must exceed the longest job, and how far clocks differ.
    dry_run : delete nothing, only say what would be deleted.

    Returns
    -------
    The deleted paths.
    """
    deleted = []
    for run in store.list_folder(RUNS_FOLDER):
        for entry in store.list_folder(run.path) if run.is_folder else []:
            form = _SUBMIT if entry.is_folder else _STOPPED
            if _age_s(entry.path, form) > older_than_s:
                if not dry_run:
                    store.delete(entry.path, recursive=entry.is_folder)
                deleted.append(entry.path)
    return deleted


def sweep_runs(store: Store, *, older_than_s: float, dry_run: bool = False) -> list[str]:
    """Delete white, filtered rows and records of slabs of runs that nobody goes on with.

    A run with a mark younger than the grace time [s] keeps all it has.  Of others, white and filtered rows go, and the
    records of packs older than that: registered packs need none, and others are swept.

    Returns
    -------
    The deleted paths.
    """
    deleted = []
    for run in store.list_folder(RUNS_FOLDER):
        if not run.is_folder or _is_marked(store, run.path, older_than_s):
            continue
        entries = list(store.list_folder(run.path))
        rows = [e for e in entries if (_BANDS if e.is_folder else _WHITE).fullmatch(e.path.rpartition("/")[2])]
        records = [
            entry.path
            for entry in store.list_folder(f"{run.path}/{DONE_FOLDER}")
            if entry.path.endswith(".json") and _record_age_s(store, entry.path) > older_than_s
        ]
        if not dry_run:
            for path in records:
                store.delete(path)
            for entry in rows:
                store.delete(entry.path, recursive=entry.is_folder)
        deleted += records + [entry.path for entry in rows]
    return deleted


def _record_age_s(store: Store, path: str) -> float:
    """Age of the pack that a record names; without end for one that names none."""
    try:
        return _age_s(json.loads(store.read_bytes(path))["pack"], _PACK)
    except MissingFileError:
        return -math.inf  # it was deleted meanwhile
    except (ValueError, KeyError, TypeError):
        return math.inf


def _is_marked(store: Store, run_folder: str, older_than_s: float) -> bool:
    """Whether a submit of a run is under way, or ended without a registration, since less than the grace time."""
    ages = (_age_s(e.path, _SUBMIT if e.is_folder else _STOPPED) for e in store.list_folder(run_folder))
    return any(-math.inf < age <= older_than_s for age in ages)


def _age_s(path: str, form: re.Pattern[str]) -> float:
    """Seconds since a file or folder of this form was named; never old for any other."""
    match = form.fullmatch(path.rpartition("/")[2])
    return time.time() - int(match[1], 16) if match else -math.inf
