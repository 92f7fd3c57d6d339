# SPDX-License-Identifier: Apache-2.0
"""Registration of reconstructed series from their packs: a viewer sees all of a series or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pacs.pack import read_pack_manifest, records_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pacs.index import Index, InstanceRecord, Outcome
    from storage.filesystem import Store


def register_packs(index: Index, store: Store, pack_paths: Iterable[str], *, source: str) -> dict[Outcome, int]:
    """Register all instances of these packs in one transaction, and count what came of them.

    Manifests are read one pack at a time, so that memory does not grow with the series.  A rerun whose packs hold the
    same data sets changes nothing: every instance is "identical".

    Parameters
    ----------
    pack_paths : paths in the store, one attempt for each slab, in the order of the slabs.
    source : who made them, e.g. the run id.

    Raises
    ------
    PackError
        If a pack is truncated or damaged; nothing is registered then.
    IndexUnavailableError
        If the index does not answer; nothing is registered then.
    """
    return index.register(_records(store, pack_paths), source=source)


def _records(store: Store, pack_paths: Iterable[str]) -> Iterator[InstanceRecord]:
    """Records of all packs, one manifest in memory."""
    for path in pack_paths:
        yield from records_of(read_pack_manifest(store, path), path)
