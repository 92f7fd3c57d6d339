# SPDX-License-Identifier: Apache-2.0
"""What an upload tells: its progress, and a report at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.frame_statistics import BinStatistics

UploadStage = Literal["waiting", "reading", "writing", "done"]
#: A share of saturated pixels above this is worth a note.
_NOTED_SHARE = 1e-4


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """Where an upload is: called after every read, now and then while files are sent, and while waiting.

    Attributes
    ----------
    message : what is waited for, else empty.
    pixel_bytes_done, pixel_bytes : of the projections, before compression [B].
    sent_bytes : to the store in this run, compressed [B]; what had to be sent twice counts twice.
    bytes_per_s : of them, since the first was sent.
    """

    scan_id: str
    stage: UploadStage
    views_done: int
    n_views: int
    files_written: int
    files_kept: int
    message: str = ""
    pixel_bytes_done: int = 0
    pixel_bytes: int = 0
    sent_bytes: int = 0
    bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class UploadReport:
    """What an upload did.

    Attributes
    ----------
    scan_id, manifest_sha256 : the scan and its identity.
    unchanged : the scan was there already, and nothing was written.
    n_views, n_bins : int
    files_written, files_kept : chunk files written now, and found complete.
    pixel_bytes, stored_bytes : size of the projections before compression, and of all chunk files [B].
    sent_bytes, bytes_per_s : compressed, to the store in this run, and per second of sending [B, B/s].
    seconds : float
    statistics : of the projections, one for each energy bin.
    notes : plain sentences on what the pixels show, such as saturation.
    """

    scan_id: str
    manifest_sha256: str
    unchanged: bool
    n_views: int
    n_bins: int
    files_written: int
    files_kept: int
    pixel_bytes: int
    stored_bytes: int
    sent_bytes: int
    bytes_per_s: float
    seconds: float
    statistics: tuple[BinStatistics, ...]
    notes: tuple[str, ...]


def statistics_notes(statistics: tuple[BinStatistics, ...]) -> Iterator[str]:
    """Plain sentences on what is odd about the pixels."""
    for found in statistics:
        share = found.n_saturated / found.n_pixels
        if share > _NOTED_SHARE:
            yield f"bin {found.bin_index}: {found.n_saturated} pixels ({share:.2%}) are saturated"
        if found.minimum == found.maximum:
            yield f"bin {found.bin_index}: every pixel is {found.maximum:g}"
