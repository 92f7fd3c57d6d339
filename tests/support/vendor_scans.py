# SPDX-License-Identifier: Apache-2.0
"""A specimen of balls that turns on a table, and its pictures as each vendor's scanner would store them.

Nothing here comes from the readers or from the poses: the specimen turns in the laboratory, source and panel stand
still.  The source is on +x, the table's axis is z; seen from the source +y is to the right and +z up.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from tests.support.imager_maker import SCAN_XML, frames_xml, his_bytes, xim_bytes
from tests.support.ole_maker import write_txrm
from tests.support.reader_samples_imagers import SKYSCAN_LOG

if TYPE_CHECKING:
    from pathlib import Path

#: Centre, radius (in units of the field's radius) and density (in units of the specimen's) of each ball.
BALLS = (
    ((0.0, 0.0, 0.0), 0.8, 1.0),
    ((0.5, 0.0, 0.1), 0.2, 1.5),
    ((0.0, 0.4, -0.1), 0.16, 2.5),
    ((-0.1, 0.1, 0.5), 0.16, 3.0),
    ((0.3, 0.3, 0.3), 0.15, -1.0),
)
MU_PER_MM_OF_RADIUS = 0.5


def pictures(turns_deg, *, shape, pitch_mm, sod_mm, sdd_mm, radius_mm, panel_mm=(0.0, 0.0)):
    """Line integrals (view, row, col), row 0 lowest, column 0 leftmost as seen from the source.

    `turns_deg`: how far the table has turned counter-clockwise seen from above; `panel_mm`: how far the middle of the
    panel lies to the right and above the central ray, one for all views or one each.
    """
    n_rows, n_cols = shape
    panel = np.broadcast_to(np.asarray(panel_mm, float), (len(turns_deg), 2))
    right = (np.arange(n_cols) - (n_cols - 1) / 2) * pitch_mm
    up = (np.arange(n_rows) - (n_rows - 1) / 2) * pitch_mm
    source = np.array([sod_mm, 0.0, 0.0])
    views = np.zeros((len(turns_deg), n_rows, n_cols))
    for view, turn in enumerate(np.deg2rad(turns_deg)):
        y, z = np.meshgrid(right + panel[view, 0], up + panel[view, 1])
        ray = np.stack([np.full(y.shape, -sdd_mm), y, z], axis=-1)
        ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        for (bx, by, bz), radius, density in BALLS:
            cos, sin = math.cos(turn), math.sin(turn)
            center = radius_mm * np.array([cos * bx - sin * by, sin * bx + cos * by, bz])
            along = ray @ (center - source)
            miss2 = ((center - source) ** 2).sum() - along**2
            chord = 2 * np.sqrt(np.maximum((radius * radius_mm) ** 2 - miss2, 0))
            views[view] += density * MU_PER_MM_OF_RADIUS / radius_mm * chord
    return views


def specimen(n: int, radius_mm: float) -> np.ndarray:
    """The specimen at rest, before the table has turned, (z, y, x) with n^3 voxels over the field's cube."""
    fine = 4
    axis = (np.arange(n * fine) + 0.5) / (n * fine) * 2 - 1
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    volume = np.zeros((n * fine,) * 3)
    for (bx, by, bz), radius, density in BALLS:
        volume += density * ((x - bx) ** 2 + (y - by) ** 2 + (z - bz) ** 2 < radius**2)
    coarse = volume.reshape(n, fine, n, fine, n, fine).mean(axis=(1, 3, 5))
    return coarse * MU_PER_MM_OF_RADIUS / radius_mm


def skyscan(folder: Path, *, direction: str = "CC") -> tuple[Path, float]:
    """Pictures seen from behind the panel, first row on top; the table turns as the log says; axis off the middle."""
    n, shape, radius, line, post = 72, (40, 44), 4.0, 17.0, 1.5
    sod, sdd, pitch = 40.0, 80.0, 0.5
    turns = 360 / n * np.arange(n) * (1 if direction == "CC" else -1)
    # The central ray meets row `line` from the bottom; higher columns of the picture are to the left.
    panel = (-post * pitch, ((shape[0] - 1) / 2 - line) * pitch)
    views = pictures(turns, shape=shape, pitch_mm=pitch, sod_mm=sod, sdd_mm=sdd, radius_mm=radius, panel_mm=panel)
    for number, view in enumerate(views):
        picture = np.round(57000 * np.exp(-view[::-1, ::-1])).astype(np.uint16)
        tifffile.imwrite(folder / f"stone~00{number:08d}.tif", picture)
    text = SKYSCAN_LOG.format(views=n, rows=shape[0], cols=shape[1])
    for old, new in {
        "Optical Axis (line)=  1": f"Optical Axis (line)={line:g}",
        "Camera to Source (mm)=200.0": f"Camera to Source (mm)={sdd}",
        "Object to Source (mm)=100.0": f"Object to Source (mm)={sod}",
        "Image Pixel Size (um)=18.0": f"Image Pixel Size (um)={1000 * pitch * sod / sdd}",
        "Rotation Step (deg)=0.400": f"Rotation Step (deg)={360 / n}",
        "Rotation Direction=CC": f"Rotation Direction={direction}",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "stone~00.log").write_text(f"{text}[Reconstruction]\nPostalignment={post}\n")
    return folder, radius


