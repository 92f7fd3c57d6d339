# SPDX-License-Identifier: Apache-2.0
"""UIDs that follow from what they name, so that a rerun gives the same ones (PS3.5 B.2, UUID-derived UIDs)."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass

from pacs.errors import ConformanceError, EncodingError

#: Namespace of every name-based UUID made here.  Never change it: all UIDs ever written follow from it.
_NAMESPACE = uuid.UUID("7d0f6a52-3c0b-5b8e-9a7e-1d2f4c6b8e10")
#: PS3.5 9.1: components without leading zeros, digits and dots only, at most 64 characters.
_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_UID_LENGTH = 64


@dataclass(frozen=True, slots=True)
class RunKey:
    """What makes a reconstruction the same one again.

    Attributes
    ----------
    scan_sha256 : sha256 of the scan's stored manifest, hexadecimal.
    parameters_sha256 : `pacs.provenance.parameters_sha256` of all parameters: grid, filter, corrections, rescale,
        back end, precision, kernel version.
    run_id : "" for the first result; any other text makes a wanted second result.
    """

    scan_sha256: str
    parameters_sha256: str
    run_id: str = ""

    def __post_init__(self) -> None:
        for name, digest in (("scan_sha256", self.scan_sha256), ("parameters_sha256", self.parameters_sha256)):
            if not _SHA256.fullmatch(digest):
                raise EncodingError(f"{name} must be 64 lower-case hexadecimal digits, got '{digest}'")


def derive_uid(*parts: str | int) -> str:
    """Return the UID ``2.25.<UUID>`` of a list of names: the same for the same list, on every machine."""
    name = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


def study_uid(scan_id: str) -> str:
    """Return the Study Instance UID of a scan that came without an order."""
    return derive_uid("study", scan_id)


def frame_of_reference_uid(scan_sha256: str) -> str:
    """Return the Frame of Reference UID of a scan's rest frame: one for all runs, bins and products."""
    return derive_uid("frame of reference", scan_sha256)


def specimen_uid(identifier: str) -> str:
    """Return the Specimen UID of an identifier."""
    return derive_uid("specimen", identifier)


def series_uid(key: RunKey, product: str, bin_index: int) -> str:
    """Return the Series Instance UID of one bin of one product of a run."""
    return derive_uid("series", key.scan_sha256, key.parameters_sha256, key.run_id, product, bin_index)


def sop_instance_uid(key: RunKey, product: str, bin_index: int, z_index: int) -> str:
    """Return the SOP Instance UID of one slice; `z_index` counts from 0 in the whole volume."""
    return derive_uid("instance", key.scan_sha256, key.parameters_sha256, key.run_id, product, bin_index, z_index)


def require_uid(uid: str, *, what: str) -> str:
    """Return the UID if it is one (PS3.5 9.1), so that it is safe as part of a file name.

    Raises
    ------
    ConformanceError
        If it is empty, longer than 64 characters, or has other characters than digits and dots.
    """
    if not uid or len(uid) > MAX_UID_LENGTH or not _UID.fullmatch(uid):
        raise ConformanceError(f"{what} must be a UID of digits and dots, at most 64 characters, got {uid[:80]!r}")
    return uid


#: Implementation Class UID of this software (PS3.7 D.3.3.2), and its version name: parts of every file written.
IMPLEMENTATION_CLASS_UID = derive_uid("implementation", "ConePACS")
IMPLEMENTATION_VERSION_NAME = "CONEPACS_1"
