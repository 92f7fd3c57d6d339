# SPDX-License-Identifier: Apache-2.0
"""The queue of jobs over HTTP: kinds, submit, list, cancel, retry, logs, and events as they happen."""

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from jobs.json_values import event_json, job_json, kind_json
from jobs.queue import JobQueue
from jobs.records import FINAL_STATES, Job, JobState, NewJob
from viewer_api.deps import ServicesDep, services_of
from viewer_api.errors import BadRequestError, ForbiddenError, UnknownResourceError
from viewer_api.job_events import EventStreams, JobEventsResponse

Body = TypeVar("Body", bound=BaseModel)

router = APIRouter()

#: Bytes of a request's body at most.
MAX_BODY_BYTES = 1 << 20
_MAX_PAGE = 1000
_LOG_PAGE = 500
_NO_STORE = {"Cache-Control": "no-store"}


class JobBody(BaseModel):
    """A job to be submitted."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    user: str = ""
    priority: int = 0
    depends_on: list[int] = Field(default_factory=list)
    max_attempts: int = 3


class PriorityBody(BaseModel):
    """A job's new priority."""

    model_config = ConfigDict(extra="forbid")

    priority: int


def queue_of(services: ServicesDep) -> JobQueue:
    """The queue behind the service."""
    if services.queue is None:
        raise UnknownResourceError("This server has no queue of jobs.")
    return services.queue


def require_may_change(request: Request) -> None:
    """Refuse a change from another machine unless the settings allow it: there are no user accounts yet."""
    settings = services_of(request).settings
    if not settings.allows_changes_from(request.client.host if request.client is not None else ""):
        raise ForbiddenError(
            "Jobs are submitted and steered from the server's own machine only: there are no user accounts yet "
            "(setting http.remote_changes)."
        )


async def json_body(request: Request) -> bytes:
    """Body of a request, which has to be JSON and of bounded size.

    A page of another site cannot send this media type without asking first, which is refused.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise BadRequestError(f"The body has to be application/json, got '{media_type or 'no media type'}'.")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise BadRequestError(f"The body is larger than {MAX_BODY_BYTES} bytes.")
    return bytes(body)


QueueDep = Annotated[JobQueue, Depends(queue_of)]
ChangeDep = Depends(require_may_change)
BodyDep = Annotated[bytes, Depends(json_body)]
Limit = Annotated[int, Query(ge=1, le=_MAX_PAGE)]
EventId = Annotated[int | None, Query(ge=0)]


@router.get("/kinds")
def kinds(queue: QueueDep) -> Response:
    """Kinds of jobs that can be submitted, with the JSON schemas of their parameters."""
    return _answer({"kinds": [kind_json(kind) for kind in queue.kinds.values()]})


@router.post("/jobs", dependencies=[ChangeDep])
def submit(queue: QueueDep, body: BodyDep) -> Response:
    """Submit a job: 201 with the job, its address in Location."""
    wanted = _parsed(JobBody, body)
    job = queue.submit(
        NewJob(
            wanted.kind, wanted.parameters, user=wanted.user, priority=wanted.priority,
            depends_on=tuple(wanted.depends_on), max_attempts=wanted.max_attempts,
        )
    )  # fmt: skip
    headers = _NO_STORE | {"Location": f"/api/jobs/{job.job_id}"}
    return JSONResponse(job_json(job), status_code=201, headers=headers)


@router.get("/jobs")
def list_jobs(
    queue: QueueDep,
    state: Annotated[list[JobState] | None, Query()] = None,
    user: str | None = None,
    kind: str | None = None,
    limit: Limit = 100,
    before_id: int | None = None,
) -> Response:
    """Jobs, newest first; ``next_before_id`` asks for the next page, null at the end."""
    found = queue.list(states=state or (), user=user, kind=kind, limit=limit, before_id=before_id)
    following = found[-1].job_id if len(found) == limit else None
    return _answer({"jobs": [job_json(job) for job in found], "next_before_id": following})


@router.get("/jobs/{job_id}")
def show(queue: QueueDep, job_id: int) -> Response:
    """One job."""
    return _job(queue.get(job_id))


@router.post("/jobs/{job_id}/cancel", dependencies=[ChangeDep])
def cancel(queue: QueueDep, job_id: int) -> Response:
    """Cancel a job: one that runs is stopped by its runner."""
    return _job(queue.cancel(job_id))


@router.post("/jobs/{job_id}/retry", dependencies=[ChangeDep])
def retry(queue: QueueDep, job_id: int) -> Response:
    """Let a failed or cancelled job wait again."""
    return _job(queue.retry(job_id))


@router.post("/jobs/{job_id}/priority", dependencies=[ChangeDep])
def set_priority(queue: QueueDep, job_id: int, body: BodyDep) -> Response:
    """Change the priority of a job that has not ended."""
    return _job(queue.set_priority(job_id, _parsed(PriorityBody, body).priority))


@router.get("/jobs/{job_id}/log")
def log(queue: QueueDep, job_id: int, after_id: Annotated[int, Query(ge=0)] = 0, limit: Limit = 100) -> Response:
    """Lines of a job's log, oldest first; ``next_after_id`` asks for what comes after them."""
    queue.get(job_id)
    lines: list[dict[str, Any]] = []
    last = after_id
    while len(lines) < limit:
        events = queue.events(last, job_id=job_id, limit=_LOG_PAGE)
        for event in events:
            last = event.event_id
            if event.kind == "log":
                told = event_json(event)
                lines.append({"event_id": last, "at": told["at"], **event.content})
                if len(lines) == limit:
                    break
        if len(events) < _LOG_PAGE:
            break
    return _answer({"lines": lines, "next_after_id": last})


