# SPDX-License-Identifier: Apache-2.0
"""Scans that are a manifest and nothing else: a plan reads no more."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ingest.chunks import ChunkFile, PixelDigests, ScanManifest, StoredScan, frames_layout, projection_layout
from ingest.scan import EnergyBin, FieldFrames
from reconstruction.geometry import ConeBeamGeometry
from tests.support.fake_store import FakeStore
from tests.support.scans import make_scan


def orbit(n_views=120, n_rows=64, n_cols=80, *, arc=2 * math.pi, **changes):
    values = {
        "sod_mm": 100.0, "sdd_mm": 160.0, "angles_rad": 0.1 + np.arange(n_views) * arc / n_views, "n_rows": n_rows,
        "n_cols": n_cols, "pitch_u_mm": 0.5, "pitch_v_mm": 0.5,
    }  # fmt: skip
    return ConeBeamGeometry.circular(**(values | changes))


def scan_of(geometry=None, n_bins=2, **changes):
    geometry = geometry or orbit()
    values = {
        "n_views": geometry.n_views, "n_rows": geometry.n_rows, "n_cols": geometry.n_cols, "geometry": geometry,
        "bins": tuple(EnergyBin(i) for i in range(n_bins)), "flats": FieldFrames(5), "darks": FieldFrames(5),
    }  # fmt: skip
    return make_scan(**(values | changes))


def stored_of(scan=None, *, memory_bytes=10**9):
    """A stored scan that is a manifest and nothing else: a plan reads no more."""
    scan = scan or scan_of()
    layouts = {"projection": projection_layout(scan, memory_bytes=memory_bytes)}
    if scan.flats is not None:
        layouts["flat"] = frames_layout("flat", scan, scan.flats.count)
    groups = tuple((1000,) * len(layouts["projection"].row_groups) for _ in scan.bins)
    digests = PixelDigests(("0" * 64,) * scan.n_views)
    return StoredScan(FakeStore(), ScanManifest(scan, digests, layouts, (), groups))


def large_scan(n_rows, n_cols, n_views, *, sod_mm, sdd_mm, pitch_mm, n_bins, n_fields=20):
    """A scan of uint16 counts that compression does not make smaller, with its chunk files' sizes."""
    geometry = ConeBeamGeometry.circular(
        sod_mm=sod_mm, sdd_mm=sdd_mm, angles_rad=np.arange(n_views) * 2 * math.pi / n_views, n_rows=n_rows,
        n_cols=n_cols, pitch_u_mm=pitch_mm, pitch_v_mm=pitch_mm,
    )  # fmt: skip
    scan = scan_of(geometry, n_bins=n_bins, flats=FieldFrames(n_fields), darks=FieldFrames(n_fields))
    manifest = stored_of(scan).manifest
    layouts = manifest.layouts | {"dark": frames_layout("dark", scan, n_fields)}
    row_bytes = n_cols * 2
    groups = tuple(n_views * (stop - start) * row_bytes for start, stop in layouts["projection"].row_groups)
    files = tuple(
        ChunkFile(layout.file_name(b, blocks), kind, b, blocks, views * n_rows * row_bytes, "0" * 64)
        for kind, layout in layouts.items()
        for b in range(n_bins)
        for blocks in layout.file_blocks
        for views in [layout.file_views(blocks)[1] - layout.file_views(blocks)[0]]
    )
    changed = dataclasses.replace(manifest, layouts=layouts, files=files, group_bytes=(groups,) * n_bins)
    return StoredScan(FakeStore(), changed)


def stone(pitch_mm=0.11):
    """Eight counters of a stone: 12 GB."""
    return large_scan(1448, 1448, 360, sod_mm=200.0, sdd_mm=280.0, pitch_mm=pitch_mm, n_bins=8)


def thorax():
    """Eight counters of a thorax, on a panel of 6000 x 4000 pixels."""
    return large_scan(6000, 4000, 720, sod_mm=600.0, sdd_mm=900.0, pitch_mm=0.1, n_bins=8)
