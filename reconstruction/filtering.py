# SPDX-License-Identifier: Apache-2.0
"""The ramp filter: exact in space, windowed in frequency, wide enough for the shadow of the field."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from reconstruction.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]

FilterWindow = Literal["ram-lak", "shepp-logan", "cosine", "hamming", "hann"]
FILTER_WINDOWS: tuple[str, ...] = get_args(FilterWindow)


@dataclass(frozen=True, slots=True)
class RampFilter:
    """A ramp filter for rows of one panel.

    Rows of `n_cols` pixels are taken as zero outside the panel (extended to the shadow of the
    field), and the filtered row is kept from `col_start` on for `n_out` columns.  Cutting it back to
    the panel would put a step into every voxel that projects beside it.

    Attributes
    ----------
    response : (n_fft // 2 + 1,) float64 [1/mm]
        Multiplies the row's real FFT.
    n_fft : int
        Length of the FFT: long enough that no lag in use wraps round.
    col_start, n_out : int
        First column kept, counted from the panel's column 0 (may be negative), and how many.
    n_pad : int
        Columns by which each weighted row is continued on both sides before the FFT (`continued_rows`); the left ones
        stand at the end of the periodic row.
    """

    response: Float64Array = field(repr=False)
    n_fft: int
    col_start: int
    n_out: int
    n_pad: int = 0


def fast_fft_length(minimum: int) -> int:
    """Smallest even 2-3-5-smooth length of at least `minimum`."""
    best = 1 << max(1, math.ceil(math.log2(max(2, minimum))))
    five = 1
    while five < best:
        three = five
        while three < best:
            size = three * 2 ** max(1, math.ceil(math.log2(max(1.0, minimum / three))))
            if minimum <= size < best:
                best = size
            three *= 3
        five *= 5
    return best


def window_response(window: str, cutoff: float, n_fft: int) -> Float64Array:
    """Apodisation on the grid of a real FFT; 0 above the cut-off.

    Parameters
    ----------
    window : str
        One of `FILTER_WINDOWS`.
    cutoff : float
        Share of the Nyquist frequency, in (0, 1].
    n_fft : int

    Returns
    -------
    (n_fft // 2 + 1,) float64

    Raises
    ------
    ParameterError
        If the window is unknown or the cut-off out of range.
    """
    if window not in FILTER_WINDOWS:
        raise ParameterError(f"unknown filter window '{window}': expected one of {', '.join(FILTER_WINDOWS)}")
    if not 0 < cutoff <= 1:
        raise ParameterError(f"the filter's cut-off is a share of the Nyquist frequency in (0, 1], got {cutoff}")
    x = np.arange(n_fft // 2 + 1) / (n_fft / 2) / cutoff
    shapes = {
        "ram-lak": np.ones_like(x),
        "shepp-logan": np.sinc(x / 2),
        "cosine": np.cos(np.pi * x / 2),
        "hamming": 0.54 + 0.46 * np.cos(np.pi * x),
        "hann": 0.5 + 0.5 * np.cos(np.pi * x),
    }
    return np.where(x <= 1 + 1e-12, shapes[window], 0.0)


def continued_rows(rows: Float64Array, n_pad: int) -> tuple[Float64Array, Float64Array]:
    """Continue weighted rows smoothly beyond both ends of the panel, for objects wider than it.

    The row is mirrored about its last value and brought to 0 by a cos^2 (after Ohnesorge, Flohr, Schwarz, Heiken and
    Bae, Med. Phys. 27 (2000) 39): ``max(0, 2 g[last] - g[last - k]) cos^2(pi/2 k / (n_pad + 1))`` for k = 1 to n_pad.

    Parameters
    ----------
    rows : (row, col) float64
    n_pad : int

    Returns
    -------
    (row, n_pad) float64, twice
        Left and right, both from lower to higher columns.
    """
    k = np.arange(1, n_pad + 1)
    fade = np.cos(math.pi / 2 * k / (n_pad + 1)) ** 2
    inner = np.minimum(k, rows.shape[1] - 1)
    left = np.maximum(0.0, 2 * rows[:, :1] - rows[:, inner]) * fade
    right = np.maximum(0.0, 2 * rows[:, -1:] - rows[:, rows.shape[1] - 1 - inner]) * fade
    return left[:, ::-1], right


def ramp_filter(
    *, window: str, cutoff: float, n_cols: int, pitch_mm: float, shadow_cols: tuple[float, float], n_pad: int = 0
) -> RampFilter:
    """Make the filter of one panel.

    The ramp is sampled in space (Ramachandran and Lakshminarayanan 1971; Kak and Slaney equation
    3.61), so that its DC value is right for any length.

    Parameters
    ----------
    window, cutoff
        As for `window_response`.
    n_cols : int
        Columns of the panel.
    pitch_mm : float
        Pixel pitch along a row.
    shadow_cols : (low, high) float
        The shadow of the field in columns of the panel (pixel centres at integers).
    n_pad : int
        Columns by which rows are continued on both sides.
    """
    col_start = math.floor(shadow_cols[0])
    n_out = math.ceil(shadow_cols[1]) + 1 - col_start
    longest_lag = max(n_cols - 1 - col_start, col_start + n_out - 1, n_cols - 1) + n_pad
    n_fft = fast_fft_length(2 * longest_lag + 1)
    lag = np.fft.fftfreq(n_fft, 1.0 / n_fft)
    taps = np.zeros(n_fft)
    taps[0] = 0.25
    odd = np.abs(lag) % 2 == 1
    taps[odd] = -1.0 / (np.pi * lag[odd]) ** 2
    response = np.real(np.fft.rfft(taps)) / pitch_mm * window_response(window, cutoff, n_fft)
    response.setflags(write=False)
    return RampFilter(response, n_fft, col_start, n_out, n_pad)
