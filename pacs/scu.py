# SPDX-License-Identifier: Apache-2.0
"""Asking other DICOM nodes: echo, find, send, get.  Failures say host, port, AE title and what was refused."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, StoragePresentationContexts, evt
from pynetdicom.presentation import build_context, build_role

from pacs.dimse import MAX_CONTEXTS, MAX_PDU_BYTES, UNCOMPRESSED, set_no_delay, set_up_pynetdicom
from pacs.errors import ConformanceError, PacsError, PeerError
from pacs.handlers import FIND_MODELS, GET_MODELS, contexts_for
from pacs.part10 import describe_instance, file_meta_bytes
from pacs.query import add_text_element, identifier_values
from pacs.status import CANCEL, LIMIT_REACHED, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pynetdicom.association import Association
    from pynetdicom.presentation import PresentationContext

    from pacs.index import Level
    from pacs.query import Model

_VERIFICATION = "1.2.840.10008.1.1"
_PENDING = (0xFF00, 0xFF01)
#: Stored, although with a remark (coercion, elements discarded, class mismatch).
_STORED = (SUCCESS, 0xB000, 0xB006, 0xB007)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another DICOM node, and how it is spoken to."""

    host: str
    port: int
    ae_title: str
    calling_ae_title: str = "CONEPACS"
    timeout_s: float = 30.0

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.host} port {self.port}"


@dataclass(frozen=True, slots=True)
class SendReport:
    """What came of `send`: how many were stored, and a sentence for each one that was not."""

    n_sent: int
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GetReport:
    """What came of `get`, as the peer counts."""

    n_received: int
    n_failed: int = 0


def echo(peer: Peer) -> None:
    """Verify that the peer answers (C-ECHO).

    Raises
    ------
    PeerError
        If it does not, or refuses.
    """
    with _association(peer, [build_context(_VERIFICATION, list(UNCOMPRESSED))]) as assoc:
        _require_success(peer, "C-ECHO", assoc.send_c_echo())


def find(
    peer: Peer, level: Level, keys: Mapping[str, str], *, model: Model = "STUDY_ROOT"
) -> list[dict[str, str]]:  # fmt: skip
    """Query the peer (C-FIND).

    Parameters
    ----------
    keys : mapping of keyword to value
        What to match, and with empty values what to return besides; values joined by a backslash.

    Returns
    -------
    list of dict
        Values by keyword, for each match.

    Raises
    ------
    PeerError
        If the peer does not answer, refuses, or stops before all matches were given.
    InvalidQueryError
        If a key is not an attribute of the data dictionary.
    """
    identifier = _identifier(level, keys)
    sop_class = _sop_class(FIND_MODELS, model)
    found: list[dict[str, str]] = []
    with _association(peer, [build_context(sop_class, list(UNCOMPRESSED))]) as assoc:
        for status, match in assoc.send_c_find(identifier, sop_class):
            code = _code(peer, "C-FIND", status)
            if code in _PENDING and match is not None:
                found.append(identifier_values(match))
            elif code == LIMIT_REACHED:
                raise PeerError(f"{peer} gave {len(found)} matches and has more: narrow the query")
            elif code not in _PENDING:
                _require_success(peer, "C-FIND", status)
    return found


def send(peer: Peer, objects: Iterable[tuple[str, bytes]], kinds: Sequence[tuple[str, str]]) -> SendReport:
    """Send Part 10 files to the peer (C-STORE) over one association.

    Parameters
    ----------
    objects : (name, Part 10 bytes), read one at a time
    kinds : (SOP class UID, transfer syntax UID) of what will come; `kinds_of` finds them for files.

    Raises
    ------
    PeerError
        If the peer does not answer, or ends the association midway.
    """
    n_sent, failures = 0, []
    with _association(peer, contexts_for(kinds)) as assoc:
        for name, part10_bytes in objects:
            try:
                ds = dcmread(BytesIO(part10_bytes))
                status = assoc.send_c_store(ds)
            except (ValueError, AttributeError) as error:
                failures.append(f"{name}: {peer} takes no instance of this kind ({error})")
                continue
            code = _code(peer, "C-STORE", status)
            if code in _STORED:
                n_sent += 1
            else:
                failures.append(f"{name}: {peer} refused it with status {code:04X}{_comment(status)}")
    return SendReport(n_sent, tuple(failures))


def kinds_of(objects: Iterable[tuple[str, bytes]]) -> tuple[list[tuple[str, str]], list[str]]:
    """(SOP class, transfer syntax) pairs among Part 10 files, and a sentence for each file that is none."""
    kinds: dict[tuple[str, str], None] = {}
    refused = []
    for name, part10_bytes in objects:
        try:
            header = describe_instance(part10_bytes, name=name)
        except ConformanceError as error:
            refused.append(str(error))
            continue
        kinds[header.sop_class_uid, header.transfer_syntax_uid] = None
    return list(kinds), refused


