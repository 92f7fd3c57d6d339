# SPDX-License-Identifier: Apache-2.0
"""Which frame of a Merlin acquisition lies where: files into frames, frames into views and counters.

Merlin splits an acquisition over files by number of frames.  Their names sort badly (``x10.mib`` before
``x2.mib``), so the sequence numbers in the frame headers give the order.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import FrameFormatError, IncompleteScanError
from ingest.readers.mib_frames import HEAD_BYTES, MAGIC, frame_layout, header_size, parse_header

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from ingest.readers.mib_frames import MibHeader

#: More missing numbers than this are counted instead of listed.
LISTED_NUMBERS = 8

_SAME_IN_ALL = (
    "header_bytes",
    "n_chips",
    "n_cols",
    "n_rows",
    "pixel_format",
    "layout",
    "colour_mode",
    "thresholds_kev",
    "counter_depth",
)


@dataclass(frozen=True, slots=True)
class MibFrame:
    """One frame: the file, the offset of its header in it, and the header."""

    path: Path
    offset: int
    header: MibHeader

    @property
    def where(self) -> str:
        """File and offset, for messages."""
        return f"{self.path} at byte {self.offset}"


@dataclass(frozen=True, slots=True)
class FrameTable:
    """The frames of an acquisition.

    Attributes
    ----------
    counters : their numbers.
    views : for each view its frames, in the order of `counters`.
    left_out : positions of the views that do not exist, among those that do.
    """

    counters: tuple[int, ...]
    views: tuple[tuple[MibFrame, ...], ...]
    left_out: tuple[int, ...] = ()


def mib_paths(source: Path) -> list[Path]:
    """Return the .mib files that a source names: itself, those beside a .hdr of that name, or a folder's."""
    if source.is_dir():
        return sorted(p for p in source.iterdir() if p.suffix.lower() == ".mib" and p.is_file())
    if source.suffix.lower() == ".hdr":
        part = re.compile(re.escape(source.stem) + r"[_-]?\d*\.mib", flags=re.IGNORECASE)
        return sorted(p for p in source.absolute().parent.iterdir() if part.fullmatch(p.name))
    return [source]


