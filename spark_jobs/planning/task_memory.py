# SPDX-License-Identifier: Apache-2.0
"""Peak memory of each kind of task, from the manifest and the geometry alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ingest.chunk_reader import MAX_RANGED_READ_BYTES
from reconstruction.slabs import SLAB_ALIGNMENT
from spark_jobs.planning.gpu_memory import host_bytes, on_gpu
from spark_jobs.planning.request import MEBIBYTE
from spark_jobs.run_files.brick_files import slices_of_a_read

if TYPE_CHECKING:
    from ingest.chunks import StoredScan
    from reconstruction.bricks import Window
    from reconstruction.fdk import SlabSetup
    from reconstruction.geometry import VolumeGrid
    from spark_jobs.planning.view_groups import StepSizes, ViewGroup

#: Python, its libraries and the kernels in a worker before any pixel is read, when it has to compile them itself.
BASE_BYTES = 370 * MEBIBYTE
#: Slices taken out of the accumulator, encoded and packed at a time, where the memory allows.
ENCODE_SLICES = 16
#: A pixel of the rows that a task corrects: white, dark, mask, cosine weight, and what is made on the way to them [B].
_WEIGHT_BYTES = 24
#: White and dark of a further camera position, and what is held besides while they are read: for each pixel [B].
_SET_BYTES, _READ_SET_BYTES = 8, 16
#: Views that a filter task resamples together.
RESAMPLED_TOGETHER = 32
#: A pixel of a view while it is resampled [B].
_RESAMPLE_BYTES = 64
#: While shares of turns are found: of each turn, view and slice, so many slices at a time; and of each view's pose [B].
_SHARE_BYTES, _SHARE_SLICES, _POSE_BYTES = 56, 8, 7000
#: A pixel of a band of flat or dark frames while its moments are found [B].
_MOMENT_BYTES = 80
#: A pixel of the panel while bad pixels are looked for [B]: statistics, and their copies while medians are found.
_FIELD_BYTES = 56


def encode_slices(grid: VolumeGrid, factor: int, memory_bytes: int) -> int:
    """Return how many slices go into a pack at a time: 16, or fewer if large; a multiple of the preview's factor."""
    slices = max(ENCODE_SLICES, factor)
    while slices > factor and encoding_bytes(grid, slices) > memory_bytes // 4:
        slices //= 2
    return slices


def encoding_bytes(grid: VolumeGrid, slices: int = ENCODE_SLICES) -> int:
    """What slices on their way into a pack take [B]."""
    _, ny, nx = grid.shape
    return (slices * 4 + 48) * ny * nx


def slab_task_bytes(
    stored: StoredScan,
    setup: SlabSetup,
    *,
    backend: str,
    sizes: StepSizes,
    batch_views: int,
    band_item_bytes: int | None,
    slices: int = ENCODE_SLICES,
    binning: int = 1,
) -> int:
    """Peak memory of a slab task [B]: the slab, what is read ahead, and one batch on its way.

    Parameters
    ----------
    backend : its name
    sizes : of the largest of its steps
    batch_views : views filtered together
    band_item_bytes : size of a stored filtered value in two stages; None for fused runs
    slices : slices that are encoded at a time
    binning : pixels of a side that are averaged after the logarithm
    """
    band, ramp = setup.band, setup.ramp
    _, ny, nx = setup.grid.shape
    block_views = min(stored.layout.view_block, stored.scan.n_views)
    row_pixels = sizes.rows * binning * stored.scan.n_cols
    volume = volume_bytes(setup, backend)
    transposed = batch_views * (band.n_rows + 2) * (ramp.n_out + 2) * 4
    if band_item_bytes is not None:
        filtered = band.n_rows * ramp.n_out
        # Records of one group are read at a time; of four of them, all are held.
        record = min(sizes.views, block_views) * filtered * band_item_bytes
        read = sizes.views * filtered * 4 + record + batch_views * filtered * 4
    else:
        raw = sizes.blocks * block_views * row_pixels * stored.layout.dtype.itemsize
        read = raw + _view_bytes(setup, row_pixels, band.n_rows, batch_views, binning)
        read += _correction_bytes(stored, sizes.all_rows * binning * stored.scan.n_cols)
        read += _window_bytes(stored, sizes.rows * binning)
    if backend == "numpy_reference":
        # One view's projection of every voxel.
        transposed = 200 * ny * nx + 40 * band.n_rows * ramp.n_fft
    elif on_gpu(backend):
        volume, transposed = host_bytes(setup, backend), 0
    encoding = encoding_bytes(setup.grid, min(slices, setup.slab.n_slices))
    return BASE_BYTES + max(volume + read + transposed + encoding + _kept_shares(setup), _setup_bytes(setup))