def get(
    peer: Peer, level: Level, keys: Mapping[str, str], on_instance: Callable[[bytes], None], *,
    model: Model = "STUDY_ROOT", sop_classes: Sequence[str] = (),
    transfer_syntaxes: Sequence[str] = UNCOMPRESSED,
) -> GetReport:  # fmt: skip
    """Fetch instances from the peer (C-GET).

    Parameters
    ----------
    keys : unique keys down to `level`.
    on_instance : called with the Part 10 bytes of each one, in a thread of the association, one at a time.
    sop_classes : what may come; empty: the usual storage classes.

    Raises
    ------
    PeerError
        If the peer does not answer or refuses.
    """
    set_up_pynetdicom()
    classes = list(sop_classes) or [str(one.abstract_syntax) for one in StoragePresentationContexts]
    classes = classes[: MAX_CONTEXTS - 1]
    sop_class = _sop_class(GET_MODELS, model)
    contexts = [build_context(sop_class, list(UNCOMPRESSED))]
    contexts += [build_context(one, list(transfer_syntaxes)) for one in classes]
    roles = [build_role(one, scp_role=True) for one in classes]

    def on_store(event: Any) -> int:
        request = event.request
        syntax = str(event.context.transfer_syntax)
        meta = file_meta_bytes(str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), syntax)
        on_instance(meta + event.encoded_dataset(include_meta=False))
        return SUCCESS

    handlers = [(evt.EVT_C_STORE, on_store)]
    n_received = n_failed = 0
    with _association(peer, contexts, roles=roles, handlers=handlers) as assoc:
        for status, _ in assoc.send_c_get(_identifier(level, keys), sop_class):
            code = _code(peer, "C-GET", status)
            n_received = int(status.get("NumberOfCompletedSuboperations", n_received) or 0)
            n_failed = int(status.get("NumberOfFailedSuboperations", n_failed) or 0)
            if code not in (*_PENDING, SUCCESS, 0xB000):
                _require_success(peer, "C-GET", status)
    return GetReport(n_received, n_failed)


@contextmanager
def _association(
    peer: Peer, contexts: list[PresentationContext], *, roles: list[Any] | None = None,
    handlers: list[Any] | None = None,
) -> Iterator[Association]:  # fmt: skip
    """An established association, released afterwards (aborted if the block raises)."""
    set_up_pynetdicom()
    entity = AE(ae_title=peer.calling_ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = peer.timeout_s
    try:
        assoc = entity.associate(
            peer.host,
            peer.port,
            contexts=contexts,
            ae_title=peer.ae_title,
            max_pdu=MAX_PDU_BYTES,
            ext_neg=roles or [],
            evt_handlers=[(evt.EVT_CONN_OPEN, set_no_delay), *(handlers or [])],
        )
    except (OSError, ValueError) as error:
        raise PeerError(f"{peer} cannot be asked: {error}") from error
    if not assoc.is_established:
        raise PeerError(_why_not_established(peer, assoc))
    try:
        yield assoc
    except (ValueError, RuntimeError) as error:
        assoc.abort()
        if isinstance(error, PacsError):
            raise
        # pynetdicom's words for a service that was not accepted, or an association that ended midway.
        raise PeerError(f"{peer} does not take the request: {error}") from error
    except BaseException:
        assoc.abort()
        raise
    assoc.release()


def _why_not_established(peer: Peer, assoc: Association) -> str:
    """One sentence on an association that did not come about."""
    if assoc.is_rejected:
        primitive = assoc.acceptor.primitive
        reason = getattr(primitive, "reason_str", "") or "no reason given"
        return f"{peer} rejected the association of {assoc.requestor.ae_title}: {reason}"
    if assoc.rejected_contexts and not assoc.accepted_contexts:
        return f"{peer} accepted none of the {len(assoc.rejected_contexts)} presentation contexts"
    return f"{peer} does not answer, or is no DICOM node"


def _identifier(level: Level, keys: Mapping[str, str]) -> Dataset:
    """Identifier of a request."""
    ds = Dataset()
    add_text_element(ds, "SpecificCharacterSet", "ISO_IR 192")
    add_text_element(ds, "QueryRetrieveLevel", level)
    for keyword, value in keys.items():
        add_text_element(ds, keyword, value)
    return ds


def _sop_class(models: Mapping[str, Model], model: Model) -> str:
    """SOP class of an information model."""
    return next(sop_class for sop_class, one in models.items() if one == model)


def _code(peer: Peer, service: str, status: Dataset) -> int:
    """Status code; an empty status is a connection that was lost or timed out."""
    if "Status" not in status:
        raise PeerError(f"{peer} gave no answer to {service} within {peer.timeout_s:g} s, or closed the connection")
    return int(status.Status)


def _require_success(peer: Peer, service: str, status: Dataset) -> None:
    """Refuse any status but success."""
    code = _code(peer, service, status)
    if code == CANCEL:
        raise PeerError(f"{peer} cancelled {service}")
    if code != SUCCESS:
        raise PeerError(f"{peer} refused {service} with status {code:04X}{_comment(status)}")


def _comment(status: Dataset) -> str:
    """The peer's own words, if it gave any."""
    text = str(status.get("ErrorComment", "") or "").strip()
    return f": {text}" if text else ""