def zeiss(folder: Path) -> tuple[Path, float]:
    """Images with their lowest row first, the sample turns counter-clockwise, each image displaced by its shifts."""
    n, shape, radius = 72, (40, 44), 4.0
    sod, sdd, pitch = 40.0, 80.0, 0.5
    turns = 360 / n * np.arange(n)
    shifts = np.random.default_rng(1).uniform(-2, 2, (n, 2)).astype(np.float32)
    # An image that must be moved to higher columns was taken by a panel that stood further to the right.
    views = pictures(
        turns, shape=shape, pitch_mm=pitch, sod_mm=sod, sdd_mm=sdd, radius_mm=radius, panel_mm=shifts * pitch
    )
    source = write_txrm(
        folder / "stone.txrm",
        np.round(50000 * np.exp(-views)).astype(np.uint16),
        turns,
        ImageInfo__StoRADistance=np.float32([-sod] * n),
        ImageInfo__DtoRADistance=np.float32([sdd - sod] * n),
        ImageInfo__PixelSize=np.float32(1000 * pitch * sod / sdd),
        Alignment__XShifts=shifts[:, 0],
        Alignment__YShifts=shifts[:, 1],
        ReferenceData__Image=np.full(shape, 50000, np.uint16),
    )
    return source, radius


def varian(folder: Path) -> tuple[Path, float]:
    """The gantry goes round by IEC angles, which Varian's scale counts down from 180 degrees; the panel stands off."""
    n, shape, radius = 72, (40, 44), 120.0
    sod, sdd, pitch = 1000.0, 1500.0, 12.0
    iec = 360 / n * np.arange(n)
    lateral = np.full(n, 1.2) + 0.3 * np.sin(np.deg2rad(iec))
    panel = np.stack([10 * lateral, np.full(n, -6.0)], axis=1)
    # A gantry that goes counter-clockwise round a patient at rest is a patient that turns clockwise.
    views = pictures(-iec, shape=shape, pitch_mm=pitch, sod_mm=sod, sdd_mm=sdd, radius_mm=radius, panel_mm=panel)
    (folder / "Scan.xml").write_text(SCAN_XML.format(sod=sod, sdd=sdd))
    for number, view in enumerate(views):
        content = xim_bytes(
            np.round(50000 * np.exp(-view)).astype(np.int64), KVSourceRtn=180.0 - float(iec[number]),
            KVDetectorLat=float(lateral[number]), KVDetectorLng=-0.6, PixelWidth=pitch / 10, PixelHeight=pitch / 10,
        )  # fmt: skip
        (folder / f"Proj_{number:05d}.xim").write_bytes(content)
    (folder / "Filter.xim").write_bytes(xim_bytes(np.full(shape, 50000), KVSourceRtn=0.0))
    (folder / "scan.toml").write_text('[files]\nprojections = "Proj_*.xim"\nflats = "Filter.xim"\n')
    return folder, radius


def elekta(folder: Path) -> tuple[Path, float]:
    """Values that are high where much was attenuated, the central ray beside the middle of the panel."""
    n, shape, radius = 72, (40, 40), 110.0
    iec = 360 / n * np.arange(n)
    u_centre, v_centre = 11.0 + np.cos(np.deg2rad(iec)), np.full(n, -7.0)
    panel = np.stack([-u_centre, -v_centre], axis=1)
    views = pictures(
        -iec, shape=shape, pitch_mm=409.6 / 40, sod_mm=1000.0, sdd_mm=1536.0, radius_mm=radius, panel_mm=panel
    )
    for number, view in enumerate(views):
        values = np.clip(65536 - np.round(65536 * np.exp(-view)), 1, 65534).astype(np.uint16)
        (folder / f"{number + 1:05d}.his").write_bytes(his_bytes(values))
    (folder / "_Frames.xml").write_text(frames_xml(iec, u_centre, v_centre))
    return folder, radius


SCANS = {"skyscan": skyscan, "zeiss": zeiss, "varian": varian, "elekta": elekta}
