# SPDX-License-Identifier: Apache-2.0
"""Small samples of the skyscan, zeiss, varian, elekta and pixet formats; each maker returns a `ReaderSample`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tifffile

from tests.support.imager_maker import (
    OBI_XML,
    SCAN_XML,
    frames_xml,
    his_bytes,
    obi_bytes,
    write_pixet,
    xim_bytes,
)
from tests.support.ole_maker import write_txrm
from tests.support.reader_samples import ReaderSample

if TYPE_CHECKING:
    from pathlib import Path

SKYSCAN_LOG = """[System]
Scanner=SkyScan1272
Camera Pixel Size (um)=9.0
Camera X/Y Ratio=0.9851
[Acquisition]
Data Directory=D:\\Results\\stone
Filename Prefix=stone~00
Filename Index Length=8
Number Of Files=  {views}
Number Of Rows= {rows}
Number Of Columns= {cols}
Image crop origin Y=0
Camera binning=4x4
Image Rotation=0.0
Optical Axis (line)=  1
Camera to Source (mm)=200.0
Object to Source (mm)=100.0
Source Voltage (kV)=  60
Source Current (uA)= 166
Image Pixel Size (um)=18.0
Image Format=TIFF
Depth (bits)=16
Reference Intensity=57000
Exposure (ms)=1175
Rotation Step (deg)=0.400
Use 360 Rotation=NO
Flat Field Correction=ON
Filter=Al 0.25mm
Gantry direction=CC
Rotation Direction=CC
Scanning Trajectory=ROUND
Number of connected scans=1
Study Date and Time=14 Mar 2023  09h:00m:40s
"""


def counts(*shape, dtype="uint16", seed=1, high=60000):
    """Counts that differ."""
    return np.random.default_rng(seed).integers(1, high, shape).astype(dtype)


def skyscan(folder: Path, *, views: int = 6, **changes: object) -> ReaderSample:
    """A log with numbered pictures, a preview and a scout beside them; `changes` replaces or (None) drops fields."""
    frames = counts(views, 4, 6)
    for index, frame in enumerate(frames):
        tifffile.imwrite(folder / f"stone~00{index:08d}.tif", frame)
    tifffile.imwrite(folder / "stone~00_spr.tif", counts(9, 9))
    tifffile.imwrite(folder / "stone~000000.tif", counts(3, 3))
    text = SKYSCAN_LOG.format(views=views, rows=4, cols=6)
    lines = [line for line in text.splitlines() if line.split("=")[0] not in changes]
    lines += [f"{key}={value}" for key, value in changes.items() if value is not None]
    (folder / "stone~00.log").write_text("\r\n".join(lines) + "\r\n", encoding="utf-8")
    expected = frames[None, :, ::-1, ::-1]
    return ReaderSample(folder, "skyscan", expected, truncate=folder / "stone~0000000002.tif")


def zeiss_cone(folder: Path) -> ReaderSample:
    """Images large enough for whole sectors, with shifts and a reference."""
    images, reference = counts(3, 40, 60), counts(40, 60, seed=2)
    source = write_txrm(
        folder / "chip.txrm",
        images,
        np.array([0.0, 90.0, 180.0]),
        Alignment__XShifts=np.float32([0.0, 1.5, -2.0]),
        Alignment__YShifts=np.float32([0.0, -0.5, 1.0]),
        ReferenceData__Image=reference,
        ReferenceData__DataType=5,
        ReferenceData__ExpTime=np.float32(2.5),
    )
    return ReaderSample(source, "zeiss", images[None], flats=reference[None, None], truncate=source)


def zeiss_images(folder: Path) -> ReaderSample:
    """One image a file, of a parallel beam, as floats."""
    images = counts(4, 50, 30).astype(np.float32)
    for index, image in enumerate(images):
        write_txrm(
            folder / f"chip{index:02d}.xrm", image[None], np.array([3.0 * index]),
            ImageInfo__XrayGeometry=2, ImageInfo__AcquisitionMode=2,
        )  # fmt: skip
    return ReaderSample(folder, "zeiss", images[None], truncate=folder / "chip02.xrm")


def varian_xim(folder: Path) -> ReaderSample:
    """A TrueBeam scan: Scan.xml above, files without pixels first and last, both ways of storing pixels."""
    frames = counts(4, 6, 8, high=2**20, dtype="uint32")
    frames[1, 2:4] += 2**17
    projections = folder / "Acquisitions" / "123456"
    projections.mkdir(parents=True)
    (folder / "Scan.xml").write_text(SCAN_XML.format(sod=1000.0, sdd=1500.0), encoding="utf-8")
    for number in range(6):
        frame = frames[number - 1] if 1 <= number <= 4 else None
        content = xim_bytes(
            frame, compressed=number != 2, KVSourceRtn=90.0 - 2 * number,
            KVDetectorLat=-16.0, KVDetectorLng=0.1 * number, PixelWidth=0.0388, PixelHeight=0.0388,
            KVKiloVolts=125.0, KVMilliAmperes=60.0, KVMilliSeconds=20.0, KVNormChamber=1000.0 + number,
        )  # fmt: skip
        (projections / f"Proj_{number:05d}.xim").write_bytes(content)
    return ReaderSample(folder, "varian", frames[None], truncate=projections / "Proj_00003.xim")


def varian_hnd(folder: Path) -> ReaderSample:
    """Compressed files of the On-Board Imager."""
    frames = counts(3, 9, 8, high=2**18, dtype="uint32")
    (folder / "ProjectionInfo.xml").write_text(OBI_XML.format(sod=1000.0, sdd=1500.0, fan="HalfFan"))
    for number, frame in enumerate(frames):
        content = obi_bytes(frame, angle_deg=10.0 * number, compressed=True)
        (folder / f"Proj_{number:05d}.hnd").write_bytes(content)
    return ReaderSample(folder, "varian", frames[None], truncate=folder / "Proj_00001.hnd")


def varian_hnc(folder: Path) -> ReaderSample:
    """Plain files of the On-Board Imager."""
    frames = counts(3, 20, 24)
    (folder / "ProjectionInfo.xml").write_text(OBI_XML.format(sod=1000.0, sdd=1500.0, fan="FullFan"))
    for number, frame in enumerate(frames):
        content = obi_bytes(frame, angle_deg=10.0 * number, compressed=False)
        (folder / f"Proj_{number:05d}.hnc").write_bytes(content)
    return ReaderSample(folder, "varian", frames[None], truncate=folder / "Proj_00001.hnc")


def elekta(folder: Path) -> ReaderSample:
    """Frames of .his files, with values that stand for no attenuation."""
    values = counts(4, 8, 8, high=65535)
    values[0, 0, :2] = (0, 65535)
    for number, frame in enumerate(values):
        (folder / f"{number + 1:05d}.1.3.46.423632.his").write_bytes(his_bytes(frame))
    (folder / "_Frames.xml").write_text(frames_xml([0.0, 90, 180, -90], [115.0] * 4, [1.0] * 4))
    intensities = np.where((values == 0) | (values == 65535), 65535, 65536 - values.astype(np.int64)).astype(np.uint16)
    return ReaderSample(folder, "elekta", intensities[None], truncate=folder / "00003.1.3.46.423632.his")


def _sparse_counts(*shape, seed=1):
    frames = counts(*shape, seed=seed, high=30000)
    frames[np.random.default_rng(seed + 1).random(shape) < 0.6] = 0
    return frames


def _pixet(name, *, views=4, **how):
    def make(folder: Path) -> ReaderSample:
        frames = _sparse_counts(views, 5, 7)
        path = write_pixet(folder / name, frames, **how)
        stored = {"u32": np.uint32, "u64": np.uint32, "i16": np.uint16, "double": np.float32}[how["kind"]]
        return ReaderSample(path, "pixet", frames[None].astype(stored), truncate=path)

    return make


def pixet_series(folder: Path) -> ReaderSample:
    """One binary frame a file, for two thresholds."""
    frames = _sparse_counts(2, 3, 5, 7)
    for index in range(2):
        for number, frame in enumerate(frames[index]):
            write_pixet(folder / f"bin{index}_{number}.pbf", frame[None], kind="i16", binary=True)
    toml = '[files]\nprojections = "bin{bin}_*.pbf"\n[[bins]]\nlow_kev = 5\n[[bins]]\nlow_kev = 20\n'
    (folder / "scan.toml").write_text(toml)
    return ReaderSample(folder, "pixet", frames, truncate=folder / "bin1_1.pbf")


SAMPLES = {
    "skyscan": skyscan,
    "zeiss_cone": zeiss_cone,
    "zeiss_images": zeiss_images,
    "varian_xim": varian_xim,
    "varian_hnd": varian_hnd,
    "varian_hnc": varian_hnc,
    "elekta": elekta,
    "pixet_text": _pixet("scan.pmf", kind="i16"),
    "pixet_text_no_index": _pixet("scan.pmf", kind="u32", index=False),
    "pixet_text_sparse": _pixet("scan.pmf", kind="u32", layout="[X,C]"),
    "pixet_text_sparse_xy": _pixet("scan.pmf", kind="u64", layout="[X,Y,C]", index=False),
    "pixet_binary": _pixet("scan.pmf", kind="double", binary=True),
    "pixet_binary_sparse": _pixet("scan.pmf", kind="i16", layout="[X,C]", binary=True),
    "pixet_binary_sparse_xy": _pixet("scan.pmf", kind="u32", layout="[X,Y,C]", binary=True),
    "pixet_series": pixet_series,
}
