# SPDX-License-Identifier: Apache-2.0
"""Peak memory of each kind of task, from the manifest and the geometry alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingest.chunk_reader import MAX_RANGED_READ_BYTES
from spark_jobs.request import MEBIBYTE

if TYPE_CHECKING:
    from ingest.chunks import StoredScan
    from reconstruction.fdk import SlabSetup
    from reconstruction.geometry import VolumeGrid

#: Python, its libraries and the kernels in a worker before any pixel is read, when it has to compile them itself.
BASE_BYTES = 370 * MEBIBYTE
#: Slices taken out of the accumulator, encoded and packed at a time.
ENCODE_SLICES = 16
#: A pixel while cosine weights are made in float64 from the rays' vectors, or flat fields from their moments [B].
_WEIGHT_BYTES = 80
#: A pixel of the whole panel while bad pixels are looked for [B], besides the frames themselves.
_FIELD_BYTES = 96


def slab_task_bytes(
    stored: StoredScan, setup: SlabSetup, *, backend: str, blocks: int, batch_views: int, band_item_bytes: int | None
) -> int:
    """Peak memory of a slab task [B]: the slab, what is read ahead, and one batch on its way.

    Parameters
    ----------
    backend : its name
    blocks : view blocks read together
    batch_views : views filtered together
    band_item_bytes : size of a stored filtered value in two stages; None for fused runs
    """
    geometry, band, ramp = setup.geometry, setup.band, setup.ramp
    _, ny, nx = setup.grid.shape
    block_views = min(stored.layout.view_block, geometry.n_views)
    row_pixels = band.n_rows * geometry.n_cols
    volume = setup.slab.n_slices * ny * nx * 4
    transposed = batch_views * (band.n_rows + 2) * (ramp.n_out + 2) * 4
    encoding = _encoding_bytes(setup.grid)
    if band_item_bytes is not None:
        filtered = band.n_rows * ramp.n_out
        read = block_views * filtered * (4 * blocks + band_item_bytes) + batch_views * filtered * 4
    else:
        raw = 2 * blocks * block_views * row_pixels * stored.layout.dtype.itemsize
        corrected = batch_views * row_pixels * 4
        read = raw + corrected + _correction_bytes(stored, row_pixels) + _window_bytes(stored, band.n_rows)
    if backend == "numpy_reference":
        # Sums in float64, and one view's projection of every voxel.
        volume, transposed = 2 * volume, 200 * ny * nx + 40 * band.n_rows * ramp.n_fft
    return BASE_BYTES + volume + read + transposed + encoding


def filter_task_bytes(stored: StoredScan, setup: SlabSetup, *, n_rows: int) -> int:
    """Peak memory of a task that filters `n_rows` rows of one view block [B]."""
    geometry, ramp = setup.geometry, setup.ramp
    block_views = min(stored.layout.view_block, geometry.n_views)
    per_view = n_rows * (geometry.n_cols * (stored.layout.dtype.itemsize + 4) + ramp.n_out * 4)
    record = 4 * block_views * ramp.n_out * 4
    correction = _correction_bytes(stored, n_rows * geometry.n_cols)
    return BASE_BYTES + block_views * per_view + record + correction + _window_bytes(stored, n_rows)


def prepare_task_bytes(stored: StoredScan, probe_rows: int) -> int:
    """Peak memory of the task that looks for bad pixels over the whole panel of one bin, and then at coarse slices [B].

    Parameters
    ----------
    probe_rows : rows that the widest of the coarse slices needs
    """
    scan, layout = stored.scan, stored.layout
    panel = scan.n_rows * scan.n_cols
    search = panel * (2 * _n_frames(stored) * layout.dtype.itemsize + _FIELD_BYTES)
    row_pixels = probe_rows * scan.n_cols
    look = layout.view_block * row_pixels * (layout.dtype.itemsize + 16)
    look += _correction_bytes(stored, row_pixels) + _window_bytes(stored, probe_rows)
    return BASE_BYTES + max(search, look)


def _n_frames(stored: StoredScan) -> int:
    """Flat and dark frames of a bin."""
    return sum(fields.count for fields in (stored.scan.flats, stored.scan.darks) if fields is not None)


def _correction_bytes(stored: StoredScan, row_pixels: int) -> int:
    """What is made before a band of rows can be corrected and weighted [B]: masks of the panel, fields, weights."""
    panel = stored.scan.n_rows * stored.scan.n_cols
    return 8 * panel + row_pixels * (2 * _n_frames(stored) * stored.layout.dtype.itemsize + _WEIGHT_BYTES)


def _window_bytes(stored: StoredScan, n_rows: int) -> int:
    """What one ranged read holds besides its result [B]: stored bytes, unpacked page, table."""
    layout = stored.layout
    rows = min(n_rows + 2 * layout.row_group, layout.n_rows)
    pixel_bytes = layout.view_block * rows * layout.n_cols * layout.dtype.itemsize
    group_bytes = layout.view_block * layout.row_group * layout.n_cols * layout.dtype.itemsize
    return 3 * min(pixel_bytes, max(MAX_RANGED_READ_BYTES, group_bytes))


def _encoding_bytes(grid: VolumeGrid) -> int:
    """What slices on their way into a pack take [B]."""
    _, ny, nx = grid.shape
    return (ENCODE_SLICES * 8 + 48) * ny * nx
