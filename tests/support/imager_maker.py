# SPDX-License-Identifier: Apache-2.0
"""Writes small files of medical imagers (.xim, .hnd, .hnc, .his) and of Pixet, independently of the readers."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

SCAN_XML = """<?xml version="1.0" encoding="utf-8"?>
<Scan xmlns="http://baden.varian.com/cr.xsd" Version="2.7.0.0">
  <Acquisitions>
    <Velocity>6.0</Velocity><SAD>{sod}</SAD><SID>{sdd}</SID>
    <ImagerSizeX>8</ImagerSizeX><ImagerSizeY>6</ImagerSizeY>
    <ImagerResX>0.388</ImagerResX><ImagerResY>0.388</ImagerResY>
    <ImagerLat>-160.0</ImagerLat><StartAngle>0</StartAngle><StopAngle>360</StopAngle><Fan>Half</Fan>
  </Acquisitions>
</Scan>
"""

OBI_XML = """<?xml version="1.0"?>
<ProjectionInfo><Acquisition><FanType>{fan}</FanType><DetectorPosLat>-148.0</DetectorPosLat>
<CalibratedSAD>{sod}</CalibratedSAD><CalibratedSID>{sdd}</CalibratedSID>
<CalibratedDetectorOffsetX>0.5</CalibratedDetectorOffsetX><CalibratedDetectorOffsetY>-0.25</CalibratedDetectorOffsetY>
<DetectorSizeX>0.388</DetectorSizeX><DetectorSizeY>0.388</DetectorSizeY><GantryRtnSpeed>6</GantryRtnSpeed>
</Acquisition></ProjectionInfo>
"""


def compress(frame: np.ndarray) -> tuple[bytes, bytes]:
    """The lookup table and the pixels of a frame: each pixel less its prediction, one by one."""
    flat, n_cols = [int(v) for v in frame.ravel()], frame.shape[1]
    codes, packed = [], b""
    for k in range(n_cols + 1, len(flat)):
        difference = flat[k] - flat[k - 1] - flat[k - n_cols] + flat[k - n_cols - 1]
        code = 0 if -128 <= difference < 128 else 1 if -32768 <= difference < 32768 else 2
        codes.append(code)
        packed += struct.pack("<" + "bhi"[code], difference)
    codes += [0] * (-len(codes) % 4)
    table = bytes(a | b << 2 | c << 4 | d << 6 for a, b, c, d in zip(*[iter(codes)] * 4, strict=True))
    first = flat[: n_cols + 1]
    return table, struct.pack(f"<{len(first)}i", *first) + packed


def xim_bytes(frame: np.ndarray | None, *, compressed: bool = True, **properties: object) -> bytes:
    """A .xim file; None makes one without pixels."""
    n_rows, n_cols = (0, 0) if frame is None else frame.shape
    content = struct.pack("<8s6i", b"VMS.XI\0\0", 1, n_cols, n_rows, 32, 4, int(compressed))
    if compressed:
        table, pixels = (b"", b"") if frame is None else compress(frame)
        content += struct.pack("<i", len(table)) + table + struct.pack("<i", len(pixels)) + pixels
        content += struct.pack("<i", 4 * n_rows * n_cols)
    else:
        pixels = b"" if frame is None else frame.astype("<i4").tobytes()
        content += struct.pack("<i", len(pixels)) + pixels
    content += struct.pack("<i3i", 3, 5, 6, 7)  # the histogram
    properties = {"GantryRtn": 0, "KVDoseArray": [1.0, 2.0], "Steps": (1, 2), "Name": "test", **properties}
    content += struct.pack("<i", len(properties))
    for name, value in properties.items():
        content += struct.pack("<i", len(name)) + name.encode()
        if isinstance(value, int):
            content += struct.pack("<ii", 0, value)
        elif isinstance(value, float):
            content += struct.pack("<id", 1, value)
        elif isinstance(value, str):
            content += struct.pack("<ii", 2, len(value)) + value.encode()
        elif isinstance(value, list):
            content += struct.pack(f"<ii{len(value)}d", 4, 8 * len(value), *value)
        else:
            content += struct.pack(f"<ii{len(value)}i", 5, 4 * len(value), *value)
    return content


def obi_bytes(
    frame: np.ndarray, *, angle_deg: float, compressed: bool, pitch: float = 0.388, chamber: float = 1.0
) -> bytes:
    """A .hnd (compressed) or .hnc file."""
    n_rows, n_cols = frame.shape
    numbers = dict.fromkeys(range(41), 0.0) | {2: 1000.0, 3: 1500.0, 24: pitch, 25: pitch, 30: 125.0, 31: 80.0}
    numbers |= {34: angle_deg, 35: chamber}
    header = struct.pack(
        "<32sI4sI8s8s16sI16sI16sIIId16sIII4s",
        b"VARIAN_VA_INTERNAL_HND_1.0" if compressed else b"VARIAN_VA_INTERNAL_1.0",
        0, b"", 0, b"20200102", b"030405", b"", 0, b"", 0, b"", 0, n_cols, n_rows, 0.0, b"RTIMAGE", 0, 0, 0, b"",
    )  # fmt: skip
    # The list of numbers begins with the slice's position, which the header above already holds.
    header += struct.pack("<40d", *[numbers[i + 1] for i in range(40)])
    if not compressed:
        return header.ljust(512, b"\0") + frame.astype("<u2").tobytes()
    table, pixels = compress(frame)
    return header.ljust(1024, b"\0") + table.ljust((n_rows - 1) * n_cols // 4, b"\0") + pixels


def his_bytes(values: np.ndarray) -> bytes:
    """A .his file of one frame, or several."""
    frames = values if values.ndim == 3 else values[None]
    n, n_rows, n_cols = frames.shape
    header = struct.pack("<4s3H", b"\x00\x70\x44\x00", 68, 100, 32)  # magic, file header, version, image header
    header = header[:10] + struct.pack("<6H", 32, 1, 1, n_cols, n_rows, n)
    header = header.ljust(32, b"\0") + struct.pack("<H", 4)
    return header.ljust(68 + 32, b"\0") + frames.astype("<u2").tobytes()


def frames_xml(angles_deg, u_centre, v_centre) -> str:
    """The XML file beside .his files."""
    frame = "<Frame><Seq>{}</Seq><GantryAngle>{}</GantryAngle><Inactive>False</Inactive>"
    frame += "<UCentre>{}</UCentre><VCentre>{}</VCentre></Frame>\n"
    rows = enumerate(zip(angles_deg, u_centre, v_centre, strict=True), start=1)
    listed = "".join(frame.format(number, *map(float, row)) for number, row in rows)
    image = "<Image><kV>120</kV><mA>25</mA><ms>40</ms><Width>8</Width></Image>"
    return f'<?xml version="1.0"?>\n<ProjectionSet>{image}<Frames>\n{listed}</Frames></ProjectionSet>\n'


def write_pixet(path: Path, frames: np.ndarray, *, kind: str, layout: str = "matrix", binary: bool = False, index=True):
    """A file of Pixet frames with its .dsc and, for more than one frame, its .idx; appended frame by frame."""
    n_rows, n_cols = frames.shape[1:]
    dtype = {"i16": "<i2", "u32": "<u4", "u64": "<u8", "double": "<f8"}[kind]
    content, described, positions = b"", f"{'B' if binary else 'A'}{len(frames):09d}\r\n".encode(), []
    for number, frame in enumerate(frames):
        if number:
            positions.append((len(described), len(content), 0))
        described += f"[F{number}]\r\nType={kind} {layout} width={n_cols} height={n_rows}\r\n".encode()
        for name, value in (
            ("Acq time", "double[1]\r\n0.250000 "),
            ("Interface", "char[7]\r\nMiniPIX"),
            ("Start time (string)", "char[64]\r\nThu Jun 20 16:53:39.466428 2019"),
            ("Threshold", "double[1]\r\n4.961003 "),
        ):
            described += f'"{name}" ("{name} of it"):\r\n{value}\r\n\r\n'.encode()
        content += _pixet_frame(frame, dtype, layout, binary=binary, first=number == 0)
    path.write_bytes(content)
    path.with_name(f"{path.name}.dsc").write_bytes(described)
    if positions and index:
        path.with_name(f"{path.name}.idx").write_bytes(struct.pack(f"<{3 * len(positions)}q", *sum(positions, ())))
    return path


def _pixet_frame(frame, dtype, layout, *, binary, first) -> bytes:
    written = "%.6f" if dtype == "<f8" else "%d"
    if layout == "matrix":
        if binary:
            return frame.astype(dtype).tobytes()
        return b"".join((" ".join(written % v for v in row) + "\r\n").encode() for row in frame)
    content = b"" if binary or first else b"#\r\n"
    for (row, col), value in np.ndenumerate(frame):
        if value:
            places = [row * frame.shape[1] + col] if layout == "[X,C]" else [col, row]
            if binary:
                content += struct.pack(f"<{len(places)}I", *places) + np.array(value, dtype).tobytes()
            else:
                content += ("\t".join([*map(str, places), written % value]) + "\r\n").encode()
    return content
