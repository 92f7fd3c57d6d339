# SPDX-License-Identifier: Apache-2.0
"""DIMSE statuses: one table from errors to codes (PS3.4 B.2.3, C.4; PS3.7 annex C)."""

from __future__ import annotations

from typing import Literal

from pydicom.dataset import Dataset

from pacs.errors import ClassMismatchError, ConformanceError, IndexUnavailableError, InvalidQueryError, PacsError
from storage.errors import StorageError

Service = Literal["STORE", "FIND", "GET", "MOVE"]

SUCCESS = 0x0000
PENDING = 0xFF00
CANCEL = 0xFE00
#: More matches exist than are answered (PS3.4 C.4.1.1.4).
LIMIT_REACHED = 0xB001
UNABLE_TO_PERFORM = 0xA702
CANNOT_UNDERSTAND = 0xC000

#: The first class that fits decides.  An error of none of these is a fault of this program.
_CODES: dict[Service, tuple[tuple[type[Exception], int], ...]] = {
    "STORE": (
        (ClassMismatchError, 0xA900),
        (ConformanceError, CANNOT_UNDERSTAND),
        (IndexUnavailableError, 0xA700),
        (StorageError, 0xA700),
    ),
    "FIND": ((InvalidQueryError, 0xA900), (IndexUnavailableError, 0xA700)),
    "GET": ((InvalidQueryError, 0xA900), (IndexUnavailableError, 0xA701)),
    "MOVE": ((InvalidQueryError, 0xA900), (IndexUnavailableError, 0xA701)),
}
_PROCESSING_FAILURE: dict[Service, int] = {"STORE": 0x0110, "FIND": 0xC001, "GET": 0xC001, "MOVE": 0xC001}
_COMMENT_CHARACTERS = 64


def status_of(error: Exception, service: Service) -> Dataset:
    """Status of a failed request, with a comment for the peer's operator."""
    for kind, code in _CODES[service]:
        if isinstance(error, kind):
            return status_dataset(code, str(error))
    comment = str(error) if isinstance(error, (PacsError, StorageError)) else "internal error, see the archive's log"
    return status_dataset(_PROCESSING_FAILURE[service], comment)


def status_dataset(code: int, comment: str = "") -> Dataset:
    """A status with an Error Comment (0000,0902): at most 64 characters of the default repertoire."""
    status = Dataset()
    status.Status = code
    if comment:
        plain = comment.encode("ascii", "replace").decode("ascii").replace("\\", "/").replace("\n", " ")
        fits = len(plain) <= _COMMENT_CHARACTERS
        status.ErrorComment = plain if fits else plain[: _COMMENT_CHARACTERS - 3] + "..."
    return status
