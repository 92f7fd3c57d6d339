# SPDX-License-Identifier: Apache-2.0
"""Bad pixels: how they are found in flat and dark frames, and how they are filled.

Found once over the whole panel of an energy bin, so that it does not matter which rows a task reads.  A pixel is bad if

- it is known to be (a mask of the detector's maker),
- *dead*: its white (mean flat less mean dark) is a tenth of the panel's median or less,
- *hot*: in the dark it counts more than the median dark by a tenth of the median white,
- *bright*: its white is four times the median or more,
- *unstable*: the variance of its flats over their mean does not fit the panel's, see `_unstable`;

the figures are those of `CorrectionParameters`.  Bad pixels are filled in the line integrals, linearly between the
nearest good pixels of the same detector row; a row without any good pixel is taken from the nearest row that has one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from reconstruction.errors import CalibrationError, ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32Array = NDArray[np.float32]
    Float64Array = NDArray[np.float64]
    Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class CorrectionParameters:
    """How counts become line integrals, and when a pixel counts as bad.

    Attributes
    ----------
    count_floor : float
        Least counts after the dark field is taken off; a pixel with fewer is set to it, and reported.
    transmission_floor : float
        The same for flat-corrected input, as a share of white.
    bad_pixels : {"interpolate", "keep"}
        Fill bad pixels from their neighbours along the row, or leave all pixels as they are (none is looked for).
    dead_below : float
        A pixel is dead if its white is at most this share of the panel's median white.
    hot_above : float
        A pixel is hot if its dark exceeds the panel's median dark by this share of the median white.
    bright_above : float
        A pixel is bad if its white is at least this many times the median white.
    unstable_sigma : float
        A pixel is bad if the variance of its flats, over their mean, is this many standard deviations off the panel's
        median (four flats or more).
    max_bad_share : float
        With more bad pixels than this share of the panel the fields are refused.
    """

    count_floor: float = 0.5
    transmission_floor: float = 1e-6
    bad_pixels: Literal["interpolate", "keep"] = "interpolate"
    dead_below: float = 0.1
    hot_above: float = 0.1
    bright_above: float = 4.0
    unstable_sigma: float = 8.0
    max_bad_share: float = 0.2

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic, where settings are composed

    def __post_init__(self) -> None:
        for name in ("count_floor", "transmission_floor", "dead_below", "hot_above", "bright_above", "unstable_sigma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ParameterError(f"{name} must be positive, got {value}")
        if self.bad_pixels not in ("interpolate", "keep"):
            raise ParameterError(f"bad_pixels must be 'interpolate' or 'keep', got '{self.bad_pixels}'")
        if not 0.0 <= self.max_bad_share <= 1.0:
            raise ParameterError(f"max_bad_share must lie in [0, 1], got {self.max_bad_share}")


@dataclass(frozen=True, slots=True)
class BadPixelCounts:
    """Why pixels of one bin were found bad; a pixel may count more than once."""

    known: int = 0
    dead: int = 0
    hot: int = 0
    bright: int = 0
    unstable: int = 0


@dataclass(frozen=True, slots=True)
class FillPlan:
    """Which pixels are filled from which, in rows of the band: two good neighbours along the row, and whole rows."""

    rows: NDArray[np.intp]
    cols: NDArray[np.intp]
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    weight: Float32Array
    copied_rows: NDArray[np.intp]
    from_rows: NDArray[np.intp]

    @classmethod
    def make(cls, bad: Mask, source_rows: NDArray[np.int64], row_start: int) -> FillPlan:
        """Plan the filling of a band of rows: its bad pixels (row, col), and the panel row each row is taken from."""
        copied = source_rows != row_start + np.arange(bad.shape[0])
        rows, cols = np.nonzero(bad & ~copied[:, None])
        left, right = np.zeros(rows.size, dtype=np.intp), np.zeros(rows.size, dtype=np.intp)
        found, starts = np.unique(rows, return_index=True)
        for row, start, stop in zip(found, starts, np.append(starts, rows.size)[1:], strict=True):
            good = np.flatnonzero(~bad[row])
            here = slice(start, stop)
            place = np.searchsorted(good, cols[here])
            right[here] = good[np.minimum(place, good.size - 1)]
            left[here] = good[np.maximum(place - 1, 0)]
        # At the ends of a row both neighbours are the same pixel.
        left, right = np.where(left > cols, right, left), np.where(right < cols, left, right)
        span = np.maximum(right - left, 1)
        weight = ((cols - left) / span).astype(np.float32)
        weight[left == right] = 0.0
        from_rows = source_rows[copied] - row_start
        return cls(rows, cols, left, right, weight, np.flatnonzero(copied), from_rows.astype(np.intp))

    def apply(self, view: Float32Array) -> None:
        """Fill one view's bad pixels in place."""
        if self.rows.size:
            low = view[self.rows, self.left]
            view[self.rows, self.cols] = low + self.weight * (view[self.rows, self.right] - low)
        if self.copied_rows.size:
            view[self.copied_rows] = view[self.from_rows]


