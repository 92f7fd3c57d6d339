# SPDX-License-Identifier: Apache-2.0
"""Finished work of a run, which another attempt or a later submit uses again.

::

    runs/<run>/run.json                     dates of the first submit
    runs/<run>/run-binNN.json               stored range and bad pixels of a bin, in words
    runs/<run>/done/binNN-slabNNNN.json     result of a slab task: its pack, that pack's size, digests, counts
    runs/<run>/bands-<shape>-binNN/         filtered rows, until the bin is registered
    runs/<run>/stopped-<time>-<random>.json a submit ended here without a registration

Records are written once: of all attempts at a slab, whatever speculation and executors given up for lost do, the
recorded one counts, and each other deletes its own pack and returns the recorded result.  What is computed in spite of
a registration (`again`) keeps records and filtered rows in its submit's folder and uses no others.
"""

from __future__ import annotations

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from spark_jobs.run_files.packs import PACKS_FOLDER, stopped_mark
from spark_jobs.tasks.workers import with_figures
from storage.errors import FileExistsInStoreError, MissingFileError, StorageError
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from spark_jobs.planning.plan import ReconstructionPlan
    from storage.filesystem import Store

RECORD_SCHEMA_VERSION = 1
#: Records that the driver reads at once: on HDFS each is a round trip.
_READERS = 8

_log = logging.getLogger(__name__)


def slab_name(bin_index: int, slab_index: int) -> str:
    """Name of a slab's record, without its suffix."""
    return f"bin{bin_index:02d}-slab{slab_index:04d}"


def finish_once(store: Store, records: str, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do a piece of work that publishes a pack, or return the result of the attempt that was finished first.

    Parameters
    ----------
    store : where packs and records lie
    records : folder of the records; "" keeps none
    name : of the piece, the same for each attempt at it
    work : returns JSON values with ``pack``, the path of what it published, and ``pack_bytes``

    Returns
    -------
    dict
        The recorded result, with its wall and CPU seconds and peak of memory.
    """
    if not records:
        return work()
    path = f"{records}/{name}.json"
    kept = _whole_record(store, path)
    if kept is not None:
        return kept
    try:
        result = with_figures(work)
    except StorageError:
        # Another attempt may be finished, and what this one reads gone since its series is registered.
        kept = _whole_record(store, path)
        if kept is None:
            raise
        return kept
    return _record(store, path, result)


def _record(store: Store, path: str, result: dict[str, Any]) -> dict[str, Any]:
    """Record a result, or give up its pack for the one that is recorded already."""
    content = json.dumps({"schema_version": RECORD_SCHEMA_VERSION} | result).encode()
    try:
        publish_bytes(store, path, content, kind="write_once")
    except FileExistsInStoreError:
        kept = _whole_record(store, path)
        if kept is None:
            # Its pack is gone or short, which no attempt leaves: somebody deleted it.
            publish_bytes(store, path, content, kind="replace")
            return result
        if kept["pack"] != result["pack"]:
            _log.info("%s was finished by another attempt; %s is deleted", path, result["pack"])
            store.delete(result["pack"])
        return kept
    return result


def _whole_record(store: Store, path: str) -> dict[str, Any] | None:
    """A recorded result whose pack is there with its size; None without one."""
    result = _read_record(store, path)
    if result is None:
        return None
    try:
        return result if store.info(result["pack"]).size == result["pack_bytes"] else None
    except MissingFileError:
        return None


def _read_record(store: Store, path: str) -> dict[str, Any] | None:
    """The result in a record; None if there is none, or it is of another version of this software."""
    try:
        values = json.loads(store.read_bytes(path))
    except (MissingFileError, json.JSONDecodeError):
        return None
    if not isinstance(values, dict) or values.get("schema_version") != RECORD_SCHEMA_VERSION:
        return None
    return {name: value for name, value in values.items() if name != "schema_version"}


def finished_results(store: Store, records: str, run_name: str, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the recorded results of these pieces, and delete records whose pack is gone, short, or unreadable.

    Parameters
    ----------
    records : folder of the records
    run_name : its packs are looked at
    names : of the pieces that are wanted

    Returns
    -------
    dict
        By name; pieces that have to be done (again) are missing.
    """
    there = {entry.path for entry in store.list_folder(records)}
    paths = {name: path for name in names if (path := f"{records}/{name}.json") in there}
    if not paths:
        return {}
    sizes = {entry.path: entry.size for entry in store.list_folder(f"{PACKS_FOLDER}/{run_name}")}
    with ThreadPoolExecutor(_READERS) as readers:
        results = list(readers.map(lambda path: _read_record(store, path), paths.values()))
    found = {}
    for (name, path), result in zip(paths.items(), results, strict=True):
        if result is not None and sizes.get(result["pack"]) == result["pack_bytes"]:
            found[name] = result
        else:
            _log.warning("%s names a pack that is not there whole: it is computed again", path)
            store.delete(path)
    return found


def forget_packs(store: Store, records: str, packs: Iterable[str]) -> None:
    """Delete the records of these packs, so that they are computed again."""
    unwanted = set(packs)
    for entry in store.list_folder(records):
        result = _read_record(store, entry.path)
        if result is None or result["pack"] in unwanted:
            store.delete(entry.path)


def bands_stem(folder: str, plan: ReconstructionPlan) -> str:
    """Return how the folders of filtered rows of a run begin: all that shapes these files beside the run's identity.

    Two submits of a run that have other memory cut the rows otherwise; an upload may have cut the views otherwise.
    """
    groups = [[group.start, group.stop] for group in plan.groups]
    shape = [plan.rows, plan.filter_rows, plan.request.band_type, groups]
    return f"{folder}/bands-{hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:12]}"


def bands_folder(stem: str, bin_index: int) -> str:
    """Folder of the filtered rows of one bin."""
    return f"{stem}-bin{bin_index:02d}"


def leave_mark(store: Store, folder: str, words: str) -> None:
    """Say in a run's folder that a submit ended without a registration: the sweep keeps what is finished for a time."""
    try:
        publish_bytes(store, stopped_mark(folder), json.dumps({"reason": words}).encode(), kind="write_once")
    except StorageError as error:
        _log.warning("%s: what is finished may be swept early (%s)", folder, error)
