# SPDX-License-Identifier: Apache-2.0
"""What slabs, bricks and rows to filter take on a GPU, from their set-up alone.

The back end sizes its buffers by these functions; plans are made by them too, where no GPU is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconstruction.backends.device_filter import filter_bytes, rows_of_chunk, weight_values
from reconstruction.backends.device_memory import DeviceCost

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconstruction.fdk import SlabSetup

    #: Bytes that the plans of FFTs of a length, for so many rows together, take.
    TransformBytes = Callable[[int, int], int]

#: Bytes of slices that come back in one copy.
SLICES_BYTES = 32 << 20
#: Views that are resampled together beside a slab.
RESAMPLED_VIEWS = 8
#: Rows of the frames that a task reads beside those that its views are made of.
_SPARE_ROWS = 2


def cufft_bytes(n: int, n_rows: int) -> int:
    """Memory of cuFFT's plans, there and back [bytes].

    Twice the spectra for each: what cuFFT's documentation gives for lengths without large factors.
    """
    return 2 * 2 * 8 * n_rows * (n // 2 + 1)


@dataclass(frozen=True, slots=True)
class SlabSizes:
    """Sizes of a slab's buffers.

    Attributes
    ----------
    setup : of the slab or brick
    half : filtered views are held as float16
    layered : they may be read through textures, which hold them once more
    """

    setup: SlabSetup
    half: bool
    layered: bool

    @property
    def item_bytes(self) -> int:
        """Size of a filtered value as it is held."""
        return 2 if self.half else 4

    @property
    def most_rows(self) -> int:
        """Rows of a view, at most: a brick's window may reach a row beyond the band on each side."""
        return min(self.setup.geometry.n_rows, self.setup.band.n_rows + 2)

    @property
    def columns_bytes(self) -> int:
        """One view's bordered columns [bytes]."""
        return self.item_bytes * (self.most_rows + 2) * (self.setup.ramp.n_out + 2)

    @property
    def volume_bytes(self) -> int:
        """The voxels [bytes]."""
        return self._slice_bytes * self.setup.slab.n_slices

    @property
    def slices_at_once(self) -> int:
        """Slices that come back in one copy."""
        return max(1, min(self.setup.slab.n_slices, SLICES_BYTES // self._slice_bytes))

    @property
    def _slice_bytes(self) -> int:
        ny, nx = self.setup.made_area.shape
        return 4 * ny * nx

    def slot_bytes(self, n_views: int) -> dict[str, int]:
        """Bytes of the parts of a slot, which brings so many views onto the device."""
        setup = self.setup
        pixels = 4 * n_views * self.most_rows
        sizes = {"rows": pixels * max(setup.geometry.n_cols, setup.ramp.n_out), "indices": 4 * n_views}
        if weight_values(setup, self.most_rows):
            sizes["weights"] = 4 * n_views * weight_values(setup, self.most_rows)
        if setup.slice_weights is not None:
            sizes["slice_weights"] = 4 * n_views * setup.slab.n_slices
        return sizes

    def pinned_bytes(self, n_views: int) -> int:
        """Page-locked memory of the host: both slots, and two copies of slices [bytes]."""
        return 2 * sum(self.slot_bytes(n_views).values()) + 2 * self._slice_bytes * self.slices_at_once

    def cost(self, transform_bytes: TransformBytes, chunk_values: int) -> DeviceCost:
        """What the slab takes, and each view of a batch; room to resample `RESAMPLED_VIEWS` is kept."""
        setup = self.setup
        return DeviceCost(
            slice_bytes=self._slice_bytes,
            n_slices=setup.slab.n_slices,
            fixed_bytes=filter_bytes(transform_bytes, setup, setup.band.n_rows, chunk_values)
            + 8 * 13 * setup.geometry.n_views
            + 2 * self._slice_bytes * self.slices_at_once
            + _resampling_bytes(setup),
            view_bytes=2 * sum(self.slot_bytes(1).values()) + (2 if self.layered else 1) * self.columns_bytes + 4,
        )


def _resampling_bytes(setup: SlabSetup) -> int:
    """What resampling some views takes beside the slab [bytes]; 0 where views are frames."""
    virtual, band = setup.virtual, setup.band
    if virtual is None:
        return 0
    start, stop = virtual.rows_of_frames(setup.views, band.row_start, band.row_stop, setup.geometry.n_cols)
    n_frame_rows = min(virtual.frame_rows, stop - start + _SPARE_ROWS)
    return min(RESAMPLED_VIEWS, setup.views.size) * resampled_view_bytes(setup, band.n_rows, n_frame_rows)


def resampled_view_bytes(setup: SlabSetup, n_rows: int, n_frame_rows: int) -> int:
    """Frames, homographies and result of one view that is resampled [bytes].

    Parameters
    ----------
    n_rows : of the view
    n_frame_rows : of each of its frames
    """
    virtual = setup.virtual
    assert virtual is not None
    frames = virtual.n_slots * (4 * n_frame_rows * virtual.frame_cols + 8 * 9 + 4)
    return frames + 4 * n_rows * setup.geometry.n_cols


def filter_cost(setup: SlabSetup, n_rows: int, transform_bytes: TransformBytes, chunk_values: int) -> DeviceCost:
    """What filtering rows of views takes, without a slab."""
    ramp = setup.ramp
    kept = 4 * rows_of_chunk(ramp.n_fft, chunk_values) * ramp.n_out
    return DeviceCost(
        slice_bytes=1,
        n_slices=0,
        fixed_bytes=filter_bytes(transform_bytes, setup, n_rows, chunk_values) + kept,
        view_bytes=4 * (n_rows * setup.geometry.n_cols + weight_values(setup, n_rows) + 1),
    )
