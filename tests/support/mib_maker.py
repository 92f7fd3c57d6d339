# SPDX-License-Identifier: Apache-2.0
"""A writer of Merlin .mib files for tests; images are as the reader returns them, row 0 the lowest v."""

from __future__ import annotations

import numpy as np

DACS = ",".join(["3RX", *["050"] * 27])
THRESHOLDS_KEV = (18.0, 30.0, 45.0, 75.0, 0.0, 0.0, 0.0, 0.0)


def mib_header(
    *,
    sequence,
    n_cols,
    n_rows,
    pixel_format="U16",
    layout="1x1",
    n_chips=1,
    counter=0,
    colour=0,
    depth=12,
    thresholds=THRESHOLDS_KEV,
    header_bytes=None,
    acquired="2024-05-06 07:08:09.123456",
    exposure_s=0.3,
):
    """One MQ1 header, padded with zero bytes."""
    size = header_bytes or {1: 384, 4: 768}.get(n_chips, 384 + 128 * n_chips)
    kev = ",".join(f"{value:.6E}".replace("E+0", "E+").replace("E-0", "E-") for value in thresholds)
    chips = ",".join([DACS] * n_chips)
    settings = f"{kev},{chips}" if thresholds else ""
    text = (
        f"MQ1,{sequence:06d},{size:05d},{n_chips:02d},{n_cols:04d},{n_rows:04d},{pixel_format},{layout:>6},"
        f"{(1 << n_chips) - 1:02X},{acquired},{exposure_s:.6f},{counter},{colour},0,{settings},"
        f"MQ1A,2024-05-06T06:08:09.123456000Z,300000000ns,{depth},"
    )
    assert len(text) <= size, f"{len(text)} bytes of header do not fit {size}"
    return text.encode().ljust(size, b"\0")


def mib_frame(image, *, pixel_format="U16", layout="1x1", n_chips=1, depth=12, **fields):
    """Header and pixels of one frame; `fields` go into the header."""
    n_rows, n_cols = image.shape
    if pixel_format == "R64":
        readout = encode_raw(image, depth, quad=n_chips == 4)
        n_rows, n_cols = (n_rows // 2, 2 * n_cols) if n_chips == 4 else (n_rows, n_cols)
        n_cols *= 2 if depth == 24 else 1
        payload = readout
    else:
        payload = image.astype({"U08": ">u1", "U16": ">u2", "U32": ">u4"}[pixel_format]).tobytes()
    header = mib_header(
        n_rows=n_rows, n_cols=n_cols, pixel_format=pixel_format, layout=layout, n_chips=n_chips, depth=depth, **fields
    )
    return header + payload


def encode_raw(image, depth, *, quad=False):
    """The undecoded readout of an image: 64-bit words, the first pixel in the lowest bits."""
    if quad:
        half_rows, half_cols = image.shape[0] // 2, image.shape[1] // 2
        chip1, chip2 = image[:half_rows, :half_cols], image[:half_rows, half_cols:]
        chip3, chip4 = image[half_rows:, :half_cols], image[half_rows:, half_cols:]
        image = np.concatenate([chip4[::-1, ::-1], chip3[::-1, ::-1], chip2, chip1], axis=1)
    values = image.ravel().astype(np.uint32)
    if depth == 24:
        return _words(values >> 12, 16) + _words(values & 0xFFF, 16)
    return _words(values, {1: 1, 6: 8, 12: 16}[depth])


def _words(values, bits):
    """Values of some bits into big-endian 64-bit words."""
    groups = values.reshape(-1, 64 // bits).astype(np.uint64)
    shifts = np.arange(64 // bits, dtype=np.uint64) * np.uint64(bits)
    return np.bitwise_or.reduce(groups << shifts, axis=1).astype(">u8").tobytes()


def write_hdr(path, *, n_frames, counters="Counter 0", mode="SPM", **more):
    """The text file that Merlin writes beside the frames."""
    fields = {
        "Chip Type (Medipix 3.0, Medipix 3.1, Medipix 3RX)": "Medipix 3RX",
        "Chip Mode  (SPM, CSM, CM, CSCM)": mode,
        "Active Counters": counters,
        "Frames in Acquisition (Number)": n_frames,
        "Frames per Trigger (Number)": 1,
        "Readout System": "Merlin Quad",
        **more,
    }
    lines = ["HDR,\t", *(f"{name}:\t{value}" for name, value in fields.items()), "End\t"]
    path.write_text("\r\n".join(lines).ljust(2048), encoding="latin-1", newline="")
