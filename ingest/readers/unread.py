# SPDX-License-Identifier: Apache-2.0
"""Formats that people have and no reader here takes yet: known by name, so that the refusal can say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import FrameFormatError

if TYPE_CHECKING:
    from pathlib import Path

OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


@dataclass(frozen=True, slots=True)
class UnreadFormat:
    """A format that is known but not read.

    Attributes
    ----------
    name : what to call it, with its article, and what to do instead.
    suffixes : suffixes of its files, lower case; () for any.
    magic : how its files start; b"" for anyhow.
    """

    name: str
    suffixes: tuple[str, ...] = ()
    magic: bytes = b""

    def matches(self, path: Path, start: bytes) -> bool:
        """Whether a file with that start is of this format."""
        return (not self.suffixes or path.suffix.lower() in self.suffixes) and start.startswith(self.magic)


UNREAD_FORMATS = (
    UnreadFormat("a volume that Zeiss reconstructed (.txm), not projections: name the .txrm", (".txm",), OLE_MAGIC),
    UnreadFormat(
        "an OLE file, a container that Zeiss .txrm and .xrm use, without their suffix: give it one", (), OLE_MAGIC
    ),
    UnreadFormat(
        "a file of Timepix events, not frames: bin them into frames in Pixet",
        (".t3pa", ".t3p", ".t3r", ".clog", ".plog"),
    ),
)


def refuse_unread(source: Path) -> None:
    """Refuse a file of a format that is known and not read, by its name.

    Raises
    ------
    FrameFormatError
        If the source is such a file.
    """
    if not source.is_file():
        return
    longest = max(len(unread.magic) for unread in UNREAD_FORMATS)
    with source.open("rb") as stream:
        start = stream.read(longest)
    for unread in UNREAD_FORMATS:
        if unread.matches(source, start):
            raise FrameFormatError(f"{source} is {unread.name}; it is not read")
