# SPDX-License-Identifier: Apache-2.0
"""The DICOM server: C-ECHO, C-STORE, C-FIND, C-GET and C-MOVE on pynetdicom."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Mapping  # noqa: TC003 - pydantic reads the annotation of ScpConfig
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pydicom import dcmread
from pynetdicom import AE, evt

from pacs.counters import DicomCounters
from pacs.dimse import MAX_PDU_BYTES, UNCOMPRESSED, set_no_delay, set_up_pynetdicom
from pacs.errors import InvalidQueryError, PacsError
from pacs.guarded_socket import GuardedSocket
from pacs.handlers import (
    FIND_MODELS,
    GET_MODELS,
    MOVE_MODELS,
    contexts_for,
    find_responses,
    instances_to_send,
    unreadable,
)
from pacs.receive import receive_dataset, recover
from pacs.status import CANCEL, PENDING, SUCCESS, status_of
from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydicom.dataset import Dataset
    from pynetdicom.association import Association
    from pynetdicom.transport import ThreadedAssociationServer

    from pacs.index import Index, InstanceRecord, Level
    from pacs.journal import Journal
    from pacs.retrieve import InstanceReader

_VERIFICATION = "1.2.840.10008.1.1"
#: Far above what is agreed for data; association requests with many contexts are long.
_MAX_RECEIVED_PDU_BYTES = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MoveDestination:
    """Where a C-MOVE destination listens."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ScpConfig:
    """How the DICOM server runs.

    Attributes
    ----------
    ae_title : str
        Own AE title, at most 16 characters.
    host, port : str, int
        Where it listens; port 0 takes a free one.
    move_destinations : mapping of AE title to MoveDestination
        Peers that C-MOVE may send to; no others.
    check_called_ae_title : bool
        Whether associations to another AE title are rejected.
    calling_ae_titles : tuple of str
        Peers that may associate; empty: all.
    max_associations, max_silent_connections : int
        Associations at a time; connections that have not asked for one yet.  Above the latter the oldest is closed.
    acse_timeout_s, dimse_timeout_s, network_timeout_s : float
        Waiting for association messages, for a peer's answer, for the rest of a message or the next one [s].
    max_patients, max_studies, max_series, max_images : int
        Matches that one C-FIND answers; above, status B001 follows them.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    ae_title: str = "CONEPACS"
    host: str = "127.0.0.1"
    port: int = 11112
    move_destinations: Mapping[str, MoveDestination] = field(default_factory=dict)
    check_called_ae_title: bool = False
    calling_ae_titles: tuple[str, ...] = ()
    max_associations: int = 50
    max_silent_connections: int = 20
    acse_timeout_s: float = 10.0
    dimse_timeout_s: float = 60.0
    network_timeout_s: float = 60.0
    max_patients: int = 1000
    max_studies: int = 1000
    max_series: int = 5000
    max_images: int = 20_000

    def __post_init__(self) -> None:
        title = self.ae_title
        if not title.strip() or len(title) > 16 or not title.isascii() or not title.isprintable() or "\\" in title:
            raise ValueError(f"AE title is '{title}', expected 1 to 16 printable ASCII characters without backslash")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port is {self.port}, expected 0 to 65535")

    @property
    def max_matches(self) -> dict[Level, int]:
        """The caps by level."""
        return {
            "PATIENT": self.max_patients,
            "STUDY": self.max_studies,
            "SERIES": self.max_series,
            "IMAGE": self.max_images,
        }


class PacsServer:
    """The archive as an application entity; `start` returns at once, also usable as a context manager.

    Parameters
    ----------
    config : ScpConfig
    index : Index
    reader : InstanceReader
        Where instances are read from.
    journal : Journal
        Where received objects are written to.

    Attributes
    ----------
    counters : DicomCounters
        What it has done.
    """

    def __init__(self, config: ScpConfig, *, index: Index, reader: InstanceReader, journal: Journal) -> None:
        self.config = config
        self._index = index
        self._reader = reader
        self._journal = journal
        self.counters = DicomCounters()
        self._server: ThreadedAssociationServer | None = None
        self._silent = _SilentConnections(config.max_silent_connections)

    @property
    def port(self) -> int:
        """Port that it listens on."""
        if self._server is None:
            return self.config.port
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Recover the journal, then listen.

        Raises
        ------
        PacsError
            If the address cannot be listened on, or the index does not answer.
        """
        found = recover(self._index, self._journal)
        if found.registered or found.removed:
            _log.info("journal: %d objects registered after a crash, %d removed", found.registered, found.removed)
        set_up_pynetdicom()
        address = (self.config.host, self.config.port)
        try:
            self._server = self._entity().start_server(address, block=False, evt_handlers=self._handlers())
        except OSError as error:
            raise PacsError(f"cannot listen on {address[0]} port {address[1]}: {error.strerror}") from error
        _log.info("%s listens on %s port %d", self.config.ae_title, self.config.host, self.port)

    def stop(self) -> None:
        """Abort what is going on and stop listening."""
        if self._server is not None:
            self._server.ae.shutdown()
            self._server = None

    def __enter__(self) -> PacsServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _entity(self) -> AE:
        """The application entity and what it offers."""
        config = self.config
        entity = AE(ae_title=config.ae_title)
        entity.maximum_pdu_size = MAX_PDU_BYTES
        # pynetdicom counts silent connections as associations.
        entity.maximum_associations = config.max_associations + config.max_silent_connections
        entity.acse_timeout = config.acse_timeout_s
        entity.dimse_timeout = config.dimse_timeout_s
        entity.network_timeout = config.network_timeout_s
        entity.require_called_aet = config.check_called_ae_title
        entity.require_calling_aet = list(config.calling_ae_titles)
        # Storage classes need not be listed: `set_up_pynetdicom` takes them all, as they are proposed.
        for sop_class in (_VERIFICATION, *FIND_MODELS, *GET_MODELS, *MOVE_MODELS):
            entity.add_supported_context(sop_class, list(UNCOMPRESSED))
        return entity

    def _handlers(self) -> list[Any]:
        """Events of pynetdicom and what answers them."""
        return [
            (evt.EVT_CONN_OPEN, self._on_open),
            (evt.EVT_CONN_CLOSE, self._on_close),
            (evt.EVT_REJECTED, lambda event: self.counters.rejected()),
            (evt.EVT_REQUESTED, lambda event: self._silent.forget(event.assoc)),
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_C_GET, self._on_get),
            (evt.EVT_C_MOVE, self._on_move),
        ]

    def _on_open(self, event: Any) -> None:
        """A connection opened: no delay, no endless wait for the rest of a message, few silent ones."""
        set_no_delay(event)
        transport = event.assoc.dul.socket
        connection = transport.socket
        connection.settimeout(self.config.acse_timeout_s)
        transport.socket = GuardedSocket(connection, _MAX_RECEIVED_PDU_BYTES)
        self._silent.add(event.assoc, connection)

    def _on_close(self, event: Any) -> None:
        """A connection is over."""
        self._silent.forget(event.assoc)
        self.counters.ended(event.assoc)

    def _on_echo(self, _event: Any) -> int:
        """Answer that it is there."""
        with self.counters.operation("C-ECHO"):
            return SUCCESS

    def _on_established(self, event: Any) -> None:
        """A peer is known now: it gets more time for the rest of a message."""
        self.counters.accepted(event.assoc)
        event.assoc.dul.socket.socket.settimeout(self.config.network_timeout_s)

    def _on_store(self, event: Any) -> int | Dataset:
        """Keep one object; the answer is sent when it is durable."""
        with self.counters.operation("C-STORE") as fail:
            try:
                dataset_bytes = event.encoded_dataset(include_meta=False)
                receive_dataset(
                    dataset_bytes,
                    str(event.context.transfer_syntax),
                    sop_class_uid=str(event.request.AffectedSOPClassUID),
                    sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
                    index=self._index,
                    journal=self._journal,
                    source=_calling_ae_title(event.assoc),
                )
            except Exception as error:  # noqa: BLE001 - the rim: a peer gets a status, whatever happened
                fail()
                _log_failure("C-STORE", event, error)
                return status_of(error, "STORE")
        self.counters.received(len(dataset_bytes))
        return SUCCESS

    def _on_find(self, event: Any) -> Iterator[tuple[int | Dataset, Dataset | None]]:
        """Answer a query."""
        with self.counters.operation("C-FIND") as fail:
            try:
                yield from find_responses(
                    self._index,
                    _identifier(event),
                    FIND_MODELS[event.request.AffectedSOPClassUID],
                    max_matches=self.config.max_matches,
                    ae_title=self.config.ae_title,
                    is_cancelled=lambda: bool(event.is_cancelled),
                )
            except Exception as error:  # noqa: BLE001 - the rim
                fail()
                _log_failure("C-FIND", event, error)
                yield status_of(error, "FIND"), None

    def _on_get(self, event: Any) -> Iterator[Any]:
        """Send instances over the same association."""
        with self.counters.operation("C-GET") as fail:
            try:
                model = GET_MODELS[event.request.AffectedSOPClassUID]
                records = instances_to_send(self._index, _identifier(event), model)
            except Exception as error:  # noqa: BLE001 - the rim
                fail()
                _log_failure("C-GET", event, error)
                yield 1
                yield status_of(error, "GET"), None
                return
            yield len(records)
            yield from self._send(event, records, fail)

    def _on_move(self, event: Any) -> Iterator[Any]:
        """Send instances to a third node."""
        with self.counters.operation("C-MOVE") as fail:
            title = str(event.move_destination or "").strip()
            destination = self.config.move_destinations.get(title)
            if destination is None:
                fail()
                peer = _calling_ae_title(event.assoc)
                _log.warning("C-MOVE from %s refused: its destination is not configured", peer)
                yield None, None
                return
            try:
                model = MOVE_MODELS[event.request.AffectedSOPClassUID]
                records = instances_to_send(self._index, _identifier(event), model)
            except Exception as error:
                # pynetdicom knows no status before the destination answers: it sends C514, unable to process.
                _log_failure("C-MOVE", event, error)
                raise
            kinds = [(record.sop_class_uid, record.transfer_syntax_uid) for record in records]
            handlers = [(evt.EVT_CONN_OPEN, set_no_delay)]
            options = {"contexts": contexts_for(kinds), "evt_handlers": handlers, "max_pdu": MAX_PDU_BYTES}
            yield destination.host, destination.port, options
            yield len(records)
            yield from self._send(event, records, fail)

    def _send(
        self, event: Any, records: list[InstanceRecord], fail: Callable[[], None]
    ) -> Iterator[tuple[int, Dataset | None]]:
        """The instances one after the other; one that cannot be read fails alone."""
        for record in records:
            if event.is_cancelled:
                yield CANCEL, None
                return
            try:
                part10_bytes = self._reader.open_bytes(record.location)
            except StorageError as error:
                fail()
                _log.error("instance %s cannot be sent: %s", record.sop_instance_uid, error)
                yield PENDING, unreadable(record)
                continue
            self.counters.sent(len(part10_bytes))
            yield PENDING, dcmread(BytesIO(part10_bytes))


