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
    from collections.abc import Callable

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

    def read_rows(start: int, stop: int) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
        return flats[:, start:stop], None if darks is None else darks[:, start:stop]

    if flats.ndim != 3:
        raise CalibrationError(f"flat frames need the shape (frame, row, col), got {flats.shape}")
    if darks is not None and darks.shape[1:] != flats.shape[1:]:
        raise CalibrationError(f"the flat frames have {flats.shape[1:]} pixels, the dark frames {darks.shape[1:]}")
    panel = flats.shape[1:]
    return find_bad_pixels_by_rows(read_rows, (panel[0], panel[1]), known, parameters, band_rows=panel[0])


def find_bad_pixels_by_rows(
    read_rows: Callable[[int, int], tuple[NDArray[np.generic], NDArray[np.generic] | None]],
    shape: tuple[int, int],
    known: Mask | None,
    parameters: CorrectionParameters,
    *,
    band_rows: int,
) -> tuple[Mask, BadPixelCounts]:
    """Find the bad pixels of one energy bin as `find_bad_pixels` does, bit for bit, with few rows of frames at hand.

    What needs all frames of a pixel is done band by band; of the panel only three numbers a pixel are kept.

    Parameters
    ----------
    read_rows : called with first and end row; flats and darks (frame, row, col) of these rows
    shape : (row, col) of the panel
    known, parameters : as for `find_bad_pixels`
    band_rows : rows asked for at a time

    Raises
    ------
    CalibrationError
        As `find_bad_pixels` does.
    """
    bad = known_mask(known, shape)
    white, ratio, dark, n_flats = _panel_statistics(read_rows, shape, band_rows)
    hot_level = None
    if dark is not None:
        hot_level = np.subtract(dark, _median(dark, ~bad), out=dark) if not bad.all() else None
    lit = ~bad & (white > 0)
    if not lit.any():
        raise CalibrationError("no pixel of the flat fields is brighter than the dark fields: are they swapped?")
    median = _median(white, lit)
    dead = white <= parameters.dead_below * median
    bright = white >= parameters.bright_above * median
    hot = np.zeros(shape, dtype=np.bool_) if hot_level is None else hot_level >= parameters.hot_above * median
    del dark, hot_level, white
    unstable = _unstable(ratio, n_flats, dead | bad, parameters.unstable_sigma)
    found = BadPixelCounts(*(int(mask.sum()) for mask in (bad, dead, hot, bright, unstable)))
    bad = bad | dead | bright | hot | unstable
    share = float(bad.mean())
    if share > parameters.max_bad_share:
        raise CalibrationError(
            f"{share:.1%} of the panel's pixels are bad (known {found.known}, dead {found.dead}, hot {found.hot}, "
            f"bright {found.bright}, unstable {found.unstable}), at most {parameters.max_bad_share:.0%} are accepted: "
            f"look at the flat and dark frames, or raise max_bad_share"
        )
    return bad, found


def _panel_statistics(
    read_rows: Callable[[int, int], tuple[NDArray[np.generic], NDArray[np.generic] | None]],
    shape: tuple[int, int],
    band_rows: int,
) -> tuple[Float64Array, Float64Array, Float64Array | None, int]:
    """White, variance of the flats over their mean, dark (None without dark frames), (row, col) each; flat frames."""
    white, ratio = np.empty(shape), np.empty(shape)
    dark: Float64Array | None = None
    n_flats = 0
    for start in range(0, shape[0], band_rows):
        rows = slice(start, min(start + band_rows, shape[0]))
        flats, darks = read_rows(rows.start, rows.stop)
        n_flats = flats.shape[0]
        mean, variance = moments(flats, "flat")
        np.divide(variance, np.maximum(mean, 1e-12), out=ratio[rows])
        white[rows] = mean
        if darks is not None:
            dark = np.empty(shape) if dark is None else dark
            dark[rows], _ = moments(darks, "dark")
            white[rows] -= dark[rows]
    return white, ratio, dark, n_flats


def _median(values: Float64Array, where: Mask) -> float:
    """Median of some pixels, by one copy of them."""
    return float(np.median(values[where], overwrite_input=True))


def rows_with_good_pixels(bad: Mask) -> NDArray[np.int64]:
    """Return for each row of the panel the row it is taken from: itself, or the nearest one with a good pixel."""
    good_rows = np.flatnonzero(~bad.all(axis=1))
    if good_rows.size == 0:
        raise CalibrationError("every pixel of the panel is bad: look at the flat and dark frames")
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


def _unstable(ratio: Float64Array, n_frames: int, skip: Mask, sigma: float) -> Mask:
    """Pixels whose variance over mean is off the panel's median more than chance explains; `ratio` is written over.

    Counts obey Poisson, an integrating panel some multiple of it, a flickering tube adds to all pixels: the panel's
    own median is the measure.  The ratio then spreads like chi-square with n - 1 degrees of freedom, which the cube
    root makes nearly normal (Wilson and Hilferty, PNAS 17, 684, 1931).
    """
    if n_frames < 4:
        return np.zeros(ratio.shape, dtype=np.bool_)
    median = _median(ratio, ~skip)
    if not median > 0:
        return np.zeros(ratio.shape, dtype=np.bool_)
    spread = 2.0 / (9.0 * (n_frames - 1))
    deviation = np.cbrt(np.divide(ratio, median, out=ratio), out=ratio)
    deviation *= 1 - spread
    deviation -= 1 - spread
    deviation /= math.sqrt(spread)
    return np.asarray(~skip & (np.abs(deviation, out=deviation) > sigma))