def volume_bytes(setup: SlabSetup, backend: str) -> int:
    """Voxels of a slab or brick as a back end holds them [B]: whole SIMD runs of slices, or sums in float64."""
    ny, nx = setup.made_area.shape
    n_slices = setup.slab.n_slices
    if backend.startswith("numba"):
        n_slices = math.ceil(n_slices / SLAB_ALIGNMENT) * SLAB_ALIGNMENT
    return (8 if backend == "numpy_reference" else 4) * n_slices * ny * nx


def _view_bytes(setup: SlabSetup, frame_pixels: int, n_rows: int, batch_views: int, binning: int) -> int:
    """What correcting the frames of some views takes, and resampling these from them [B]."""
    corrected = frame_pixels * (4 if binning == 1 else 6)
    if setup.virtual is None:
        return batch_views * corrected
    resampled = n_rows * setup.geometry.n_cols
    return batch_views * (setup.virtual.n_slots * corrected + 4 * resampled) + _RESAMPLE_BYTES * resampled


def _kept_shares(setup: SlabSetup) -> int:
    """Shares of the views in the slices, and their copy for the kernel [B]."""
    return 0 if setup.slice_weights is None else 2 * setup.slice_weights.nbytes


def _setup_bytes(setup: SlabSetup) -> int:
    """What rows and shares of all views take while they are found, before any pixel is read [B]."""
    geometry = setup.geometry
    poses = 0 if geometry.circular_orbit is not None else geometry.n_views * _POSE_BYTES
    orbits = setup.redundancy.orbits
    if setup.slice_weights is None or orbits.kind != "helix":
        return poses + _kept_shares(setup)
    track = max(orbits.tracks, key=lambda each: each.views.size)
    n_turns = math.ceil((track.runs[-1][1] - track.runs[0][0]) / (2 * math.pi)) + 1
    together = min(setup.slab.n_slices, _SHARE_SLICES)
    return max(poses, track.views.size * together * n_turns * _SHARE_BYTES) + _kept_shares(setup)


def brick_task_bytes(
    groups: tuple[ViewGroup, ...],
    setup: SlabSetup,
    window: Window,
    *,
    backend: str,
    batch_views: int,
    band_item_bytes: int,
) -> int:
    """Peak memory of a brick task [B]: the brick, the largest window of filtered rows that it reads, one batch."""
    block_views = max(group.n_views for group in groups)
    ny, nx = setup.made_area.shape
    volume = volume_bytes(setup, backend)
    values = window.n_rows * window.n_cols
    transposed = batch_views * (window.n_rows + 2) * (window.n_cols + 2) * 4
    # A ranged read is one tile; taken as the whole window, since a brick may see one tile only.
    read = block_views * values * (4 + band_item_bytes)
    writing = 2 * ENCODE_SLICES * ny * nx * 4
    if backend == "numpy_reference":
        transposed = 200 * ny * nx + 40 * values
    elif on_gpu(backend):
        volume, transposed = host_bytes(setup, backend), 0
    return BASE_BYTES + max(volume + read + transposed + writing + _kept_shares(setup), _setup_bytes(setup))


def assemble_task_bytes(grid: VolumeGrid, slices: int, n_y: int, n_x: int) -> int:
    """Peak memory of a task that puts slices together from bricks of so many voxels, and encodes them [B]."""
    read = slices_of_a_read(n_y, n_x) + 1
    return BASE_BYTES + encoding_bytes(grid, slices) + read * n_y * n_x * 4


def filter_batch(setup: SlabSetup, n_views: int) -> int:
    """Views that a filter task corrects together: all, or some where they are resampled."""
    return n_views if setup.virtual is None else min(n_views, RESAMPLED_TOGETHER)


