# SPDX-License-Identifier: Apache-2.0
"""Errors of the viewer_api package, and the one table that turns errors into HTTP answers.

::

    ViewerApiError
    |-- BadRequestError (ValueError)
    |-- UnknownResourceError
    |-- NotAcceptableError
    |-- ForbiddenError
    |-- TooManyStreamsError
    `-- RenderError (ValueError)
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from jobs.errors import JobError, JobParameterError, JobStateError, UnknownJobError, UnknownKindError
from pacs.errors import (
    ConformanceError,
    IndexUnavailableError,
    InstanceNotFoundError,
    InvalidQueryError,
    PackError,
    PacsError,
)
from storage.errors import ChecksumError, DatabaseError, MissingFileError, StorageError, StoreUnavailableError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

_log = logging.getLogger(__name__)


class ViewerApiError(Exception):
    """Base of everything this package raises on purpose."""


class BadRequestError(ViewerApiError, ValueError):
    """A path or a parameter of a request is malformed."""


class UnknownResourceError(ViewerApiError):
    """No study, series, instance or frame of that name is in the archive."""


class NotAcceptableError(ViewerApiError):
    """None of the media types or transfer syntaxes that the client accepts can be made."""


class ForbiddenError(ViewerApiError):
    """What is asked for is not allowed from where the request comes from."""


class TooManyStreamsError(ViewerApiError):
    """As many clients follow events as the settings allow."""


class RenderError(ViewerApiError, ValueError):
    """An instance has no pixels that can be shown, or its pixels contradict its header."""


#: The first class that an error belongs to tells its status.
STATUS: tuple[tuple[type[Exception], int], ...] = (
    (BadRequestError, 400),
    (InvalidQueryError, 400),
    (JobParameterError, 400),
    (UnknownKindError, 400),
    (ForbiddenError, 403),
    (UnknownResourceError, 404),
    (UnknownJobError, 404),
    (InstanceNotFoundError, 404),
    (NotAcceptableError, 406),
    (JobStateError, 409),
    (RenderError, 422),
    (TooManyStreamsError, 503),
    (DatabaseError, 503),
    (IndexUnavailableError, 503),
    (StoreUnavailableError, 503),
    (ChecksumError, 500),
    (MissingFileError, 500),
    (PackError, 500),
    (ConformanceError, 500),
    (PacsError, 500),
    (StorageError, 500),
    (JobError, 500),
)
#: Errors whose text is meant for the client; those of the archive itself may name its files, and go to the log.
_TOLD = (ViewerApiError, InvalidQueryError, InstanceNotFoundError, JobError)
_UNTOLD = {
    503: "The archive does not answer at the moment.",
    500: "What the archive holds of this could not be read; the server's log says more.",
}


def status_of(error: Exception) -> int:
    """HTTP status of an error; 500 for one that is not in the table."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error with its status and ``{"error": one plain sentence}``."""
    for base in (ViewerApiError, PacsError, StorageError, JobError):
        app.add_exception_handler(base, _answer)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer)


def error_response(status: int, sentence: str) -> JSONResponse:
    """An error as JSON."""
    return JSONResponse({"error": sentence}, status_code=status, headers={"Cache-Control": "no-store"})


async def _answer(request: Request, error: Exception) -> JSONResponse:
    """An error by the table; what is the archive's own fault is logged."""
    status = status_of(error)
    if isinstance(error, _TOLD):
        return error_response(status, str(error))
    # The path holds UIDs only; a query string may hold a patient's name.
    _log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    return error_response(status, _UNTOLD[status])


async def _answer_invalid(_request: Request, error: Exception) -> JSONResponse:
    """A parameter of another type than the route declares."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    places = ", ".join(".".join(str(part) for part in one["loc"][1:]) for one in found)
    return error_response(400, f"The request is malformed in {places or 'a parameter'}.")


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    """An unknown path, or a method that a path does not have."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    sentences = {404: "There is no such resource.", 405: f"{request.method} is not possible here."}
    return error_response(status, sentences.get(status, "The request could not be answered."))