def is_mib(path: Path) -> bool:
    """Whether a file starts as a Merlin frame does; False if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_acquisition_header(source: Path, paths: Sequence[Path]) -> dict[str, str]:
    """Return the fields of the .hdr file that belongs to a source, by name; empty if there is none.

    Raises
    ------
    FrameFormatError
        If the file does not start with 'HDR'.
    """
    if source.is_dir():
        found = sorted(p for p in source.iterdir() if p.suffix.lower() == ".hdr")
        candidates = found if len(found) == 1 else []
    elif source.suffix.lower() == ".hdr":
        candidates = [source]
    else:
        candidates = [p for p in (source.with_suffix(".hdr"), source.with_suffix(".HDR")) if p.is_file()][:1]
    if not candidates or not paths:
        return {}
    text = candidates[0].read_text(encoding="latin-1")
    if not text.startswith("HDR"):
        raise FrameFormatError(f"{candidates[0]}: expected a Merlin header file that starts with 'HDR'")
    fields = {}
    for line in text.splitlines()[1:]:
        name, tab, value = line.partition("\t")
        if tab and name != "End":
            fields[" ".join(name.rstrip(": ").split())] = value.strip()
    return fields


def index_files(paths: Iterable[Path], *, growing: bool = False) -> list[MibFrame]:
    """Return all frames of some files, in the order of the files.

    Parameters
    ----------
    paths : the .mib files.
    growing : leave out a frame at the end of a file that is not whole, instead of refusing it.

    Raises
    ------
    FrameFormatError
        If a file is cut short, or a header is malformed or contradicts the first one.
    """
    frames: list[MibFrame] = []
    for path in paths:
        frames += _index_file(path, frames[0] if frames else None, growing)
    return frames


def arrange(
    frames: Sequence[MibFrame],
    *,
    missing: Collection[int] = (),
    alternating: bool = False,
    growing: bool = False,
) -> FrameTable:
    """Sort frames into views and counters.

    A view's counters share a sequence number, or have numbers of their own, one after the other.

    Parameters
    ----------
    frames : at least one.
    missing : sequence numbers that are known not to exist.
    alternating : the two counters took turns (continuous read-write): each frame is a view.
    growing : leave out a last view that lacks counters, instead of refusing it.

    Raises
    ------
    FrameFormatError
        If two frames have the same number and counter.
    IncompleteScanError
        If sequence numbers, or counters of a view, are missing.
    """
    ordered = sorted(frames, key=lambda frame: (frame.header.sequence, frame.header.counter))
    for one, other in itertools.pairwise(ordered):
        same_counter = alternating or one.header.counter == other.header.counter
        if one.header.sequence == other.header.sequence and same_counter:
            raise FrameFormatError(
                f"{one.where} and {other.where} both hold frame {one.header.sequence}: "
                "name the files of one acquisition only"
            )
    _require_contiguous(ordered, missing)
    counters = (0,) if alternating else tuple(sorted({frame.header.counter for frame in ordered}))
    n = len(counters)
    own_numbers = n > 1 and len({frame.header.sequence for frame in ordered}) == len(ordered)
    by_view: dict[int, list[MibFrame]] = {}
    for frame in ordered:
        by_view.setdefault((frame.header.sequence - 1) // (n if own_numbers else 1), []).append(frame)
    positions = sorted(by_view)
    if growing and len(by_view[positions[-1]]) < n:
        positions.pop()
    views = (
        tuple((frame,) for frame in ordered) if n == 1 else tuple(_by_counter(by_view[i], counters) for i in positions)
    )
    left_out = sorted(set(range(positions[-1] + 1 if positions else 0)) - set(positions))
    return FrameTable(counters, views, tuple(left_out))


def require_same_kind(frame: MibFrame, first: MibFrame) -> None:
    """Refuse a frame of another size, type or set of thresholds than the first.

    Raises
    ------
    FrameFormatError
        Naming the first field that differs.
    """
    header, expected = frame.header, first.header
    changed = next((name for name in _SAME_IN_ALL if getattr(header, name) != getattr(expected, name)), None)
    if changed is None:
        return
    raise FrameFormatError(
        f"{frame.where}: {changed.replace('_', ' ')} is {getattr(header, changed)}, "
        f"expected {getattr(expected, changed)} as in {first.where}"
    )


def _index_file(path: Path, first: MibFrame | None, growing: bool) -> list[MibFrame]:
    """Frames of one file, checked against the first frame of all."""
    frames: list[MibFrame] = []
    size = path.stat().st_size
    if size == 0 and not growing:
        raise FrameFormatError(f"{path}: the file is empty, expected Merlin frames")
    offset = 0
    with path.open("rb") as stream:
        while offset < size:
            where = f"{path} at byte {offset}"
            left = size - offset
            if growing and left < HEAD_BYTES:
                break
            stream.seek(offset)
            head = stream.read(HEAD_BYTES)
            header_bytes = header_size(head, where)
            expected_bytes = first.header.header_bytes if first else header_bytes
            if header_bytes != expected_bytes:
                raise FrameFormatError(
                    f"{where}: the frame header gives its size as {header_bytes} bytes, "
                    f"expected {expected_bytes} as in {first.path if first else path}"
                )
            if left < header_bytes:
                if growing:
                    break
                raise FrameFormatError(
                    f"{where}: frame {len(frames) + 1} of the file is cut short: got {left} bytes, "
                    f"expected a header of {header_bytes}"
                )
            header = parse_header(head + stream.read(header_bytes - HEAD_BYTES), where)
            frame_bytes = header_bytes + frame_layout(header, where).payload_bytes
            if left < frame_bytes:
                if growing:
                    break
                raise FrameFormatError(
                    f"{where}: frame {len(frames) + 1} of the file is cut short: got {left} bytes, "
                    f"expected {frame_bytes} ({header_bytes} header and {frame_bytes - header_bytes} pixels)"
                )
            frame = MibFrame(path, offset, header)
            first = first or frame
            require_same_kind(frame, first)
            frames.append(frame)
            offset += frame_bytes
    return frames


def _require_contiguous(ordered: Sequence[MibFrame], known_missing: Collection[int]) -> None:
    """Refuse gaps in the sequence numbers, which start at 1."""
    present = {frame.header.sequence for frame in ordered}
    last = max(present)
    missing = [number for number in range(1, last + 1) if number not in present and number not in known_missing]
    if missing:
        listed = ", ".join(str(number) for number in missing[:LISTED_NUMBERS])
        more = f" and {len(missing) - LISTED_NUMBERS} more" if len(missing) > LISTED_NUMBERS else ""
        raise IncompleteScanError(
            f"{ordered[0].path.parent}: the frames with the sequence numbers {listed}{more} are missing "
            f"of 1 to {last}; if they do not exist, name them in [files] missing_views"
        )


def _by_counter(group: Sequence[MibFrame], counters: tuple[int, ...]) -> tuple[MibFrame, ...]:
    """The frames of one view in the order of the counters."""
    by_counter = {frame.header.counter: frame for frame in group}
    missing = [str(counter) for counter in counters if counter not in by_counter]
    if missing or len(group) != len(counters):
        raise IncompleteScanError(
            f"{group[0].where}: the view that starts with frame {group[0].header.sequence} lacks counter "
            f"{', '.join(missing) or 'order'}; expected the counters {', '.join(map(str, counters))} once each"
        )
    return tuple(by_counter[counter] for counter in counters)
