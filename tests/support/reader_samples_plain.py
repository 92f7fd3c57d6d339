# SPDX-License-Identifier: Apache-2.0
"""Small samples of the array, tiff and nikon formats; each maker returns a `ReaderSample`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tifffile

from tests.support.reader_samples import ReaderSample

if TYPE_CHECKING:
    from pathlib import Path

GEOMETRY_TOML = """
[geometry]
kind = "circular"
sod_mm = 100.0
sdd_mm = 200.0
pitch_mm = 0.2
arc_deg = 360.0
"""

XTEKCT = """[XTekCT]
Name={name}
InputSeparator=_
InputFolderName=
SrcToObject=100.0
SrcToDetector=400.0
DetectorPixelsX={cols}
DetectorPixelsY={rows}
DetectorPixelSizeX=0.2
DetectorPixelSizeY=0.25
DetectorOffsetX=0.0
DetectorOffsetY=0
CentreOfRotationTop=0.0
CentreOfRotationBottom=0.0
WhiteLevel=60000.0
Projections={views}
InitialAngle=10.0
AngularStep={step}
[CTPro]
Filter_ThicknessMM=0.250
Filter_Material=Copper
[Xrays]
XraykV=160
XrayuA=140
"""


def counts(*shape: int, dtype: str = "uint16", seed: int = 1) -> np.ndarray:
    """Counts that differ in every pixel."""
    values = np.random.default_rng(seed).permutation(np.prod(shape)).reshape(shape) % 60000
    return values.astype(dtype)


def write_toml(folder: Path, text: str) -> Path:
    """Write the scan.toml of a folder."""
    path = folder / "scan.toml"
    path.write_text(text, encoding="utf-8")
    return path


def array_npy(folder: Path) -> ReaderSample:
    """A .npy of two energy bins, flats and a mask."""
    frames = counts(2, 5, 4, 6)
    flats, bad = counts(2, 3, 4, 6, seed=2), np.zeros((4, 6), bool)
    bad[1, 2] = True
    for name, array in {"projections": frames, "flats": flats, "bad": bad.astype(np.uint8)}.items():
        np.save(folder / f"{name}.npy", array)
    files = '[files]\nprojections = "projections.npy"\nflats = "flats.npy"\nbad_pixels = "bad.npy"\n'
    bins = "[[bins]]\nlow_kev = 20\nhigh_kev = 40\n[[bins]]\nlow_kev = 40\n"
    write_toml(folder, files + bins + GEOMETRY_TOML)
    return ReaderSample(folder, "array", frames, flats=flats, bad_pixels=bad, truncate=folder / "projections.npy")


def array_npz(folder: Path) -> ReaderSample:
    """A compressed .npz with flats and darks."""
    frames, flats, darks = counts(5, 4, 6), counts(3, 4, 6, seed=2), counts(2, 4, 6, seed=3)
    np.savez_compressed(folder / "scan.npz", projections=frames, flats=flats, darks=darks)
    write_toml(folder, GEOMETRY_TOML)
    source = folder / "scan.npz"
    return ReaderSample(source, "array", frames[None], flats=flats[None], darks=darks[None], truncate=source)


def array_frames(folder: Path) -> ReaderSample:
    """A folder of .npy files, one frame each, big-endian float64, first row on top."""
    frames = counts(12, 4, 6).astype(">f8")
    for index, frame in enumerate(frames):
        np.save(folder / f"view_{index + 1}.npy", frame)
    write_toml(folder, GEOMETRY_TOML + 'rows = "top-down"\n')
    expected = frames[None, :, ::-1].astype(np.float32)
    return ReaderSample(folder, "array", expected, truncate=folder / "view_3.npy")


def tiff_folder(folder: Path) -> ReaderSample:
    """A folder of TIFFs with flats and darks beside them."""
    frames, flats, darks = counts(11, 4, 6), counts(2, 4, 6, seed=2), counts(1, 4, 6, seed=3)
    for name, stack in {"proj": frames, "flat": flats, "dark": darks}.items():
        for index, frame in enumerate(stack):
            tifffile.imwrite(folder / f"{name}_{index}.tif", frame)
    write_toml(folder, '[files]\nflats = "flat_*.tif"\ndarks = "dark_*.tif"\n' + GEOMETRY_TOML)
    flip = np.s_[None, :, ::-1]
    return ReaderSample(
        folder, "tiff", frames[flip], flats=flats[flip], darks=darks[flip], truncate=folder / "proj_3.tif"
    )


def array_positions(folder: Path) -> ReaderSample:
    """A .npy of two energy bins that a stepped camera took, flats and darks of each position."""
    frames, flats, darks = counts(2, 6, 4, 6), counts(2, 5, 4, 6, seed=2), counts(2, 3, 4, 6, seed=3)
    np.save(folder / "projections.npy", frames)
    tables = ""
    for position, (views, flat, dark) in enumerate((("0::2", np.s_[:2], np.s_[:1]), ("1::2", np.s_[2:], np.s_[1:]))):
        np.save(folder / f"flats_{position}.npy", flats[:, flat])
        np.save(folder / f"darks_{position}.npy", darks[:, dark])
        tables += f'[[camera_positions]]\nviews = "{views}"\noffset_u_mm = {position - 0.5}\n'
        tables += f'flats = "flats_{position}.npy"\ndarks = "darks_{position}.npy"\n'
    files = '[files]\nprojections = "projections.npy"\n'
    write_toml(folder, files + GEOMETRY_TOML + tables)
    return ReaderSample(
        folder, "array", frames, flats=flats, darks=darks, truncate=folder / "projections.npy",
        camera_positions=(0, 1) * 3, flats_at=(2, 3), darks_at=(1, 2),
    )  # fmt: skip


def tiff_positions(folder: Path) -> ReaderSample:
    """A folder of TIFFs with flats of each camera position beside them, and darks of all."""
    frames, flats, darks = counts(5, 4, 6), counts(3, 4, 6, seed=2), counts(2, 4, 6, seed=3)
    for name, stack in {"proj": frames, "left": flats[:1], "right": flats[1:], "dark": darks}.items():
        for index, frame in enumerate(stack):
            tifffile.imwrite(folder / f"{name}_{index}.tif", frame)
    tables = '[[camera_positions]]\nviews = "0:3"\nflats = "left_*.tif"\n'
    tables += '[[camera_positions]]\nviews = [3, 4]\nflats = "right_*.tif"\n'
    write_toml(folder, '[files]\ndarks = "dark_*.tif"\n' + GEOMETRY_TOML + tables)
    flip = np.s_[None, :, ::-1]
    return ReaderSample(
        folder, "tiff", frames[flip], flats=flats[flip], darks=darks[flip], truncate=folder / "proj_3.tif",
        camera_positions=(0, 0, 0, 1, 1), flats_at=(1, 2),
    )  # fmt: skip


def tiff_stack(folder: Path) -> ReaderSample:
    """A multi-page BigTIFF, compressed, big-endian."""
    frames = counts(5, 4, 6, dtype="uint32")
    path = folder / "stack.tif"
    tifffile.imwrite(path, frames, bigtiff=True, byteorder=">", compression="zlib", photometric="minisblack")
    write_toml(folder, GEOMETRY_TOML + 'rows = "bottom-up"\n')
    return ReaderSample(path, "tiff", frames[None], truncate=path)


def nikon(folder: Path, *, views: int = 5, **changes: str) -> ReaderSample:
    """An .xtekct with numbered TIFFs; `changes` replaces or adds fields of [XTekCT]."""
    frames = counts(views, 4, 6)
    for index, frame in enumerate(frames):
        tifffile.imwrite(folder / f"bar_{index + 1:04d}.tif", frame)
    text = XTEKCT.format(name="bar", cols=6, rows=4, views=views, step=360 / views)
    kept = [line for line in text.splitlines() if line.split("=")[0] not in changes]
    kept[1:1] = [f"{key}={value}" for key, value in changes.items()]
    (folder / "bar.xtekct").write_text("\n".join(kept) + "\n", encoding="utf-8")
    expected = frames[None, :, ::-1, ::-1]
    return ReaderSample(folder, "nikon", expected, truncate=folder / "bar_0003.tif")


SAMPLES = {
    "array_npy": array_npy,
    "array_npz": array_npz,
    "array_frames": array_frames,
    "array_positions": array_positions,
    "tiff_positions": tiff_positions,
    "tiff_folder": tiff_folder,
    "tiff_stack": tiff_stack,
    "nikon": nikon,
}