def find_bad_pixels(
    flats: NDArray[np.generic],
    darks: NDArray[np.generic] | None,
    known: Mask | None,
    parameters: CorrectionParameters,
) -> tuple[Mask, BadPixelCounts]:
    """Find the bad pixels of one energy bin, over the whole panel.

    Parameters
    ----------
    flats : (frame, row, col)
        Counts without the sample.
    darks : (frame, row, col), or None
    known : (row, col) bool, or None
        Pixels that are bad whatever the frames say.
    parameters : CorrectionParameters

    Returns
    -------
    bad : (row, col) bool
    found : BadPixelCounts

    Raises
    ------
    CalibrationError
        If sizes differ, a value is negative or no number, nothing is lit, or too many pixels are bad.
    """
    flat, variance = moments(flats, "flat")
    white = flat
    bad = known_mask(known, flat.shape)
    hot_level = None
    if darks is not None:
        dark, _ = moments(darks, "dark")
        if dark.shape != flat.shape:
            raise CalibrationError(f"the flat frames have {flat.shape} pixels, the dark frames {dark.shape}")
        white = flat - dark
        hot_level = dark - float(np.median(dark[~bad])) if not bad.all() else None
    lit = white[~bad & (white > 0)]
    if lit.size == 0:
        raise CalibrationError("no pixel of the flat fields is brighter than the dark fields")
    median = float(np.median(lit))
    dead = white <= parameters.dead_below * median
    bright = white >= parameters.bright_above * median
    hot = np.zeros(white.shape, dtype=np.bool_)
    if hot_level is not None:
        hot = hot_level >= parameters.hot_above * median
    unstable = _unstable(variance, flat, flats.shape[0], dead | bad, parameters.unstable_sigma)
    found = BadPixelCounts(*(int(mask.sum()) for mask in (bad, dead, hot, bright, unstable)))
    bad = bad | dead | bright | hot | unstable
    share = float(bad.mean())
    if share > parameters.max_bad_share:
        raise CalibrationError(
            f"{share:.1%} of the panel's pixels are bad (known {found.known}, dead {found.dead}, hot {found.hot}, "
            f"bright {found.bright}, unstable {found.unstable}), at most {parameters.max_bad_share:.0%} are accepted"
        )
    return bad, found


def rows_with_good_pixels(bad: Mask) -> NDArray[np.int64]:
    """Return for each row of the panel the row it is taken from: itself, or the nearest one with a good pixel."""
    good_rows = np.flatnonzero(~bad.all(axis=1))
    if good_rows.size == 0:
        raise CalibrationError("every pixel of the panel is bad")
    rows = np.arange(bad.shape[0])
    above = np.clip(np.searchsorted(good_rows, rows), 0, good_rows.size - 1)
    upper, lower = good_rows[above], good_rows[np.maximum(above - 1, 0)]
    return np.where(np.abs(upper - rows) <= np.abs(rows - lower), upper, lower).astype(np.int64)


def known_mask(bad_pixels: Mask | None, shape: tuple[int, ...]) -> Mask:
    """The mask of known bad pixels, all good if there is none."""
    if bad_pixels is None:
        return np.zeros(shape, dtype=np.bool_)
    if bad_pixels.shape != shape:
        raise CalibrationError(f"the bad-pixel mask has {bad_pixels.shape} pixels, the panel {shape}")
    return bad_pixels.astype(np.bool_)


def moments(frames: NDArray[np.generic], kind: str) -> tuple[Float64Array, Float64Array]:
    """Mean and (unbiased) variance over the frames, (row, col) float64 each."""
    if frames.ndim != 3 or frames.shape[0] < 1:
        raise CalibrationError(f"{kind} frames need the shape (frame, row, col), got {frames.shape}")
    total = np.zeros(frames.shape[1:])
    for frame in frames:
        total += frame
    mean = total / frames.shape[0]
    if not np.isfinite(mean).all() or (frames.dtype.kind != "u" and bool((frames < 0).any())):  # type: ignore[operator]
        raise CalibrationError(f"{kind} frames have values that are negative or not a number")
    squares = np.zeros(mean.shape)
    for frame in frames:
        off = frame - mean
        squares += off * off
    return mean, squares / max(frames.shape[0] - 1, 1)


def _unstable(variance: Float64Array, mean: Float64Array, n_frames: int, skip: Mask, sigma: float) -> Mask:
    """Pixels whose variance over mean is off the panel's median more than chance explains.

    Counts obey Poisson, an integrating panel some multiple of it, a flickering tube adds to all pixels: the panel's
    own median is the measure.  The ratio then spreads like chi-square with n - 1 degrees of freedom, which the cube
    root makes nearly normal (Wilson and Hilferty, PNAS 17, 684, 1931).
    """
    if n_frames < 4:
        return np.zeros(mean.shape, dtype=np.bool_)
    ratio = variance / np.maximum(mean, 1e-12)
    median = float(np.median(ratio[~skip]))
    if median <= 0:
        return np.zeros(mean.shape, dtype=np.bool_)
    spread = 2.0 / (9.0 * (n_frames - 1))
    deviation = (np.cbrt(ratio / median) * (1 - spread) - (1 - spread)) / math.sqrt(spread)
    return np.asarray(~skip & (np.abs(deviation) > sigma))
