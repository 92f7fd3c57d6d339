# SPDX-License-Identifier: Apache-2.0
"""Counts over the pixels of an energy bin, added up block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class BinStatistics:
    """What the pixels of one energy bin hold.

    Attributes
    ----------
    bin_index, n_pixels : int
    minimum, maximum, mean : float
        In the frames' own unit, mostly counts.
    n_zeros : int
        Pixels that counted nothing.
    n_saturated : int
        Pixels at the largest value of their integer type; 0 for floats.
    """

    bin_index: int
    n_pixels: int
    minimum: float
    maximum: float
    mean: float
    n_zeros: int
    n_saturated: int

    def merged(self, other: BinStatistics) -> BinStatistics:
        """Return the statistics of both sets of pixels."""
        n_pixels = self.n_pixels + other.n_pixels
        return BinStatistics(
            bin_index=self.bin_index,
            n_pixels=n_pixels,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            mean=(self.mean * self.n_pixels + other.mean * other.n_pixels) / n_pixels,
            n_zeros=self.n_zeros + other.n_zeros,
            n_saturated=self.n_saturated + other.n_saturated,
        )


def frame_statistics(bin_index: int, frames: NDArray[Any]) -> BinStatistics:
    """Return the statistics of frames (view, row, col) of one energy bin; at least one pixel."""
    lowest, highest = frames.min(), frames.max()
    saturated = 0
    if frames.dtype.kind in "iu" and highest == np.iinfo(frames.dtype).max:
        saturated = int(np.count_nonzero(frames == highest))
    return BinStatistics(
        bin_index=bin_index,
        n_pixels=frames.size,
        minimum=float(lowest),
        maximum=float(highest),
        mean=_mean(frames),
        n_zeros=0 if lowest > 0 else int(frames.size - np.count_nonzero(frames)),
        n_saturated=saturated,
    )


def _mean(frames: NDArray[Any]) -> float:
    """Mean of all pixels; sums of a row of counts in 32 bit where they fit are twice as quick as floating ones."""
    if frames.dtype.kind != "u":
        return float(frames.mean(dtype=np.float64))
    fits = frames.shape[-1] * np.iinfo(frames.dtype).max < 2**32
    rows = frames.sum(axis=-1, dtype=np.uint32 if fits else np.uint64)
    return int(rows.sum(dtype=np.uint64)) / frames.size


def add_statistics(total: tuple[BinStatistics, ...] | None, frames: NDArray[Any]) -> tuple[BinStatistics, ...]:
    """Return `total` with the frames (bin, view, row, col) added; None stands for nothing so far."""
    return merge_statistics(total, tuple(frame_statistics(index, frames[index]) for index in range(len(frames))))


def merge_statistics(
    total: tuple[BinStatistics, ...] | None, new: tuple[BinStatistics, ...]
) -> tuple[BinStatistics, ...]:
    """Return `total` with those of more pixels of every bin; None stands for nothing so far."""
    return new if total is None else tuple(a.merged(b) for a, b in zip(total, new, strict=True))
