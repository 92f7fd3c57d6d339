# SPDX-License-Identifier: Apache-2.0
"""From counts to line integrals: dark and flat fields, bad pixels, -log with a count floor.

``prepare_fields`` looks at the whole panel once per energy bin.  What it finds is small (white, dark, a mask) and is
passed on, so that a task that reads a band of rows corrects it exactly as any other task would: `FieldCorrection.band`
cuts rows out, and `FieldCorrection.rows_to_read` says which rows a band needs.  Bad pixels are filled from good ones
of the same row; only a row without any good pixel needs another row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from reconstruction.bad_pixels import (
    BadPixelCounts,
    CorrectionParameters,
    FillPlan,
    find_bad_pixels,
    known_mask,
    moments,
    rows_with_good_pixels,
)
from reconstruction.errors import CalibrationError, ParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Float32Array = NDArray[np.float32]
    Mask = NDArray[np.bool_]

FieldContent = Literal["counts", "normalized", "line_integrals"]

#: Values worked on at a time (float32): they stay in the second-level cache.
CHUNK_VALUES = 65536


@dataclass(frozen=True, slots=True)
class FloorReport:
    """How many good pixels had fewer counts than the floor, of how many."""

    n_floored: int = 0
    n_values: int = 0

    def __add__(self, other: FloorReport) -> FloorReport:
        return FloorReport(self.n_floored + other.n_floored, self.n_values + other.n_values)


@dataclass(frozen=True)
class FieldCorrection:
    """Everything that turns one energy bin's frames into line integrals; of the panel, or of a band of its rows.

    Attributes
    ----------
    content : {"counts", "normalized", "line_integrals"}
        What the frames are.
    white : (row, col) float32
        Counts without the sample, dark taken off; 1 in bad pixels.
    dark : (row, col) float32, or None for no dark counts at all
    bad : (row, col) bool
        Pixels that are filled from others.
    floor : float
        Least value after the dark is taken off.
    row_start : int
        Panel row of the first row here.
    source_rows : (row,) int64
        Panel row that a row is taken from: itself, unless none of its pixels is good.
    found : BadPixelCounts
        What was found bad on the whole panel.
    """

    content: FieldContent
    white: Float32Array
    dark: Float32Array | None
    bad: Mask
    floor: float
    source_rows: NDArray[np.int64]
    row_start: int = 0
    found: BadPixelCounts = field(default_factory=BadPixelCounts)

    @property
    def n_rows(self) -> int:
        """Number of rows here."""
        return int(self.white.shape[0])

    @cached_property
    def fill_plan(self) -> FillPlan:
        """How the bad pixels here are filled."""
        return FillPlan.make(self.bad, self.source_rows, self.row_start)

    @property
    def n_bad(self) -> int:
        """Number of bad pixels here."""
        return int(self.bad.sum())

    def rows_to_read(self, row_start: int, row_stop: int) -> tuple[int, int]:
        """Return the panel rows (start, stop) to read so that ``row_start <= row < row_stop`` can be corrected."""
        first, last = row_start - self.row_start, row_stop - self.row_start
        if not 0 <= first < last <= self.n_rows:
            raise ParameterError(
                f"rows {row_start}:{row_stop} do not lie in {self.row_start}:{self.row_start + self.n_rows}"
            )
        sources = self.source_rows[first:last]
        return min(row_start, int(sources.min())), max(row_stop, int(sources.max()) + 1)

    def band(self, row_start: int, row_stop: int) -> FieldCorrection:
        """Return the correction of the panel rows ``row_start <= row < row_stop``, as `rows_to_read` gives them."""
        if self.rows_to_read(row_start, row_stop) != (row_start, row_stop):
            low, high = self.rows_to_read(row_start, row_stop)
            raise ParameterError(f"rows {row_start}:{row_stop} need {low}:{high}: a whole row of the panel is bad")
        cut = slice(row_start - self.row_start, row_stop - self.row_start)
        return FieldCorrection(
            content=self.content,
            white=self.white[cut],
            dark=None if self.dark is None else self.dark[cut],
            bad=self.bad[cut],
            floor=self.floor,
            source_rows=self.source_rows[cut],
            row_start=row_start,
            found=self.found,
        )


def prepare_fields(
    flats: NDArray[np.generic] | None,
    darks: NDArray[np.generic] | None,
    bad_pixels: Mask | None = None,
    parameters: CorrectionParameters | None = None,
) -> FieldCorrection:
    """Make the correction of one energy bin's counts from its flat and dark frames, over the whole panel.

    Parameters
    ----------
    flats : (frame, row, col)
        Counts without the sample.
    darks : (frame, row, col), or None if there are none (a photon counter)
    bad_pixels : (row, col) bool, optional
        Pixels known to be bad; others are looked for.
    parameters : CorrectionParameters, optional

    Raises
    ------
    CalibrationError
        If there are no flats, sizes differ, a value is not finite or negative, or too many pixels are bad.
    """
    chosen = parameters or CorrectionParameters()
    if flats is None:
        raise CalibrationError("the frames are raw counts and need flat fields, but the scan has none: add them to it")
    if chosen.bad_pixels == "keep":
        return prepare_band(flats, darks, np.zeros(flats.shape[1:], dtype=np.bool_), chosen)
    bad, found = find_bad_pixels(flats, darks, bad_pixels, chosen)
    return replace(prepare_band(flats, darks, bad, chosen), found=found)


def prepare_band(
    flats: NDArray[np.generic],
    darks: NDArray[np.generic] | None,
    panel_bad: Mask,
    parameters: CorrectionParameters | None = None,
    *,
    row_start: int = 0,
) -> FieldCorrection:
    """Make the correction of a band of rows from the flats of these rows and the bad pixels found on the whole panel.

    The same as ``prepare_fields(...).band(...)``, for a task that is given the mask and reads its rows only.

    Parameters
    ----------
    flats, darks : (frame, row, col)
        Of the panel rows from `row_start` on.
    panel_bad : (row, col) bool
        Of the whole panel: `FieldCorrection.bad` of ``prepare_fields``.
    parameters : CorrectionParameters, optional
    row_start : int

    Raises
    ------
    CalibrationError
        If sizes differ or a value is not finite or negative.
    """
    chosen = parameters or CorrectionParameters()
    white, _ = moments(flats, "flat")
    dark = None
    if darks is not None:
        dark, _ = moments(darks, "dark")
        if dark.shape != white.shape:
            raise CalibrationError(f"the flat frames have {white.shape} pixels, the dark frames {dark.shape}")
        white = white - dark
    rows = slice(row_start, row_start + white.shape[0])
    bad = panel_bad[rows]
    if bad.shape != white.shape:
        raise CalibrationError(
            f"flat frames of {white.shape} pixels from row {row_start} on do not fit a panel of {panel_bad.shape}"
        )
    return FieldCorrection(
        content="counts",
        white=np.where(bad, 1.0, np.maximum(white, chosen.count_floor)).astype(np.float32),
        dark=None if dark is None or not dark.any() else dark.astype(np.float32),
        bad=bad,
        floor=chosen.count_floor,
        source_rows=rows_with_good_pixels(panel_bad)[rows],
        row_start=row_start,
    )


def correction_of_white(
    white: Float32Array, dark: Float32Array | None, panel_bad: Mask, parameters: CorrectionParameters, *, row_start: int
) -> FieldCorrection:
    """Make the correction of a band of rows from white and dark (row, col) as `prepare_band` made them.

    The same as that correction, for a task that reads them in place of the frames.

    Raises
    ------
    CalibrationError
        If sizes differ.
    """
    rows = slice(row_start, row_start + white.shape[0])
    bad = panel_bad[rows]
    if bad.shape != white.shape or (dark is not None and dark.shape != white.shape):
        raise CalibrationError(f"white of {white.shape} pixels from row {row_start} on does not fit {panel_bad.shape}")
    return FieldCorrection(
        content="counts",
        white=white,
        dark=None if dark is None or not dark.any() else dark,
        bad=bad,
        floor=parameters.count_floor,
        source_rows=rows_with_good_pixels(panel_bad)[rows],
        row_start=row_start,
    )


def join_bands(bands: Sequence[FieldCorrection]) -> FieldCorrection:
    """Join the corrections of neighbouring bands of rows, in their order."""
    if len(bands) == 1:
        return bands[0]
    darks = [np.zeros_like(band.white) if band.dark is None else band.dark for band in bands]
    return replace(
        bands[0],
        white=np.concatenate([band.white for band in bands]),
        dark=None if all(band.dark is None for band in bands) else np.concatenate(darks),
        bad=np.concatenate([band.bad for band in bands]),
        source_rows=np.concatenate([band.source_rows for band in bands]),
    )


def prepare_without_fields(
    content: Literal["normalized", "line_integrals"],
    n_rows: int,
    n_cols: int,
    *,
    white_level: float = 1.0,
    bad_pixels: Mask | None = None,
    parameters: CorrectionParameters | None = None,
) -> FieldCorrection:
    """Make the correction of frames that need no flat fields: only known bad pixels are filled.

    Parameters
    ----------
    content : {"normalized", "line_integrals"}
        Flat-corrected frames, or frames after -log.
    n_rows, n_cols : int
        Size of the panel.
    white_level : float
        Value of an unattenuated pixel of ``normalized`` frames.
    bad_pixels : (row, col) bool, optional
    parameters : CorrectionParameters, optional

    Raises
    ------
    CalibrationError
        If the white level is not positive or the mask has another size.
    """
    chosen = parameters or CorrectionParameters()
    if not (math.isfinite(white_level) and white_level > 0):
        raise CalibrationError(f"flat-corrected frames need a positive white level, got {white_level}")
    bad = known_mask(bad_pixels if chosen.bad_pixels == "interpolate" else None, (n_rows, n_cols))
    return FieldCorrection(
        content=content,
        white=np.full((n_rows, n_cols), white_level, dtype=np.float32),
        dark=None,
        bad=bad,
        floor=chosen.transmission_floor * white_level,
        source_rows=rows_with_good_pixels(bad),
        found=BadPixelCounts(known=int(bad.sum())),
    )


def to_line_integrals(
    counts: NDArray[np.generic], correction: FieldCorrection, *, out: Float32Array | None = None
) -> tuple[Float32Array, FloorReport]:
    """Turn one bin's frames into line integrals.

    ``-log(max(counts - dark, floor) / white)``; bad pixels are interpolated afterwards, in the line integrals.

    Parameters
    ----------
    counts : (view, row, col)
        Frames as stored; not modified.
    correction : FieldCorrection
        For exactly these rows.
    out : (view, row, col) float32, C-contiguous, optional

    Returns
    -------
    line_integrals : (view, row, col) float32
        `out`, or a new array.
    report : FloorReport
        Good pixels that were raised to the floor.

    Raises
    ------
    ParameterError
        If sizes do not fit, or a good pixel is not a number, infinite, or (raw counts) negative.
    """
    if counts.ndim != 3 or counts.shape[1:] != correction.white.shape:
        expected = f"(view, {correction.white.shape[0]}, {correction.white.shape[1]})"
        raise ParameterError(f"frames need the shape {expected} of the correction, got {counts.shape}")
    if out is None:
        out = np.empty(counts.shape, dtype=np.float32)
    if out.shape != counts.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ParameterError(f"out needs the shape {counts.shape}, float32, C-contiguous; got {out.dtype} {out.shape}")
    n_floored = 0
    n_views, n_rows, n_cols = counts.shape
    band = min(n_rows, max(1, CHUNK_VALUES // n_cols))
    for view in range(n_views):
        # Values that are no numbers are refused below, by their place; until then they may pass through log.
        with np.errstate(divide="ignore", invalid="ignore"):
            for row in range(0, n_rows, band):
                cut = slice(row, min(row + band, n_rows))
                n_floored += _correct_chunk(counts[view, cut], correction, cut, out[view, cut])
        correction.fill_plan.apply(out[view])
        if counts.dtype.kind == "f" and not math.isfinite(float(out[view].sum(dtype=np.float64))):
            _refuse_value(out[view], view, correction.row_start, counts)
    n_good = n_views * (n_rows * n_cols - correction.n_bad)
    return out, FloorReport(n_floored, n_good if correction.content != "line_integrals" else 0)


def _correct_chunk(counts: NDArray[np.generic], correction: FieldCorrection, cut: slice, out: Float32Array) -> int:
    """Correct some rows of one view into `out`; return how many good pixels were floored."""
    np.copyto(out, counts, casting="same_kind" if counts.dtype.kind == "f" else "unsafe")
    if correction.content == "line_integrals":
        return 0
    bad = correction.bad[cut]
    if counts.dtype.kind != "u" and correction.content == "counts" and bool(((out < 0) & ~bad).any()):
        raise ParameterError(f"raw counts must not be negative, got {float(np.nanmin(out[~bad])):g}")
    if correction.dark is not None:
        out -= correction.dark[cut]
    low = out < np.float32(correction.floor)
    n_floored = int(np.count_nonzero(low))
    if n_floored and bad.any():
        n_floored -= int(np.count_nonzero(low & bad))
    np.maximum(out, np.float32(correction.floor), out=out)
    np.divide(correction.white[cut], out, out=out)
    np.log(out, out=out)
    return n_floored


def _refuse_value(view: Float32Array, view_index: int, row_start: int, counts: NDArray[np.generic]) -> None:
    """Raise for the first value of a view that is no number; finite values that only sum badly pass."""
    wrong = np.argwhere(~np.isfinite(view))
    if wrong.size:
        row, col = (int(k) for k in wrong[0])
        value = counts[view_index, row, col]
        place = f"view {view_index}, row {row_start + row}, column {col}"
        raise ParameterError(f"{place} is not a finite number: got {value}")