def filter_task_bytes(
    stored: StoredScan,
    setup: SlabSetup,
    groups: tuple[ViewGroup, ...],
    *,
    rows: tuple[int, int],
    frame_rows: int,
    binning: int = 1,
) -> int:
    """Peak memory of a task that filters some rows of one group of views [B], made of so many rows of the frames."""
    n_rows, ramp = rows[1] - rows[0], setup.ramp
    block_views = min(stored.layout.view_block, stored.scan.n_views)
    group_views, n_blocks = max(g.n_views for g in groups), max(len(g.blocks) for g in groups)
    raw_pixels = frame_rows * binning * stored.scan.n_cols
    raw = n_blocks * block_views * raw_pixels * stored.layout.dtype.itemsize
    batch = filter_batch(setup, group_views)
    filtered = group_views * n_rows * ramp.n_out * 4
    if batch < group_views:
        filtered += batch * n_rows * ramp.n_out * 4
    lines = _view_bytes(setup, raw_pixels, n_rows, batch, binning)
    record = 4 * group_views * ramp.n_out * 4
    correction = _correction_bytes(stored, raw_pixels)
    reading = _window_bytes(stored, frame_rows * binning)
    return BASE_BYTES + max(
        raw + lines + filtered + record + correction + reading + _kept_shares(setup), _setup_bytes(setup)
    )


def prepare_task_bytes(stored: StoredScan, probe_rows: int, probe_blocks: int = 1) -> int:
    """Peak memory of the task that looks for bad pixels over the whole panel of one bin, and then at coarse slices [B].

    Parameters
    ----------
    probe_rows : rows that the widest of the coarse slices needs
    probe_blocks : view blocks that it reads together
    """
    scan, layout = stored.scan, stored.layout
    panel = scan.n_rows * scan.n_cols
    search = panel * _FIELD_BYTES + _band_bytes(stored, scan.n_rows)
    row_pixels = probe_rows * scan.n_cols
    look = layout.view_block * probe_blocks * row_pixels * (layout.dtype.itemsize + 16)
    look += _correction_bytes(stored, row_pixels) + _window_bytes(stored, probe_rows)
    return BASE_BYTES + max(search, look)


#: What the flat or dark frames that the search for bad pixels reads at a time take, with their moments [B].
FIELD_BAND_BYTES = 64 * MEBIBYTE


def field_band_rows(stored: StoredScan) -> int:
    """Return the detector rows of all flat or dark frames that the search for bad pixels reads at a time."""
    scan, layout = stored.scan, stored.layout
    # With few frames what is made of them is more than they are.
    row_bytes = scan.n_cols * (max(1, _n_frames(stored)) * layout.dtype.itemsize + _MOMENT_BYTES)
    return max(1, min(scan.n_rows, FIELD_BAND_BYTES // row_bytes))


def _n_frames(stored: StoredScan) -> int:
    """Flat and dark frames of a bin that are held at a time: those of one camera position."""
    counts = (max(f.position_counts, default=f.count) for f in (stored.scan.flats, stored.scan.darks) if f is not None)
    return sum(counts)


def _correction_bytes(stored: StoredScan, row_pixels: int) -> int:
    """What is made before a band of rows can be corrected and weighted [B]: masks of the panel, fields, weights."""
    panel = stored.scan.n_rows * stored.scan.n_cols
    n_sets = len(stored.scan.field_positions) if stored.scan.content == "counts" else 1
    fields = row_pixels * (_SET_BYTES * (n_sets - 1) + (_READ_SET_BYTES if n_sets > 1 else 0))
    return 8 * panel + row_pixels * _WEIGHT_BYTES + fields + _band_bytes(stored, row_pixels // stored.scan.n_cols)


def _band_bytes(stored: StoredScan, n_rows: int) -> int:
    """What flat and dark frames of some rows take while their moments are found, a band at a time [B]."""
    pixels = min(n_rows, field_band_rows(stored)) * stored.scan.n_cols
    return pixels * (2 * _n_frames(stored) * stored.layout.dtype.itemsize + _MOMENT_BYTES)


def _window_bytes(stored: StoredScan, n_rows: int) -> int:
    """What ranged reads hold besides their result [B]: stored bytes of some at once, and row groups as unpacked."""
    layout = stored.layout
    rows = min(n_rows + 2 * layout.row_group, layout.n_rows)
    pixel_bytes = layout.view_block * rows * layout.n_cols * layout.dtype.itemsize
    group_bytes = layout.view_block * layout.row_group * layout.n_cols * layout.dtype.itemsize
    limit = max(MAX_RANGED_READ_BYTES, group_bytes)
    return 3 * pixel_bytes if pixel_bytes <= limit else 4 * limit