@router.get("/jobs/{job_id}/events")
async def job_events(request: Request, queue: QueueDep, job_id: int, after_id: EventId = None) -> Response:
    """What happens to a job as server-sent events, from its first; ends with it (``event: end``).

    Who comes back after that gets 204, by which a browser's EventSource knows that there is no more.
    """
    last = _resumed(request, after_id)
    job = await run_in_threadpool(queue.get, job_id)
    if last is not None and job.state in FINAL_STATES:
        if not await run_in_threadpool(queue.events, last, job_id=job_id, limit=1):
            return Response(status_code=204, headers=_NO_STORE)
    return _stream(request, queue, last or 0, job_id)


@router.get("/events")
async def all_events(request: Request, queue: QueueDep, after_id: EventId = None) -> Response:
    """What happens to all jobs as server-sent events, from now on unless told from where."""
    last = _resumed(request, after_id)
    if last is None:
        last = await run_in_threadpool(queue.last_event_id)
    return _stream(request, queue, last, None)


def _resumed(request: Request, after_id: int | None) -> int | None:
    """The event to go on after: the header that a browser sends when it comes back, else the parameter."""
    header = request.headers.get("last-event-id", "").strip()
    if not header:
        return after_id
    if not (header.isascii() and header.isdigit() and len(header) < 19):
        raise BadRequestError(f"Last-Event-ID has to be the number of an event, got '{header[:40]}'.")
    return int(header)


def _stream(request: Request, queue: JobQueue, after_id: int, job_id: int | None) -> Response:
    """Open a stream if there is room for one."""
    streams: EventStreams = request.app.state.event_streams
    return JobEventsResponse(queue, streams, after_id, job_id)


def _parsed(kind: type[Body], body: bytes) -> Body:
    """Read a body; BadRequestError names the first thing that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadRequestError(f"The body is malformed{f' in {place}' if place else ''}: {first['msg']}.") from error


def _job(job: Job) -> Response:
    return _answer(job_json(job))


def _answer(content: dict[str, Any]) -> Response:
    """An answer that must not be kept: jobs change."""
    return JSONResponse(content, headers=_NO_STORE)