class _SilentConnections:
    """Connections that have not asked for an association: the oldest goes when there are too many."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._open: dict[Association, socket.socket] = {}

    def add(self, assoc: Association, connection: socket.socket) -> None:
        """Remember a connection that opened."""
        with self._lock:
            self._open[assoc] = connection
            oldest = next(iter(self._open)) if len(self._open) > self._limit else None
            victim = self._open.pop(oldest) if oldest is not None else None
        if victim is not None:
            with suppress(OSError):
                victim.shutdown(socket.SHUT_RDWR)

    def forget(self, assoc: Association) -> None:
        """It has asked, or is closed."""
        with self._lock:
            self._open.pop(assoc, None)


def _identifier(event: Any) -> Dataset:
    """Identifier of a request, its values still encoded."""
    try:
        return cast("Dataset", event.identifier)
    except Exception as error:
        raise InvalidQueryError("The identifier is not a readable data set.") from error


def _calling_ae_title(assoc: Association) -> str:
    """AE title of the peer."""
    return str(assoc.requestor.ae_title).strip()


def _log_failure(service: str, event: Any, error: Exception) -> None:
    """Log why a request failed: the sentence of an own error, which may quote keys, only for the peer."""
    known = isinstance(error, (PacsError, StorageError))
    _log.warning(
        "%s from %s failed: %s", service, _calling_ae_title(event.assoc), type(error).__name__, exc_info=not known
    )
