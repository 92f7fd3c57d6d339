# SPDX-License-Identifier: Apache-2.0
"""One frame of a Merlin ``.mib`` file: its MQ1 header, and its pixels.

The image is as the Merlin software assembles it.  Its row 0 is the lowest row of the picture: the
detector's digital test pattern reads upright only with row 0 at the bottom, so the project's rule
(row 0 the lowest v) needs no flip.  A quad has chip 1 at row 0, column 0, chip 2 to its right, and chips
3 and 4, turned by 180 degrees, above them.

Raw frames (``R64``) are the undecoded readout: 8-byte groups come reversed; 1-bit counters are
packed, the first pixel in the lowest bit; a 24-bit frame is two 12-bit readouts, the upper 12 bits
first; each readout row of a quad runs through the chips 4, 3, 2, 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ingest.errors import FrameFormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"MQ1,"
#: The fields of a header that carry its own size lie in its first bytes.
HEAD_BYTES = 24
CHIP_PIXELS = 256
#: Colour mode joins 2 x 2 pixels.
COLOUR_CHIP_PIXELS = 128
MAX_GAP_PIXELS = 32

StoredType = Literal["uint8", "uint16", "uint32"]

_INTEGER_BYTES = {"U01": 1, "U08": 1, "U16": 2, "U32": 4}
_STORED_TYPES: dict[int, StoredType] = {1: "uint8", 2: "uint16", 4: "uint32"}
_RAW_STORED_TYPES: dict[int, StoredType] = {1: "uint8", 6: "uint8", 12: "uint16", 24: "uint32"}
_RAW_BITS_IN_FILE = {1: 1, 6: 8, 12: 16, 24: 32}


@dataclass(frozen=True, slots=True)
class MibHeader:
    """The MQ1 header of one frame.

    Attributes
    ----------
    sequence : number of the frame in its acquisition, from 1.
    header_bytes : size of this header.
    n_chips : chips that were read out.
    n_cols, n_rows : size as the header gives it (of the readout, if raw).
    pixel_format : U01, U08, U16, U32 or R64.
    layout : 1x1, 2x2, Nx1; with G if pixels were inserted between the chips.
    acquired : local date and time of the frame, or "".
    exposure_s : shutter time [s].
    counter : 0 or 1, or 0 to 7 in colour mode.
    colour_mode : whether 2 x 2 pixels share eight thresholds.
    thresholds_kev : thresholds [keV], by counter number; empty if the header gives none.
    counter_depth : bits of the counter, None if the header does not say.
    """

    sequence: int
    header_bytes: int
    n_chips: int
    n_cols: int
    n_rows: int
    pixel_format: str
    layout: str
    acquired: str
    exposure_s: float
    counter: int
    colour_mode: bool
    thresholds_kev: tuple[float, ...]
    counter_depth: int | None


@dataclass(frozen=True, slots=True)
class FrameLayout:
    """How the bytes after a header become an image.

    Attributes
    ----------
    n_rows, n_cols : size of the decoded image, gaps included.
    payload_bytes : size of the frame in the file without its header.
    stored_type : dtype of the decoded image.
    integer_bytes : bytes of a big-endian pixel; None if the frame is raw.
    counter_depth : bits of the counter of a raw frame, else 0.
    chips_across, chips_up : chips along a row, and along a column.
    chip_rows, chip_cols : size of one chip's share of the image.
    gap_rows, gap_cols : pixels inserted between chips.
    """

    n_rows: int
    n_cols: int
    payload_bytes: int
    stored_type: StoredType
    integer_bytes: int | None
    counter_depth: int
    chips_across: int
    chips_up: int
    chip_rows: int
    chip_cols: int
    gap_rows: int
    gap_cols: int


def header_size(head: bytes, where: str) -> int:
    """Return the size [bytes] of the header that starts with `head` (HEAD_BYTES of it are enough).

    Raises
    ------
    FrameFormatError
        If no MQ1 header starts there.
    """
    fields = head[:HEAD_BYTES].split(b",")
    if not head.startswith(MAGIC) or len(fields) < 4:
        raise FrameFormatError(f"{where}: expected a frame header that starts with 'MQ1,', got {head[:12]!r}")
    if not fields[2].isdigit() or not 64 <= int(fields[2]) <= 65536:
        raise FrameFormatError(f"{where}: the frame header gives its own size as {fields[2]!r}, expected 384 or so")
    return int(fields[2])


def parse_header(header: bytes, where: str) -> MibHeader:
    """Read an MQ1 header.

    Parameters
    ----------
    header : the whole header, as many bytes as `header_size` says.
    where : file and offset, for messages.

    Raises
    ------
    FrameFormatError
        If a field is missing or malformed.
    """
    n_bytes = header_size(header, where)
    if len(header) < n_bytes:
        raise FrameFormatError(f"{where}: the frame header is cut off after {len(header)} of {n_bytes} bytes")
    text = header[:n_bytes].split(b"\0", 1)[0].decode("ascii", errors="replace")
    fields = [part.strip() for part in text.split(",")]
    if len(fields) < 14:
        raise FrameFormatError(f"{where}: the frame header has {len(fields)} fields, expected at least 14")
    try:
        return MibHeader(
            sequence=int(fields[1]),
            header_bytes=n_bytes,
            n_chips=int(fields[3]),
            n_cols=int(fields[4]),
            n_rows=int(fields[5]),
            pixel_format=fields[6].upper(),
            layout=fields[7],
            acquired=fields[9].replace(" ", "T", 1),
            exposure_s=float(fields[10]) if fields[10] else 0.0,
            counter=int(fields[11]),
            colour_mode=int(fields[12]) != 0,
            thresholds_kev=_thresholds(fields),
            counter_depth=_counter_depth(fields),
        )
    except ValueError as error:
        raise FrameFormatError(f"{where}: a field of the frame header is not a number ({error})") from error


def frame_layout(header: MibHeader, where: str) -> FrameLayout:
    """Work out size, type and chips of the frame that a header announces.

    Raises
    ------
    FrameFormatError
        If the size does not fit the chips, or pixel format or layout is not read.
    """
    across, up, has_gap = _chips(header, where)
    if header.n_rows < 1 or header.n_cols < 1:
        raise FrameFormatError(
            f"{where}: the frame is given as {header.n_rows} rows x {header.n_cols} columns, expected at least one "
            "of each"
        )
    if header.pixel_format == "R64":
        return _raw_layout(header, across, up, where)
    if header.pixel_format not in _INTEGER_BYTES:
        formats = ", ".join(_INTEGER_BYTES)
        raise FrameFormatError(f"{where}: pixel format '{header.pixel_format}' is not read, expected {formats} or R64")
    n_bytes = _INTEGER_BYTES[header.pixel_format]
    chip_cols, gap_cols = _chip_and_gap(header, header.n_cols, across, has_gap, f"{where}: columns")
    chip_rows, gap_rows = _chip_and_gap(header, header.n_rows, up, has_gap, f"{where}: rows")
    return FrameLayout(
        n_rows=header.n_rows,
        n_cols=header.n_cols,
        payload_bytes=header.n_rows * header.n_cols * n_bytes,
        stored_type=_STORED_TYPES[n_bytes],
        integer_bytes=n_bytes,
        counter_depth=0,
        chips_across=across,
        chips_up=up,
        chip_rows=chip_rows,
        chip_cols=chip_cols,
        gap_rows=gap_rows,
        gap_cols=gap_cols,
    )


def decode_frame(payload: bytes, layout: FrameLayout) -> NDArray[Any]:
    """Return the (row, col) image of the bytes after a header, row 0 the lowest v, in `stored_type`."""
    if layout.integer_bytes is not None:
        pixels = np.frombuffer(payload, dtype=f">u{layout.integer_bytes}")
        return pixels.reshape(layout.n_rows, layout.n_cols).astype(layout.stored_type)
    readout = _decode_raw(payload, layout)
    if layout.chips_up == 1:
        return readout
    chip4, chip3, chip2, chip1 = np.split(readout, 4, axis=1)
    image = np.empty((layout.n_rows, layout.n_cols), dtype=layout.stored_type)
    half_rows, half_cols = layout.chip_rows, layout.chip_cols
    image[:half_rows, :half_cols] = chip1
    image[:half_rows, half_cols:] = chip2
    image[half_rows:, :half_cols] = chip3[::-1, ::-1]
    image[half_rows:, half_cols:] = chip4[::-1, ::-1]
    return image


def gap_mask(layout: FrameLayout) -> NDArray[np.bool_] | None:
    """(row, col) bool: the pixels inserted between chips; None if there are none."""
    if not layout.gap_rows and not layout.gap_cols:
        return None
    mask = np.zeros((layout.n_rows, layout.n_cols), dtype=bool)
    for chip in range(1, layout.chips_up):
        stop = chip * (layout.chip_rows + layout.gap_rows)
        mask[stop - layout.gap_rows : stop] = True
    for chip in range(1, layout.chips_across):
        stop = chip * (layout.chip_cols + layout.gap_cols)
        mask[:, stop - layout.gap_cols : stop] = True
    return mask


def _decode_raw(payload: bytes, layout: FrameLayout) -> NDArray[Any]:
    """The readout as (row, col of all chips in readout order)."""
    groups = np.frombuffer(payload, dtype=np.uint8).reshape(-1, 8)
    shape = (layout.chip_rows, -1)
    if layout.counter_depth == 1:
        return np.unpackbits(groups[:, ::-1].reshape(-1), bitorder="little").reshape(shape)
    if layout.counter_depth == 6:
        return groups[:, ::-1].reshape(shape)
    # Reversing the 8 bytes of four big-endian values reverses the values and makes them little-endian.
    values = np.ascontiguousarray(groups[:, ::-1]).reshape(-1).view("<u2")
    if layout.counter_depth == 12:
        return values.reshape(shape)
    high, low = np.split(values.astype(np.uint32), 2)
    return ((high << np.uint32(12)) | low).reshape(shape)


def _raw_layout(header: MibHeader, across: int, up: int, where: str) -> FrameLayout:
    """Layout of an R64 frame: single chip or quad, whole rows."""
    depth = header.counter_depth
    if depth not in _RAW_STORED_TYPES:
        raise FrameFormatError(f"{where}: a raw frame (R64) needs a counter depth of 1, 6, 12 or 24 bit, got {depth}")
    if (across, up) not in ((1, 1), (2, 2)):
        raise FrameFormatError(f"{where}: a raw frame (R64) is read of one chip or of a 2x2 quad, got {header.layout}")
    if header.colour_mode:
        raise FrameFormatError(f"{where}: a raw frame (R64) in colour mode is not read")
    n_chips = across * up
    # A 24-bit raw frame counts both of its readouts as columns.
    if header.n_cols not in (n_chips * CHIP_PIXELS, n_chips * CHIP_PIXELS * (2 if depth == 24 else 1)):
        raise FrameFormatError(
            f"{where}: a raw frame of {n_chips} chips is given as {header.n_cols} columns, "
            f"expected {n_chips * CHIP_PIXELS}"
        )
    return FrameLayout(
        n_rows=up * header.n_rows,
        n_cols=across * CHIP_PIXELS,
        payload_bytes=header.n_rows * n_chips * CHIP_PIXELS * _RAW_BITS_IN_FILE[depth] // 8,
        stored_type=_RAW_STORED_TYPES[depth],
        integer_bytes=None,
        counter_depth=depth,
        chips_across=across,
        chips_up=up,
        chip_rows=header.n_rows,
        chip_cols=CHIP_PIXELS,
        gap_rows=0,
        gap_cols=0,
    )


def _chips(header: MibHeader, where: str) -> tuple[int, int, bool]:
    """Chips along a row and along a column, and whether pixels were inserted between them."""
    match = re.fullmatch(r"(\d+|N)x(\d+)(G?)", header.layout, flags=re.IGNORECASE)
    if match is None:
        raise FrameFormatError(f"{where}: sensor layout '{header.layout}' is not read, expected 1x1, 2x2 or Nx1")
    if header.n_chips == 1:
        return 1, 1, False
    across = header.n_chips if match[1].upper() == "N" else int(match[1])
    up = int(match[2])
    if across * up != header.n_chips or (up != 1 and (across, up) != (2, 2)):
        raise FrameFormatError(
            f"{where}: sensor layout '{header.layout}' with {header.n_chips} chips is not read, "
            "expected one chip, a whole 2x2 quad or an Nx1 row"
        )
    return across, up, match[3] != ""


def _chip_and_gap(header: MibHeader, size: int, n_chips: int, has_gap: bool, where: str) -> tuple[int, int]:
    """Size of one chip's share of a side, and of the gap between two shares."""
    full = COLOUR_CHIP_PIXELS if header.colour_mode else CHIP_PIXELS
    if n_chips == 1:
        if size > full:
            raise FrameFormatError(f"{where}: got {size} for one chip, expected at most {full}")
        return size, 0
    if not has_gap:
        if size % n_chips or size > n_chips * full:
            raise FrameFormatError(f"{where}: got {size} for {n_chips} chips, expected {n_chips * full}")
        return size // n_chips, 0
    gap, rest = divmod(size - n_chips * full, n_chips - 1)
    if rest or not 0 <= gap <= MAX_GAP_PIXELS:
        raise FrameFormatError(
            f"{where}: got {size} for {n_chips} chips with gaps, "
            f"expected {n_chips * full} and equal gaps of up to {MAX_GAP_PIXELS}"
        )
    return full, gap


def _thresholds(fields: list[str]) -> tuple[float, ...]:
    """The eight thresholds [keV]; raw frames of older software leave them out."""
    candidates = fields[14:22]
    if len(candidates) < 8 or not candidates[0] or "MQ1A" in candidates:
        return ()
    return tuple(float(value) for value in candidates)


def _counter_depth(fields: list[str]) -> int | None:
    """The counter depth [bit], last value of the MQ1A extension."""
    if "MQ1A" not in fields:
        return None
    last = [value for value in fields[fields.index("MQ1A") + 1 :] if value]
    return int(last[-1]) if last and last[-1].isdigit() else None
