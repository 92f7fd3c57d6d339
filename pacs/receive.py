# SPDX-License-Identifier: Apache-2.0
"""Receiving an object: described, written to the journal, registered; only then may it be acknowledged."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pacs.errors import ClassMismatchError, ConformanceError, IndexUnavailableError
from pacs.index import InstanceRecord, Location
from pacs.part10 import describe_dataset, describe_instance, file_meta_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pacs.index import Index, Outcome
    from pacs.journal import Journal
    from pacs.part10 import InstanceHeader

_log = logging.getLogger(__name__)
_LOOKED_UP_TOGETHER = 500


@dataclass(frozen=True, slots=True)
class Recovery:
    """What `recover` found: registered now, known already under another file, not readable (left where it is)."""

    registered: int = 0
    removed: int = 0
    unreadable: int = 0


def receive_dataset(
    dataset_bytes: bytes, transfer_syntax_uid: str, *, sop_class_uid: str, sop_instance_uid: str,
    index: Index, journal: Journal, source: str,
) -> Outcome:  # fmt: skip
    """Take a data set as C-STORE brings it; when this returns, it is durable and in the index.

    Parameters
    ----------
    dataset_bytes : the encoded data set, without group 0002.
    sop_class_uid, sop_instance_uid : what the C-STORE command says of it.
    source : AE title of the sender.

    Raises
    ------
    ClassMismatchError
        If the data set is of another SOP class, or another instance, than the command says.
    ConformanceError
        If it is malformed, breaks a limit, or lacks a UID.
    StoreFullError, StoreUnavailableError, IndexUnavailableError
        If it cannot be kept.  Nothing of it is visible then.
    """
    header = describe_dataset(dataset_bytes, transfer_syntax_uid)
    if header.sop_class_uid != sop_class_uid:
        raise ClassMismatchError(f"SOP class is {header.sop_class_uid}, the command said {sop_class_uid}")
    if header.sop_instance_uid != sop_instance_uid:
        raise ClassMismatchError(f"SOP instance is {header.sop_instance_uid}, the command said {sop_instance_uid}")
    meta = file_meta_bytes(header.sop_class_uid, header.sop_instance_uid, header.transfer_syntax_uid)
    shift = len(meta) if header.pixel_offset >= 0 else 0
    return _keep((meta, dataset_bytes), header, header.pixel_offset + shift, index, journal, source)


def receive_part10(part10_bytes: bytes, *, index: Index, journal: Journal, source: str, name: str) -> Outcome:
    """Take a Part 10 file as it is; when this returns, it is durable and in the index.

    Raises
    ------
    ConformanceError
        If it is no DICOM file, a DICOMDIR, malformed, or lacks a UID; `name` says in the message which one.
    StoreFullError, StoreUnavailableError, IndexUnavailableError
        If it cannot be kept.  Nothing of it is visible then.
    """
    header = describe_instance(part10_bytes, name=name)
    return _keep((part10_bytes,), header, header.pixel_offset, index, journal, source)


def recover(index: Index, journal: Journal, *, source: str = "recovery") -> Recovery:
    """Register the objects that a crash left in the journal without a row: to be called when a server starts.

    They were not acknowledged, but are whole; the sender's next try then finds them known.  Safe while other
    processes receive.

    Raises
    ------
    IndexUnavailableError
        If the index does not answer.
    """
    registered = removed = unreadable = 0
    for paths in journal.unchecked():
        for path in _without_row(index, paths):
            try:
                part10_bytes = journal.read_all(path)
                header = describe_instance(part10_bytes, name=path)
            except ConformanceError as error:
                unreadable += 1
                _log.warning("journal: %s has no row and cannot be read (%s)", path, error)
                continue
            outcome = _register((part10_bytes,), header, header.pixel_offset, path, index, source)
            kept = _settle(outcome, path, index, journal)
            registered, removed = registered + kept, removed + (not kept)
    if not unreadable:
        journal.mark_checked()
    return Recovery(registered, removed, unreadable)


def _keep(
    pieces: Sequence[bytes], header: InstanceHeader, pixel_offset: int, index: Index, journal: Journal, source: str
) -> Outcome:  # fmt: skip
    """Write an object to the journal and register it."""
    path = journal.append(pieces)
    try:
        outcome = _register(pieces, header, pixel_offset, path, index, source)
    except IndexUnavailableError:
        # Not acknowledged, so not kept; but where the index cannot say that no row names the file, `recover` decides.
        if not index.located([path]):
            journal.remove(path)
        raise
    _settle(outcome, path, index, journal)
    return outcome


def _register(
    pieces: Sequence[bytes], header: InstanceHeader, pixel_offset: int, path: str, index: Index, source: str
) -> Outcome:  # fmt: skip
    """Add the row of an object that lies in the journal."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    length = sum(len(piece) for piece in pieces)
    record = InstanceRecord(
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        study_uid=header.study_uid,
        series_uid=header.series_uid,
        patient_id=header.patient_id,
        attributes=header.attributes,
        location=Location(path, 0, length, digest.hexdigest(), header.dataset_sha256, pixel_offset),
    )
    counts = index.register([record], source=source)
    return next(outcome for outcome, count in counts.items() if count)


def _settle(outcome: Outcome, path: str, index: Index, journal: Journal) -> bool:
    """Remove a file that was known already, unless it is the very one that the index points into."""
    if outcome == "identical" and not index.located([path]):
        journal.remove(path)
        return False
    return True


def _without_row(index: Index, paths: Sequence[str]) -> list[str]:
    """The journal's files that no row names."""
    missing: list[str] = []
    for start in range(0, len(paths), _LOOKED_UP_TOGETHER):
        some = paths[start : start + _LOOKED_UP_TOGETHER]
        located = index.located(some)
        missing += [path for path in some if path not in located]
    return missing
