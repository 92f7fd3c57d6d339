# SPDX-License-Identifier: Apache-2.0
"""Small samples of projections with the geometry of another program; each maker returns a `ReaderSample`."""

from __future__ import annotations

import math

import numpy as np

from ingest.exchange_export import OpenedSource, export_scan
from ingest.readers import SourceOptions
from ingest.readers.array import open_source
from reconstruction.exchange.files import geometry_bytes
from reconstruction.geometry import ConeBeamGeometry
from tests.support.reader_samples import ReaderSample

GEOMETRY_TOML = '[geometry]\nkind = "poses"\nposes_file = "poses.npy"\n'


def small_geometry(n_views=5, n_rows=4, n_cols=6, *, tilted=False):
    """An orbit of unequal steps, its panel shifted both ways; tilted: a little otherwise in each view."""
    steps = np.random.default_rng(2).uniform(0.7, 1.3, n_views)
    geometry = ConeBeamGeometry.circular(
        sod_mm=100.0, sdd_mm=160.0, angles_rad=np.cumsum(steps) / steps.sum() * 2 * math.pi, n_rows=n_rows,
        n_cols=n_cols, pitch_u_mm=0.9, pitch_v_mm=1.1, offset_u_mm=0.4, offset_v_mm=-0.3,
    )  # fmt: skip
    if not tilted:
        return geometry
    poses = geometry.poses.copy()
    for view in range(n_views):
        u, v = poses[view, 6:9].copy() / 0.9, poses[view, 9:12].copy() / 1.1
        angle = 0.02 + 0.01 * view
        poses[view, 6:9] = 0.9 * (math.cos(angle) * u + math.sin(angle) * v)
        poses[view, 9:12] = 1.1 * (math.cos(angle) * v - math.sin(angle) * u)
    return ConeBeamGeometry(poses, n_rows, n_cols)


def write_source(folder, frames, geometry, *, text="", **arrays):
    """A scan of ours: frames (bin, view, row, col) with poses."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "projections.npy", frames)
    np.save(folder / "poses.npy", geometry.poses)
    files = "[files]\nprojections = 'projections.npy'\n"
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        files += f"{name} = '{name}.npy'\n"
    bins = "[[bins]]\nlow_kev = 20\nhigh_kev = 40\n[[bins]]\nlow_kev = 40\n" if len(frames) == 2 else ""
    (folder / "scan.toml").write_text(text + files + GEOMETRY_TOML + bins)
    return folder


def exported(folder, target, frames, *, content="line_integrals", tilted=False, **arrays):
    """A set that our own exporter made."""
    geometry = small_geometry(*frames.shape[1:], tilted=tilted)
    source = write_source(folder / "source", frames, geometry, text=f"[scan]\ncontent = '{content}'\n", **arrays)
    reader = open_source(source, SourceOptions())
    export_scan(OpenedSource(reader), target, folder / "set", as_stored=True)
    reader.close()
    return folder / "set"


def _values(*shape, seed=1):
    return np.random.default_rng(seed).normal(1, 0.3, shape).astype(np.float32)


def _counts(*shape, seed=1):
    return np.random.default_rng(seed).integers(1, 60000, shape).astype(np.uint16)


def rtk_counts(folder):
    """RTK: .mha and XML, two bins of counts with flat and dark frames and a mask."""
    frames, bad = _counts(2, 5, 4, 6), np.zeros((4, 6), bool)
    bad[2, 1] = True
    flats, darks = _counts(2, 3, 4, 6, seed=2), _counts(2, 2, 4, 6, seed=3)
    arrays = {"flats": flats, "darks": darks, "bad_pixels": bad.astype(np.uint8)}
    source = exported(folder, "rtk", frames, content="counts", **arrays)
    return ReaderSample(
        source, "exchange", frames, flats=flats, darks=darks, bad_pixels=bad, truncate=source / "projections-1.mha"
    )


def astra_set(folder):
    """ASTRA: a sinogram stack (row, view, col) and its dictionary, without a description."""
    frames = _values(1, 5, 4, 6)
    np.save(folder / "sino.npy", frames[0].transpose(1, 0, 2))
    (folder / "geometry.json").write_bytes(geometry_bytes(small_geometry(), "astra", ".json"))
    return ReaderSample(folder, "exchange", frames, truncate=folder / "sino.npy")


def tigre_set(folder):
    """TIGRE's Python side."""
    frames = _values(1, 5, 4, 6)
    source = exported(folder, "tigre", frames, tilted=True)
    return ReaderSample(source, "exchange", frames, truncate=source / "projections.npy")


def tigre_matlab(folder):
    """TIGRE's MATLAB side, two bins."""
    frames = _values(2, 5, 4, 6)
    source = exported(folder, "tigre-matlab", frames)
    return ReaderSample(source, "exchange", frames, truncate=source / "projections-1.mat")


def leap_set(folder):
    """LEAP, the parameter file named as the source."""
    frames = _values(1, 5, 4, 6)
    source = exported(folder, "leap", frames, tilted=True)
    return ReaderSample(source / "geometry.cfg", "exchange", frames, truncate=source / "projections.npy")


def cil_nexus(folder):
    """CIL's NeXus file with two channels, alone."""
    frames = _values(2, 5, 4, 6)
    source = exported(folder, "cil", frames) / "projections.nxs"
    (source.parent / "scan.toml").unlink()
    return ReaderSample(source, "exchange", frames, truncate=source)


def cil_flex(folder):
    """CIL's vectors a view."""
    frames = _values(1, 5, 4, 6)
    source = exported(folder, "cil", frames, tilted=True)
    return ReaderSample(source, "exchange", frames, truncate=source / "projections.npy")


SAMPLES = {
    "exchange_rtk": rtk_counts,
    "exchange_astra": astra_set,
    "exchange_tigre": tigre_set,
    "exchange_tigre_matlab": tigre_matlab,
    "exchange_leap": leap_set,
    "exchange_cil": cil_nexus,
    "exchange_cil_flex": cil_flex,
}
