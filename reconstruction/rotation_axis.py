# SPDX-License-Identifier: Apache-2.0
"""Where the rotation axis falls on the panel, found from the picture itself by two methods that share nothing.

Both take one picture that is symmetric about the axis' shadow: a view of an axisymmetric specimen, or the
*mean over the views of a full turn* of any specimen.  (That mean is the projection of the specimen smeared
about the axis, and a cone beam shows an axisymmetric body symmetrically.)

- `axis_by_symmetry` mirrors the picture onto itself; all pixels take part.
- `axis_by_edges` takes the middle between the shadow's two edges; only pixels at the edges take part.

Each measures the axis in many places along the rows and fits a line, so that a lean shows.  A lean moves what
is found by its square, and by how fast the specimen's width changes along the axis: right for leans of a few
degrees and specimens that are cylinders over most of the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reconstruction.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]

#: Measurements farther from the line than this many of its (robust) standard deviations are left out of the fit.
_OUTLIER_SIGMAS = 3.5
_FIT_ROUNDS = 5
#: Rows whose largest line integral is less than this share of the picture's hold too little of the specimen.
_LEAST_ROW_SHARE = 0.1
#: Least share of the columns that a mirrored picture must overlap itself on.
_LEAST_OVERLAP = 0.5
#: Points of the mismatch on either side of its least one that its sub-pixel place is fitted to.
_PARABOLA_REACH = 3
#: Smooths along columns before mirroring: without it the mismatch of sharp edges is no parabola (bias of 0.05 pixel).
_SMOOTHING = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


@dataclass(frozen=True, slots=True)
class AxisLine:
    """The rotation axis' shadow: ``col = center_col + slope * (row - center_row)``, pixel centres at integers.

    Attributes
    ----------
    center_col : float
        Its column at `center_row`.
    center_row : float
        The middle of the rows.
    slope : float
        Columns that it moves for each row.
    scatter_px : float
        Standard deviation of the measurements about the line [pixel].
    n_measured : int
        Measurements that the fit took.
    """

    center_col: float
    center_row: float
    slope: float
    scatter_px: float
    n_measured: int

    def col_at(self, row: float) -> float:
        """Return the column at a row."""
        return self.center_col + self.slope * (row - self.center_row)

    def roll_rad(self, pitch_mm: tuple[float, float]) -> float:
        """Return how far the axis leans to higher columns at higher rows [rad]; `pitch_mm` is along v and u."""
        pitch_v, pitch_u = pitch_mm
        return math.atan(self.slope * pitch_u / pitch_v)


def axis_by_symmetry(line_integrals: NDArray[np.floating], *, band_rows: int = 16) -> AxisLine:
    """Find the axis as the line about which the picture is its own mirror image.

    For each band of rows the mean square of ``p(u) - p(2c - u)`` over the columns where both are on the panel is
    taken at every c on a pixel or between two (no interpolation: it would favour places between pixels), and the
    least found by a parabola.

    Parameters
    ----------
    line_integrals : (row, col) float
        About 0 beside the specimen.
    band_rows : int
        Rows that are measured together.

    Raises
    ------
    ParameterError
        If the array is no picture, not finite, or fewer than two bands show a specimen with an axis on the panel.
    """
    picture = _checked(line_integrals, band_rows)
    n_rows = picture.shape[0]
    rows, cols = [], []
    filled = _rows_with_specimen(picture)
    padded = np.pad(picture, ((0, 0), (len(_SMOOTHING) // 2,) * 2), mode="edge")
    n_cols = picture.shape[1]
    smooth = np.zeros_like(picture)
    for offset, weight in enumerate(_SMOOTHING.tolist()):
        smooth += weight * padded[:, offset : offset + n_cols]
    for start in range(0, n_rows - band_rows + 1, band_rows):
        band = slice(start, start + band_rows)
        if not filled[band].all():
            continue
        col = _mirror_center(smooth[band])
        if col is not None:
            rows.append(start + (band_rows - 1) / 2)
            cols.append(col)
    return _fit_line(rows, cols, n_rows, "whose halves mirror each other")


def axis_by_edges(line_integrals: NDArray[np.floating], *, level: float = 0.2, band_rows: int = 16) -> AxisLine:
    """Find the axis as the middle between the two edges of the specimen's shadow.

    In the mean of each band of rows the outermost crossings of `level` times its largest value are taken on both
    sides, linearly interpolated between pixels.

    Parameters
    ----------
    line_integrals : (row, col) float
        About 0 beside the specimen, which lies within the panel on both sides.
    level : float
        Share of a band's largest value (its 99th percentile, for the noise) in (0, 1).
    band_rows : int
        Rows that are measured together.

    Raises
    ------
    ParameterError
        If the array is no picture, not finite, or fewer than two bands have the specimen's edges on both sides.
    """
    picture = _checked(line_integrals, band_rows)
    if not 0 < level < 1:
        raise ParameterError(f"the level of the edge must lie between 0 and 1, got {level:g}")
    n_rows, n_cols = picture.shape
    n_bands = n_rows // band_rows
    bands = picture[: n_bands * band_rows].reshape(n_bands, band_rows, n_cols)
    filled = _rows_with_specimen(picture)[: n_bands * band_rows].reshape(n_bands, band_rows).all(axis=1)
    means = bands.mean(axis=1)
    thresholds = level * np.percentile(means, 99, axis=1)
    above = means >= thresholds[:, None]
    first, last = above.argmax(axis=1), n_cols - 1 - above[:, ::-1].argmax(axis=1)
    found = np.flatnonzero(filled & (first > 0) & (last < n_cols - 1))
    first, last, thresholds = first[found], last[found], thresholds[found]
    left = first - _part_above(means[found, first - 1], means[found, first], thresholds)
    right = last + _part_above(means[found, last + 1], means[found, last], thresholds)
    rows = found * band_rows + (band_rows - 1) / 2
    return _fit_line(rows.tolist(), ((left + right) / 2).tolist(), n_rows, "with the specimen's edges on both sides")


def _checked(line_integrals: NDArray[np.floating], band_rows: int) -> Float64Array:
    """The picture as float64, refused if it is none."""
    picture = np.asarray(line_integrals, dtype=np.float64)
    if picture.ndim != 2 or picture.shape[0] < 2 or picture.shape[1] < 8:
        raise ParameterError(
            f"an axis is found in a picture (row, col) of at least 2 x 8 pixels, got the shape {picture.shape}"
        )
    if not np.isfinite(picture).all():
        raise ParameterError("a picture to find the axis in has a value that is not finite")
    if not 1 <= band_rows <= picture.shape[0] // 2:
        raise ParameterError(
            f"band_rows must lie in 1 to {picture.shape[0] // 2}, half of the picture's rows, got {band_rows}"
        )
    return picture


def _rows_with_specimen(picture: Float64Array) -> NDArray[np.bool_]:
    """(row,) bool: rows that hold enough of the specimen to measure it."""
    tops = np.percentile(picture, 99, axis=1)
    return np.asarray((tops > 0) & (tops >= _LEAST_ROW_SHARE * tops.max()))


def _part_above(outside: Float64Array, inside: Float64Array, threshold: Float64Array) -> Float64Array:
    """Share of the way from an inside pixel to its outer neighbour at which the threshold is crossed."""
    return (inside - threshold) / (inside - outside)


def _mirror_center(band: Float64Array) -> float | None:
    """Column about which some rows are symmetric, or None where the least mismatch lies at the border.

    All sums over columns come from cumulative sums and one correlation by FFT.
    """
    n_cols = band.shape[1]
    size = 2 * n_cols
    # twice[s] belongs to the mirror column c = s / 2: columns u and s - u.
    spectrum = np.fft.rfft(band, size, axis=1)
    products = np.fft.irfft((spectrum * spectrum).sum(axis=0), size)[: 2 * n_cols - 1]
    twice = np.arange(2 * n_cols - 1)
    low, high = np.maximum(0, twice - n_cols + 1), np.minimum(n_cols - 1, twice)
    squares = np.concatenate([[0.0], np.cumsum((band * band).sum(axis=0))])
    overlap = high - low + 1
    mismatch = 2 * (squares[high + 1] - squares[low] - products) / overlap
    allowed = np.flatnonzero(overlap >= _LEAST_OVERLAP * n_cols)
    best = int(allowed[mismatch[allowed].argmin()])
    reach = np.arange(best - _PARABOLA_REACH, best + _PARABOLA_REACH + 1)
    if reach[0] < allowed[0] or reach[-1] > allowed[-1]:
        return None
    curvature, tilt, _ = np.polyfit(reach - best, mismatch[reach], 2)
    shift = -tilt / (2 * curvature) if curvature > 0 else math.inf
    return (best + float(shift)) / 2 if abs(shift) <= _PARABOLA_REACH else None


def _fit_line(rows: list[float], cols: list[float], n_rows: int, what: str) -> AxisLine:
    """Least squares without outliers: those of the median of all pairs' slopes first, then those of each fit."""
    if len(rows) < 2:
        raise ParameterError(f"no rotation axis found: {len(rows)} places {what}, at least 2 are needed")
    center_row = (n_rows - 1) / 2
    x, y = np.asarray(rows, dtype=np.float64) - center_row, np.asarray(cols, dtype=np.float64)
    first, second = np.triu_indices(len(x), 1)
    slope = float(np.median((y[second] - y[first]) / (x[second] - x[first])))
    col = float(np.median(y - slope * x))
    off = np.abs(y - col - slope * x)
    for _ in range(_FIT_ROUNDS):
        kept = off <= _OUTLIER_SIGMAS * _sigma(off) + 1e-9
        slope, col = (float(value) for value in np.polyfit(x[kept], y[kept], 1))
        off = np.abs(y - col - slope * x)
    scatter = float(np.sqrt((off[kept] ** 2).mean()))
    return AxisLine(col, center_row, slope, scatter, int(kept.sum()))


def _sigma(deviations: Float64Array) -> float:
    """Standard deviation of a normal distribution with this median of absolute deviations."""
    return 1.4826 * float(np.median(deviations))
