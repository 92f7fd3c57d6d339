# SPDX-License-Identifier: Apache-2.0
"""Events of the queue as a stream of server-sent events: one reader of the table for each connection."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool

from jobs.errors import UnknownJobError
from jobs.json_values import event_json
from jobs.records import FINAL_STATES
from storage.errors import StorageError
from viewer_api.errors import TooManyStreamsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from jobs.queue import JobQueue

#: Seconds between two looks into the table, between two looks after one that failed, and between two signs of life.
POLL_S, RETRY_S, BEAT_S = 0.5, 5.0, 15.0
#: What a client is told to wait before it comes back [ms].
RECONNECT_MS = 3000
_PAGE = 200

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class EventStreams:
    """The streams of one service: how many are open, how many may be, and whether they are to end.

    Attributes
    ----------
    most : at once; a client too many is sent away.
    stopping : set when the service ends, as streams have no end of their own.
    """

    most: int
    stopping: threading.Event = field(default_factory=threading.Event)
    n_open: int = 0

    def reserve(self) -> None:
        """Count a stream in.  Runs on the event loop alone, as does the end of a stream.

        Raises
        ------
        TooManyStreamsError
            If there are as many as may be.
        """
        if self.n_open >= self.most:
            raise TooManyStreamsError(f"{self.most} clients follow events already, which is as many as are allowed.")
        self.n_open += 1

    def release(self) -> None:
        """Count a stream out."""
        self.n_open -= 1


class JobEventsResponse(EventSourceResponse):
    """A stream that counts as open until the client has gone, the stream has ended, or the service does.

    Raises
    ------
    TooManyStreamsError
        If as many are open as may be.
    """

    def __init__(self, queue: JobQueue, streams: EventStreams, after_id: int, job_id: int | None) -> None:
        streams.reserve()
        self._streams = streams
        # A proxy that gathers an answer before it sends it on would hold the events back.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(event_stream(queue, streams, after_id, job_id), headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until there are no more, or nobody to send them to."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.release()


async def event_stream(
    queue: JobQueue, streams: EventStreams, after_id: int, job_id: int | None
) -> AsyncIterator[bytes]:
    """Yield events after `after_id` as they come, of one job until it has ended, or of all jobs for ever."""
    last, said = after_id, time.monotonic()
    yield format_sse_event(retry=RECONNECT_MS, comment="events of jobs")
    while not streams.stopping.is_set():
        pause_s = POLL_S
        try:
            state, events = await run_in_threadpool(_look, queue, last, job_id)
        except UnknownJobError:
            return  # it was deleted meanwhile
        except StorageError as error:
            _log.warning("events of jobs cannot be read (%s); tried again", error)
            state, events, pause_s = "", [], RETRY_S
        for event in events:
            last, said = event.event_id, time.monotonic()
            yield _message(event.kind, event_json(event), last)
        if not events and state in FINAL_STATES:
            yield _message("end", {"job_id": job_id, "state": state}, None)
            return
        if time.monotonic() - said >= BEAT_S:
            said = time.monotonic()
            yield format_sse_event(comment="still here")
        if len(events) < _PAGE:
            await asyncio.sleep(pause_s)


def _look(queue: JobQueue, last: int, job_id: int | None) -> tuple[str, list[Any]]:
    """State of the job, if it is about one, asked for before its events: those that came with its end are then seen."""
    state = queue.get(job_id).state if job_id is not None else ""
    return state, queue.events(last, job_id=job_id, limit=_PAGE)


def _message(kind: str, content: dict[str, Any], event_id: int | None) -> bytes:
    """One event on the wire."""
    number = None if event_id is None else str(event_id)
    return format_sse_event(event=kind, data_str=json.dumps(content, ensure_ascii=False), id=number)
